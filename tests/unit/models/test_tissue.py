import cv2
import numpy as np
import pytest
from scipy import ndimage

from models.errors import ImageError, SlideError
from models.slide.tissue import (
    PRESETS,
    TissueFinding,
    TissuePreset,
    balance_glass,
    find_ink,
    find_tissue,
)

GLASS, PINK, BLUE_INK, GREEN_INK = (243, 243, 244), (205, 130, 180), (40, 60, 200), (30, 160, 70)
BIOPSY = PRESETS["bwh_biopsy"]


def overview(colour=GLASS, size=(300, 400)):
    return np.full((*size, 3), colour, np.uint8)


def with_disc(picture, centre=(200, 150), radius=60, colour=PINK):
    cv2.circle(picture, centre, radius, colour, -1)
    return picture


def test_the_presets_are_those_of_clam():
    found = {
        name: (p.saturation_threshold, p.median_px, p.close_px, p.min_area, p.max_holes)
        for name, p in PRESETS.items()
    }
    assert found == {
        "default": (8, 7, 4, 100, 8),
        "bwh_biopsy": (15, 11, 2, 1, 2),
        "bwh_resection": (15, 11, 4, 100, 8),
        "tcga": (8, 7, 4, 16, 8),
    }


@pytest.mark.parametrize("preset", PRESETS.values())
def test_a_disc_of_tissue_is_found_with_its_area(preset):
    tissue = find_tissue(with_disc(overview()), um_px=8.0, preset=preset)
    assert tissue.finding is TissueFinding.TISSUE
    assert len(tissue.outlines) == 1
    assert tissue.area_mm2 == pytest.approx(np.pi * 60**2 * 64e-6, rel=0.04)
    assert not tissue.is_pale


def test_a_blank_slide_is_a_result():
    rng = np.random.default_rng(0)
    noise = rng.integers(-2, 3, (300, 400, 3)) + np.array(GLASS)
    for preset in PRESETS.values():
        tissue = find_tissue(noise.astype(np.uint8), um_px=8.0, preset=preset)
        assert tissue.finding is TissueFinding.BLANK
        assert not tissue.mask.any()
        assert tissue.outlines == ()


def test_otsu_finds_no_tissue_on_bare_glass():
    rng = np.random.default_rng(0)
    noise = (rng.integers(-2, 3, (200, 200, 1)) + np.array(GLASS)).astype(np.uint8)
    otsu = TissuePreset(
        saturation_threshold=8,
        median_px=7,
        close_px=4,
        min_area=0,
        min_hole_area=0,
        max_holes=8,
        use_otsu=True,
    )
    assert find_tissue(noise, um_px=8.0, preset=otsu).finding is TissueFinding.BLANK
    assert find_tissue(with_disc(overview()), um_px=8.0, preset=otsu).outer[150, 200]


@pytest.mark.parametrize("colour", [BLUE_INK, GREEN_INK, (230, 30, 40), (25, 25, 28)])
def test_a_pen_stroke_alone_is_ink_and_no_tissue(colour):
    picture = overview()
    cv2.line(picture, (60, 60), (340, 220), colour, 9)
    picture = cv2.GaussianBlur(picture, (5, 5), 0)  # faded edges
    tissue = find_tissue(picture, um_px=8.0, preset=BIOPSY)
    assert tissue.finding is TissueFinding.INK_ONLY
    assert not tissue.mask.any()


def test_a_pen_stroke_beside_tissue_leaves_the_tissue():
    picture = with_disc(overview())
    cv2.line(picture, (20, 280), (380, 290), BLUE_INK, 7)
    tissue = find_tissue(picture, um_px=8.0, preset=BIOPSY)
    assert tissue.mask[150, 200]
    assert not tissue.mask[285, 200]
    assert tissue.ink[285, 200]
    assert not tissue.ink[150, 200]


def test_specks_are_no_ink():
    picture = overview()
    picture[100:103, 100:103] = GREEN_INK
    assert not find_ink(picture, um_px=8.0).any()


def test_black_scanner_background_is_neither_tissue_nor_ink():
    picture = with_disc(overview())
    picture[:, :80] = 3
    tissue = find_tissue(picture, um_px=8.0, preset=BIOPSY)
    assert tissue.finding is TissueFinding.TISSUE
    assert not tissue.mask[:, :78].any()
    assert not tissue.ink[:, :78].any()
    dark = find_tissue(overview((2, 2, 2)), um_px=8.0, preset=BIOPSY)
    assert dark.finding is TissueFinding.DARK


