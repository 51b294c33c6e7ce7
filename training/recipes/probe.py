"""Recipe of linear probes on cached embeddings, with label-efficiency runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot
from scipy.special import softmax

from models.metrics import Figure
from training.backbones import COMPACT, HELP, name_of, notice_of, open_backbone
from training.classification import (
    describe_classifier,
    describe_splits,
    measure_classifier,
    plain_figures,
)
from training.errors import CohortError
from training.features.extraction import Features, extract_features
from training.features.linear import LinearHead, Preset, fit_probe, label_share
from training.labelled import LabelledSettings, LabelledSplits, read_labelled
from training.recipes.features import write_skipped
from training.report import Page
from training.runs import Progress, RunFolder, device
from training.settings import read_toml

SUMMARY = "train linear probes on embeddings, with label-efficiency runs"
FIGURES = "figures.json"


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Everything that decides a probe, apart from encoder and data."""

    recipe: Literal["probe"]
    preset: Preset
    """``panderm-code`` or ``sklearn`` (``training.features.linear``)."""
    framing: Literal["reference", "whole"]
    """PanDerm's framing, or the whole image squashed."""
    batch_size: int
    """Images decoded and encoded at a time."""
    percents: tuple[int, ...]
    """Shares of the training split, ascending; the last is the probe that is kept."""
    shuffle_seed: int
    """Seed of the shuffle before the shares are cut."""
    seed: int
    """Seed of the start values."""
    replicates: int
    """Samples of the bootstrap of each figure."""
    data: LabelledSettings

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        if not self.percents or list(self.percents) != sorted(set(self.percents)):
            raise ValueError("percents must be ascending")
        if not 1 <= self.percents[0] <= self.percents[-1] <= 100:
            raise ValueError("percents must lie between 1 and 100")
        if min(self.batch_size, self.replicates) < 1:
            raise ValueError("batch_size and replicates must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe's arguments."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="labels.csv and images/")
    parser.add_argument("--backbone", default=COMPACT, help=HELP)
    parser.add_argument("--cache", type=Path, help="folder of stored features; default: OUT/cache")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be read, and say so"
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One probe and its figures on the test split."""

    percent: int
    images: int
    """Training images."""
    absent: tuple[str, ...]
    """Labels without a training image in this share."""
    head: LinearHead
    figures: dict[str, Figure]


def run(options: argparse.Namespace, report: Progress) -> None:
    """Embed what is not yet embedded, fit every share, and keep the last probe.

    Raises
    ------
    TrainingError
        If the settings, the table, an image or the store cannot be used.
    ModelError
        If the encoder cannot be loaded.
    """
    settings = read_toml(options.config, ProbeSettings)
    folder = RunFolder(options.out, recipe="probe", settings=settings)
    splits = read_labelled(settings.data, options.data)
    backbone, digest = open_backbone(options.backbone)
    parts = (splits.train, splits.validation, splits.test)
    extraction = extract_features(
        [entry for part in parts for entry in part.files()],
        backbone=backbone,
        digest=digest,
        framing=settings.framing,
        cache=options.cache or folder.path("cache"),
        batch_size=settings.batch_size,
        device=device(),
        is_lenient=options.skip_bad,
        progress=report,
    )
    write_skipped(folder.path("skipped.csv"), extraction.skipped)
    splits = without(splits, {image_id for image_id, _ in extraction.skipped})
    outcomes = []
    for number, percent in enumerate(settings.percents):
        report(f"probe on {percent} % of the labels", number, len(settings.percents))
        outcomes.append(probe(settings, splits, extraction.features, percent))
    last = outcomes[-1]
    last.head.save(folder.folder)
    folder.write_json(FIGURES, {str(o.percent): plain_figures(o.figures) for o in outcomes})
    page = Page("Linear probe")
    if notice_of(options.backbone):
        page.notice(notice_of(options.backbone))
    _describe(page, settings, splits, outcomes, name_of(options.backbone), extraction.skipped)
    probabilities = softmax(last.head.logits(extraction.features.select(splits.test.ids)), axis=1)
    describe_classifier(page, splits.test, probabilities, splits.labels)
    page.write(folder.path("report.html"))
    report("probe on all shares", len(settings.percents), len(settings.percents))


def without(splits: LabelledSplits, image_ids: set[str]) -> LabelledSplits:
    """Leave out images that could not be read.

    Raises
    ------
    CohortError
        If a part becomes empty.
    """
    if not image_ids:
        return splits
    parts = {}
    for name, part in (
        ("train", splits.train),
        ("validation", splits.validation),
        ("test", splits.test),
    ):
        is_kept = np.array([image_id not in image_ids for image_id in part.ids])
        if not is_kept.any():
            raise CohortError(f"no image of the {name} split can be read")
        parts[name] = part.select(is_kept)
    return LabelledSplits(labels=splits.labels, **parts)


def probe(
    settings: ProbeSettings, splits: LabelledSplits, features: Features, percent: int
) -> Outcome:
    """Fit one share of the training split and measure it on the test split."""
    train, test = splits.train, splits.test
    chosen = label_share(len(train.labels), percent, settings.shuffle_seed)
    numbers = train.labels[chosen]
    head = fit_probe(
        features.select([train.ids[i] for i in chosen]),
        numbers,
        labels=splits.labels,
        preset=settings.preset,
        backbone=features.backbone,
        framing=settings.framing,
        seed=settings.seed,
    )
    probabilities = softmax(head.logits(features.select(test.ids)), axis=1)
    return Outcome(
        percent=percent,
        images=len(chosen),
        absent=tuple(name for i, name in enumerate(splits.labels) if not (numbers == i).any()),
        head=head,
        figures=measure_classifier(
            test.labels, probabilities, test.groups, replicates=settings.replicates
        ),
    )


def _describe(
    page: Page,
    settings: ProbeSettings,
    splits: LabelledSplits,
    outcomes: list[Outcome],
    backbone: str,
    skipped: tuple[tuple[str, str], ...],
) -> None:
    last = outcomes[-1]
    page.table(
        "Run",
        [
            {"what": "encoder", "value": backbone},
            {"what": "digest of the encoder", "value": last.head.backbone},
            {"what": "preset", "value": settings.preset},
            {"what": "inverse strength M C / 100", "value": f"{last.head.inverse_strength:.2f}"},
            {"what": "objective at the end", "value": f"{last.head.loss:.4f}"},
            {"what": "converged", "value": "yes" if last.head.has_converged else "no"},
            {"what": "images left out", "value": str(len(skipped))},
        ],
    )
    describe_splits(page, splits)
    page.table(
        "Label efficiency: figures on the test split with 95 % intervals over groups",
        [
            {
                "share": f"{o.percent} %",
                "training images": o.images,
                "labels without image": ", ".join(o.absent) or "none",
                **o.figures,
            }
            for o in outcomes
        ],
    )
    page.figure(
        "Label efficiency",
        efficiency([o.percent for o in outcomes], [o.figures for o in outcomes]),
        "Bars are 95 % intervals over groups.",
    )
    if skipped:
        page.table("Images left out", [{"image": i, "reason": why} for i, why in skipped])


def efficiency(percents: list[int], figures: Sequence[Mapping[str, Figure]]) -> Plot:
    """Area under the curve and balanced accuracy by share of the labels."""
    plot = Plot(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.subplots()
    for name, colour, marker in (
        ("AUROC, one versus rest", "#0072B2", "o"),
        ("balanced accuracy", "#D55E00", "s"),
    ):
        values = np.array([f[name].value for f in figures])
        low = np.array([f[name].low for f in figures])
        high = np.array([f[name].high for f in figures])
        spread = np.nan_to_num(np.clip([values - low, high - values], 0, None))
        axes.errorbar(percents, values, spread, color=colour, marker=marker, label=name, capsize=3)
    axes.set(xscale="log", xlabel="labels used, %", ylabel="test split", ylim=(0, 1.02))
    axes.set_xticks(percents, [str(percent) for percent in percents])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return plot
