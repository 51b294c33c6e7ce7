"""What a search is about: one reader of bytes, and how to draw what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that reads bytes of unknown origin."""

    name: str
    about: str
    """What reads them."""
    draw: Callable[[Random], bytes]
    """Makes input that gets far in."""
    read: Callable[[bytes], None]
    """Reads any bytes; raises nothing but a finding."""
    instrument: tuple[str, ...] = ()
    """Packages whose coverage guides atheris."""


class Finding(AssertionError):
    """What a reader must not do, without being an exception of its own."""