def test_tinted_glass_is_no_tissue():
    tinted = overview((244, 238, 222))  # saturation 23, above every preset's threshold
    assert find_tissue(tinted, um_px=8.0, preset=BIOPSY).finding is TissueFinding.BLANK
    with_tissue = find_tissue(with_disc(tinted), um_px=8.0, preset=BIOPSY)
    assert with_tissue.area_mm2 == pytest.approx(np.pi * 60**2 * 64e-6, rel=0.04)


def test_a_field_full_of_tissue_is_not_balanced_away():
    full = overview(PINK)
    assert (balance_glass(full) == full).all()
    assert find_tissue(full, um_px=8.0, preset=BIOPSY).mask.mean() > 0.95


def test_pale_tissue_is_found_and_said_to_be_pale():
    pale = with_disc(overview((240, 240, 240)), colour=(240, 229, 236))  # saturation 12
    tissue = find_tissue(pale, um_px=8.0, preset=BIOPSY)
    assert tissue.finding is TissueFinding.TISSUE
    assert tissue.is_pale
    assert tissue.threshold < BIOPSY.saturation_threshold


def test_brown_and_purple_tissue_is_not_taken_for_ink():
    for colour in ((110, 70, 45), (85, 45, 110), (190, 60, 90), (60, 38, 28)):
        picture = with_disc(overview(), colour=colour)
        assert not find_ink(picture, um_px=8.0).any(), colour


def test_the_largest_holes_are_kept_and_no_more():
    picture = with_disc(overview(size=(600, 600)), centre=(300, 300), radius=250)
    for x, radius in ((150, 30), (300, 45), (450, 38)):
        cv2.circle(picture, (x, 300), radius, GLASS, -1)
    tissue = find_tissue(picture, um_px=8.0, preset=BIOPSY)  # keeps two
    assert tissue.holes[300, 300]
    assert tissue.holes[300, 450]
    assert not tissue.holes[300, 150]
    assert tissue.outer[300, 300]


def test_area_filter_equals_a_twin_by_connected_components():
    rng = np.random.default_rng(1)
    picture = overview(size=(500, 500))
    for _ in range(14):
        x, y = rng.integers(40, 460, 2)
        radius = int(rng.integers(2, 30))
        cv2.circle(picture, (int(x), int(y)), radius, PINK, -1)
    plain = TissuePreset(
        saturation_threshold=15,
        median_px=1,
        close_px=0,
        min_area=1.0,
        min_hole_area=1e9,
        max_holes=0,
        use_otsu=False,
    )
    tissue = find_tissue(picture, um_px=8.0, preset=plain)
    filled = ndimage.binary_fill_holes((picture != GLASS).any(axis=2))
    labels, count = ndimage.label(filled, np.ones((3, 3)))
    expected = np.zeros_like(filled)
    for number in range(1, count + 1):
        outline = cv2.findContours((labels == number).astype(np.uint8), 0, 1)[0][0]
        if cv2.contourArea(outline) > (128 / 8) ** 2:
            expected |= labels == number
    assert (tissue.outer == expected).all()
    assert expected.any()
    assert not (expected == filled).all()


def test_odd_pictures_are_refused_by_name():
    with pytest.raises(ImageError):
        find_tissue(np.zeros((4, 4), np.uint8), um_px=8.0, preset=BIOPSY)
    for um_px in (0.0, -1.0, float("nan")):
        with pytest.raises(SlideError):
            find_tissue(overview(), um_px=um_px, preset=BIOPSY)
    assert find_tissue(overview(size=(1, 1)), um_px=8.0, preset=BIOPSY).outlines == ()


@pytest.mark.parametrize(
    "wrong", [{"median_px": 4}, {"saturation_threshold": 300}, {"close_px": -1}]
)
def test_impossible_presets_are_refused(wrong):
    values = {
        "saturation_threshold": 8,
        "median_px": 7,
        "close_px": 4,
        "min_area": 1,
        "min_hole_area": 1,
        "max_holes": 2,
        "use_otsu": False,
    }
    with pytest.raises(ValueError, match=r".+"):
        TissuePreset(**(values | wrong))
