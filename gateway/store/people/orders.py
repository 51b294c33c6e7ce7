"""Orders about one study, many, or all that match a filter: the page and REST call this.

Each study is a transaction of its own with its line on the timeline and its entry in the audit
trail; an order about many that breaks off has been carried out for the first of them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine, func, select

from gateway.delivery.routes import Route
from gateway.errors import OrderRefused
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.people.control import MAX_REASON_CHARACTERS, Outcome, StudyControl
from gateway.store.reading.study_filter import StudyFilter
from gateway.store.tables import Study

MAX_STUDIES = 5000
"""Studies that one order is about at most."""


class Order(enum.StrEnum):
    """What can be ordered."""

    RETRY = "retry"
    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    URGENT = "urgent"
    COMPLETE_NOW = "complete_now"
    RESEND = "resend"


NEEDS_REASON = frozenset({Order.CANCEL, Order.HOLD})
"""Orders that stop something: whoever looks for the result wants to know why."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """The studies that an order would be about."""

    count: int
    up_to_id: int
    """The newest of them; what comes later is not meant."""


@dataclass(frozen=True, kw_only=True)
class OrderResult:
    """What came of an order."""

    order: Order
    done: int
    unchanged: int
    """It was so already, or there was nothing to do it to."""
    held: int
    """Held studies, which have to be released first."""
    declined: int
    """It was too late: the results are on their way to a PACS, or there."""
    unknown: int
    """Numbers that the record does not have."""


class OrderDesk:
    """Takes orders.

    Parameters
    ----------
    routes
        Returns the destinations in force, for what is sent again.
    """

    def __init__(
        self, engine: Engine, routes: Callable[[], Sequence[Route]], clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._routes = routes
        self._control = StudyControl(engine, clock)

    def match(self, wanted: StudyFilter, *, most: int | None = None) -> Match:
        """Count the studies that match a filter, on all of its pages.

        Parameters
        ----------
        most
            Count no further than this, the newest first.
        """
        conditions = replace(wanted, before_id=None, limit=None).conditions()
        found = select(Study.id).where(*conditions)
        if most is not None:
            found = found.order_by(Study.id.desc()).limit(most)
        ids = found.subquery()
        with reading(self._engine) as connection:
            row = connection.execute(
                select(func.count(), func.max(ids.c.id)).select_from(ids)
            ).one()
        return Match(count=row[0], up_to_id=row[1] or 0)

    def give(
        self, order: Order, study_ids: Sequence[int], *, actor: str, reason: str = ""
    ) -> OrderResult:
        """Carry out an order for some studies.

        Raises
        ------
        OrderRefused
            There are too many, or it needs a reason.
        """
        ids = list(dict.fromkeys(study_ids))
        if len(ids) > MAX_STUDIES:
            raise OrderRefused(f"one order is about at most {MAX_STUDIES} studies")
        _check(order, reason)
        with reading(self._engine) as connection:
            known = set()
            for start in range(0, len(ids), 500):
                chunk = ids[start : start + 500]
                known |= set(
                    connection.execute(select(Study.id).where(Study.id.in_(chunk))).scalars()
                )
        routes = self._routes() if order is Order.RESEND else ()
        came = Counter(
            self._one(order, each, routes, actor, reason) for each in ids if each in known
        )
        return OrderResult(
            order=order,
            done=came[Outcome.DONE],
            unchanged=came[Outcome.UNCHANGED],
            held=came[Outcome.HELD],
            declined=came[Outcome.DECLINED],
            unknown=len(ids) - len(known),
        )

    def give_matching(
        self, order: Order, wanted: StudyFilter, *, expected: int, actor: str, reason: str = ""
    ) -> OrderResult:
        """Carry out an order for all studies that match a filter.

        Parameters
        ----------
        expected
            How many there were when somebody looked (``match``); more than that are refused.

        Raises
        ------
        OrderRefused
            More match by now, there are too many, or it needs a reason.
        """
        _check(order, reason)
        conditions = replace(wanted, before_id=None, limit=None).conditions()
        with reading(self._engine) as connection:
            ids = connection.execute(
                select(Study.id).where(*conditions).order_by(Study.id).limit(MAX_STUDIES + 1)
            )
            found = list(ids.scalars())
        if len(found) > MAX_STUDIES:
            raise OrderRefused(
                f"one order is about at most {MAX_STUDIES} studies; narrow the filter"
            )
        if len(found) > expected:
            raise OrderRefused(f"{len(found)} studies match by now; look at them again")
        return self.give(order, found, actor=actor, reason=reason)

    def _one(
        self, order: Order, study_id: int, routes: Sequence[Route], actor: str, reason: str
    ) -> Outcome:
        control = self._control
        orders: dict[Order, Callable[[], Outcome]] = {
            Order.RETRY: lambda: control.retry(study_id, actor=actor),
            Order.CANCEL: lambda: control.cancel(study_id, actor=actor, reason=reason),
            Order.HOLD: lambda: control.hold(study_id, actor=actor, reason=reason),
            Order.RELEASE: lambda: control.release(study_id, actor=actor, reason=reason),
            Order.URGENT: lambda: control.make_urgent(study_id, actor=actor),
            Order.COMPLETE_NOW: lambda: control.complete_now(study_id, actor=actor),
            Order.RESEND: lambda: control.resend(study_id, routes, actor=actor),
        }
        return orders[order]()


def _check(order: Order, reason: str) -> None:
    if len(reason.strip()) > MAX_REASON_CHARACTERS:
        raise OrderRefused(f"a reason has at most {MAX_REASON_CHARACTERS} characters")
    if order in NEEDS_REASON and not reason.strip():
        raise OrderRefused("this order needs a reason: it is shown to whoever looks for the result")
