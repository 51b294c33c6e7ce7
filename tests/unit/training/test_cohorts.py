from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cohort_builder import write_cohort
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.cohorts import (
    Cohort,
    Row,
    check_leakage,
    load_pixels,
    read_image,
    read_mask,
    read_rows,
    split_groups,
)
from training.errors import CohortError, LeakageError


def rows_of(labels: list[str], group_size: int = 2) -> list[Row]:
    return [
        Row(image_id=str(i), label=label, group_id=f"g{i // group_size}")
        for i, label in enumerate(labels)
    ]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=80),
    group_size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_group_is_in_exactly_one_split(labels: list[str], group_size: int, seed: int) -> None:
    rows = rows_of(labels, group_size)
    splits = split_groups(rows, fractions=(0.7, 0.1, 0.2), seed=seed)
    groups = {row.group_id for row in rows}
    assert set().union(*splits) == groups
    assert sum(map(len, splits)) == len(groups)
    again = split_groups(rows[::-1], fractions=(0.7, 0.1, 0.2), seed=seed)
    assert again == splits


def test_labels_are_spread_evenly() -> None:
    rows = rows_of(["common"] * 800 + ["rare"] * 80)
    splits = split_groups(rows, fractions=(0.7, 0.1, 0.2), seed=0)
    shares = [Counter(row.label for row in rows if row.group_id in part) for part in splits]
    assert [share["rare"] for share in shares] == [56, 8, 16]
    assert [share["common"] for share in shares] == [560, 80, 160]


def test_a_group_of_two_labels_counts_as_the_rarer() -> None:
    rows = [Row(image_id=str(i), label="common", group_id=f"g{i}") for i in range(40)]
    rows += [Row(image_id=f"r{i}", label="rare", group_id=f"g{i}") for i in range(10)]
    train, validation, test = split_groups(rows, fractions=(0.5, 0.2, 0.3), seed=0)
    rare = {f"g{i}" for i in range(10)}
    assert [len(part & rare) for part in (train, validation, test)] == [5, 2, 3]


def test_the_seed_decides() -> None:
    rows = rows_of(["a"] * 100)
    first = split_groups(rows, fractions=(0.7, 0.1, 0.2), seed=0)
    assert first != split_groups(rows, fractions=(0.7, 0.1, 0.2), seed=1)


def test_a_shared_group_is_leakage() -> None:
    check_leakage({"train": {"a"}, "test": {"b"}})
    with pytest.raises(LeakageError, match="train and test share 1"):
        check_leakage({"train": {"a", "b"}, "validation": {"c"}, "test": {"b"}})


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.4, 0.2)])
def test_fractions_must_be_shares(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(CohortError):
        split_groups(rows_of(["a"]), fractions=fractions, seed=0)


def test_a_table_is_read_and_its_labels_translated(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\ufefffile,dx,patient\na.jpg,nevus,p1\nb.png,wart,p1\nc,melanoma,p2\n")
    rows = read_rows(
        table,
        image_column="file",
        label_column="dx",
        group_column="patient",
        label_map={"nevus": "NV", "melanoma": "MEL"},
    )
    assert rows == (
        Row(image_id="a", label="NV", group_id="p1"),
        Row(image_id="c", label="MEL", group_id="p2"),
    )
    bare = read_rows(table, image_column="file")
    assert [row.group_id for row in bare] == ["a", "b", "c"]
    assert {row.label for row in bare} == {""}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "table"),
        ("", "column"),
        ("image,dx\n", "column"),
        ("image\na\n", "dx"),
        ("image,dx\na,x\na.png,x\n", "twice"),
        ("image,dx\na,unknown\n", "known label"),
    ],
    ids=["absent", "empty", "no row", "no column", "twice", "no label"],
)
def test_a_table_that_cannot_be_used_is_an_error(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    table = tmp_path / "table.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(CohortError, match=complaint):
        read_rows(table, image_column="image", label_column="dx", label_map={"x": "X"})


def test_pixels_are_what_serving_would_see(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path / "cohort", groups=3)
    rows = read_rows(folder / "labels.csv", image_column="image_id")
    (folder / "masks" / f"{rows[1].image_id}.png").unlink()
    cohort = Cohort(rows=rows, images=folder / "images", masks=folder / "masks")
    pixels = load_pixels(cohort, size=32)
    assert pixels.images.shape == (4, 32, 32, 3)
    assert pixels.has_mask.tolist() == [True, False, True, True]
    assert pixels.masks[1].max() == 0
    assert pixels.masks[0].max() == 255
    assert pixels.aspects == pytest.approx([64 / 48] * 4)


def test_a_missing_or_broken_image_is_named(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path / "cohort", groups=2)
    rows = read_rows(folder / "labels.csv", image_column="image_id")
    cohort = Cohort(rows=rows, images=folder / "images")
    path = folder / "images" / f"{rows[0].image_id}.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CohortError, match="decoded"):
        load_pixels(cohort)
    path.unlink()
    with pytest.raises(CohortError, match=rows[0].image_id):
        load_pixels(cohort)


def test_odd_modes_become_colour_and_masks_two_levels(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (3, 4, 3)
    for values in ([0, 1], [0, 255], [100, 200]):
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").tolist() == [[0, 255]]
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 0]]
