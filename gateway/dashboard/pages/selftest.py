"""The self-test: a drawn study goes the full round trip, and the page says how far it has come."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.dashboard.access import OPERATOR, VIEWER, Form, actor_of, require
from gateway.dashboard.site import RowId, Services, Use, page
from gateway.delivery.routes import FOLDER, parse_routes
from gateway.errors import SelfTestFailed
from gateway.observation.selftest import Report, listener_of, report_on, send_study
from gateway.settings import DeliverySettings
from gateway.store.reading.status import StudyStatus
from gateway.store.work.self_tests import SELF_TEST_AE_TITLES
from gateway.wording import delivery_answer

USUAL_S = 60.0
"""Seconds within which a self-test is over where nothing is wrong and little waits."""

_STEPS = {
    "quiet window": "Assembled: nothing new came for the quiet window",
    "routing": "Analyses chosen",
    "analysis": "Analysed, results encoded",
    "delivery": "Results delivered and confirmed",
}
# Where to look when a step does not end: (address, name of the page, question).
_HELP = {
    "quiet window": ("/queues", "Queues", "Does the sweeper run? lentigo doctor says so."),
    "routing": ("/queues", "Queues", "Is there a worker?"),
    "analysis": ("/models", "Models", "Is the model ready, and is there a worker for it?"),
    "delivery": ("/nodes", "Nodes", "Does the destination answer to Echo?"),
}

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the round trip as it is shown."""

    words: str
    state: str
    """done, running, failed or not reached."""
    seconds: float | None = None
    remark: str = ""


def _destinations() -> list[str]:
    routes = parse_routes(DeliverySettings().destination)
    return [route.name for route in routes if route.name != FOLDER]


def begin_self_test(use: Services, actor: str, *, is_delivered: bool) -> Report:
    """Send a drawn study through the listener of this host, and note who did.

    Raises
    ------
    SelfTestFailed
        The listener does not take it.
    """
    report = report_on(use.engine, send_study(listener_of(use.home), is_delivered=is_delivered))
    use.accounts.audit(actor, "self_test.begun", study=report.study, delivered=is_delivered)
    return report


@router.get("/self-test", dependencies=[require(OPERATOR)])
def ask(request: Request) -> HTMLResponse:
    """Say what a self-test does, and ask before one begins."""
    return page(request, "selftest.html", {"study": None, "destinations": _destinations()})


@router.post("/self-test", dependencies=[require(OPERATOR)])
def begin(request: Request, use: Use, form: Form) -> Response:
    """Send a drawn study through the listener of this host."""
    is_delivered = form.get("deliver") == "yes"
    try:
        report = begin_self_test(use, actor_of(request), is_delivered=is_delivered)
    except SelfTestFailed as exc:
        values = {"study": None, "destinations": _destinations(), "message": str(exc)}
        return page(request, "selftest.html", values, 503)
    return RedirectResponse(f"/self-test/{report.study}", 303)


@router.get("/self-test/{number}")
def show(request: Request, use: Use, number: RowId) -> HTMLResponse:
    """Show how far the self-test of this number has come."""
    mark = use.history.marks([number]).get(number, "")  # before the reads
    study = use.status.numbered(number)
    if study is None or not _is_self_test(use, number):
        raise HTTPException(404, "There is no such self-test.")
    report = report_on(use.engine, study.study_instance_uid)
    answer = delivery_answer(study)
    return page(
        request,
        "selftest.html",
        {
            "mark": mark,
            "study": study,
            "report": report,
            "has_passed": report.has_passed and answer.kind in {"yes", "folder"},
            "steps": steps_of(study, report),
            "answer": answer,
            "round_trip_s": _seconds(report).get("round trip"),
            "late_at": study.last_received_at + dt.timedelta(seconds=USUAL_S),
            "help": _HELP.get(_stuck(report) or "delivery"),
        },
    )


def _is_self_test(use: Services, number: int) -> bool:
    series = use.history.history(number).series
    return any(each.calling_ae_title in SELF_TEST_AE_TITLES for each in series)


def _seconds(report: Report) -> dict[str, float | None]:
    return {stage.name: stage.seconds for stage in report.stages}


def _stuck(report: Report) -> str | None:
    """Return the first step that is not over."""
    seconds = _seconds(report)
    return next((name for name in _STEPS if seconds.get(name) is None), None)


def steps_of(study: StudyStatus, report: Report) -> list[Step]:
    """Return the steps of a self-test in their order; behind one that is not over none has begun.

    Parameters
    ----------
    study
        The self-test's study.
    report
        What is known of its stages.
    """
    steps = [Step(words="Taken by the listener, acknowledged with 0000", state="done")]
    seconds, stuck = _seconds(report), _stuck(report)
    has_failed = report.is_over and not report.has_passed
    names = list(_STEPS)
    for name in names:
        if stuck is None or names.index(name) < names.index(stuck):
            steps.append(Step(words=_STEPS[name], state="done", seconds=seconds[name]))
        elif name == stuck:
            state = "failed" if has_failed else "running"
            steps.append(Step(words=_STEPS[name], state=state, remark=_remark(study)))
        else:
            steps.append(Step(words=_STEPS[name], state="not reached"))
    return steps


def _remark(study: StudyStatus) -> str:
    """Return why the step is not over, as far as somebody has said so."""
    said = [study.reason, *(item.reason for item in study.newest_items)]
    return "; ".join(dict.fromkeys(each for each in said if each))
