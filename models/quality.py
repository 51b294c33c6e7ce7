"""Whether an image can be assessed at all: size, exposure, content and focus.

The checks look at a copy of at most ``_LOOK_PX`` pixels on the longer side, so that a picture of
100 megapixels costs what a small one costs.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocessing import check_image
from models.results import ImageQuality

_LOOK_PX = 512
MIN_SIDE_PX = 64


def assess_quality(image: NDArray[np.uint8]) -> ImageQuality:
    """Look for reasons not to assess an image."""
    check_image(image)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        return ImageQuality(
            reasons=(f"the image is too small ({width} x {height} px; at least {MIN_SIDE_PX})",)
        )
    scale = min(1.0, _LOOK_PX / max(height, width))
    look = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(look, cv2.COLOR_RGB2GRAY)
    if float(grey.std()) < 3.0:
        return ImageQuality(reasons=("the image is almost uniform",))
    return ImageQuality()
