"""PanDerm's encoders: parity with the formulas, every file layout, every fault by name."""

import argparse
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.architectures.panderm import (
    PandermEncoder,
    fine_tuning_model,
    load_encoder,
    relative_position_index,
)
from models.errors import ImageError, WeightsError
from models.shapes import EncoderShape

SMALL = EncoderShape(dim=128, depth=3, heads=2, patch_size=16, image_size=48)

State = dict[str, Tensor]


def random_state(shape: EncoderShape = SMALL, *, labels: int = 0) -> State:
    """Published keys with values that a forgotten term would miss."""
    generator = torch.Generator().manual_seed(3)
    network = PandermEncoder(shape, is_fine_tuned=labels > 0, num_labels=labels)
    state = {}
    for key, value in network.published_state().items():
        noise = torch.randn(value.shape, generator=generator)
        if not value.is_floating_point():
            state[key] = value.clone()
        elif key.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma_1", "gamma_2")):
            state[key] = 1 + 0.3 * noise
        else:
            state[key] = 0.2 * noise if "bias" in key else 0.06 * noise
    return state


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def images(count: int = 2, side: int = 48) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


# --- an independent implementation: float64 numpy, one image, one head, one token at a time


def layer_norm(row: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    return (row - mean) / math.sqrt(variance + 1e-6) * weight + bias


def naive_bias(table: np.ndarray, grid: int, query: int, key: int) -> np.ndarray:
    """Bias of one pair of tokens, all heads; token 0 is the class token."""
    count = (2 * grid - 1) ** 2
    if query == 0 and key == 0:
        return table[count + 2]
    if query == 0:
        return table[count]
    if key == 0:
        return table[count + 1]
    down = (query - 1) // grid - (key - 1) // grid + grid - 1
    right = (query - 1) % grid - (key - 1) % grid + grid - 1
    return table[down * (2 * grid - 1) + right]


def naive_attention(y: np.ndarray, w: dict[str, np.ndarray], heads: int, grid: int) -> np.ndarray:
    dim = y.shape[1]
    width = dim // heads
    q = y @ w["attn.qkv.weight"][:dim].T + w["attn.q_bias"]
    k = y @ w["attn.qkv.weight"][dim : 2 * dim].T
    v = y @ w["attn.qkv.weight"][2 * dim :].T + w["attn.v_bias"]
    table = w.get("attn.relative_position_bias_table")
    mixed = np.zeros_like(y)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(y)):
            scores = np.array([q[i, part] @ k[j, part] / math.sqrt(width) for j in range(len(y))])
            if table is not None:
                scores += [naive_bias(table, grid, i, j)[head] for j in range(len(y))]
            shares = np.exp(scores - scores.max())
            mixed[i, part] = (shares / shares.sum()) @ v[:, part]
    return mixed @ w["attn.proj.weight"].T + w["attn.proj.bias"]


