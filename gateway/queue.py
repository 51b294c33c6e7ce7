"""The queue door: work is announced to Celery by task *name*; nothing else is said.

A message carries one integer. The broker may lose it, double it or be flushed: the record owns the
work, and the sweeper announces again whatever nobody took.
"""

from __future__ import annotations

from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError

from gateway.errors import GatewayError
from gateway.store.values import Hint

TASK_NAMES = {
    "route": "workers.tasks.route_generation",
    "analyse": "workers.tasks.run_analysis",
    "deliver": "workers.tasks.deliver_results",
}


class BrokerUnavailable(GatewayError):
    """The broker does not answer; the sweeper will announce the work again."""


def queue_name(kind: str, analysis: str = "") -> str:
    """Return the Celery queue of a hint: one for each analysis, one for the rest of each kind.

    Examples
    --------
    >>> queue_name("analyse", "diagnosis")
    'lentigo.analyse.diagnosis'
    """
    return f"lentigo.{kind}.{analysis}" if kind == "analyse" else f"lentigo.{kind}"


class Queue(Protocol):
    """Where hints go."""

    def announce(self, hint: Hint) -> None:
        """Tell the workers of one piece of work; raises ``BrokerUnavailable``."""
        ...


class CeleryQueue:
    """Announces hints through a Celery broker."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("lentigo", broker=broker_url)
        self._app.conf.update(
            task_ignore_result=True,
            broker_connection_timeout=2.0,
            broker_transport_options={"socket_timeout": 5.0, "socket_connect_timeout": 2.0},
        )

    def announce(self, hint: Hint) -> None:
        """Send one task name with one integer."""
        try:
            self._app.send_task(
                TASK_NAMES[hint.kind],
                args=[hint.id],
                queue=queue_name(hint.kind, hint.analysis),
                retry=False,
                # Celery writes a repr of the arguments into the message headers.
                argsrepr="",
                kwargsrepr="",
            )
        except (OperationalError, OSError) as exc:
            raise BrokerUnavailable("the broker does not answer") from exc
