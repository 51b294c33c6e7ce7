import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.architectures.cae import CaeNetwork, RegressorShape, alignment_loss
from models.architectures.panderm import load_encoder
from models.shapes import EncoderShape

TINY = EncoderShape(dim=16, depth=2, heads=2, patch_size=4, image_size=16)
LARGE = EncoderShape(dim=1024, depth=24, heads=16)
BLOCK_KEYS = {
    "gamma_1_cross",
    "gamma_2_cross",
    "norm1_q.weight",
    "norm1_q.bias",
    "norm1_k.weight",
    "norm1_k.bias",
    "norm1_v.weight",
    "norm1_v.bias",
    "norm2_cross.weight",
    "norm2_cross.bias",
    "cross_attn.q.weight",
    "cross_attn.k.weight",
    "cross_attn.v.weight",
    "cross_attn.q_bias",
    "cross_attn.v_bias",
    "cross_attn.proj.weight",
    "cross_attn.proj.bias",
    "mlp_cross.fc1.weight",
    "mlp_cross.fc1.bias",
    "mlp_cross.fc2.weight",
    "mlp_cross.fc2.bias",
}


def make(heads: int = 3, **changes: float) -> CaeNetwork:
    torch.manual_seed(0)
    network = CaeNetwork(
        TINY, target_dim=6, regressor=RegressorShape(depth=2, heads=heads), **changes
    ).eval()
    with torch.no_grad():  # biases and scales that a forgotten term would miss
        for name, parameter in network.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def draw_masks(batch: int, count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    masks = np.zeros((batch, 16), np.bool_)
    for row in masks:
        row[rng.choice(16, count, replace=False)] = True
    return torch.from_numpy(masks)


def layer_norm(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    width = q.shape[1] // heads
    mixed = np.empty_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
        mixed[:, part] = scores / scores.sum(1, keepdims=True) @ v[:, part]
    return mixed


def mlp(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    hidden = x @ state[f"{name}.fc1.weight"].T + state[f"{name}.fc1.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return hidden @ state[f"{name}.fc2.weight"].T + state[f"{name}.fc2.bias"]


def naive_forward(
    state: dict[str, np.ndarray], image: np.ndarray, masked: np.ndarray, heads: int
) -> np.ndarray:
    """One image in float64 numpy, patch by patch, by the published formulas."""
    s, side = state, 4
    visible_at = [i for i in range(16) if not masked[i]]
    masked_at = [i for i in range(16) if masked[i]]
    tokens = [s["encoder.cls_token"][0, 0] + s["encoder.pos_embed"][0, 0]]
    for i in visible_at:
        top, left = i // 4 * side, i % 4 * side
        patch = image[:, top : top + side, left : left + side]
        projected = (s["encoder.patch_embed.proj.weight"] * patch).sum((1, 2, 3))
        position = s["encoder.pos_embed"][0, 1 + i]
        tokens.append(projected + s["encoder.patch_embed.proj.bias"] + position)
    x = np.stack(tokens)
    for block in range(TINY.depth):
        name = f"encoder.blocks.{block}"
        y = layer_norm(x, s, f"{name}.norm1")
        q, k, v = np.split(y @ s[f"{name}.attn.qkv.weight"].T, 3, axis=1)
        q, v = q + s[f"{name}.attn.q_bias"], v + s[f"{name}.attn.v_bias"]
        mixed = attend(q, k, v, TINY.heads)
        mixed = mixed @ s[f"{name}.attn.proj.weight"].T + s[f"{name}.attn.proj.bias"]
        x = x + s[f"{name}.gamma_1"] * mixed
        x = x + s[f"{name}.gamma_2"] * mlp(layer_norm(x, s, f"{name}.norm2"), s, f"{name}.mlp")
    x = layer_norm(x, s, "encoder.norm")
    visible = x[1:]
    guess = np.repeat(s["mask_token"][0], len(masked_at), axis=0)
    table = s["rd_pos_embed"][0, 1:]
    for block in range(2):
        name = f"regresser.regressor_blocks.{block}"
        both = np.concatenate([visible, guess])
        positions = np.concatenate([table[visible_at], table[masked_at]])
        q = layer_norm(guess + table[masked_at], s, f"{name}.norm1_q")
        k = layer_norm(both + positions, s, f"{name}.norm1_k")
        v = layer_norm(both, s, f"{name}.norm1_v")
        q = q @ s[f"{name}.cross_attn.q.weight"].T + s[f"{name}.cross_attn.q_bias"]
        k = k @ s[f"{name}.cross_attn.k.weight"].T
        v = v @ s[f"{name}.cross_attn.v.weight"].T + s[f"{name}.cross_attn.v_bias"]
        mixed = attend(q, k, v, heads) @ s[f"{name}.cross_attn.proj.weight"].T
        mixed = mixed + s[f"{name}.cross_attn.proj.bias"]
        guess = layer_norm(guess + s[f"{name}.gamma_1_cross"] * mixed, s, f"{name}.norm2_cross")
        guess = guess + s[f"{name}.gamma_2_cross"] * mlp(guess, s, f"{name}.mlp_cross")
    guess = layer_norm(guess, s, "regresser.norm")
    latents = np.empty((17, TINY.dim))
    latents[0] = x[0]
    latents[[1 + i for i in visible_at]] = visible
    latents[[1 + i for i in masked_at]] = guess
    normed = layer_norm(latents, s, "decoder.norm")
    return normed @ s["decoder.head.weight"].T + s["decoder.head.bias"]


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_network_equals_its_naive_twin(heads: int) -> None:
    network = make(heads)
    images = torch.randn(3, 3, 16, 16)
    masked = draw_masks(3, 9)
    with torch.inference_mode():
        found = network(images, masked)
    state = {k: v.double().numpy() for k, v in network.state_dict().items()}
    for image, mask, predicted in zip(images, masked, found, strict=True):
        expected = naive_forward(state, image.double().numpy(), mask.numpy(), heads)
        np.testing.assert_allclose(predicted.numpy(), expected, atol=2e-5)


def test_nothing_of_a_masked_patch_reaches_a_prediction() -> None:
    network = make()
    masked = draw_masks(2, 8)
    images = torch.randn(2, 3, 16, 16)
    hidden = masked.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.inference_mode():
        before = network(images, masked)
        assert torch.equal(network(torch.where(hidden, 7.0, images), masked), before)
        assert not torch.allclose(network(torch.where(hidden, images, 7.0), masked), before)


def test_without_masked_patches_the_latents_are_the_encoders_own() -> None:
    network = make()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        found = network(images, torch.zeros(2, 16, dtype=torch.bool))
        tokens = network.encoder(images)
        whole = torch.cat([tokens.cls.unsqueeze(1), tokens.patches], dim=1)
        torch.testing.assert_close(found, network.decoder(whole))


def test_every_trainable_parameter_gets_a_gradient() -> None:
    network = make().train()
    loss = alignment_loss(
        network(torch.randn(2, 3, 16, 16), draw_masks(2, 8)), torch.randn(2, 17, 6)
    )
    torch.autograd.backward(loss.mean())
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    fixed = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert sorted(fixed) == ["encoder.pos_embed", "rd_pos_embed"]


def test_large_has_the_keys_and_the_size_of_the_published_file() -> None:
    with torch.device("meta"):
        network = CaeNetwork(LARGE, target_dim=768, regressor=RegressorShape())
    state = network.state_dict()
    assert len(state) == 458
    assert sum(value.numel() for value in state.values()) == 354_660_064
    for block in range(4):
        prefix = f"regresser.regressor_blocks.{block}."
        assert {k.removeprefix(prefix) for k in state if k.startswith(prefix)} == BLOCK_KEYS
    assert state["regresser.regressor_blocks.0.cross_attn.q.weight"].shape == (1020, 1024)
    assert state["regresser.regressor_blocks.0.cross_attn.proj.weight"].shape == (1024, 1020)
    beside = {k for k in state if not k.startswith(("encoder.", "regresser.regressor_blocks."))}
    assert beside == {
        "rd_pos_embed",
        "mask_token",
        "regresser.norm.weight",
        "regresser.norm.bias",
        "decoder.norm.weight",
        "decoder.norm.bias",
        "decoder.head.weight",
        "decoder.head.bias",
    }


def test_saved_network_is_read_as_an_encoder(tmp_path: Path) -> None:
    network = make()
    torch.save(network.state_dict(), tmp_path / "encoder.pth")
    loaded = load_encoder(tmp_path / "encoder.pth", heads=2)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), network.encoder(images).cls, atol=1e-6, rtol=0)


def test_masks_that_do_not_fit_are_refused() -> None:
    network, images = make(), torch.zeros(2, 3, 16, 16)
    uneven = draw_masks(2, 8)
    uneven[0, int(uneven[0].int().argmin())] = True
    with pytest.raises(ValueError, match=r"\[8, 9\] masked patches"):
        network(images, uneven)
    with pytest.raises(ValueError, match="no patch is visible"):
        network(images, torch.ones(2, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"must be \(B, 16\) bool"):
        network(images, torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be"):
        network(images, torch.zeros(2, 16))


def test_impossible_regressors_are_refused() -> None:
    with pytest.raises(ValueError, match="17 heads do not fit a width of 16"):
        CaeNetwork(TINY, target_dim=4, regressor=RegressorShape(heads=17))
    with pytest.raises(ValueError, match="must be positive"):
        RegressorShape(depth=0)


def test_alignment_loss_is_one_minus_the_cosine_of_each_token() -> None:
    predictions, targets = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    found = alignment_loss(predictions, targets)
    for image in range(2):
        for token in range(5):
            p, t = predictions[image, token].numpy(), targets[image, token].numpy()
            cosine = (p @ t) / np.linalg.norm(p) / np.linalg.norm(t)
            assert found[image, token].item() == pytest.approx(1 - cosine, abs=1e-5)
    torch.testing.assert_close(alignment_loss(targets, 3 * targets), torch.zeros(2, 5))
    torch.testing.assert_close(alignment_loss(targets, -targets), torch.full((2, 5), 2.0))
    assert alignment_loss(torch.zeros(1, 1, 4), torch.ones(1, 1, 4)).item() == 1
    assert alignment_loss(targets.bfloat16(), targets.bfloat16()).dtype == torch.float32
