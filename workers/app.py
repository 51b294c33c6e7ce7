"""The Celery app of the workers: queues and settings.

The record owns the work and the sweeper announces whatever is not done, so a message may be lost,
doubled or late. What the app must do by itself is to come back when Redis does.
"""

from __future__ import annotations

from pathlib import Path

from celery import Celery, signals

from gateway.host.health import alive_mark
from gateway.queue import queue_name
from workers.acks import AckWatch
from workers.alive import alive_step
from workers.analysis import Registry
from workers.bootstrap import Settings, build_services, offered_analyses
from workers.broker import read_leniently
from workers.leftovers import end_leases_of_the_dead
from workers.settings import WorkerSettings
from workers.tasks import ServicesOfProcess, register_tasks

_VISIBILITY_TIMEOUT_S = 24 * 3600

_GRACE_S = 120
"""Seconds beyond the longest time limit after which a process that hangs in foreign code is
killed; its work item is free when its lease ends."""


def ready_note(lane: str) -> str:
    """Return the name of the file in the run folder that appears when a lane is consumed."""
    return f"workers-{lane}.ready"


def queue_names(registry: Registry, settings: WorkerSettings) -> tuple[str, ...]:
    """Return every queue that a worker group of this lane consumes, the most urgent in front."""
    is_long = settings.lane == "long"
    analyses = sorted(
        (each for each in registry if settings.lane == "all" or each.limits.is_long == is_long),
        key=lambda each: -settings.limits_of(each).priority,
    )
    general = () if is_long else (queue_name("route"), queue_name("deliver"))
    return (*general, *(queue_name("analyse", each.name) for each in analyses))


def create_app(settings: Settings) -> Celery:
    """Return the app; it connects to nothing yet.

    Raises
    ------
    RegistryError
        An analysis module cannot be used.
    """
    registry = offered_analyses()
    names = queue_names(registry, settings.worker)
    longest_s = max(settings.worker.limits_of(each).time_s for each in registry)
    app = Celery("lentigo", broker=settings.broker.url, set_as_current=False)
    app.conf.update(
        task_queues={name: {} for name in names},
        task_default_queue=names[0],
        task_time_limit=longest_s + _GRACE_S,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        # A worker that dies loses its message; the sweeper announces the work when its lease ends.
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=settings.worker.processes,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # The lease decides who may write: running steps are not killed because Redis went away.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5.0,
        broker_heartbeat=0,
        broker_transport_options={
            # Queues in the order given: quick analyses before slow ones.
            "queue_order_strategy": "priority",
            # Later than any step: a redelivered hint only finds its work taken.
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_connect_timeout": 5.0,
            # Longer than the blocking read of the consumer, short enough to notice a dead peer.
            "socket_timeout": 30.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        accept_content=["json"],
        task_serializer="json",
    )
    app.steps["consumer"].add(AckWatch)
    mark = alive_mark(settings.store.mark_folder, f"workers-{settings.worker.lane}")
    app.steps["consumer"].add(alive_step(mark))
    register_tasks(app, ServicesOfProcess(lambda: build_services(settings)))
    return app


def run(settings: Settings) -> int:
    """Run a worker for all queues until SIGTERM; return its exit status."""
    read_leniently()
    app = create_app(settings)
    note = ready_note(settings.worker.lane)
    # Our logging is configured already; without a receiver Celery would set up its own.
    signals.setup_logging.connect(_keep_logging)
    signals.worker_ready.connect(
        lambda **_: _leave_note(settings.store.run_folder / note), weak=False
    )
    signals.worker_process_init.connect(
        lambda **_: end_leases_of_the_dead(settings.store), weak=False
    )
    worker = app.Worker(
        pool="prefork",
        concurrency=settings.worker.processes,
        loglevel="INFO",
        quiet=True,  # no banner among the JSON lines
        # Workers need not know of each other, and events would only be noise in the broker.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _leave_note(path: Path) -> None:
    """Tell the supervisor that the queues are being consumed."""
    if path.parent.is_dir():
        path.touch()


def _keep_logging(**_: object) -> None:
    """Do nothing."""
