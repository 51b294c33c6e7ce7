"""A store of embeddings on disk that survives a kill at any moment.

Two files that only grow: rows of float32, and an index with the image's digest and a checksum of
each row. A row counts once its index record is complete, so a kill loses at most one batch.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.runs import write_atomically

_RECORD = 64 + 1 + 8 + 1  # digest, space, checksum, newline
_TOLERANCE = 1e-3  # of the largest number: processors and GPUs round differently
_CHECK_ROWS = 4096  # rows whose checksums are compared at a time


class FeatureStore:
    """Rows of one encoder and framing, by the digest of the image file.

    Parameters
    ----------
    cache
        Folder of all stores; this one is a folder inside.
    backbone
        SHA-256 of the encoder's weights.
    dim
        Width D of a row.
    framing
        Short name of the framing.
    preparation
        Everything else that decides what the encoder is fed; kept beside the rows and compared.
    check
        (D,) the encoder's answer to a fixed image: the same weights in a changed network would
        give other rows, and no digest tells.

    Raises
    ------
    RunError
        If the folder cannot be used, belongs to something else, is damaged, or is open in
        another run.
    """

    def __init__(
        self,
        cache: Path,
        *,
        backbone: str,
        dim: int,
        framing: str,
        preparation: Mapping[str, object],
        check: NDArray[np.float32],
    ) -> None:
        self.dim = dim
        self.folder = cache / f"{backbone[:16]}-{framing}"
        header = {"backbone": backbone, "dim": dim, "framing": framing, **preparation}
        self._files: list[BinaryIO] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock(self._open("lock"))
            self._check_header(header)
            self._check_encoder(check)
            self._rows, self._index = self._open("rows.f32"), self._open("index.txt")
            self.places = self._recover()
        except OSError as exc:
            self.close()
            raise RunError(f"{self.folder} cannot be used: {exc.strerror}") from exc
        except RunError:
            self.close()
            raise

    def _take_lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RunError(f"{self.folder} is in use by another run") from exc

    def _check_header(self, header: dict[str, object]) -> None:
        path = self.folder / "store.json"
        text = json.dumps(header, indent=2) + "\n"
        if not path.exists():
            write_atomically(path, text.encode())
        elif path.read_text(encoding="utf-8") != text:
            raise RunError(f"{self.folder} holds features of another encoder or framing")

    def _check_encoder(self, check: NDArray[np.float32]) -> None:
        path = self.folder / "check.f32"
        if not path.exists():
            write_atomically(path, np.ascontiguousarray(check, "<f4").tobytes())
            return
        known = np.frombuffer(path.read_bytes(), "<f4")
        if known.shape != check.shape or np.abs(known - check).max() > _TOLERANCE * np.abs(
            check
        ).max(initial=1e-6):
            raise RunError(
                f"{self.folder} holds features of these weights in another network; delete it"
            )

    def _open(self, name: str) -> BinaryIO:
        path = self.folder / name
        path.touch()
        file = path.open("r+b", buffering=0)
        self._files.append(file)
        return file

    def _recover(self) -> dict[str, int]:
        """Cut off what a kill left half written; return digest -> row."""
        width = 4 * self.dim
        rows_there = os.fstat(self._rows.fileno()).st_size // width
        records = os.fstat(self._index.fileno()).st_size // _RECORD
        # Rows are on disk before their records; a lost power supply may still break that order.
        count = min(rows_there, records)
        self._index.seek(0)
        text = _read_exactly(self._index, count * _RECORD)
        places: dict[str, int] = {}
        self._rows.seek(0)
        for start in range(0, count, _CHECK_ROWS):
            number = min(_CHECK_ROWS, count - start)
            content = _read_exactly(self._rows, number * width)
            for i in range(number):
                place = (start + i) * _RECORD
                digest, _, checksum = (
                    text[place : place + _RECORD - 1].decode("latin-1").partition(" ")
                )
                if checksum != f"{zlib.crc32(content[i * width : (i + 1) * width]):08x}":
                    raise RunError(f"{self.folder} is damaged in row {start + i}; delete it")
                places[digest] = start + i
        self._rows.truncate(count * width)
        self._index.truncate(count * _RECORD)
        return places

    def append(self, digests: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add rows; they are on disk when this returns.

        Parameters
        ----------
        digests
            (B,) SHA-256 of the image files, none of them known.
        rows
            (B, D)

        Raises
        ------
        RunError
            If the disk is full; what was stored before stays usable.
        """
        start = len(self.places)
        content = np.ascontiguousarray(rows, dtype="<f4")
        records = "".join(
            f"{digest} {zlib.crc32(row.tobytes()):08x}\n"
            for digest, row in zip(digests, content, strict=True)
        )
        try:
            for file, piece, place in (
                (self._rows, content.tobytes(), start * 4 * self.dim),
                (self._index, records.encode("latin-1"), start * _RECORD),
            ):
                file.seek(place)
                view = memoryview(piece)
                while len(view):
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
        except OSError as exc:
            raise RunError(f"{self.folder} cannot be written: {exc.strerror}") from exc
        self.places.update({digest: start + i for i, digest in enumerate(digests)})

    def read(self, digests: Sequence[str]) -> NDArray[np.float32]:
        """Rows of these images, (len(digests), D), in this order; all must be known."""
        if not self.places:
            return np.empty((0, self.dim), np.float32)
        shape = (len(self.places), self.dim)
        rows = np.memmap(self.folder / "rows.f32", "<f4", "r", shape=shape)
        return np.asarray(rows[[self.places[digest] for digest in digests]], np.float32)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the store free for other runs."""
        for file in self._files:
            file.close()


def _read_exactly(file: BinaryIO, count: int) -> bytes:
    pieces = []
    while count:
        piece = file.read(count)
        if not piece:
            raise OSError(0, "a file ends early")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
