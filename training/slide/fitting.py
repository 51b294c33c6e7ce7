"""Training of the attention network on bags of tiles, resumable after each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.architectures.abmil import GatedAbmil
from models.slide.tiles import AbmilShape
from training.runs import (
    Progress,
    RunFolder,
    cosine_schedule,
    epoch_rng,
    no_decay_groups,
    seed_all,
)


@dataclass(frozen=True, kw_only=True)
class AbmilSettings:
    """How one network is trained."""

    width: int
    """Width after the first layer."""
    attention: int
    """Width of the attention's branches."""
    is_branched: bool
    """One attention score a label in place of one for all."""
    learning_rate: float
    """Peak of the cosine."""
    weight_decay: float
    """Of AdamW, on matrices."""
    epochs: int
    """Most epochs."""
    patience: int
    """Epochs without a better validation loss before training stops."""
    max_tiles: int
    """Tiles of a slide seen in one step, drawn anew each epoch; it bounds the memory."""

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        numbers = (self.width, self.attention, self.epochs, self.patience, self.max_tiles)
        if min(numbers) < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("sizes, epochs and the learning rate must be positive")


@dataclass(frozen=True, kw_only=True)
class Bag:
    """One slide as the network sees it."""

    slide_id: str
    features: NDArray[np.float16]
    """(N, E), usually mapped from disk."""
    label: int
    """Number of the label."""

    def tensor(self, chosen: NDArray[np.intp] | None = None) -> torch.Tensor:
        """Features as float32, all or some of them."""
        part = self.features if chosen is None else self.features[chosen]
        return torch.from_numpy(np.array(part, np.float32))


@torch.inference_mode()
def predict(network: GatedAbmil, bags: Sequence[Bag]) -> NDArray[np.float64]:
    """Logits (B, C) of slides, one by one and with all their tiles."""
    network.eval()
    logits = [network(bag.tensor()).logits.double().numpy() for bag in bags]
    return np.stack(logits) if logits else np.zeros((0, network.shape.labels))


def train_abmil(
    settings: AbmilSettings,
    *,
    train: Sequence[Bag],
    validation: Sequence[Bag],
    shape: AbmilShape,
    folder: Path,
    seed: int,
    identity: object,
    report: Progress,
) -> GatedAbmil:
    """Train one network; a folder that holds a finished or begun run is gone on with.

    Parameters
    ----------
    settings
        How.
    train, validation
        Bags; the network with the least cross-entropy on ``validation`` is kept.
    shape
        Shape of the network.
    folder
        Where checkpoints and history go.
    seed
        Seed of start values, order, dropout and drawn tiles.
    identity
        Frozen dataclass that names settings and data: the folder belongs to it.
    report
        Called after each epoch.

    Returns
    -------
    GatedAbmil
        In evaluation mode.
    """
    run = RunFolder(folder, recipe="slide", settings=identity)
    seed_all(seed)
    network = GatedAbmil(shape)
    groups = no_decay_groups(network, settings.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate)
    state: dict[str, Any] = run.load() or {
        "epoch": 0,
        "stale": 0,
        "best_loss": float("inf"),
        "best": _copy(network.state_dict()),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    epoch, stale = int(state["epoch"]), int(state["stale"])
    best, best_loss = state["best"], float(state["best_loss"])
    while epoch < settings.epochs and stale < settings.patience:
        loss = _train_epoch(network, optimiser, settings, train, seed=seed, epoch=epoch)
        held = _cross_entropy(predict(network, validation), validation)
        epoch, stale = epoch + 1, stale + 1
        if held < best_loss:
            best, best_loss, stale = _copy(network.state_dict()), held, 0
        run.log({"epoch": epoch, "train_loss": loss, "validation_loss": held})
        run.save(
            {
                "epoch": epoch,
                "stale": stale,
                "best_loss": best_loss,
                "best": best,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
        )
        report(folder.name, epoch, settings.epochs)
    network.load_state_dict(best)
    return network.eval()


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _cross_entropy(logits: NDArray[np.float64], bags: Sequence[Bag]) -> float:
    labels = torch.tensor([bag.label for bag in bags])
    return float(functional.cross_entropy(torch.from_numpy(logits), labels))


def _train_epoch(
    network: GatedAbmil,
    optimiser: torch.optim.Optimizer,
    settings: AbmilSettings,
    bags: Sequence[Bag],
    *,
    seed: int,
    epoch: int,
) -> float:
    """One slide a step (CLAM); the mean loss."""
    network.train()
    rng = epoch_rng(seed, epoch)
    torch.manual_seed(int(rng.integers(2**31)))  # of dropout
    losses = []
    for step, index in enumerate(rng.permutation(len(bags))):
        bag = bags[index]
        rate = cosine_schedule(
            epoch + step / len(bags),
            epochs=settings.epochs,
            warmup=0,
            peak=settings.learning_rate,
            low=0.0,
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        count = len(bag.features)
        chosen = None
        if count > settings.max_tiles:
            chosen = np.sort(rng.choice(count, settings.max_tiles, replace=False))
        logits = network(bag.tensor(chosen)).logits
        loss = functional.cross_entropy(logits.unsqueeze(0), torch.tensor([bag.label]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))
