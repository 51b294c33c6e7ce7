"""Embeddings of images, computed once per image, encoder and framing, and kept on disk."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import ImageError, OutputError
from models.preprocessing import (
    FRAMING,
    INPUT_SIZE,
    INTERPOLATION,
    MEAN,
    REFERENCE_FRAMING,
    STD,
    normalise_pixels,
    prepare_image,
    prepare_reference,
)
from training.cohorts import read_image
from training.errors import CohortError, RunError
from training.features.store import FeatureStore
from training.runs import Progress, write_atomically

FRAMINGS: Mapping[str, tuple[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "reference": (REFERENCE_FRAMING, prepare_reference),
    "whole": (FRAMING, prepare_image),
}
"""Name -> description and function: PanDerm's framing, or the whole image squashed."""

_HASH_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Features:
    """Embeddings of a cohort."""

    ids: tuple[str, ...]
    """(N,) image ids."""
    values: NDArray[np.float32]
    """(N, D)"""
    backbone: str
    """SHA-256 of the encoder's weights."""
    framing: str
    """Name in ``FRAMINGS``."""

    def select(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Rows of these images, (len(ids), D), in this order.

        Raises
        ------
        CohortError
            If an image has no row.
        """
        place = {image_id: number for number, image_id in enumerate(self.ids)}
        absent = [image_id for image_id in ids if image_id not in place]
        if absent:
            raise CohortError(f"{len(absent)} images have no features, first {absent[0]}")
        return self.values[[place[image_id] for image_id in ids]]

    def save(self, path: Path) -> None:
        """Write as a numpy archive, whole or not at all."""
        content = io.BytesIO()
        np.savez(
            content,
            ids=np.array(self.ids, dtype=np.str_),
            values=self.values,
            backbone=np.array(self.backbone),
            framing=np.array(self.framing),
        )
        write_atomically(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> Features:
        """Read what ``save`` wrote.

        Raises
        ------
        RunError
            If the file is missing or holds something else.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                features = cls(
                    ids=tuple(str(image_id) for image_id in content["ids"]),
                    values=content["values"],
                    backbone=str(content["backbone"]),
                    framing=str(content["framing"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as exc:
            raise RunError(f"{path} holds no features") from exc
        if features.values.ndim != 2 or len(features.values) != len(features.ids):
            raise RunError(f"{path} holds no features")
        return features


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Features of a cohort and what happened on the way."""

    features: Features
    computed: int
    """Images that went through the encoder; the others were in the store or equal to one."""
    skipped: tuple[tuple[str, str], ...]
    """Image id and reason of each image left out."""


@torch.inference_mode()
def extract_features(
    files: Sequence[tuple[str, Path]],
    *,
    backbone: nn.Module,
    digest: str,
    framing: str,
    cache: Path,
    batch_size: int,
    device: torch.device,
    is_lenient: bool = False,
    workers: int = 2,
    progress: Progress = lambda _text, _done, _total: None,
) -> Extraction:
    """Embed images, taking from the store what it has.

    Parameters
    ----------
    files
        Image id and file of each image.
    backbone, digest
        The encoder and the SHA-256 of its weights.
    framing
        Name in ``FRAMINGS``.
    cache
        Folder of all stores.
    batch_size
        Images decoded and encoded at a time: this bounds the memory.
    device
        Where the encoder runs, in float32 (no TF32).
    is_lenient
        Leave out images that cannot be read instead of stopping.
    workers
        Threads that read and decode.

    Raises
    ------
    CohortError
        If there is no image, or one cannot be read (named) and ``is_lenient`` is not set.
    OutputError
        If the encoder's answer to an image is not finite.
    RunError
        If the store cannot be used or written.
    """
    if not files:
        raise CohortError("there is no image to embed")
    network = backbone.to(device).eval()
    _, prepare = FRAMINGS[framing]
    kept: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    computed = 0
    dim = int(backbone.dim)  # type: ignore[arg-type]
    with (
        torch.backends.cudnn.flags(allow_tf32=False),
        FeatureStore(
            cache,
            backbone=digest,
            dim=dim,
            framing=framing,
            preparation=_preparation(framing),
            check=_encode(network, [_check_image()], device)[0],
        ) as store,
        ThreadPoolExecutor(workers) as pool,
    ):
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            new: dict[str, NDArray[np.uint8]] = {}
            known = set(store.places)
            found = pool.map(_open_image, chunk, itertools.repeat(known), itertools.repeat(prepare))
            for (image_id, _), answer in zip(chunk, found, strict=True):
                if isinstance(answer, CohortError):
                    if not is_lenient:
                        raise answer
                    skipped.append((image_id, str(answer)))
                    continue
                kept.append((image_id, answer.digest))
                if answer.pixels is not None:
                    new[answer.digest] = answer.pixels
            if new:
                rows = _encode(network, list(new.values()), device)
                if not np.isfinite(rows).all():
                    raise OutputError(f"the encoder's answer is not finite near {chunk[0][0]}")
                store.append(list(new), rows)
                computed += len(new)
            progress("embedding images", min(start + batch_size, len(files)), len(files))
        if not kept:
            raise CohortError(f"none of {len(files)} images can be read")
        values = store.read([name for _, name in kept])
    features = Features(
        ids=tuple(image_id for image_id, _ in kept),
        values=values,
        backbone=digest,
        framing=framing,
    )
    return Extraction(features=features, computed=computed, skipped=tuple(skipped))


def _check_image() -> NDArray[np.uint8]:
    """Image whose embedding tells whether a store is of the same network."""
    rows, columns = np.mgrid[:INPUT_SIZE, :INPUT_SIZE]
    return np.stack([rows, columns, (rows * columns) % 251], axis=-1).astype(np.uint8)


def _preparation(framing: str) -> dict[str, object]:
    return {
        "image": FRAMINGS[framing][0],
        "interpolation": INTERPOLATION,
        "size": INPUT_SIZE,
        "mean": list(MEAN),
        "std": list(STD),
    }


@dataclass(frozen=True, kw_only=True)
class _Opened:
    digest: str
    pixels: NDArray[np.uint8] | None
    """Prepared image; None where the store knows the digest."""


def _open_image(
    entry: tuple[str, Path],
    known: set[str],
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> _Opened | CohortError:
    """Hash a file and, unless it is known, decode and frame it; errors are returned."""
    image_id, path = entry
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
        name = digest.hexdigest()
        return _Opened(digest=name, pixels=None if name in known else prepare(read_image(path)))
    except OSError as exc:
        return CohortError(f"{image_id}: {path.name} cannot be read ({exc.strerror})")
    except (CohortError, ImageError) as exc:
        return CohortError(f"{image_id}: {exc}")


def _encode(
    network: nn.Module, images: list[NDArray[np.uint8]], device: torch.device
) -> NDArray[np.float32]:
    batch = torch.from_numpy(normalise_pixels(np.stack(images))).to(device)
    rows: NDArray[np.float32] = network(batch).float().cpu().numpy()
    return rows
