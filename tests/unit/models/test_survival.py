"""Survival estimators beside loops written from the formulas, and lifelines."""

import warnings

import numpy as np
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index

from models.prognosis import survival

Z = 1.959963984540054


def _cohort(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times with ties, events, and a score that knows something."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count).round(1)
    times = np.ceil(rng.exponential(12 * np.exp(-score))) + 1
    censored = np.ceil(rng.uniform(1, 25, count))
    return np.minimum(times, censored), times <= censored, score


def _naive_survival(times: np.ndarray, has_event: np.ndarray, asked: float) -> float:
    value = 1.0
    for t in sorted(set(times[has_event])):
        if t <= asked:
            value *= 1 - sum(has_event & (times == t)) / sum(times >= t)
    return value


def _naive_censoring_before(times: np.ndarray, has_event: np.ndarray, asked: float) -> float:
    value = 1.0
    for t in sorted(set(times[~has_event])):
        if t < asked:
            left = sum(~has_event & (times == t))
            followed = sum(times > t) + left  # who had the event at t is gone
            value *= 1 - left / followed
    return value


@pytest.mark.parametrize("seed", range(4))
def test_kaplan_meier_and_its_interval(seed: int) -> None:
    times, has_event, _ = _cohort(seed)
    curve = survival.kaplan_meier(times, has_event)
    oracle = KaplanMeierFitter().fit(times, has_event)  # exponential Greenwood, log(-log S)
    interval = oracle.confidence_interval_.loc[curve.times].to_numpy()
    for i, t in enumerate(curve.times):
        assert curve.survival[i] == pytest.approx(_naive_survival(times, has_event, t))
    known = np.isfinite(curve.low)
    assert known.any()
    np.testing.assert_allclose(curve.low[known], interval[known, 0], rtol=1e-6)
    np.testing.assert_allclose(curve.high[known], interval[known, 1], rtol=1e-6)
    assert ((curve.low <= curve.survival) & (curve.survival <= curve.high))[known].all()


def test_survival_is_one_before_and_unknown_after_the_follow_up() -> None:
    curve = survival.kaplan_meier(np.array([1.0, 2.0, 4.0]), np.array([True, True, False]))
    np.testing.assert_allclose(
        curve.at(np.array([0.0, 0.9, 1.0, 3.0, 4.0, 4.1])),
        [1, 1, 2 / 3, 1 / 3, 1 / 3, np.nan],
    )
    dead = survival.kaplan_meier(np.array([1.0, 2.0]), np.array([True, True]))
    assert dead.at(9.0) == 0
    assert np.isnan(dead.low[-1])
    np.testing.assert_array_equal(
        curve.at_risk(np.array([0.0, 1.0, 1.5, 4.0, 5.0])), [3, 3, 2, 1, 0]
    )


@pytest.mark.parametrize("count", [2, 3])
def test_log_rank(count: int) -> None:
    times, has_event, score = _cohort(7)
    groups = np.digitize(score, np.quantile(score, np.arange(1, count) / count))
    statistic, p_value = survival.log_rank(times, has_event, groups)
    oracle = multivariate_logrank_test(times, groups, has_event)
    assert statistic == pytest.approx(oracle.test_statistic)
    assert p_value == pytest.approx(oracle.p_value)


def test_log_rank_of_groups_that_never_meet_is_unknown() -> None:
    times, groups = np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1])
    # Of the second group nobody is compared with nobody: every event falls where one is alone.
    assert np.isnan(survival.log_rank(times[1:], np.array([False, True]), groups[1:])[0])
    with pytest.raises(ValueError, match="two groups"):
        survival.log_rank(times, np.array([True] * 3), np.zeros(3))


@pytest.mark.parametrize("seed", range(3))
def test_dynamic_auc_and_brier_against_loops(seed: int) -> None:
    times, has_event, score = _cohort(seed)
    horizon, predicted = 8.0, 1 / (1 + np.exp(score))
    top = bottom = lost = 0.0
    after = _naive_censoring_before(times, has_event, horizon + 1e-9)
    for i in range(len(times)):
        if has_event[i] and times[i] <= horizon:
            weight = 1 / _naive_censoring_before(times, has_event, times[i])
            lost += weight * predicted[i] ** 2
            for j in range(len(times)):
                if times[j] > horizon:
                    top += weight * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
                    bottom += weight
        elif times[i] > horizon:
            lost += (1 - predicted[i]) ** 2 / after
    assert survival.dynamic_auc(times, has_event, score, horizon) == pytest.approx(top / bottom)
    found = survival.brier_at(times, has_event, predicted, horizon)
    assert found == pytest.approx(lost / len(times))


def test_dynamic_auc_without_censoring_is_the_plain_auc() -> None:
    times = np.array([1.0, 2.0, 3.0, 4.0])
    everyone = np.ones(4, bool)
    score = np.array([3.0, 1.0, 2.0, 0.0])
    assert survival.dynamic_auc(times, everyone, score, 2.0) == pytest.approx(0.75)
    assert np.isnan(survival.dynamic_auc(times, everyone, score, 9.0))
    assert np.isnan(survival.dynamic_auc(times, everyone, score, 0.5))


def test_integrated_brier_of_a_constant_score_is_that_score() -> None:
    times, everyone = np.array([5.0, 6.0, 7.0]), np.ones(3, bool)
    grid = np.array([1.0, 2.0, 4.0])
    found = survival.integrated_brier(times, everyone, np.full((3, 3), 0.7), grid)
    assert found == pytest.approx(0.09)


@pytest.mark.parametrize("seed", range(3))
def test_concordance(seed: int) -> None:
    times, has_event, score = _cohort(seed)
    ours = survival.concordance(times, has_event, score)
    assert ours == pytest.approx(concordance_index(times, -score, has_event), abs=2e-3)
    won = pairs = 0.0
    for i in np.flatnonzero(has_event):
        for j in range(len(times)):
            if times[j] > times[i] or (times[j] == times[i] and not has_event[j]):
                pairs += 1
                won += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    assert ours == pytest.approx(won / pairs)
    untied = times + np.linspace(0, 0.4, len(times))
    assert survival.concordance(untied, has_event, score) == pytest.approx(
        concordance_index(untied, -score, has_event)
    )


def test_cumulative_incidence() -> None:
    times, has_event, score = _cohort(3)
    times = times + np.linspace(0, 0.4, len(times))  # lifelines shuffles ties
    causes = np.where(has_event, np.where(score > 0, 1, 2), 0)
    at, incidence = survival.cumulative_incidence(times, causes, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = AalenJohansenFitter(calculate_variance=False).fit(
            times, causes, event_of_interest=1
        )
    theirs = oracle.cumulative_density_.iloc[:, 0]
    np.testing.assert_allclose(incidence, theirs.loc[at].to_numpy())
    _, other = survival.cumulative_incidence(times, causes, 2)
    whole = survival.kaplan_meier(times, causes != 0)
    np.testing.assert_allclose(incidence + other, 1 - whole.survival)


@pytest.mark.parametrize(
    ("times", "has_event"),
    [([], []), ([1.0, np.nan], [True, True]), ([-1.0], [True]), ([1.0], [True, False])],
)
def test_impossible_follow_up_is_refused(times: list, has_event: list) -> None:
    with pytest.raises(ValueError, match="times"):
        survival.kaplan_meier(np.array(times), np.array(has_event, bool))
