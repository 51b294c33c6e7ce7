from itertools import combinations

import cv2
import numpy as np
import pytest
from PIL import Image

from gateway.demo.fields import Frame, discs, mesh, noise, smoothstep, strokes
from gateway.demo.samples import Kind, render, sample_set, write_samples
from models.quality import assess_quality

ASSESSABLE = [kind for kind in Kind if kind not in {Kind.LENS_CAP, Kind.OUT_OF_FOCUS}]
FRAME = Frame(height_px=120, width_px=160, px_per_mm=10.0)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples") / "new" / "folder")


@pytest.fixture(scope="module")
def pictures(paths):
    """Each picture of the set as whoever opens the file sees it."""
    found = {}
    for sample, path in zip(sample_set(), paths, strict=True):
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            found[sample.kind] = np.asarray(picture.convert("RGB"))
    return found


def border_colour(picture):
    """Mean colour of a strip at mid-height on the left and right, away from dark corners."""
    rows = slice(picture.shape[0] // 3, 2 * picture.shape[0] // 3)
    width = picture.shape[1] // 20
    strip = np.concatenate([picture[rows, 20 : 20 + width], picture[rows, -20 - width : -20]])
    return strip.reshape(-1, 3).mean(axis=0)


def centre(picture, share):
    height, width, _ = picture.shape
    half = int(share * height / 2)
    return picture[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]


def bluish_share(picture):
    red, green, blue = np.moveaxis(picture.astype(float), -1, 0)
    return float(np.mean((blue > 0.92 * red) & (blue > green) & (blue > 50) & (blue < 170)))


def sharpness(picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (120, 90), interpolation=cv2.INTER_AREA)  # averages the grain away
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_renders_an_rgb_picture_of_the_asked_size(pictures, kind):
    assert pictures[kind].shape == (450, 600, 3)
    assert pictures[kind].dtype == np.uint8


@pytest.mark.parametrize("kind", Kind)
def test_same_seed_gives_the_same_picture_and_another_seed_another(kind):
    size = (160, 120)
    first = render(kind, 7, size)
    assert np.array_equal(first, render(kind, 7, size))
    assert not np.array_equal(first, render(kind, 8, size))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", [(32, 32), (97, 61), (90, 240), (300, 50)])
def test_odd_sizes_render(kind, size):
    assert render(kind, 0, size).shape == (size[1], size[0], 3)


def test_many_seeds_render_without_a_warning():
    for seed in range(3):
        for kind in Kind:
            render(kind, seed, (80, 60))


def test_the_same_lesion_is_seen_at_every_size():
    small = render(Kind.ANGIOMA, 1, (300, 225))
    large = render(Kind.ANGIOMA, 1, (600, 450))
    mean_colours = [centre(picture, 0.2).reshape(-1, 3).mean(axis=0) for picture in (small, large)]
    assert np.abs(mean_colours[0] - mean_colours[1]).max() < 40


def test_no_two_kinds_look_alike(pictures):
    for one, other in combinations(Kind, 2):
        difference = np.abs(pictures[one].astype(int) - pictures[other].astype(int))
        assert difference.mean() > 5, (one, other)


@pytest.mark.parametrize(
    "kind",
    [
        Kind.NEVUS,
        Kind.NEVUS_BROWN_SKIN,
        Kind.MELANOMA,
        Kind.SEBORRHOEIC_KERATOSIS,
        Kind.ANGIOMA,
        Kind.CLINICAL,
    ],
)
def test_a_pigmented_lesion_lies_in_the_middle_and_is_darker_than_its_skin(pictures, kind):
    inside = centre(pictures[kind], 0.12).reshape(-1, 3).mean(axis=0)
    assert inside.mean() < border_colour(pictures[kind]).mean() - 25


def test_only_veil_and_nests_are_blue(pictures):
    assert bluish_share(pictures[Kind.MELANOMA]) > 0.01
    assert bluish_share(pictures[Kind.BASAL_CELL_CARCINOMA]) > 0.002
    for kind in (Kind.NEVUS, Kind.NEVUS_BROWN_SKIN, Kind.SEBORRHOEIC_KERATOSIS, Kind.CLINICAL):
        assert bluish_share(pictures[kind]) < 0.0005


def test_vascular_lesion_is_red(pictures):
    red, green, blue = centre(pictures[Kind.ANGIOMA], 0.2).reshape(-1, 3).mean(axis=0)
    assert red > 1.8 * green
    assert red > 1.8 * blue


def test_dermatofibroma_is_pale_in_the_middle_of_a_darker_ring(pictures):
    picture = pictures[Kind.DERMATOFIBROMA]
    height, width, _ = picture.shape
    rows, cols = np.ogrid[:height, :width]
    radius = np.hypot(rows - height / 2, cols - width / 2) / height
    ring = picture[(radius > 0.17) & (radius < 0.25)].mean()
    assert centre(picture, 0.1).mean() > ring + 20
    assert border_colour(picture).mean() > ring + 15


def test_brown_skin_is_darker_than_fair_skin(pictures):
    fair, brown = (border_colour(pictures[k]) for k in (Kind.NEVUS, Kind.NEVUS_BROWN_SKIN))
    assert brown.mean() < fair.mean() - 30


def test_lens_cap_is_black_but_not_flat(pictures):
    assert pictures[Kind.LENS_CAP].mean() < 12
    assert pictures[Kind.LENS_CAP].std() > 0.5


def test_out_of_focus_picture_holds_no_detail(pictures):
    sharp = [sharpness(pictures[kind]) for kind in ASSESSABLE]
    assert sharpness(pictures[Kind.OUT_OF_FOCUS]) < 0.1 * min(sharp)


@pytest.mark.parametrize("size", [(31, 400), (400, 31), (0, 0), (-600, 450)])
def test_too_small_a_size_is_refused(size):
    with pytest.raises(ValueError, match="32 x 32"):
        render(Kind.NEVUS, 1, size)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="wart"):
        render("wart", 1)


