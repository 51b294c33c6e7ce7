"""Ends a service at SIGTERM or SIGINT."""

from __future__ import annotations

import _thread
import signal
import threading


def stop_on_signals(event: threading.Event) -> None:
    """Set ``event`` at SIGTERM and SIGINT.

    Notes
    -----
    A handler runs between two lines of the main thread, which may be inside ``event.wait`` and
    hold the event's lock at that moment: ``event.set`` would then wait for itself for ever (seen
    once in about a hundred stops of a busy sweeper). A thread of its own can wait for that lock.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not threading.Thread: its start takes locks that the main thread may hold, too.
        signal.signal(number, lambda *_: _thread.start_new_thread(event.set, ()))
