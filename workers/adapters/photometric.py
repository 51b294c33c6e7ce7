"""From decoded samples to 8-bit RGB: photometric interpretation, windows, palettes.

Everything goes through tables of at most 65,536 entries or through strips of rows, so that an image
of a hundred megapixels costs its own 8-bit RGB and little more.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut

from workers.errors import Undecodable

_STRIP_ROWS = 256

# PS3.3 C.7.6.3.1.2 beside those read here; only what is on a list is repeated in a reason.
_OTHER_COLOUR_SPACES = frozenset(
    ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")
)


def to_rgb(samples: NDArray[Any], photometric: str, header: Dataset) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB.

    Parameters
    ----------
    samples
        (H, W) or (H, W, 3) integers of at most 16 bits.
    photometric
        Photometric Interpretation of ``samples`` (PS3.3 C.7.6.3.1.2).
    header
        Bits Stored, windows and palettes.

    Raises
    ------
    Undecodable
        If the samples are of a kind that is not read.
    """
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if samples.dtype.itemsize > 2:
        raise Undecodable(f"samples of {8 * samples.dtype.itemsize} bits are not read")
    if samples.ndim == 2:
        table = (
            _palette_table(samples.dtype, header)
            if photometric == "PALETTE COLOR"
            else _grey_table(samples.dtype, header, is_inverted=photometric == "MONOCHROME1")
        )
        # As unsigned, a signed sample indexes the table that was made in the same order.
        indices = samples.view(f"u{samples.dtype.itemsize}")
        if table.ndim == 1:
            table = np.repeat(table[:, np.newaxis], 3, axis=1)
        rgb: NDArray[np.uint8] = table[indices]
        return rgb
    pixels = _to_8_bit(samples, _bits_stored(samples.dtype, header))
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return _ybr_to_rgb(pixels)
    if photometric != "RGB":
        named = photometric if photometric in _OTHER_COLOUR_SPACES else "an unknown colour space"
        raise Undecodable(f"colour images in {named} are not read")
    return np.ascontiguousarray(pixels)


def _bits_stored(dtype: np.dtype[Any], header: Dataset) -> int:
    allocated = 8 * dtype.itemsize
    stored = header.get("BitsStored")
    return int(stored) if isinstance(stored, int) and 1 <= stored <= allocated else allocated


def _to_8_bit(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    unsigned = samples.view(f"u{samples.dtype.itemsize}")
    if unsigned.dtype == np.uint8 and bits == 8:
        return unsigned
    table = _scaled(np.arange(2 ** (8 * unsigned.dtype.itemsize)) / (2**bits - 1))
    scaled: NDArray[np.uint8] = table[unsigned]
    return scaled


def _scaled(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Map [0, 1] to 0..255."""
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def _ybr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo YBR_FULL (PS3.3 C.7.6.3.1.2); OpenCV has its inverse with Cb and Cr exchanged."""
    result = np.empty(pixels.shape, dtype=np.uint8)
    for top in range(0, len(pixels), _STRIP_ROWS):
        strip = np.ascontiguousarray(pixels[top : top + _STRIP_ROWS, :, (0, 2, 1)])
        cv2.cvtColor(strip, cv2.COLOR_YCrCb2RGB, dst=result[top : top + _STRIP_ROWS])
    return result


def _sample_values(dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return the value of every bit pattern of a sample, in the order of the patterns."""
    patterns = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return patterns.view(dtype).astype(np.float64)


def _grey_table(dtype: np.dtype[Any], header: Dataset, *, is_inverted: bool) -> NDArray[np.uint8]:
    values = _sample_values(dtype)
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    bits = _bits_stored(dtype, header)
    lowest = -(2.0 ** (bits - 1)) if dtype.kind == "i" else 0.0
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if centre is not None and width is not None and width > 1.0:
        # PS3.3 C.11.2.1.2.1, the LINEAR function, over the output of the modality LUT (C.11.1).
        fractions = (values * slope + intercept - (centre - 0.5)) / (width - 1.0) + 0.5
    else:
        fractions = (values - lowest) / (2.0**bits - 1.0)
        if slope < 0:
            fractions = 1.0 - fractions
    table = _scaled(fractions)
    return 255 - table if is_inverted else table


def _palette_table(dtype: np.dtype[Any], header: Dataset) -> NDArray[np.uint8]:
    """Return (entries, 3): the colour of every sample value (PS3.3 C.7.6.3.1.5, C.7.9)."""
    patterns = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    try:
        colours = apply_color_lut(patterns.view(dtype).reshape(1, -1), _palette(header))[0]
    except (
        ValueError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        NotImplementedError,
    ) as exc:
        raise Undecodable("its colour palette is missing or damaged") from exc
    if colours.dtype == np.uint8:
        return np.ascontiguousarray(colours[:, :3])
    # Some writers keep 8-bit colours in 16-bit entries.
    shift = 8 if int(colours.max(initial=0)) > 255 else 0
    return np.ascontiguousarray((colours[:, :3] >> shift).astype(np.uint8))


def _palette(header: Dataset) -> Dataset:
    """Return the palette without the byte that pads an odd number of 8-bit entries."""
    palette = Dataset()
    for element in header.group_dataset(0x0028):
        palette.add(element)
    for colour in ("Red", "Green", "Blue"):
        descriptor = palette[f"{colour}PaletteColorLookupTableDescriptor"].value
        keyword = f"{colour}PaletteColorLookupTableData"
        data = palette.get(keyword)
        if data is not None and len(data) == descriptor[0] + 1:
            setattr(palette, keyword, data[:-1])
    return palette


def _number(header: Dataset, keyword: str) -> float | None:
    value = header.get(keyword)
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if value else None
    try:
        number = float(value) if value not in (None, "") else None
    except (TypeError, ValueError):
        return None
    return number if number is not None and np.isfinite(number) else None
