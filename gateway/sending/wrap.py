"""``lentigo wrap``: JPEG and PNG pictures as Dermoscopic or VL Photographic images.

Every picture becomes one valid instance (PS3.3 A.32.4, A.32.11), in a study of its own unless told
otherwise. What a picture does not say, such as its patient, is not made up: identifiers are
random, names and dates empty.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import enum
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID, is_uid
from gateway.errors import WrapError
from gateway.listener.acceptance import (
    DERMOSCOPIC_PHOTOGRAPHY,
    EXPLICIT_VR_LITTLE_ENDIAN,
    VL_PHOTOGRAPHIC,
)
from gateway.sending.pictures import Picture, read_picture

_PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png"))
_UNKNOWN = "UNKNOWN"  # for Type 1 attributes of the device, when the picture does not name it
_SOFTWARE = "lentigo wrap"


class Kind(enum.StrEnum):
    """What a picture shows, and with that its SOP class."""

    DERMOSCOPY = "dermoscopy"
    """Taken through a dermatoscope."""
    CLINICAL = "clinical"
    """A photograph of the skin."""


def new_uid() -> str:
    """Return a new UID derived from a random UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True, kw_only=True)
class StudyIdentity:
    """Whose picture it is and which study and series it joins."""

    patient_id: str = field(default_factory=lambda: f"WRAP-{uuid.uuid4().hex[:12].upper()}")
    patient_name: str = ""
    patient_birth_date: str = ""
    """``YYYYMMDD`` or ''."""
    patient_sex: str = ""
    """M, F, O or ''."""
    accession_number: str = ""
    study_description: str = ""
    study_instance_uid: str = field(default_factory=new_uid)
    series_instance_uid: str = field(default_factory=new_uid)
    instance_number: int = 1

    def __post_init__(self) -> None:
        """Check what would make the instance invalid.

        Raises
        ------
        WrapError
            A value cannot be written in its attribute; the message names the attribute.
        """
        limits = {
            "patient_id": 64,
            "patient_name": 64,
            "accession_number": 16,
            "study_description": 64,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if len(value) > limit or "\\" in value or not value.isprintable():
                raise WrapError(f"{name} must be at most {limit} printable characters, no '\\'")
        if not self.patient_id.strip():
            raise WrapError("patient_id must not be empty")
        if self.patient_birth_date and not _is_date(self.patient_birth_date):
            raise WrapError("patient_birth_date must be YYYYMMDD")
        if self.patient_sex not in ("", "M", "F", "O"):
            raise WrapError("patient_sex must be M, F or O")
        for name in ("study_instance_uid", "series_instance_uid"):
            if not is_uid(getattr(self, name)):
                raise WrapError(f"{name} is not a UID")


def _is_date(text: str) -> bool:
    try:
        return dt.datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d") == text
    except ValueError:
        return False


OnNote = Callable[[str], None]


def _ignore(_: str) -> None:
    return


def wrap(
    image_path: Path,
    kind: Kind | str,
    *,
    identity: StudyIdentity | None = None,
    on_note: OnNote = _ignore,
) -> Dataset:
    """Return a picture as a DICOM instance, file meta information included.

    Parameters
    ----------
    image_path
        JPEG or PNG. An upright baseline JPEG is encapsulated byte for byte; anything else is
        decoded and kept native.
    kind
        Decides between Dermoscopic Photography and VL Photographic.
    identity
        Patient, study and series; random ones by default.
    on_note
        Told what had to be done to the picture, one sentence at a time.

    Raises
    ------
    WrapError
        The file is no picture that can be wrapped; the message names it and the reason.

    References
    ----------
    PS3.3 A.32.4 (VL Photographic), A.32.11 (Dermoscopic Photography), C.8.12.1 (VL Image).
    """
    if kind not in tuple(Kind):
        raise WrapError(f"kind must be one of {', '.join(Kind)}")
    kind = Kind(kind)
    picture = read_picture(image_path)
    for note in picture.notes:
        on_note(note)
    ds = Dataset()
    _add_identity(ds, identity or StudyIdentity())
    _add_acquisition(ds, picture, kind)
    _add_image(ds, picture)
    if kind is Kind.DERMOSCOPY:
        _add_dermoscopic_image(ds)
    _add_pixels(ds, picture)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID(picture.transfer_syntax_uid)
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return ds


def _add_identity(ds: Dataset, identity: StudyIdentity) -> None:
    """Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1)."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = identity.patient_name
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = identity.patient_birth_date
    ds.PatientSex = identity.patient_sex
    ds.StudyInstanceUID = identity.study_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.AccessionNumber = identity.accession_number
    ds.StudyID = "1"
    ds.ReferringPhysicianName = ""
    if identity.study_description:
        ds.StudyDescription = identity.study_description
    ds.SeriesNumber = 1
    ds.InstanceNumber = identity.instance_number


def _add_acquisition(ds: Dataset, picture: Picture, kind: Kind) -> None:
    """General Series, General and Enhanced Equipment, General Acquisition, SOP Common."""
    now = dt.datetime.now().strftime("%Y%m%d%H%M%S")
    moment = picture.taken_at or now
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = moment[:8]
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = moment[8:]
    if picture.taken_at:
        ds.AcquisitionDateTime = picture.taken_at
    ds.InstanceCreationDate, ds.InstanceCreationTime = now[:8], now[8:]
    is_dermoscopy = kind is Kind.DERMOSCOPY
    ds.SOPClassUID = UID(DERMOSCOPIC_PHOTOGRAPHY if is_dermoscopy else VL_PHOTOGRAPHIC)
    ds.SOPInstanceUID = new_uid()
    ds.Modality = "DMS" if is_dermoscopy else "XC"  # PS3.3 C.7.3.1.1.1
    ds.SeriesDescription = "Dermoscopy" if is_dermoscopy else "Clinical photograph"
    ds.BodyPartExamined = "SKIN"  # PS3.16 Annex L
    ds.Laterality = ""  # a picture does not say
    ds.Manufacturer = picture.manufacturer or _UNKNOWN
    ds.ManufacturerModelName = picture.model or _UNKNOWN
    ds.DeviceSerialNumber = _UNKNOWN
    ds.SoftwareVersions = _SOFTWARE


def _add_image(ds: Dataset, picture: Picture) -> None:
    """General Image, Acquisition Context and VL Image modules (PS3.3 C.7.6.1, C.8.12.1)."""
    ds.ImageType = ["DERIVED" if picture.is_altered else "ORIGINAL", "PRIMARY"]
    if picture.is_altered:
        ds.DerivationDescription = "; ".join(picture.notes)[:1024]
    ds.PatientOrientation = ""
    ds.AcquisitionContextSequence = []
    skin = Dataset()
    skin.CodeValue, skin.CodingSchemeDesignator, skin.CodeMeaning = "39937001", "SCT", "Skin"
    ds.AnatomicRegionSequence = [skin]
    # Once lossy, always lossy, whatever it is kept in now (PS3.3 C.7.6.1.1.5).
    ds.LossyImageCompression = "00" if picture.lossy_ratio is None else "01"
    if picture.lossy_ratio is not None:
        ds.LossyImageCompressionRatio = f"{picture.lossy_ratio:.2f}"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
    if picture.icc_profile is not None:
        ds.ICCProfile = picture.icc_profile


def _add_dermoscopic_image(ds: Dataset) -> None:
    """Dermoscopic Image module (PS3.3 C.8.12.13): of the optics, a picture says nothing."""
    ds.LightSourcePolarization = ""
    ds.EmitterColorTemperature = None
    ds.ContactMethod = ""
    ds.OpticalMagnificationFactor = None
    ds.RecognizableVisualFeatures = "NO"  # a magnified field of skin


def _add_pixels(ds: Dataset, picture: Picture) -> None:
    """Image Pixel module (PS3.3 C.7.6.3)."""
    ds.SamplesPerPixel = picture.samples_per_pixel
    ds.PhotometricInterpretation = picture.photometric_interpretation
    if picture.samples_per_pixel > 1:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.rows, picture.columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    if picture.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN:
        ds.PixelData = picture.pixel_data + b"\0" * (len(picture.pixel_data) % 2)
    else:
        ds.PixelData = encapsulate([picture.pixel_data])
        ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"


def save(ds: Dataset, path: Path) -> None:
    """Write an instance, whole or not at all.

    Raises
    ------
    WrapError
        The file cannot be written; the message names it.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(part, enforce_file_format=True)
        part.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise WrapError(f"{path}: {exc.strerror or 'cannot be written'}") from exc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``lentigo wrap``."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="JPEG or PNG, or a folder of them"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument(
        "--kind",
        required=True,
        choices=list(map(str, Kind)),
        help="what the pictures show",
    )
    parser.add_argument("--patient-id", metavar="ID", help="one patient for all (else one each)")
    parser.add_argument("--patient-name", default="", metavar="NAME", help="e.g. DOE^JANE")
    parser.add_argument("--study-uid", metavar="UID", help="put all into this study")
    parser.add_argument(
        "--same-study", action="store_true", help="put all into one new study of one patient"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``lentigo wrap``; 0 when every picture was wrapped, else 1.

    Raises
    ------
    WrapError
        An option cannot be used, or there is nothing to wrap.
    """
    kind = Kind(args.kind)
    first = _identity(args)
    is_one_study = args.same_study or args.study_uid is not None
    written: set[str] = set()
    failed = 0
    for number, image_path in enumerate(_pictures(args.images), start=1):
        identity = replace(first, instance_number=number) if is_one_study else _identity(args)
        target = args.out / _file_name(image_path, written)
        try:
            save(wrap(image_path, kind, identity=identity, on_note=_Notes(image_path)), target)
        except WrapError as exc:
            failed += 1
            print(f"lentigo wrap: {exc}", file=sys.stderr)
        else:
            print(target)
    if not written:
        raise WrapError("there is no JPEG or PNG in the folder")
    if failed:
        print(f"lentigo wrap: {failed} of {len(written)} not wrapped", file=sys.stderr)
    return 1 if failed else 0


def _identity(args: argparse.Namespace) -> StudyIdentity:
    given = {
        "patient_id": args.patient_id,
        "study_instance_uid": args.study_uid,
        "patient_name": args.patient_name,
    }
    return StudyIdentity(**{name: value for name, value in given.items() if value})


class _Notes:
    """Prints the notes on one picture with its name."""

    def __init__(self, image_path: Path) -> None:
        self._name = image_path.name

    def __call__(self, note: str) -> None:
        print(f"{self._name}: {note}", file=sys.stderr)


def _pictures(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(
                each for each in path.iterdir() if each.suffix.lower() in _PICTURE_SUFFIXES
            )
        else:
            yield path


def _file_name(image_path: Path, written: set[str]) -> str:
    """Return ``<stem>.dcm``, or with a number where another picture of this run has that name."""
    name, number = f"{image_path.stem}.dcm", 1
    while name in written:
        number += 1
        name = f"{image_path.stem}-{number}.dcm"
    written.add(name)
    return name
