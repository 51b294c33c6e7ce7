import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretrain_builder import CLIP, EMA, options, toy, write_images

from models.architectures.panderm import load_encoder
from training.errors import CohortError, PretrainedError, RunError, SettingsError
from training.pretraining.monitor import embed, measure_spread, nearest
from training.pretraining.page import hide_masked
from training.pretraining.processes import World, joined
from training.pretraining.settings import PretrainSettings
from training.recipes import pretrain
from training.runs import CHECKPOINT
from training.settings import read_toml

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "training" / "configs"
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def silent(_text: str, _done: int, _total: int) -> None:
    pass


def start(data: Path, out: Path, settings: PretrainSettings, **changes: Any) -> Any:
    return pretrain.PretrainRun(settings, options(data, out, **changes), ALONE)


def state_of(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    return state


def test_a_killed_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    settings = toy(precision="bf16")
    whole = start(data, tmp_path / "whole", settings)
    whole.train(silent)

    def kill_in_second_epoch(text: str, done: int, total: int) -> None:
        if text.startswith("epoch 2/") and done == total:
            raise Killed

    with pytest.raises(Killed):
        start(data, tmp_path / "killed", settings).train(kill_in_second_epoch)
    resumed = start(data, tmp_path / "killed", settings, workers=1)
    assert resumed.epoch == 1
    resumed.train(silent)
    mine, theirs = state_of(tmp_path / "killed"), state_of(tmp_path / "whole")
    for part in ("student", "teacher"):
        assert mine[part].keys() == theirs[part].keys()
        for name, value in mine[part].items():
            assert torch.equal(value, theirs[part][name]), name
    for row, other in zip(resumed.folder.history, whole.folder.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}
    assert [row["epoch"] for row in whole.folder.history] == [1, 2, 3]


def test_the_recipe_leaves_weights_card_lists_and_page(data: Path, tmp_path: Path) -> None:
    training = start(data, tmp_path, toy(optimiser__epochs=1))
    training.train(silent)
    training.finish(silent)
    loaded = load_encoder(tmp_path / "encoder.pth", heads=2)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        own = training.student.encoder.eval()(images).cls
        torch.testing.assert_close(loaded(images), own)
    card = json.loads((tmp_path / "pretraining.json").read_text())
    assert card["sha256"] == loaded.digest
    assert (card["images"], card["bad_images"]) == (10, 0)
    assert card["settings"]["encoder"]["dim"] == 16
    lines = (tmp_path / "images.csv").read_text().splitlines()
    assert lines[0] == "path,sha256"
    assert len(lines) == 11
    assert (tmp_path / "bad_images.csv").read_text().splitlines() == ["path"]
    page = (tmp_path / "report.html").read_text()
    for title in ("Learning curves", "What the encoder sees", "Nearest neighbours"):
        assert title in page
    assert "image_00" not in page  # names may be a patient's


def test_training_learns_and_the_class_token_tells_images_apart(data: Path, tmp_path: Path) -> None:
    training = start(data, tmp_path, toy(optimiser__epochs=25, drop_path=0.0))
    training.train(silent)
    history = training.folder.history
    assert history[-1]["loss"] < history[0]["loss"] - 0.1
    assert history[-1]["masked_loss"] < history[0]["masked_loss"] - 0.1
    assert history[-1]["feature_std"] > 0.1


def test_clip_teaches_and_is_not_stored(data: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
        "projection_dim": 6,
    }
    torch.manual_seed(0)
    for name in ("clip", "other"):
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        model.save_pretrained(tmp_path / name)
    settings = toy(teacher=CLIP, optimiser__epochs=1)
    out = tmp_path / "out"
    training = start(data, out, settings, teacher=tmp_path / "clip")
    training.train(silent)
    state = state_of(out)
    assert state["teacher"] == {}
    assert state["student"]["decoder.head.weight"].shape == (6, 16)
    assert state["origin"]["teacher"] == training.teacher.digest
    with pytest.raises(RunError, match="begun with other teacher"):
        start(data, out, settings, teacher=tmp_path / "other")
    with pytest.raises(SettingsError, match="--teacher must name its folder"):
        start(data, tmp_path / "none", settings)
    with pytest.raises(SettingsError, match="not clip"):
        start(data, tmp_path / "ema", toy(), teacher=tmp_path / "clip")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


WORKER = """
import sys, torch
sys.path[:0] = {places}
torch.set_num_threads(1)
from pathlib import Path
from pretrain_builder import options, toy
from training.pretraining.processes import joined
from training.recipes.pretrain import PretrainRun
with joined() as world:
    training = PretrainRun(toy(drop_path=0.0), options(Path({data!r}), Path({out!r})), world)
    training.train(lambda *_: None)
"""


def test_two_processes_train_as_one_and_one_goes_on_for_two(data: Path, tmp_path: Path) -> None:
    settings = toy(drop_path=0.0)
    alone = start(data, tmp_path / "alone", settings)
    alone.train(silent)
    code = WORKER.format(
        places=[str(ROOT), str(Path(__file__).parent)], data=str(data), out=str(tmp_path / "two")
    )
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | shared | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    together = start(data, tmp_path / "two", settings)  # another number of processes may go on
    assert together.epoch == 3
    for row, other in zip(together.folder.history, alone.folder.history, strict=True):
        for name in ("loss", "class_loss", "visible_loss", "masked_loss", "learning_rate"):
            assert row[name] == pytest.approx(other[name], rel=2e-4), name
    for name, value in together.student.state_dict().items():
        torch.testing.assert_close(value, alone.student.state_dict()[name], atol=2e-4, rtol=1e-3)


def test_a_batch_that_processes_cannot_share_is_refused(data: Path, tmp_path: Path) -> None:
    world = World(rank=0, size=3, device=torch.device("cpu"))
    with pytest.raises(SettingsError, match="4 is no multiple of 3 processes"):
        pretrain.PretrainRun(toy(), options(data, tmp_path), world)


@pytest.mark.parametrize("change", [{"RANK": None}, {"LOCAL_RANK": "x"}, {"WORLD_SIZE": "two"}])
def test_half_an_environment_of_torchrun_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None]
) -> None:
    for name, value in (TORCHRUN | change).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="environment of torchrun"), joined():
        pass


