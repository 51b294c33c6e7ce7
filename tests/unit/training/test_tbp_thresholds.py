import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.tbp.lesions import count_nevi
from training.errors import CohortError
from training.features.heads import fit_linear_head
from training.tbp.thresholds import ModuleVotes, choose_thresholds, fit_count_threshold


def votes(seed: int, count: int = 60) -> tuple[ModuleVotes, np.ndarray]:
    rng = np.random.default_rng(seed)
    malignant = rng.random(count) < 0.3
    trees = np.clip(rng.normal(0.3 + 0.2 * malignant, 0.15), 0, 1)
    trees[rng.random(count) < 0.1] = np.nan
    risk = np.clip(rng.normal(0.3 + 0.25 * malignant, 0.2), 0, 1)
    return ModuleVotes(risk=risk, trees=trees, is_duckling=rng.random(count) < 0.1), malignant


def alarms(v: ModuleVotes, malignant: np.ndarray, risk: float, trees: float) -> tuple[float, int]:
    flagged = (v.risk >= risk) | (v.trees >= trees) | v.is_duckling
    return float(flagged[malignant].mean()), int(flagged[~malignant].sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sensitivity", [0.5, 0.8, 1.0])
def test_no_other_pair_of_thresholds_is_better(seed: int, sensitivity: float) -> None:
    v, malignant = votes(seed)
    found = choose_thresholds(v, malignant, sensitivity)
    reached, false_alarms = alarms(v, malignant, found.risk, found.trees)
    steps = np.linspace(1e-6, 1, 60)
    others = [
        number
        for risk, trees in itertools.product(steps, steps)
        for share, number in [alarms(v, malignant, risk, trees)]
        if share >= sensitivity
    ]
    if reached >= sensitivity:
        assert false_alarms <= min(others)
    else:
        assert not others


def test_impossible_wishes_are_refused() -> None:
    v, malignant = votes(0)
    with pytest.raises(ValueError, match="sensitivity"):
        choose_thresholds(v, malignant, 0)
    with pytest.raises(ValueError, match="malignant"):
        choose_thresholds(v, np.zeros_like(malignant), 0.9)


def test_count_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(4)
    patients = [f"P{i}" for i in rng.integers(0, 8, 120)]
    truth = rng.random(120) < 0.6
    prob = np.round(np.clip(rng.normal(0.35 + 0.25 * truth, 0.15), 0, 1), 2)
    threshold, error = fit_count_threshold(prob, truth, patients)

    def mean_error(value: float) -> float:
        errors = []
        for name in sorted(set(patients)):
            rows = [i for i, patient in enumerate(patients) if patient == name]
            counted = sum(count_nevi(prob[rows], ["x"] * len(rows), value).values())
            errors.append(abs(counted - truth[rows].sum()))
        return float(np.mean(errors))

    assert mean_error(threshold) == pytest.approx(error)
    assert error == pytest.approx(min(mean_error(v) for v in np.arange(0.005, 1, 0.01)))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_count_threshold_of_equal_scores_is_within_bounds(value: float) -> None:
    for truth in (True, False):
        threshold, error = fit_count_threshold(
            np.full(3, value), np.full(3, truth), ["a", "a", "b"]
        )
        assert 0 < threshold < 1
        assert error == 0


def test_linear_head_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(2, 3, (200, 6))
    labels = (rows[:, 0] - rows[:, 1] + rng.normal(0, 2, 200) > 0).astype(np.int64)
    head = fit_linear_head(rows, labels, classes=2, penalty=0.1, balance=0.0)
    scaled = (rows - rows.mean(0)) / rows.std(0)
    oracle = LogisticRegression(C=1 / (0.1 * 200), tol=1e-9).fit(scaled, labels)
    expected = oracle.decision_function(scaled)
    np.testing.assert_allclose(head.logits(rows)[:, 0], expected, atol=2e-3)
    assert head.losses[-1] <= head.losses[0]


def test_linear_head_of_several_classes_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 240)
    rows = rng.normal(0, 1, (240, 4)) + np.eye(3, 4)[labels] * 2
    head = fit_linear_head(rows, labels, classes=3, penalty=0.05, balance=1.0)
    scaled = (rows - rows.mean(0)) / rows.std(0)
    oracle = LogisticRegression(C=1 / (0.05 * 240), class_weight="balanced", tol=1e-9)
    expected = oracle.fit(scaled, labels).predict_proba(scaled)
    logits = head.logits(rows)
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_class_without_an_example_is_refused() -> None:
    with pytest.raises(CohortError, match="examples of each"):
        fit_linear_head(np.zeros((4, 2)), np.zeros(4, np.int64), classes=2, penalty=1, balance=0)
