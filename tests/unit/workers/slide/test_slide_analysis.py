"""``slide_classification`` over drawn slides, real files and small models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from models.slide.result import SlideAssessment, SlideResult
from models.slide.tiles import AbmilShape
from reports.context import ReportContext
from reports.encode import encode as encode_report
from tests.unit.workers.fakes import (
    FakeEmbeddings,
    FakeInstances,
    FakePriors,
    InMemory,
    claim,
    generation_row,
    instance_row,
)
from tests.unit.workers.slide.slide_models import Crash, SlideModels, slide_manifest
from tests.unit.workers.slide.slide_writer import (
    GLASS,
    GREEN,
    WSI_CLASS,
    Level,
    cut,
    encode,
    reduced,
    section,
)
from workers import encoding
from workers.adapters.slides import SpoolSlides
from workers.analyses.slide_classification import ANALYSIS
from workers.analysis import Conclusion, Tools
from workers.encoding import Encoder
from workers.errors import BadModelOutput, EncoderMismatch, NothingDecodable
from workers.slide import bag
from workers.study import Study

WIDTH, HEIGHT = 2304, 1792


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return section(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def slide(picture: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Level(picture=picture).write(tmp_path_factory.mktemp("slide") / "a.dcm")


class World:
    """A spool, two models and what is kept of them."""

    def __init__(self, models: SlideModels | None = None) -> None:
        self.models = models or SlideModels()
        self.kept = FakeEmbeddings()
        self.checks = 0

    def run(self, *paths: Path) -> Conclusion:
        tools = Tools(
            served=self.models.identify("slide_classification", type(self.models.manifest)),
            models=self.models,
            encoder=Encoder(self.models, self.kept),
            source=FakeInstances(),
            priors=FakePriors(),
            scratch=InMemory(),
            checkpoint=self.check,
            slides=SpoolSlides(paths[0].parent),
        )
        return ANALYSIS.run(study(paths), tools)

    def one(self, *paths: Path) -> SlideAssessment:
        conclusion = self.run(*paths)
        (assessment,) = result_of(conclusion).slides
        assert conclusion.is_assessed == assessment.is_assessed
        return assessment

    def check(self) -> None:
        self.checks += 1


def study(paths: Sequence[Path]) -> Study:
    rows = [
        instance_row(n, sop_class_uid=WSI_CLASS, modality="SM", path=path.name)
        for n, path in enumerate(paths)
    ]
    return Study(generation_row(*rows), FakeInstances())


def result_of(conclusion: Conclusion) -> SlideResult:
    assert isinstance(conclusion.result, SlideResult)
    return conclusion.result


def test_it_applies_to_whole_slide_images_alone() -> None:
    rows = [instance_row(1), instance_row(2, sop_class_uid=WSI_CLASS)]
    match = ANALYSIS.match(Study(generation_row(*rows), FakeInstances()))
    assert match.instances == (rows[1],)
    assert ANALYSIS.match(Study(generation_row(rows[0]), FakeInstances())).instances == ()


def test_a_slide_is_classified(slide: Path) -> None:
    world = World()
    conclusion = world.run(slide)
    found = result_of(conclusion).slides[0]
    assert found.is_assessed
    assert found.reasons == found.warnings == ()
    assert found.grid is not None
    assert found.attention is not None
    assert found.overview is not None
    assert len(found.grid) == len(found.attention) == world.models.encoded
    assert sum(each.probability for each in found.probabilities) == pytest.approx(1)
    by_label = {each.label: each.probability for each in found.probabilities}
    assert found.positive_prob == pytest.approx(by_label["tumour"] + by_label["other"])
    assert found.is_positive == (found.positive_prob >= 0.4)
    best = [tile.number for tile in found.top]
    assert best == sorted(range(len(found.attention)), key=lambda n: -found.attention[n])[:8]
    assert conclusion.summary["label"] == found.probabilities[0].label
    assert conclusion.reason == ""
    assert world.checks > 3
    (source,) = conclusion.sources
    assert str(source.header.SOPInstanceUID) == found.sop_instance_uids[0]
    assert source.pixels is None


def test_top_tiles_are_the_slide_s_pixels(slide: Path) -> None:
    found = World().one(slide)
    assert found.grid is not None
    opened = SpoolSlides(slide.parent)
    pixels = opened.open(opened.find([slide.name]).slides[0])
    for tile in found.top:
        x, y = map(int, found.grid.coordinates[tile.number])
        assert np.array_equal(tile.pixels, pixels.read(0, x, y, 256, 256))


def test_windows_together_answer_as_the_whole_bag(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shape in (
        AbmilShape(features=16, width=12, attention=6, labels=3),
        AbmilShape(features=16, width=12, attention=6, labels=3, is_branched=True),
    ):
        manifest = slide_manifest(architecture=shape)
        whole = World(SlideModels(manifest))
        expected = whole.one(slide)
        assert len(whole.models.bags) == 1
        monkeypatch.setattr(bag, "WINDOW", 7)
        parts = World(SlideModels(manifest))
        found = parts.one(slide)
        monkeypatch.undo()
        assert max(parts.models.bags) == 7
        assert len(parts.models.bags) > 2
        assert [each.label for each in found.probabilities] == [
            each.label for each in expected.probabilities
        ]
        assert [each.probability for each in found.probabilities] == pytest.approx(
            [each.probability for each in expected.probabilities], abs=1e-6
        )
        assert found.attention == pytest.approx(expected.attention, abs=1e-6)


def test_an_attempt_after_a_crash_goes_on_where_the_last_one_was(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = World()
    expected = whole.one(slide)
    total = whole.models.encoded
    assert total == 20
    monkeypatch.setattr(encoding, "BATCH", 8)
    world = World()
    world.models.fails_after = 8
    with pytest.raises(Crash):
        world.run(slide)
    kept = len(world.kept.kept)
    assert kept == 8
    world.models.fails_after = None
    world.models.encoded = 0
    found = world.one(slide)
    assert world.models.encoded == total - kept
    assert found.positive_prob == expected.positive_prob
    world.models.encoded = 0
    world.one(slide)
    assert world.models.encoded == 0


def test_encodings_of_one_slide_agree(
    slide: Path, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The same JPEG frames in another wrapping, another place and another series."""
    changes = {"SeriesInstanceUID": generate_uid()}
    other = Level(picture=picture, table="none", fragments=2, changes=changes)
    one, two = World().one(slide), World().one(other.write(tmp_path / "b.dcm"))
    assert one.positive_prob == two.positive_prob