def test_too_few_images_and_other_images_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="10 images are fewer than a batch of 16"):
        start(data, tmp_path / "a", toy(optimiser__batch_size=16))
    start(data, tmp_path / "b", toy(optimiser__epochs=1)).train(silent)
    with pytest.raises(RunError, match="begun with other images"):
        start(data / "clinic_0", tmp_path / "b", toy(optimiser__epochs=1))
    with pytest.raises(RunError, match="begun under another configuration"):
        start(data, tmp_path / "b", toy(optimiser__epochs=2))
    with pytest.raises(SettingsError, match="--workers -1"):
        start(data, tmp_path / "c", toy(), workers=-1)


def test_bad_images_stop_the_run_or_are_listed(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "clinic_0" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    settings = toy(optimiser__epochs=2, optimiser__batch_size=11)
    with pytest.raises(CohortError, match=r"clinic_0/torn\.png: cannot be decoded"):
        start(data, tmp_path / "strict", settings).train(silent)
    training = start(data, tmp_path / "lenient", settings, skip_bad=True)
    training.train(silent)
    training.finish(silent)
    listed = (tmp_path / "lenient" / "bad_images.csv").read_text().splitlines()
    assert listed == ["path", "clinic_0/torn.png"]
    assert "torn" not in (tmp_path / "lenient" / "images.csv").read_text()
    assert "cannot be decoded: 1," in (tmp_path / "lenient" / "report.html").read_text()
    assert state_of(tmp_path / "lenient")["bad"] == ["clinic_0/torn.png"]


def test_a_bad_image_in_a_worker_names_itself(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(CohortError, match=r"^clinic_\d/image_\d\d\.png: cannot be decoded"):
        start(data, tmp_path / "out", toy(), workers=1).train(silent)


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    training = start(data, tmp_path, toy())
    with torch.no_grad():
        training.student.mask_token.fill_(float("nan"))
    with pytest.raises(RunError, match="loss is not finite in epoch 1"):
        training.train(silent)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_run_starts_from_another_runs_weights(data: Path, tmp_path: Path) -> None:
    first = start(data, tmp_path / "first", toy(optimiser__epochs=1, encoder__heads=1))
    first.train(silent)
    first.finish(silent)
    weights = tmp_path / "first" / "encoder.pth"
    settings = toy(seed=6, optimiser__epochs=1, encoder__heads=1)
    second = start(data, tmp_path / "second", settings, start=weights)
    for name, value in second.student.encoder.state_dict().items():
        assert torch.equal(value, first.student.encoder.state_dict()[name]), name
        assert torch.equal(value, second.teacher.encoder.state_dict()[name]), name
    with pytest.raises(PretrainedError, match="not a pretrained encoder of the configured shape"):
        start(data, tmp_path / "third", toy(encoder__mlp_ratio=3), start=weights)


def test_weight_decay_spares_vectors_and_tokens(data: Path, tmp_path: Path) -> None:
    training = start(data, tmp_path, toy())
    decayed, free = training.optimiser.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    names = {id(p): n for n, p in training.student.named_parameters() if p.requires_grad}
    assert {names[id(p)] for p in decayed["params"]} == {
        n
        for n, p in training.student.named_parameters()
        if p.ndim > 1 and "token" not in n and p.requires_grad
    }
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_spread_tells_collapse_from_health() -> None:
    rng = np.random.default_rng(0)
    healthy = rng.normal(size=(500, 16)).astype(np.float32)
    found = measure_spread(healthy)
    assert found.std == pytest.approx(1, abs=0.05)
    assert found.rank == pytest.approx(16, abs=0.5)
    collapsed = np.repeat(healthy[:1], 500, axis=0)
    assert measure_spread(collapsed).std == pytest.approx(0, abs=1e-6)
    assert measure_spread(collapsed).rank == pytest.approx(1)
    line = np.outer(rng.normal(size=500), healthy[0]).astype(np.float32)
    assert measure_spread(line).rank == pytest.approx(1, abs=0.01)
    assert np.isnan(measure_spread(healthy[:1]).std)


def test_collapse_is_said_on_the_page(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pretrain, "embed", lambda _encoder, views, _device: np.ones((len(views), 16), np.float32)
    )
    training = start(data, tmp_path, toy(optimiser__epochs=1))
    training.train(silent)
    training.finish(silent)
    assert "The features have collapsed" in (tmp_path / "report.html").read_text()


def test_nearest_are_those_of_the_largest_cosine() -> None:
    features = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    centred = features - features.mean(0)
    found = nearest(features, 3, 4)
    for query in range(3):
        cosines = {
            other: centred[query] @ centred[other] / np.linalg.norm(centred[other])
            for other in range(12)
            if other != query
        }
        assert found[query].tolist() == sorted(cosines, key=cosines.__getitem__, reverse=True)[:4]
    assert nearest(features[:2], 6, 5).tolist() == [[1], [0]]
    assert nearest(features[:0], 6, 5).shape == (0, 0)


def test_embedding_keeps_the_mode_of_the_encoder(data: Path, tmp_path: Path) -> None:
    encoder = start(data, tmp_path, toy()).student.encoder.train()
    views = np.zeros((3, 32, 32, 3), np.uint8)
    found = embed(encoder, views, torch.device("cpu"), batch_size=2)
    assert found.shape == (3, 16)
    assert encoder.training
    assert embed(encoder, views[:0], torch.device("cpu")).shape == (0, 16)


def test_masked_patches_are_painted_grey() -> None:
    image = np.full((4, 4, 3), 7, np.uint8)
    hidden = hide_masked(image, np.array([[True, False], [False, False]]), 2)
    assert (hidden[:2, :2] == 128).all()
    assert hidden.sum() == 4 * 3 * 128 + 12 * 3 * 7


def test_shipped_configurations_are_those_of_the_papers() -> None:
    panderm = read_toml(CONFIGS / "pretrain.toml", PretrainSettings)
    assert panderm.encoder.grid**2 == 2 * panderm.masking.count == 196
    assert panderm.optimiser.batch_size == 4 * 480
    assert panderm.teacher == CLIP
    base = read_toml(CONFIGS / "pretrain_cae_v2_base.toml", PretrainSettings)
    assert (base.encoder.dim, base.masking.count, base.optimiser.batch_size) == (768, 98, 8 * 256)
    assert read_toml(CONFIGS / "pretrain_small.toml", PretrainSettings).teacher.kind == "ema"


def test_the_toy_runs_from_the_command_line(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 9, side=(80, 90))
    command = ["--threads", "1", "pretrain", "--config", str(CONFIGS / "check" / "pretrain.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "training", *command, "--data", str(data), "--out", f"{tmp_path}/o"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "o" / "report.html").stat().st_size > 10_000
    loaded = load_encoder(tmp_path / "o" / "encoder.pth")
    assert loaded.shape == read_toml(CONFIGS / "check" / "pretrain.toml", PretrainSettings).encoder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"masking__count": 16}, r"masking\.count"),
        ({"masking__count": 0}, r"masking\.count"),
        ({"masking__min_block": 0}, r"masking\.min_block"),
        ({"seed": -1}, "seed"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"optimiser__warmup_epochs": 9.0}, r"optimiser\.warmup_epochs"),
        ({"optimiser__betas": (0.9,)}, r"optimiser\.betas"),
        ({"optimiser__learning_rate": float("nan")}, r"optimiser\.learning_rate"),
        ({"augment__min_crop": 0.0}, r"augment\.min_crop"),
        ({"regressor__heads": 17}, r"regressor\.heads"),
        ({"teacher__blocks": 3}, r"teacher\.blocks"),
        ({"teacher__final_momentum": 0.5}, r"teacher\.final_momentum"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], named: str) -> None:
    assert toy().teacher == EMA
    with pytest.raises(ValueError, match=named):
        toy(**change)


def test_a_single_pixel_is_an_image_too(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 4)
    Image.new("RGB", (1, 1), (9, 9, 9)).save(data / "dot.png")
    Image.new("RGB", (300, 1)).save(data / "line.png")
    training = start(data, tmp_path / "out", toy(optimiser__epochs=1, optimiser__batch_size=6))
    training.train(silent)
    assert np.isfinite(training.folder.history[0]["loss"])
