"""What every recipe's run shares: its folder, checkpoints that survive a kill, seeds, schedules."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from training.errors import RunError

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a description, steps done and steps in all."""

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"
SETTINGS = "settings.json"
LOCK = ".lock"

# What torch's own unpickler raises on torn files, beside its UnpicklingError.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)


def seed_all(seed: int) -> None:
    """Seed Python, numpy's legacy generator and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """Generator of one epoch: the same whether the run was interrupted before it or not."""
    return np.random.default_rng([seed, epoch])


def device() -> torch.device:
    """The GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cosine_schedule(
    progress: float, *, epochs: float, warmup: float, peak: float, low: float
) -> float:
    """Learning rate after ``progress`` epochs: linear warm-up, then half a cosine to ``low``."""
    if progress < warmup:
        return peak * max(progress, 1e-3) / warmup
    part = min((progress - warmup) / max(epochs - warmup, 1e-9), 1.0)
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * part))


def no_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: decay for matrices and kernels, none for vectors and tokens."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim <= 1 or name.endswith(("cls_token", "mask_token", "pos_embed"))
            (free if is_free else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def settings_digest(settings: object) -> str:
    """SHA-256 of a settings dataclass: a run resumes only under the same one."""
    return hashlib.sha256(_settings_text(settings).encode()).hexdigest()


def _settings_text(settings: object) -> str:
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise TypeError("settings must be a dataclass instance")
    return json.dumps(dataclasses.asdict(settings), sort_keys=True, indent=2)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of a run's folder.

    Raises
    ------
    RunError
        If there is none, it is torn, or it holds anything but tensors and plain values.
    """
    try:
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except _UNREADABLE as exc:
        raise RunError(f"{folder} holds a checkpoint that cannot be read, or none") from exc
    if not isinstance(state, dict):
        raise RunError(f"{folder} holds a checkpoint that is no table")
    return state


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a kill or a full disk leaves the old one.

    Raises
    ------
    RunError
        If the file cannot be written; what was there before still is.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise RunError(f"{path.name} cannot be written: {exc.strerror}") from exc


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a folder to one process for as long as it works there; a kill frees it.

    Raises
    ------
    RunError
        If another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("w")
    except OSError as exc:
        raise RunError(f"{folder} cannot be used: {exc.strerror}") from exc
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RunError(f"{folder} is in use by another run") from exc
        yield


class RunFolder:
    """The folder of one run: settings, checkpoint, history and whatever the recipe adds.

    Parameters
    ----------
    folder
        Made when it is missing.
    recipe
        Name of the recipe.
    settings
        Frozen dataclass; the folder belongs to these settings from its first run on.

    Raises
    ------
    RunError
        If the folder was begun by another recipe or under other settings, or cannot be written.
    """

    def __init__(self, folder: Path, *, recipe: str, settings: object) -> None:
        self.folder = folder
        text = f'{{"recipe": "{recipe}", "settings": {_settings_text(settings)}}}\n'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = self.path(SETTINGS).read_text("utf-8") if self._has(SETTINGS) else None
        except OSError as exc:
            raise RunError(f"{folder} cannot be used: {exc.strerror}") from exc
        if known is None:
            write_atomically(self.path(SETTINGS), text.encode())
        elif known != text:
            raise RunError(f"{folder} was begun under another configuration")

    def path(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.folder / name

    def _has(self, name: str) -> bool:
        return self.path(name).is_file()

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a checkpoint of tensors and plain values, whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written, e.g. on a full disk; the last good one stays.
        """
        part = self.path(f"{CHECKPOINT}.part")
        try:
            with part.open("wb") as handle:
                torch.save(dict(state), handle)
                handle.flush()
                os.fsync(handle.fileno())
            part.replace(self.path(CHECKPOINT))
        except (OSError, RuntimeError) as exc:  # torch reports a short write as RuntimeError
            part.unlink(missing_ok=True)
            raise RunError(f"the checkpoint cannot be written; the last one stays: {exc}") from exc

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None before the first.

        Raises
        ------
        RunError
            If the file is torn or holds anything but tensors and plain values.
        """
        return read_checkpoint(self.folder) if self._has(CHECKPOINT) else None

    def load_or_begin(self, inputs: Mapping[str, str]) -> dict[str, Any]:
        """Return the last checkpoint, or a first state that holds the digests of the inputs.

        Parameters
        ----------
        inputs
            Name of an input, e.g. ``cohort``, -> its digest; part of every checkpoint.

        Raises
        ------
        RunError
            If the run was begun with another input, which is named, or cannot be read.
        """
        state = self.load() or dict(inputs)
        other = [name for name, digest in inputs.items() if state[name] != digest]
        if other:
            raise RunError(f"{self.folder} was begun with another {' and '.join(other)}")
        return state

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch, as logged."""
        if not self._has(HISTORY):
            return []
        try:
            with self.path(HISTORY).open(newline="", encoding="utf-8") as handle:
                return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]
        except (OSError, ValueError, TypeError) as exc:
            raise RunError(f"{self.folder} holds a history that cannot be read") from exc

    def log(self, row: Mapping[str, float]) -> None:
        """Log one epoch's figures; a row of the same ``epoch``, or a later one, is replaced."""
        rows = [old for old in self.history if old["epoch"] < row["epoch"]] + [dict(row)]
        names = list(dict.fromkeys(name for each in rows for name in each))
        lines = [",".join(names)]
        lines += [
            ",".join(repr(float(each.get(name, math.nan))) for name in names) for each in rows
        ]
        write_atomically(self.path(HISTORY), ("\n".join(lines) + "\n").encode())

    def write_json(self, name: str, content: object) -> None:
        """Write plain values as indented JSON."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path(name), text.encode())
