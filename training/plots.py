"""The plots of the reports, each returned as a matplotlib figure that nothing else knows of.

Only the object interface is used, drawn by Agg: no window, no global state, safe in threads.
Colours are those of Okabe and Ito, told apart by readers with any colour vision; lines differ in
dash pattern too. Intervals are drawn wherever they are given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from models.decision import net_benefit, wilson_interval

# Okabe and Ito, Color Universal Design, 2008; without the yellow, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
GREY = "#777777"
MAX_CURVES = 14  # beyond it nobody can tell the lines apart
_INTERVAL = Mapping[str, tuple[float, float]]


def new_figure(width: float = 6.4, height: float = 4.4) -> Figure:
    """Return an empty figure (inches) drawn by Agg."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def styles() -> itertools.cycle[tuple[str, str]]:
    """Return colour and dash pattern of one line after the other."""
    pairs = [
        (colour, DASHES[(i + turn) % len(DASHES)])
        for turn in range(2)
        for i, colour in enumerate(COLOURS)
    ]
    return itertools.cycle(pairs)


def dress(axes: Axes, x: str, y: str) -> None:
    """Name the axes and draw them plainly."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", frameon=False)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Losses, other figures and the learning rate by epoch, each kind on its own axes.

    Parameters
    ----------
    history
        One row an epoch, as ``RunFolder.history`` gives them. ``epoch`` is the abscissa (else the
        row's number); a name with ``loss`` is a loss, ``rate`` or ``lr`` a learning rate, the
        rest are figures. Missing and non-finite values leave a gap; seconds are left out.
    """
    names = dict.fromkeys(name for row in history for name in row)
    kinds: dict[str, list[str]] = {"loss": [], "figure": [], "learning rate": []}
    for name in names:
        if name != "epoch" and "second" not in name:
            kinds[_kind_of(name)].append(name)
    shown = {kind: members for kind, members in kinds.items() if members}
    figure = new_figure(4.2 * max(1, len(shown)), 3.6)
    if not shown:
        _say(figure.subplots(), "no epoch was run")
        return figure
    epochs = [row.get("epoch", number) for number, row in enumerate(history, start=1)]
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (kind, members) in zip(panels, shown.items(), strict=True):
        for name, (colour, dash) in zip(members, styles(), strict=False):
            values = [float(row.get(name, math.nan)) for row in history]
            # One epoch has no line; its point must still show.
            marker = "o" if len(values) == 1 else ""
            axes.plot(epochs, values, dash, color=colour, label=name, marker=marker)
        dress(axes, "epoch", kind)
        _legend(axes)
    return figure


def _kind_of(name: str) -> str:
    if "loss" in name:
        return "loss"
    return "learning rate" if "rate" in name or "lr" in name.split("_") else "figure"


def _binary_tasks(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], names: Sequence[str]
) -> list[tuple[str, NDArray[np.bool_], NDArray[np.floating]]]:
    """Name, truth and score of each label that occurs; of two labels only the second."""
    if probabilities.ndim != 2 or probabilities.shape != (len(labels), len(names)):
        raise ValueError(
            f"{len(labels)} labels, probabilities {probabilities.shape} and {len(names)} names"
        )
    columns = [1] if len(names) == 2 else range(len(names))
    tasks = [(names[c], labels == c, probabilities[:, c]) for c in columns]
    return [task for task in tasks if 0 < task[1].sum() < len(labels)][:MAX_CURVES]


def _of(value: float, name: str, intervals: _INTERVAL | None) -> str:
    """Legend text: name, figure and its interval where one is given."""
    if intervals and name in intervals:
        low, high = intervals[name]
        return f"{name} {value:.3f} ({low:.3f} to {high:.3f})"
    return f"{name} {value:.3f}"


def roc_curves(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    names: Sequence[str],
    *,
    intervals: _INTERVAL | None = None,
) -> Figure:
    """One-versus-rest ROC curve of each label that occurs, its area in the legend.

    Parameters
    ----------
    labels
        (B,) label numbers, 0-based.
    probabilities
        (B, C).
    names
        The C labels. Of two labels only the second is drawn: the first is its mirror image.
    intervals
        Name -> 95 % interval of the area, shown beside it.
    """
    figure = new_figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for task, (colour, dash) in zip(
        _binary_tasks(labels, probabilities, names), styles(), strict=False
    ):
        name, truth, score = task
        false_rate, true_rate, _ = roc_curve(truth, score)
        label = _of(auc(false_rate, true_rate), name, intervals)
        axes.plot(false_rate, true_rate, dash, color=colour, label=label)
    dress(axes, "1 − specificity", "sensitivity")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _legend(axes)
    return figure


