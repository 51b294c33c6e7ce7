"""Recipe of the diagnosis network: labels and lesion outlines learnt together.

Each epoch draws its order, augmentation and dropout from the seed and the epoch's number alone,
so a run that was killed goes on from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from models.architectures.diagnosis import DiagnosisNetwork
from models.architectures.pyramid import EfficientNetPyramid
from models.metrics import jaccard, macro_auroc
from training import plots
from training.batches import draw_batches, predict
from training.cohorts import Cohort, Pixels, load_pixels, read_rows, split_groups
from training.errors import CohortError, RunError
from training.losses import diagnosis_loss, lesion_loss, prior_shift, sampling_weights
from training.overlays import draw_outlines
from training.pretrained import load_compact
from training.report import Page
from training.runs import (
    Progress,
    RunFolder,
    cosine_schedule,
    device,
    epoch_rng,
    no_decay_groups,
    read_checkpoint,
)
from training.settings import TrainingSettings, read_settings, settings_from_dict


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three cohorts of a run."""

    train: Cohort
    validation: Cohort
    test: Cohort


def read_splits(settings: TrainingSettings, data: Path) -> Splits:
    """Read the table of ``data`` and split it by group as the settings say.

    Parameters
    ----------
    data
        Folder with ``labels.csv``, ``images/`` and ``masks/``.

    Raises
    ------
    CohortError
        If the table cannot be used, or a label has no training image.
    """
    columns = settings.data
    rows = read_rows(
        data / "labels.csv",
        image_column=columns.image_column,
        label_column=columns.label_column,
        group_column=columns.group_column,
        label_map=columns.label_map,
    )
    shares = (columns.train_fraction, columns.validation_fraction)
    groups = split_groups(rows, fractions=(*shares, 1 - sum(shares)), seed=columns.split_seed)
    cohort = Cohort(rows=rows, images=data / "images", masks=data / "masks")
    train, validation, test = (cohort.subset(part) for part in groups)
    absent = set(settings.labels) - {row.label for row in train.rows}
    if absent:
        raise CohortError(f"no training image has label {sorted(absent)}")
    return Splits(train=train, validation=validation, test=test)


def build_network(settings: TrainingSettings) -> DiagnosisNetwork:
    """Build the network of a run: start weights from the file or drawn from the seed.

    Raises
    ------
    PretrainedError
        If the start weights are not installed.
    """
    torch.manual_seed(settings.seed)
    network = DiagnosisNetwork(
        settings.network.shape(len(settings.labels)),
        drop_path=settings.network.drop_path,
        dropout=settings.network.dropout,
    )
    backbone = network.backbone
    if settings.network.start == "imagenet" and isinstance(backbone, EfficientNetPyramid):
        variant = backbone.encoder.shape.variant
        backbone.encoder.load_state_dict(load_compact(variant).state_dict())
    backbone.freeze(settings.network.frozen_stages)
    return network


def parameter_groups(network: DiagnosisNetwork, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Groups of AdamW; ``rate`` is the group's learning rate over that of the schedule."""
    decay = settings.optimiser.weight_decay
    backbone = no_decay_groups(network.backbone, decay)
    heads = [
        group
        for part in (network.decoder, network.classifier)
        for group in no_decay_groups(part, decay)
    ]
    rate = settings.optimiser.backbone_rate
    return [group | {"rate": rate} for group in backbone] + [g | {"rate": 1.0} for g in heads]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the network's; statistics are averaged alike."""
    theirs = network.state_dict()
    for name, mine in average.state_dict().items():
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs[name], 1 - decay)
        else:
            mine.copy_(theirs[name])


