"""Geometry of the overview's plots; the template draws them as SVG with classes, no styles."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from gateway.store.reading.overview import Slot, StageHistory

WIDTH, HEIGHT = 480, 120
_TOP, _BOTTOM, _LEFT, _RIGHT = 8, 18, 34, 40
_GAP = 0.2


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What ended in one slot."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A text on an axis."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Bars of throughput, dots of the 95th percentile, both from zero."""

    bars: tuple[Bar, ...]
    dots: tuple[tuple[float, float], ...]
    lines: tuple[str, ...]
    """Points of the lines between dots of neighbouring slots."""
    marks: tuple[Mark, ...]
    floor: float


def plot_of(history: StageHistory) -> Plot:
    """Return the plot of one stage."""
    slots = history.slots
    most = max((slot.count for slot in slots), default=0)
    longest = max((slot.p95_s for slot in slots if slot.p95_s is not None), default=0.0)
    step = (WIDTH - _LEFT - _RIGHT) / max(len(slots), 1)
    floor = HEIGHT - _BOTTOM
    height = floor - _TOP
    bars, dots, runs = [], [], [[]]  # type: ignore[var-annotated]
    for number, slot in enumerate(slots):
        x = _LEFT + number * step
        tall = height * slot.count / most if most else 0.0
        bars.append(
            Bar(
                x=round(x + step * _GAP / 2, 2),
                y=round(floor - tall, 2),
                width=round(step * (1 - _GAP), 2),
                height=round(tall, 2),
                title=_title(slot),
            )
        )
        if slot.p95_s is None:
            runs.append([])
            continue
        y = floor - height * slot.p95_s / longest if longest else floor
        dots.append((round(x + step / 2, 2), round(y, 2)))
        runs[-1].append(dots[-1])
    return Plot(
        bars=tuple(bars),
        dots=tuple(dots),
        lines=tuple(" ".join(f"{x},{y}" for x, y in run) for run in runs if len(run) > 1),
        marks=_marks(slots, most, longest, floor),
        floor=floor,
    )


def _marks(slots: tuple[Slot, ...], most: int, longest: float, floor: float) -> tuple[Mark, ...]:
    marks = [
        Mark(x=_LEFT - 4, y=_TOP + 4, text=str(most)),
        Mark(x=_LEFT - 4, y=floor, text="0"),
    ]
    if longest:
        marks.append(Mark(x=WIDTH - _RIGHT + 4, y=_TOP + 4, text=seconds_words(longest)))
    if slots:
        marks.append(Mark(x=_LEFT, y=HEIGHT - 4, text=_moment(slots[0].begins_at, slots)))
        marks.append(Mark(x=WIDTH - _RIGHT - 22, y=HEIGHT - 4, text="now"))
    return tuple(marks)


def _moment(moment: dt.datetime, slots: tuple[Slot, ...]) -> str:
    is_long = slots[-1].begins_at - slots[0].begins_at > dt.timedelta(days=1)
    return moment.astimezone().strftime("%a %d %b" if is_long else "%H:%M")


def _title(slot: Slot) -> str:
    moment = slot.begins_at.astimezone().strftime("%Y-%m-%d %H:%M")
    took = "" if slot.p95_s is None else f", p95 {seconds_words(slot.p95_s)}"
    return f"{moment}: {slot.count}{took}"


def seconds_words(seconds: float) -> str:
    """Return a lapse in three digits or so.

    Examples
    --------
    >>> seconds_words(0.0421), seconds_words(3.14), seconds_words(75.0), seconds_words(7300.0)
    ('42 ms', '3.1 s', '75 s', '2.0 h')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
