"""Every object of every result kind, by the validators and readers that others use.

The tools' own false alarms stand in tables here, each with what it contradicts; anything else that
a tool says is an error.
"""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, config, dcmread

from gateway.delivery.routes import KINDS
from tests.every_result import CASES, Made, made
from tests.servers import require

IODS = {  # how dciodvfy calls what it read
    "sr": "Comprehensive3DSR",
    "seg": "Segmentation",
    "sc": "SCImage",
    "flicker": "MultiframeTrueColorSCImage",
    "pdf": "EncapsulatedPDF",
    "map": "ParametricMap",
}
DCIODVFY_FALSE_ALARMS: dict[str, str] = {}
"""Error of dciodvfy 1.00~20220618 -> why it is none; no object meets one at present."""
DSRDUMP_FALSE_ALARMS = {
    "The VR checker does not support this Specific Character Set: ISO_IR 192": "dcmtk 3.6.7 "
    "cannot check UTF-8; it reads it",
    "ObservationDateTime (0040,a032) violates VR definition": "+0000 is the offset of UTC (PS3.5 "
    "Table 6.2-1); dcmtk 3.6.7 takes every other offset",
}
"""Warning of dsrdump -> why it is none."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Made:
    return made(request.param)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """Illegal values raise, on writing and on reading."""
    settings = config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = config.RAISE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = before


def kind_of(ds: Dataset) -> str:
    return next(kind for kind, uid in KINDS.items() if uid == ds.SOPClassUID)


def files(case: Made, folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for each in case.objects:
        path = folder / f"{each.role}.dcm"
        each.dataset.save_as(path, enforce_file_format=True)
        yield path, each.dataset


def said_by(*command: str | Path) -> tuple[int, list[str]]:
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()


def test_dciodvfy_finds_no_error(case: Made, tmp_path: Path) -> None:
    require("dciodvfy")
    for path, ds in files(case, tmp_path):
        _, said = said_by("dciodvfy", "-new", path)
        assert IODS[kind_of(ds)] in said, f"{path.name}: dciodvfy did not know what it read"
        errors = [line for line in said if line.startswith("Error")]
        unknown = [e for e in errors if not any(alarm in e for alarm in DCIODVFY_FALSE_ALARMS)]
        assert unknown == [], path.name


def test_dcmtk_reads_every_object(case: Made, tmp_path: Path) -> None:
    require("dcmdump", "dsrdump")
    for path, ds in files(case, tmp_path):
        code, said = said_by("dcmdump", "+fo", path)
        assert code == 0, said
        assert not [line for line in said if line.startswith(("E:", "F:", "W:"))], path.name
        if kind_of(ds) != "sr":
            continue
        code, said = said_by("dsrdump", "+U8", path)
        assert code == 0, said
        alarms = [line for line in said if line.startswith(("E:", "F:", "W:"))]
        unknown = [a for a in alarms if not any(known in a for known in DSRDUMP_FALSE_ALARMS)]
        assert unknown == [], path.name


def test_pydicom_reads_and_writes_every_element_strictly(case: Made, tmp_path: Path) -> None:
    for path, _ in files(case, tmp_path):
        again = dcmread(path)
        for element in again.iterall():
            assert element.VR != "UN", path.name
        copy = tmp_path / "copy.dcm"
        again.save_as(copy, enforce_file_format=True)
        assert copy.read_bytes() == path.read_bytes(), path.name


def test_highdicom_reads_reports_and_masks(case: Made, tmp_path: Path) -> None:
    for path, ds in files(case, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if kind_of(ds) == "sr":
                document = highdicom.sr.srread(path)
                assert isinstance(document, highdicom.sr.Comprehensive3DSR)
            elif kind_of(ds) == "seg" and has_spacing(ds):
                mask = highdicom.seg.segread(path)
                assert list(mask.segment_numbers)
            elif kind_of(ds) in ("seg", "map"):
                # highdicom's reader of segmentations asks for a Pixel Spacing (type 1C, PS3.3
                # C.7.6.16.2.1), which is never made up: the mask is read as the image it is.
                frames = highdicom.imread(path).get_frames(apply_real_world_transform=False)
                assert np.isfinite(frames).all()
                assert frames.any()


def has_spacing(ds: Dataset) -> bool:
    shared = ds.SharedFunctionalGroupsSequence[0]
    return "PixelSpacing" in shared.PixelMeasuresSequence[0]


def test_pictures_and_pages_are_what_they_say(case: Made) -> None:
    for each in case.objects:
        ds = each.dataset
        if kind_of(ds) in ("sc", "flicker"):
            frames = int(ds.get("NumberOfFrames", 1))
            pixels = ds.pixel_array.reshape(frames, ds.Rows, ds.Columns, 3)
            assert pixels.std() > 5, f"{each.role} shows nothing"
        if kind_of(ds) == "pdf":
            body = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
            assert body.startswith(b"%PDF-")
            assert body.rstrip().endswith(b"%%EOF")


def test_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("diagnosis", "prognosis", "slide_classification"):
        first, second = made(name), CASES[name]()
        for one, two in zip(first.objects, second.objects, strict=True):
            bodies = []
            for ds in (one.dataset, two.dataset):
                ds.save_as(tmp_path / "object.dcm", enforce_file_format=True)
                bodies.append((tmp_path / "object.dcm").read_bytes())
            assert bodies[0] == bodies[1], one.role
