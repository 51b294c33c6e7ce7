"""Example images with their outlines, for the reports of runs and evaluations."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FOUND_COLOUR = (0, 114, 178)  # Okabe and Ito's blue: told apart by colour-blind eyes too
TRUTH_COLOUR = (255, 255, 255)


def draw_outlines(
    image: NDArray[np.uint8], found: NDArray[np.bool_], truth: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Draw the outline that was found in blue over the true one in white.

    Parameters
    ----------
    image
        (H, W, 3) RGB; it is not changed.
    found, truth
        (H, W) masks.

    Returns
    -------
    ndarray
        (H, W, 3) uint8.
    """
    drawn = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(image.shape[:2]) / 200))
    for mask, colour in ((truth, TRUTH_COLOUR), (found, FOUND_COLOUR)):
        if mask is not None:
            contours, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(drawn, contours, -1, colour, thickness, cv2.LINE_AA)
    return drawn
