import numpy as np
import pytest
import torch

from models.architectures.diagnosis import DiagnosisNetwork, ServedDiagnosis
from models.shapes import (
    DiagnosisShape,
    EfficientNetLiteShape,
    EncoderShape,
    VitPyramidShape,
)

VIT = VitPyramidShape(
    encoder=EncoderShape(dim=16, depth=2, heads=2, image_size=64), prior_width=4, taps=(0,)
)
TINY = DiagnosisShape(backbone=VIT, num_labels=5, decoder_width=8)
COMPACT = DiagnosisShape(backbone=EfficientNetLiteShape(), num_labels=5, decoder_width=8)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def served(*, flips: bool) -> ServedDiagnosis:
    torch.manual_seed(3)
    return ServedDiagnosis(TINY, mean=MEAN, std=STD, flips=flips).eval()


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("shape", [TINY, COMPACT], ids=["vit", "compact"])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (32, 32)])
def test_outputs_have_the_shape_of_the_input(shape: DiagnosisShape, size: tuple[int, int]) -> None:
    network = DiagnosisNetwork(shape).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, *size))
    assert output.logits.shape == (2, 5)
    assert output.embedding.shape == (2, network.embedding_dim)
    assert output.context.shape == (2, network.context_dim)
    assert output.lesion_logit.shape == (2, 1, *size)


def test_logits_are_linear_in_the_embedding() -> None:
    network = DiagnosisNetwork(TINY, dropout=0.5).eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, 64, 64))
        assert torch.allclose(output.logits, network.classifier(output.embedding), atol=1e-6)


def test_a_fresh_spatial_prior_leaves_the_encoder_alone() -> None:
    network = DiagnosisNetwork(TINY).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        alone = network.backbone.encoder(image)
        output = network(image)
    assert torch.allclose(output.embedding[:, :16], alone.cls, atol=1e-6)


def test_the_diagnosis_does_not_train_the_outline() -> None:
    network = DiagnosisNetwork(TINY)
    network(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert network.decoder.predict.weight.grad is None
    assert network.backbone.encoder.patch_embed.proj.weight.grad is not None


def test_an_answer_does_not_depend_on_the_batch(images: torch.Tensor) -> None:
    model = served(flips=True)
    with torch.inference_mode():
        together, alone = model(images), model(images[1:2])
    assert torch.allclose(together.logits[1:2], alone.logits, atol=1e-5)
    assert torch.allclose(together.ood_score[1:2], alone.ood_score, atol=1e-4)
    difference = together.lesion_prob[1:2].int() - alone.lesion_prob.int()
    assert difference.abs().max() <= 1


def test_bytes_are_normalised_inside(images: torch.Tensor) -> None:
    model = served(flips=False)
    pixels = (images.numpy() / 255 - np.array(MEAN)) / np.array(STD)
    with torch.inference_mode():
        answer = model(images)
        direct = model.network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
    assert torch.allclose(answer.logits, direct.logits, atol=1e-5)
    expected = direct.lesion_logit.squeeze(1).sigmoid() * 255
    assert (answer.lesion_prob - expected).abs().max() <= 0.51
    assert answer.lesion_prob.dtype == torch.uint8


def test_with_flips_a_mirror_image_gets_the_same_answer(images: torch.Tensor) -> None:
    model, single = served(flips=True), served(flips=False)
    for axis in (1, 2):
        with torch.inference_mode():
            upright, mirrored = model(images), model(images.flip(axis))
            assert not torch.allclose(
                single(images).logits, single(images.flip(axis)).logits, atol=1e-4
            )
        assert torch.allclose(upright.logits, mirrored.logits, atol=1e-5)
        assert torch.allclose(upright.embedding, mirrored.embedding, atol=1e-5)
        difference = upright.lesion_prob.flip(axis).int() - mirrored.lesion_prob.int()
        assert difference.abs().max() <= 1


def test_ood_score_is_the_whitened_distance_to_the_nearest_label() -> None:
    model = served(flips=False)
    rng = np.random.default_rng(0)
    width = model.network.context_dim
    means = rng.normal(size=(5, width)).astype(np.float32)
    root = rng.normal(size=(width, width)).astype(np.float32)
    model.ood_means.copy_(torch.from_numpy(means))
    model.ood_whitening.copy_(torch.from_numpy(root))
    point = rng.normal(size=(1, width)).astype(np.float32)
    precision = root @ root.T
    expected = min(float(np.sqrt((point[0] - m) @ precision @ (point[0] - m))) for m in means)
    assert model.ood_score(torch.from_numpy(point)).item() == pytest.approx(expected, rel=1e-4)
    assert model.ood_score(torch.from_numpy(means[2:3])).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("taps", [(2,), (1, 0), (0, 0), (-1,)])
def test_taps_outside_or_out_of_order_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="taps"):
        VitPyramidShape(encoder=VIT.encoder, taps=taps)
