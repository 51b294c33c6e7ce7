"""The page of an evaluation: figures, plots and example images with outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray

from models.architectures.diagnosis import ServedDiagnosis
from models.diagnosis import REFUSAL_FACTOR, DiagnosisManifest
from models.manifest import HeldOutFigure
from models.metrics import Figure, binary_auroc, bootstrap
from models.preprocessing import prepare_image
from training import plots
from training.evaluation.analyses import (
    THRESHOLDS,
    Comparison,
    ConformalFigures,
    Referral,
    Subgroup,
    count_labels,
    measure_net_benefit,
)
from training.evaluation.answers import Answers, find_outline, read_cohort_image, read_truth
from training.evaluation.cohort import EvaluationCohort
from training.evaluation.measures import Judged, Statistic, group_names
from training.overlays import draw_outlines
from training.report import Page

EXAMPLES = 6  # of each kind
REPLICATES = 200


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that one evaluation found."""

    manifest: DiagnosisManifest
    data: str
    """Name of the cohort."""
    read: EvaluationCohort
    answers: Answers
    judged: Judged | None
    """None when only outlines are measured."""
    figures: tuple[HeldOutFigure, ...]
    subgroups: list[Subgroup]
    comparisons: list[Comparison]
    conformal: list[ConformalFigures]
    referral: list[Referral]


