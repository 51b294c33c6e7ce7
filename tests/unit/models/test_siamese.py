import math

import pytest
import torch

from models.architectures.siamese import SiameseHead, SiameseShape, contrastive_loss


def test_equal_images_have_no_distance() -> None:
    torch.manual_seed(0)
    head = SiameseHead(SiameseShape(embedding_dim=6, hidden=4, projection=3)).eval()
    image = torch.randn(5, 6)
    logit, distance = head(image, image)
    assert logit.shape == distance.shape == (5,)
    assert distance.max() <= 1e-5


def test_head_is_the_formula_of_its_layers() -> None:
    torch.manual_seed(1)
    head = SiameseHead(SiameseShape(embedding_dim=3, hidden=4, projection=2)).eval()
    head.mean.fill_(0.5)
    head.scale.fill_(2.0)
    before, after = torch.randn(2, 3), torch.randn(2, 3)
    logit, distance = head(before, after)
    for i in range(2):
        a, b = (before[i] - 0.5) * 2, (after[i] - 0.5) * 2
        features = torch.cat([a, b, (a - b).abs()])
        hidden = (head.first.weight @ features + head.first.bias).clamp(min=0)
        expected = head.second.weight[0] @ hidden + head.second.bias[0]
        assert logit[i].item() == pytest.approx(expected.item(), abs=1e-5)
        gap = head.project.weight @ a - head.project.weight @ b
        assert distance[i].item() == pytest.approx(gap.norm().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("distance", "changed", "margin", "expected"),
    [(2.0, 0, 1.0, 2.0), (0.25, 1, 1.0, 0.28125), (1.5, 1, 1.0, 0.0), (0.0, 0, 1.0, 0.0)],
)
def test_contrastive_loss_is_hadsells(
    distance: float, changed: int, margin: float, expected: float
) -> None:
    found = contrastive_loss(torch.tensor([distance]), torch.tensor([float(changed)]), margin)
    assert found.item() == pytest.approx(expected)


def test_gradient_at_equal_images_is_finite() -> None:
    head = SiameseHead(SiameseShape(embedding_dim=4, hidden=2, projection=2))
    image = torch.randn(3, 4)
    _, distance = head(image, image)
    contrastive_loss(distance, torch.ones(3), 1.0).backward()
    assert all(math.isfinite(p.grad.abs().sum()) for p in head.parameters() if p.grad is not None)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        SiameseShape(hidden=0)