class DiagnosisRun:
    """One training run in one folder, resumable after each epoch.

    Parameters
    ----------
    settings
        The configuration; a folder begun under another one is refused.
    data
        Folder with ``labels.csv``, ``images/`` and ``masks/``.
    folder
        Where checkpoints and the history go.
    device
        Where to train.
    """

    def __init__(
        self, settings: TrainingSettings, *, data: Path, folder: Path, device: torch.device
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = device
        self.splits = read_splits(settings, data)
        self.network = build_network(settings).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = build_network(settings).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.eval()
        groups = parameter_groups(self.network, settings)
        self.optimiser = torch.optim.AdamW(groups, lr=settings.optimiser.learning_rate)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.run = RunFolder(folder, recipe="diagnosis", settings=settings)
        state = self.run.load()
        if state is not None:
            self._resume(state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = state["epoch"]
        self.history = state["history"]

    def _save(self) -> None:
        state = {
            "settings": asdict(self.settings),
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
        }
        self.run.save(state)
        self.run.log(self.history[-1])

    def size_of_epoch(self, epoch: int) -> int:
        """Image side of an epoch, counted from 0."""
        for stage in self.settings.stages:
            if epoch < stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return self.settings.stages[-1].size

    def train(self, progress: Progress | None = None) -> None:
        """Train to the last epoch, saving after each.

        Parameters
        ----------
        progress
            Called with a description, steps done and steps in all.
        """
        report = progress or (lambda _text, _done, _total: None)
        size = 0
        while self.epoch < self.settings.epochs:
            started = time.monotonic()
            if size != self.size_of_epoch(self.epoch):
                size = self.size_of_epoch(self.epoch)
                pixels = self._load(self.splits.train, size, report)
                validation = self._load(self.splits.validation, size, report)
            losses = self._train_epoch(pixels, report)
            figures = self._validate(validation)
            self.epoch += 1
            seconds = round(time.monotonic() - started, 1)
            self.history.append(
                {"epoch": self.epoch, "size": size, **losses, **figures, "seconds": seconds}
            )
            self._save()

    def _load(self, cohort: Cohort, size: int, report: Progress) -> Pixels:
        done = itertools.count(1)
        total = len(cohort.rows)
        return load_pixels(
            cohort, size=size, progress=lambda: report("reading images", next(done), total)
        )

    def _train_epoch(self, pixels: Pixels, report: Progress) -> dict[str, float]:
        settings = self.settings.optimiser
        labels = label_numbers(self.splits.train, self.settings.labels)
        weights = sampling_weights(labels, settings.balance)
        shift = prior_shift(labels, weights, len(self.settings.labels)).to(self.device)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        steps = max(1, len(labels) // settings.batch_size)
        totals = {"diagnosis_loss": 0.0, "lesion_loss": 0.0}
        self.network.train()
        one_hot = np.eye(len(self.settings.labels), dtype=np.float32)[labels]
        batches = draw_batches(
            pixels,
            one_hot,
            weights,
            steps=steps,
            size=settings.batch_size,
            augment=self.settings.augment,
            rng=epoch_rng(self.settings.seed, self.epoch),
            device=self.device,
        )
        for step, batch in enumerate(batches):
            rate = cosine_schedule(
                self.epoch + step / steps,
                epochs=self.settings.epochs,
                warmup=settings.warmup_epochs,
                peak=settings.learning_rate,
                low=settings.min_learning_rate,
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["rate"]
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
                output = self.network(batch.images)
            diagnosis = diagnosis_loss(
                output.logits.float(),
                batch.targets,
                shift=shift,
                smoothing=settings.label_smoothing,
            )
            lesion = lesion_loss(output.lesion_logit.float(), batch.masks, batch.has_mask)
            loss = diagnosis + settings.lesion_weight * lesion
            if not torch.isfinite(loss):
                raise RunError(f"loss is not finite in epoch {self.epoch + 1}, step {step + 1}")
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
            self.optimiser.step()
            done = self.epoch * steps + step + 1
            # A short memory at first, else the start values would linger for epochs.
            decay = min(settings.ema_decay, (1 + done) / (10 + done))
            update_average(self.average, self.network, decay)
            totals["diagnosis_loss"] += diagnosis.item() / steps
            totals["lesion_loss"] += lesion.item() / steps
            text = f"epoch {self.epoch + 1}/{self.settings.epochs} loss {loss.item():.3f}"
            report(text, step + 1, steps)
        return {name: round(value, 5) for name, value in totals.items()}

    def _validate(self, pixels: Pixels) -> dict[str, float]:
        logits, _, lesion = predict(self.average, pixels.images, self.device)
        labels = label_numbers(self.splits.validation, self.settings.labels)
        probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
        overlap = [
            jaccard(found >= 128, truth >= 128)
            for found, truth, known in zip(lesion, pixels.masks, pixels.has_mask, strict=True)
            if known
        ]
        return {
            "validation_auroc": round(macro_auroc(labels, probabilities), 5),
            "validation_accuracy": round(float((logits.argmax(1) == labels).mean()), 5),
            "validation_jaccard": round(float(np.mean(overlap)), 5) if overlap else math.nan,
        }


def label_numbers(cohort: Cohort, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Position of each row's label in the label set, (B,)."""
    return np.array([labels.index(row.label) for row in cohort.rows], np.int64)


def load_run(folder: Path) -> tuple[TrainingSettings, DiagnosisNetwork, int]:
    """Load settings, averaged network and epoch of a run.

    Raises
    ------
    RunError
        If there is no readable checkpoint.
    """
    state = read_checkpoint(folder)
    settings = settings_from_dict(state["settings"])
    network = build_network(settings)
    network.load_state_dict(state["average"])
    network.eval()
    return settings, network, int(state["epoch"])


SUMMARY = "train the diagnosis network (labels and lesion outlines), or go on with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="labels.csv, images/, masks/")


def run(options: argparse.Namespace, report: Progress) -> None:
    """Train to the end, then write ``report.html`` on the validation split."""
    settings = read_settings(options.config)
    training = DiagnosisRun(settings, data=options.data, folder=options.out, device=device())
    training.train(report)
    write_report(training)


def write_report(training: DiagnosisRun) -> None:
    """Write the run's page: curves, ROC, calibration, confusion and outlined examples."""
    names = training.settings.labels
    cohort = training.splits.validation
    pixels = load_pixels(cohort, size=training.settings.stages[-1].size)
    logits, _, lesion = predict(training.average, pixels.images, training.device)
    labels = label_numbers(cohort, names)
    probabilities = np.asarray(softmax(logits.astype(np.float64), axis=1))
    page = Page("Diagnosis: training run")
    page.text(
        f"{len(training.splits.train.rows)} training and {len(cohort.rows)} validation images, "
        f"split by group. All figures below are on the validation split, uncalibrated; the test "
        f"split is left for `export` and `evaluate`."
    )
    page.table("Last epoch", [training.history[-1]])
    curves = [{k: v for k, v in row.items() if k != "size"} for row in training.history]
    page.figure("Learning curves", plots.learning_curves(curves))
    page.figure("ROC, one versus rest", plots.roc_curves(labels, probabilities, names))
    page.figure("Precision and recall", plots.pr_curves(labels, probabilities, names))
    page.figure("Reliability", plots.reliability(probabilities, labels))
    page.figure("Confusion", plots.confusion(labels, probabilities, names))
    page.images(
        "First images of each label: found outline blue, drawn outline white",
        [
            (
                draw_outlines(pixels.images[i], lesion[i] >= 128, pixels.masks[i] >= 128),
                f"{cohort.rows[i].label}; {names[probabilities[i].argmax()]} "
                f"{probabilities[i].max():.2f}",
            )
            for number in range(len(names))
            for i in np.flatnonzero(labels == number)[:2]
        ],
    )
    page.write(training.run.path("report.html"))
