import numpy as np
import pytest
import torch
from torch import nn

from models.architectures.efficientnet_lite import EfficientNetLite
from models.preprocessing import MEAN, STD
from models.shapes import EfficientNetLiteShape


def naive_convolution(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's "same" convolution by loops: (C, H, W) and (O, C, k, k), even H and W."""
    size, (height, width) = kernel.shape[2], image.shape[1:]
    total = max(size - stride, 0)
    before = total // 2
    padded = np.pad(image, ((0, 0), (before, total - before), (before, total - before)))
    out = np.zeros((len(kernel), height // stride, width // stride))
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            part = padded[:, row * stride : row * stride + size, column * stride :][:, :, :size]
            out[:, row, column] = (kernel * part).sum(axis=(1, 2, 3))
    return out


def test_the_stem_pads_like_the_published_weights() -> None:
    network = EfficientNetLite(EfficientNetLiteShape()).eval()
    images = torch.randn(1, 3, 32, 32)
    convolution = network.stem[0]
    scaled = (images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 2 - 1
    with torch.no_grad():
        found = convolution(images * network.input_scale + network.input_shift)[0].numpy()
        kernel = next(convolution.parameters()).numpy()
    assert found == pytest.approx(naive_convolution(scaled[0].numpy(), kernel, 2), abs=1e-4)


@pytest.mark.parametrize(
    ("variant", "published"), [("lite0", 4_652_008), ("lite1", 5_416_680), ("lite2", 6_092_072)]
)
def test_sizes_are_the_published_ones(variant: str, published: int) -> None:
    network = EfficientNetLite(EfficientNetLiteShape(variant=variant))
    found = sum(parameter.numel() for parameter in network.parameters())
    classifier = 1280 * 1000 + 1000  # the ImageNet classifier, which we leave out
    assert found + classifier == published


def test_levels_halve_and_end_in_the_embedding() -> None:
    network = EfficientNetLite(EfficientNetLiteShape()).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        levels = network.levels(images)
        embedding = network(images)
    assert [tuple(level.shape[2:]) for level in levels] == [
        (32, 48),
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]
    assert tuple(level.shape[1] for level in levels) == network.level_widths
    assert embedding.shape == (2, network.dim)
    assert torch.allclose(embedding, network.expand(levels[-1]).mean((2, 3)))


def test_drop_path_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(EfficientNetLiteShape(), drop_path=0.9)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))
