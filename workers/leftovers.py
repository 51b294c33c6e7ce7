"""Ends the leases of workers of this host that were killed, when a process takes their place.

Only beneath ``lentigo up``: there every worker of the host lies in one process namespace, so that
a process id says who lives. Elsewhere a dead worker's lease runs out (``LENTIGO_WORKER_LEASE_S``).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path

from gateway.errors import RecordUnavailable
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine
from gateway.store.work.recovery import RecoveryDesk

log = logging.getLogger(__name__)

SUPERVISED = "LENTIGO_SUPERVISED"
"""Set by ``lentigo up`` for what it starts."""


def end_leases_of_the_dead(store: StoreSettings) -> threading.Thread | None:
    """Do so from a thread, since a process of the pool has seconds to start; None: not here."""
    if not os.environ.get(SUPERVISED):
        return None
    thread = threading.Thread(target=_end_leases, args=(store,), name="leftovers", daemon=True)
    thread.start()
    return thread


def _end_leases(store: StoreSettings) -> None:
    engine = open_engine(store.record_url)
    try:
        ended = RecoveryDesk(engine).end_leases(socket.gethostname(), is_alive)
    except RecordUnavailable as exc:
        log.warning("leases of dead workers run out: %s", exc, extra={"action": "lease.waiting"})
        return
    finally:
        engine.dispose()
    if ended:
        log.warning(
            "a worker died: %d work items are free again",
            ended,
            extra={"action": "lease.ended"},
        )


def is_alive(pid: int) -> bool:
    """Return whether a process lives; one that has ended and was not waited for does not."""
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
