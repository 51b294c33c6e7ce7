"""Conformal sets keep their promise; the referral curve counts as a loop does."""

import numpy as np
import pytest

from models.conformal import (
    conformal_scores,
    conformal_sets,
    conformal_threshold,
    referral_curve,
)


def _draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from overconfident probabilities."""
    truth = rng.dirichlet(np.ones(4), count)
    labels = np.array([rng.choice(4, p=row) for row in truth])
    sharp = truth**3
    return sharp / sharp.sum(axis=1, keepdims=True), labels


def _naive_score(row: np.ndarray, label: int, method: str) -> float:
    if method == "lac":
        return 1 - row[label]
    total = 0.0
    for index in sorted(range(len(row)), key=lambda i: -row[i]):
        total += row[index]
        if index == label:
            return total
    raise AssertionError


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_scores_and_sets_are_those_of_a_loop(method: str) -> None:
    probabilities, labels = _draw(np.random.default_rng(0), 50)
    scores = conformal_scores(probabilities, labels, method)
    naive = [_naive_score(p, y, method) for p, y in zip(probabilities, labels, strict=True)]
    np.testing.assert_allclose(scores, naive)
    sets = conformal_sets(probabilities, 0.6, method)
    for row, found in zip(probabilities, sets, strict=True):
        expected = {i for i in range(4) if _naive_score(row, i, method) <= 0.6}
        assert set(np.flatnonzero(found)) == expected | {int(row.argmax())}


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_the_promised_coverage_is_kept_though_the_model_is_overconfident(method: str) -> None:
    rng = np.random.default_rng(1)
    coverages = []
    for _ in range(100):
        probabilities, labels = _draw(rng, 400)
        threshold = conformal_threshold(
            conformal_scores(probabilities[:200], labels[:200], method), 0.9
        )
        sets = conformal_sets(probabilities[200:], threshold, method)
        coverages.append(sets[np.arange(200), labels[200:]].mean())
    assert 0.89 < np.mean(coverages) < 0.93


def test_threshold_is_the_finite_sample_quantile() -> None:
    scores = np.arange(1, 10) / 10
    assert conformal_threshold(scores, 0.9) == 0.9  # rank ceil(10 * 0.9) = 9
    assert conformal_threshold(scores, 0.5) == 0.5
    assert conformal_threshold(scores[:8], 0.9) == np.inf  # eight images cannot promise it
    assert conformal_sets(np.array([[0.6, 0.4]]), np.inf, "lac").all()


@pytest.mark.parametrize("coverage", [0.0, 1.0, float("nan")])
def test_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        conformal_threshold(np.ones(3), coverage)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="raps"):
        conformal_sets(np.ones((1, 2)) / 2, 0.5, "raps")


def test_referral_curve_counts_and_shares_ties() -> None:
    confidence = np.array([0.9, 0.5, 0.5, 0.2])
    is_wrong = np.array([False, True, False, True])
    kept, error = referral_curve(confidence, is_wrong)
    np.testing.assert_allclose(kept, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(error, [0, 0.25, 1 / 3, 0.5])
    rng = np.random.default_rng(2)
    confidence, is_wrong = rng.permutation(30) / 30, rng.random(30) < 0.4
    _, error = referral_curve(confidence, is_wrong)
    ranked = sorted(zip(confidence, is_wrong, strict=True), reverse=True)
    naive = [sum(w for _, w in ranked[: k + 1]) / (k + 1) for k in range(30)]
    np.testing.assert_allclose(error, naive)
    with pytest.raises(ValueError, match="confidence"):
        referral_curve(np.zeros(0), np.zeros(0, bool))
