"""Plots of survival: Kaplan-Meier curves, calibration at a time, cumulative incidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.prognosis.survival import SurvivalCurve
from training.plots import COLOURS, GREY, dress, new_figure, styles


def kaplan_meier(
    curves: Mapping[str, SurvivalCurve],
    *,
    time: str = "years",
    outcome: str = "survival",
    p_value: float | None = None,
    ticks: Sequence[float] | None = None,
) -> Figure:
    """Kaplan-Meier curves with 95 % bands, ticks at censored times and the numbers at risk.

    Parameters
    ----------
    curves
        Group -> its curve (``models.prognosis.survival.kaplan_meier``).
    time
        Unit of the times.
    outcome
        What surviving means here, e.g. ``recurrence-free``.
    p_value
        Of the log-rank test, written into the plot.
    ticks
        Times at which the numbers at risk are given; chosen when None.
    """
    longest = max(curve.subject_times[-1] for curve in curves.values())
    figure = new_figure(6.8, 4.4 + 0.22 * len(curves))
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1 + 0.8 * len(curves)))
    for (name, curve), (colour, dash) in zip(curves.items(), styles(), strict=False):
        _draw_survival(axes, curve, name, colour, dash)
    dress(axes, "", outcome)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.015 * longest, 1.015 * longest)
    if ticks is not None:
        axes.set_xticks(list(ticks))
    if p_value is not None:
        text = f"log-rank p = {p_value:.3f}" if p_value >= 0.001 else "log-rank p < 0.001"
        axes.text(0.02, 0.04, text, transform=axes.transAxes, fontsize="small")
    axes.legend(fontsize="small", frameon=False, loc="best")
    at = np.array([tick for tick in axes.get_xticks() if 0 <= tick <= longest])
    for row, curve in enumerate(curves.values()):
        for tick, count in zip(at, curve.at_risk(at), strict=True):
            table.text(tick, row, str(count), ha="center", va="center", fontsize="small")
    table.set_ylim(len(curves) - 0.4, -0.6)
    table.set_yticks(range(len(curves)), list(curves), fontsize="small")
    table.set_xlabel(time)
    table.set_title("number at risk", fontsize="small", loc="left", pad=2)
    table.tick_params(axis="x", length=0)
    table.tick_params(axis="y", length=0, pad=10)  # clear of the first column
    table.spines[:].set_visible(False)
    return figure


def _draw_survival(axes: Axes, curve: SurvivalCurve, name: str, colour: str, dash: str) -> None:
    end = curve.subject_times[-1]
    times = np.concatenate([[0.0], curve.times, [end]])

    def steps(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[1.0], values, values[-1:] if len(values) else [1.0]])

    label = f"{name} (n = {len(curve.subject_times)})"
    axes.step(times, steps(curve.survival), dash, where="post", color=colour, label=label)
    low, high = steps(curve.low), steps(curve.high)
    axes.fill_between(times, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    censored = curve.subject_times[curve.is_censored]
    axes.plot(censored, curve.at(censored), "|", color=colour, markersize=6)


def calibration_at(groups: Sequence[tuple[float, float, float, float]], outcome: str) -> Figure:
    """Predicted and observed survival of groups of patients at one time.

    Parameters
    ----------
    groups
        Mean predicted survival, Kaplan-Meier survival and its 95 % interval, a group each.
    outcome
        What is predicted, for the axes.
    """
    predicted, observed, low, high = np.array(groups, float).T
    figure = new_figure(4.8, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    spread = np.nan_to_num(np.maximum(0, np.stack([observed - low, high - observed])))
    axes.errorbar(predicted, observed, spread, fmt="o", color=COLOURS[0], capsize=3)
    dress(axes, f"predicted {outcome}", f"observed {outcome}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure


def incidence(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, time: str = "years"
) -> Figure:
    """Cumulative incidence of competing causes.

    Parameters
    ----------
    curves
        Cause -> times and incidence from each on, as
        ``models.prognosis.survival.cumulative_incidence`` gives them.
    time
        Unit of the times.
    """
    figure = new_figure()
    axes = figure.subplots()
    for (name, (times, values)), (colour, dash) in zip(curves.items(), styles(), strict=False):
        at, steps = np.concatenate([[0.0], times]), np.concatenate([[0.0], values])
        axes.step(at, steps, dash, where="post", color=colour, label=name)
    dress(axes, time, "cumulative incidence")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize="small", frameon=False)
    return figure
