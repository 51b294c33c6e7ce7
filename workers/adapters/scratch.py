"""Large arrays of one work item: in memory up to a budget, in mapped files beyond it.

The pages of a mapped file can be dropped under pressure, those of an ordinary array cannot: a
study of three hundred 12-megapixel images then needs disk, not memory.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gateway.faults import failpoint
from workers.errors import StorageUnavailable
from workers.ports import Scalar

MEMORY_BUDGET_BYTES = 256 * 1024 * 1024


class ScratchFolder:
    """A temporary folder for one work item; a context manager that removes it at its end."""

    def __init__(self, parent: Path, *, budget_bytes: int = MEMORY_BUDGET_BYTES) -> None:
        self._parent = parent
        self._left_bytes = budget_bytes
        self._folder: Path | None = None
        self._count = 0

    def __enter__(self) -> ScratchFolder:
        """Return itself; the folder is made when it is first needed."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the files; a mapping that still lives keeps its pages until it goes."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def keep(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the array itself while the budget lasts, then a read-only mapped copy."""
        if array.nbytes <= self._left_bytes:
            self._left_bytes -= array.nbytes
            return array
        try:
            failpoint("scratch.make")
            if self._folder is None:
                self._parent.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._parent))
            path = self._folder / str(self._count)
            self._count += 1
            # Written, not mapped for writing: a full disk then raises instead of killing us.
            with path.open("wb") as stream:
                np.ascontiguousarray(array).tofile(stream)
        except OSError as exc:
            raise StorageUnavailable("there is no room for temporary images") from exc
        mapped: NDArray[Scalar] = np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)
        return mapped