def test_kind_is_accepted_by_its_name():
    assert np.array_equal(render("nevus", 3, (64, 48)), render(Kind.NEVUS, 3, (64, 48)))


def test_sample_set_shows_every_kind_once_under_a_distinct_name():
    samples = sample_set()
    assert sorted(sample.kind for sample in samples) == sorted(Kind)
    assert len({sample.name for sample in samples}) == len(samples)
    assert all(sample.description for sample in samples)


def test_files_hold_the_rendered_pictures_in_order(paths, pictures):
    assert [path.name for path in paths] == [f"{sample.name}.jpg" for sample in sample_set()]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)
    for sample in sample_set()[:2]:
        drawn = render(sample.kind, sample.seed)
        assert np.abs(pictures[sample.kind].astype(int) - drawn).mean() < 4


def test_only_the_two_spoilt_pictures_fail_the_quality_check(pictures):
    for kind, picture in pictures.items():
        quality = assess_quality(picture)
        assert quality.is_assessable == (kind in ASSESSABLE), (kind, quality)


def test_noise_has_zero_mean_and_unit_variance_at_every_wavelength():
    rng = np.random.default_rng(0)
    for wavelength_mm in (0.001, 0.3, 2.0, 40.0):
        field = noise(FRAME, rng, wavelength_mm, octaves=3)
        assert field.shape == FRAME.shape
        assert abs(field.mean()) < 1e-3
        assert field.std() == pytest.approx(1.0, abs=1e-3)


def test_disc_covers_its_area_at_its_place():
    field = discs(FRAME, np.array([[2.0, -3.0]]), np.array([1.5]), 0.2)
    area_mm2 = field.sum() / FRAME.px_per_mm**2
    assert area_mm2 == pytest.approx(np.pi * 1.5**2, rel=0.03)
    rows, cols = np.nonzero(field > 0.5)
    middle = FRAME.to_px(np.array([[2.0, -3.0]]))[0]
    assert (rows.mean(), cols.mean()) == pytest.approx(tuple(middle), abs=0.3)


def test_disc_beyond_the_picture_leaves_no_trace():
    far = np.array([[0.0, 40.0], [-40.0, 0.0], [0.0, -40.0], [40.0, 0.0]])
    assert not discs(FRAME, far, np.ones(4), 0.2).any()


def test_stroke_has_its_width():
    path = np.array([[0.0, -5.0], [0.0, 0.0], [0.0, 5.0]])
    cover = strokes(FRAME, [path], [np.array([0.8, 0.8, 0.8])])
    assert cover[:, 80].sum() / FRAME.px_per_mm == pytest.approx(0.8, abs=0.15)
    assert cover[:10].max() == 0


def test_mesh_cells_have_about_the_asked_spacing_and_walls_part_them():
    cells = mesh(FRAME, np.random.default_rng(0), 1.0)
    seen = len(np.unique(cells.cell))
    assert seen == pytest.approx(FRAME.width_mm * FRAME.height_mm, rel=0.25)
    changes = cells.cell[:, 1:] != cells.cell[:, :-1]
    assert cells.wall_mm[:, 1:][changes].max() == 0


def test_smoothstep_is_clipped_and_halfway_in_the_middle():
    steps = smoothstep(1.0, 3.0, np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], np.float32))
    assert steps.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]
