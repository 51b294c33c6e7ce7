"""Reading a cohort to be evaluated: what is refused, left out or remarked on."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.errors import CohortError, LeakageError
from training.evaluation.answers import Answers, hash_pixels
from training.evaluation.cohort import (
    Columns,
    EvaluationCohort,
    compare_pixels,
    name_some,
    read_cohort,
    scan_folders,
)

PLAIN = Columns(image="image_id", label="dx", group="patient")


def _write(folder: Path, rows: list[tuple[str, ...]], header: str = "image_id,dx,patient") -> Path:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for row in rows:
        name = Path(row[0]).stem if Path(row[0]).suffix == ".png" else row[0]
        if not (images / f"{name}.png").exists():
            Image.new("RGB", (4, 4), (len(list(images.iterdir())), 0, 0)).save(
                images / f"{name}.png"
            )
    table = folder / "table.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return table


def _answers(hashes: list[str]) -> Answers:
    count = len(hashes)
    return Answers(
        logits=np.zeros((count, 3), np.float32),
        embedding=np.arange(count, dtype=np.float32)[:, None],
        context=np.zeros((count, 2), np.float32),
        ood_score=np.zeros(count, np.float32),
        jaccard=np.zeros(count),
        dice=np.zeros(count),
        pixel_hash=np.array(hashes),
    )


def _read(folder: Path, rows: list[tuple[str, ...]], **options: object) -> EvaluationCohort:
    return read_cohort(folder / "images", _write(folder, rows), PLAIN, **options)


def test_rows_are_read_with_groups_and_without_suffix(tmp_path: Path) -> None:
    read = _read(tmp_path, [("a.png", "NV", "p1"), ("b.2", "MEL", ""), ("c", "NV", "")])
    assert [row.image_id for row in read.cohort.rows] == ["a", "b.2", "c"]
    # Images of no stated patient stand alone: they are not all of one patient.
    assert [row.group_id for row in read.cohort.rows] == ["p1", "b.2", "c"]
    assert not read.conflicts
    assert not read.remarks


def test_image_under_two_labels_is_reported_and_left_out(tmp_path: Path) -> None:
    rows = [("a", "NV", "p"), ("b", "NV", "q"), ("a", "MEL", "p"), ("b.png", "NV", "q")]
    read = _read(tmp_path, rows)
    assert [row.image_id for row in read.cohort.rows] == ["b"]
    assert [(c.labels, c.found_by) for c in read.conflicts] == [(("MEL", "NV"), "name")]
    assert any("a (MEL, NV)" in remark for remark in read.remarks)
    assert any("1 rows repeat" in remark for remark in read.remarks)


def test_two_names_of_one_label_are_no_conflict(tmp_path: Path) -> None:
    rows = [("a", "common", "p"), ("a", "atypical", "p"), ("b", "melanoma", "q")]
    label_map = {"common": "NV", "atypical": "NV", "melanoma": "MEL"}
    read = _read(tmp_path, rows, label_map=label_map)
    assert [row.label for row in read.cohort.rows] == ["NV", "MEL"]
    assert not read.conflicts


def test_labels_outside_the_map_are_counted(tmp_path: Path) -> None:
    read = _read(
        tmp_path, [("a", "nv", "p"), ("b", "wart", "q")], label_map={"nv": "NV", "mel": "M"}
    )
    assert len(read.cohort.rows) == 1
    assert read.remarks == (
        "1 rows with label 'wart' are left out: it is not in the label map",
        "no row has the label 'mel' of the label map",
    )


def test_equal_pixels_under_two_labels_are_left_out(tmp_path: Path) -> None:
    rows = [("a", "NV", "p"), ("b", "MEL", "q"), ("c", "NV", "r"), ("d", "NV", "s")]
    read, answers = compare_pixels(_read(tmp_path, rows), _answers(["x", "x", "y", "y"]))
    assert [row.image_id for row in read.cohort.rows] == ["c", "d"]
    assert answers.embedding[:, 0].tolist() == [2, 3]
    assert read.conflicts[0].images == ("a", "b")
    assert read.conflicts[0].found_by == "pixels"
    assert any("1 images have the same pixels" in remark for remark in read.remarks)


def test_images_trained_on_are_named(tmp_path: Path) -> None:
    rows = [("a", "NV", "p"), ("b", "MEL", "q")]
    read, answers = compare_pixels(_read(tmp_path, rows), _answers(["x", "y"]), {"y", "z"})
    assert len(answers.logits) == 2
    assert read.remarks == (
        "1 images are among those the model was trained on; the figures are too good: b",
    )


def test_cohort_of_conflicts_alone_is_refused(tmp_path: Path) -> None:
    rows = [("a", "NV", "p"), ("b", "MEL", "q")]
    with pytest.raises(CohortError, match="several labels"):
        compare_pixels(_read(tmp_path, rows), _answers(["x", "x"]))
    with pytest.raises(CohortError, match=r"no image is left.* a \(MEL, NV\)"):
        _read(tmp_path, [("a", "NV", "p"), ("a", "MEL", "p")])


def test_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    rows = [("a", "NV", "p", "train"), ("b", "NV", "q", "test"), ("c", "NV", "p", "test")]
    table = _write(tmp_path, rows, "image_id,dx,patient,split")
    columns = Columns(image="image_id", label="dx", group="patient", split="split")
    with pytest.raises(LeakageError, match=r"1 groups are in more than one split.*image a"):
        read_cohort(tmp_path / "images", table, columns, split="test")


def test_split_can_be_chosen(tmp_path: Path) -> None:
    rows = [("a", "NV", "p", "train"), ("b", "NV", "q", "test")]
    table = _write(tmp_path, rows, "image_id,dx,patient,split")
    columns = Columns(image="image_id", label="dx", group="patient", split="split")
    read = read_cohort(tmp_path / "images", table, columns, split="test")
    assert [row.image_id for row in read.cohort.rows] == ["b"]
    with pytest.raises(CohortError, match="no row of split 'validation'"):
        read_cohort(tmp_path / "images", table, columns, split="validation")
    with pytest.raises(CohortError, match="split column"):
        read_cohort(tmp_path / "images", table, PLAIN, split="test")


def test_missing_columns_images_and_rows_are_named(tmp_path: Path) -> None:
    table = _write(tmp_path, [("a", "NV", "p")])
    with pytest.raises(CohortError, match=r"no column \['age'\]"):
        read_cohort(tmp_path, table, Columns(image="image_id", subgroups=("age",)))
    with pytest.raises(CohortError, match="no image of 1 rows of 1: a"):
        read_cohort(tmp_path, table, PLAIN)
    with pytest.raises(CohortError, match="no folder"):
        read_cohort(tmp_path / "absent", table, PLAIN)
    with pytest.raises(CohortError, match="absent"):
        read_cohort(tmp_path, tmp_path / "absent.csv", PLAIN)
    with pytest.raises(CohortError, match="no row has a known label"):
        read_cohort(tmp_path, table, PLAIN, label_map={"mel": "MEL"})
    table.write_text("image_id,dx,patient\n")
    with pytest.raises(CohortError, match="no rows"):
        read_cohort(tmp_path, table, PLAIN)
    table.write_text("image_id,dx,patient\n,NV,p\n")
    with pytest.raises(CohortError, match="no image_id"):
        read_cohort(tmp_path, table, PLAIN)


def test_folders_can_be_labels(tmp_path: Path) -> None:
    for label, name in (("nevus", "a"), ("nevus", "b"), ("melanoma", "b"), ("melanoma", "c")):
        folder = tmp_path / "Train" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / f"{name}.PNG")
    (tmp_path / "Train" / "nevus" / "notes.txt").write_text("no image")
    read = scan_folders(tmp_path, label_map={"nevus": "NV", "melanoma": "MEL"})
    assert {(row.image_id, row.label) for row in read.cohort.rows} == {
        ("Train/nevus/a", "NV"),
        ("Train/melanoma/c", "MEL"),
    }
    assert read.conflicts[0].images == ("Train/melanoma/b", "Train/nevus/b")


def test_empty_and_absent_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no images"):
        scan_folders(tmp_path)
    with pytest.raises(CohortError, match="no folder"):
        scan_folders(tmp_path / "absent")


def test_pixel_hash_tells_shape_and_value_apart() -> None:
    image = np.zeros((2, 6, 3), np.uint8)
    other = image.copy()
    other[1, 2, 0] = 1
    assert hash_pixels(image) == hash_pixels(image[:, ::-1])
    assert len({hash_pixels(x) for x in (image, other, image.reshape(6, 2, 3))}) == 3


def test_many_names_are_shortened() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"
