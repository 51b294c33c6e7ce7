"""Linear probes: each preset against a naive twin, and what is kept with the head."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from training.errors import CohortError, RunError
from training.features.linear import LinearHead, code_objective, fit_probe, label_share, strength

LABELS = ("A", "B", "C")


def blobs(count: int = 90, dim: int = 12, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, labels, count)
    centres = rng.normal(0, 1.0, (labels, dim))
    return (centres[numbers] + rng.normal(0, 1.5, (count, dim))).astype(np.float32), numbers


def naive_entropies(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> list[float]:
    found = []
    for row, number in zip(x, y, strict=True):
        scores = [sum(row * w[c]) + b[c] for c in range(len(w))]
        top = max(scores)
        found.append(top + math.log(sum(math.exp(s - top) for s in scores)) - scores[number])
    return found


def naive_code(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
    cost = x.shape[1] * len(w) / 100
    norm = math.sqrt(sum(float(value) ** 2 for value in w.reshape(-1)))
    entropies = naive_entropies(x, y, w, b)
    return sum(entropies) / len(entropies) + (1 / cost) * 0.5 * norm


def naive_sklearn(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
    cost = x.shape[1] * len(w) / 100
    return sum(naive_entropies(x, y, w, b)) + 0.5 * float((w**2).sum()) / cost


def fit(preset: str, x: np.ndarray, y: np.ndarray, labels: tuple[str, ...] = LABELS) -> LinearHead:
    return fit_probe(x, y, labels=labels, preset=preset, backbone="ab", framing="whole")  # type: ignore[arg-type]


def test_the_objective_of_the_code_is_the_formula() -> None:
    x, y = blobs(20, 5)
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(3, 5)), rng.normal(size=3)
    logits = torch.from_numpy(x.astype(np.float64) @ w.T + b)
    found = code_objective(logits, torch.from_numpy(y), torch.from_numpy(w), 5 * 3 / 100)
    assert float(found) == pytest.approx(naive_code(x, y, w, b), rel=1e-9)


@pytest.mark.parametrize(
    ("preset", "objective"), [("panderm-code", naive_code), ("sklearn", naive_sklearn)]
)
def test_no_neighbour_of_the_fit_has_a_smaller_objective(
    preset: str, objective: Callable[..., float]
) -> None:
    x, y = blobs(40, 30)
    head = fit(preset, x, y)
    assert head.has_converged
    assert head.inverse_strength == strength(30, 3) == 0.9
    w, b = head.weight.astype(np.float64), head.bias.astype(np.float64)
    least = objective(x, y, w, b)
    assert head.loss == pytest.approx(least, rel=1e-4)
    rng = np.random.default_rng(2)
    for step in (0.003, 0.03, 0.3) * 8:
        moved = objective(x, y, w + step * rng.normal(size=w.shape), b + step * rng.normal(size=3))
        assert moved > least - 1e-5 * abs(least)
    assert objective(x, y, 1.02 * w, b) > least - 1e-5 * abs(least)
    assert objective(x, y, 0.98 * w, b) > least - 1e-5 * abs(least)


def test_the_presets_differ() -> None:
    x, y = blobs()
    code, other = fit("panderm-code", x, y), fit("sklearn", x, y)
    assert code.preset != other.preset
    assert abs(np.linalg.norm(code.weight) - np.linalg.norm(other.weight)) > 0.1


def test_the_same_seed_gives_the_same_head_and_leaves_torchs_state_alone() -> None:
    x, y = blobs()
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = fit("panderm-code", x, y)
    assert torch.equal(torch.rand(1), before)
    assert np.array_equal(first.weight, fit("panderm-code", x, y).weight)


@pytest.mark.parametrize("preset", ["panderm-code", "sklearn"])
def test_a_label_without_image_is_never_answered(preset: str) -> None:
    x, y = blobs(dim=60)
    is_kept = y != 1
    head = fit(preset, x[is_kept], y[is_kept])
    logits = head.logits(x)
    assert logits.shape == (90, 3)
    assert not (logits.argmax(1) == 1).any()
    assert (logits.argmax(1)[is_kept] == y[is_kept]).mean() > 0.7


def test_two_labels_give_the_sigmoid_of_logistic_regression() -> None:
    x, y = blobs(labels=2)
    head = fit("sklearn", x, y, ("A", "B"))
    model = LogisticRegression(C=12 * 2 / 100, max_iter=1000).fit(x.astype(np.float64), y)
    logits = head.logits(x)
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert np.allclose(probability, model.predict_proba(x)[:, 1], atol=1e-5)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = blobs()
    with pytest.raises(CohortError, match="two labels"):
        fit("sklearn", x, np.zeros_like(y))
    x[3, 3] = np.nan
    with pytest.raises(CohortError, match="finite"):
        fit("sklearn", x, y)


def test_a_head_is_read_back_with_its_choice(tmp_path: Path) -> None:
    head = fit("sklearn", *blobs())
    head.save(tmp_path)
    again = LinearHead.read(tmp_path)
    assert np.array_equal(again.weight, head.weight)
    assert {k: v for k, v in again.__dict__.items() if k not in ("weight", "bias")} == {
        k: v for k, v in head.__dict__.items() if k not in ("weight", "bias")
    }
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(RunError):
        LinearHead.read(tmp_path)
    with pytest.raises(RunError):
        LinearHead.read(tmp_path / "absent")


def test_shares_grow_into_each_other() -> None:
    shares = [label_share(200, percent) for percent in (5, 10, 30, 100)]
    assert [len(share) for share in shares] == [10, 20, 60, 200]
    for smaller, larger in itertools.pairwise(shares):
        assert np.array_equal(larger[: len(smaller)], smaller)
    assert np.array_equal(shares[-1], np.random.RandomState(42).permutation(200))
    assert sorted(shares[-1]) == list(range(200))
    assert len(label_share(3, 5)) == 1
