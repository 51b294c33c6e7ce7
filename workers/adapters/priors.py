"""Earlier images of a study's lesions: from the record first, then from the PACS.

The PACS is asked once for an attempt, and only where the record holds nothing earlier of an image.
What it sends is filed like any received instance, under the disposition ``prior``, and the record
then says again what belongs together: a PACS that answers for another patient changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.store.intake.lesions import LesionIndex
from gateway.store.values import EarlierImage, InstanceRow
from workers.errors import PriorsUnavailable
from workers.photographs import is_photograph
from workers.ports import Checkpoint, EarlierImages

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the PACS is asked for; personal data."""

    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    before: str
    """``YYYYMMDD`` of the study; empty when it has no date."""
    study_instance_uid: str
    """The study itself, which is left out."""
    tracking_uids: frozenset[str]
    """Of the lesions that have no earlier image."""
    only_tracked: bool
    """Whether images that carry another Tracking UID, or none, are of no use."""
    known: Collection[str]
    """SOP Instance UIDs of the patient that the record holds."""


class Archive(Protocol):
    """A PACS that may hold earlier images."""

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Bring earlier photographs of a patient into the record; return how many.

        Raises
        ------
        PriorsUnavailable
            The PACS does not answer, or refuses.
        """
        ...


class RecordPriors:
    """Implements ``workers.ports.Priors``.

    Parameters
    ----------
    archive
        The PACS; None when the site names none.
    is_last_attempt
        Whether a PACS that does not answer ends as part of the result, not as another attempt.
    """

    def __init__(
        self, index: LesionIndex, archive: Archive | None, *, is_last_attempt: bool
    ) -> None:
        self._index = index
        self._archive = archive
        self._is_last_attempt = is_last_attempt

    def earlier(
        self, study_id: int, instances: Sequence[InstanceRow], checkpoint: Checkpoint
    ) -> EarlierImages:
        """Return the earlier photographs of these images; see the port."""
        found = self._index.earlier(study_id, instances)
        missing = [each for each in instances if not _photographs(found[each.sop_instance_uid])]
        unknown = ""
        if missing and self._archive is not None:
            try:
                fetched = self._fetch(study_id, missing, checkpoint)
            except PriorsUnavailable as exc:
                if not self._is_last_attempt:
                    raise
                log.warning("%s", exc, extra={"action": "priors.unavailable"})
                unknown = str(exc)
            else:
                log.info(
                    "%d earlier images were fetched", fetched, extra={"action": "priors.fetched"}
                )
                if fetched:
                    found = self._index.earlier(study_id, instances)
        return EarlierImages(
            of={uid: _photographs(images) for uid, images in found.items()}, unknown=unknown
        )

    def _fetch(self, study_id: int, missing: Sequence[InstanceRow], checkpoint: Checkpoint) -> int:
        patient = self._index.patient(study_id)
        if patient is None or self._archive is None:
            return 0
        wanted = Wanted(
            patient_id=patient.patient_id,
            issuer_of_patient_id=patient.issuer_of_patient_id,
            before=patient.study_date or max(each.acquired_at for each in missing)[:8],
            study_instance_uid=patient.study_instance_uid,
            tracking_uids=frozenset(each.tracking_uid for each in missing if each.tracking_uid),
            only_tracked=all(
                each.tracking_uid and not (each.tracking_id_sha256 or each.body_site)
                for each in missing
            ),
            known=patient.known,
        )
        return self._archive.fetch(wanted, checkpoint)


def _photographs(images: tuple[EarlierImage, ...]) -> tuple[EarlierImage, ...]:
    return tuple(each for each in images if is_photograph(each.instance))