def naive_encode(state: State, image: Tensor, heads: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Embedding, and logits where there is a classifier."""
    values = {key: value.double().numpy() for key, value in state.items()}
    pixels = image.double().numpy()
    grid = pixels.shape[1] // 16
    tokens = [values["cls_token"][0, 0]]
    for row in range(grid):
        for column in range(grid):
            patch = pixels[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            weighted = (values["patch_embed.proj.weight"] * patch).sum((1, 2, 3))
            tokens.append(weighted + values["patch_embed.proj.bias"])
    x = np.stack(tokens) + values["pos_embed"][0]
    for number in range(1 + max(int(k.split(".")[1]) for k in values if k.startswith("blocks."))):
        prefix = f"blocks.{number}."
        w = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        y = np.stack([layer_norm(row, w["norm1.weight"], w["norm1.bias"]) for row in x])
        x = x + w["gamma_1"] * naive_attention(y, w, heads, grid)
        y = np.stack([layer_norm(row, w["norm2.weight"], w["norm2.bias"]) for row in x])
        hidden = y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + w["gamma_2"] * (hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"])
    if "fc_norm.weight" not in values:
        return layer_norm(x[0], values["norm.weight"], values["norm.bias"]), None
    mean = sum(x[1:]) / (len(x) - 1)
    pooled = layer_norm(mean, values["fc_norm.weight"], values["fc_norm.bias"])
    return pooled, pooled @ values["head.weight"].T + values["head.bias"]


# --- parity


def test_a_pretrained_file_gives_the_class_token_after_the_norm(tmp_path: Path) -> None:
    state = random_state()
    encoder = load_encoder(saved(tmp_path / "bb.pth", state))
    batch = images()
    found = encoder(batch)
    assert found.shape == (2, 128)
    assert found.dtype == torch.float32
    for image, embedding in zip(batch, found, strict=True):
        assert np.abs(embedding.numpy() - naive_encode(state, image, 2)[0]).max() < 1e-5


def test_a_fine_tuned_file_gives_the_normed_mean_patch_and_logits(tmp_path: Path) -> None:
    state = random_state(labels=6)
    encoder = load_encoder(saved(tmp_path / "best.pth", state))
    batch = images()
    found, logits = encoder(batch), encoder.logits(batch)
    assert logits.shape == (2, 6)
    for image, embedding, logit in zip(batch, found, logits, strict=True):
        expected, expected_logit = naive_encode(state, image, 2)
        assert np.abs(embedding.numpy() - expected).max() < 1e-5
        assert np.abs(logit.numpy() - expected_logit).max() < 1e-5


def test_the_relative_bias_counts(tmp_path: Path) -> None:
    state = random_state(labels=2)
    first = load_encoder(saved(tmp_path / "a.pth", state))(images())
    state["blocks.1.attn.relative_position_bias_table"][:, 1] += torch.linspace(-3, 3, 28)
    second = load_encoder(saved(tmp_path / "b.pth", state))(images())
    assert (first - second).abs().max() > 1e-2


def test_the_index_equals_counting_pair_by_pair() -> None:
    rows = np.arange(732)[:, None]
    index = relative_position_index(14).numpy()
    assert index.shape == (197, 197)
    rng = np.random.default_rng(0)
    pairs = [(0, 0), (0, 5), (5, 0), *rng.integers(0, 197, (300, 2)).tolist()]
    assert all(index[i, j] == naive_bias(rows, 14, i, j)[0] for i, j in pairs)


# --- keys and sizes


def table_of(dim: int, depth: int, heads: int, labels: int) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the published layouts, spelt out."""
    table: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 197, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
    }
    block: dict[str, tuple[int, ...]] = {
        "attn.qkv.weight": (3 * dim, dim),
        "attn.proj.weight": (dim, dim),
        "mlp.fc1.weight": (4 * dim, dim),
        "mlp.fc1.bias": (4 * dim,),
        "mlp.fc2.weight": (dim, 4 * dim),
    }
    vectors = ["gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias", "attn.proj.bias"]
    vectors += [f"norm{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
    block |= dict.fromkeys([*vectors, "mlp.fc2.bias"], (dim,))
    if labels:
        block["attn.relative_position_bias_table"] = (732, heads)
        block["attn.relative_position_index"] = (197, 197)
        table |= {"fc_norm.weight": (dim,), "fc_norm.bias": (dim,)}
        table |= {"head.weight": (labels, dim), "head.bias": (labels,)}
    else:
        table |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    for number in range(depth):
        table |= {f"blocks.{number}.{key}": sizes for key, sizes in block.items()}
    return table


@pytest.mark.parametrize(
    ("size", "labels", "keys", "trainable"),
    [
        ((1024, 24, 16), 0, 366, 303_326_208 - 197 * 1024),
        ((768, 12, 12), 0, 186, 85_807_872 - 197 * 768),
        ((1024, 24, 16), 6, 416, 303_411_718),
        ((1024, 24, 16), 7, 416, 303_412_743),
        ((768, 12, 12), 6, 212, 85_766_598),
    ],
    ids=["Large", "Base", "Large, 6 labels", "Large, 7 labels", "Base, 6 labels"],
)
def test_published_layouts_have_these_keys_shapes_and_numbers(
    size: tuple[int, int, int], labels: int, keys: int, trainable: int
) -> None:
    dim, depth, heads = size
    with torch.device("meta"):
        network = PandermEncoder(
            EncoderShape(dim=dim, depth=depth, heads=heads),
            is_fine_tuned=labels > 0,
            num_labels=labels,
        )
    found = {key: tuple(value.shape) for key, value in network.published_state().items()}
    assert found == table_of(dim, depth, heads, labels)
    assert len(found) == keys
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable


def test_the_size_is_read_off_the_file(tmp_path: Path) -> None:
    shape = EncoderShape(dim=192, depth=1, heads=3, mlp_ratio=2, patch_size=8, image_size=32)
    encoder = load_encoder(saved(tmp_path / "x.pth", random_state(shape)))
    assert encoder.shape == shape
    assert encoder.dim == 192
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_heads_are_64_wide_unless_told_or_tabled(tmp_path: Path) -> None:
    pretrained = saved(tmp_path / "p.pth", random_state())
    assert load_encoder(pretrained).shape.heads == 2
    told = load_encoder(pretrained, heads=4)
    assert (
        np.abs(told(images(1))[0].numpy() - naive_encode(random_state(), images(1)[0], 4)[0]).max()
        < 1e-5
    )
    four = EncoderShape(dim=128, depth=1, heads=4, image_size=48)
    tuned = saved(tmp_path / "t.pth", random_state(four, labels=2))
    assert load_encoder(tuned).shape.heads == 4
    narrow = EncoderShape(dim=96, depth=1, heads=3, image_size=48)
    odd = saved(tmp_path / "o.pth", random_state(narrow))
    with pytest.raises(WeightsError, match="heads"):
        load_encoder(odd)
    assert load_encoder(odd, heads=3).dim == 96
    with pytest.raises(WeightsError, match="heads"):
        load_encoder(odd, heads=5)


# --- layouts


def flat(state: State) -> Any:
    return state


def with_pretraining(state: State) -> Any:
    beside = ("rd_pos_embed", "mask_token", "regresser.norm.weight", "decoder.head.weight")
    others = {key: torch.full((2, 2), math.nan) for key in (*beside, "teacher.blocks.0.w")}
    return {f"encoder.{key}": value for key, value in state.items()} | others


def nested(state: State) -> Any:
    return {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": "best",
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="panderm", lr=5e-4, drop_path=None, split=["a", "b"]),
    }


