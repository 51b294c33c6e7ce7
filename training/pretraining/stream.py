"""Images for pretraining: listed once, then streamed, cropped and masked one by one.

Nothing but the list of files is held in memory. What happens to an image depends on the seed, the
epoch and its place in the list alone, not on workers, processes or interruptions.
"""

from __future__ import annotations

import csv
import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.cohorts import IMAGE_SUFFIXES
from training.errors import CohortError
from training.pretraining.masking import block_mask, random_mask
from training.pretraining.settings import AugmentSettings, PretrainSettings

PATH_COLUMN = "path"
CROP_ASPECTS = (3 / 4, 4 / 3)  # width over height of a crop (Szegedy et al., CVPR 2015)
CROP_TRIES = 10
MAX_BAD_IN_A_ROW = 100
"""Undecodable images after which a run stops even where it may skip them: the folder is wrong."""

# What Pillow raises on damaged or hostile files, beside OSError.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, kw_only=True)
class ImageList:
    """The files of a run, in an order that does not depend on the file system."""

    paths: tuple[Path, ...]
    """Where each image lies."""
    names: tuple[str, ...]
    """Its path below the folder or list that was asked for, with forward slashes."""

    def digest(self) -> str:
        """SHA-256 of the names: a run goes on only with the same images."""
        return hashlib.sha256("\n".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()


def list_images(sources: Sequence[Path]) -> ImageList:
    """List the images of folders and CSV files.

    Parameters
    ----------
    sources
        Folders, searched to any depth (hidden files and folders left out), or CSV files with a
        column ``path``, relative to the file's folder or absolute. A file met twice counts once.

    Raises
    ------
    CohortError
        If a source is missing or cannot be read, names a file that is not there, or holds no
        image.
    """
    found: dict[Path, str] = {}
    for source in sources:
        listed = _walk(source) if source.is_dir() else _read_list(source)
        before = len(found)
        count = 0
        for path, name in listed:
            found.setdefault(path, name)
            count += 1
        if not count:
            raise CohortError(f"{source}: no image ({', '.join(IMAGE_SUFFIXES)}) in it")
        if len(found) == before and count:
            raise CohortError(f"{source}: all its images were given before")
    return ImageList(paths=tuple(found), names=tuple(found.values()))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    def refuse(error: OSError) -> None:
        raise CohortError(f"{error.filename}: {error.strerror}") from error

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                path = Path(place, name)
                yield path.resolve(), path.relative_to(folder).as_posix()


def _read_list(table: Path) -> Iterator[tuple[Path, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            records = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table}: {exc}") from exc
    if records and PATH_COLUMN not in records[0]:
        raise CohortError(f"{table}: no column {PATH_COLUMN!r}")
    for number, record in enumerate(records, start=2):
        name = record[PATH_COLUMN]
        path = table.parent / (name or "")
        if not name or not path.is_file():
            raise CohortError(f"{table}: line {number} names no file: {name!r}")
        yield path.resolve(), name


def read_picture(path: Path, *, side: int) -> Image.Image:
    """Decode an image file as upright RGB.

    Parameters
    ----------
    side
        Side in pixels that will be needed. A JPEG at least twice as large is decoded at a half, a
        quarter or an eighth of its size, which is several times faster.

    Raises
    ------
    CohortError
        If the file cannot be decoded; the message names it.
    """
    try:
        with Image.open(BytesIO(path.read_bytes())) as picture:
            picture.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):  # Pillow would clip all above 255 to white
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except _UNDECODABLE as exc:
        raise CohortError(f"{path.name}: cannot be decoded") from exc


def draw_crop(
    rng: np.random.Generator, size: tuple[int, int], min_crop: float
) -> tuple[int, int, int, int]:
    """Draw the box (left, top, right, bottom) of a random resized crop.

    Parameters
    ----------
    size
        Width and height of the image in pixels.
    min_crop
        Smallest share of the area, in (0, 1].

    Returns
    -------
    tuple of int
        Within the image. After ``CROP_TRIES`` misfits, the largest centred square.

    References
    ----------
    Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """
    width, height = size
    low, high = np.log(CROP_ASPECTS)
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(min_crop, 1.0)
        aspect = np.exp(rng.uniform(low, high))
        w, h = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def augment(
    picture: Image.Image, settings: AugmentSettings, *, side: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Crop, flip and change the colours of one image.

    Returns
    -------
    ndarray
        (side, side, 3) uint8.
    """
    box = draw_crop(rng, picture.size, settings.min_crop)
    picture = picture.crop(box).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < settings.flip_prob:
        picture = ImageOps.mirror(picture)
    if rng.random() < settings.vertical_flip_prob:
        picture = ImageOps.flip(picture)
    if settings.jitter:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            factor = float(rng.uniform(1 - settings.jitter, 1 + settings.jitter))
            picture = change(picture).enhance(factor)
    return np.array(picture)


@dataclass(frozen=True, kw_only=True)
class MaskedBatch:
    """One process's share of a step's images."""

    images: Tensor
    """(B, 3, S, S) uint8 RGB."""
    masked: Tensor
    """(B, N) bool, true where the encoder must not look."""
    bad: tuple[str, ...]
    """Names of images that could not be decoded and were replaced by their successors."""

    def pin_memory(self) -> MaskedBatch:
        """Copy into page-locked memory, whence a GPU fetches without waiting."""
        return MaskedBatch(
            images=self.images.pin_memory(), masked=self.masked.pin_memory(), bad=self.bad
        )


_Item = tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str, ...]]


class MaskedImages(Dataset[_Item]):
    """The images of one epoch, augmented and masked.

    Parameters
    ----------
    images
        The files.
    settings
        Of the run.
    epoch
        Counted from 0.
    skip_bad
        Take the next image in the list in place of one that cannot be decoded.
    """

    def __init__(
        self, images: ImageList, settings: PretrainSettings, *, epoch: int, skip_bad: bool
    ) -> None:
        self.images = images
        self.settings = settings
        self.epoch = epoch
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.images.paths)

    def __getitem__(self, index: int) -> _Item:
        """Return image, mask and the names of files that were skipped on the way.

        Raises
        ------
        CohortError
            If the image cannot be decoded and may not be skipped, or too many in a row cannot.
        """
        settings = self.settings
        side = settings.encoder.image_size
        rng = np.random.default_rng([settings.seed, self.epoch, index])
        picture, bad = self._decode(index, side)
        image = augment(picture, settings.augment, side=side, rng=rng)
        return image, self._mask(rng), bad

    def _decode(self, index: int, side: int) -> tuple[Image.Image, tuple[str, ...]]:
        bad: list[str] = []
        for step in range(min(len(self), MAX_BAD_IN_A_ROW)):
            at = (index + step) % len(self)
            try:
                return read_picture(self.images.paths[at], side=side), tuple(bad)
            except CohortError:
                if not self.skip_bad:
                    raise CohortError(
                        f"{self.images.names[at]}: cannot be decoded (--skip-bad leaves such "
                        "images out and lists them)"
                    ) from None
                bad.append(self.images.names[at])
        raise CohortError(f"{len(bad)} images in a row cannot be decoded, the first is {bad[0]}")

    def _mask(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        masking = self.settings.masking
        side = self.settings.encoder.grid
        grid = (side, side)
        if masking.mode == "random":
            return random_mask(rng, grid=grid, count=masking.count).reshape(-1)
        return block_mask(rng, grid=grid, count=masking.count, min_block=masking.min_block).reshape(
            -1
        )


def _collate(items: list[_Item]) -> MaskedBatch:
    images, masks, bad = zip(*items, strict=True)
    return MaskedBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        masked=torch.from_numpy(np.stack(masks)),
        bad=tuple(name for names in bad for name in names),
    )


def epoch_order(
    count: int, settings: PretrainSettings, *, epoch: int, rank: int, world_size: int
) -> list[list[int]]:
    """Image numbers of each step of an epoch for one process.

    All processes together take the same images in the same steps, whatever their number; what
    does not fill a batch is left to another epoch's order.

    Parameters
    ----------
    count
        Images in all.
    rank, world_size
        Which process of how many; the batch size is a multiple of ``world_size``.
    """
    size = settings.optimiser.batch_size
    order = np.random.default_rng([settings.seed, epoch]).permutation(count)
    steps = order[: count // size * size].reshape(-1, size)
    share = size // world_size
    return [[int(i) for i in step[rank * share : (rank + 1) * share]] for step in steps]


def load_epoch(
    images: MaskedImages, order: Sequence[list[int]], *, workers: int
) -> Iterator[MaskedBatch]:
    """Stream the batches of an epoch, decoded by ``workers`` processes (0: by this one).

    Raises
    ------
    CohortError
        As ``MaskedImages`` does.
    """
    loader: DataLoader[_Item] = DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the loader must not touch the state that drop path draws from.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except CohortError as exc:
        # A worker's error comes back with its traceback before the message; one line is enough.
        raise CohortError(str(exc).strip().rpartition("CohortError: ")[2]) from exc


def view(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """The largest centred square as (side, side, 3) uint8: an image without augmentation."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.array(picture.crop(box).resize((side, side), Image.Resampling.BICUBIC))


def load_views(
    images: ImageList, numbers: Sequence[int], *, side: int, done: Callable[[int], None]
) -> NDArray[np.uint8]:
    """Decode some images without augmentation, leaving out those that cannot be decoded.

    Returns
    -------
    ndarray
        (B, side, side, 3) uint8.
    """
    views = []
    for position, number in enumerate(numbers, start=1):
        try:
            views.append(view(read_picture(images.paths[number], side=side), side))
        except CohortError:  # training names it, or refuses it; these pictures are only looked at
            continue
        finally:
            done(position)
    return np.stack(views) if views else np.empty((0, side, side, 3), np.uint8)