def pr_curves(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    names: Sequence[str],
    *,
    intervals: _INTERVAL | None = None,
) -> Figure:
    """One-versus-rest precision-recall curves; parameters as for ``roc_curves``.

    The legend gives the average precision; a tick on the right edge marks each label's share,
    which is what guessing reaches.
    """
    figure = new_figure()
    axes = figure.subplots()
    for task, (colour, dash) in zip(
        _binary_tasks(labels, probabilities, names), styles(), strict=False
    ):
        name, truth, score = task
        precision, recall, _ = precision_recall_curve(truth, score)
        label = _of(float(average_precision_score(truth, score)), name, intervals)
        axes.step(recall, precision, dash, where="post", color=colour, label=label)
        axes.plot([1.0, 1.02], [truth.mean()] * 2, color=colour, clip_on=False)
    dress(axes, "recall (sensitivity)", "precision (positive predictive value)")
    axes.set(xlim=(-0.01, 1.02), ylim=(-0.01, 1.02))
    _legend(axes)
    return figure


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = 10
) -> Figure:
    """Reliability diagram of the most probable label, with the counts below.

    Parameters
    ----------
    probabilities
        (B, C), rows summing to 1; or (B,) probability of one event.
    labels
        (B,) label numbers; or (B,) bool of that event.
    bins
        Bins of equal width.

    Notes
    -----
    Bars on the points are Wilson's 95 % intervals.
    """
    if probabilities.ndim == 2:
        confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        x, y = "confidence", "accuracy"
    else:
        confidence, is_right = probabilities, labels.astype(bool)
        x, y = "predicted probability", "observed share"
    numbers = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(numbers, minlength=bins)
    filled = np.flatnonzero(count)
    figure = new_figure(5.4, 5.0)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    mean = np.bincount(numbers, confidence, bins)[filled] / count[filled]
    right = np.bincount(numbers, is_right.astype(float), bins)[filled]
    low, high = wilson_interval(right, count[filled])
    share = right / count[filled]
    spread = np.maximum(0, np.stack([share - low, high - share]))
    axes.errorbar(mean, share, spread, fmt="o-", color=COLOURS[0], capsize=3)
    dress(axes, "", y)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    below.bar((np.arange(bins) + 0.5) / bins, count, 0.9 / bins, color=COLOURS[5])
    dress(below, x, "images")
    return figure


def confusion(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], names: Sequence[str]
) -> Figure:
    """Confusion matrix: counts, shaded by the share of the true label (the row).

    Parameters
    ----------
    labels
        (B,) true label numbers.
    probabilities
        (B, C); the most probable label is the answer.
    names
        The C labels.
    """
    size = len(names)
    found = probabilities.argmax(axis=1)
    counts = np.bincount(labels * size + found, minlength=size * size).reshape(size, size)
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = max(4.0, 0.62 * size + 2)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    shades = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(size, size):
        colour = "white" if share[row, column] > 0.55 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(size), names, rotation=45, ha="right")
    axes.set_yticks(range(size), names)
    axes.set(xlabel="answer", ylabel="truth")
    figure.colorbar(shades, ax=axes, label="share of the true label", shrink=0.8)
    return figure


def decision_curve(
    is_positive: NDArray[np.bool_],
    probability: NDArray[np.floating] | Mapping[str, NDArray[np.floating]],
    *,
    thresholds: NDArray[np.floating] | None = None,
    interval: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
) -> Figure:
    """Net benefit over the threshold probability, beside treating all and treating none.

    Parameters
    ----------
    is_positive
        (B,) bool.
    probability
        (B,) calibrated probabilities, or name -> such an array for several models.
    thresholds
        (T,) in (0, 1); 0.01 to 0.99 by default.
    interval
        (T,) lower and upper ends of the first model's 95 % interval.
    """
    at = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds, float)
    models = probability if isinstance(probability, Mapping) else {"model": probability}
    figure = new_figure()
    axes = figure.subplots()
    everyone = net_benefit(is_positive, np.ones(len(is_positive)), at)
    axes.plot(at, everyone, color=GREY, linewidth=1, label="act on all")
    axes.axhline(0, color="black", linewidth=1, label="act on none")
    if interval is not None:
        axes.fill_between(at, *interval, color=COLOURS[0], alpha=0.18, linewidth=0)
    top = float(np.mean(is_positive))
    for (name, values), (colour, dash) in zip(models.items(), styles(), strict=False):
        benefit = net_benefit(is_positive, values, at)
        top = max(top, float(benefit.max()))
        axes.plot(at, benefit, dash, color=colour, label=name)
    dress(axes, "threshold probability", "net benefit")
    axes.set_ylim(-0.25 * top - 0.01, 1.1 * top + 0.01)  # far below zero nothing is chosen
    _legend(axes)
    return figure


def forest(
    names: Sequence[str],
    estimates: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    label: str = "hazard ratio",
    reference: float | None = 1.0,
    is_log: bool = True,
    notes: Sequence[str] | None = None,
) -> Figure:
    """Forest plot: a point and its interval a row, the numbers on the right.

    Parameters
    ----------
    names, estimates, lows, highs
        One entry a row, from the top; rows with a non-finite interval show the point alone.
    label
        What is estimated.
    reference
        Where a line marks no effect; None for none.
    is_log
        Logarithmic scale, as ratios want; estimates must be positive then.
    notes
        Text under each name, such as its n.
    """
    rows = len(names)
    figure = new_figure(7.6, 1.3 + 0.42 * rows)
    axes = figure.subplots()
    points = np.asarray(estimates, float)
    spread = np.stack([points - np.asarray(lows, float), np.asarray(highs, float) - points])
    spread = np.where(np.isfinite(spread), np.maximum(spread, 0), 0)
    if is_log:
        axes.set_xscale("log")
        ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if reference is not None:
        axes.axvline(reference, color=GREY, linewidth=0.9)
    axes.errorbar(points, range(rows), xerr=spread, fmt="s", color=COLOURS[0], capsize=3)
    texts = [
        f"{point:.2f} ({low:.2f} to {high:.2f})"
        if np.isfinite([low, high]).all()
        else f"{point:.2f}"
        for point, low, high in zip(points, lows, highs, strict=True)
    ]
    shown = names if notes is None else [f"{a}\n{b}" for a, b in zip(names, notes, strict=True)]
    dress(axes, label, "")
    axes.set_yticks(range(rows), shown)
    axes.set_ylim(rows - 0.5, -0.5)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(rows), texts, fontsize="small")
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    return figure
