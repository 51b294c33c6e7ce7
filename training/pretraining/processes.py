"""The processes of one run: alone, or started by torchrun, one for each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from training.errors import SettingsError
from training.runs import device as own_device


@dataclass(frozen=True, kw_only=True)
class World:
    """Place of this process among those of a run."""

    rank: int
    """Counted from 0; the first writes all files."""
    size: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Images of a step for this process.

        Raises
        ------
        SettingsError
            If the batch cannot be divided evenly.
        """
        if batch_size % self.size:
            raise SettingsError(
                f"optimiser.batch_size {batch_size} is no multiple of {self.size} processes"
            )
        return batch_size // self.size

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, element by element, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
            values /= self.size
        return values

    def gather(self, names: list[str]) -> list[str]:
        """All processes' names together, in the order of the processes."""
        if self.size == 1:
            return names
        parts: list[list[str]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, names)
        return [name for part in parts for name in part]

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started; a process started otherwise is alone.

    NCCL connects GPUs, Gloo processors.

    Raises
    ------
    SettingsError
        If the environment is torchrun's in part only, or there are fewer GPUs than processes.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ["RANK"]) if size > 1 else 0
        local = int(os.environ["LOCAL_RANK"]) if size > 1 else 0
    except (KeyError, ValueError) as exc:
        raise SettingsError(f"not a complete environment of torchrun: {exc}") from exc
    if size == 1:
        yield World(rank=0, size=1, device=own_device())
        return
    device = own_device()
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise SettingsError(f"process {local} finds {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank=rank, size=size, device=device)
    finally:
        distributed.destroy_process_group()