def write_page(path: Path, found: Evaluation, served: ServedDiagnosis) -> None:
    """Write the page of an evaluation.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    manifest = found.manifest
    page = Page(f"{manifest.name} {manifest.version} on {found.data}")
    if manifest.evidence_level != "real":
        page.notice(f"Evidence of these weights: {manifest.evidence_level}. {manifest.evidence}")
    for remark in found.read.remarks:
        page.notice(remark)
    groups = group_names(found.read.cohort)
    page.text(
        f"{len(groups)} images of {len(np.unique(groups))} groups. Intervals are 95 %, from "
        f"resampling groups. Weights {manifest.digest[:12]}…, made {manifest.created}."
    )
    page.table(
        "Figures",
        [
            {
                "figure": x.metric,
                "value": _as_figure(x),
                "images": x.n,
                "groups": x.groups,
            }
            for x in found.figures
        ],
    )
    if found.judged is not None:
        _add_labels(page, found.judged, groups)
        _add_sets(page, found)
    _add_subgroups(page, found)
    if found.comparisons:
        page.table(
            "Against the other model (permutation by group)",
            [
                {
                    "figure": x.metric,
                    "this model": x.value,
                    "the other": x.against,
                    "p": x.p_value,
                    "images": x.n,
                }
                for x in found.comparisons
            ],
        )
    page.figure(
        "Distance to the training data",
        _ood_histogram(found.answers.ood_score, manifest.ood_threshold),
        "Beyond the first line an image is remarked on, beyond the second it is not assessed.",
    )
    _add_examples(page, found, served)
    page.write(path)


def _as_figure(x: HeldOutFigure) -> Figure:
    nan = float("nan")
    low, high = nan if x.low is None else x.low, nan if x.high is None else x.high
    return Figure(value=x.value, low=low, high=high, n=x.n)


def _add_labels(page: Page, judged: Judged, groups: NDArray[np.str_]) -> None:
    labels, probabilities, names = judged.labels, judged.probabilities, judged.names
    page.table("Labels", count_labels(judged, groups))
    intervals = {}
    for number, name in enumerate(names):
        if 0 < np.count_nonzero(labels == number) < len(labels):
            area = bootstrap(_area_of(judged, number), groups, replicates=REPLICATES)
            intervals[name] = (area.low, area.high)
    page.figure("ROC curves", plots.roc_curves(labels, probabilities, names, intervals=intervals))
    page.figure("Precision and recall", plots.pr_curves(labels, probabilities, names))
    page.figure(
        "Reliability",
        plots.reliability(probabilities, labels),
        "Points below the line: surer than right.",
    )
    page.figure("Confusion matrix", plots.confusion(labels, probabilities, names))
    if 0 < judged.is_malignant.sum() < len(labels):
        _, low, high = measure_net_benefit(judged, groups)
        page.figure(
            "Decision curve for malignancy",
            plots.decision_curve(
                judged.is_malignant, judged.malignancy, thresholds=THRESHOLDS, interval=(low, high)
            ),
            "Worth having where it lies above acting on all and on none.",
        )


def _area_of(judged: Judged, number: int) -> Statistic:
    is_own, score = judged.labels == number, judged.probabilities[:, number]
    return lambda sample: binary_auroc(is_own[sample], score[sample])


def _add_sets(page: Page, found: Evaluation) -> None:
    if found.conformal:
        page.table(
            "Conformal sets (each half of the groups calibrated on the other)",
            [
                {
                    "method": x.method.upper(),
                    "promised": x.promised,
                    "coverage": x.coverage,
                    "labels in a set": x.size,
                    "coverage of the malignant": x.malignant_coverage,
                }
                for x in found.conformal
            ],
        )
    if found.referral:
        figure = plots.new_figure(5.4, 3.8)
        axes = figure.subplots()
        kept = [x.kept for x in found.referral]
        values = np.array(
            [[x.accuracy.value, x.accuracy.low, x.accuracy.high] for x in found.referral]
        )
        axes.plot(kept, values[:, 0], "o-", color=plots.COLOURS[0])
        axes.fill_between(kept, values[:, 1], values[:, 2], color=plots.COLOURS[0], alpha=0.18)
        plots.dress(axes, "share of images the model answers", "accuracy among them")
        page.figure(
            "Selective referral",
            figure,
            "The least sure images are left to a reader, from the right.",
        )


def _add_subgroups(page: Page, found: Evaluation) -> None:
    if not found.subgroups:
        return
    rows: list[dict[str, object]] = []
    for x in found.subgroups:
        row: dict[str, object] = {"column": x.column, "value": x.value, "images": x.n}
        row |= {"groups": x.groups, **x.figures}
        if not x.figures:
            row["remark"] = "too few to measure"
        rows.append(row)
    page.table("Subgroups", rows)
    metric = "malignant_auroc" if found.judged is not None else "jaccard"
    shown = [x for x in found.subgroups if metric in x.figures]
    if shown:
        chosen = [x.figures[metric] for x in shown]
        page.figure(
            f"Subgroups: {metric}",
            plots.forest(
                [f"{x.column}: {x.value} (n = {x.n})" for x in shown],
                [x.value for x in chosen],
                [x.low for x in chosen],
                [x.high for x in chosen],
                label=metric,
                reference=None,
                is_log=False,
            ),
        )


def _ood_histogram(scores: NDArray[np.float32], threshold: float) -> Plot:
    figure = plots.new_figure(5.4, 3.4)
    axes = figure.subplots()
    axes.hist(scores, bins=40, color=plots.COLOURS[5])
    axes.axvline(threshold, color=plots.COLOURS[4], label="remark")
    axes.axvline(REFUSAL_FACTOR * threshold, color=plots.COLOURS[1], ls="--", label="refusal")
    plots.dress(axes, "distance", "images")
    axes.legend(fontsize="small", frameon=False)
    return figure


def _add_examples(page: Page, found: Evaluation, served: ServedDiagnosis) -> None:
    rows, judged = found.read.cohort.rows, found.judged
    if judged is not None:
        is_wrong = judged.probabilities.argmax(axis=1) != judged.labels
        confidence = judged.probabilities.max(axis=1)
        order = np.argsort(-np.where(is_wrong, confidence, -1))[: min(EXAMPLES, is_wrong.sum())]
        captions = [
            f"{rows[i].image_id}: {rows[i].label}, answered "
            f"{judged.names[judged.probabilities[i].argmax()]} {confidence[i]:.2f}"
            for i in order
        ]
        page.images("Surest mistakes", _draw(found, served, order, captions))
        missed = judged.is_malignant & ~judged.is_called
        order = np.argsort(np.where(missed, judged.malignancy, 2))[: min(EXAMPLES, missed.sum())]
        captions = [
            f"{rows[i].image_id}: {rows[i].label}, malignancy {judged.malignancy[i]:.2f}"
            for i in order
        ]
        page.images("Malignant lesions missed most clearly", _draw(found, served, order, captions))
    overlap = found.answers.jaccard
    known = int(np.isfinite(overlap).sum())
    if known:
        order = np.argsort(overlap)  # nan last
        worst, middle = (
            order[: min(EXAMPLES, known)],
            order[known // 2 : known // 2 + EXAMPLES // 2],
        )
        for title, chosen in (("Worst outlines", worst), ("Typical outlines", middle)):
            captions = [f"{rows[i].image_id}: Jaccard {overlap[i]:.2f}" for i in chosen]
            page.images(f"{title} (found blue, true white)", _draw(found, served, chosen, captions))


def _draw(
    found: Evaluation, served: ServedDiagnosis, order: NDArray[np.intp], captions: Sequence[str]
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Images with their outlines: computed again, since masks of a cohort fill the memory."""
    cohort, threshold = found.read.cohort, found.manifest.lesion_threshold
    device = served.ood_means.device
    for index, caption in zip(order, captions, strict=True):
        name = cohort.rows[index].image_id
        image = read_cohort_image(cohort, name)
        shape = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            batch = torch.from_numpy(prepare_image(image))[None].to(device)
            lesion_prob = served(batch).lesion_prob[0].cpu().numpy()
        outline = find_outline(lesion_prob, shape, threshold)
        yield draw_outlines(image, outline, read_truth(cohort, name, shape)), caption
