"""Reads what rules ask of received files: named attributes, never pixels, never all at once.

What is read is kept, and a look has a time limit: a study of thousands of instances is read over
several looks of the sweeper, and holds up no other.
"""

from __future__ import annotations

import logging
import struct
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

log = logging.getLogger(__name__)

MAX_KEPT = 20_000
"""Headers that are kept between two looks."""

# What pydicom raises for damaged files; there is no common base class.
_READ_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    EOFError,
    MemoryError,
    OSError,
    struct.error,
    zlib.error,
    InvalidDicomError,
    BytesLengthException,
)


class TimeIsUp(Exception):
    """The look has taken its time; what was read is kept for the next one."""


class HeaderReader:
    """Reads headers of files in one folder.

    Parameters
    ----------
    folder
        The spool; paths are relative to it.
    budget_s
        Seconds of reading after which ``TimeIsUp`` is raised, counted from ``begin``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        budget_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._budget_s = budget_s
        self._monotonic = monotonic
        self._kept: OrderedDict[str, Dataset] = OrderedDict()
        self._tags: frozenset[int] = frozenset()
        self._until = float("inf")

    def begin(self, tags: Iterable[int]) -> None:
        """Start a look at these attributes."""
        wanted = frozenset(tags)
        if wanted != self._tags:
            self._kept.clear()
            self._tags = wanted
        self._until = self._monotonic() + self._budget_s

    def read(self, path: str) -> Dataset:
        """Return the attributes of one file; an empty data set where it cannot be read.

        Raises
        ------
        TimeIsUp
            It was not read yet, and the time of this look is over.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        if self._monotonic() > self._until:
            raise TimeIsUp
        header = read_header(self._folder / path, self._tags)
        self._kept[path] = header
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return header

    def forget(self, paths: Iterable[str]) -> None:
        """Let go of files that are not asked for any more."""
        for path in paths:
            self._kept.pop(path, None)


def read_header(path: Path, tags: Iterable[int]) -> Dataset:
    """Return the named attributes of one file; an empty data set where it cannot be read.

    One damaged file must not keep its siblings from being routed: the rules then see an instance
    without attributes.
    """
    with warnings.catch_warnings():
        # pydicom quotes values in its warnings.
        warnings.simplefilter("ignore")
        try:
            return dcmread(path, stop_before_pixels=True, specific_tags=list(tags), force=True)
        except _READ_FAULTS as exc:
            log.warning(
                "a header could not be read for the rules",
                extra={"action": "rules.unreadable", "error": type(exc).__name__},
            )
            return Dataset()
