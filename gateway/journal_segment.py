"""A segment of the spool's journal: a file of fixed length that holds records.

    segment   header page | record | record | ...     records start at multiples of a page
    record    magic, CRC of the header, epoch, length, SHA-256 of the bytes | bytes

A record belongs to its segment while its epoch is the segment's; raising that empties the segment.
Its space is written once when it is made, so that a later sync has no metadata to write.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.spool_files import sync_folder

MAX_RECORD_BYTES = 2 * 1024 * 1024
"""Longer instances have a file of their own at once: the second write would cost more."""

PAGE_BYTES = 4096
_FILE_MODE = 0o600

_MAGIC = b"LentigoJ"
_RECORD_MAGIC = b"LREC"
_SEGMENT_HEADER = struct.Struct("<8sQI")  # magic, epoch, CRC of both
_RECORD_HEADER = struct.Struct("<4sIQQ32s")  # magic, CRC of what follows, epoch, length, SHA-256
_RECORD_BODY = struct.Struct("<QQ32s")


@dataclass(eq=False, kw_only=True)
class Segment:
    """One segment, open and locked."""

    path: Path
    descriptor: int
    epoch: int
    position: int = PAGE_BYTES
    """Where the next record goes."""
    digests: list[str] = field(default_factory=list)
    """Of the records in it."""
    oldest: float = 0.0
    """When the first of them came, by the monotonic clock."""
    writers: int = 0
    """Threads that are writing a record."""

    @classmethod
    def open(cls, path: Path) -> Segment | None:
        """Open a segment that is there; None when another process holds it.

        Raises
        ------
        OSError
            It cannot be read.
        """
        descriptor = _locked(path, os.O_RDWR)
        if descriptor is None:
            return None
        return cls(path=path, descriptor=descriptor, epoch=_epoch(descriptor))

    @classmethod
    def view(cls, path: Path) -> Segment:
        """Open a segment to look at its records, whoever holds it.

        Raises
        ------
        OSError
            It cannot be read.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(path=path, descriptor=descriptor, epoch=_epoch(descriptor))

    @classmethod
    def make(cls, path: Path, size_bytes: int) -> Segment:
        """Make a segment, its bytes and its name on the disk.

        Raises
        ------
        OSError
            No room, or the disk fails; nothing is left of it.
        """
        descriptor = _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        assert descriptor is not None  # nobody else knows of it
        try:
            zeros = bytes(64 * PAGE_BYTES)
            for position in range(0, size_bytes, len(zeros)):
                _write(descriptor, (zeros[: size_bytes - position],), position)
            os.fsync(descriptor)
            segment = cls(path=path, descriptor=descriptor, epoch=0)
            segment.reset()
            sync_folder(path.parent)
        except OSError:
            path.unlink()
            os.close(descriptor)
            raise
        return segment

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)

    def reset(self) -> None:
        """Empty the segment.

        Raises
        ------
        OSError
            The disk fails.
        """
        # Beyond any epoch that was here before, also where the header was lost.
        epoch = max(self.epoch + 1, time.time_ns())
        start = struct.pack("<8sQ", _MAGIC, epoch)
        _write(self.descriptor, (start + zlib.crc32(start).to_bytes(4, "little"),), 0)
        os.fdatasync(self.descriptor)
        self.epoch = epoch
        self.position = PAGE_BYTES
        self.digests = []

    def write(self, position: int, sha256: str, data: bytes | bytearray | memoryview) -> None:
        """Write a record, without a sync.

        Raises
        ------
        OSError
            The disk fails.
        """
        body = _RECORD_BODY.pack(self.epoch, len(data), bytes.fromhex(sha256))
        header = _RECORD_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
        _write(self.descriptor, (header, data), position)

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Yield digest and bytes of each record that is whole.

        Threads write records side by side, and a sync covers those that are complete: where one
        was cut off by a crash, others behind it may have been promised. So what is no record is
        passed over page by page.
        """
        end = self.size_bytes
        position = PAGE_BYTES
        while self.epoch and position + _RECORD_HEADER.size <= end:
            found = self._header_at(position, end)
            if found is None:
                position += PAGE_BYTES
                continue
            length, digest = found
            data = os.pread(self.descriptor, length, position + _RECORD_HEADER.size)
            if hashlib.sha256(data).digest() == digest:
                yield digest.hex(), data
            position += record_pages(length) * PAGE_BYTES

    def _header_at(self, position: int, end: int) -> tuple[int, bytes] | None:
        """Return length and digest of the record of this epoch that starts there, if one does."""
        header = os.pread(self.descriptor, _RECORD_HEADER.size, position)
        magic, crc, epoch, length, digest = _RECORD_HEADER.unpack(header)
        is_record = (
            magic == _RECORD_MAGIC
            and epoch == self.epoch
            and zlib.crc32(header[8:]) == crc
            and position + _RECORD_HEADER.size + length <= end
        )
        return (length, digest) if is_record else None


def record_pages(length: int) -> int:
    """Return the pages that a record of so many bytes takes."""
    return -(-(_RECORD_HEADER.size + length) // PAGE_BYTES)


def _write(
    descriptor: int, parts: tuple[bytes | bytearray | memoryview, ...], position: int
) -> None:
    if os.pwritev(descriptor, parts, position) != sum(map(len, parts)):
        raise OSError("a short write")


def _locked(path: Path, flags: int) -> int | None:
    """Open and lock a file; None when another process holds it."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, _FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _epoch(descriptor: int) -> int:
    """Return the epoch of a segment; 0 for one that has none."""
    header = os.pread(descriptor, _SEGMENT_HEADER.size, 0)
    if len(header) < _SEGMENT_HEADER.size:
        return 0
    magic, epoch, crc = _SEGMENT_HEADER.unpack(header)
    return int(epoch) if magic == _MAGIC and zlib.crc32(header[:16]) == crc else 0
