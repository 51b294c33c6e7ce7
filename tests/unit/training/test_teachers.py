from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from models.architectures.encoder import Encoder
from models.shapes import EncoderShape
from training.errors import PretrainedError
from training.pretraining.processes import World
from training.pretraining.settings import EmaTeacherSettings
from training.pretraining.teachers import CLIP_MEAN, CLIP_STD, ClipTeacher, EmaTeacher, momentum_at

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 6,
}
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
SHAPE = EncoderShape(dim=16, depth=3, heads=2, patch_size=8, image_size=32)


def randomise(model: torch.nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "projected"
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
    randomise(model)
    model.save_pretrained(folder)
    return folder


def attention(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Two heads, one image, by the formula."""
    q, k, v = (
        x @ state[f"{name}.{part}_proj.weight"].T + state[f"{name}.{part}_proj.bias"]
        for part in "qkv"
    )
    mixed = torch.empty_like(q)
    for part in (slice(0, 8), slice(8, 16)):
        scores = (q[:, part] @ k[:, part].T / 8**0.5).softmax(dim=1)
        mixed[:, part] = scores @ v[:, part]
    return mixed @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def naive_targets(model: CLIPVisionModelWithProjection, image: Tensor) -> Tensor:
    """CLIP's published forward of one image (3, 32, 32) in [0, 1], each token projected."""
    state = {k.removeprefix("vision_model."): v.double() for k, v in model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"])

    image = image.double()
    normal = torch.stack([(image[c] - CLIP_MEAN[c]) / CLIP_STD[c] for c in range(3)])
    kernel = state["embeddings.patch_embedding.weight"]
    tokens = [state["embeddings.class_embedding"]]
    for row in range(4):
        for column in range(4):
            patch = normal[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            tokens.append((kernel * patch).sum((1, 2, 3)))
    x = torch.stack(tokens) + state["embeddings.position_embedding.weight"]
    x = norm(x, "pre_layrnorm")
    for layer in range(2):
        name = f"encoder.layers.{layer}"
        x = x + attention(state, f"{name}.self_attn", norm(x, f"{name}.layer_norm1"))
        hidden = norm(x, f"{name}.layer_norm2")
        hidden = hidden @ state[f"{name}.mlp.fc1.weight"].T + state[f"{name}.mlp.fc1.bias"]
        hidden = hidden * torch.sigmoid(1.702 * hidden)  # CLIP's quick GELU
        x = x + hidden @ state[f"{name}.mlp.fc2.weight"].T + state[f"{name}.mlp.fc2.bias"]
    x = norm(x, "post_layernorm") @ state["visual_projection.weight"].T
    return x / x.norm(dim=1, keepdim=True)


def test_clip_projects_every_token(projected: Path) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(projected, local_files_only=True)
    teacher = ClipTeacher(projected, grid=4)
    pixels = torch.rand(2, 3, 32, 32)
    found = teacher(pixels)
    assert found.shape == (2, 17, 6)
    assert teacher.dim == 6
    assert teacher.is_projected
    for image, targets in zip(pixels, found, strict=True):
        torch.testing.assert_close(targets.double(), naive_targets(model, image), atol=1e-5, rtol=0)
    normal = (pixels - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(
        1, 3, 1, 1
    )
    own = functional.normalize(model(pixel_values=normal).image_embeds, dim=-1)
    torch.testing.assert_close(found[:, 0], own)


def test_position_table_is_stretched_bilinearly(projected: Path) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(projected, local_files_only=True)
    table = model.vision_model.embeddings.position_embedding.weight.detach().numpy()
    teacher = ClipTeacher(projected, grid=3)
    found = teacher.vision.embeddings.position_embedding.weight.numpy()
    assert found.shape == (10, 16)
    np.testing.assert_array_equal(found[0], table[0])
    source = table[1:].reshape(4, 4, 16)
    for row in range(3):
        for column in range(3):  # pixel centres correspond; edges are repeated
            y, x = (row + 0.5) * 4 / 3 - 0.5, (column + 0.5) * 4 / 3 - 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            total = np.zeros(16)
            for dy, wy in ((0, 1 - (y - top)), (1, y - top)):
                for dx, wx in ((0, 1 - (x - left)), (1, x - left)):
                    total += wy * wx * source[min(top + dy, 3), min(left + dx, 3)]
            np.testing.assert_allclose(found[1 + row * 3 + column], total, atol=1e-5)
    assert teacher.side == 24
    assert teacher(torch.rand(1, 3, 48, 48)).shape == (1, 10, 6)


def test_clip_l14_sees_196_px_for_14_patches(tmp_path: Path) -> None:
    config = CLIPVisionConfig(**(VISION | {"patch_size": 14, "image_size": 224}))
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    teacher = ClipTeacher(tmp_path, grid=14)
    assert teacher.side == 196
    assert teacher(torch.rand(1, 3, 224, 224)).shape == (1, 197, 6)


def test_plain_vision_model_gives_its_normed_tokens(tmp_path: Path) -> None:
    model = CLIPVisionModel(CLIPVisionConfig(**VISION))
    randomise(model)
    model.save_pretrained(tmp_path)
    teacher = ClipTeacher(tmp_path, grid=4)
    assert not teacher.is_projected
    assert teacher.dim == 16
    found = teacher(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 17))


def test_whole_clip_model_is_read_too(tmp_path: Path) -> None:
    config = CLIPConfig(
        vision_config=VISION,
        text_config=CLIPTextConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=20,
            projection_dim=6,
        ).to_dict(),
        projection_dim=6,
    )
    model = CLIPModel(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    teacher = ClipTeacher(tmp_path, grid=4)
    assert teacher.is_projected
    pixels = torch.rand(1, 3, 32, 32)
    pixels_normal = (pixels - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(
        CLIP_STD
    ).view(1, 3, 1, 1)
    with torch.inference_mode():
        pooled = model.vision_model(pixel_values=pixels_normal).pooler_output
        own = functional.normalize(model.visual_projection(pooled), dim=-1)
    torch.testing.assert_close(teacher(pixels)[:, 0], own)


def test_clip_stays_frozen(projected: Path) -> None:
    teacher = ClipTeacher(projected, grid=4)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.digest == ClipTeacher(projected, grid=3).digest
    assert len(teacher.digest) == 64


def test_folders_that_hold_no_clip_are_refused(projected: Path, tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"config\.json is missing"):
        ClipTeacher(tmp_path / "none", grid=4)
    (tmp_path / "config.json").write_bytes((projected / "config.json").read_bytes())
    with pytest.raises(PretrainedError, match="no readable CLIP"):
        ClipTeacher(tmp_path, grid=4)
    whole = (projected / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PretrainedError, match="no readable CLIP"):
        ClipTeacher(tmp_path, grid=4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match="no readable CLIP"):
        ClipTeacher(tmp_path, grid=4)


def test_incomplete_or_broken_clip_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    key = "vision_model.encoder.layers.1.mlp.fc1.bias"
    save_file({k: v for k, v in tensors.items() if k != key}, path, metadata={"format": "pt"})
    with pytest.raises(PretrainedError, match=r"1 CLIP weights missing, first .*mlp\.fc1\.bias"):
        ClipTeacher(tmp_path, grid=4)
    save_file(tensors | {key: tensors[key] * float("nan")}, path, metadata={"format": "pt"})
    with pytest.raises(PretrainedError, match="not finite"):
        ClipTeacher(tmp_path, grid=4)


def make_ema(blocks: int = 2, centre_momentum: float = 0.9) -> tuple[Encoder, EmaTeacher]:
    torch.manual_seed(0)
    student = Encoder(SHAPE, layer_scale=0.5, drop_path=0.3)
    settings = EmaTeacherSettings(
        kind="ema", momentum=0.5, final_momentum=1.0, blocks=blocks, centre_momentum=centre_momentum
    )
    return student, EmaTeacher(student, settings, ALONE)


def test_ema_targets_are_relative_to_the_running_mean() -> None:
    student, teacher = make_ema(centre_momentum=0.75)
    first, second = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    teacher(first)
    found = teacher(second)
    assert found.shape == (4, 17, 16)

    def tokens(pixels: Tensor) -> np.ndarray:
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.228, 0.224, 0.225])
        normal = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        with torch.inference_mode():
            out = student.eval()(normal.float(), taps=(1, 2))
        layers = [out.taps[0].numpy(), out.taps[1].numpy(), out.cls.numpy()]
        layers = [
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            for x in layers
        ]
        return np.concatenate(
            [layers[2][:, None], (layers[0] + layers[1]) / 2], axis=1, dtype=np.float64
        )

    a, b = tokens(first), tokens(second)
    mean = (a.mean(0) + b.mean(0)) / 2  # two steps: an average, for the memory is not yet full
    square = ((a**2).mean(0) + (b**2).mean(0)) / 2
    relative = (b - mean) / np.sqrt(square - mean**2)
    expected = relative / np.linalg.norm(relative, axis=-1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_collapsed_encoder_gives_no_constant_direction_to_follow() -> None:
    _, teacher = make_ema()
    with torch.no_grad():  # an encoder that says the same of every image
        teacher.encoder.patch_embed.proj.weight.zero_()
    for _ in range(3):
        found = teacher(torch.rand(4, 3, 32, 32))
    assert torch.isfinite(found).all()
    assert found.abs().max() < 0.05


def test_ema_follows_the_student() -> None:
    student, teacher = make_ema()
    before = {k: v.clone() for k, v in teacher.encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.follow(student, 0.5)  # half way from 0.5 to 1
    for name, value in teacher.encoder.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.25)
        assert not value.requires_grad
    teacher.train()
    assert not teacher.encoder.training
    assert student.training


def test_momentum_rises_along_half_a_cosine() -> None:
    values = [momentum_at(p, start=0.9, end=1.0) for p in (0, 0.25, 0.5, 0.75, 1, 1.1)]
    assert values == pytest.approx([0.9, 0.9146447, 0.95, 0.9853553, 1, 1])
