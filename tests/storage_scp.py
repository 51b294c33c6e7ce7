"""A storage SCP for tests: pynetdicom on loopback, with the behaviours a PACS can have."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(kw_only=True)
class StorageScp:
    """What the SCP is told to do, and what it has seen."""

    sop_classes: Sequence[str] = (COMPREHENSIVE_3D_SR, SEGMENTATION, SECONDARY_CAPTURE)
    transfer_syntaxes: Sequence[str] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    offers_find: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    """C-STORE status by SOP class; 0000 otherwise."""
    abort_on: str = ""
    """Abort the association at a C-STORE of this SOP class."""
    unlisted: set[str] = field(default_factory=set)
    """SOP Instance UIDs that are stored but not listed yet."""
    find_status: int = 0x0000
    """How a C-FIND fails, without an answer."""
    required_calling_ae_title: str = ""
    answers_everything: bool = False
    """Answer a C-FIND with every instance, whatever was asked for."""
    commitment: str = ""
    """What becomes of a request for storage commitment: ``same`` and ``new`` report at once on that
    association or another one, ``silent`` takes it and says nothing, ``decline`` answers 0110,
    ``abort`` ends the association; empty: it is not offered."""
    commitment_failures: dict[str, int] = field(default_factory=dict)
    """Failure Reason by SOP class; the rest is committed to."""
    report_to: int = 0
    """Port of the listener on loopback that takes reports."""
    holds: set[str] = field(default_factory=set)
    """SOP classes at whose C-STORE it goes silent."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Transaction UID and instances (UID -> class) of every request for commitment."""
    report_statuses: list[int | None] = field(default_factory=list)
    """How reports were answered."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends every silence."""
    tls: Any = None
    """Server context, for TLS."""
    stored: list[Dataset] = field(default_factory=list)
    associations: int = 0
    port: int = 0

    @property
    def listed(self) -> set[str]:
        return {str(ds.SOPInstanceUID) for ds in self.stored} - self.unlisted

    def _on_store(self, event: Any) -> int:
        ds = event.dataset
        if str(ds.SOPClassUID) == self.abort_on:
            event.assoc.abort()
            return 0xC001
        if str(ds.SOPClassUID) in self.holds:
            self.released.wait(60.0)
        status = self.statuses.get(str(ds.SOPClassUID), 0x0000)
        if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
            ds.file_meta = event.file_meta
            self.stored.append(ds)
        return status

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        if self.find_status:
            yield self.find_status, None
            return
        query = event.identifier
        for uid in sorted(self.listed):
            if self.answers_everything or uid == query.SOPInstanceUID:
                answer = Dataset()
                answer.QueryRetrieveLevel = "IMAGE"
                answer.StudyInstanceUID = query.StudyInstanceUID
                answer.SeriesInstanceUID = query.SeriesInstanceUID
                answer.SOPInstanceUID = uid
                yield 0xFF00, answer

    def _on_action(self, event: Any) -> tuple[int, Dataset | None]:
        information = event.action_information
        instances = {
            str(item.ReferencedSOPInstanceUID): str(item.ReferencedSOPClassUID)
            for item in information.ReferencedSOPSequence
        }
        self.requests.append((str(information.TransactionUID), instances))
        if self.commitment == "abort":
            event.assoc.abort()
        if self.commitment == "decline":
            return 0x0110, None
        if self.commitment == "new":
            threading.Thread(target=self.report, daemon=True).start()
        if self.commitment == "same":
            threading.Thread(target=self.report, args=(event.assoc,), daemon=True).start()
        return 0x0000, None

    def report(self, assoc: Any = None, *, failures: Mapping[str, int] | None = None) -> None:
        """Report on the newest request: on ``assoc``, or on an association of its own.

        Parameters
        ----------
        failures
            Failure Reason by SOP class, in the place of ``commitment_failures``.
        """
        uid, instances = self.requests[-1]
        event_type, information = report_of(
            uid, instances, self.commitment_failures if failures is None else failures
        )
        own = assoc is None
        if own:
            assoc = call_for_report(self.report_to)
        status, _ = assoc.send_n_event_report(
            information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        self.report_statuses.append(status.Status if "Status" in status else None)
        if own:
            assoc.release()

    def _on_accepted(self, _event: Any) -> None:
        self.associations += 1

    @contextmanager
    def serving(self) -> Iterator[StorageScp]:
        ae = AE(ae_title="PACS")
        if self.required_calling_ae_title:
            ae.require_calling_aet = [self.required_calling_ae_title]
        contexts = [build_context(uid, list(self.transfer_syntaxes)) for uid in self.sop_classes]
        if self.offers_find:
            contexts.append(build_context(STUDY_ROOT_FIND))
        if self.commitment:
            contexts.append(build_context(STORAGE_COMMITMENT))
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            contexts=contexts,
            ssl_context=self.tls,
            evt_handlers=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_FIND, self._on_find),
                (evt.EVT_N_ACTION, self._on_action),
                (evt.EVT_ACCEPTED, self._on_accepted),
            ],
        )
        assert server is not None
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()


def report_of(
    transaction_uid: str, instances: Mapping[str, str], failures: Mapping[str, int]
) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of a report; ``failures`` by SOP class."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    information.FailedSOPSequence = []
    for uid, sop_class_uid in instances.items():
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = uid
        if sop_class_uid in failures:
            item.FailureReason = failures[sop_class_uid]
            information.FailedSOPSequence.append(item)
        else:
            information.ReferencedSOPSequence.append(item)
    if not information.ReferencedSOPSequence:
        del information.ReferencedSOPSequence
    if information.FailedSOPSequence:
        return 2, information
    del information.FailedSOPSequence
    return 1, information


def call_for_report(port: int, *, ae_title: str = "PACS") -> Any:
    """Return an association as SCP of storage commitment with a listener on loopback."""
    ae = AE(ae_title=ae_title)
    assoc = ae.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(STORAGE_COMMITMENT)],
        ae_title="LENTIGO",
        ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
    )
    assert assoc.is_established
    return assoc


def write_object(folder: Path, sop_class_uid: str, number: int) -> Path:
    """Write a small instance that no clinician would want but every SCP can store."""
    ds = Dataset()
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.511.3.{number}"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.10.511.1"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.511.2"
    ds.PatientID = "P1"
    ds.PatientName = "Test^Person"
    ds.Modality = "OT"
    ds.file_meta = _meta(ds)
    path = folder / f"{number}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def _meta(ds: Dataset) -> Any:
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
