"""Gets a consumer out of a dead end that kombu leaves it in when Redis goes away.

A message whose acknowledgement failed stays counted as unacknowledged. When that is so for as many
messages as may be prefetched, the consumer waits for one of them and asks Redis for nothing more,
although no task runs: no error ever tells it that the connection was lost. The hints themselves do
not matter, since the sweeper announces the work again; the counting does.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker import state

log = logging.getLogger(__name__)

PERIOD_S = 2.0
_ROUNDS = 2  # an acknowledgement is on its way for a moment


class ConsumerLost(ConnectionError):
    """Raised into the event loop, where it means: connect again."""


class AckWatch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Connects again when messages are held by no task."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None
        self._rounds = 0

    def start(self, parent: Any) -> None:
        """Begin to look, on the timer of the event loop."""
        self._rounds = 0
        self._timer = parent.timer.call_repeatedly(PERIOD_S, self.look, (parent,))

    def stop(self, parent: Any) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self, parent: Any) -> None:
        """Compare what the channel holds with what is being worked on.

        Raises
        ------
        ConsumerLost
            Messages have been held by no task for two rounds.
        """
        qos = parent.task_consumer.channel.qos
        # What was acknowledged is taken off the list later; kombu counts in the same way.
        held = len(qos._delivered) - len(qos._dirty)
        is_idle = not state.reserved_requests and not state.active_requests
        self._rounds = self._rounds + 1 if held and is_idle else 0
        if self._rounds >= _ROUNDS:
            self._rounds = 0
            log.warning(
                "%d messages are held by no task; connecting to the broker again",
                held,
                extra={"action": "broker.reconnect"},
            )
            raise ConsumerLost("acknowledgements were lost")
