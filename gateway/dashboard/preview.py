"""Renders the picture of a stored Secondary Capture as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array

from gateway.errors import GatewayError

PICTURE_ROLES = ("overview", "sheet", "qc")
"""Roles that begin so hold a picture for people."""

MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 1600


class PreviewError(GatewayError):
    """A picture cannot be shown; the message says why."""


def preview_png(folder: Path, relative_path: str, *, side_px: int = MAX_SIDE_PX) -> bytes:
    """Return a stored picture as PNG, made smaller to at most ``side_px`` a side.

    Parameters
    ----------
    folder
        The results folder or the spool; nothing outside it is read.
    relative_path
        From the record.

    Raises
    ------
    PreviewError
        The file is gone, is no picture, or is too large.
    """
    path = (folder / relative_path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PreviewError("The file is outside its folder.")
    try:
        picture = Image.fromarray(_pixels(path))
    except FileNotFoundError as exc:
        raise PreviewError("The file is no longer in its folder.") from exc
    except (OSError, InvalidDicomError, ValueError, AttributeError, KeyError, RuntimeError) as exc:
        # pydicom and its decoders say so in many ways; the texts may quote values.
        raise PreviewError("The file cannot be read as a picture.") from exc
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()


def _pixels(path: Path) -> NDArray[np.uint8]:
    """Return (H, W) or (H, W, 3) uint8; colour is RGB."""
    ds = dcmread(path)
    if int(ds.Rows) * int(ds.Columns) > MAX_PIXELS:
        raise PreviewError("The picture is too large to be shown here.")
    # pydicom converts YBR to RGB by itself.
    pixels = pixel_array(ds, index=0)
    if pixels.dtype != np.uint8:
        raise PreviewError("The picture has no 8-bit pixels.")
    return np.ascontiguousarray(pixels)
