"""Orders from the pages: shown with their count first where they stop something or are many."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import FormData

from gateway.dashboard.access import OPERATOR, Form, actor_of, require
from gateway.dashboard.identity import auth
from gateway.dashboard.site import Use, page
from gateway.store.people.control import MAX_REASON_CHARACTERS
from gateway.store.people.orders import MAX_STUDIES, NEEDS_REASON, Order, OrderResult
from gateway.store.reading.study_filter import StudyFilter, filter_of

ORDER_WORDS = {
    Order.RETRY: ("Retry", "what failed begins anew, what waits for a later attempt begins now"),
    Order.URGENT: ("Urgent", "their work goes in front"),
    Order.RELEASE: ("Release", "held studies go on"),
    Order.COMPLETE_NOW: ("Complete now", "what is being received closes without waiting"),
    Order.RESEND: ("Resend", "the newest results go to all destinations once more"),
    Order.HOLD: ("Hold", "nothing is begun until they are released; they go on receiving"),
    Order.CANCEL: ("Cancel", "unfinished work ends; what was received stays"),
}
"""Order -> (button, what it does), in the order of the buttons."""

_SAID = re.compile(r"([a-z_]+)-(\d{1,6})-(\d{1,6})-(\d{1,6})-(\d{1,6})-(\d{1,6})")

router = APIRouter(include_in_schema=False, dependencies=[require(OPERATOR)])


@router.get("/studies/orders")
def confirm(request: Request, use: Use, order: str = "", scope: str = "") -> HTMLResponse:
    """Show how many studies an order is about, and ask for the reason where it needs one."""
    wanted = _order(order)
    values = request.query_params
    if scope == "all":
        query = str(values.get("query", ""))
        # More than an order may be about need not be counted to the end.
        found = use.orders.match(_filter(query), most=MAX_STUDIES + 1)
        count, ids = found.count, []
    else:
        query, ids = "", _ids(values.getlist("study"))
        count = len(ids)
    title, does = ORDER_WORDS[wanted]
    return page(
        request,
        "order.html",
        {
            "order": wanted.value,
            "title": title,
            "does": does,
            "count": count,
            "ids": ids,
            "scope": scope,
            "query": query,
            "needs_reason": wanted in NEEDS_REASON,
            "most": MAX_STUDIES,
            "max_reason": MAX_REASON_CHARACTERS,
            "next": auth.local_address(str(values.get("next", "/studies"))),
        },
    )


@router.post("/studies/orders")
def carry_out(request: Request, use: Use, form: Form) -> Response:
    """Carry out an order."""
    order = _order(str(form.get("order", "")))
    reason, actor = str(form.get("reason", "")).replace("\0", ""), actor_of(request)
    if form.get("scope") == "all":
        expected = str(form.get("expected", ""))
        if not expected.isdigit() or len(expected) > 9:
            raise HTTPException(422, "How many studies are meant is missing.")
        came = use.orders.give_matching(
            order,
            _filter(str(form.get("query", ""))),
            expected=int(expected),
            actor=actor,
            reason=reason,
        )
    else:
        came = use.orders.give(order, _ids(_studies(form)), actor=actor, reason=reason)
    address = auth.local_address(str(form.get("next", "/studies")))
    joint = "&" if "?" in address else "?"
    return RedirectResponse(f"{address}{joint}said={_code(came)}", 303)


def _studies(form: FormData) -> list[str]:
    return [str(each) for each in form.getlist("study")]


def _order(word: str) -> Order:
    try:
        return Order(word)
    except ValueError as exc:
        raise HTTPException(422, "There is no such order.") from exc


def _ids(words: list[str]) -> list[int]:
    if not words:
        raise HTTPException(422, "No study was chosen.")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise HTTPException(422, "A study is named by its number.")
    return [int(word) for word in words]


def _filter(query: str) -> StudyFilter:
    try:
        return filter_of(dict(parse_qsl(query[:4000])))
    except ValueError as exc:
        raise HTTPException(422, f"Not done: {exc}.") from exc


def _code(came: OrderResult) -> str:
    counts = (came.done, came.unchanged, came.held, came.declined, came.unknown)
    return "-".join((came.order.value, *map(str, counts)))


def said_words(code: str) -> str:
    """Return what came of an order in words; '' for what is no such code.

    Examples
    --------
    >>> said_words("retry-3-1-0-0-0")
    'Retry: 3 done; 1 unchanged, there was nothing to do'
    """
    found = _SAID.fullmatch(code)
    if found is None or found[1] not in set(Order):
        return ""
    words = (
        "done",
        "unchanged, there was nothing to do",
        "held: release them first",
        "declined: the results are on their way to a PACS, or there",
        "not in the record",
    )
    parts = [
        f"{found[number]} {word}"
        for number, word in enumerate(words, start=2)
        if int(found[number]) or number == 2
    ]
    return f"{ORDER_WORDS[Order(found[1])][0]}: " + "; ".join(parts)
