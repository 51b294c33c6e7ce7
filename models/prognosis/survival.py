"""Estimators of right-censored survival: Kaplan-Meier, log-rank, IPCW areas and Brier scores.

Times are in any one unit. ``has_event`` is True where the event was seen at ``time`` and False
where the subject was last seen free of it. All functions are pure; lifelines is their oracle in
the tests, beside loops written from the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri

Z_95 = float(ndtri(0.975))


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """A right-continuous step curve with its pointwise 95 % interval."""

    times: NDArray[np.float64]
    """(T,) ascending times at which the curve steps; before the first it is 1."""
    survival: NDArray[np.float64]
    """(T,) probability in [0, 1] from that time on."""
    low: NDArray[np.float64]
    """(T,) lower end of the interval; nan where it is undefined."""
    high: NDArray[np.float64]
    """(T,) upper end."""
    subject_times: NDArray[np.float64]
    """(N,) ascending time of the event or the last contact of each subject."""
    is_censored: NDArray[np.bool_]
    """(N,) True where the subject left without the event."""

    def at(self, times: NDArray[np.floating] | float) -> NDArray[np.float64]:
        """Return the survival at ``times``; 1 before the first step, nan after the last subject."""
        asked = np.asarray(times, np.float64)
        steps = np.concatenate([[1.0], self.survival])
        values = steps[np.searchsorted(self.times, asked, "right")]
        # Beyond the follow-up nothing is known, unless all had the event by then.
        unknown = (asked > self.subject_times[-1]) & (values > 0)
        return np.where(unknown, np.nan, values)

    def at_risk(self, times: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return how many subjects were still followed just before each of ``times``."""
        before = np.searchsorted(self.subject_times, np.asarray(times, np.float64), "left")
        return np.asarray(len(self.subject_times) - before, np.int64)


def _check(times: NDArray[np.floating], has_event: NDArray[np.bool_]) -> None:
    if times.ndim != 1 or has_event.shape != times.shape or not len(times):
        raise ValueError(f"times {times.shape} and events {has_event.shape} do not fit")
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("times must be finite and not negative")


