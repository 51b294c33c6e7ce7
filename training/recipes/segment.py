"""Recipe of a network that only outlines lesions: UPerNet decoder on any backbone.

The served outline comes from the diagnosis network, which learns it beside the labels; this recipe
is for cohorts that have masks and no diagnoses, and for comparing backbones.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.architectures.pyramid import EfficientNetPyramid
from models.architectures.segmentation import SegmentationNetwork
from models.metrics import Figure, bootstrap, dice, jaccard
from models.segmentation import largest_part
from models.shapes import BackboneShape, EfficientNetLiteShape
from training import plots
from training.augment import normalise
from training.batches import draw_batches
from training.cohorts import Cohort, Pixels, load_pixels, read_rows, split_groups
from training.errors import CohortError, RunError
from training.losses import lesion_loss
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
    seed_all,
)
from training.settings import AugmentSettings, read_toml

SUMMARY = "train a network that only outlines lesions, or go on with it"
THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """Everything that decides the weights, apart from data and code."""

    seed: int
    """Seed of weights, split, order and augmentation."""
    image_column: str
    """Column of ``labels.csv`` with the image's file name without suffix."""
    group_column: str
    """Column that keeps images of one lesion or patient together."""
    train_fraction: float
    """Share of the groups for training."""
    validation_fraction: float
    """Share of the groups for choosing the epoch; the rest is the test split."""
    backbone: BackboneShape
    """What turns an image into features."""
    imagenet: bool
    """Whether the backbone starts from ImageNet weights (EfficientNet-Lite only)."""
    frozen_stages: int
    """Stages of the backbone that keep their start weights."""
    decoder_width: int
    """Channels of the decoder."""
    drop_path: float
    """Stochastic depth of the backbone, in [0, 1)."""
    epochs: int
    """Passes over the training split."""
    size: int
    """Side of the input in pixels, a multiple of 32."""
    batch_size: int
    """Images of a step."""
    learning_rate: float
    """Peak learning rate (Yan et al. 2025: 5e-4)."""
    weight_decay: float
    """Decoupled weight decay (Yan et al. 2025: 0.01)."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    clip_norm: float
    """Largest norm of the gradient."""
    augment: AugmentSettings
    """Strength of the augmentation."""

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        if self.imagenet and not isinstance(self.backbone, EfficientNetLiteShape):
            raise ValueError("there are ImageNet start weights for EfficientNet-Lite only")
        if self.size % 32 or min(self.epochs, self.size, self.decoder_width) < 1:
            raise ValueError("epochs, decoder_width and size must be positive, size 32-fold")
        if self.batch_size < 2 or not self.learning_rate > 0:
            raise ValueError("batch_size must be at least 2, learning_rate positive")
        if not 0 < self.train_fraction < self.train_fraction + self.validation_fraction < 1:
            raise ValueError("train_fraction and validation_fraction must leave a test split")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="labels.csv, images/, masks/")


def run(options: argparse.Namespace, report: Progress) -> None:
    """Train to the end, measure on the test split, write ``figures.json`` and ``report.html``."""
    training = SegmentRun(read_toml(options.config, SegmentSettings), options.data, options.out)
    training.train(report)
    training.conclude()


class SegmentRun:
    """One run in one folder, resumable after each epoch.

    Parameters
    ----------
    settings
        The configuration; a folder begun under another one is refused.
    data
        Folder with ``labels.csv``, ``images/`` and ``masks/``.
    folder
        Where checkpoints, history and report go.

    Raises
    ------
    CohortError
        If the table cannot be used, or a split has no image with a mask.
    """

    def __init__(self, settings: SegmentSettings, data: Path, folder: Path) -> None:
        self.settings = settings
        self.device = device()
        rows = read_rows(
            data / "labels.csv",
            image_column=settings.image_column,
            group_column=settings.group_column,
        )
        shares = (settings.train_fraction, settings.validation_fraction)
        parts = split_groups(rows, fractions=(*shares, 1 - sum(shares)), seed=settings.seed)
        cohort = Cohort(rows=rows, images=data / "images", masks=data / "masks")
        self.train_split, self.validation, self.test = (cohort.subset(part) for part in parts)
        seed_all(settings.seed)
        self.network = SegmentationNetwork(
            settings.backbone, decoder_width=settings.decoder_width, drop_path=settings.drop_path
        ).to(self.device)
        backbone = self.network.backbone
        if settings.imagenet and isinstance(backbone, EfficientNetPyramid):
            start = load_compact(backbone.encoder.shape.variant)
            backbone.encoder.load_state_dict(start.state_dict())
        backbone.freeze(settings.frozen_stages)
        self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.best_jaccard = -1.0
        self.optimiser = torch.optim.AdamW(no_decay_groups(self.network, settings.weight_decay))
        self.epoch = 0
        self.run = RunFolder(folder, recipe="segment", settings=settings)
        state = self.run.load()
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.best, self.best_jaccard = state["best"], state["best_jaccard"]
            self.epoch = state["epoch"]

    def train(self, report: Progress) -> None:
        """Train to the last epoch, saving after each; the best validation Jaccard is kept."""
        if self.epoch >= self.settings.epochs:
            return
        pixels = _load(self.train_split, self.settings.size, report)
        validation = _load(self.validation, self.settings.size, report)
        while self.epoch < self.settings.epochs:
            started = time.monotonic()
            loss = self._train_epoch(pixels, report)
            found = float(np.mean(overlaps(self.predict(validation), validation)[0]))
            if found > self.best_jaccard:
                self.best_jaccard = found
                self.best = {k: v.clone() for k, v in self.network.state_dict().items()}
            self.epoch += 1
            self.run.save(
                {
                    "epoch": self.epoch,
                    "network": self.network.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "best": self.best,
                    "best_jaccard": self.best_jaccard,
                }
            )
            row = {"epoch": self.epoch, "lesion_loss": loss, "validation_jaccard": found}
            self.run.log(row | {"seconds": time.monotonic() - started})

    def _train_epoch(self, pixels: Pixels, report: Progress) -> float:
        settings = self.settings
        count = len(pixels.images)
        steps = max(1, count // settings.batch_size)
        torch.manual_seed(settings.seed * 1_000_003 + self.epoch)
        batches = draw_batches(
            pixels,
            np.ones((count, 1), np.float32),
            pixels.has_mask / pixels.has_mask.sum(),
            steps=steps,
            size=settings.batch_size,
            augment=settings.augment,
            rng=epoch_rng(settings.seed, self.epoch),
            device=self.device,
        )
        total = 0.0
        self.network.train()
        for step, batch in enumerate(batches):
            for group in self.optimiser.param_groups:
                group["lr"] = cosine_schedule(
                    self.epoch + step / steps,
                    epochs=settings.epochs,
                    warmup=settings.warmup_epochs,
                    peak=settings.learning_rate,
                    low=settings.learning_rate / 100,
                )
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
                logit = self.network(batch.images)
            loss = lesion_loss(logit.float(), batch.masks, batch.has_mask)
            if not torch.isfinite(loss):
                raise RunError(f"loss is not finite in epoch {self.epoch + 1}, step {step + 1}")
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
            self.optimiser.step()
            total += loss.item() / steps
            report(f"epoch {self.epoch + 1}/{settings.epochs}", step + 1, steps)
        return total

    @torch.inference_mode()
    def predict(self, pixels: Pixels, batch_size: int = 64) -> NDArray[np.bool_]:
        """Outlined masks (N, S, S): thresholded, holes filled, largest part only."""
        self.network.eval()
        parts = []
        for start in range(0, len(pixels.images), batch_size):
            batch = torch.from_numpy(pixels.images[start : start + batch_size]).to(self.device)
            images = normalise(batch.permute(0, 3, 1, 2).float() / 255)
            parts.append((self.network(images).sigmoid() >= THRESHOLD).squeeze(1).cpu().numpy())
        return np.stack([clean(mask) for mask in np.concatenate(parts)])

    def conclude(self) -> dict[str, Figure]:
        """Measure the best weights on the test split; write ``figures.json`` and the page."""
        self.network.load_state_dict(self.best)
        test = _load(self.test, self.settings.size, lambda _text, _done, _total: None)
        found = self.predict(test)
        both = overlaps(found, test)
        groups = np.array([row.group_id for row in self.test.rows])[test.has_mask]
        figures = {
            name: bootstrap(lambda sample, v=values: float(v[sample].mean()), groups)  # type: ignore[misc]
            for name, values in zip(("Jaccard", "Dice"), both, strict=True)
        }
        self.run.write_json("figures.json", {k: asdict(v) for k, v in figures.items()})
        page = Page("Lesion outlines: training run")
        page.text(
            f"{len(self.train_split.rows)} training, {len(self.validation.rows)} validation and "
            f"{len(self.test.rows)} test images, split by group; the figures are on the test split."
        )
        page.table("Test split", [{"metric": k, **asdict(v)} for k, v in figures.items()])
        page.figure("Learning curves", plots.learning_curves(self.run.history))
        order = np.argsort(both[0])
        known = np.flatnonzero(test.has_mask)
        page.images(
            "Worst, middle and best: found outline blue, drawn outline white",
            [
                (
                    draw_outlines(test.images[i], found[i], test.masks[i] >= 128),
                    f"Jaccard {both[0][place]:.2f}",
                )
                for place in np.unique(
                    np.concatenate([order[:4], order[len(order) // 2 :][:4], order[-4:]])
                )
                for i in known[place : place + 1]
            ],
        )
        page.write(self.run.path("report.html"))
        return figures


def clean(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Largest part of a mask with its holes filled; an empty mask stays empty."""
    part = largest_part(mask)
    return mask if part is None else part


def overlaps(
    found: NDArray[np.bool_], pixels: Pixels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Jaccard and Dice of each image that has a true mask."""
    pairs = [
        (mask, truth >= 128)
        for mask, truth, known in zip(found, pixels.masks, pixels.has_mask, strict=True)
        if known
    ]
    return (
        np.array([jaccard(mask, truth) for mask, truth in pairs]),
        np.array([dice(mask, truth) for mask, truth in pairs]),
    )


def _load(cohort: Cohort, size: int, report: Progress) -> Pixels:
    done, total = itertools.count(1), len(cohort.rows)
    pixels = load_pixels(
        cohort, size=size, progress=lambda: report("reading images", next(done), total)
    )
    if not pixels.has_mask.any():
        raise CohortError(f"no image of a split of {total} has a mask in {cohort.masks}")
    return pixels
