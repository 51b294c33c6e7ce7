"""Two originals laid into one frame, for the eye: moved, turned and resized, nothing else."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.change.preparation import PreparedPair
from models.change.registration import Registration
from models.change.result import Frames


def common_frames(
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    pair: PreparedPair,
) -> Frames | None:
    """Lay the second original onto the first one, at the size at which they were compared.

    Parameters
    ----------
    images
        (H, W, 3) uint8 RGB originals.
    masks
        (H, W) bool lesion of each.
    pair
        What preparation made of them.

    Returns
    -------
    Frames or None
        None without a registration.
    """
    if not isinstance(pair.registration, Registration):
        return None
    first, second = (
        _resized(image, prepared.scale)
        for image, prepared in zip(images, (pair.before, pair.after), strict=True)
    )
    first_mask, second_mask = (
        _resized(mask.astype(np.uint8), prepared.scale)
        for mask, prepared in zip(masks, (pair.before, pair.after), strict=True)
    )
    size = (first.shape[1], first.shape[0])
    matrix = pair.registration.matrix
    moved = cv2.warpAffine(second, matrix, size, flags=cv2.INTER_LINEAR)
    moved_mask = cv2.warpAffine(second_mask, matrix, size, flags=cv2.INTER_NEAREST)
    return Frames(
        before=first,
        after=np.asarray(moved, np.uint8),
        before_mask=first_mask > 0,
        after_mask=np.asarray(moved_mask) > 0,
    )


def _resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """An image or a mask at working size, as ``models.change.preparation`` resizes it."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(
        cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation), np.uint8
    )
