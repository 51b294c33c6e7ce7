"""Fine-tuning and probing, whole runs on a drawn cohort with tiny networks."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.architectures.backbones import load_backbone
from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import PandermEncoder, fine_tuning_model, load_encoder
from models.shapes import EfficientNetLiteShape, EncoderShape
from models.weights import encode_weights
from tests.unit.training.cohort_builder import write_cohort
from training.errors import CohortError, LeakageError, RunError, SettingsError
from training.features.extraction import Features
from training.features.linear import LinearHead
from training.finetuning.networks import (
    ConvClassifier,
    add_adapters,
    build_classifier,
    decay_groups,
    depth_of,
    load_classifier,
    merge_adapters,
)
from training.recipes import features, finetune, probe

DATA = """
[data]
image_column = "image_id"
label_column = "dx"
group_column = "group_id"
split_column = "{split}"
train_fraction = 0.6
validation_fraction = 0.2
split_seed = 1

[data.label_map]
nv = "NV"
mel = "MEL"
bcc = "BCC"
"""
FINETUNE = """
recipe = "finetune"
seed = 1
mode = "{mode}"
framing = "whole"
epochs = {epochs}
batch_size = 4
select = "auto"
test_views = 1
replicates = 20
[optimiser]
learning_rate = 2e-3
min_learning_rate = 1e-6
warmup_epochs = 0.5
weight_decay = 0.05
layer_decay = 0.65
clip_norm = 1.0
[regularisation]
drop_path = 0.2
mixup = 0.8
cutmix = 1.0
switch = 0.5
smoothing = 0.1
[lora]
rank = 2
alpha = 4
"""
PROBE = """
recipe = "probe"
preset = "panderm-code"
framing = "whole"
batch_size = 16
percents = [30, 100]
shuffle_seed = 42
seed = 0
replicates = 20
"""
Plain = dict[str, Any]


def ignore(_text: str, _done: int, _total: int) -> None:
    """Progress of nobody's interest."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 18 images, a tiny transformer's file and the compact network's."""
    folder = tmp_path_factory.mktemp("finetune")
    write_cohort(folder / "data", groups=12)
    torch.manual_seed(0)
    vit = PandermEncoder(EncoderShape(dim=64, depth=2, heads=1))
    torch.save(vit.published_state(), folder / "vit.pth")
    compact = EfficientNetLite(EfficientNetLiteShape())
    content = encode_weights(compact.state_dict(), half=False)
    (folder / "compact.safetensors").write_bytes(content)
    return folder


def options(place: Path, out: Path, config: str, **changes: Any) -> argparse.Namespace:
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".toml")
    path.write_text(config + DATA.format(split=changes.pop("split", "")))
    values: Plain = {
        "config": path,
        "out": out,
        "data": place / "data",
        "backbone": f"panderm:{place / 'vit.pth'}",
        "workers": 1,
        "cache": None,
        "skip_bad": False,
        **changes,
    }
    return argparse.Namespace(**values)


def final(out: Path) -> dict[str, torch.Tensor]:
    return load_classifier(out).model.state_dict()


# --- parameter groups


