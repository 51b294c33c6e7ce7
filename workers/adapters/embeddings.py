"""The embeddings that were computed on this host, in an SQLite file of their own.

A cache: losing it costs time and nothing else, so it is not synced to disk, and a damaged file is
thrown away. The oldest half of it goes when it grows beyond its bound.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.faults import failpoint

log = logging.getLogger(__name__)

MAX_ROWS = 1_000_000
"""About 5 GB of 1280 float32."""
_CHUNK = 500  # SQLite takes 32,766 parameters in a statement; older builds 999
_SCHEMA = """
CREATE TABLE IF NOT EXISTS embeddings (
    number INTEGER PRIMARY KEY,
    encoder TEXT NOT NULL,
    key TEXT NOT NULL,
    vector BLOB NOT NULL,
    at REAL NOT NULL,
    UNIQUE (encoder, key)
)
"""


class EmbeddingFile:
    """Embeddings by encoder digest and key; implements ``workers.ports.Embeddings``.

    Every fault of the file is remarked on once and then lived with: the images are encoded again.
    """

    def __init__(self, path: Path, *, max_rows: int = MAX_ROWS) -> None:
        self._path = path
        self._max_rows = max_rows
        self._connection: sqlite3.Connection | None = None
        self._puts = 0

    def get(self, encoder_digest: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the (E,) embeddings that are kept, by key."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, NDArray[np.float32]] = {}
        try:
            connection = self._open()
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                rows = connection.execute(
                    f"SELECT key, vector FROM embeddings WHERE encoder = ? AND key IN ({marks})",
                    [encoder_digest, *chunk],
                )
                found |= {key: np.frombuffer(vector, np.float32) for key, vector in rows}
        except (sqlite3.Error, OSError, ValueError) as exc:
            self._give_up(exc)
            return {}
        return found

    def put(self, encoder_digest: str, found: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep (E,) embeddings by key."""
        now = time.time()
        rows = [
            (encoder_digest, key, np.asarray(vector, np.float32).tobytes(), now)
            for key, vector in found.items()
        ]
        try:
            failpoint("embeddings.write")
            connection = self._open()
            with connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO embeddings (encoder, key, vector, at) "
                    "VALUES (?, ?, ?, ?)",
                    rows,
                )
                self._puts += 1
                if self._puts % 100 == 1:
                    self._trim(connection)
        except (sqlite3.Error, OSError) as exc:
            self._give_up(exc)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Encoding waits for its requests in one thread, but an analysis may use several.
            connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(_SCHEMA)
            self._connection = connection
        return self._connection

    def _trim(self, connection: sqlite3.Connection) -> None:
        first, last = connection.execute(
            "SELECT min(number), max(number) FROM embeddings"
        ).fetchone()
        if last is not None and last - first >= self._max_rows:
            bound = last - self._max_rows // 2
            connection.execute("DELETE FROM embeddings WHERE number < ?", [bound])

    def _give_up(self, exc: Exception) -> None:
        """Throw away what cannot be read; a busy or full disk only costs this one look-up."""
        log.warning(
            "kept embeddings cannot be used (%s)",
            type(exc).__name__,
            extra={"action": "embeddings.unusable"},
        )
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._connection = None
        if isinstance(exc, sqlite3.DatabaseError) and not isinstance(exc, sqlite3.OperationalError):
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink()
