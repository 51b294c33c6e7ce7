"""The journal of the spool: bytes of small instances, durable before their own files are.

A file of its own costs two commits of the file system's journal (its inode, its name), and these
wait for whatever else the disk is doing. Here an instance costs one write into space that is
allocated already. Its file is written too, at once and without waiting; it is brought to the disk
later, many at a time, and only then is the space used again. What a crash leaves in the journal
and not on the disk is restored at the next start.

The journal is an optimisation: whenever it cannot take an instance it says so, and the spool syncs
the file itself. It is made only once many instances have come, and completed at a later start
where a process died over the making. How records lie in its files is
``gateway.journal_segment``'s.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gateway.faults import failpoint
from gateway.journal_segment import MAX_RECORD_BYTES, PAGE_BYTES, Segment, record_pages

log = logging.getLogger(__name__)

_SEGMENT_BYTES = 16 * 1024 * 1024
_SEGMENTS = 4
_SETTLE_AFTER_S = 5.0
_RETRY_S = 5.0
_WORTH_IT_AFTER = 16


class JournalledFiles(Protocol):
    """The files that a journal stands for, by the digest of their bytes."""

    def settle(self, digests: list[str]) -> list[str]:
        """Bring files to the disk; return those that failed. One that is gone was removed."""
        ...

    def is_whole(self, digest: str) -> bool:
        """Return whether a file is there with the bytes of its digest."""
        ...

    def restore(self, digest: str, data: bytes) -> None:
        """Write a file again, durably; raises ``OSError``."""
        ...


class Journal:
    """The journal of one process; a second process takes other files.

    Parameters
    ----------
    folder
        Its folder, on the file system of the spool.
    files
        What it stands for.
    segment_bytes
        Length of each segment.
    settle_after_s
        Age at which a segment is emptied that is not full.
    worth_it_after
        Instances after which the segments are made.

    Notes
    -----
    Threads that append at the same time share one sync.
    """

    def __init__(
        self,
        folder: Path,
        files: JournalledFiles,
        *,
        segment_bytes: int = _SEGMENT_BYTES,
        settle_after_s: float = _SETTLE_AFTER_S,
        worth_it_after: int = _WORTH_IT_AFTER,
    ) -> None:
        self._folder = folder
        self._files = files
        self._missing_segments = _SEGMENTS
        self._wishes_left = worth_it_after
        self._segment_bytes = segment_bytes
        self._settle_after_s = settle_after_s
        self._changed = threading.Condition()
        self._clean: deque[Segment] = deque()
        self._dirty: deque[Segment] = deque()
        self._active: Segment | None = None
        self._appended = 0
        self._synced = 0
        self._is_syncing = False
        self._is_broken = False
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def open(self) -> int:
        """Restore what former processes left; return how many files were restored.

        Raises
        ------
        OSError
            A segment or a file cannot be read or written.
        """
        restored = 0
        for path in sorted(self._folder.glob("*.journal")):
            segment = Segment.open(path)
            if segment is None:
                continue  # another process's
            try:
                restored += self._recover(segment)
                self._take_over(segment)
            except OSError:
                segment.close()
                raise
        if self._missing_segments < _SEGMENTS:
            self._wishes_left = 0  # it was worth it before: make what is missing
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        return restored

    def append(self, sha256: str, data: bytes | bytearray | memoryview) -> bool:
        """Make bytes durable; return False when the journal cannot, and nothing is promised.

        Their file must be there with all its bytes, though not synced: a segment may be settled
        as soon as this returns.
        """
        if len(data) > MAX_RECORD_BYTES:
            return False
        place = self._reserve(sha256, len(data))
        if place is None:
            return False
        segment, position = place
        try:
            failpoint("journal.append")
            segment.write(position, sha256, data)
            with self._changed:
                self._appended += 1
                mine = self._appended
            self._sync(segment, mine)
        except OSError as exc:
            self._break(exc)
            return False
        finally:
            with self._changed:
                segment.writers -= 1
                self._changed.notify_all()
        return not self._is_broken

    def close(self) -> None:
        """Settle everything and let go of the files."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for segment in (*self._clean, *self._dirty, *((self._active,) if self._active else ())):
            segment.close()
        self._clean.clear()
        self._dirty.clear()
        self._active = None

    # -- writing ----------------------------------------------------------------------------

    def _reserve(self, sha256: str, length: int) -> tuple[Segment, int] | None:
        """Return where a record goes."""
        length = record_pages(length) * PAGE_BYTES
        with self._changed:
            if self._is_broken or self._is_closing:
                return None
            segment = self._active
            if segment is not None and segment.position + length > self._segment_bytes:
                self._retire(segment)
                segment = None
            if segment is None:
                if not self._clean:
                    self._wish()
                    return None
                segment = self._active = self._clean.popleft()
            position = segment.position
            segment.position += length
            if not segment.digests:
                segment.oldest = time.monotonic()
                self._changed.notify_all()
            segment.digests.append(sha256)
            segment.writers += 1
            return segment, position

    def _wish(self) -> None:
        """Note that an instance found no room; many of them make it worth it."""
        if self._missing_segments and self._wishes_left:
            self._wishes_left -= 1
            if not self._wishes_left:
                self._changed.notify_all()

    def _retire(self, segment: Segment) -> None:
        self._active = None
        self._dirty.append(segment)
        self._changed.notify_all()

    def _sync(self, segment: Segment, mine: int) -> None:
        """Return once the ``mine``-th append is on the disk; one thread syncs for all."""
        while True:
            with self._changed:
                while self._is_syncing and self._synced < mine and not self._is_broken:
                    self._changed.wait()
                if self._synced >= mine or self._is_broken:
                    return
                self._is_syncing = True
                upto = self._appended
                # At the turn of a segment appends of two are under way.
                segments = {each for each in (self._active, *self._dirty, segment) if each}
            is_synced = False
            try:
                failpoint("journal.sync")
                for each in segments:
                    if each.writers:
                        os.fdatasync(each.descriptor)
                is_synced = True
            finally:
                with self._changed:
                    self._is_syncing = False
                    if is_synced:
                        self._synced = max(self._synced, upto)
                    else:
                        self._is_broken = True  # at once: a second sync might seem to succeed
                    self._changed.notify_all()

    def _break(self, error: OSError) -> None:
        """Take nothing more: after a failed sync nobody knows what is on the disk."""
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()
        log.error(
            "the journal of the spool cannot be written; files are synced one by one",
            extra={"action": "journal.broken", "error": error.strerror or str(error)},
        )

    # -- settling ---------------------------------------------------------------------------

    def _run(self) -> None:
        """Make segments, and empty those that are full or old, until the journal is closed."""
        while True:
            task = self._next_task()
            if task is None:
                return
            if not task():
                with self._changed:
                    if self._is_closing:
                        return
                    self._changed.wait(_RETRY_S)

    def _next_task(self) -> Callable[[], bool] | None:
        with self._changed:
            while True:
                if self._dirty and not self._dirty[0].writers:
                    return self._empty_oldest
                if self._missing_segments and not self._wishes_left and not self._is_closing:
                    return self._make_segment
                timeout_s = self._retire_if_old()
                if timeout_s == 0:
                    continue
                if self._is_closing and not self._dirty:
                    return None
                self._changed.wait(timeout_s)

    def _retire_if_old(self) -> float | None:
        """Retire the active segment in its time; return the seconds until then."""
        active = self._active
        if active is None or not active.digests:
            return None
        age_s = time.monotonic() - active.oldest
        if age_s < self._settle_after_s and not self._is_closing:
            return self._settle_after_s - age_s
        self._retire(active)
        return 0

    def _empty_oldest(self) -> bool:
        """Settle a segment; return whether it may be written again."""
        segment = self._dirty[0]
        try:
            failpoint("journal.settle")
            self._settle(segment, segment.digests)
            failpoint("journal.settled")
            segment.reset()
        except OSError as exc:
            log.error(
                "instances could not be brought from the journal to the disk; trying again",
                extra={"action": "journal.unsettled", "error": exc.strerror},
            )
            return False
        with self._changed:
            self._dirty.popleft()
            self._clean.append(segment)
            self._changed.notify_all()
        return True

    def _settle(self, segment: Segment, digests: list[str]) -> None:
        failed = set(self._files.settle(digests))
        for digest, data in segment.records() if failed else ():
            if digest in failed:
                self._files.restore(digest, data)

    # -- segments ---------------------------------------------------------------------------

    def _make_segment(self) -> bool:
        """Make a segment; its space is written once here, where nobody waits for it."""
        try:
            failpoint("journal.make")
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{uuid.uuid4().hex}.journal"
            segment = Segment.make(path, self._segment_bytes)
        except OSError as exc:
            log.warning(
                "no room for the journal of the spool; files are synced one by one",
                extra={"action": "journal.unmade", "error": exc.strerror},
            )
            self._missing_segments = 0  # until the next start
            return True
        with self._changed:
            self._missing_segments -= 1
            self._clean.append(segment)
        return True

    def _take_over(self, segment: Segment) -> None:
        """Use a settled segment again, or remove it."""
        if segment.size_bytes == self._segment_bytes and self._missing_segments:
            segment.reset()
            self._clean.append(segment)
            self._missing_segments -= 1
        else:
            segment.path.unlink()
            segment.close()

    def _recover(self, segment: Segment) -> int:
        """Restore every instance of a segment whose file is not whole."""
        failpoint("journal.restore")
        whole: list[str] = []
        restored = 0
        for digest, data in segment.records():
            if self._files.is_whole(digest):
                whole.append(digest)
            else:
                self._files.restore(digest, data)
                restored += 1
        self._settle(segment, whole)
        return restored
