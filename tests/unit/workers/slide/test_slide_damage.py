"""Slides that are broken, each in one way: a readable reason, never a crash or another picture."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian

from models.errors import SlideError
from tests.unit.workers.slide.slide_writer import Level, cut, encode, names, reduced, section
from workers.adapters.slide_pyramid import Pyramid
from workers.adapters.slides import SpoolSlides
from workers.errors import InstanceMissing, Undecodable
from workers.slide.source import FoundSlide

WIDTH, HEIGHT = 700, 500


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return section(WIDTH, HEIGHT)


def opened(*paths: Path) -> Pyramid:
    source = SpoolSlides(paths[0].parent)
    return source.open(source.find(names(paths)).slides[0])


def refusal(*paths: Path) -> str:
    with pytest.raises(Undecodable) as caught:
        opened(*paths)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "not a colour slide"),
        ({"BitsAllocated": 16, "BitsStored": 12}, "more than 8 bits"),
        ({"Rows": None}, "no valid Rows"),
        ({"TotalPixelMatrixColumns": None}, "no valid TotalPixelMatrixColumns"),
        ({"TotalPixelMatrixRows": 0}, "no valid TotalPixelMatrixRows"),
        ({"Rows": 60000, "Columns": 60000}, "frames of 60000 x 60000 pixels are too large"),
        ({"NumberOfFrames": 2_000_000_000}, "more than a slide has"),
        ({"NumberOfFrames": 5}, "header says 5 frames"),
        ({"TotalPixelMatrixColumns": 4000}, "it has 6 frames, a matrix of 4000 x 500 pixels needs"),
        ({"TotalPixelMatrixRows": 4_000_000_000}, "it has 6 frames"),
        ({"DimensionOrganizationType": "3D"}, "does not say where its frames lie"),
        ({"DimensionOrganizationType": "TILED_SPARSE"}, "does not say where its frames lie"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.5"}, "not one that slides are read in"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.4.57"}, "not one that slides are read in"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.1"}, "uncompressed frames of YBR_FULL_422"),
    ],
)
def test_what_a_header_may_not_say(
    changes: dict[str, Any], reason: str, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = Level(picture=picture, changes=changes).write(tmp_path / "a.dcm")
    found = refusal(path)
    assert reason in found
    assert found.startswith("no level of the slide can be read")


def test_a_big_endian_slide_is_refused_by_its_name(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    little = dcmread(Level(picture=picture, codec="raw").write(tmp_path / "a.dcm"))
    dataset = Dataset({element.tag: element for element in little})
    dataset.file_meta = little.file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.save_as(
        tmp_path / "a.dcm", implicit_vr=False, little_endian=False, enforce_file_format=True
    )
    found = SpoolSlides(tmp_path).find(["a.dcm"])
    assert found.slides[0].headers[0].TotalPixelMatrixColumns == WIDTH
    assert "the level of 700 x 500 px was left out: its transfer syntax is not one" in refusal(
        tmp_path / "a.dcm"
    )


def test_what_is_no_slide_costs_its_siblings_nothing(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    good = Level(picture=picture).write(tmp_path / "good.dcm")
    (tmp_path / "text.dcm").write_text("no DICOM here")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.dcm").write_bytes(good.read_bytes()[:300])
    (tmp_path / "noise.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)
    found = SpoolSlides(tmp_path).find(
        ["text.dcm", "empty.dcm", "good.dcm", "cut.dcm", "noise.dcm"]
    )
    assert [slide.paths for slide in found.slides] == [("good.dcm",)]
    assert len(found.unreadable) + len(found.others) == 4
    assert all(found.unreadable)


def test_a_missing_file_is_no_matter_of_the_slide(tmp_path: Path) -> None:
    with pytest.raises(InstanceMissing):
        SpoolSlides(tmp_path).find(["gone.dcm"])
    with pytest.raises(InstanceMissing):
        SpoolSlides(tmp_path).open(FoundSlide(paths=("gone.dcm",), headers=()))


class TestFrames:
    def test_a_truncated_frame_is_named_and_the_others_are_read(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        frames = [encode(tile, "jpeg") for tile in cut(picture, (256, 256))]
        frames[4] = frames[4][: len(frames[4]) // 2]
        slide = opened(Level(picture=picture, frames=frames).write(tmp_path / "a.dcm"))
        with pytest.raises(Undecodable, match="a JPEG frame ends early"):
            slide.read(0, 300, 300, 10, 10)
        pixels, lost_px = slide.salvage(0, 0, 0, WIDTH, HEIGHT)
        assert lost_px == 256 * (HEIGHT - 256)
        assert (pixels[256:, 256:512] == 255).all()
        assert (slide.read(0, 0, 0, 256, 256) != 255).any()

    @pytest.mark.parametrize("codec", ["jpeg", "j2k", "jpegls", "htj2k"])
    @pytest.mark.parametrize("fault", ["half", "empty", "noise", "head"])
    def test_no_codec_shows_what_was_not_sent(
        self, codec: str, fault: str, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        tile = np.ascontiguousarray(picture[128:384, 128:384])
        whole = encode(tile, codec)
        frame = {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "noise": bytes(range(256)) * 8,
            "head": whole[:20],
        }[fault]
        level = Level(picture=tile, codec=codec, frames=[frame])
        slide = opened(level.write(tmp_path / "a.dcm"))
        with pytest.raises(Undecodable):
            slide.read(0, 0, 0, 256, 256)

    @pytest.mark.parametrize("codec", ["jpeg", "j2k", "jpegls", "htj2k"])
    def test_a_frame_larger_than_announced_is_not_decoded(self, codec: str, tmp_path: Path) -> None:
        frame = encode(section(512, 512), codec)
        level = Level(picture=section(256, 256), codec=codec, frames=[frame])
        slide = opened(level.write(tmp_path / "a.dcm"))
        with pytest.raises(Undecodable, match="512 x 512 pixels, its header says 256 x 256"):
            slide.read(0, 0, 0, 256, 256)

    def test_a_smaller_frame_serves_at_the_edge_and_nowhere_else(self, tmp_path: Path) -> None:
        picture = section(400, 256)
        frames = [
            encode(np.ascontiguousarray(part), "j2k")
            for part in (picture[:, :256], picture[:, 256:])
        ]
        level = Level(picture=picture, codec="j2k", frames=frames)
        slide = opened(level.write(tmp_path / "a.dcm"))
        assert np.array_equal(slide.read(0, 0, 0, 400, 256), picture)
        swapped = Level(picture=picture, codec="j2k", frames=frames[::-1])
        other = opened(swapped.write(tmp_path / "b.dcm"))
        with pytest.raises(Undecodable, match="smaller than its place"):
            other.read(0, 0, 0, 256, 256)

    def test_grey_frames_in_a_colour_slide(self, tmp_path: Path) -> None:
        grey = imagecodecs.jpeg8_encode(np.zeros((256, 256), np.uint8))
        slide = opened(Level(picture=section(256, 256), frames=[grey]).write(tmp_path / "a.dcm"))
        with pytest.raises(Undecodable, match="no 8-bit colour JPEG"):
            slide.read(0, 0, 0, 256, 256)

    def test_pixel_data_that_ends_early(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        path = Level(picture=picture, table="none").write(tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes()[:-3000])
        assert "left out" in refusal(path)
        tabled = Level(picture=picture).write(tmp_path / "b.dcm")
        tabled.write_bytes(tabled.read_bytes()[:-3000])
        slide = opened(tabled)  # its table finds the frames that are whole
        assert 0 < slide.salvage(0, 0, 0, WIDTH, HEIGHT)[1] <= 256 * 256

    def test_fewer_raw_frames_than_announced(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        frames = [encode(tile, "raw") for tile in cut(picture, (256, 256))]
        level = Level(
            picture=picture, codec="raw", frames=frames[:4], changes={"NumberOfFrames": 6}
        )
        assert "shorter than its frames" in refusal(level.write(tmp_path / "a.dcm"))

    def test_no_pixel_data(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        path = Level(picture=picture).write(tmp_path / "a.dcm")
        dataset = dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
        assert "holds no pixel data" in refusal(path)


class TestPlaces:
    def write(self, picture: NDArray[np.uint8], path: Path, places: list[tuple[int, int]]) -> Path:
        return Level(picture=picture, codec="raw", places=places).write(path)

    def test_frames_off_the_slide_are_left_out(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        path = self.write(picture, tmp_path / "a.dcm", [(0, 0), (0, 0)])
        dataset = dcmread(path)
        frames = dataset.PerFrameFunctionalGroupsSequence
        plane = frames[1].PlanePositionSlideSequence[0]
        plane.ColumnPositionInTotalImagePixelMatrix = -(2**31)
        dataset.save_as(path)
        slide = opened(path)
        assert slide.remarks == ("frames that lie off the slide were left out",)
        frames[0].PlanePositionSlideSequence[0].RowPositionInTotalImagePixelMatrix = 2**31 - 1
        dataset.save_as(path)
        assert "none of its frames lies on the slide" in refusal(path)

    def test_fewer_places_than_frames(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        path = self.write(picture, tmp_path / "a.dcm", [(0, 0), (256, 0)])
        dataset = dcmread(path)
        dataset.PerFrameFunctionalGroupsSequence.pop()
        dataset.save_as(path)
        assert "not as many items as it has frames" in refusal(path)

    def test_a_frame_without_a_place(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        path = self.write(picture, tmp_path / "a.dcm", [(0, 0), (256, 0)])
        dataset = dcmread(path)
        del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSlideSequence
        dataset.save_as(path)
        assert "where all of its frames lie" in refusal(path)

    def test_a_list_of_frames_that_is_cut_off(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        path = self.write(picture, tmp_path / "a.dcm", [(0, 0)])
        content = path.read_bytes()
        path.write_bytes(content[: content.index(struct.pack("<HH", 0x5200, 0x9230)) + 60])
        assert "left out" in refusal(path)


class TestGeometry:
    @pytest.mark.parametrize(
        ("um_px", "reason"),
        [(None, "does not state"), (500.0, "not that of a microscope"), (0.0, "microscope")],
    )
    def test_spacing_that_is_missing_or_implausible(
        self, um_px: float | None, reason: str, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        changes = {"ImagedVolumeWidth": None, "ImagedVolumeHeight": None}
        path = Level(picture=picture, um_px=um_px, changes=changes).write(tmp_path / "a.dcm")
        with pytest.raises(SlideError, match=reason):
            _ = opened(path).um_px

    def test_a_matrix_larger_than_any_glass(self, tmp_path: Path) -> None:
        tile = section(256, 256)
        changes = {"TotalPixelMatrixColumns": 4_000_000_000}
        level = Level(picture=tile, codec="raw", places=[(0, 0)], changes=changes)
        assert "a slide of 2e+06 x 0.128 mm is implausible" in refusal(
            level.write(tmp_path / "a.dcm")
        )

    def test_spacing_that_contradicts_the_imaged_volume_is_remarked_on(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        level = Level(picture=picture, changes={"ImagedVolumeWidth": 15.0})
        slide = opened(level.write(tmp_path / "a.dcm"))
        assert "imaged volume" in slide.remarks[0]

    def test_levels_whose_spacings_do_not_agree(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        fine = Level(picture=picture).write(tmp_path / "1.dcm")
        coarse = Level(picture=reduced(picture, 4), um_px=9.0).write(tmp_path / "2.dcm")
        assert "do not agree" in opened(fine, coarse).remarks[0]

    def test_a_level_of_another_shape_is_left_out(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        fine = Level(picture=picture).write(tmp_path / "1.dcm")
        other = Level(picture=section(300, 300), um_px=2.0).write(tmp_path / "2.dcm")
        slide = opened(fine, other)
        assert slide.sizes == ((WIDTH, HEIGHT),)
        assert "the level of 300 x 300 px was left out" in slide.remarks[0]

    def test_a_damaged_finest_level_is_named_and_the_next_one_serves(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        fine = Level(picture=picture, um_px=0.25, changes={"NumberOfFrames": 4})
        coarse = Level(picture=reduced(picture, 2), um_px=0.5).write(tmp_path / "2.dcm")
        slide = opened(fine.write(tmp_path / "1.dcm"), coarse)
        assert slide.sizes == ((350, 250),)
        assert slide.remarks[0].startswith("the level of 700 x 500 px was left out")
        assert len(slide.headers) == 1

    def test_a_concatenation_with_a_part_missing(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        changes = {
            "ConcatenationUID": "1.2.3",
            "InConcatenationNumber": 2,
            "ConcatenationFrameOffsetNumber": 3,
        }
        frames = [encode(tile, "jpeg") for tile in cut(picture, (256, 256))][3:]
        level = Level(picture=picture, frames=frames, changes=changes)
        assert "a part of its concatenation is missing" in refusal(level.write(tmp_path / "a.dcm"))


def test_whatever_is_altered_in_a_file_ends_in_a_reason(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Two hundred altered files; more of them were tried by hand."""
    small = np.ascontiguousarray(picture[100:228, 100:300])
    whole = [
        Level(picture=small, tile=(128, 128), **how).write(tmp_path / "a.dcm").read_bytes()  # type: ignore[arg-type]
        for how in (
            {},
            {"codec": "implicit", "places": [(5, 5)]},
            {"codec": "j2k", "table": "extended"},
        )
    ]
    rng = random.Random(0)
    path = tmp_path / "altered.dcm"
    outcomes = set()
    for number in range(200):
        content = bytearray(whole[number % len(whole)])
        at = rng.randrange(132, 2200)
        if number % 2:
            content[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
        else:
            del content[at : at + rng.randrange(1, 40)]
        path.write_bytes(content)
        found = SpoolSlides(tmp_path).find([path.name])
        assert len(found.slides) + len(found.others) + len(found.unreadable) == 1
        for each in found.slides:
            try:
                SpoolSlides(tmp_path).open(each).salvage(0, 0, 0, 200, 128)
                outcomes.add("read")
            except Undecodable:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
