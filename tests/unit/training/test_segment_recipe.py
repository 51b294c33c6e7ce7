from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_builder import tiny_settings, write_cohort

from models.shapes import EncoderShape, VitPyramidShape
from training.errors import CohortError, RunError, SettingsError
from training.recipes.segment import SegmentRun, SegmentSettings, clean
from training.runs import HISTORY
from training.settings import read_toml

CONFIGS = Path(__file__).resolve().parents[3] / "training" / "configs"


class Killed(BaseException):
    """Stands for kill -9."""


def settings(**changes: object) -> SegmentSettings:
    return replace(
        SegmentSettings(
            seed=1,
            image_column="image_id",
            group_column="group_id",
            train_fraction=0.6,
            validation_fraction=0.2,
            backbone=VitPyramidShape(
                encoder=EncoderShape(dim=16, depth=1, heads=2), prior_width=4, taps=()
            ),
            imagenet=False,
            frozen_stages=0,
            decoder_width=8,
            drop_path=0.0,
            epochs=3,
            size=32,
            batch_size=8,
            learning_rate=5e-3,
            weight_decay=0.01,
            warmup_epochs=0.5,
            clip_norm=1.0,
            augment=tiny_settings().augment,
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("data") / "cohort")


def quiet(_text: str, _done: int, _total: int) -> None:
    """No progress."""


def test_a_killed_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = SegmentRun(settings(), data, tmp_path / "whole")
    whole.train(quiet)

    def kill(text: str, done: int, total: int) -> None:
        if text.startswith("epoch 2/") and done == total:
            raise Killed

    with pytest.raises(Killed):
        SegmentRun(settings(), data, tmp_path / "killed").train(kill)
    resumed = SegmentRun(settings(), data, tmp_path / "killed")
    assert resumed.epoch == 1
    resumed.train(quiet)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
        assert torch.equal(whole.best[name], resumed.best[name]), name
    rows = [
        [line.rpartition(",")[0] for line in (tmp_path / run / HISTORY).read_text().splitlines()]
        for run in ("whole", "killed")
    ]
    assert rows[0] == rows[1]


def test_it_learns_to_outline_and_says_so(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", groups=60)
    plain = {name: 0 for name in ("shift", "hair_prob", "vignette_prob", "blur_prob")}
    augment = replace(settings().augment, scale=1, erase_prob=0, mixup_prob=0, **plain)
    run = SegmentRun(settings(epochs=12, batch_size=4, augment=augment), data, tmp_path / "run")
    run.train(quiet)
    figures = run.conclude()
    assert figures["Jaccard"].value > 0.6
    assert figures["Dice"].value > figures["Jaccard"].value
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{figures['Jaccard'].value:.3f}"[:5] in page
    assert "Worst, middle and best" in page


def test_a_cohort_without_masks_is_refused(data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "labels.csv").write_bytes((data / "labels.csv").read_bytes())
    (bare / "images").symlink_to(data / "images")
    with pytest.raises(CohortError, match="mask"):
        SegmentRun(settings(), bare, tmp_path / "run").train(quiet)


def test_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    SegmentRun(settings(), data, tmp_path)
    with pytest.raises(RunError, match="another configuration"):
        SegmentRun(settings(epochs=4), data, tmp_path)


def test_only_the_largest_part_stays_and_its_holes_are_filled() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[5:8, 5:8] = False
    mask[15:18, 15:18] = True
    whole = np.zeros_like(mask)
    whole[2:12, 2:12] = True
    assert np.array_equal(clean(mask), whole)
    assert not clean(np.zeros((20, 20), bool)).any()


@pytest.mark.parametrize("name", ["segment.toml", "check/segment.toml"])
def test_configurations_are_readable(name: str) -> None:
    assert read_toml(CONFIGS / name, SegmentSettings).size % 32 == 0


def test_impossible_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    text = (CONFIGS / "segment.toml").read_text()
    path.write_text(text.replace("size = 224", "size = 100"))
    with pytest.raises(SettingsError, match="size"):
        read_toml(path, SegmentSettings)
