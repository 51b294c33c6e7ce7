import numpy as np
import pytest
import torch

from models.architectures.abmil import GatedAbmil
from models.slide.tiles import AbmilShape


def network(**changes):
    torch.manual_seed(0)
    shape = AbmilShape(features=10, width=7, attention=5, labels=3, **changes)
    return GatedAbmil(shape).eval()


def naive(module, features):
    """The formula with loops over tiles and labels."""
    w = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    hidden, raw = [], []
    for x in features:
        h = np.maximum(w["reduce.1.weight"] @ x + w["reduce.1.bias"], 0)
        a = np.tanh(w["content.0.weight"] @ h + w["content.0.bias"])
        b = 1 / (1 + np.exp(-(w["gate.0.weight"] @ h + w["gate.0.bias"])))
        hidden.append(h)
        raw.append(w["score.weight"] @ (a * b) + w["score.bias"])
    scores = np.array(raw)
    weights = np.exp(scores) / np.exp(scores).sum(axis=0)
    logits = []
    for label in range(3):
        branch = label if module.shape.is_branched else 0
        slide = sum(weights[i, branch] * h for i, h in enumerate(hidden))
        logits.append(w["classifier.weight"][label] @ slide + w["classifier.bias"][label])
    return np.array(logits), scores, weights


@pytest.mark.parametrize("is_branched", [False, True])
def test_the_network_equals_its_naive_twin(is_branched):
    module = network(is_branched=is_branched)
    features = np.random.default_rng(0).normal(size=(9, 10))
    out = module(torch.tensor(features, dtype=torch.float32))
    logits, raw, weights = naive(module, features)
    np.testing.assert_allclose(out.logits.detach(), logits, atol=1e-5)
    np.testing.assert_allclose(out.attention_raw.detach(), raw, atol=1e-5)
    np.testing.assert_allclose(out.attention.detach(), weights, atol=1e-5)
    assert out.attention_raw.shape == (9, 3 if is_branched else 1)


@pytest.mark.parametrize("is_branched", [False, True])
def test_filled_up_bags_answer_as_alone(is_branched):
    module = network(is_branched=is_branched)
    torch.manual_seed(1)
    first, second = torch.randn(4, 10), torch.randn(7, 10)
    batch = torch.full((2, 7, 10), 1e3)
    batch[0, :4], batch[1] = first, second
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    out = module(batch, mask)
    torch.testing.assert_close(
        out.logits, torch.stack([module(first).logits, module(second).logits])
    )
    assert (out.attention[0, 4:] == 0).all()
    assert torch.isneginf(out.attention_raw[0, 4:]).all()
    torch.testing.assert_close(out.attention.sum(dim=1), torch.ones_like(out.attention.sum(dim=1)))


def test_the_order_of_tiles_does_not_matter():
    module = network()
    torch.manual_seed(2)
    features, order = torch.randn(8, 10), torch.randperm(8)
    torch.testing.assert_close(module(features).logits, module(features[order]).logits)
    torch.testing.assert_close(
        module(features).attention_raw[order], module(features[order]).attention_raw
    )


def test_dropout_is_that_of_the_paper_and_off_when_serving():
    module = network()
    rates = [layer.p for layer in module.modules() if isinstance(layer, torch.nn.Dropout)]
    assert rates == [0.10, 0.25, 0.25, 0.25]
    features = torch.randn(5, 10)
    assert torch.equal(module(features).logits, module(features).logits)
    module.train()
    assert not torch.equal(module(features).logits, module(features).logits)


@pytest.mark.parametrize(
    ("features", "mask"),
    [
        (torch.zeros(0, 10), None),
        (torch.zeros(3, 9), None),
        (torch.zeros(2, 3, 10), torch.tensor([[True] * 3, [False] * 3])),
        (torch.zeros(2, 3, 10), torch.ones(2, 4, dtype=torch.bool)),
    ],
)
def test_empty_and_misshapen_bags_are_refused(features, mask):
    with pytest.raises(ValueError, match=r"bag|features"):
        network()(features, mask)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="labels"):
        AbmilShape(labels=1)
    with pytest.raises(ValueError, match="positive"):
        AbmilShape(width=0)
