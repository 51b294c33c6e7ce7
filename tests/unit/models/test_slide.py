import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ManifestError, SlideError
from models.slide.tiles import (
    AbmilShape,
    SlideGeometry,
    SlideManifest,
    check_spacing,
    lay_grid,
    plan_read,
    resample_tile,
    top_tiles,
)
from models.slide.tissue import Tissue, TissueFinding
from tests.unit.models.manifests import manifest as diagnosis_manifest


def tissue(outer, holes=None, ink=None, um_px=8.0):
    none = np.zeros_like(outer)
    return Tissue(
        finding=TissueFinding.TISSUE,
        outer=outer,
        holes=none if holes is None else holes,
        ink=none if ink is None else ink,
        outlines=(),
        um_px=um_px,
        threshold=8,
        is_pale=False,
    )


def naive_tiles(found, step, width, height):
    """The rules of ``lay_grid`` as loops over tiles and points."""
    rows, columns = found.outer.shape

    def at(mask, x, y):
        column, row = int(np.floor(x * columns / width)), int(np.floor(y * rows / height))
        return 0 <= column < columns and 0 <= row < rows and bool(mask[row, column])

    kept = []
    for row, column in itertools.product(range(200), range(200)):
        x, y = (column + 0.5) * step, (row + 0.5) * step
        if x >= width or y >= height:
            continue
        shift = int(step / 2 * 0.5)
        points = [(x + i * shift, y + j * shift) for i in (-1, 1) for j in (-1, 1)]
        if any(at(found.outer, *point) for point in points) and not at(found.holes, x, y):
            kept.append((round(column * step), round(row * step)))
    return kept


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), um_px=st.sampled_from([0.25, 0.2277, 0.499, 0.5]))
def test_the_grid_equals_its_naive_twin(seed, um_px):
    rng = np.random.default_rng(seed)
    width, height = (int(v) for v in rng.integers(600, 4000, 2))
    shape = (max(1, round(height * um_px / 8)), max(1, round(width * um_px / 8)))
    outer = rng.random(shape) < 0.1
    holes = rng.random(shape) < 0.1
    found = tissue(outer, holes)
    grid = lay_grid(SlideGeometry(um_px=um_px, sizes=((width, height),)), found)
    step = 256 * grid.plan.um_px / um_px
    assert [tuple(c) for c in grid.coordinates.tolist()] == naive_tiles(found, step, width, height)


@pytest.mark.parametrize(("um_px", "side"), [(0.25, 512), (0.5, 256), (0.499, 256), (0.125, 1024)])
def test_a_tile_is_the_same_square_of_tissue_on_every_scanner(um_px, side):
    pixels = round(2048 * 0.5 / um_px)
    geometry = SlideGeometry(um_px=um_px, sizes=((pixels, pixels),))
    grid = lay_grid(geometry, tissue(np.ones((128, 128), np.bool_)))
    assert (len(grid), grid.side) == (64, side)


def test_full_tissue_is_covered_once_and_whole():
    geometry = SlideGeometry(um_px=0.25, sizes=((4096, 3072),))
    grid = lay_grid(geometry, tissue(np.ones((96, 128), np.bool_)))
    seen = np.zeros((3072, 4096), np.int64)
    for x, y in grid.coordinates:
        seen[y : y + grid.side, x : x + grid.side] += 1
    assert (seen == 1).all()
    assert grid.coordinates.dtype == np.int64


def test_tiles_of_ink_and_without_tissue_are_left_out():
    geometry = SlideGeometry(um_px=0.5, sizes=((1024, 256),))
    outer, ink = np.ones((16, 64), np.bool_), np.zeros((16, 64), np.bool_)
    outer[:, 48:] = False
    ink[:, :16] = True
    grid = lay_grid(geometry, tissue(outer, ink=ink))
    assert grid.coordinates.tolist() == [[256, 0], [512, 0]]


def test_a_slide_smaller_than_half_a_tile_has_none():
    geometry = SlideGeometry(um_px=0.5, sizes=((16, 16),))
    assert len(lay_grid(geometry, tissue(np.ones((1, 1), np.bool_)))) == 0


