"""Slides of every tiling, codec and offset table show the pixels that were drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import generate_uid
from wsidicom import WsiDicom

from models.slide.reading import geometry_of, read_overview, read_tile
from models.slide.tiles import lay_grid
from models.slide.tissue import PRESETS, find_tissue
from tests.unit.workers.slide.slide_writer import Level, cut, encode, names, reduced, section
from training.slide.readers import open_slide
from workers.adapters.slide_pyramid import Pyramid
from workers.adapters.slides import SpoolSlides

WIDTH, HEIGHT = 700, 500
EXACT = ("raw", "implicit", "planar", "j2k", "jpegls", "htj2k")


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return section(WIDTH, HEIGHT)


def opened(*paths: Path) -> Pyramid:
    source = SpoolSlides(paths[0].parent)
    found = source.find(names(paths))
    assert len(found.slides) == 1
    assert found.unreadable == ()
    return source.open(found.slides[0])


def whole(slide: Pyramid, level: int = 0) -> NDArray[np.uint8]:
    return slide.read(level, 0, 0, *slide.sizes[level])


@pytest.mark.parametrize("codec", EXACT)
def test_lossless_pixels_are_those_drawn(
    codec: str, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    slide = opened(Level(picture=picture, codec=codec, tile=(256, 128)).write(tmp_path / "a.dcm"))
    assert slide.sizes == ((WIDTH, HEIGHT),)
    assert slide.um_px == pytest.approx(0.5)
    assert np.array_equal(whole(slide), picture)
    corner = slide.read(0, 690, -5, 20, 10)
    assert np.array_equal(corner[5:, :10], picture[:5, 690:])
    assert (corner[:5] == 255).all()
    assert (corner[:, 10:] == 255).all()
    assert (slide.read(0, 5000, 0, 4, 4) == 255).all()


@pytest.mark.parametrize("codec", ["jpeg", "jpeg-rgb"])
def test_jpeg_pixels_are_those_of_wsidicom(
    codec: str, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = Level(picture=picture, codec=codec).write(tmp_path / "a.dcm")
    slide = opened(path)
    with WsiDicom.open(path) as reference:
        for x, y, width, height in ((0, 0, 256, 256), (200, 130, 300, 290), (512, 256, 188, 244)):
            expected = np.asarray(reference.read_region((x, y), 0, (width, height)))
            assert np.array_equal(slide.read(0, x, y, width, height), expected)
    assert np.abs(whole(slide).astype(int) - picture).mean() < 6


def test_raw_pixels_are_those_of_pydicom(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    path = Level(picture=picture, codec="planar").write(tmp_path / "a.dcm")
    frames = dcmread(path).pixel_array
    assert np.array_equal(opened(path).read(0, 256, 0, 256, 256), frames[1])


def test_ybr_without_a_component_transform_becomes_rgb(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    ycrcb = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
    ybr = np.ascontiguousarray(ycrcb[..., [0, 2, 1]])
    frames = [encode(tile, "j2k-ybr") for tile in cut(ybr, (256, 256))]
    level = Level(picture=picture, codec="j2k-ybr", frames=frames, photometric="YBR_FULL")
    slide = opened(level.write(tmp_path / "a.dcm"))
    assert np.abs(whole(slide).astype(int) - picture).max() <= 2


def test_frames_that_are_jfif_are_believed_over_a_header_that_says_rgb(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    right = opened(Level(picture=picture).write(tmp_path / "a.dcm"))
    wrong = opened(Level(picture=picture, photometric="RGB").write(tmp_path / "b.dcm"))
    assert np.array_equal(whole(right), whole(wrong))


@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_every_offset_table_finds_the_frames(
    table: str, fragments: int, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    plain = opened(Level(picture=picture).write(tmp_path / "plain.dcm"))
    level = Level(picture=picture, table=table, fragments=fragments)
    slide = opened(level.write(tmp_path / "a.dcm"))
    assert np.array_equal(whole(slide), whole(plain))


def test_an_offset_table_that_wrapped_at_four_gigabytes_is_not_believed(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = Level(picture=picture).write(tmp_path / "a.dcm")
    expected = whole(opened(path))
    content = bytearray(path.read_bytes())
    at = content.index(b"\xfe\xff\x00\xe0") + 8
    content[at + 16 : at + 20] = (5).to_bytes(4, "little")  # the fifth frame before the fourth
    path.write_bytes(content)
    assert np.array_equal(whole(opened(path)), expected)


def test_one_frame_in_many_fragments(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    level = Level(picture=picture, tile=(1024, 512), table="none", fragments=7)
    slide = opened(level.write(tmp_path / "a.dcm"))
    assert slide.salvage(0, 0, 0, WIDTH, HEIGHT)[1] == 0


class TestSparse:
    def test_missing_tiles_are_white(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        places = [(256, 256), (0, 0), (512, 0)]
        slide = opened(Level(picture=picture, codec="raw", places=places).write(tmp_path / "a.dcm"))
        expected = np.full_like(picture, 255)
        for column, row in places:
            part = picture[row : row + 256, column : column + 256]
            expected[row : row + 256, column : column + 256] = part
        assert np.array_equal(whole(slide), expected)
        assert np.array_equal(slide.read(0, 300, 200, 250, 200), expected[200:400, 300:550])

    def test_tiles_may_lie_off_the_grid_and_reach_over_the_edge(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        places = [(x, y) for y in (-20, 210, 440) for x in (-30, 200, 430, 660)]
        slide = opened(Level(picture=picture, codec="raw", places=places).write(tmp_path / "a.dcm"))
        assert np.array_equal(whole(slide), picture)
        assert np.array_equal(slide.read(0, 190, 200, 60, 30), picture[200:230, 190:250])

    @pytest.mark.parametrize("codec", ["raw", "implicit"])
    @pytest.mark.parametrize("is_undefined", [True, False])
    def test_the_list_of_frames_is_read_in_every_encoding(
        self, codec: str, is_undefined: bool, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        path = Level(picture=picture, codec=codec, places=[(256, 0)]).write(tmp_path / "a.dcm")
        dataset = dcmread(path)
        groups = dataset["PerFrameFunctionalGroupsSequence"]
        groups.is_undefined_length = is_undefined
        for item in groups.value:
            item.is_undefined_length_sequence_item = is_undefined
            item["PlanePositionSlideSequence"].is_undefined_length = is_undefined
        dataset.save_as(path)
        assert np.array_equal(opened(path).read(0, 256, 0, 256, 256), picture[:256, 256:512])

    def test_of_several_planes_the_middle_one_is_read(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        tiles = [np.full((256, 256, 3), 10 * n, np.uint8).tobytes() for n in range(1, 4)]
        level = Level(picture=picture, codec="raw", places=[(0, 0)] * 3, frames=tiles)
        path = level.write(tmp_path / "a.dcm")
        dataset = dcmread(path)
        for z, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            item.PlanePositionSlideSequence[0].ZOffsetInSlideCoordinateSystem = float(z)
        dataset.save_as(path)
        slide = opened(path)
        assert (slide.read(0, 0, 0, 256, 256) == 20).all()
        assert slide.remarks == ("of 3 focal planes the middle one was read",)


class TestPyramid:
    def test_levels_come_finest_first_and_labels_stay_closed(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        coarse, label = reduced(picture, 4), section(90, 90)
        paths = [
            Level(picture=coarse, um_px=2.0, codec="raw").write(tmp_path / "1.dcm"),
            Level(picture=picture, codec="raw").write(tmp_path / "2.dcm"),
        ]
        for flavour in ("LABEL", "OVERVIEW", "THUMBNAIL"):
            changes = {"ImageType": ["ORIGINAL", "PRIMARY", flavour, "NONE"]}
            level = Level(picture=label, codec="raw", changes=changes)
            paths.append(level.write(tmp_path / f"{flavour}.dcm"))
        source = SpoolSlides(tmp_path)
        found = source.find(names(paths))
        assert [slide.paths for slide in found.slides] == [("2.dcm", "1.dcm")]
        assert len(found.others) == 3
        slide = source.open(found.slides[0])
        assert slide.sizes == ((700, 500), (175, 125))
        assert np.array_equal(whole(slide, 1), coarse)
        assert slide.remarks == ()
        assert [header.TotalPixelMatrixColumns for header in slide.headers] == [700, 175]

    def test_a_concatenation_is_one_level(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        tiles = [encode(tile, "jpeg") for tile in cut(picture, (256, 256))]
        name = generate_uid()
        paths = []
        for part, first in ((2, 4), (1, 0)):  # the later part arrives first
            changes = {
                "ConcatenationUID": name,
                "InConcatenationNumber": part,
                "ConcatenationFrameOffsetNumber": first,
            }
            level = Level(picture=picture, frames=tiles[first : first + 4], changes=changes)
            paths.append(level.write(tmp_path / f"{part}.dcm"))
        plain = opened(Level(picture=picture).write(tmp_path / "plain.dcm"))
        slide = opened(*paths)
        assert np.array_equal(whole(slide), whole(plain))
        assert len(slide.headers) == 2

    def test_sparse_parts_of_one_level_complete_each_other(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        grid = [(x, y) for y in (0, 256) for x in (0, 256, 512)]
        paths = [
            Level(picture=picture, codec="raw", places=part).write(tmp_path / f"{n}.dcm")
            for n, part in enumerate((grid[:2], grid[2:]))
        ]
        assert np.array_equal(whole(opened(*paths)), picture)

    def test_slides_are_told_apart(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        cases = {
            "a": {},
            "series": {"SeriesInstanceUID": generate_uid()},
            "container": {"ContainerIdentifier": "S2"},
            "pyramid": {"PyramidUID": generate_uid()},
            "frame": {"FrameOfReferenceUID": generate_uid()},
        }
        paths = [
            Level(picture=picture, codec="raw", changes=changes).write(tmp_path / f"{name}.dcm")
            for name, changes in cases.items()
        ]
        found = SpoolSlides(tmp_path).find(names(paths))
        assert [len(slide.paths) for slide in found.slides] == [1] * 5

    def test_levels_with_frames_of_reference_of_their_own_are_one_slide(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        coarse = Level(
            picture=reduced(picture, 4),
            um_px=2.0,
            codec="raw",
            changes={"FrameOfReferenceUID": generate_uid()},
        )
        fine = Level(picture=picture, codec="raw").write(tmp_path / "1.dcm")
        assert len(opened(coarse.write(tmp_path / "2.dcm"), fine).sizes) == 2

    def test_levels_in_series_of_their_own_are_one_slide(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        def coarse(**changes: str) -> Path:
            changes = {"SeriesInstanceUID": generate_uid(), **changes}
            level = Level(picture=reduced(picture, 4), um_px=2.0, codec="raw", changes=changes)
            return level.write(tmp_path / "2.dcm")

        fine = Level(picture=picture, codec="raw").write(tmp_path / "1.dcm")
        assert len(opened(coarse(), fine).sizes) == 2
        for apart in ({"ContainerIdentifier": "S2"}, {"FrameOfReferenceUID": generate_uid()}):
            found = SpoolSlides(tmp_path).find(names([coarse(**apart), fine]))
            assert len(found.slides) == 2

    def test_one_tile_larger_than_the_slide(self, tmp_path: Path) -> None:
        picture = section(16, 12)
        slide = opened(Level(picture=picture, codec="raw").write(tmp_path / "a.dcm"))
        assert np.array_equal(whole(slide), picture)

    def test_headers_are_kept_without_what_is_large(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        path = Level(picture=picture, codec="raw", places=[(0, 0)]).write(tmp_path / "a.dcm")
        (header,) = opened(path).headers
        assert "PerFrameFunctionalGroupsSequence" not in header
        assert "ICCProfile" not in header.OpticalPathSequence[0]
        assert header.OpticalPathSequence[0].OpticalPathIdentifier == "1"
        assert header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"

    def test_the_digest_is_that_of_the_bytes(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        one = opened(Level(picture=picture).write(tmp_path / "a.dcm")).digest(0)
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "b.dcm").write_bytes((tmp_path / "a.dcm").read_bytes())
        other = Level(picture=picture, table="none").write(tmp_path / "c.dcm")
        assert opened(tmp_path / "copy" / "b.dcm").digest(0) == one
        assert opened(other).digest(0) != one


def test_tiles_and_overview_are_those_of_training(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    """At 40x, so that tiles are resampled; through wsidicom there, through our reader here."""
    large = section(2100, 1700)
    path = Level(picture=large, um_px=0.25, tile=(240, 240)).write(tmp_path / "a.dcm")
    ours = opened(path)
    with open_slide(path) as theirs:
        overview, um_px = read_overview(ours)
        assert np.array_equal(overview, read_overview(theirs)[0])
        tissue = find_tissue(overview, um_px=um_px, preset=PRESETS["bwh_biopsy"])
        grid = lay_grid(geometry_of(ours), tissue)
        assert len(grid) >= 4
        for number in range(len(grid)):
            assert np.array_equal(read_tile(ours, grid, number), read_tile(theirs, grid, number))


def test_decoded_frames_are_kept_within_the_budget(
    picture: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Level(picture=picture).write(tmp_path / "a.dcm")
    source = SpoolSlides(tmp_path, cache_bytes=2 * 256 * 256 * 3)
    slide = source.open(source.find([path.name]).slides[0])
    decoded: list[int] = []
    real = imagecodecs.jpeg8_decode
    monkeypatch.setattr(
        imagecodecs, "jpeg8_decode", lambda frame, **how: decoded.append(1) or real(frame, **how)
    )
    for x in (0, 10, 250):  # one frame, the same, then the next one as well
        slide.read(0, x, 0, 20, 20)
    assert len(decoded) == 2
    slide.read(0, 520, 0, 20, 20)
    slide.read(0, 0, 0, 20, 20)  # the oldest has gone
    assert len(decoded) == 4
