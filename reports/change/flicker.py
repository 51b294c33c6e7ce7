"""Earlier and later image in one frame, as two frames that a viewer's cine mode flickers.

Frame 1 is the earlier original, frame 2 the later one moved onto it: turned, shifted and resized,
with nothing painted. A strip below the picture says which is which.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from models.change.result import Frames
from models.results import ModelIdentity
from reports.context import ReportContext
from reports.panel import AMBER, PANEL
from reports.secondary_capture import CaptureKind, capture
from reports.source import Source
from reports.typography import drawable, fitted, font

FRAME_TIME_MS = 800
"""Slow enough to see each picture, fast enough to see what jumps."""
STRIP_PX = 40
MIN_WIDTH_PX = 640
"""Smaller images are enlarged: their strip holds no caption."""
_FRAME_TIME_TAG = 0x00181063
_FLICKER = CaptureKind(
    sop_class_uid=MultiFrameTrueColorSecondaryCaptureImageStorage,
    role="flicker",
    series_number_kind=4,
    content="flicker, earlier and now",
    derivation="Frame 1: earlier image, resized. Frame 2: this image, moved onto the earlier one",
)


def flicker(
    frames: Frames,
    captions: tuple[str, str],
    *,
    sources: tuple[Source, Source],
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """A Multi-frame True Color Secondary Capture with two frames.

    Parameters
    ----------
    frames
        Both originals in one frame.
    captions
        What each frame shows, for the strip below it.
    sources
        The current image, whose study it belongs to, and the earlier one.
    index
        Number of the lesion in the result, 1-based.

    References
    ----------
    PS3.3 A.8.5 (IOD), C.7.6.5 (Cine), C.7.6.6 (Multi-frame), C.8.6.3 (SC Multi-frame), 2024c.
    """
    pictures = np.stack(
        [
            with_strip(enlarged(image), caption)
            for image, caption in zip((frames.before, frames.after), captions, strict=True)
        ]
    )
    ds = capture(pictures, _FLICKER, sources=sources, index=index, model=model, context=context)
    ds.NumberOfFrames = len(pictures)
    ds.FrameIncrementPointer = _FRAME_TIME_TAG
    ds.FrameTime = FRAME_TIME_MS
    ds["PixelData"].VR = "OB"
    return ds


def enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image or a mask (0 and 1) at least ``MIN_WIDTH_PX`` wide."""
    height, width = image.shape[:2]
    if width >= MIN_WIDTH_PX:
        return image
    size = (MIN_WIDTH_PX, round(height * MIN_WIDTH_PX / width))
    interpolation = cv2.INTER_CUBIC if image.ndim == 3 else cv2.INTER_NEAREST
    resized = cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def with_strip(image: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    """The picture above a strip with its caption."""
    height, width = image.shape[:2]
    canvas = np.empty((height + STRIP_PX, width, 3), np.uint8)
    canvas[:height] = image
    canvas[height:] = PANEL
    picture = Image.fromarray(canvas)
    text = fitted(drawable(caption), 22, width - 16)
    place = (width // 2, height + STRIP_PX // 2)  # viewers write over the corners
    ImageDraw.Draw(picture).text(place, text, AMBER, font(22), anchor="mm")
    return np.asarray(picture)


def frame_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of one of the images, as a mask of its frame."""
    mask = enlarged(mask.astype(np.uint8)) > 0
    return np.vstack([mask, np.zeros((STRIP_PX, mask.shape[1]), np.bool_)])