def test_the_nearest_finer_level_is_read():
    sizes = ((8192, 8192), (4096, 4096), (2048, 2048), (512, 512))
    assert plan_read(SlideGeometry(um_px=0.25, sizes=sizes), 0.5).level == 1
    assert plan_read(SlideGeometry(um_px=0.25, sizes=sizes), 0.5).factor == 1.0
    third = plan_read(SlideGeometry(um_px=0.2, sizes=sizes), 0.5)
    assert (third.level, third.factor) == (1, pytest.approx(1.25))
    assert plan_read(SlideGeometry(um_px=0.25, sizes=sizes[:1] + sizes[3:]), 0.5).factor == 2.0
    slightly = plan_read(SlideGeometry(um_px=0.55, sizes=sizes), 0.5)
    assert (slightly.level, slightly.factor) == (0, pytest.approx(0.5 / 0.55))


def test_a_slide_that_is_too_coarse_is_refused():
    with pytest.raises(SlideError, match=r"0\.5 um/px or finer"):
        plan_read(SlideGeometry(um_px=1.0, sizes=((500, 500),)), 0.5)


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        ((None, 0.5), "does not state"),
        ((0.00499, 0.00499), "microscope"),
        ((352.7, 352.7), "microscope"),
        ((float("nan"), 0.5), "microscope"),
        ((0.25, 0.5), "not square"),
        ((0.0, 0.0), "microscope"),
    ],
)
def test_missing_and_wrong_spacing_is_refused(spacing, reason):
    with pytest.raises(SlideError, match=reason):
        check_spacing(*spacing)


@pytest.mark.parametrize("sizes", [(), ((0, 5),), ((10, 10), (20, 20))])
def test_impossible_pyramids_are_refused(sizes):
    with pytest.raises(SlideError):
        SlideGeometry(um_px=0.5, sizes=sizes)


def test_resampling_averages_when_smaller_and_keeps_what_fits():
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[::2] = 200
    assert (resample_tile(pixels, 256) == 100).all()
    exact = np.zeros((256, 256, 3), np.uint8)
    assert resample_tile(exact, 256) is exact
    assert resample_tile(pixels[:100, :100], 256).shape == (256, 256, 3)


def test_top_tiles_come_highest_first_and_ties_in_order():
    assert top_tiles(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert top_tiles(np.array([1.0]), 5).tolist() == [0]
    with pytest.raises(ValueError, match="finite"):
        top_tiles(np.array([1.0, np.nan]), 1)


def slide_manifest(**changes):
    base = diagnosis_manifest()
    common = {
        field.name: getattr(base, field.name)
        for field in dataclasses.fields(SlideManifest)
        if field.name in {f.name for f in dataclasses.fields(SlideManifest.__bases__[0])}
    }
    values = common | {
        "name": "slide_classification",
        "labels": {"normal": "No metastasis", "tumour": "Metastasis"},
        "positive_labels": ("tumour",),
        "architecture": AbmilShape(features=8, width=6, attention=4),
        "encoder_digest": "a" * 64,
        "tile_px": 256,
        "tile_um_px": 0.5,
        "tissue_preset": "bwh_biopsy",
        "temperature": 1.5,
        "decision_threshold": 0.4,
        "decision_threshold_meaning": "for this test",
        "min_tiles": 4,
        "evidence_level": "simulated",
    }
    return SlideManifest(**(values | changes))


def test_a_manifest_survives_its_file():
    manifest = slide_manifest()
    assert SlideManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": {"normal": "x"}},
        {"positive_labels": ()},
        {"positive_labels": ("other",)},
        {"positive_labels": ("normal", "tumour")},
        {"encoder_digest": "A" * 64},
        {"tissue_preset": "mine"},
        {"temperature": 0.0},
        {"decision_threshold": 1.0},
        {"tile_um_px": 0.0},
        {"min_tiles": 0},
    ],
)
def test_impossible_manifests_are_refused_by_field(wrong):
    with pytest.raises(ManifestError, match=next(iter(wrong))):
        slide_manifest(**wrong)
