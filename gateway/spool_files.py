"""Files named by the digest of their bytes, as the journal needs them: synced, restored."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_MANY = 8
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h


class SpoolFiles:
    """The files of ``instances/``; implements ``gateway.journal.JournalledFiles``.

    Parameters
    ----------
    folder
        Of the files.
    scratch
        Where a file is written before it is whole; on the same file system.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    def path_of(self, digest: str) -> Path:
        """Return where the file of a digest lies."""
        return self._folder / digest[:2] / f"{digest}.dcm"

    def settle(self, digests: list[str]) -> list[str]:
        """Bring files to the disk; return those that failed. One that is gone was removed."""
        if len(digests) > _MANY:
            _sync_file_system(self._folder)
        failed = {digest for digest in digests if not self._synced(self.path_of(digest))}
        for parent, inside in _by_folder(digests).items():
            if not self._synced(self._folder / parent):
                failed.update(inside)
        return sorted(failed)

    def _synced(self, path: Path) -> bool:
        try:
            sync_folder(path)  # a file is synced in the same way
        except FileNotFoundError:
            return True
        except OSError as exc:
            log.error(
                "an instance could not be synced; it is written again",
                extra={"action": "spool.unsynced", "error": exc.strerror},
            )
            return False
        return True

    def is_whole(self, digest: str) -> bool:
        """Return whether the file is there with the bytes of its digest."""
        found = hashlib.sha256()
        try:
            with self.path_of(digest).open("rb") as file:
                while chunk := file.read(1024 * 1024):
                    found.update(chunk)
        except OSError:
            return False
        return found.hexdigest() == digest

    def restore(self, digest: str, data: bytes) -> None:
        """Write the file again, durably.

        Raises
        ------
        OSError
            The disk does not take it.
        """
        target = self.path_of(digest)
        for folder in (self._scratch, target.parent):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        path = self._scratch / f"{uuid.uuid4().hex}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            path.rename(target)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
        sync_folder(self._folder)


class SyncedFolders:
    """Makes folders whose names are on the disk, each once in a process."""

    def __init__(self) -> None:
        self._synced: set[Path] = set()
        self._lock = threading.Lock()

    def make(self, *folders: Path) -> None:
        """Have these folders, all of one parent, their names on the disk.

        Raises
        ------
        OSError
            They cannot be made or synced.
        """
        if all(folder in self._synced and folder.is_dir() for folder in folders):
            return
        # A thread that finds a folder waits for the one that made it: its name may not be synced.
        with self._lock:
            for folder in folders:
                folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            sync_folder(folders[0].parent)
            self._synced.update(folders)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, or the bytes of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_writing(descriptor: int, offset: int, count: int) -> None:
    """Let the disk begin with a part of a file (sync_file_range(2), Linux).

    The kernel would keep a file of some 100 MB in memory until it is synced, and the disk would
    stand idle while it is received. Says nothing of what is on the disk: a failure comes out when
    the file is synced.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).sync_file_range(
            descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE
        )


def _by_folder(digests: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for digest in digests:
        found.setdefault(digest[:2], []).append(digest)
    return found


def _sync_file_system(folder: Path) -> None:
    """Write out everything at once (syncfs(2), Linux), which makes the syncs of files cheap.

    Its own result is not relied on: each file is synced for itself afterwards, and that says
    whether it is on the disk.
    """
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(descriptor)
        finally:
            os.close(descriptor)
