"""Received instances on disk: written to ``incoming/``, named in ``instances/``, made durable.

    <root>/incoming/<random>.part       being received; swept at start when nobody holds them
    <root>/instances/ab/<sha256>.dcm    complete, durable, named by content
    <root>/quarantine/ab/<sha256>.dcm   complete bytes that were refused, with <sha256>.txt: why
    <root>/documents/ab/<sha256>.bin    small files that the site sent for a study

    <root>/journal/<random>.journal     bytes of small instances whose files are not synced yet

What ``keep`` returns is on the disk: bytes and names synced, or the bytes in the journal. A file
under ``instances/`` may be one that was never acknowledged: whether an instance is known is for
the record to say, not for the presence of a file.
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
from gateway.journal import Journal
from gateway.journal_segment import MAX_RECORD_BYTES
from gateway.spool_files import SpoolFiles, SyncedFolders, start_writing, sync_folder

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_FILE_MODE = 0o600  # received instances are personal data: for this account only
_FOLDER_MODE = 0o700
_CHECK_EVERY_BYTES = 16 * 1024 * 1024
_WRITE_BEHIND_BYTES = 8 * 1024 * 1024


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
    """A file being received: written once, front to back, digest kept along the way.

    It is made on the disk once it outgrows memory, or when all of it is there.
    """

    def __init__(self, path: Path, spool: Spool) -> None:
        self.path = path
        self.size_bytes = 0
        self._descriptor = -1
        self._started_bytes = 0
        self._spool = spool
        self._digest = hashlib.sha256()
        self._check_at = _CHECK_EVERY_BYTES
        self._pending: bytearray | None = bytearray()

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def content(self) -> bytearray | None:
        """All bytes of a small file; None of one that has outgrown memory."""
        return self._pending

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``.

        Raises
        ------
        SpoolFull
            No room is left, or the reserve would be used up.
        SpoolError
            The disk fails otherwise.
        """
        self._digest.update(data)
        with _translated("writing a received instance"):
            failpoint("spool.write")
            if self._pending is None:
                self._write(data)
            else:
                self._pending += data
                if len(self._pending) > MAX_RECORD_BYTES:
                    self._write(self._pending)
                    self._pending = None
        self.size_bytes += len(data)
        if self.size_bytes >= self._started_bytes + _WRITE_BEHIND_BYTES:
            start_writing(self._descriptor, self._started_bytes, _WRITE_BEHIND_BYTES)
            self._started_bytes += _WRITE_BEHIND_BYTES
        if self.size_bytes >= self._check_at:
            self._check_at = self.size_bytes + _CHECK_EVERY_BYTES
            self._spool.check_room()

    def flush(self) -> None:
        """Bring what is in memory to the file; once, when all is written."""
        if self._pending is not None:
            with _translated("writing a received instance"):
                self._write(self._pending)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._descriptor < 0:
            self._descriptor = _make_locked(self.path)
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += os.write(self._descriptor, view[written:])

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
        """Let go of the file and remove it; harmless after it was kept, which closes it."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        self.close()


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
        self._folders = SyncedFolders()
        self._journal: Journal | None = None

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
            sync_folder(self.root)
            return sum(_remove_if_orphan(path) for path in self.incoming.glob("*.part"))

    def open_journal(self) -> int:
        """Restore what a crash left in the journal, and use it from now on.

        For a process that receives many instances. Without it every file is synced for itself.

        Returns
        -------
        How many files were restored.

        Raises
        ------
        SpoolError
            Something was left that cannot be restored.
        """
        # Made beforehand, since the first instance of each of 256 would wait for its folder.
        with _translated("preparing the spool"):
            self._folders.make(*(self.instances / f"{number:02x}" for number in range(256)))
        journal = Journal(self.root / "journal", SpoolFiles(self.instances, self.incoming))
        with _translated("restoring instances from the journal"):
            restored = journal.open()
        self._journal = journal
        return restored

    def close(self) -> None:
        """Settle the journal and let go of it."""
        if self._journal is not None:
            journal, self._journal = self._journal, None
            journal.close()

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
            The disk does not say how much is free.
        """
        self.check_room()
        with _translated("starting a received instance"):
            failpoint("spool.begin")
        return IncomingFile(self.incoming / f"{uuid.uuid4().hex}.part", self)

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
        incoming.flush()
        with _translated("keeping a received instance"):
            failpoint("spool.rename")
            self._folders.make(target.parent)
            is_named = _name(incoming.path, target)
        if not (is_named and folder == self.instances and self._journalled(incoming)):
            incoming.sync()
            with _translated("keeping a received instance"):
                if not is_named:
                    incoming.path.rename(target)
                failpoint("spool.folder_sync")
                sync_folder(target.parent)
        incoming.close()
        failpoint("spool.kept")
        return StoredFile(
            relative_path=PurePosixPath(target.relative_to(self.root)),
            sha256=sha256,
            size_bytes=incoming.size_bytes,
        )

    def _journalled(self, incoming: IncomingFile) -> bool:
        """Return whether the journal has taken a file, which then needs no sync of its own."""
        if self._journal is None or incoming.content is None:
            return False
        return self._journal.append(incoming.sha256, incoming.content)


def _name(path: Path, target: Path) -> bool:
    """Give a file its final name before it is synced, which saves a commit of the file system.

    Returns False when the name is taken, by the same bytes as a rule: they may have been
    acknowledged, so that only bytes on the disk may take their place. Also False where the file
    system knows no second names.
    """
    try:
        os.link(path, target)
    except OSError:
        return False
    path.unlink()
    return True


def _make_locked(path: Path) -> int:
    """Make a file of ``incoming/`` that a sweep leaves alone; return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else swept before we held the lock
            return descriptor
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
