import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from models.metrics import (
    balanced_accuracy,
    binary_auroc,
    bootstrap,
    dice,
    jaccard,
    macro_auroc,
    permutation_test,
)


def naive_auroc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order; ties count half."""
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[is_positive]
        for n in scores[~is_positive]
    ]
    return float(np.mean(pairs))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_macro_auroc_equals_its_naive_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 20)
    scores = rng.integers(0, 6, (20, 4)) / 6
    present = np.unique(labels)
    value = macro_auroc(labels, scores)
    if len(present) < 2:
        assert np.isnan(value)
    else:
        naive = np.mean([naive_auroc(labels == label, scores[:, label]) for label in present])
        assert value == pytest.approx(naive)


def test_macro_auroc_is_scikit_learns_when_all_labels_occur() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    scores = rng.dirichlet(np.ones(4), 200)
    expected = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert macro_auroc(labels, scores) == pytest.approx(expected)


def test_undefined_areas_are_nan() -> None:
    assert np.isnan(binary_auroc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(macro_auroc(np.zeros(3, np.int64), np.ones((3, 2))))


def test_balanced_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 3, 100), rng.random((100, 3))
    expected = balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert balanced_accuracy(labels, scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [(np.array([0, 3]), np.ones((2, 3))), (np.array([0]), np.ones((2, 3)))],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="label"):
        macro_auroc(labels, scores)


def test_overlap_by_hand() -> None:
    found = np.array([[1, 1, 0, 0]], bool)
    truth = np.array([[0, 1, 1, 0]], bool)
    assert jaccard(found, truth) == pytest.approx(1 / 3)
    assert dice(found, truth) == pytest.approx(1 / 2)
    empty = np.zeros((1, 4), bool)
    assert jaccard(empty, empty) == dice(empty, empty) == 1
    assert jaccard(empty, truth) == dice(empty, truth) == 0
    with pytest.raises(ValueError, match="shapes"):
        jaccard(found, truth.T)


def test_the_interval_covers_the_mean_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    figure = bootstrap(lambda sample: values[sample].mean(), np.arange(400).astype(str))
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert figure.value == pytest.approx(values.mean())
    assert figure.high - figure.low == pytest.approx(2 * half_width, rel=0.12)
    assert figure.low < figure.value < figure.high
    assert figure.n == 400


def test_copies_in_one_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    copied, groups = np.repeat(values, 8), np.repeat(np.arange(50), 8).astype(str)

    def width(groups: np.ndarray, data: np.ndarray) -> float:
        figure = bootstrap(lambda sample: data[sample].mean(), groups)
        return figure.high - figure.low

    alone = width(np.arange(50).astype(str), values)
    assert width(groups, copied) == pytest.approx(alone, rel=0.05)
    assert width(np.arange(400).astype(str), copied) < 0.5 * alone


def test_the_bootstrap_is_seeded_and_order_of_groups_is_free() -> None:
    values = np.random.default_rng(0).random(30)
    groups = np.array([f"lesion {i % 7}" for i in range(30)])

    def mean(sample: np.ndarray) -> float:
        return float(values[sample].mean())

    first = bootstrap(mean, groups, seed=4)
    assert first == bootstrap(mean, groups, seed=4)
    assert first != bootstrap(mean, groups, seed=5)


def test_a_statistic_that_is_mostly_undefined_has_no_interval() -> None:
    labels = np.array([True] + [False] * 3)
    figure = bootstrap(
        lambda sample: (
            binary_auroc(labels[sample], np.arange(4.0)[sample])
            if len(sample) and labels[sample].sum() == 2
            else float("nan")
        ),
        list("abcd"),
        replicates=100,
    )
    assert np.isnan(figure.low)
    assert np.isnan(figure.high)


def test_permutation_test_is_that_of_all_permutations():
    gains = np.array([0.5, 0.4, 0.3, 0.2, -0.1, 0.6, 0.05, 0.7])
    groups = ["a", "a", "b", "c", "d", "d", "e", "f"]
    names, numbers = np.unique(groups, return_inverse=True)

    def difference(swapped):
        return float(np.where(swapped, -gains, gains).mean())

    exact = np.mean(
        [
            abs(difference(np.array(signs)[numbers])) >= gains.mean() - 1e-12
            for signs in itertools.product([False, True], repeat=len(names))
        ]
    )
    found = permutation_test(difference, groups, replicates=4000)
    assert found == pytest.approx(exact, abs=0.01)


def test_permutation_test_of_equal_models_is_one():
    assert permutation_test(lambda swapped: 0.0, ["a", "b"], replicates=50) == 1


def test_permutation_swaps_whole_groups():
    def difference(swapped):
        assert swapped[0] == swapped[2]
        return 1.0 if not swapped.any() else 0.0

    permutation_test(difference, ["a", "b", "a", "c"], replicates=50)


def test_permutation_test_of_an_undefined_figure_is_undefined():
    assert np.isnan(permutation_test(lambda swapped: float("nan"), ["a", "b"]))
