"""Augmentation of image and mask together, seeded and free of torchvision.

Geometry is one affine warp an image (numpy and OpenCV); colour works on the whole batch (torch).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.preprocessing import MEAN, STD
from training.settings import AugmentSettings

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_affine(
    rng: np.random.Generator, settings: AugmentSettings, *, side: int, aspect: float
) -> NDArray[np.float64]:
    """Draw the (2, 3) matrix from output pixels to pixels of the squashed source.

    Rotation and zoom happen in the geometry of the scene, not of the squashed square.

    Parameters
    ----------
    side
        Side of the squashed image in pixels.
    aspect
        Width over height of the source image before squashing.
    """
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    zoom = settings.scale ** rng.uniform(-1, 1)
    stretch = settings.aspect ** rng.uniform(-0.5, 0.5)
    flip = rng.choice((-1.0, 1.0))
    cos, sin = np.cos(angle), np.sin(angle)
    scene = np.array([[cos, -sin], [sin, cos]]) @ np.diag([zoom * stretch * flip, zoom / stretch])
    squash = np.diag([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    linear = np.linalg.inv(squash) @ scene @ squash
    centre = np.full(2, (side - 1) / 2)
    shift = rng.uniform(-settings.shift, settings.shift, 2) * side
    return np.column_stack([linear, centre + shift - linear @ centre])


def warp(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Warp image and mask alike; what lies outside is mirrored in."""
    side = (image.shape[1], image.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pair = [
        cv2.warpAffine(array, matrix, side, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for array in (image, mask)
    ]
    return pair[0].astype(np.uint8), pair[1].astype(np.uint8)


def draw_hair(rng: np.random.Generator, image: NDArray[np.uint8]) -> None:
    """Draw dark, hair-like curves into the image, in place."""
    size = image.shape[0]
    steps = np.linspace(0, 1, 12)[:, None]
    colour = tuple(int(v) for v in rng.integers(10, 70, 3))
    for _ in range(int(rng.integers(2, 10))):
        start, bend, end = rng.uniform(-0.1, 1.1, (3, 2)) * size
        curve = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
        points = np.round(curve).astype(np.int32).reshape(-1, 1, 2)
        thickness = int(rng.integers(1, 3)) if size > 160 else 1
        cv2.polylines(image, [points], False, colour, thickness, cv2.LINE_AA)


def darken_corners(rng: np.random.Generator, image: NDArray[np.uint8]) -> None:
    """Darken what lies outside a soft-edged disc, as a dermatoscope's tube does, in place."""
    size = image.shape[0]
    rows, columns = np.ogrid[:size, :size]
    centre = (size - 1) / 2 + rng.uniform(-0.06, 0.06, 2) * size
    radius = rng.uniform(0.47, 0.66) * size  # the corner lies at 0.71
    distance = np.hypot(rows - centre[0], columns - centre[1])
    softness = rng.uniform(0.005, 0.06) * size
    light = np.clip((radius - distance) / softness + 0.5, rng.uniform(0, 0.15), 1)
    image[:] = (image * light[..., None]).astype(np.uint8)


def erase(rng: np.random.Generator, image: NDArray[np.uint8]) -> None:
    """Fill one rectangle with the image's mean colour, in place (DeVries and Taylor 2017)."""
    size = image.shape[0]
    height, width = (rng.uniform(0.1, 0.35, 2) * size).astype(int)
    row, column = int(rng.integers(0, size - height)), int(rng.integers(0, size - width))
    image[row : row + height, column : column + width] = image.mean(axis=(0, 1))


def augment_one(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    *,
    aspect: float,
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Geometry, hair, blur and erasing of one image with its mask.

    Parameters
    ----------
    image, mask
        (S, S, 3) and (S, S) uint8.
    aspect
        Width over height of the source before it was squashed.

    Returns
    -------
    tuple of ndarray
        (S, S, 3) and (S, S) uint8.
    """
    matrix = random_affine(rng, settings, side=image.shape[0], aspect=aspect)
    image, mask = warp(image, mask, matrix)
    image = np.ascontiguousarray(image)
    if rng.random() < settings.hair_prob:
        draw_hair(rng, image)
    if rng.random() < settings.vignette_prob:
        darken_corners(rng, image)
    if rng.random() < settings.blur_prob:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)).astype(np.uint8)
    if rng.random() < settings.erase_prob:
        erase(rng, image)
    return image, mask


def jitter_colour(images: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation, tint and gamma of each image of a batch.

    Parameters
    ----------
    images
        (B, 3, H, W) float in [0, 1].

    Returns
    -------
    Tensor
        The same shape and range.
    """

    def draw(strength: float, channels: int = 1) -> Tensor:
        shape = (images.shape[0], channels, 1, 1)
        return 1 + strength * (2 * torch.rand(shape, generator=generator) - 1).to(images.device)

    luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
    images = images * draw(settings.brightness) * draw(settings.tint, 3)
    mean = (images * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = mean + draw(settings.contrast) * (images - mean)
    grey = (images * luma).sum(1, keepdim=True)
    images = (grey + draw(settings.saturation) * (images - grey)).clamp(0, 1)
    if settings.gamma > 1:
        exponent = torch.rand((images.shape[0], 1, 1, 1), generator=generator) * 2 - 1
        images = images.clamp_min(1e-4) ** (settings.gamma ** exponent.to(images.device))
    return images


def normalise(images: Tensor) -> Tensor:
    """Subtract the mean and divide by the deviation that serving uses.

    Parameters
    ----------
    images
        (B, 3, H, W) float in [0, 1].
    """
    mean = images.new_tensor(MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(STD).view(1, 3, 1, 1)
    return (images - mean) / std


def mix_batch(
    images: Tensor, targets: Tensor, masks: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix a batch with its reverse (Zhang et al., mixup, ICLR 2018).

    Parameters
    ----------
    images, targets, masks
        (B, 3, H, W), (B, C) label probabilities and (B, 1, H, W) lesion probabilities.
    share
        Share of the batch itself, in [0, 1].
    """
    mixed = [share * x + (1 - share) * x.flip(0) for x in (images, targets, masks)]
    return mixed[0], mixed[1], mixed[2]
