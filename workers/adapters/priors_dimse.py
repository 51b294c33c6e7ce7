"""Earlier images from a PACS by C-FIND, and C-MOVE or C-GET (PS3.4 Annex C).

C-MOVE has them sent to our own listener, which files what comes with our AE title as Move
Originator as ``prior``: the final response comes after the last C-STORE was answered, and that
after its row was committed. C-GET brings them on the association on which we ask; they are filed in
the same way, one instance in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from gateway.delivery.routes import Destination
from gateway.delivery.scu import Proposal, associate
from gateway.errors import AssociationRefused, NoContextAccepted
from gateway.listener.acceptance import (
    ACCEPTED_SOP_CLASSES,
    DERMOSCOPIC_PHOTOGRAPHY,
    SECONDARY_CAPTURE,
    VL_PHOTOGRAPHIC,
)
from gateway.listener.filing import InstanceFiler
from gateway.settings import PriorSettings, TlsSettings
from gateway.spool import Spool
from workers.adapters.priors import Wanted
from workers.adapters.priors_choice import Candidate, choose, choose_studies, is_worth_a_look
from workers.adapters.priors_filing import FetchedFiling
from workers.errors import PriorsUnavailable
from workers.ports import Checkpoint

_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root, PS3.4 C.6.2.3
_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
_GET = "1.2.840.10008.5.1.4.1.2.2.3"
PHOTOGRAPH_CLASSES = frozenset({DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC, SECONDARY_CAPTURE})
"""Storage SOP classes that a C-GET may bring."""

_MOVE_FAILURES = {  # PS3.4 Table C.4-2
    0xA701: "it is out of resources",
    0xA702: "it cannot reach our listener",
    0xA801: "it does not know our AE title as a move destination",
    0xA900: "it does not understand the request",
}
_PARTLY_DONE = 0xB000


class DimseArchive:
    """A PACS with Query/Retrieve.

    Parameters
    ----------
    ae_title
        Our listener's: we call with it and have images sent to it.
    filer, spool
        Where images that come by C-GET go; without them C-MOVE is used, whatever is set.
    tls
        Certificates for a PACS that is spoken to over TLS.
    """

    def __init__(
        self,
        pacs: Destination,
        ae_title: str,
        settings: PriorSettings,
        *,
        filer: InstanceFiler | None = None,
        spool: Spool | None = None,
        tls: TlsSettings | None = None,
    ) -> None:
        self._pacs = pacs
        self._ae_title = ae_title.strip()
        self._settings = settings
        self._tls = tls or TlsSettings()
        self._filing: FetchedFiling | None = None
        if settings.retrieve == "get" and filer is not None and spool is not None:
            self._filing = FetchedFiling(filer, spool, pacs.ae_title)
        self._retrieve = _MOVE if self._filing is None else _GET
        name = "C-MOVE" if self._filing is None else "C-GET"
        self._lacking = f"the PACS for earlier images offers no C-FIND or no {name}"

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Bring earlier photographs into the record; see ``Archive``."""
        assoc = self._associate()
        try:
            chosen = self._choose(assoc, wanted, checkpoint)
            fetched = 0
            for (study, series), uids in chosen.items():
                checkpoint()
                fetched += self._bring(assoc, study, series, uids)
            return fetched
        finally:
            if assoc.is_established:
                assoc.release()

    def _associate(self) -> Association:
        images = sorted(PHOTOGRAPH_CLASSES) if self._filing is not None else []
        contexts = [build_context(_FIND), build_context(self._retrieve)]
        # One syntax a context: the PACS then sends each image as it holds it.
        contexts += [
            build_context(uid, syntax)
            for uid in images
            for syntax in ACCEPTED_SOP_CLASSES[uid].transfer_syntaxes
        ]
        handlers = [] if self._filing is None else [(evt.EVT_C_STORE, self._filing.on_store)]
        proposal = Proposal(
            calling_ae_title=self._ae_title,
            contexts=contexts,
            timeout_s=self._settings.timeout_s,
            scp_roles=images,
            handlers=handlers,
        )
        try:
            assoc = associate(self._pacs, proposal, self._tls)
        except NoContextAccepted as exc:
            raise PriorsUnavailable(self._lacking) from exc
        except AssociationRefused as exc:
            why = str(exc).removeprefix("the destination ")
            raise PriorsUnavailable(f"the PACS for earlier images {why}") from exc
        accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
        if not {_FIND, self._retrieve} <= accepted:
            assoc.release()
            raise PriorsUnavailable(self._lacking)
        return assoc

    def _choose(
        self, assoc: Association, wanted: Wanted, checkpoint: Checkpoint
    ) -> dict[tuple[str, str], list[str]]:
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.PatientID = wanted.patient_id
        query.IssuerOfPatientID = wanted.issuer_of_patient_id
        query.StudyDate = f"-{wanted.before}" if wanted.before else ""
        query.StudyTime = query.ModalitiesInStudy = query.StudyInstanceUID = ""
        studies = choose_studies(_find(assoc, query), wanted, self._settings.max_studies)
        found: list[Candidate] = []
        for study in studies:
            checkpoint()
            found += self._images(assoc, study)
            if len(found) >= self._settings.max_scanned:
                break
        return choose(found, wanted, self._settings.max_instances)

    def _images(self, assoc: Association, study: Dataset) -> Iterator[Candidate]:
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = str(study.StudyInstanceUID)
        query.SeriesInstanceUID = query.Modality = ""
        for series in _find(assoc, query):
            if not is_worth_a_look(str(series.get("Modality") or "")):
                continue
            image = Dataset()
            image.QueryRetrieveLevel = "IMAGE"
            image.StudyInstanceUID = query.StudyInstanceUID
            image.SeriesInstanceUID = str(series.SeriesInstanceUID)
            image.SOPInstanceUID = image.SOPClassUID = ""
            # Most PACS leave these two empty; those that know them spare us a transfer.
            image.TrackingUID = image.TrackingID = ""
            for answer in _find(assoc, image):
                yield Candidate.read(study, series, answer)

    def _bring(self, assoc: Association, study: str, series: str, uids: list[str]) -> int:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study
        query.SeriesInstanceUID = series
        query.SOPInstanceUID = uids
        final: int | None = None
        completed = 0
        try:
            responses: Any = (
                assoc.send_c_move(query, self._ae_title, _MOVE)
                if self._filing is None
                else assoc.send_c_get(query, _GET)
            )
            for response, _ in responses:
                final = int(response.Status) if "Status" in response else None
                completed = int(response.get("NumberOfCompletedSuboperations") or 0)
        except (RuntimeError, ValueError) as exc:
            raise PriorsUnavailable("the PACS for earlier images ended the association") from exc
        if final is None:
            raise PriorsUnavailable(
                "the PACS for earlier images does not answer our request for them"
            )
        if final not in (0x0000, _PARTLY_DONE):
            why = _MOVE_FAILURES.get(final, f"status {final:04X}")
            raise PriorsUnavailable(f"the PACS refuses to send earlier images: {why}")
        if final == _PARTLY_DONE and completed == 0:
            raise PriorsUnavailable("the PACS could not send the earlier images to us")
        return completed


def _find(assoc: Association, query: Dataset) -> list[Dataset]:
    """Return every match of a C-FIND."""
    found: list[Dataset] = []
    final: int | None = None
    try:
        responses: Any = assoc.send_c_find(query, _FIND)
        for response, identifier in responses:
            final = int(response.Status) if "Status" in response else None
            if identifier is not None:
                found.append(identifier)
    except (RuntimeError, ValueError) as exc:
        raise PriorsUnavailable("the PACS for earlier images ended the association") from exc
    if final is None:
        raise PriorsUnavailable("the PACS for earlier images does not answer a C-FIND")
    if final != 0x0000:  # PS3.4 Table C.4-1
        raise PriorsUnavailable(f"the PACS refuses a C-FIND for earlier images ({final:04X})")
    return found
