"""How full the disk is, when it will be full, and what is done about it: new work is refused."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from gateway.settings import ListenerSettings, RetentionSettings
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.tables import Instance, ResultObject

_FORECAST_DAYS = 7.0


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk of a folder."""

    total_bytes: int
    """As this account sees it: without what is reserved for root."""
    free_bytes: int

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """Look at the disk of a folder, or of the nearest one above it that exists."""
        place = next(each for each in (folder, *folder.parents) if each.is_dir())
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        return cls(total_bytes=used + free, free_bytes=free)

    @property
    def used_percent(self) -> float:
        """Share that is in use, as df(1) prints it."""
        return 100.0 * (1 - self.free_bytes / self.total_bytes) if self.total_bytes else 0.0


def reserve_bytes(listener: ListenerSettings, retention: RetentionSettings, folder: Path) -> int:
    """Return the free space under which instances are refused (A700).

    The larger one of ``LENTIGO_LISTENER_RESERVE_BYTES`` and of what the high watermark leaves.

    Examples
    --------
    >>> off = RetentionSettings(high_watermark_percent=0)
    >>> reserve_bytes(ListenerSettings(reserve_bytes=10), off, Path("/"))
    10
    """
    high = retention.high_watermark_percent
    if not high:
        return listener.reserve_bytes
    left = int(Disk.of(folder).total_bytes * (1 - high / 100))
    return max(listener.reserve_bytes, left)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """When the disk will be full at the pace of the last days."""

    disk: Disk
    bytes_per_day: float
    """Received and made, over the last seven days or since the first instance."""
    days_until_refusal: float | None
    """Until new instances are refused; None when nothing comes in."""
    is_above_low: bool
    is_refusing: bool


def forecast(
    engine: Engine,
    home: Path,
    listener: ListenerSettings,
    retention: RetentionSettings,
    clock: Clock = utc_now,
) -> Forecast:
    """Look at the disk and at the pace of what comes in.

    Raises
    ------
    RecordUnavailable
        The database does not answer.
    """
    return forecast_at(bytes_per_day(engine, clock), home, listener, retention)


def bytes_per_day(engine: Engine, clock: Clock = utc_now) -> float:
    """Return what was received and made a day, over seven days or since the first instance.

    Raises
    ------
    RecordUnavailable
        The database does not answer.
    """
    now = clock()
    since = now - dt.timedelta(days=_FORECAST_DAYS)
    with reading(engine) as connection:
        received, first = connection.execute(
            select(func.sum(Instance.size_bytes), func.min(Instance.received_at)).where(
                Instance.received_at >= since
            )
        ).one()
        made = connection.execute(
            select(func.sum(ResultObject.size_bytes)).where(ResultObject.created_at >= since)
        ).scalar()
    days = (now - first).total_seconds() / 86400 if first is not None else _FORECAST_DAYS
    return float((received or 0) + (made or 0)) / min(max(days, 1.0), _FORECAST_DAYS)


def forecast_at(
    pace: float, home: Path, listener: ListenerSettings, retention: RetentionSettings
) -> Forecast:
    """Look at the disk; ``pace`` is in bytes a day."""
    disk = Disk.of(home)
    room = max(0, disk.free_bytes - reserve_bytes(listener, retention, home))
    low = retention.low_watermark_percent
    return Forecast(
        disk=disk,
        bytes_per_day=pace,
        days_until_refusal=room / pace if pace else None,
        is_above_low=bool(low) and disk.used_percent >= low,
        is_refusing=room == 0,
    )