def test_a_pyramid_at_40x_is_read_at_20x(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    large = cv2.resize(picture, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_NEAREST)
    paths = [
        Level(picture=large, um_px=0.25, tile=(512, 512)).write(tmp_path / "0.dcm"),
        Level(picture=reduced(large, 16), um_px=4.0).write(tmp_path / "1.dcm"),
    ]
    found = World().one(*paths)
    assert found.is_assessed
    assert found.grid is not None
    assert found.grid.side == 512
    assert found.geometry is not None
    assert found.geometry.sizes == ((2 * WIDTH, 2 * HEIGHT), (WIDTH // 8, HEIGHT // 8))
    assert len(found.sop_instance_uids) == 2


class TestNotAssessed:
    def test_a_blank_slide(self, tmp_path: Path) -> None:
        glass = np.full((HEIGHT, WIDTH, 3), GLASS, np.uint8)
        found = World().one(Level(picture=glass).write(tmp_path / "a.dcm"))
        assert found.reasons == ("blank slide",)
        assert found.tissue is not None
        assert found.overview is not None
        assert found.grid is None

    def test_a_slide_with_nothing_but_ink(self, tmp_path: Path) -> None:
        marked = np.full((HEIGHT, WIDTH, 3), GLASS, np.uint8)
        cv2.line(marked, (200, 200), (2000, 1500), GREEN, 160)
        found = World().one(Level(picture=marked).write(tmp_path / "a.dcm"))
        assert found.reasons == ("ink only, no tissue",)

    def test_a_slide_of_one_tile(self, tmp_path: Path) -> None:
        found = World().one(Level(picture=section(400, 400)).write(tmp_path / "a.dcm"))
        assert found.reasons == ("too little tissue: 1 of at least 4 tiles",)
        assert found.grid is not None

    def test_a_slide_that_is_too_coarse(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        level = Level(picture=picture, um_px=4.0)
        found = World().one(level.write(tmp_path / "a.dcm"))
        assert found.reasons == ("the slide has 4 um/px, 0.5 um/px or finer is needed",)
        assert found.overview is not None

    def test_a_slide_without_spacing(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        found = World().one(Level(picture=picture, um_px=None).write(tmp_path / "a.dcm"))
        assert found.reasons == ("the slide does not state its pixel spacing",)
        assert found.overview is None

    def test_a_study_of_labels_alone(self, tmp_path: Path) -> None:
        changes = {"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]}
        path = Level(picture=section(300, 300), changes=changes).write(tmp_path / "a.dcm")
        conclusion = World().run(path)
        assert not conclusion.is_assessed
        assert "no instance says that it belongs to a pyramid" in conclusion.reason

    def test_nothing_that_can_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.dcm").write_text("no DICOM")
        with pytest.raises(NothingDecodable, match="cannot be read as DICOM"):
            World().run(tmp_path / "a.dcm")


class TestSiblings:
    def test_one_bad_slide_and_one_bad_file_cost_the_others_nothing(
        self, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        (tmp_path / "noise.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)))
        paths = [tmp_path / "noise.dcm"]
        cases: dict[str, dict[str, Any]] = {
            "grey": {"SamplesPerPixel": 1},
            "good": {},
            "frames": {"NumberOfFrames": 3},
        }
        for name, changes in cases.items():
            apart = {"ContainerIdentifier": name, **changes}
            paths.append(Level(picture=picture, changes=apart).write(tmp_path / f"{name}.dcm"))
        conclusion = World().run(*paths)
        slides = result_of(conclusion).slides
        assert [each.is_assessed for each in slides] == [False, True, False]
        assert conclusion.is_assessed
        assert conclusion.reason.startswith("2 of 3 not assessed: ")
        assert "not a colour slide" in conclusion.reason
        assert "1 of the study's instances cannot be read" in slides[0].warnings[-1]
        assert conclusion.summary["slides"] == 3
        assert len(conclusion.sources) == 3


class TestDamage:
    def write(self, picture: NDArray[np.uint8], path: Path, numbers: Sequence[int]) -> Path:
        frames = [encode(tile, "jpeg") for tile in cut(picture, (256, 256))]
        for number in numbers:
            frames[number] = frames[number][: len(frames[number]) // 2]
        return Level(picture=picture, frames=frames).write(path)

    @pytest.fixture
    def overview(self, picture: NDArray[np.uint8], tmp_path: Path) -> Path:
        return Level(picture=reduced(picture, 16), um_px=8.0).write(tmp_path / "overview.dcm")

    def test_a_damaged_tile_is_left_out_and_named(
        self,
        picture: NDArray[np.uint8],
        overview: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = self.write(picture, tmp_path / "a.dcm", [30])
        whole = World().one(self.write(picture, tmp_path / "whole.dcm", []), overview)
        assert whole.grid is not None
        monkeypatch.setattr("workers.slide.assessment.MAX_LOST_SHARE", 0.1)
        world = World()
        found = world.one(path, overview)
        assert found.is_assessed
        assert found.grid is not None
        assert found.attention is not None
        assert len(found.grid) == len(found.attention) == len(whole.grid) - 1
        assert found.warnings == (f"1 of {len(whole.grid)} tiles cannot be decoded",)
        again = world.one(path, overview)  # no stand-in for it was kept
        assert again.positive_prob == found.positive_prob
        assert len(again.grid or ()) == len(found.grid)

    def test_too_many_damaged_tiles(
        self, picture: NDArray[np.uint8], overview: Path, tmp_path: Path
    ) -> None:
        path = self.write(picture, tmp_path / "a.dcm", range(20, 40))
        found = World().one(path, overview)
        assert not found.is_assessed
        assert found.reasons[0].startswith("the slide is damaged: ")
        assert "tiles cannot be decoded" in found.reasons[0]
        assert found.overview is not None

    def test_a_damaged_overview_is_made_of_a_finer_level(
        self, picture: NDArray[np.uint8], slide: Path, tmp_path: Path
    ) -> None:
        small = reduced(picture, 16)
        frame = encode(cut(small, (256, 256))[0], "jpeg")
        level = Level(picture=small, um_px=8.0, frames=[frame[: len(frame) // 2]])
        fine = Level(picture=picture).write(tmp_path / "a.dcm")
        found = World().one(fine, level.write(tmp_path / "b.dcm"))
        assert found.is_assessed
        assert found.warnings == ("100.0% of the level of 144 x 112 px cannot be decoded",)
        plain = World().one(slide)
        assert found.positive_prob == plain.positive_prob

    def test_a_slide_of_broken_frames(self, picture: NDArray[np.uint8], tmp_path: Path) -> None:
        path = self.write(picture, tmp_path / "a.dcm", range(63))
        found = World().one(path)
        assert found.reasons[0].startswith("the slide is damaged: 100.0% of the level")


class TestContract:
    def test_an_encoder_that_the_model_does_not_know(self, slide: Path) -> None:
        models = SlideModels(slide_manifest(encoder_digest="12" * 32))
        with pytest.raises(EncoderMismatch):
            World(models).run(slide)

    @pytest.mark.parametrize(
        "change",
        [
            {"LOGITS": np.zeros(2, np.float32)},
            {"ATTENTION_RAW": np.zeros((3, 1), np.float32)},
            {"LOGITS": np.zeros((1, 3), np.float32)},
        ],
    )
    def test_a_model_that_breaks_its_promise(
        self, change: dict[str, NDArray[Any]], slide: Path
    ) -> None:
        models = SlideModels()
        models.change = change
        with pytest.raises(BadModelOutput, match="slide_classification sent"):
            World(models).run(slide)


def test_every_result_can_be_reported(
    slide: Path, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    """What is assessed and what is not, through the encoder of reports."""
    paths = [tmp_path / "good.dcm"]
    paths[0].write_bytes(slide.read_bytes())
    for name, changes in {"grey": {"SamplesPerPixel": 1}, "frames": {"NumberOfFrames": 3}}.items():
        apart = {"ContainerIdentifier": name, **changes}
        paths.append(Level(picture=picture, changes=apart).write(tmp_path / f"{name}.dcm"))
    conclusion = World().run(*paths)
    context = ReportContext(
        sources=conclusion.sources,
        generation=1,
        analysis="slide_classification",
        created_at=claim().created_at,
        software_version="9.9.9",
        device_serial="1",
    )
    objects = encode_report(conclusion.result, context)
    assert objects[0].role == "sr"
    assert len({each.dataset.SOPInstanceUID for each in objects}) == len(objects)
