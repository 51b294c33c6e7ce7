"""What lies in the broker may be anybody's: a message that cannot be read costs itself alone.

Celery ends a worker over such a message, so that a handful would cost a group as many restarts. It
is taken out and let go here: a message carries a hint, and what it hinted at is announced again.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class HintChannel(redis.Channel):
    """Reads hints out of Redis."""

    def _brpop_read(self, **options: Any) -> bool:
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            # Whatever kombu raises over JSON that is none, or that is no message of Celery's.
            log.error(
                "a message that cannot be read was taken out of the broker (%s)",
                type(exc).__name__,
                extra={"action": "hint.unreadable"},
            )
            raise Empty from None  # as when there was none


def read_leniently() -> None:
    """Let consumers of this process outlive messages that cannot be read."""
    # In its place, not beside it: every form of a broker's URL leads to this transport.
    redis.Transport.Channel = HintChannel