def parallel(state: State) -> Any:
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}}


def doubly_nested(state: State) -> Any:
    return {"module": nested(with_pretraining(state))}


LAYOUTS = [flat, with_pretraining, nested, parallel, doubly_nested]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_every_layout_gives_the_same_encoder(
    tmp_path: Path, layout: Callable[[State], Any], is_zip: bool
) -> None:
    state = random_state()
    path = saved(tmp_path / "x.pth", layout(state), _use_new_zipfile_serialization=is_zip)
    found = load_encoder(path).published_state()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_fine_tuned_file_may_be_nested_and_parallel(tmp_path: Path) -> None:
    state = random_state(labels=3)
    content = nested({f"module.{key}": value for key, value in state.items()})
    encoder = load_encoder(saved(tmp_path / "x.pth", content))
    assert torch.equal(encoder.published_state()["head.weight"], state["head.weight"])


def test_safetensors_and_half_precision_are_read(tmp_path: Path) -> None:
    state = random_state()
    path = tmp_path / "x.safetensors"
    save_file({key: value.half() for key, value in state.items()}, path)
    found = load_encoder(path).published_state()
    assert all(torch.equal(found[key], state[key].half().float()) for key in state)


def test_a_classifier_in_a_pretrained_file_is_left_out(tmp_path: Path) -> None:
    state = random_state()
    head = {"head.weight": torch.randn(1000, 128), "head.bias": torch.randn(1000)}
    encoder = load_encoder(saved(tmp_path / "x.pth", state | head))
    with pytest.raises(WeightsError, match="classifier"):
        encoder.logits(images())


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", random_state())
    assert load_encoder(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_stored_positions_are_used_not_computed(tmp_path: Path) -> None:
    state = random_state()
    first = load_encoder(saved(tmp_path / "a.pth", state))(images())
    state["pos_embed"][0, 4] += torch.randn(128, generator=torch.Generator().manual_seed(1))
    encoder = load_encoder(saved(tmp_path / "b.pth", state))
    assert (first - encoder(images())).abs().max() > 1e-3
    assert torch.equal(encoder.published_state()["pos_embed"], state["pos_embed"])


def test_a_stored_index_is_used_and_a_missing_one_computed(tmp_path: Path) -> None:
    state = random_state(labels=2)
    expected = load_encoder(saved(tmp_path / "a.pth", state))(images())
    bare = {key: value for key, value in state.items() if not key.endswith("position_index")}
    assert torch.equal(load_encoder(saved(tmp_path / "b.pth", bare))(images()), expected)
    state["blocks.2.attn.relative_position_index"] = relative_position_index(3).T.contiguous()
    other = load_encoder(saved(tmp_path / "c.pth", state))
    assert torch.equal(
        other.published_state()["blocks.2.attn.relative_position_index"],
        state["blocks.2.attn.relative_position_index"],
    )
    assert not torch.equal(other(images()), expected)


def test_the_weights_do_not_hang_on_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", random_state())
    encoder = load_encoder(path)
    expected = encoder(images())
    path.write_bytes(bytes(path.stat().st_size))  # in place: a mapped file would change under it
    assert torch.equal(encoder(images()), expected)


# --- faults


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def changed(key: str, value: Any) -> Callable[[State], State]:
    return lambda state: state | {key: value(state[key]) if callable(value) else value}


def spoilt(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = math.inf
    return tensor


PRETRAINED_FAULTS = [
    ("missing blocks.1.attn.q_bias", without("blocks.1.attn.q_bias")),
    ("missing cls_token", without("cls_token")),
    ("missing blocks.0.mlp.fc1.weight", without("blocks.0.mlp.fc1.weight")),
    ("missing norm.bias", without("norm.bias")),
    ("missing pos_embed", without("pos_embed")),
    ("unexpected blocks.0.attn.qkv.bias", changed("blocks.0.attn.qkv.bias", torch.zeros(384))),
    ("unexpected extra", changed("extra", torch.zeros(1))),
    ("missing blocks.3.attn", changed("blocks.4.gamma_1", torch.zeros(128))),
    ("unexpected blocks.0.attn.rel", changed("blocks.0.attn.rel", torch.zeros(1))),
    (r"norm.weight has shape \(127,\)", changed("norm.weight", torch.ones(127))),
    (r"cls_token has shape", changed("cls_token", torch.ones(128))),
    ("pos_embed has 9 tokens", changed("pos_embed", torch.ones(1, 9, 128))),
    (r"pos_embed has shape \(1, 10, 64\)", changed("pos_embed", torch.ones(1, 10, 64))),
    ("blocks.2.gamma_2 holds values", changed("blocks.2.gamma_2", spoilt)),
    ("norm.bias has type torch.int64", changed("norm.bias", torch.zeros(128, dtype=torch.int64))),
    ("epoch is int, not a tensor", changed("epoch", 499)),
    ("fc1.weight has 500 rows", changed("blocks.0.mlp.fc1.weight", torch.zeros(500, 128))),
]


@pytest.mark.parametrize(
    ("message", "fault"), PRETRAINED_FAULTS, ids=[m for m, _ in PRETRAINED_FAULTS]
)
@pytest.mark.parametrize("layout", [flat, nested], ids=["flat", "nested"])
def test_a_fault_of_a_pretrained_file_is_named(
    tmp_path: Path, message: str, fault: Callable[[State], Any], layout: Callable[[State], Any]
) -> None:
    path = saved(tmp_path / "x.pth", layout(fault(random_state())))
    with pytest.raises(WeightsError, match=f"x.pth: .*{message}"):
        load_encoder(path)


TABLE = "blocks.1.attn.relative_position_bias_table"
INDEX = "blocks.1.attn.relative_position_index"
FINE_TUNED_FAULTS = [
    (f"missing {TABLE}", without(TABLE)),
    (f"missing {INDEX}", without(INDEX)),
    (rf"{TABLE} has shape \(28, 3\)", changed(TABLE, torch.zeros(28, 3))),
    (f"{INDEX} points outside", changed(INDEX, torch.full((10, 10), 28))),
    (f"{INDEX} points outside", changed(INDEX, torch.full((10, 10), -1))),
    (f"{INDEX} has type", changed(INDEX, torch.zeros(10, 10))),
    ("missing fc_norm.bias", without("fc_norm.bias")),
    ("unexpected norm.weight", changed("norm.weight", torch.ones(128))),
    ("missing head.weight", without("head.weight")),
    ("missing head.bias", without("head.bias")),
    ("missing norm", without("fc_norm.weight")),
]


@pytest.mark.parametrize(("message", "fault"), FINE_TUNED_FAULTS)
def test_a_fault_of_a_fine_tuned_file_is_named(
    tmp_path: Path, message: str, fault: Callable[[State], Any]
) -> None:
    path = saved(tmp_path / "x.pth", fault(random_state(labels=2)))
    with pytest.raises(WeightsError, match=message):
        load_encoder(path)


def test_something_unknown_beside_a_prefixed_encoder_is_refused(tmp_path: Path) -> None:
    content = with_pretraining(random_state()) | {"norm.weight": torch.ones(128)}
    with pytest.raises(WeightsError, match=r"norm\.weight"):
        load_encoder(saved(tmp_path / "x.pth", content))


def test_a_key_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    state = random_state()
    with pytest.raises(WeightsError, match="cls_token"):
        load_encoder(saved(tmp_path / "x.pth", state | {"module.cls_token": torch.zeros(1)}))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.zeros(3),
        {},
        {"model": {}},
        {"model": [torch.zeros(1)]},
        {3: torch.zeros(1)},
        None,
        Evil(),
        {"model": torch.nn.Linear(2, 2)},
    ],
    ids=lambda content: type(content).__name__,
)
def test_what_is_no_state_dict_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError):
        load_encoder(saved(tmp_path / "x.pth", content))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, is_zip: bool, share: float) -> None:
    path = saved(tmp_path / "x.pth", random_state(), _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"x\.pth"):
        load_encoder(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(random_state(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="safetensors"):
        load_encoder(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 5000, b"<html>quota exceeded</html>", b"PK\x03\x04rubbish" * 9]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pth"):
        load_encoder(tmp_path / "x.pth")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="directory"):
        load_encoder(tmp_path)
    with pytest.raises(WeightsError, match="No such file"):
        load_encoder(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(1, 3, 224, 224),
        torch.zeros(3, 48, 48),
        torch.zeros(1, 48, 48, 3),
        torch.zeros(1, 3, 48, 48, dtype=torch.uint8),
    ],
)
def test_other_input_is_refused(tmp_path: Path, batch: Tensor) -> None:
    encoder = load_encoder(saved(tmp_path / "x.pth", random_state()))
    with pytest.raises(ImageError):
        encoder(batch)


