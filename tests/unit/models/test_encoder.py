import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.architectures.encoder import Encoder, EncoderShape, sincos_positions

TINY = EncoderShape(dim=16, depth=2, heads=2, patch_size=16, image_size=64)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    with torch.no_grad():  # biases and scales that a forgotten term would miss
        for name, parameter in encoder.named_parameters():
            if name != "pos_embed":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def naive_forward(state: dict[str, np.ndarray], image: np.ndarray, heads: int) -> np.ndarray:
    """The published formulas in float64 numpy, one image, one head, one patch at a time."""
    dim = state["cls_token"].shape[-1]
    side = image.shape[1] // 16
    tokens = [state["cls_token"][0, 0]]
    for row in range(side):
        for column in range(side):
            patch = image[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            projected = (state["patch_embed.proj.weight"] * patch).sum((1, 2, 3))
            tokens.append(projected + state["patch_embed.proj.bias"])
    x = np.stack(tokens) + state["pos_embed"][0]
    block = 0
    while f"blocks.{block}.gamma_1" in state:
        w = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{block}.")}
        y = layer_norm(x, w["norm1.weight"], w["norm1.bias"])
        q = y @ w["attn.qkv.weight"][:dim].T + w["attn.q_bias"]
        k = y @ w["attn.qkv.weight"][dim : 2 * dim].T
        v = y @ w["attn.qkv.weight"][2 * dim :].T + w["attn.v_bias"]
        width = dim // heads
        mixed = np.empty_like(y)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, part] = scores / scores.sum(1, keepdims=True) @ v[:, part]
        x = x + w["gamma_1"] * (mixed @ w["attn.proj.weight"].T + w["attn.proj.bias"])
        y = layer_norm(x, w["norm2.weight"], w["norm2.bias"])
        hidden = y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + w["gamma_2"] * (hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"])
        block += 1
    return layer_norm(x, state["norm.weight"], state["norm.bias"])


def test_forward_equals_the_formulas_of_the_layout(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 64, 64)
    state = {name: value.double().numpy() for name, value in encoder.state_dict().items()}
    expected = naive_forward(state, image[0].double().numpy(), TINY.heads)
    with torch.no_grad():
        tokens = encoder(image)
    assert np.abs(tokens.cls[0].numpy() - expected[0]).max() < 1e-5
    assert np.abs(tokens.patches[0].numpy() - expected[1:]).max() < 1e-5


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "keys", "numbers"),
    [(1024, 24, 16, 366, 303_326_208), (768, 12, 12, 186, 85_807_872)],
    ids=["PanDerm Large", "PanDerm Base"],
)
def test_published_encoders_have_the_same_keys_and_size(
    dim: int, depth: int, heads: int, keys: int, numbers: int
) -> None:
    with torch.device("meta"):
        state = Encoder(EncoderShape(dim=dim, depth=depth, heads=heads)).state_dict()
    assert len(state) == keys
    assert sum(value.numel() for value in state.values()) == numbers
    assert state["pos_embed"].shape == (1, 197, dim)
    assert "blocks.0.attn.qkv.bias" not in state


def test_block_has_the_published_names(encoder: Encoder) -> None:
    prefix = "blocks.1."
    names = {k.removeprefix(prefix) for k in encoder.state_dict() if k.startswith(prefix)}
    assert names == {
        *("gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
        *("attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"),
        *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
    }


def test_position_table_has_row_sine_first_and_no_position_for_the_class_token() -> None:
    table = sincos_positions(8, 3)[0]
    assert table.shape == (10, 8)
    assert not table[0].any()
    row, column = 2, 1
    frequencies = torch.tensor([1.0, 0.01])  # 10000 ** -(i / 2)
    expected = torch.cat(
        [
            (row * frequencies).sin(),
            (row * frequencies).cos(),
            (column * frequencies).sin(),
            (column * frequencies).cos(),
        ]
    )
    assert torch.allclose(table[1 + row * 3 + column], expected, atol=1e-7)


def test_stored_positions_are_used_not_computed_anew(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image).cls
        encoder.pos_embed.mul_(0.5)
        assert not torch.allclose(before, encoder(image).cls)


def test_other_sizes_stretch_the_position_table(encoder: Encoder) -> None:
    with torch.no_grad():
        tokens = encoder(torch.randn(2, 3, 32, 96))
        corners = encoder._positions((2, 6))[0]
    assert tokens.grid == (2, 6)
    assert tokens.patches.shape == (2, 12, 16)
    stored = encoder.pos_embed[0, 1:].detach().reshape(4, 4, 16)
    assert torch.allclose(corners[0], stored[0, 0], atol=1e-6)
    assert torch.allclose(corners[-1], stored[-1, -1], atol=1e-6)


def test_taps_are_the_tokens_after_their_block(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = encoder(image, taps=(0, 1))
        normed = encoder.norm(tokens.taps[1])
    assert len(tokens.taps) == 2
    assert torch.allclose(normed, tokens.patches, atol=1e-6)


def test_patch_residual_is_added_before_the_blocks(encoder: Encoder) -> None:
    image = torch.randn(1, 3, 64, 64)
    residual = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        whole = encoder(image, patch_residual=residual + encoder.patch_embed(image))
        twice = encoder(image, patch_residual=residual)
        encoder.patch_embed.proj.weight.zero_()
        encoder.patch_embed.proj.bias.zero_()
        given_all = encoder(image, patch_residual=residual)
    assert not torch.allclose(whole.cls, twice.cls)
    assert not torch.allclose(given_all.cls, twice.cls)


def test_drop_path_acts_only_while_training() -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY, layer_scale=1.0, drop_path=0.9)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        encoder.eval()
        assert torch.equal(encoder(image).cls, encoder(image).cls)
        encoder.train()
        drawn = [encoder(image).cls for _ in range(20)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


@given(
    dim=st.integers(-4, 40),
    heads=st.integers(-1, 8),
    patch=st.integers(0, 20),
    size=st.integers(0, 64),
)
def test_a_shape_is_either_usable_or_refused(dim: int, heads: int, patch: int, size: int) -> None:
    is_usable = (dim > 0 and heads > 0 and patch > 0 and dim % 4 == 0 and dim % heads == 0) and (
        size >= patch and size % patch == 0
    )
    try:
        shape = EncoderShape(dim=dim, depth=1, heads=heads, patch_size=patch, image_size=size)
    except ValueError:
        assert not is_usable
    else:
        assert is_usable
        assert shape.grid == size // patch
