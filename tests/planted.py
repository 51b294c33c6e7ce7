"""Studies full of planted strings, and the search for them where nothing of a patient may be.

Every text that is planted begins with ``MARK`` and a number of its own, so that what is found says
where it came from. Texts are looked for as they are, and within base64 as Celery writes bodies.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom._dicom_dict import DicomDictionary  # PS3.6; pydicom has no public way over all of it
from pydicom.dataset import FileMetaDataset

MARK = "KANARI"
UID_MARK = "771313177"
"""A run of digits in every planted UID."""
BIRTH_DATE = "18870713"
WEIGHT = "77131.7"

_LENGTHS = {"AE": 16, "SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240, "UT": 10240, "UC": 256}
_GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
_WHOSE = re.compile(
    "Patient|Physician|Operator|Institution|Department|Station|Person|Referring|Requesting|Reader|"
    "Performing|Performed|Reviewing|Responsible|Telephone|Telecom|Address|Accession|StudyID|"
    "Comments|History|Allergies|Occupation|Ethnic|Region|Country|Admission|Issuer|Description|"
    "ProtocolName|SerialNumber|Residence|Reason|AETitle|OrderPlacer|OrderEnterer|Container|Specimen"
)
_PRIVATE_GROUP = 0x0099
_NUMBERS: dict[str, int] = {}


def word(place: str) -> str:
    """Return the planted text of a place."""
    return f"{MARK}{_NUMBERS.setdefault(place, len(_NUMBERS)):04d}"


def place_of(found: str) -> str:
    """Return where a planted text was put."""
    names = {number: place for place, number in _NUMBERS.items()}
    digits = found[len(MARK) : len(MARK) + 4]
    return names.get(int(digits), found) if digits.isdigit() else found


def _keywords() -> Iterator[tuple[str, str]]:
    for tag, (vr, vm, _, retired, keyword) in DicomDictionary.items():
        is_text = tag >> 16 in _GROUPS and vr in _LENGTHS and vm == "1" and not retired
        if is_text and _WHOSE.search(keyword):
            yield keyword, vr


def plant(ds: Dataset) -> None:
    """Put a planted text into every attribute that tells of people and places, and private ones.

    What relates instances (UIDs, Tracking ID, Series Description) stays as it is, and so do coded
    values.
    """
    for keyword, vr in _keywords():
        if keyword != "SeriesDescription":
            text = word(keyword)
            setattr(ds, keyword, f"{text}^Jo" if vr == "PN" else text)
    _plant_nested(ds)
    ds.PatientBirthDate, ds.PatientWeight, ds.PatientSex = BIRTH_DATE, WEIGHT, "F"
    ds.OtherPatientIDsSequence = [Dataset()]
    ds.OtherPatientIDsSequence[0].PatientID = word("OtherPatientIDsSequence.PatientID")
    block = ds.private_block(_PRIVATE_GROUP, word("private creator"), create=True)
    block.add_new(0x01, "LO", word("private LO"))
    block.add_new(0x02, "UN", word("private UN").encode())


def _plant_nested(ds: Dataset) -> None:
    for element in ds:
        if element.VR != "SQ" or "Code" in element.keyword:
            continue
        for item in element.value:
            for inner in item:
                if inner.VR in _LENGTHS and _WHOSE.search(inner.keyword):
                    inner.value = word(f"{element.keyword}.{inner.keyword}")
            _plant_nested(item)


def plant_files(paths: tuple[Path, ...] | list[Path], **elements: object) -> None:
    """Plant texts in files where they lie; ``elements`` are set after that."""
    for path in paths:
        ds = dcmread(path)
        plant(ds)
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.save_as(path, enforce_file_format=True)


def renamed(path: Path, number: int) -> Path:
    """Give a file a name with a planted text."""
    return path.rename(path.with_name(f"{word('file name')}_{number}.dcm"))


def with_uids(ds: Dataset, number: int) -> Dataset:
    """Give an instance planted UIDs."""
    ds.StudyInstanceUID = f"2.25.{UID_MARK}1{number:04d}"
    ds.SeriesInstanceUID = f"2.25.{UID_MARK}2{number:04d}"
    ds.SOPInstanceUID = f"2.25.{UID_MARK}3{number:04d}"
    assert isinstance(ds.file_meta, FileMetaDataset)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


# -- search -------------------------------------------------------------------------------------

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_TEXTS = (MARK, BIRTH_DATE, "1887-07-13", WEIGHT)


def leaks(content: bytes, *, with_uids: bool = True) -> list[str]:
    """Return what is found of planted texts: the place of each, with what stands around it."""
    wanted = [re.escape(each) for each in (*_TEXTS, *((UID_MARK,) if with_uids else ()))]
    pattern = re.compile("|".join(wanted).encode(), re.IGNORECASE)
    found = [_around(content, each) for each in pattern.finditer(content)]
    for token in _BASE64.finditer(content):
        try:
            decoded = base64.b64decode(
                token[0] + b"==", altchars=b"-_" if b"_" in token[0] else None
            )
        except (binascii.Error, ValueError):
            continue
        found += [f"in base64: {_around(decoded, each)}" for each in pattern.finditer(decoded)]
    return found


def _around(content: bytes, match: re.Match[bytes]) -> str:
    text = content[max(0, match.start() - 100) : match.end() + 30].decode(errors="replace")
    return f"{place_of(content[match.start() : match.end() + 4].decode())}: …{text}…"
