"""Figures of a robustness run as JSON values and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.report import Page
from training.robustness.clustering import ClusteringScore
from training.robustness.drop import PerformanceDrop
from training.robustness.index import RobustnessIndex


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of the table."""

    image_id: str
    label: str
    centre: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The three measures of one variant; None with its reason where one cannot be taken."""

    variant: str
    index: RobustnessIndex
    drop: PerformanceDrop | None
    drop_reason: str
    clustering: ClusteringScore | None
    clustering_reason: str


def plain_values(value: object) -> object:
    """Values that JSON can hold: nan, which it lacks, becomes null."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return value


def write_report(
    path: Path,
    samples: Sequence[Sample],
    measured: Sequence[Measures],
    refused: Mapping[str, str],
) -> None:
    """Write ``report.html``; ``refused`` names what could not be tried, with its reason."""
    page = Page("Robustness to the centre")
    page.text(
        "Robustness index: 0.5 balanced, 1 robust. Performance drop: what a linear classifier "
        "loses when label and centre go together in training, 0 at best. Clustering score: -1 "
        "follows the centre, 1 the biology. ComBat is given the labels of the very samples that "
        "are measured, so its figures are an upper bound."
    )
    counts: dict[tuple[str, str], int] = {}
    for sample in samples:
        cell = (sample.centre, sample.label)
        counts[cell] = counts.get(cell, 0) + 1
    page.table(
        "Samples", [{"centre": c, "label": x, "samples": n} for (c, x), n in sorted(counts.items())]
    )
    page.table("Measures", [_row(measures) for measures in measured])
    reasons = dict(refused)
    for measures in measured:
        for kind in ("drop", "clustering"):
            reason = getattr(measures, f"{kind}_reason")
            if reason:
                reasons[f"{measures.variant}: {kind}"] = reason
    page.table("Not measured", [{"what": k, "reason": v} for k, v in reasons.items()])
    drops = {m.variant: m.drop for m in measured if m.drop is not None}
    if drops:
        page.figure(
            "Accuracy over association",
            _accuracy_plot(drops),
            "Balanced accuracy after training on samples whose label and centre go together more "
            "and more (Cramér's V). Bars: 95 % intervals within repetitions. Dashed: unseen "
            "centres.",
        )
    page.write(path)


def _row(measures: Measures) -> dict[str, object]:
    index, drop, clustering = measures.index, measures.drop, measures.clustering
    row: dict[str, object] = {
        "variant": measures.variant,
        "robustness index": f"{index.value:.3f} ({index.low:.3f} to {index.high:.3f})",
        "k": index.k,
        "kNN balanced accuracy": index.balanced_accuracy,
        "samples with neither": index.share_without,
    }
    if drop is not None:
        for name, part in (("drop, same centres", drop.in_distribution), ("unseen", drop.unseen)):
            if part is not None:
                low, high = 100 * part.drop_low, 100 * part.drop_high
                row[name] = f"{100 * part.drop:.1f} % ({low:.1f} to {high:.1f})"
    if clustering is not None:
        row["clustering score"] = clustering.value
    return row


def _accuracy_plot(drops: Mapping[str, PerformanceDrop]) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (name, drop) in enumerate(drops.items()):
        for part, style in ((drop.in_distribution, "-"), (drop.unseen, "--")):
            if part is None:
                continue
            half = np.array(part.mean) - np.array(part.low)
            axes.errorbar(
                drop.association,
                part.mean,
                yerr=np.nan_to_num(half),
                linestyle=style,
                color=f"C{number}",
                label=name if style == "-" else None,
                capsize=2,
            )
    axes.set_xlabel("Cramér's V of label and centre in training")
    axes.set_ylabel("balanced accuracy")
    axes.legend(frameon=False, fontsize=8)
    return figure
