"""Real full and read-only disks, where the tests may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*arguments: str) -> str:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def _require(problem: str) -> None:
    """Skip a test that cannot mount; fail it under ``REQUIRE_SERVICES=1``."""
    if not problem:
        return
    reason = f"cannot mount ({problem}): run as root, in a container with CAP_SYS_ADMIN"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _unmount(folder: Path) -> None:
    # Lazy: what a killed process left open must not keep the folder of the test.
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of its own, of that size, on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _require(_mount("-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(folder)))
    try:
        yield folder
    finally:
        _unmount(folder)


def fill(folder: Path) -> Path:
    """Use up the space of a disk to the last byte; return the file that does."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    stream.write(bytes(size))
                except OSError:
                    break
    return ballast


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write in a folder, root neither."""
    _require(_mount("--bind", str(folder), str(folder)))
    try:
        _require(_mount("-o", "remount,ro,bind", str(folder)))
        yield
    finally:
        _unmount(folder)
