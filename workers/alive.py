"""Leaves a mark while the consumer's event loop turns, for ``lentigo health``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import bootsteps

from gateway.host.health import leave_mark

PERIOD_S = 5.0


def alive_step(mark: Path) -> type[bootsteps.StartStopStep]:
    """Return the step of a consumer that renews ``mark`` on the timer of its event loop."""

    class AliveMark(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            self._timer: Any = None

        def start(self, parent: Any) -> None:
            leave_mark(mark)
            self._timer = parent.timer.call_repeatedly(PERIOD_S, leave_mark, (mark,))

        def stop(self, parent: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return AliveMark