def _count_events(
    times: NDArray[np.floating], has_event: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct event times, events at each, subjects at risk just before each."""
    found, events = np.unique(times[has_event], return_counts=True)
    event_times: NDArray[np.float64] = found.astype(np.float64)
    before = np.searchsorted(np.sort(times), event_times, "left")
    return (
        event_times,
        np.asarray(events, np.int64),
        np.asarray(len(times) - before, np.int64),
    )


def kaplan_meier(times: NDArray[np.floating], has_event: NDArray[np.bool_]) -> SurvivalCurve:
    """Product-limit estimate of the survival function.

    Parameters
    ----------
    times
        (N,) follow-up, not negative.
    has_event
        (N,) bool.

    Returns
    -------
    SurvivalCurve
        Steps at the distinct event times.

    Raises
    ------
    ValueError
        If the arrays are empty, do not fit each other or hold impossible times.

    References
    ----------
    Kaplan and Meier, JASA 53, 1958; variance by Greenwood's formula, interval on the scale of
    log(-log S) (Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 2002,
    eq. 1.12), so that it stays within [0, 1].
    """
    _check(times, has_event)
    event_times, events, at_risk = _count_events(times, has_event)
    survival = np.cumprod(1 - events / at_risk, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = Z_95 * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    is_known = (survival > 0) & (survival < 1)
    order = np.argsort(times, kind="stable")
    return SurvivalCurve(
        times=event_times,
        survival=survival,
        low=np.where(is_known, low, np.nan),
        high=np.where(is_known, high, np.nan),
        subject_times=np.asarray(times, np.float64)[order],
        is_censored=~has_event[order],
    )


def log_rank(
    times: NDArray[np.floating], has_event: NDArray[np.bool_], groups: NDArray[np.generic]
) -> tuple[float, float]:
    """Log-rank test that all groups share one hazard.

    Parameters
    ----------
    times, has_event
        (N,) follow-up and event.
    groups
        (N,) group of each subject; at least two must occur.

    Returns
    -------
    tuple of float
        Chi-squared statistic on (groups - 1) degrees of freedom and its p-value; (nan, nan) where
        the groups never share a risk set.

    References
    ----------
    Mantel, Cancer Chemotherapy Reports 50, 1966; Kalbfleisch and Prentice, 2002, section 1.5.
    """
    _check(times, has_event)
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError("the log-rank test needs two groups")
    event_times, events, at_risk = _count_events(times, has_event)
    own_risk = np.empty((len(names), len(event_times)))
    own_events = np.empty_like(own_risk)
    for number, name in enumerate(names):
        own = groups == name
        own_risk[number] = own.sum() - np.searchsorted(np.sort(times[own]), event_times, "left")
        own_events[number] = (times[own & has_event][:, None] == event_times).sum(axis=0)
    share = own_risk / at_risk
    excess = (own_events - share * events).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(at_risk > 1, events * (at_risk - events) / (at_risk - 1), 0.0)
    covariance = np.diag((scale * share).sum(axis=1)) - (scale * share) @ share.T
    # The excesses sum to zero: the last group is left out.
    kept, excess = covariance[:-1, :-1], excess[:-1]
    if np.linalg.matrix_rank(kept) < len(kept):
        return float("nan"), float("nan")
    statistic = float(excess @ np.linalg.solve(kept, excess))
    return statistic, float(chdtrc(len(names) - 1, statistic))


def censoring_before(
    times: NDArray[np.floating], has_event: NDArray[np.bool_], asked: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Probability of being still followed just before ``asked``, G(t-).

    Parameters
    ----------
    times, has_event
        (N,) follow-up and event.
    asked
        (M,) times.

    Notes
    -----
    The Kaplan-Meier estimate of the censoring times. Subjects with the event at a time leave
    before those censored at that time.
    """
    _check(times, has_event)
    left, counts = np.unique(times[~has_event], return_counts=True)
    before = np.searchsorted(np.sort(times), left, "left")
    events_at = np.searchsorted(np.sort(times[has_event]), left, "right") - np.searchsorted(
        np.sort(times[has_event]), left, "left"
    )
    at_risk = len(times) - before - events_at
    steps = np.concatenate([[1.0], np.cumprod(1 - counts / at_risk)])
    return np.asarray(steps[np.searchsorted(left, asked, "left")], np.float64)


def dynamic_auc(
    times: NDArray[np.floating],
    has_event: NDArray[np.bool_],
    scores: NDArray[np.floating],
    horizon: float,
) -> float:
    """Cumulative/dynamic area under the ROC curve at one time, weighted for censoring.

    Parameters
    ----------
    times, has_event
        (N,) follow-up and event.
    scores
        (N,) larger for higher risk.
    horizon
        Cases had the event by then, controls were followed beyond it.

    Returns
    -------
    float
        In [0, 1]; nan without a case or a control.

    References
    ----------
    Uno et al., JASA 102, 2007; Hung and Chiang, Canadian J. Statistics 38, 2010: each case
    weighs 1/G(T-); the controls' common weight 1/G(t) cancels.
    """
    _check(times, has_event)
    is_case, is_control = has_event & (times <= horizon), times > horizon
    if not is_case.any() or not is_control.any():
        return float("nan")
    weights = 1 / censoring_before(times, has_event, times[is_case])
    controls = np.sort(scores[is_control])
    below = np.searchsorted(controls, scores[is_case], "left")
    not_above = np.searchsorted(controls, scores[is_case], "right")
    won = (below + not_above) / 2  # a tie counts half
    return float((weights * won).sum() / (weights.sum() * len(controls)))


def brier_at(
    times: NDArray[np.floating],
    has_event: NDArray[np.bool_],
    survival: NDArray[np.floating],
    horizon: float,
) -> float:
    """Brier score of the predicted survival at one time, weighted for censoring.

    Parameters
    ----------
    times, has_event
        (N,) follow-up and event.
    survival
        (N,) predicted probability of being free of the event at ``horizon``.
    horizon
        Within the follow-up.

    Returns
    -------
    float
        In [0, 1] up to the noise of the weights; nan when nobody was followed beyond it.

    References
    ----------
    Graf et al., Statistics in Medicine 18, 1999, eq. 6.
    """
    _check(times, has_event)
    is_case, is_control = has_event & (times <= horizon), times > horizon
    if not is_control.any():
        return float("nan")
    case_weight = 1 / censoring_before(times, has_event, times[is_case])
    # Nobody censored exactly at the horizon is a control: G(t) and G(t-) of the next time agree.
    control_weight = 1 / censoring_before(times, has_event, np.nextafter([horizon], np.inf))[0]
    lost = (case_weight * survival[is_case] ** 2).sum()
    lost += control_weight * ((1 - survival[is_control]) ** 2).sum()
    return float(lost / len(times))


def integrated_brier(
    times: NDArray[np.floating],
    has_event: NDArray[np.bool_],
    survival: NDArray[np.floating],
    grid: NDArray[np.floating],
) -> float:
    """Brier score averaged over time by the trapezium rule.

    Parameters
    ----------
    survival
        (N, T) predicted survival at ``grid``.
    grid
        (T,) ascending times within the follow-up, T at least 2.
    """
    scores = [brier_at(times, has_event, survival[:, i], t) for i, t in enumerate(grid)]
    return float(np.trapezoid(scores, grid) / (grid[-1] - grid[0]))


def concordance(
    times: NDArray[np.floating], has_event: NDArray[np.bool_], scores: NDArray[np.floating]
) -> float:
    """Share of comparable pairs in which the one with the earlier event has the higher score.

    Parameters
    ----------
    times, has_event
        (N,) follow-up and event.
    scores
        (N,) larger for higher risk; ties count half.

    Returns
    -------
    float
        In [0, 1]; nan without a comparable pair. Memory grows with N squared.

    References
    ----------
    Harrell et al., JAMA 247, 1982. A pair is comparable when the earlier time is an event, or
    when of two equal times one is an event and the other is not.
    """
    _check(times, has_event)
    cases = np.flatnonzero(has_event)
    later = times[None, :] > times[cases, None]
    later |= (times[None, :] == times[cases, None]) & ~has_event[None, :]
    if not later.any():
        return float("nan")
    won = scores[cases, None] > scores[None, :]
    tied = scores[cases, None] == scores[None, :]
    return float(((won + 0.5 * tied) * later).sum() / later.sum())


def cumulative_incidence(
    times: NDArray[np.floating], causes: NDArray[np.integer], cause: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of one cause by each time, other causes competing.

    Parameters
    ----------
    times
        (N,) follow-up.
    causes
        (N,) 0 for censored, else the number of the cause.
    cause
        The cause asked for.

    Returns
    -------
    tuple of ndarray
        (T,) times at which any cause struck and the cumulative incidence from that time on.

    References
    ----------
    Aalen and Johansen, Scand. J. Statistics 5, 1978: the sum of S(t-) d_i / n_i, with S of all
    causes together. One minus Kaplan-Meier of a single cause overstates it.
    """
    has_any = causes != 0
    _check(times, has_any)
    event_times, events, at_risk = _count_events(times, has_any)
    own = (times[causes == cause][:, None] == event_times).sum(axis=0)
    overall = np.cumprod(1 - events / at_risk, dtype=np.float64)
    before = np.concatenate([[1.0], overall[:-1]])
    return event_times, np.cumsum(before * own / at_risk)
