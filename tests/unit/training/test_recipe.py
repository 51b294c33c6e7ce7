import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_builder import tiny_settings, write_cohort

from training.errors import CohortError, RunError
from training.losses import diagnosis_loss, lesion_loss, prior_shift, sampling_weights
from training.pretrained import load_compact
from training.recipes.diagnosis import (
    DiagnosisRun,
    build_network,
    load_run,
    parameter_groups,
    read_splits,
    update_average,
)
from training.runs import CHECKPOINT, HISTORY
from training.settings import TrainingSettings

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("data") / "cohort")


def run(data: Path, folder: Path, settings: TrainingSettings | None = None) -> DiagnosisRun:
    return DiagnosisRun(settings or tiny_settings(), data=data, folder=folder, device=CPU)


def without_seconds(folder: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in (folder / HISTORY).read_text().splitlines()]


def test_a_killed_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    whole.train()
    assert whole.epoch == 3

    def kill_in_second_epoch(text: str, done: int, total: int) -> None:
        if text.startswith("epoch 2/") and done == total:
            raise Killed

    with pytest.raises(Killed):
        run(data, tmp_path / "killed").train(kill_in_second_epoch)
    resumed = run(data, tmp_path / "killed")
    assert resumed.epoch == 1
    resumed.train()
    for mine, theirs in ((resumed.network, whole.network), (resumed.average, whole.average)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "whole")
    assert len(without_seconds(tmp_path / "whole")) == 4


def test_a_finished_run_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    settings = tiny_settings(stages=[{"epochs": 1, "size": 32}])
    run(data, tmp_path, settings).train()
    before = (tmp_path / CHECKPOINT).read_bytes()
    run(data, tmp_path, settings).train()
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    settings = tiny_settings(stages=[{"epochs": 1, "size": 32}])
    run(data, tmp_path, settings).train()
    changed = tiny_settings(stages=[{"epochs": 1, "size": 32}], augment__gamma=1.3)
    with pytest.raises(RunError, match="another configuration"):
        run(data, tmp_path, changed)
    loaded, network, epoch = load_run(tmp_path)
    assert loaded == settings
    assert epoch == 1
    assert not network.training


def test_training_learns_labels_and_outlines(tmp_path: Path) -> None:
    data = write_cohort(tmp_path / "cohort", groups=60)
    plain = {
        name: 0
        for name in ("shift", "hair_prob", "vignette_prob", "blur_prob", "erase_prob", "mixup_prob")
    }
    settings = tiny_settings(
        stages=[{"epochs": 12, "size": 32}],
        optimiser__learning_rate=1e-2,
        optimiser__batch_size=4,
        network__drop_path=0,
        network__dropout=0,
        augment__scale=1,
        **{f"augment__{name}": value for name, value in plain.items()},
    )
    trained = run(data, tmp_path / "run", settings)
    trained.train()
    first, last = trained.history[0], trained.history[-1]
    assert last["diagnosis_loss"] < 0.85 * first["diagnosis_loss"]
    assert last["lesion_loss"] < 0.5 * first["lesion_loss"]
    assert last["validation_auroc"] > 0.8


