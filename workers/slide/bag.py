"""The tiles of one slide through encoder and slide model, in memory that does not grow with it.

Tiles go in windows: each is encoded, asked about and forgotten. A window's answer is that of a bag
of its own; since the bag's embedding is a weighted mean over the tiles and the classifier is
linear, the answers of the windows combine to that of the whole slide.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from models.preprocessing import prepare_image
from models.slide.reading import read_tile
from models.slide.tiles import SlideManifest, TileGrid, read_size
from workers.analysis import Tools
from workers.errors import BadModelOutput, Undecodable
from workers.slide.source import Slide

WINDOW = 4096
"""Tiles of one request to the slide model: 21 MB of embeddings of 1280."""
MAX_READERS = 8
_RECIPE = "slide tile 1"  # to be counted up when the same place gives other pixels


@dataclass(frozen=True, kw_only=True)
class BagAnswer:
    """What the slide model says of the tiles of one slide."""

    logits: NDArray[np.float64]
    """(C,) before calibration."""
    attention: NDArray[np.float32]
    """(M, S) raw scores of the tiles that were read."""
    readable: NDArray[np.intp]
    """(M,) their numbers in the grid, ascending."""


class _DamagedTiles(Exception):
    """Tiles that cannot be decoded; caught here, so that no stand-in for them is ever encoded."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(f"{len(numbers)} tiles")
        self.numbers = frozenset(numbers)


def classify_tiles(slide: Slide, grid: TileGrid, tools: Tools) -> BagAnswer | None:
    """Encode the tiles of a grid and classify the slide by them.

    What was encoded is kept under the digest of the slide's file and the tile's place, so that an
    attempt after a crash goes on where the last one was.

    Parameters
    ----------
    slide
        The open slide.
    grid
        Its tiles; at least one.

    Returns
    -------
    BagAnswer
        None when no tile can be decoded.

    Raises
    ------
    BadModelOutput
        The model's outputs contradict its manifest.
    ModelUnavailable
        From the model server.
    """
    answers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    readable: list[int] = []
    with ThreadPoolExecutor(min(MAX_READERS, len(os.sched_getaffinity(0)))) as pool:
        for start in range(0, len(grid), WINDOW):
            window = range(start, min(start + WINDOW, len(grid)))
            numbers, features = _encode(slide, grid, window, tools, pool)
            if numbers:
                answers.append(_ask(features, tools))
                readable += numbers
    if not answers:
        return None
    return BagAnswer(
        logits=_combined(answers),
        attention=np.concatenate([attention for _, attention in answers]),
        readable=np.array(readable, np.intp),
    )


def _encode(
    slide: Slide, grid: TileGrid, window: range, tools: Tools, pool: ThreadPoolExecutor
) -> tuple[list[int], NDArray[np.float32]]:
    """Embeddings of those tiles of a window that can be decoded, and their numbers."""
    size = tools.encoder.served.manifest.input.size
    digest = slide.digest(grid.plan.level)
    numbers = list(window)
    while numbers:

        def load(wanted: Sequence[int], numbers: list[int] = numbers) -> NDArray[np.uint8]:
            chosen = [numbers[number] for number in wanted]
            tiles = list(pool.map(lambda number: _tile(slide, grid, number, size), chosen))
            damaged = [n for n, tile in zip(chosen, tiles, strict=True) if tile is None]
            if damaged:
                raise _DamagedTiles(damaged)
            return np.stack([tile for tile in tiles if tile is not None])

        keys = [_key(digest, grid, number) for number in numbers]
        try:
            return numbers, tools.encoder.encode(keys, load, tools.checkpoint)
        except _DamagedTiles as exc:
            numbers = [number for number in numbers if number not in exc.numbers]
    return [], np.empty((0, 0), np.float32)


def _tile(slide: Slide, grid: TileGrid, number: int, size: int) -> NDArray[np.uint8] | None:
    try:
        return prepare_image(read_tile(slide, grid, number), size)
    except Undecodable:
        return None


def _key(digest: str, grid: TileGrid, number: int) -> str:
    x, y = grid.coordinates[number]
    place = f"{_RECIPE} {digest} {x} {y} {read_size(grid)} {grid.tile_px}"
    return hashlib.sha256(place.encode()).hexdigest()


def _ask(
    features: NDArray[np.float32], tools: Tools
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (C,) and raw attention (N, S) of one bag."""
    tools.checkpoint()
    manifest: SlideManifest = tools.served.manifest
    outputs = tools.models.infer(tools.served.name, {"FEATURES": features}, is_batched=False)
    shape = manifest.architecture
    expected = {"LOGITS": (shape.labels,), "ATTENTION_RAW": (len(features), shape.scores)}
    for name, wanted in expected.items():
        found = np.shape(outputs[name]) if name in outputs else None
        if found != wanted:
            raise BadModelOutput(
                f"the model {tools.served.name} sent {name} of shape {found}, not {wanted}"
            )
    return (
        np.asarray(outputs["LOGITS"], np.float32),
        np.asarray(outputs["ATTENTION_RAW"], np.float32),
    )


def _combined(
    answers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> NDArray[np.float64]:
    """Logits of the whole bag from those of its windows.

    ``M = sum_w p_w M_w`` with ``p_w`` the softmax over windows of ``logsumexp`` of their scores;
    the classifier is affine and the ``p_w`` sum to 1, so its outputs mix by the same weights.
    """
    logits = np.array([logits for logits, _ in answers], np.float64)
    mass = np.array([logsumexp(scores.astype(np.float64), axis=0) for _, scores in answers])
    return np.asarray((softmax(mass, axis=0) * logits).sum(axis=0))  # (W, S) * (W, C), S = 1 or C
