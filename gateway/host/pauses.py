"""Keeps the pauses short that Python makes in a service of many threads."""

from __future__ import annotations

import gc
import sys

_SWITCH_S = 0.0002


def keep_pauses_short() -> None:
    """Let threads take turns every 0.2 ms, and spare what is loaded from the garbage collector.

    To be called once a service is set up. At Python's 5 ms a thread that comes back from the disk,
    the digest or the database waits as long as that for the interpreter: four associations were
    slower together than one. A full collection looks at some 220,000 objects of modules, models
    and templates, which never end, and stopped every thread for 0.1 to 0.4 s.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
