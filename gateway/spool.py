"""Received instances on disk: written to ``incoming/``, made durable, renamed into ``instances/``.

    <root>/incoming/<random>.part       being received; swept at start when nobody holds them
    <root>/instances/ab/<sha256>.dcm    complete, durable, named by content
    <root>/quarantine/ab/<sha256>.dcm   complete bytes that were refused, with <sha256>.txt: why
    <root>/documents/ab/<sha256>.bin    small files that the site sent for a study

A file under ``instances/`` is complete and on disk: the bytes are synced before the rename, the
folder after it. Whether an instance is known is for the record to say, not for the presence of a
file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gateway.errors import SpoolError, SpoolFull
from gateway.faults import failpoint

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_FILE_MODE = 0o600  # received instances are personal data: for this account only
_FOLDER_MODE = 0o700
_CHECK_EVERY_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file that is on disk to stay.

    ``relative_path`` is relative to the root of the spool; ``sha256`` is of the whole file, in
    hexadecimal; ``path`` is where it lies, None when that is not known.
    """

    relative_path: PurePosixPath
    sha256: str
    size_bytes: int
    path: Path | None = None


@contextmanager
def _translated(action: str) -> Iterator[None]:
    """Turn an ``OSError`` of the spool's disk into the spool's own errors."""
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else type(exc).__name__
        if exc.errno in _NO_ROOM:
            raise SpoolFull(f"{action}: {reason}") from exc
        raise SpoolError(f"{action}: {reason}") from exc


class IncomingFile:
    """A file being received: written once, front to back, digest kept along the way."""

    def __init__(self, path: Path, descriptor: int, spool: Spool) -> None:
        self.path = path
        self.size_bytes = 0
        self._descriptor = descriptor
        self._spool = spool
        self._digest = hashlib.sha256()
        self._check_at = _CHECK_EVERY_BYTES

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``.

        Raises
        ------
        SpoolFull
            No room is left, or the reserve would be used up.
        SpoolError
            The disk fails otherwise.
        """
        view = memoryview(data)
        self._digest.update(view)
        with _translated("writing a received instance"):
            failpoint("spool.write")
            while view:
                written = os.write(self._descriptor, view)
                self.size_bytes += written
                view = view[written:]
        if self.size_bytes >= self._check_at:
            self._check_at = self.size_bytes + _CHECK_EVERY_BYTES
            self._spool.check_room()

    def sync(self) -> None:
        """Bring the bytes to the disk."""
        with _translated("syncing a received instance"):
            failpoint("spool.sync")
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file; it is swept at the next start unless it was kept."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def discard(self) -> None:
        """Let go of the file and remove it; harmless after it was kept."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Spool:
    """The folder of received instances.

    Parameters
    ----------
    root
        Its folder; made by ``prepare``.
    reserve_bytes
        Free space of the disk below which nothing more is received.
    """

    def __init__(self, root: Path, *, reserve_bytes: int = 0) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.instances = root / "instances"
        self.quarantine_folder = root / "quarantine"
        self.documents = root / "documents"
        self._reserve_bytes = reserve_bytes

    def prepare(self) -> int:
        """Make the folders and sweep what interrupted receptions left; return how many.

        A file that a living process is still writing is locked by it and stays.

        Raises
        ------
        SpoolError
            The folders cannot be made or are not ours to write.
        """
        with _translated("preparing the spool"):
            for folder in (
                self.root,
                self.incoming,
                self.instances,
                self.quarantine_folder,
                self.documents,
            ):
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            _sync_folder(self.root)
            return sum(_remove_if_orphan(path) for path in self.incoming.glob("*.part"))

    def close(self) -> None:
        """Let go of what was opened on the way; the spool can be used again."""

    def check_room(self) -> None:
        """Raise ``SpoolFull`` when less than the reserve is free."""
        if self._reserve_bytes and self.free_bytes() < self._reserve_bytes:
            raise SpoolFull("less than the reserve is free on the disk of the spool")

    def free_bytes(self) -> int:
        """Return the space left to this account on the disk of the spool."""
        with _translated("asking for free space"):
            found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def begin(self) -> IncomingFile:
        """Start receiving a file.

        Raises
        ------
        SpoolFull
            Less than the reserve is free.
        SpoolError
            The file cannot be made.
        """
        self.check_room()
        with _translated("starting a received instance"):
            failpoint("spool.begin")
            while True:
                path = self.incoming / f"{uuid.uuid4().hex}.part"
                descriptor = os.open(
                    path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE
                )
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:  # else swept before we held the lock
                    return IncomingFile(path, descriptor, self)
                os.close(descriptor)

    def keep(self, incoming: IncomingFile) -> StoredFile:
        """Make a received file durable under ``instances/``.

        The same bytes kept twice are one file; the second rename puts an identical file in its
        place.

        Raises
        ------
        SpoolFull, SpoolError
            The file may or may not be under its final name, and must not be relied on.
        """
        return self._keep(incoming, self.instances)

    def keep_document(self, incoming: IncomingFile) -> StoredFile:
        """Make a received file that is no DICOM instance durable under ``documents/``.

        Raises
        ------
        SpoolFull, SpoolError
            As ``keep``.
        """
        return self._keep(incoming, self.documents, ".bin")

    def quarantine(self, incoming: IncomingFile, reason: str) -> StoredFile:
        """Make a refused file durable under ``quarantine/``, with the reason beside it.

        Raises
        ------
        SpoolFull, SpoolError
            As ``keep``.
        """
        stored = self._keep(incoming, self.quarantine_folder)
        note = (self.root / stored.relative_path).with_suffix(".txt")
        with _translated("noting why an instance was refused"):
            failpoint("spool.quarantine_note")
            note.write_text(reason + "\n", encoding="utf-8")
            note.chmod(_FILE_MODE)
        return stored

    def path_of(self, relative_path: PurePosixPath | str) -> Path:
        """Return where a stored file lies."""
        return self.root / relative_path

    def _keep(self, incoming: IncomingFile, folder: Path, suffix: str = ".dcm") -> StoredFile:
        sha256 = incoming.sha256
        target = folder / sha256[:2] / f"{sha256}{suffix}"
        incoming.sync()
        with _translated("keeping a received instance"):
            if not target.parent.is_dir():
                target.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
                _sync_folder(folder)
            failpoint("spool.rename")
            incoming.path.rename(target)
            failpoint("spool.folder_sync")
            _sync_folder(target.parent)
        failpoint("spool.kept")
        incoming.close()
        return StoredFile(
            relative_path=PurePosixPath(target.relative_to(self.root)),
            sha256=sha256,
            size_bytes=incoming.size_bytes,
            path=target,
        )


def _sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_orphan(path: Path) -> bool:
    """Remove a file of ``incoming/`` that no living process holds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # its owner was faster
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
