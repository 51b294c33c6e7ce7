"""Synthetic DICOM files and a record in memory, for tests of the receiving side."""

from __future__ import annotations

import io
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from gateway.dicom.part10 import InstanceHeader
from gateway.errors import RecordUnavailable
from gateway.listener.ports import AssociationInfo, Registration
from gateway.spool import StoredFile

DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = str(ExplicitVRLittleEndian)
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = str(JPEGBaseline8Bit)
CANARY_NAME = "Canary^Planted"

_numbers = itertools.count(1)


def new_uid() -> str:
    """Return a UID that no other call returns (PS3.5 B.2)."""
    return f"2.25.{os.getpid() * 10**9 + next(_numbers)}"


def jpeg(rows: int = 16, columns: int = 24) -> bytes:
    """Return a small baseline JPEG."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (rows, columns, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def instance(
    *, transfer_syntax_uid: str = EXPLICIT, frames: int = 1, side: int = 16, **elements: Any
) -> Dataset:
    """Return a small colour image; ``elements`` are set last, None takes one out."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DERMOSCOPIC_PHOTOGRAPHY, new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid()
    ds.PatientName, ds.PatientID = CANARY_NAME, "CANARY-ID"
    ds.Modality, ds.Manufacturer = "DMS", "Acme"
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        ds.NumberOfFrames = frames
    if transfer_syntax_uid == JPEG:
        ds.PhotometricInterpretation = "YBR_FULL_422"
        ds.PixelData = encapsulate([jpeg(side, side)] * frames)
        ds["PixelData"].is_undefined_length = True
    else:
        ds.PixelData = bytes(side * side * 3 * frames)
    ds["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(str(ds.get("SOPClassUID", DERMOSCOPIC_PHOTOGRAPHY)))
    ds.file_meta.MediaStorageSOPInstanceUID = UID(str(ds.get("SOPInstanceUID", new_uid())))
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return ds


def encoded(ds: Dataset) -> bytes:
    """Return ``ds`` as the content of a DICOM file."""
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write(ds: Dataset, path: Path) -> Path:
    """Write ``ds`` as a DICOM file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(ds))
    return path


class RecordInMemory:
    """The part of the record that the listener writes, without a database."""

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, tuple[InstanceHeader, StoredFile]]] = {}
        self.refusals: list[dict[str, Any]] = []
        self.associations: list[tuple[AssociationInfo, str]] = []
        self.is_down = False
        self.defect: Exception | None = None
        self._lock = threading.Lock()

    def register_instance(
        self,
        *,
        header: InstanceHeader,
        stored: StoredFile,
        association: AssociationInfo,
        is_fetched: bool = False,
    ) -> Registration:
        self._check()
        if self.defect is not None:
            raise self.defect
        with self._lock:
            known = self.instances.setdefault(header.sop_instance_uid, {})
            if stored.sha256 in known:
                return Registration.DUPLICATE
            registration = Registration.CONFLICT if known else Registration.NEW
            known[stored.sha256] = (header, stored)
            return registration

    def register_refusal(
        self,
        *,
        association: AssociationInfo,
        status: int,
        reason: str,
        stored: StoredFile | None,
        header: InstanceHeader | None,
    ) -> None:
        self._check()
        with self._lock:
            self.refusals.append(
                {"status": status, "reason": reason, "stored": stored, "header": header}
            )

    def register_association(self, association: AssociationInfo, *, outcome: str) -> None:
        self._check()
        with self._lock:
            self.associations.append((association, outcome))

    def outcomes(self) -> list[str]:
        """Return how associations began and ended, in order."""
        with self._lock:
            return [outcome for _, outcome in self.associations]

    def _check(self) -> None:
        if self.is_down:
            raise RecordUnavailable("the record does not answer")
