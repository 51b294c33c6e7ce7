"""The Celery tasks: a name, one id in, nothing out.

Celery logs arguments, results and exception texts; an internal id and ``None`` are all it can see.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from celery import Celery

from gateway.queue import TASK_NAMES
from workers.execution import Services, route, work


class ServicesOfProcess:
    """The services of the current process, built when it first needs them.

    Pool processes are forked: connections of the parent must not be used in a child.
    """

    def __init__(self, build: Callable[[], Services]) -> None:
        self._build = build
        self._built: tuple[int, Services] | None = None

    def get(self) -> Services:
        """Return the services of this process."""
        if self._built is None or self._built[0] != os.getpid():
            self._built = (os.getpid(), self._build())
        return self._built[1]


def register_tasks(app: Celery, services: ServicesOfProcess) -> None:
    """Give an app the tasks that ``gateway.queue`` names."""

    def route_generation(generation_id: int) -> None:
        route(services.get(), generation_id)

    def run_analysis(work_item_id: int) -> None:
        work(services.get(), work_item_id)

    def deliver_results(work_item_id: int) -> None:
        work(services.get(), work_item_id)

    app.task(route_generation, name=TASK_NAMES["route"])
    app.task(run_analysis, name=TASK_NAMES["analyse"])
    app.task(deliver_results, name=TASK_NAMES["deliver"])
