"""The audit file: one RFC 5424 line an entry, appended and synced, never rewritten.

It is the anchor of the chain outside the record: who changes the record has to change it too. A
site that takes the file to another host (or to a syslog server) has it out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.audit.syslog import anchor_of
from gateway.errors import SinkUnavailable
from gateway.store.audit import Anchor

_MODE = 0o600
_TAIL_BYTES = 256 * 1024


class TrailFile:
    """Appends lines to the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, lines: Sequence[str]) -> None:
        """Append what the file does not hold yet, and bring it to the disk.

        A crash between the file and the record's note of it makes lines come twice: those up to
        the newest entry in the file are left out. Half a line of a power cut is ended first.

        Raises
        ------
        SinkUnavailable
            The file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, _MODE)
            try:
                self._append(descriptor, lines)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise SinkUnavailable(
                f"the audit file cannot be written ({exc.strerror or type(exc).__name__})"
            ) from exc

    def close(self) -> None:
        """Do nothing: the file is open only while it is written, so it may be rotated."""

    def _append(self, descriptor: int, lines: Sequence[str]) -> None:
        size = os.fstat(descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(descriptor, size - start, start)
        newest = max((each.id for each in _anchors(tail.splitlines()[-50:])), default=0)
        content = b"" if not tail or tail.endswith(b"\n") else b"\n"
        for line in lines:
            anchor = anchor_of(line)
            if anchor is None or anchor.id > newest:
                content += line.encode() + b"\n"
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)


def _anchors(lines: Sequence[bytes]) -> Iterator[Anchor]:
    for line in lines:
        anchor = anchor_of(line.decode("utf-8", "replace"))
        # A line that was cut off is no witness: its message is not whole.
        if anchor is not None and line.rstrip().endswith(b"</AuditMessage>"):
            yield anchor


def anchors_in(path: Path) -> list[Anchor]:
    """Return what an audit file remembers of entries; empty when there is no file.

    Raises
    ------
    SinkUnavailable
        The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return list(_anchors(stream.readlines()))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise SinkUnavailable(f"the audit file cannot be read ({exc.strerror})") from exc
