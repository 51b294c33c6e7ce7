"""What change detection reaches on the test pairs, and the page that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.calibration import fit_temperature
from models.change.pair import change_probability
from models.change.preparation import PreparationSettings
from models.manifest import HeldOutFigure
from models.metrics import Figure, binary_auroc, bootstrap
from training import plots
from training.change.pairs import PairCohort, PairFeatures, prepare
from training.cohorts import read_image
from training.finished import MeasuredFigure
from training.report import Page

DATA = "test pairs"
HEADLINE = "AUROC on prepared pairs"
SHOWN = 6  # pairs in the gallery
_Statistic = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True, kw_only=True)
class PairAnswers:
    """What the heads of all variants say of a whole cohort of N pairs."""

    cohort: PairCohort
    features: PairFeatures
    logits: Mapping[str, NDArray[np.float32]]
    """Variant -> (N,)."""
    distances: Mapping[str, NDArray[np.float32]]
    """Variant -> (N,)."""
    changed: NDArray[np.bool_]
    """(N,) False also for pairs of two lesions."""
    is_same: NDArray[np.bool_]
    """(N,) one lesion, not two."""
    split: NDArray[np.int64]
    """(N,)"""

    @classmethod
    def gather(
        cls,
        cohort: PairCohort,
        features: PairFeatures,
        answers: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    ) -> PairAnswers:
        """Join a cohort with the answers of each variant."""
        return cls(
            cohort=cohort,
            features=features,
            logits={name: pair[0] for name, pair in answers.items()},
            distances={name: pair[1] for name, pair in answers.items()},
            changed=np.array([bool(pair.changed) for pair in cohort.pairs]),
            is_same=np.array([pair.changed is not None for pair in cohort.pairs]),
            split=np.array([pair.split for pair in cohort.pairs]),
        )

    def rows(self, split: int) -> NDArray[np.intp]:
        """Pairs of one lesion in a split that can be assessed: those brought together.

        Without registration in the preparation all can.
        """
        tried = np.isfinite(self.features.inliers)
        usable = self.features.is_registered | ~tried
        return np.flatnonzero((self.split == split) & self.is_same & usable)

    def groups(self, rows: NDArray[np.intp]) -> list[str]:
        """Groups of some pairs."""
        return [self.cohort.pairs[row].group_id for row in rows]


def choose_operating_point(
    answers: PairAnswers, variant: str, *, sensitivity: float
) -> tuple[float, float]:
    """Temperature, and the highest threshold that reaches the sensitivity, on validation pairs.

    Returns
    -------
    tuple of float
        Temperature, positive, and threshold in (0, 1).
    """
    rows = answers.rows(1)
    logits, changed = answers.logits[variant][rows], answers.changed[rows]
    pair = np.stack([np.zeros_like(logits), logits], axis=1)
    temperature = fit_temperature(pair, changed.astype(np.int64))
    found = np.sort(change_probability(logits[changed], temperature))[::-1]
    needed = math.ceil(sensitivity * len(found) - 1e-9)
    return temperature, float(np.clip(found[needed - 1], 1e-6, 1 - 1e-6))


def measure(
    answers: PairAnswers,
    *,
    served: str,
    temperature: float,
    threshold: float,
    replicates: int,
) -> tuple[MeasuredFigure, ...]:
    """Figures on the test pairs, lesions or patients being resampled.

    All variants are judged on the same pairs: those that registration brought together.
    """
    rows = answers.rows(2)
    changed = answers.changed[rows]
    called = change_probability(answers.logits[served][rows], temperature) >= threshold
    kinds = np.array([answers.cohort.pairs[row].kind for row in rows])
    scores = {name: logits[rows] for name, logits in answers.logits.items()}
    statistics: dict[str, _Statistic] = {
        f"AUROC on {name} pairs": _auroc(changed, values) for name, values in scores.items()
    }
    for name in scores:
        if name != served:
            statistics[f"gain of AUROC, {served} over {name}"] = _gain(
                changed, scores[served], scores[name]
            )
    statistics["AUROC of the distance alone"] = _auroc(changed, answers.distances[served][rows])
    for kind in sorted(set(kinds[changed].tolist()) - {""}):
        statistics[f"AUROC, {kind} against unchanged"] = _among(
            changed, scores[served], (kinds == kind) | ~changed
        )
    statistics["sensitivity at the threshold"] = _share(called, changed)
    statistics["specificity at the threshold"] = _share(~called, ~changed)
    figures = [_boot(name, s, answers.groups(rows), replicates) for name, s in statistics.items()]
    return (*figures, *_registration_figures(answers, replicates))


def _auroc(changed: NDArray[np.bool_], scores: NDArray[np.floating]) -> _Statistic:
    return lambda r: binary_auroc(changed[r], scores[r])


def _gain(
    changed: NDArray[np.bool_], first: NDArray[np.floating], second: NDArray[np.floating]
) -> _Statistic:
    return lambda r: binary_auroc(changed[r], first[r]) - binary_auroc(changed[r], second[r])


def _among(
    changed: NDArray[np.bool_], scores: NDArray[np.floating], chosen: NDArray[np.bool_]
) -> _Statistic:
    return lambda r: binary_auroc(changed[r][chosen[r]], scores[r][chosen[r]])


def _share(found: NDArray[np.bool_], among: NDArray[np.bool_]) -> _Statistic:
    return lambda r: float(np.mean(found[r][among[r]])) if among[r].any() else math.nan


def _boot(name: str, statistic: _Statistic, groups: list[str], replicates: int) -> MeasuredFigure:
    figure = bootstrap(statistic, groups, replicates=replicates)
    return MeasuredFigure(
        metric=name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        groups=len(set(groups)),
    )


def _registration_figures(answers: PairAnswers, replicates: int) -> list[MeasuredFigure]:
    features, test = answers.features, answers.split == 2
    if not np.isfinite(features.inliers).any():
        return []
    same, two = np.flatnonzero(test & answers.is_same), np.flatnonzero(test & ~answers.is_same)
    registered = features.is_registered
    changed = answers.changed
    figures = [
        _boot(
            f"share of {name} pairs that are registered",
            lambda r, rows=rows: float(np.mean(registered[rows][r])),  # type: ignore[misc]
            answers.groups(rows),
            replicates,
        )
        for name, rows in (
            ("unchanged", same[~changed[same]]),
            ("changed", same[changed[same]]),
        )
    ]
    if len(two):
        figures.append(
            _boot(
                "share of pairs of two lesions that registration refuses",
                lambda r: float(np.mean(~registered[two][r])),
                answers.groups(two),
                replicates,
            )
        )
    truth = np.array(
        [math.nan if p.relative_growth is None else p.relative_growth for p in answers.cohort.pairs]
    )
    rows = np.array([i for i in same if np.isfinite(features.growth[i] - truth[i])], np.intp)
    if len(rows):
        error = np.abs(features.growth[rows] - truth[rows])
        figures.append(
            _boot(
                "mean absolute error of the relative growth of the area",
                lambda r: float(np.mean(error[r])),
                answers.groups(rows),
                replicates,
            )
        )
    return figures


def evidence_sentence(figures: Sequence[HeldOutFigure], *, is_simulated: bool) -> str:
    """One sentence for every report."""
    kind = "simulated pairs, not real ones," if is_simulated else "held-out pairs"
    for figure in figures:
        if figure.metric == HEADLINE and figure.low is not None:
            return (
                f"AUROC {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}, 95 % interval) "
                f"on {figure.n} {kind} of {figure.groups} lesions; not validated clinically."
            )
    return f"no figure with an interval on {kind} of lesions; not validated clinically."


def write_report(
    path: Path,
    answers: PairAnswers,
    *,
    figures: Sequence[MeasuredFigure],
    served: str,
    temperature: float,
    threshold: float,
    history: Sequence[Mapping[str, float]],
    preparation: PreparationSettings,
) -> None:
    """Write the page of a run."""
    rows = answers.rows(2)
    changed = answers.changed[rows].astype(np.int64)
    probability = change_probability(answers.logits[served][rows], temperature)
    page = Page("Change detection")
    if answers.cohort.simulation is not None:
        page.notice(
            "Evidence: simulated. Both images of a pair come from one real image, and changes were "
            "drawn into it; the figures show that the software works, not what it finds in people."
        )
    page.table(
        "Figures on the test pairs",
        [
            {
                "figure": figure.metric,
                "value": Figure(value=figure.value, low=figure.low, high=figure.high, n=figure.n),
                "n": figure.n,
                "lesions": figure.groups,
            }
            for figure in figures
        ],
    )
    page.text(f"Called changed from probability {threshold:.3f}, temperature {temperature:.3f}.")
    page.figure("Learning curves", plots.learning_curves(history))
    for name, logits in answers.logits.items():
        scores = change_probability(logits[rows], 1.0)
        pair = np.stack([1 - scores, scores], axis=1)
        page.figure(f"ROC, {name} pairs", plots.roc_curves(changed, pair, ["stable", "changed"]))
    pair = np.stack([1 - probability, probability], axis=1)
    page.figure("Precision and recall", plots.pr_curves(changed, pair, ["stable", "changed"]))
    page.figure("Reliability", plots.reliability(probability, changed == 1))
    page.figure("Confusion", plots.confusion(changed, pair, ["stable", "changed"]))
    page.images(
        "Pairs: before, after, both prepared", _gallery(answers, rows, probability, preparation)
    )
    page.write(path)


def _gallery(
    answers: PairAnswers,
    rows: NDArray[np.intp],
    probability: NDArray[np.float64],
    preparation: PreparationSettings,
) -> list[tuple[NDArray[np.uint8], str]]:
    """The most and the least probable pairs, as they came and prepared."""
    order = np.argsort(-probability, kind="stable")
    items = []
    for place in [*order[: SHOWN // 2], *order[-(SHOWN // 2) :]]:
        pair = answers.cohort.pairs[rows[place]]
        prepared, _ = prepare(pair, preparation)
        pictures = [
            read_image(pair.before),
            read_image(pair.after),
            prepared.before.image,
            prepared.after.image,
        ]
        height = pictures[0].shape[0]
        row = [
            np.asarray(cv2.resize(p, (round(p.shape[1] * height / p.shape[0]), height)), np.uint8)
            for p in pictures
        ]
        truth = pair.kind or ("changed" if pair.changed else "unchanged")
        items.append((np.hstack(row), f"{truth}; probability of change {probability[place]:.2f}"))
    return items
