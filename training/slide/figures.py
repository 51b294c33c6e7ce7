"""Figures of a slide model, with intervals by case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.calibration import calibrate, expected_calibration_error
from models.manifest import HeldOutFigure
from models.metrics import balanced_accuracy, binary_auroc, bootstrap, macro_auroc
from training.simulate.slides import CELL_PX, SimulatedSlide
from training.slide.cohort import SlideRow

COMMAND = "python -m training slide"
HEADLINES = ("macro one-versus-rest AUROC", "balanced accuracy")
REPLICATES = 1000


class LabelledSettings(Protocol):
    """What of the settings the figures need."""

    @property
    def labels(self) -> dict[str, str]:
        """Label -> full name."""

    def positive_columns(self) -> list[int]:
        """Numbers of the positive labels."""


def threshold_for(
    positive: NDArray[np.float64], is_positive: NDArray[np.bool_], sensitivity: float
) -> float:
    """Largest threshold that finds the wanted share of positive slides.

    Parameters
    ----------
    positive
        (B,) probability of the positive labels.
    is_positive
        (B,) truth, at least one True.
    sensitivity
        Share of the positive slides that must reach the threshold.

    Returns
    -------
    float
        Within (0, 1).

    Examples
    --------
    >>> threshold_for(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, True, False]), 0.6)
    0.8
    """
    ordered = np.sort(positive[is_positive])[::-1]
    needed = int(np.ceil(sensitivity * len(ordered) - 1e-9))
    return float(np.clip(ordered[max(needed, 1) - 1], 1e-6, 1 - 1e-6))


def measure_slides(
    logits: NDArray[np.float64],
    rows: Sequence[SlideRow],
    settings: LabelledSettings,
    temperature: float,
    threshold: float,
    *,
    data: str,
) -> tuple[HeldOutFigure, ...]:
    """AUROC, balanced accuracy, calibration, and the threshold's sensitivity and specificity.

    Parameters
    ----------
    logits
        (B, C) of slides that the network did not learn from.
    rows
        Their labels and cases, the unit that is resampled.
    settings
        Labels, in the order of the logits.
    temperature, threshold
        Chosen on development slides.
    data
        Name of the slides.
    """
    names = list(settings.labels)
    labels = np.array([names.index(row.label) for row in rows], np.int64)
    cases = np.array([row.case for row in rows])
    probabilities = calibrate(logits, temperature)
    columns = settings.positive_columns()
    truth = np.isin(labels, columns)
    called = probabilities[:, columns].sum(axis=1) >= threshold

    def share(values: NDArray[np.bool_], where: NDArray[np.bool_]) -> float:
        return float(values[where].mean()) if where.any() else float("nan")

    statistics: dict[str, Callable[[NDArray[np.intp]], float]] = {
        HEADLINES[0]: lambda s: macro_auroc(labels[s], probabilities[s]),
        HEADLINES[1]: lambda s: balanced_accuracy(labels[s], probabilities[s]),
        "expected calibration error (15 equal-width bins)": lambda s: expected_calibration_error(
            probabilities[s], labels[s]
        ),
        "sensitivity at the threshold": lambda s: share(called[s], truth[s]),
        "specificity at the threshold": lambda s: share(~called[s], ~truth[s]),
    }
    return _figures(statistics, cases, data)


def _figures(
    statistics: Mapping[str, Callable[[NDArray[np.intp]], float]],
    cases: NDArray[np.str_],
    data: str,
) -> tuple[HeldOutFigure, ...]:
    found = []
    for metric, statistic in statistics.items():
        figure = bootstrap(statistic, cases, replicates=REPLICATES)
        if not np.isfinite(figure.value):
            continue
        is_known = bool(np.isfinite(figure.low))
        found.append(
            HeldOutFigure(
                metric=metric,
                data=data,
                value=round(figure.value, 4),
                low=round(figure.low, 4) if is_known else None,
                high=round(figure.high, 4) if is_known else None,
                n=figure.n,
                groups=len(np.unique(cases)),
                command=COMMAND,
            )
        )
    return tuple(found)


def tumour_auroc(
    maps: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    simulated: Mapping[str, SimulatedSlide],
) -> tuple[HeldOutFigure, ...]:
    """How well attention ranks the tumour cells of simulated slides, where the truth is known.

    Parameters
    ----------
    maps
        Slide -> coordinates (N, 2) and raw attention (N,).
    simulated
        Slide -> its cells.
    """
    values, cases = [], []
    for slide_id, (coordinates, scores) in maps.items():
        slide = simulated[slide_id]
        cells = [slide.cells.get((int(x), int(y))) for x, y in coordinates // CELL_PX]
        truth = np.array([cell is not None and cell.is_tumour for cell in cells])
        if truth.any() and not truth.all():
            values.append(binary_auroc(truth, scores))
            cases.append(slide.case)
    if not values:
        return ()
    known = np.array(values)
    statistics = {
        "AUROC of attention for tumour tiles within a slide": lambda s: float(known[s].mean())
    }
    return _figures(statistics, np.array(cases), "simulated slides with tumour")


def evidence_sentence(figures: Sequence[HeldOutFigure]) -> str:
    """One sentence for every report, of the last slides on which the headlines were measured."""
    headlines = [figure for figure in figures if figure.metric in HEADLINES]
    last = [figure for figure in headlines if figure.data == headlines[-1].data]
    parts = [
        f"{figure.metric} {figure.value:.3f}"
        + ("" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})")
        for figure in last
    ]
    return (
        f"{'; '.join(parts)} with 95 % intervals on {last[0].n} slides of {last[0].groups} cases "
        f"({last[0].data}); not validated clinically."
    )
