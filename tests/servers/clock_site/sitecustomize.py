"""Sleeps by select() in services whose clock is faked; put on PYTHONPATH by ``tests.lentigo``.

``time.sleep`` uses clock_nanosleep() since Python 3.11. libfaketime 0.9.10 hands that an
uninitialised time where only the wall clock is to be faked, and it fails with EINVAL.
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = _sleep
