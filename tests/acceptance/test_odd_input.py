"""Odd and broken images through the whole path: each ends in a clear state, none harms another."""

import io
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from gateway.delivery.routes import Destination
from gateway.demo.samples import render
from gateway.sending.send import FileState, send
from gateway.sending.wrap import wrap
from tests.instances import new_uid, write
from tests.lentigo import Lentigo, running_lentigo

pytestmark = pytest.mark.timeout(500)

NAMES = "Müller^Jürgen=山田^太郎"


def study(picture: Image.Image, folder: Path, kind: str = "dermoscopy") -> Dataset:
    path = folder / f"{new_uid()}.png"
    picture.save(path)
    return wrap(path, kind)


def lesion(size: tuple[int, int] = (320, 240)) -> Image.Image:
    return Image.fromarray(render("nevus", 5, size))


def damaged(folder: Path) -> Dataset:
    """A JPEG whose entropy-coded data is cut off after a few bytes."""
    ds = study(lesion(), folder)
    stream = io.BytesIO()
    lesion().save(stream, "JPEG")
    frame = stream.getvalue()[:400] + b"\0" * 40
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def named(folder: Path) -> Dataset:
    ds = study(lesion(), folder)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = NAMES
    return ds


def without_type_1(folder: Path) -> Dataset:
    ds = study(lesion(), folder)
    for keyword in ("AcquisitionContextSequence", "ImageType", "StudyDate", "PatientID"):
        if keyword in ds:
            delattr(ds, keyword)
    return ds


def wide_grey(folder: Path) -> Dataset:
    return study(lesion().convert("L"), folder)


def palette(folder: Path) -> Dataset:
    """PALETTE COLOR, as some capture stations write it."""
    indexed = lesion().quantize(256)
    ds = study(Image.fromarray(np.asarray(indexed)), folder)
    ds.PhotometricInterpretation = "PALETTE COLOR"
    entries = np.asarray(indexed.getpalette(), np.uint8).reshape(-1, 3)
    for number, colour in enumerate(("Red", "Green", "Blue")):
        table = np.zeros(256, "<u2")
        table[: len(entries)] = entries[:, number].astype("<u2") * 257
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return ds


# name -> (how it is made, study state, is it assessed, words in the reason)
CASES: dict[str, tuple[Callable[[Path], Dataset], str, bool, str]] = {
    "1 x 1": (lambda f: study(Image.new("RGB", (1, 1), "brown"), f), "completed", False, "small"),
    "12,000 x 9,000": (lambda f: study(lesion().resize((12000, 9000)), f), "completed", True, ""),
    "uniform": (lambda f: study(Image.new("RGB", (300, 200), "pink"), f), "completed", False, ""),
    "grey": (wide_grey, "completed", True, ""),
    "palette": (palette, "completed", True, ""),
    "non-ASCII name": (named, "completed", True, ""),
    "missing Type 1": (without_type_1, "completed", True, ""),
    "does not decode": (damaged, "failed", False, "could not be read"),
}


@pytest.fixture(scope="module")
def lentigo(tmp_path_factory: pytest.TempPathFactory):
    with running_lentigo(tmp_path_factory.mktemp("odd") / "home", to_archive=True) as running:
        yield running


def peer(lentigo: Lentigo) -> Destination:
    return Destination(ae_title="LENTIGO", host="127.0.0.1", port=lentigo.dicom_port)


def test_each_odd_image_ends_in_a_clear_state(lentigo: Lentigo, tmp_path: Path) -> None:
    made = {name: case[0](tmp_path) for name, case in CASES.items()}
    paths = [write(ds, tmp_path / f"{number}.dcm") for number, ds in enumerate(made.values())]
    assert send(paths, peer(lentigo), timeout_s=120).count(FileState.STORED) == len(paths)
    found = lentigo.wait_for_states({"completed", "failed"}, len(paths), 240)
    for name, (_, state, is_assessed, words) in CASES.items():
        one = found[made[name].StudyInstanceUID]
        assert one["state"] == state, (name, one)
        assert words in one["reason"], (name, one["reason"])
        (item,) = one["work_items"]
        assert bool(item["summary"] and item["summary"].get("probability")) is is_assessed, name
        if state == "completed":
            report = next(each for each in item["objects"] if each["role"] == "sr")
            ds = pydicom.dcmread(report["path"])
            assert ds.PatientName == made[name].get("PatientName", "")
    assert_nothing_leaked(lentigo)


def assert_nothing_leaked(lentigo: Lentigo) -> None:
    """Patient attributes are in the one identity table and in DICOM files, nowhere else."""
    for path in [*(lentigo.home / "logs").glob("*.log"), lentigo.home / "up.log"]:
        text = path.read_text(errors="replace")
        assert "Jürgen" not in text, path
        assert "Müller" not in text, path
    connection = sqlite3.connect(lentigo.home / "record.sqlite3")
    tables = [
        row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")
    ]
    holding = [
        table
        for table in tables
        if not table.startswith(("ix_", "sqlite_"))
        and any("Müller" in str(row) for row in connection.execute(f"select * from {table}"))
    ]
    connection.close()
    assert holding == ["identities"]


def test_a_broken_image_does_not_hold_up_its_siblings(lentigo: Lentigo, tmp_path: Path) -> None:
    broken, good = damaged(tmp_path), study(lesion(), tmp_path)
    broken.StudyInstanceUID = good.StudyInstanceUID
    paths = [write(ds, tmp_path / f"{number}.dcm") for number, ds in enumerate((broken, good))]
    assert send(paths, peer(lentigo)).is_complete

    lentigo.wait_for_study(good.StudyInstanceUID)
    one = lentigo.studies()[good.StudyInstanceUID]
    assert one["state"] == "completed"
    (item,) = one["work_items"]
    assert (item["summary"]["images"], item["summary"]["not_assessed"]) == (2, 1)
    assert "could not be read" in one["reason"]


def test_a_study_without_images_of_ours_is_refused_with_the_reason(
    lentigo: Lentigo, tmp_path: Path
) -> None:
    ds = study(lesion(), tmp_path, "clinical")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.Modality = "OT"
    send([write(ds, tmp_path / "sc.dcm")], peer(lentigo))
    lentigo.wait_for_study(ds.StudyInstanceUID)
    one = lentigo.studies()[ds.StudyInstanceUID]
    assert one["state"] == "refused"
    assert "no dermoscopic or photographic image" in one["reason"]


def test_status_command_says_the_same_as_the_record(lentigo: Lentigo) -> None:
    by_command = {study["study_instance_uid"]: study["state"] for study in lentigo.status()}
    assert by_command == {uid: study["state"] for uid, study in lentigo.studies().items()}
