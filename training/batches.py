"""Batches of images with their lesion masks: drawn, augmented, mixed; and what a network says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augment import augment_one, jitter_colour, mix_batch, normalise
from training.cohorts import Pixels
from training.settings import AugmentSettings


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


def draw_batches(
    pixels: Pixels,
    targets: NDArray[np.float32],
    weights: NDArray[np.float64],
    *,
    steps: int,
    size: int,
    augment: AugmentSettings,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Batch]:
    """Draw an epoch's batches with replacement.

    Parameters
    ----------
    pixels
        N decoded images.
    targets
        (N, C) label probabilities.
    weights
        (N,) probability of drawing each image, summing to 1.
    steps, size
        Number of batches, and images in each.
    augment
        Strength of the augmentation.
    rng
        Decides everything: the same generator gives the same batches.
    device
        Where the batches go.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for _ in range(steps):
        chosen = rng.choice(len(targets), size, p=weights)
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
        images = torch.from_numpy(np.stack([image for image, _ in pairs])).to(device)
        masks = torch.from_numpy(np.stack([mask for _, mask in pairs])).to(device)
        images = images.permute(0, 3, 1, 2).float() / 255
        images = normalise(jitter_colour(images, augment, generator))
        soft_masks = masks.unsqueeze(1).float() / 255
        labels = torch.from_numpy(targets[chosen]).to(device)
        has_mask = torch.from_numpy(pixels.has_mask[chosen]).float().to(device)
        if rng.random() < augment.mixup_prob and bool(has_mask.all()):
            share = float(rng.beta(augment.mixup_alpha, augment.mixup_alpha))
            images, labels, soft_masks = mix_batch(images, labels, soft_masks, share)
        yield Batch(images=images, targets=labels, masks=soft_masks, has_mask=has_mask)


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