def test_layer_decay_of_a_transformer() -> None:
    with torch.device("meta"):
        model = PandermEncoder(
            EncoderShape(dim=64, depth=3, heads=1), is_fine_tuned=True, num_labels=2
        )
    scales = {
        id(p): (group["scale"], group["weight_decay"])
        for group in decay_groups(model, layer_decay=0.65, weight_decay=0.05)
        for p in group["params"]
    }
    found = {name: scales[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(list(model.parameters())) - 1
    assert "encoder.pos_embed" not in found
    assert found["encoder.cls_token"] == (pytest.approx(0.65**4), 0.0)
    assert found["encoder.patch_embed.proj.weight"] == (pytest.approx(0.65**4), 0.05)
    assert found["encoder.blocks.0.attn.q_bias"] == (pytest.approx(0.65**3), 0.0)
    assert found["encoder.blocks.2.mlp.fc1.weight"] == (pytest.approx(0.65), 0.05)
    assert found["encoder.blocks.2.gamma_1"] == (pytest.approx(0.65), 0.0)
    assert found["fc_norm.weight"] == (1.0, 0.0)
    assert found["head.weight"] == (1.0, 0.05)


def test_layer_decay_of_the_compact_network() -> None:
    with torch.device("meta"):
        model = ConvClassifier(EfficientNetLiteShape(), 2)
    assert depth_of(model) == 8
    groups = decay_groups(model, layer_decay=0.5, weight_decay=0.1)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    found = {name: scales[id(p)] for name, p in model.named_parameters()}
    assert {v for k, v in found.items() if k.startswith("backbone.stem.")} == {0.5**9}
    assert {v for k, v in found.items() if k.startswith("backbone.head.")} == {0.5}
    assert found["head.weight"] == 1
    stages = [v for k, v in found.items() if k.startswith("backbone.stages.3.")]
    assert set(stages) == {0.5**5}


# --- adapters


def test_adapters_count_change_and_merge(place: Path) -> None:
    model = fine_tuning_model(load_encoder(place / "vit.pth"), 3).eval()
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("head."))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        before = model(images)
    keys = set(model.published_state())
    adapted = add_adapters(model, rank=2, alpha=4)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    # A (r x 64) and B (192 x r) on qkv, A (r x 64) and B (64 x r) on proj, in two blocks
    assert sum(v for n, v in trained.items() if "lora" in n) == 2 * 2 * (64 + 192 + 64 + 64)
    assert {n for n in trained if "lora" not in n} == {"head.weight", "head.bias"}
    with torch.no_grad():
        assert torch.allclose(model(images), before, atol=1e-5)  # B starts at zero
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
        changed = model(images)
        assert (changed - before).abs().max() > 1e-3  # the adapter is not bypassed
        merged = merge_adapters(adapted)
        assert set(merged.published_state()) == keys
        assert torch.allclose(merged(images), changed, atol=1e-5)


def test_modes_freeze_what_they_say(place: Path) -> None:
    encoder = load_encoder(place / "vit.pth")
    head = build_classifier(encoder, 3, mode="head", drop_path=0.0)
    assert {n for n, p in head.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    compact = EfficientNetLite(EfficientNetLiteShape())
    with pytest.raises(SettingsError, match="transformer"):
        build_classifier(compact, 3, mode="lora", drop_path=0.0)
    with pytest.raises(SettingsError, match="probe"):
        build_classifier(nn.Identity(), 3, mode="full", drop_path=0.0)


# --- whole runs


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_broken_run_ends_as_an_unbroken_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    config = FINETUNE.format(mode=mode, epochs=2)
    finetune.run(options(place, tmp_path / "whole", config), ignore)

    def stop(text: str, done: int, _total: int) -> None:
        if text.startswith("epoch 2/2") and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(options(place, tmp_path / "broken", config), stop)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    finetune.run(options(place, tmp_path / "broken", config), ignore)
    whole, broken = final(tmp_path / "whole"), final(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    history = (tmp_path / "whole" / "history.csv").read_text()
    assert history == (tmp_path / "broken" / "history.csv").read_text()
    start = torch.load(place / "vit.pth", weights_only=True)
    finished = load_classifier(tmp_path / "whole")
    mine = finished.model.published_state()
    changed = {k for k in start if k in mine and not torch.equal(mine[k], start[k])}
    assert "pos_embed" not in changed
    if mode == "lora":
        kinds = {k.split(".", 2)[2] for k in changed}
        assert kinds <= {"attn.qkv.weight", "attn.proj.weight"}
    assert finished.labels == ("NV", "MEL", "BCC")
    with torch.no_grad():
        assert finished.model.logits(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "CC BY-NC-ND" in page
    assert "Learning curves" in page
    figures = json.loads((tmp_path / "whole" / "figures.json").read_text())
    assert set(figures) == {"framed image", "mean of 1 views"}


def test_the_head_of_the_compact_network_learns_colours(place: Path, tmp_path: Path) -> None:
    config = FINETUNE.format(mode="head", epochs=1)
    backbone = f"compact:{place / 'compact.safetensors'}"
    finetune.run(options(place, tmp_path / "run", config, backbone=backbone), ignore)
    state = final(tmp_path / "run")
    start = load_backbone(backbone)[0]
    for key, value in start.state_dict().items():
        assert torch.equal(state[f"backbone.{key}"], value)  # statistics too
    assert state["head.weight"].abs().max() > 0
    again, _ = load_backbone(f"compact:{tmp_path / 'run' / 'encoder.safetensors'}")
    assert again.dim == 1280


def test_other_weights_or_settings_do_not_resume(place: Path, tmp_path: Path) -> None:
    config = FINETUNE.format(mode="head", epochs=1)
    finetune.run(options(place, tmp_path / "run", config), ignore)
    other = PandermEncoder(EncoderShape(dim=64, depth=2, heads=1))
    torch.save(other.published_state(), tmp_path / "other.pth")
    backbone = f"panderm:{tmp_path / 'other.pth'}"
    with pytest.raises(RunError, match="another encoder"):
        finetune.run(options(place, tmp_path / "run", config, backbone=backbone), ignore)
    changed = FINETUNE.format(mode="head", epochs=2)
    with pytest.raises(RunError, match="another configuration"):
        finetune.run(options(place, tmp_path / "run", changed), ignore)


def test_a_probe_is_kept_with_its_choice_and_reported(place: Path, tmp_path: Path) -> None:
    backbone = f"compact:{place / 'compact.safetensors'}"
    given = options(place, tmp_path / "run", PROBE, backbone=backbone, cache=tmp_path / "cache")
    probe.run(given, ignore)
    head = LinearHead.read(tmp_path / "run")
    assert (head.preset, head.labels) == ("panderm-code", ("NV", "MEL", "BCC"))
    assert head.weight.shape == (3, 1280)
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert set(figures) == {"30", "100"}
    assert "Label efficiency" in (tmp_path / "run" / "report.html").read_text()
    probe.run(given, ignore)  # again: from the store, to the same head
    assert np.array_equal(LinearHead.read(tmp_path / "run").weight, head.weight)


def test_features_of_a_folder(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((place / "data" / "images").iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "torn.png").write_bytes(b"\x89PNG rubbish")
    config = tmp_path / "f.toml"
    config.write_text('recipe = "features"\nframing = "reference"\nbatch_size = 2\n')
    given = options(place, tmp_path / "run", "", table=None, image_column="image_id")
    given.config, given.data = config, folder
    with pytest.raises(CohortError, match="torn"):
        features.run(given, ignore)
    given.skip_bad = True
    features.run(given, ignore)
    found = Features.read(tmp_path / "run" / "features.npz")
    assert len(found.ids) == 3
    assert found.values.shape == (3, 64)
    assert "torn" in (tmp_path / "run" / "skipped.csv").read_text()
    assert "torn" in (tmp_path / "run" / "report.html").read_text()


# --- bad cohorts


def write_table(place: Path, tmp_path: Path, split_of) -> Path:  # type: ignore[no-untyped-def]
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(place / "data" / "images")
    lines = (place / "data" / "labels.csv").read_text().splitlines()
    rows = [f"{line},{split_of(number)}" for number, line in enumerate(lines[1:])]
    (data / "labels.csv").write_text("\n".join([f"{lines[0]},split", *rows]) + "\n")
    return data


def test_a_group_on_both_sides_of_a_told_split_is_refused(place: Path, tmp_path: Path) -> None:
    data = write_table(place, tmp_path, lambda number: ("train", "val", "test")[number % 3])
    with pytest.raises(LeakageError):
        probe.run(options(place, tmp_path / "run", PROBE, data=data, split="split"), ignore)


def test_an_unknown_split_is_refused(place: Path, tmp_path: Path) -> None:
    data = write_table(place, tmp_path, lambda _number: "fold1")
    with pytest.raises(CohortError, match="18 rows"):
        probe.run(options(place, tmp_path / "run", PROBE, data=data, split="split"), ignore)
    with pytest.raises(CohortError, match="no column absent"):
        probe.run(options(place, tmp_path / "r2", PROBE, data=data, split="absent"), ignore)


def test_an_empty_part_is_refused(place: Path, tmp_path: Path) -> None:
    data = write_table(place, tmp_path, lambda _number: "train")
    with pytest.raises(CohortError, match="validation split has no image"):
        probe.run(options(place, tmp_path / "run", PROBE, data=data, split="split"), ignore)
