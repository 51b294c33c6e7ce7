"""Tiles of total body photography: headers, pixels and embeddings, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from gateway.store.values import InstanceRow
from models.preprocessing import prepare_image
from models.tbp.patient import MIN_SKIN_FRACTION, skin_fraction
from workers.analysis import Tools
from workers.encoding import content_key
from workers.errors import Undecodable
from workers.tbp.detect import is_skin
from workers.tbp.joining import TileIdentity

CHUNK = 256
"""Tiles that are decoded before they are encoded: 40 MB at 224 pixels."""
MIN_DEVIATION = 1.5
"""Grey levels of standard deviation below which a tile shows nothing; the flattest of 683 real and
rendered tiles has more than 3."""

# What pydicom raises for an attribute whose bytes cannot be converted.
_HEADER_FAULTS = (ValueError, TypeError, LookupError, NotImplementedError, OverflowError)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile as its header tells."""

    instance: InstanceRow
    header: Dataset
    """Every attribute but Pixel Data."""
    identity: TileIdentity
    is_skin: bool
    """Whether it shows skin for photodamage, and no lesion."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the encoder made of N tiles."""

    features: NDArray[np.float32]
    """(N, D); a row of nan where there is nothing to encode."""
    undecodable: int
    """Tiles whose pixels cannot be read."""
    blank: int
    """Tiles without content."""
    without_skin: int
    """Skin tiles that show too little skin."""
    reasons: tuple[str, ...]
    """Why tiles could not be decoded, each once."""


def read_tiles(instances: Sequence[InstanceRow], tools: Tools) -> tuple[list[Tile], int]:
    """Read the headers.

    Returns
    -------
    tuple
        The tiles in their order, and how many headers cannot be read at all.
    """
    tiles, unreadable = [], 0
    for number, instance in enumerate(instances):
        if number % CHUNK == 0:
            tools.checkpoint()
        try:
            tiles.append(_read(instance, tools))
        except (Undecodable, *_HEADER_FAULTS):
            unreadable += 1
    return tiles, unreadable


def _read(instance: InstanceRow, tools: Tools) -> Tile:
    header = tools.source.header(instance.path)
    with warnings.catch_warnings():
        # pydicom's warnings about illegal values quote the values: patients' attributes.
        warnings.simplefilter("ignore")
        identity = TileIdentity(
            sop_instance_uid=instance.sop_instance_uid,
            tracking_uid=_text(header, "TrackingUID"),
            tracking_id=_text(header, "TrackingID"),
            instance_number=_whole(header, "InstanceNumber"),
            patient_id=_text(header, "PatientID"),
        )
        return Tile(instance=instance, header=header, identity=identity, is_skin=is_skin(header))


def embed_tiles(tiles: Sequence[Tile], tools: Tools) -> Embedded:
    """Decode and encode tiles, a chunk at a time."""
    manifest = tools.encoder.served.manifest
    features = np.full((len(tiles), manifest.dim), np.nan, np.float32)
    counts = {"undecodable": 0, "blank": 0, "without_skin": 0}
    reasons: dict[str, None] = {}
    for first in range(0, len(tiles), CHUNK):
        tools.checkpoint()
        numbers: list[int] = []
        images: list[NDArray[np.uint8]] = []
        for number in range(first, min(first + CHUNK, len(tiles))):
            try:
                pixels = tools.source.pixels(tiles[number].instance.path)
            except Undecodable as exc:
                counts["undecodable"] += 1
                reasons[str(exc)] = None
                continue
            problem = _problem(pixels, tiles[number])
            if problem:
                counts[problem] += 1
                continue
            numbers.append(number)
            images.append(prepare_image(pixels, manifest.input.size))
        if numbers:
            features[numbers] = _encoded(images, tools)
    return Embedded(features=features, reasons=tuple(reasons), **counts)


def _encoded(images: list[NDArray[np.uint8]], tools: Tools) -> NDArray[np.float32]:
    def load(chosen: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([images[number] for number in chosen])

    keys = [content_key(image) for image in images]
    return tools.encoder.encode(keys, load, tools.checkpoint)


def _problem(pixels: NDArray[np.uint8], tile: Tile) -> str:
    """What speaks against encoding a tile; empty when nothing does."""
    if float(cv2.meanStdDev(pixels)[1].max()) < MIN_DEVIATION:
        return "blank"
    if tile.is_skin and skin_fraction(pixels) < MIN_SKIN_FRACTION:
        return "without_skin"
    return ""


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()


def _whole(header: Dataset, keyword: str) -> int | None:
    try:
        return int(_text(header, keyword))
    except ValueError:
        return None
