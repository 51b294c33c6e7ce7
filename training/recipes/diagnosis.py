"""Recipe of the diagnosis network: labels and lesion outlines learnt together, from scratch.

Each epoch draws its order, augmentation and dropout from the seed and the epoch's number alone,
so a run that was killed goes on from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import csv
import itertools
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.architectures.diagnosis import DiagnosisNetwork
from models.metrics import jaccard, macro_auroc
from training.augment import augment_one, jitter_colour, mix_batch, normalise
from training.cohorts import Cohort, Pixels, load_pixels, read_rows, split_groups
from training.errors import CohortError, RunError
from training.losses import diagnosis_loss, lesion_loss, prior_shift, sampling_weights
from training.settings import TrainingSettings, settings_from_dict

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input on the device."""

    images: Tensor
    """(B, 3, S, S) normalised."""
    targets: Tensor
    """(B, C) label probabilities."""
    masks: Tensor
    """(B, 1, S, S) lesion probabilities."""
    has_mask: Tensor
    """(B,) 1 where the mask is known."""


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
    """Build the network of a run, its start values drawn from the seed."""
    torch.manual_seed(settings.seed)
    return DiagnosisNetwork(
        settings.network.shape(len(settings.labels)),
        drop_path=settings.network.drop_path,
        dropout=settings.network.dropout,
    )


def learning_rate(settings: TrainingSettings, progress: float) -> float:
    """Learning rate after ``progress`` epochs: linear warm-up, then cosine."""
    optimiser = settings.optimiser
    if progress < optimiser.warmup_epochs:
        return optimiser.learning_rate * max(progress, 1e-3) / optimiser.warmup_epochs
    part = (progress - optimiser.warmup_epochs) / max(settings.epochs - optimiser.warmup_epochs, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
    low = optimiser.min_learning_rate
    return low + (optimiser.learning_rate - low) * cosine


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels; none for vectors, tokens and positions."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim <= 1 or name.endswith("cls_token")
            (free if is_free else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


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
        groups = parameter_groups(self.network, settings.optimiser.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=settings.optimiser.learning_rate)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

    def _resume(self) -> None:
        state = read_checkpoint(self.folder)
        if settings_from_dict(state["settings"]).digest() != self.settings.digest():
            raise RunError(f"{self.folder} was begun under another configuration")
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
        part = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, part)
        part.replace(self.folder / CHECKPOINT)  # atomic: a kill leaves the old or the new one
        with (self.folder / HISTORY).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(self.history[0]))
            writer.writeheader()
            writer.writerows(self.history)

    def size_of_epoch(self, epoch: int) -> int:
        """Image side of an epoch, counted from 0."""
        for stage in self.settings.stages:
            if epoch < stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return self.settings.stages[-1].size

    def train(self, progress: Callable[[str, int, int], None] | None = None) -> None:
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

    def _load(self, cohort: Cohort, size: int, report: Callable[[str, int, int], None]) -> Pixels:
        done = itertools.count(1)
        total = len(cohort.rows)
        return load_pixels(
            cohort, size=size, progress=lambda: report("reading images", next(done), total)
        )

    def _train_epoch(
        self, pixels: Pixels, report: Callable[[str, int, int], None]
    ) -> dict[str, float]:
        settings = self.settings.optimiser
        labels = label_numbers(self.splits.train, self.settings.labels)
        weights = sampling_weights(labels, settings.balance)
        shift = prior_shift(labels, weights, len(self.settings.labels)).to(self.device)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        steps = max(1, len(labels) // settings.batch_size)
        totals = {"diagnosis_loss": 0.0, "lesion_loss": 0.0}
        self.network.train()
        for step, batch in enumerate(self._batches(pixels, labels, weights, steps)):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.settings, self.epoch + step / steps)
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

    def _batches(
        self,
        pixels: Pixels,
        labels: NDArray[np.int64],
        weights: NDArray[np.float64],
        steps: int,
    ) -> Iterator[Batch]:
        """Draw, augment and mix the batches of this epoch."""
        augment = self.settings.augment
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        one_hot = np.eye(len(self.settings.labels), dtype=np.float32)
        for _ in range(steps):
            chosen = rng.choice(len(labels), self.settings.optimiser.batch_size, p=weights)
            pairs = [
                augment_one(
                    pixels.images[i],
                    pixels.masks[i],
                    aspect=pixels.aspects[i],
                    settings=augment,
                    rng=rng,
                )
                for i in chosen
            ]
            images = torch.from_numpy(np.stack([image for image, _ in pairs])).to(self.device)
            masks = torch.from_numpy(np.stack([mask for _, mask in pairs])).to(self.device)
            images = images.permute(0, 3, 1, 2).float() / 255
            images = normalise(jitter_colour(images, augment, generator))
            soft_masks = masks.unsqueeze(1).float() / 255
            targets = torch.from_numpy(one_hot[labels[chosen]]).to(self.device)
            has_mask = torch.from_numpy(pixels.has_mask[chosen]).float().to(self.device)
            if rng.random() < augment.mixup_prob and bool(has_mask.all()):
                share = float(rng.beta(augment.mixup_alpha, augment.mixup_alpha))
                images, targets, soft_masks = mix_batch(images, targets, soft_masks, share)
            yield Batch(images=images, targets=targets, masks=soft_masks, has_mask=has_mask)

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


@torch.inference_mode()
def predict(
    network: nn.Module, images: NDArray[np.uint8], device: torch.device, batch_size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Run the network over prepared images.

    Parameters
    ----------
    images
        (B, S, S, 3) uint8 RGB.

    Returns
    -------
    tuple of ndarray
        Logits (B, C), embeddings (B, E) and lesion probabilities times 255 (B, S, S) uint8.
    """
    network.eval()
    logits, embeddings, lesions = [], [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size]).to(device)
        output = network(normalise(batch.permute(0, 3, 1, 2).float() / 255))
        logits.append(output.logits.float().cpu())
        embeddings.append(output.embedding.float().cpu())
        lesion = (output.lesion_logit.squeeze(1).float().sigmoid() * 255).round()
        lesions.append(lesion.to(torch.uint8).cpu())
    return torch.cat(logits).numpy(), torch.cat(embeddings).numpy(), torch.cat(lesions).numpy()


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a run's checkpoint.

    Raises
    ------
    RunError
        If there is none or it cannot be read.
    """
    path = folder / CHECKPOINT
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as exc:
        raise RunError(f"{path}: no readable checkpoint") from exc
    return state


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
