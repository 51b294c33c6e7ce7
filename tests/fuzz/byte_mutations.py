"""Mutations that know nothing of what the bytes mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

_LENGTHS = (0, 1, 2, 4, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_MAX_BYTES = 256 * 1024


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data))
    count = rng.randint(1, 8)
    data[start : start + count] = rng.randbytes(min(count, len(data) - start))


def _set_number(data: bytearray, rng: Random) -> None:
    """Put a number at the edge of some range where a length may stand."""
    size = rng.choice((1, 2, 4))
    number = rng.choice(_LENGTHS) & (1 << 8 * size) - 1
    start = rng.randrange(len(data))
    encoded = number.to_bytes(size, rng.choice(("little", "big")))
    data[start : start + size] = encoded[: len(data) - start]


def _cut_end(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 64)]


def _insert(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data) + 1)
    filler = rng.choice((b"\0", b"\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\\", b"\x1b$B"))
    data[start:start] = rng.choice((rng.randbytes(rng.randint(1, 16)), filler * rng.randint(1, 32)))


def _repeat(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randint(1, 256)]
    data[start:start] = piece * rng.choice((1, 1, 2, 16))


def _swap(data: bytearray, rng: Random) -> None:
    one, two = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    count = rng.randint(1, 16)
    first, second = data[one : one + count], data[two : two + count]
    data[two : two + count] = first
    data[one : one + count] = second


_MUTATIONS: Sequence[Callable[[bytearray, Random], None]] = (
    _flip,
    _overwrite,
    _set_number,
    _set_number,
    _cut_end,
    _delete,
    _insert,
    _repeat,
    _swap,
)


def mutate(data: bytes, rng: Random, times: int | None = None) -> bytes:
    """Return ``data`` after a few mutations, at most 256 KB of it."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8)) if times is None else times):
        if not changed:
            return rng.randbytes(rng.randint(0, 16))
        rng.choice(_MUTATIONS)(changed, rng)
    return bytes(changed[:_MAX_BYTES])
