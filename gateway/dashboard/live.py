"""Tells open pages that something changed, by server-sent events.

One task asks the record about once a second for everybody, and only while somebody listens. A page
gets a *mark*; when it differs from the one it was rendered with, it fetches itself again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from gateway.errors import RecordUnavailable
from gateway.store.reading.history import HistoryReader

POLL_S = 1.0
HEARTBEAT_S = 15.0


class LiveFeed:
    """The marks of the record and of the studies that somebody looks at."""

    def __init__(self, reader: HistoryReader, poll_s: float = POLL_S) -> None:
        self._reader = reader
        self._poll_s = poll_s
        self._listeners: Counter[int | None] = Counter()
        self._marks: dict[int | None, str] = {}
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def close(self) -> None:
        """End every stream soon; safe to call from a signal handler."""
        self._is_closed = True

    async def aclose(self) -> None:
        """End every stream and wait until the record is not being asked any more."""
        self.close()
        if self._task is not None:
            await self._task

    async def stream(
        self, study_id: int | None, is_welcome: Callable[[], bool]
    ) -> AsyncIterator[str]:
        """Yield server-sent events for one page until it goes, or is no longer welcome.

        Parameters
        ----------
        study_id
            Internal id of the study to follow; None follows the whole record.
        is_welcome
            Asked at every heartbeat, in a thread: whether the session still stands.
        """
        self._listeners[study_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        seen, silent_s = None, 0.0
        try:
            yield "retry: 2000\n\n"
            while not self._is_closed:
                mark = self._marks.get(study_id)
                if mark is not None and mark != seen:
                    seen, silent_s = mark, 0.0
                    yield f"event: mark\ndata: {mark}\n\n"
                if not await self._wait():
                    silent_s += self._poll_s
                if silent_s >= HEARTBEAT_S:
                    if not await run_in_threadpool(is_welcome):
                        return
                    silent_s = 0.0
                    yield ": still here\n\n"
        finally:
            self._listeners[study_id] -= 1
            if not self._listeners[study_id]:
                del self._listeners[study_id]
                self._marks.pop(study_id, None)

    async def _wait(self) -> bool:
        """Wait for a change, at most one poll long; return whether there was one."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), self._poll_s)
            except TimeoutError:
                return False
        return True

    async def _poll(self) -> None:
        while self._listeners and not self._is_closed:
            wanted = [study_id for study_id in self._listeners if study_id is not None]
            try:
                marks = await run_in_threadpool(self._reader.marks, wanted)
            except RecordUnavailable:
                marks = self._marks  # the next look may find it again; heartbeats go on
            if marks != self._marks:
                self._marks = marks
                async with self._changed:
                    self._changed.notify_all()
            await asyncio.sleep(self._poll_s)