def test_the_test_split_is_never_read(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "labels.csv").write_bytes((data / "labels.csv").read_bytes())
    settings = tiny_settings(stages=[{"epochs": 1, "size": 32}])
    splits = read_splits(settings, data)
    for row in (*splits.train.rows, *splits.validation.rows):
        for kind in ("images", "masks"):
            name = f"{row.image_id}.png"
            (folder / kind / name).write_bytes((data / kind / name).read_bytes())
    run(folder, tmp_path / "run", settings).train()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_broken_checkpoint_is_an_error(data: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(RunError, match="checkpoint"):
        run(data, tmp_path)


def test_a_label_without_training_images_is_an_error(data: Path) -> None:
    settings = tiny_settings(data__label_map={"nv": "NV", "mel": "MEL", "df": "DF"})
    with pytest.raises(CohortError, match="DF"):
        read_splits(settings, data)


def test_stages_change_the_size(data: Path, tmp_path: Path) -> None:
    trained = run(data, tmp_path)
    assert [trained.size_of_epoch(epoch) for epoch in range(4)] == [32, 32, 64, 64]


def test_weight_decay_spares_vectors_and_tokens_and_the_backbone_learns_slower() -> None:
    settings = tiny_settings(optimiser__backbone_rate=0.25)
    network = build_network(settings)
    groups = parameter_groups(network, settings)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    seen: dict[str, tuple[float, float]] = {}
    for group in groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["weight_decay"], group["rate"])
    assert set(seen) == {n for n, p in network.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(seen)
    assert seen["backbone.encoder.cls_token"] == (0, 0.25)
    assert seen["backbone.encoder.blocks.0.mlp.fc1.weight"] == (0.05, 0.25)
    assert seen["classifier.weight"] == (0.05, 1)
    assert seen["classifier.bias"] == (0, 1)
    assert "backbone.encoder.pos_embed" not in seen


def test_frozen_stages_keep_their_weights_and_statistics(data: Path, tmp_path: Path) -> None:
    settings = tiny_settings(
        network__backbone={"kind": "efficientnet_lite", "variant": "lite0"},
        network__start="imagenet",
        network__frozen_stages=2,
        stages=[{"epochs": 1, "size": 32}],
    )
    start = load_compact().state_dict()
    trained = run(data, tmp_path, settings)
    trained.train()
    found = trained.network.backbone.encoder.state_dict()
    is_frozen = {name: name.startswith(("stem.", "stages.0.", "stages.1.")) for name in found}
    assert {name for name in found if torch.equal(found[name], start[name])} == {
        name for name, frozen in is_frozen.items() if frozen
    }


def test_the_average_moves_by_its_decay_and_takes_statistics_along() -> None:
    network = build_network(tiny_settings())
    average = copy.deepcopy(network)
    with torch.no_grad():
        network.classifier.bias.add_(1)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(1)
    update_average(average, network, 0.9)
    assert torch.allclose(average.classifier.bias, network.classifier.bias - 0.9)
    mine, theirs = dict(average.named_buffers()), dict(network.named_buffers())
    name = next(name for name in mine if name.endswith("running_mean"))
    assert torch.allclose(mine[name], theirs[name] - 0.9)


def test_rare_labels_are_drawn_more_often() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    natural = sampling_weights(labels, 0.0)
    balanced = sampling_weights(labels, 1.0)
    assert natural[labels == 1].sum() == pytest.approx(0.1)
    assert balanced[labels == 1].sum() == pytest.approx(0.5)
    between = sampling_weights(labels, 0.5)[labels == 1].sum()
    assert between == pytest.approx(math.sqrt(10) / (math.sqrt(10) + math.sqrt(90)))


def test_the_loss_takes_the_drawing_back_out_of_the_logits() -> None:
    """Logits equal to the natural log frequencies are optimal under balanced drawing."""
    labels = np.array([0] * 90 + [1] * 10)
    shift = prior_shift(labels, sampling_weights(labels, 1.0), 2)
    natural = torch.tensor([[0.9, 0.1]]).log()
    targets = torch.tensor([[0.5, 0.5]])  # what balanced drawing shows on average
    best = diagnosis_loss(natural, targets, shift=shift, smoothing=0)
    assert best.item() == pytest.approx(math.log(2), abs=1e-5)
    for change in (0.3, -0.3):
        moved = natural + torch.tensor([[change, 0.0]])
        assert diagnosis_loss(moved, targets, shift=shift, smoothing=0) > best


def test_label_smoothing_by_hand() -> None:
    logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    log_prob = torch.log_softmax(logits, 1)[0]
    expected = -(0.95 * log_prob[0] + 0.05 * log_prob[1])
    found = diagnosis_loss(logits, targets, shift=torch.zeros(2), smoothing=0.1)
    assert found.item() == pytest.approx(expected.item())


def test_images_without_a_mask_weigh_nothing_in_the_lesion_loss() -> None:
    logit = torch.randn(2, 1, 8, 8, requires_grad=True)
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, 2:5] = 1
    loss = lesion_loss(logit, masks, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert logit.grad is not None
    assert logit.grad[0].abs().sum() > 0
    assert logit.grad[1].abs().sum() == 0
    assert lesion_loss(logit, masks, torch.zeros(2)).item() == 0
    perfect = (masks * 2 - 1) * 50
    assert lesion_loss(perfect, masks, torch.ones(2)).item() < 0.02
