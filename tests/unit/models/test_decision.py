"""Net benefit and Wilson's interval beside their formulas."""

import numpy as np
import pytest
from scipy.optimize import brentq

from models.decision import net_benefit, wilson_interval


def test_net_benefit_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    truth, probability = rng.random(60) < 0.3, rng.random(60).round(2)
    at = np.array([0.05, 0.2, 0.5, 0.9])
    naive = []
    for threshold in at:
        true = sum(t and p >= threshold for t, p in zip(truth, probability, strict=True))
        false = sum(not t and p >= threshold for t, p in zip(truth, probability, strict=True))
        naive.append(true / 60 - false / 60 * threshold / (1 - threshold))
    np.testing.assert_allclose(net_benefit(truth, probability, at), naive)


def test_a_perfect_model_gains_the_prevalence() -> None:
    truth = np.array([True, False, False, True])
    np.testing.assert_allclose(net_benefit(truth, truth.astype(float), np.array([0.3, 0.8])), 0.5)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="within"):
        net_benefit(np.array([True]), np.array([0.5]), np.array([threshold]))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="truth"):
        net_benefit(np.array([True]), np.array([0.5, 0.2]), np.array([0.5]))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (45, 50)])
def test_wilson_interval_solves_its_equation(hits: int, n: int) -> None:
    low, high = (float(v) for v in wilson_interval(hits, n))
    share, z = hits / n, 1.959963984540054

    def gap(p: float) -> float:
        return abs(share - p) - z * np.sqrt(p * (1 - p) / n)

    if hits:
        assert low == pytest.approx(brentq(gap, 1e-9, share - 1e-12), abs=1e-6)
    else:
        assert low == pytest.approx(0, abs=1e-12)
    if hits < n:
        assert high == pytest.approx(brentq(gap, share + 1e-12, 1 - 1e-9), abs=1e-6)
    else:
        assert high == pytest.approx(1, abs=1e-12)


def test_more_hits_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson_interval(3, 2)
