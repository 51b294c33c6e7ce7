"""Images of a batch from disk: balanced draws, seeded views, framed and normalised.

Every function raises ``CohortError``, naming the image, for one that cannot be read or framed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from models.errors import ImageError
from models.preprocessing import normalise_pixels
from training.cohorts import read_image
from training.errors import CohortError
from training.features.extraction import FRAMINGS
from training.finetuning.views import averaging_view, train_view


def balanced_order(labels: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Draw as many images as there are, with replacement, every label equally often on average.

    Parameters
    ----------
    labels
        (B,) label numbers; each label occurs.
    count
        Labels C. The weight of an image is B / (C * images of its label).
    seed
        Decides the draw.
    """
    weights = len(labels) / (count * np.bincount(labels, minlength=count)[labels])
    sampler = WeightedRandomSampler(
        weights.tolist(), len(labels), generator=torch.Generator().manual_seed(seed)
    )
    return np.array(list(sampler), np.int64)


ViewJob = tuple[tuple[str, Path], tuple[int, ...]]
"""Image id and file, and the seed of the view."""


def draw_train_view(job: ViewJob) -> NDArray[np.uint8]:
    """Read an image and draw a training view, (224, 224, 3) uint8."""
    entry, seed = job
    return _view(entry, lambda image: train_view(image, np.random.default_rng(seed)))


def draw_test_view(job: ViewJob) -> NDArray[np.uint8]:
    """Read an image and draw a view for averaging, (224, 224, 3) uint8."""
    entry, seed = job
    return _view(entry, lambda image: averaging_view(image, np.random.default_rng(seed)))


def frame(entry: tuple[str, Path], framing: str) -> NDArray[np.uint8]:
    """Read an image and frame it, (224, 224, 3) uint8."""
    return _view(entry, FRAMINGS[framing][1])


def _view(
    entry: tuple[str, Path], prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    image_id, path = entry
    try:
        return prepare(read_image(path))
    except ImageError as exc:
        raise CohortError(f"{image_id}: {exc}") from exc


def to_device(
    pixels: NDArray[np.uint8], std: tuple[float, float, float], place: torch.device
) -> Tensor:
    """Normalise pixels (B, 224, 224, 3) and bring them to a device."""
    return torch.from_numpy(normalise_pixels(pixels, std=std)).to(place)