# --- a model to fine-tune


def test_fine_tuning_starts_from_the_pretrained_weights(tmp_path: Path) -> None:
    state = random_state()
    encoder = load_encoder(saved(tmp_path / "x.pth", state))
    model = fine_tuning_model(encoder, 4, drop_path=0.2).eval()
    mine = model.published_state()
    assert all(torch.equal(mine[key], state[key]) for key in state if not key.startswith("norm."))
    assert torch.equal(mine["fc_norm.weight"], state["norm.weight"])
    assert not any(mine[key].any() for key in mine if key.endswith("bias_table"))
    assert 0 < mine["head.weight"].abs().max() <= 2 * 0.001
    assert not mine["head.bias"].any()
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["encoder.pos_embed"]
    assert encoder(images()).shape == model(images()).shape
    with torch.no_grad():
        model.head.weight.add_(1)  # its own copy
        model.encoder.cls_token.add_(1)
    assert torch.equal(encoder.published_state()["cls_token"], state["cls_token"])


def test_a_fine_tuned_model_is_read_back_from_its_own_file(tmp_path: Path) -> None:
    model = fine_tuning_model(load_encoder(saved(tmp_path / "x.pth", random_state())), 4).eval()
    again = load_encoder(saved(tmp_path / "y.pth", model.published_state()))
    with torch.no_grad():
        assert torch.equal(again.logits(images()), model.logits(images()))
    more = fine_tuning_model(again, 9)
    assert torch.equal(
        more.published_state()["fc_norm.bias"], again.published_state()["fc_norm.bias"]
    )
    assert more.logits(images()).shape == (2, 9)
