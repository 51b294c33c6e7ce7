"""Commits what several threads write at the same time in one transaction, with one sync."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from gateway.errors import RecordUnavailable
from gateway.store.engine import writing

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_TOGETHER = 16


class _Task(Generic[T]):
    """One thread's share of a transaction."""

    def __init__(self, key: str, work: Callable[[Connection], T]) -> None:
        self.key = key
        self.work = work
        self.result: T | None = None
        # Until a commit says otherwise, also when the committing thread dies on the way.
        self.error: Exception | None = RecordUnavailable("the record was not written")
        self.is_done = False


class GroupCommit(Generic[T]):
    """Runs work of many threads, a transaction for each or for several of them.

    While one thread commits, others queue up; the next one commits for all that wait. On SQLite
    this also keeps threads of one process from waiting for each other's lock by the clock.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._waiting: list[_Task[T]] = []
        self._is_busy = False

    def run(self, key: str, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction and return its result once that is committed.

        Parameters
        ----------
        key
            What is locked, e.g. a study: work is done in its order, so that two processes do not
            wait for each other.
        work
            May be run twice, the second time in a transaction of its own.

        Raises
        ------
        RecordUnavailable
            The database does not answer; nothing was written.
        """
        task = _Task(key, work)
        with self._changed:
            self._waiting.append(task)
            while self._is_busy and not task.is_done:
                self._changed.wait()
            if not task.is_done:
                self._is_busy = True
                batch = self._take_batch(task)
        if not task.is_done:
            try:
                self._commit(batch)
            finally:
                with self._changed:
                    self._is_busy = False
                    for each in batch:
                        each.is_done = True
                    self._changed.notify_all()
        if task.error is not None:
            raise task.error
        return task.result  # type: ignore[return-value]  # set whenever error is not

    def _take_batch(self, task: _Task[T]) -> list[_Task[T]]:
        self._waiting.remove(task)
        batch = [task, *self._waiting[: _MOST_TOGETHER - 1]]
        del self._waiting[: _MOST_TOGETHER - 1]
        return sorted(batch, key=lambda each: each.key)

    def _commit(self, batch: list[_Task[T]]) -> None:
        if len(batch) > 1:
            try:
                with writing(self._engine) as connection:
                    results = [task.work(connection) for task in batch]
                for task, result in zip(batch, results, strict=True):
                    task.result, task.error = result, None
                return
            except RecordUnavailable as exc:
                for task in batch:
                    task.error = RecordUnavailable(str(exc))
                return
            except Exception as exc:  # of one of them: each meets its own, alone, below
                log.debug(
                    "a shared transaction is split",
                    extra={"action": "record.group_split", "error": type(exc).__name__},
                )
        for task in batch:
            try:
                with writing(self._engine) as connection:
                    result = task.work(connection)
            except Exception as exc:  # handed to the thread whose work it is
                task.error = exc
            else:
                task.result, task.error = result, None
