"""What TBP screening reaches on the test patients, and the page that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import HeldOutFigure
from models.metrics import Figure, binary_auroc, bootstrap, macro_auroc
from models.tbp.lesions import PHOTODAMAGE_GRADES, FusionThresholds
from training import plots
from training.cohorts import read_image
from training.finished import MeasuredFigure
from training.report import Page
from training.tbp.cohort import TbpCohort

DATA = "test patients"
HEADLINES = ("sensitivity of the OR, lesions", "specificity of the OR, lesions")
SHOWN = 12  # lesions in the gallery


@dataclass(frozen=True, kw_only=True)
class TbpAnswers:
    """What heads and trees say of a whole cohort."""

    cohort: TbpCohort
    is_kept: NDArray[np.bool_]
    """(N,) lesions that pass the filters."""
    risk: NDArray[np.float64]
    """(N,)"""
    nevus: NDArray[np.float64]
    """(N,)"""
    trees: NDArray[np.float32]
    """(N,)"""
    is_duckling: NDArray[np.bool_]
    """(N,)"""
    photodamage: NDArray[np.float64]
    """(M, 3) of the skin tiles."""

    def test(self) -> NDArray[np.intp]:
        """Numbers of the test lesions that pass the filters."""
        return np.flatnonzero((self.cohort.lesions.split == 2) & self.is_kept)

    def is_flagged(self, thresholds: FusionThresholds) -> NDArray[np.bool_]:
        """(N,) OR of the three modules."""
        return np.asarray(
            (self.risk >= thresholds.risk) | (self.trees >= thresholds.trees) | self.is_duckling
        )


def measure(
    answers: TbpAnswers,
    thresholds: FusionThresholds,
    nevus_threshold: float,
    *,
    replicates: int,
) -> tuple[MeasuredFigure, ...]:
    """Figures on the test patients, patients being resampled.

    Parameters
    ----------
    answers
        Scores of the whole cohort.
    thresholds, nevus_threshold
        Chosen on the validation patients.
    replicates
        Bootstrap samples.
    """
    return (
        *_lesion_figures(answers, thresholds, replicates),
        *_patient_figures(answers, thresholds, nevus_threshold, replicates),
        *_photodamage_figures(answers, replicates),
    )


def _figure(metric: str, figure: Figure, groups: Sequence[str]) -> MeasuredFigure:
    return MeasuredFigure(
        metric=metric,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        n=figure.n,
        groups=len(set(groups)),
    )


def _lesion_figures(
    answers: TbpAnswers, thresholds: FusionThresholds, replicates: int
) -> list[MeasuredFigure]:
    test = answers.test()
    lesions = answers.cohort.lesions
    malignant, groups = lesions.malignant[test], lesions.patients[test].tolist()
    flagged = answers.is_flagged(thresholds)[test]
    modules = {
        "risk head": answers.risk[test] >= thresholds.risk,
        "ugly duckling": answers.is_duckling[test],
        "measurements": answers.trees[test] >= thresholds.trees,
    }

    def share(chosen: NDArray[np.bool_], found: NDArray[np.bool_]) -> _Statistic:
        return lambda rows: _mean(found[rows][chosen[rows]])

    statistics: dict[str, _Statistic] = {
        "malignancy AUROC of the trees": lambda r: binary_auroc(
            malignant[r], answers.trees[test][r]
        ),
        "malignancy AUROC of the risk head": lambda r: binary_auroc(
            malignant[r], answers.risk[test][r]
        ),
        "sensitivity of the OR, lesions": share(malignant, flagged),
        "specificity of the OR, lesions": share(~malignant, ~flagged),
        **{
            f"sensitivity of {name} alone": share(malignant, found)
            for name, found in modules.items()
        },
        "share of lesions recommended": lambda r: _mean(flagged[r]),
        "nevus AUROC": lambda r: binary_auroc(lesions.nevus[test][r] == 1, answers.nevus[test][r]),
    }
    return [
        _figure(name, bootstrap(statistic, groups, replicates=replicates), groups)
        for name, statistic in statistics.items()
    ]


_Statistic = Callable[[NDArray[np.intp]], float]


def _mean(values: NDArray[np.number | np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _patient_figures(
    answers: TbpAnswers,
    thresholds: FusionThresholds,
    nevus_threshold: float,
    replicates: int,
) -> list[MeasuredFigure]:
    test = answers.test()
    lesions = answers.cohort.lesions
    names, numbers = np.unique(lesions.patients[test], return_inverse=True)
    malignant = lesions.malignant[test]
    hit = malignant & answers.is_flagged(thresholds)[test]
    is_nevus = lesions.nevus[test] == 1
    found = answers.nevus[test] >= nevus_threshold
    is_ill = np.bincount(numbers, weights=malignant) > 0
    # A patient is found when a malignant lesion is, not when some other one is pointed at.
    is_found = np.bincount(numbers, weights=hit) > 0
    error = np.bincount(numbers, weights=found) - np.bincount(numbers, weights=is_nevus)
    groups = names.tolist()
    statistics: dict[str, _Statistic] = {
        "patients with a malignant lesion that is found": lambda r: _mean(is_found[r][is_ill[r]]),
        "mean absolute error of a patient's nevus count": lambda r: _mean(np.abs(error[r])),
        "mean error of a patient's nevus count": lambda r: _mean(error[r]),
        "nevi of a patient": lambda r: _mean(np.bincount(numbers, weights=is_nevus)[r]),
    }
    return [
        _figure(name, bootstrap(statistic, groups, replicates=replicates), groups)
        for name, statistic in statistics.items()
    ]


def _photodamage_figures(answers: TbpAnswers, replicates: int) -> list[MeasuredFigure]:
    skin = answers.cohort.skin
    test = np.flatnonzero(skin.split == 2)
    if len(test) == 0:
        return []
    grade, probabilities = skin.grade[test], answers.photodamage[test]
    groups = skin.patients[test].tolist()
    statistics: dict[str, _Statistic] = {
        "photodamage macro one-versus-rest AUROC": lambda r: macro_auroc(
            grade[r], probabilities[r]
        ),
        "photodamage accuracy": lambda r: _mean(probabilities[r].argmax(axis=1) == grade[r]),
    }
    return [
        _figure(name, bootstrap(statistic, groups, replicates=replicates), groups)
        for name, statistic in statistics.items()
    ]


def evidence_sentence(figures: Sequence[HeldOutFigure], *, is_simulated: bool) -> str:
    """One sentence for every report."""
    parts = [
        f"{figure.metric} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
        for figure in figures
        if figure.metric in HEADLINES and figure.low is not None
    ]
    kind = "simulated patients, not real ones" if is_simulated else "held-out patients"
    return (
        f"{'; '.join(parts) or 'no figure'} with 95 % intervals on {figures[0].n} lesions of "
        f"{figures[0].groups} {kind}; not validated clinically."
    )


def write_report(
    path: Path,
    answers: TbpAnswers,
    *,
    figures: Sequence[MeasuredFigure],
    thresholds: FusionThresholds,
    nevus_threshold: float,
    history: Sequence[Mapping[str, float]],
    is_simulated: bool,
    remarks: Sequence[str],
) -> None:
    """Write the page of a run."""
    test = answers.test()
    lesions, skin = answers.cohort.lesions, answers.cohort.skin
    page = Page("TBP screening")
    if is_simulated:
        page.notice(
            "Evidence: simulated. Patients, malignant deviations, referrals and photodamage are "
            "made by a simulator; the figures show that the software works, not what it finds in "
            "people."
        )
    for remark in remarks:
        page.text(remark)
    page.table(
        "Figures on the test patients",
        [
            {
                "figure": figure.metric,
                "value": Figure(value=figure.value, low=figure.low, high=figure.high, n=figure.n),
                "n": figure.n,
                "patients": figure.groups,
            }
            for figure in figures
        ],
    )
    page.table(
        "Thresholds, chosen on the validation patients",
        [
            {"module": "risk", "says yes from": thresholds.risk},
            {"module": "measurements", "says yes from": thresholds.trees},
            {"module": "nevus count", "says yes from": nevus_threshold},
        ],
    )
    page.figure("Learning curves of the heads", plots.learning_curves(history))
    malignant = lesions.malignant[test].astype(np.int64)
    modules: dict[str, NDArray[np.floating]] = {
        "risk head": answers.risk,
        "measurements": answers.trees,
    }
    for name, scores in modules.items():
        pair = np.stack([1 - scores[test], scores[test]], axis=1)
        names = ["benign", "malignant"]
        page.figure(f"ROC of the {name}", plots.roc_curves(malignant, pair, names))
        page.figure(f"Precision and recall of the {name}", plots.pr_curves(malignant, pair, names))
    page.figure(
        "Reliability of the nevus head",
        plots.reliability(answers.nevus[test], lesions.nevus[test] == 1),
    )
    chosen = skin.split == 2
    if chosen.any():
        page.figure(
            "Photodamage",
            plots.confusion(skin.grade[chosen], answers.photodamage[chosen], PHOTODAMAGE_GRADES),
        )
    page.images("Lesions to look at first", _gallery(answers, thresholds))
    page.write(path)


def _gallery(
    answers: TbpAnswers, thresholds: FusionThresholds
) -> list[tuple[NDArray[np.uint8], str]]:
    """The test lesions that most modules recommend."""
    test = answers.test()
    lesions = answers.cohort.lesions
    votes = {
        "risk": answers.risk[test] >= thresholds.risk,
        "ugly duckling": answers.is_duckling[test],
        "measurements": answers.trees[test] >= thresholds.trees,
    }
    count = np.sum(list(votes.values()), axis=0)
    order = np.lexsort((-answers.risk[test], -count))[:SHOWN]
    items = []
    for place in order:
        reasons = [name for name, vote in votes.items() if vote[place]]
        truth = "malignant" if lesions.malignant[test[place]] else "benign"
        caption = f"{truth}; {', '.join(reasons) or 'no reason'}"
        items.append((read_image(lesions.tiles[test[place]]), caption))
    return items
