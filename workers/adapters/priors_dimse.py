"""Earlier images from a PACS by C-FIND and C-MOVE to our own listener (PS3.4 Annex C).

The listener files what comes with our AE title as Move Originator as ``prior``. The final C-MOVE
response comes after the last C-STORE was answered, and that after its row was committed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from gateway.delivery.routes import Destination
from gateway.settings import PriorSettings
from workers.adapters.priors import Wanted
from workers.adapters.priors_choice import Candidate, choose, choose_studies, is_worth_a_look
from workers.errors import PriorsUnavailable
from workers.ports import Checkpoint

_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root, PS3.4 C.6.2.3
_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"

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
    """

    def __init__(self, pacs: Destination, ae_title: str, settings: PriorSettings) -> None:
        self._pacs = pacs
        self._ae_title = ae_title.strip()
        self._settings = settings

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Bring earlier photographs into the record; see ``Archive``."""
        assoc = self._associate()
        try:
            chosen = self._choose(assoc, wanted, checkpoint)
            fetched = 0
            for (study, series), uids in chosen.items():
                checkpoint()
                fetched += self._move(assoc, study, series, uids)
            return fetched
        finally:
            if assoc.is_established:
                assoc.release()

    def _associate(self) -> Association:
        ae = AE(ae_title=self._ae_title)
        ae.connection_timeout = self._settings.timeout_s
        ae.acse_timeout = self._settings.timeout_s
        ae.dimse_timeout = self._settings.timeout_s
        ae.network_timeout = self._settings.timeout_s
        assoc = ae.associate(
            self._pacs.host,
            self._pacs.port,
            contexts=[build_context(_FIND), build_context(_MOVE)],
            ae_title=self._pacs.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _disable_nagle)],
        )
        if not assoc.is_established:
            said = "rejects our association" if assoc.is_rejected else "cannot be reached"
            raise PriorsUnavailable(f"the PACS for earlier images {said}")
        accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
        if accepted != {_FIND, _MOVE}:
            assoc.release()
            raise PriorsUnavailable("the PACS for earlier images offers no C-FIND or no C-MOVE")
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

    def _move(self, assoc: Association, study: str, series: str, uids: list[str]) -> int:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study
        query.SeriesInstanceUID = series
        query.SOPInstanceUID = uids
        final: int | None = None
        completed = 0
        try:
            responses: Any = assoc.send_c_move(query, self._ae_title, _MOVE)
            for response, _ in responses:
                final = int(response.Status) if "Status" in response else None
                completed = int(response.get("NumberOfCompletedSuboperations") or 0)
        except (RuntimeError, ValueError) as exc:
            raise PriorsUnavailable("the PACS for earlier images ended the association") from exc
        if final is None:
            raise PriorsUnavailable("the PACS for earlier images does not answer a C-MOVE")
        if final not in (0x0000, _PARTLY_DONE):
            why = _MOVE_FAILURES.get(final, f"status {final:04X}")
            raise PriorsUnavailable(f"the PACS refuses to send earlier images: {why}")
        if final == _PARTLY_DONE and completed == 0:
            raise PriorsUnavailable("the PACS could not send the earlier images to our listener")
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


def _disable_nagle(event: evt.Event) -> None:
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
