"""``lentigo selftest``: a drawn study goes the full round trip; each stage says what it took.

It goes in through the real listener by C-STORE, is closed, routed, analysed and encoded like any
other. Its results stay in the results folder; with ``--deliver`` they go to the destinations too.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from gateway.delivery.routes import Destination
from gateway.errors import SelfTestFailed, SendError
from gateway.home import resolve_home, running_instance
from gateway.settings import ListenerSettings, StoreSettings
from gateway.store import states
from gateway.store.engine import open_engine
from gateway.store.reading.status import StatusReader, StudyStatus
from gateway.store.work.self_tests import SELF_TEST_AE_TITLE, SELF_TEST_DELIVERED_AE_TITLE

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the round trip."""

    name: str
    seconds: float | None
    """None while it is not over."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """How far a self-test has come."""

    study: int | None
    """Number of the study in the record; None while it has not arrived."""
    state: str
    reason: str
    stages: tuple[Stage, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in states.FINAL_STATES

    @property
    def has_passed(self) -> bool:
        """Whether the study came through with its results."""
        return self.state == states.COMPLETED


def listener_of(home: Path) -> Destination:
    """Return the listener of this host that a self-test is sent to.

    Raises
    ------
    SelfTestFailed
        Nothing runs on this home, and no port is set: whoever has the default port is a stranger.
    """
    instance, settings = running_instance(home), ListenerSettings()
    if instance is None and "port" not in settings.model_fields_set:
        raise SelfTestFailed(
            "nothing runs on this home; start lentigo up, or name the listener with "
            "LENTIGO_LISTENER_PORT"
        )
    return Destination(
        ae_title=instance.ae_title if instance else settings.ae_title,
        host="127.0.0.1",
        port=instance.dicom_port if instance else settings.port,
    )


def send_study(listener: Destination, *, is_delivered: bool) -> str:
    """Draw a study and send it; return its Study Instance UID.

    Raises
    ------
    SelfTestFailed
        The listener does not take it; the message says why.
    """
    # Drawing and sending need OpenCV and pynetdicom, which metrics and events do not.
    from PIL import Image

    from gateway.demo.samples import render_grown
    from gateway.sending.send import send
    from gateway.sending.wrap import StudyIdentity, wrap

    mark = uuid.uuid4().hex[:8].upper()
    identity = StudyIdentity(
        patient_id=f"SELFTEST-{mark}",
        patient_name="Selftest^Synthetic",
        study_description="Lentigo self-test, drawn, no patient",
    )
    with tempfile.TemporaryDirectory(prefix="lentigo-selftest-") as folder:
        picture, path = Path(folder) / "drawn.jpg", Path(folder) / "drawn.dcm"
        # Another picture each time: the embeddings of the last one must not answer.
        before, _ = render_grown(seed=int(mark, 16) % 2**31)
        Image.fromarray(before).save(picture, quality=92, subsampling=0)
        ds = wrap(picture, "dermoscopy", identity=identity)
        ds.save_as(path, enforce_file_format=True)
        title = SELF_TEST_DELIVERED_AE_TITLE if is_delivered else SELF_TEST_AE_TITLE
        try:
            summary = send([path], listener, calling_ae_title=title)
        except SendError as exc:
            raise SelfTestFailed(f"the listener does not take the study: {exc}") from exc
        if not summary.is_complete:
            reason = next(
                (each.reason for each in summary.statuses if each.reason), "no reason given"
            )
            raise SelfTestFailed(f"the listener does not take the study: {reason}")
    return identity.study_instance_uid


def report_on(engine: Engine, study_instance_uid: str) -> Report:
    """Say how far a study has come."""
    found = StatusReader(engine, Path()).study(study_instance_uid)
    if found is None:
        return Report(study=None, state=states.RECEIVED, reason="", stages=())
    return Report(
        study=found.id, state=found.state, reason=found.reason, stages=tuple(_stages(engine, found))
    )


def _stages(engine: Engine, study: StudyStatus) -> list[Stage]:
    from gateway.store.reading.history import HistoryReader

    generations = HistoryReader(engine).history(study.id).generations
    newest = generations[-1] if generations else None
    items = study.newest_items
    analysed = [item.analysed_at for item in items]
    finished = [item.finished_at for item in items]
    closed = newest.closed_at if newest else None
    routed = newest.routed_at if newest else None
    last_analysed = max((at for at in analysed if at), default=None) if all(analysed) else None
    last_finished = max((at for at in finished if at), default=None) if all(finished) else None
    moments = (
        ("quiet window", study.last_received_at, closed),
        ("routing", closed, routed),
        ("analysis", routed, last_analysed),
        ("delivery", last_analysed, last_finished),
        ("round trip", study.last_received_at, last_finished),
    )
    return [Stage(name=name, seconds=_between(start, end)) for name, start, end in moments]


def _between(start: dt.datetime | None, end: dt.datetime | None) -> float | None:
    return round((end - start).total_seconds(), 2) if start and end else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--home", metavar="DIR", help="folder of the installation")
    parser.add_argument(
        "--deliver",
        action="store_true",
        help="send its results to the destinations, too; they are marked as a self-test",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=180.0, help="longest wait (default 180)"
    )
    parser.add_argument("--json", action="store_true", help="print the stages as JSON")


def run(args: argparse.Namespace) -> int:
    """Send a study and wait for its results; 0 when they are there."""
    home = resolve_home(args.home)
    engine = open_engine(StoreSettings(home=home).record_url)
    try:
        started = time.monotonic()
        uid = send_study(listener_of(home), is_delivered=args.deliver)
        sent = Stage(name="C-STORE", seconds=round(time.monotonic() - started, 2))
        deadline = time.monotonic() + args.timeout
        while True:
            found = report_on(engine, uid)
            if found.is_over or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
    finally:
        engine.dispose()
    stages = (sent, *found.stages)
    if args.json:
        said = {each.name: each.seconds for each in stages}
        print(json.dumps({"study": found.study, "state": found.state, "seconds": said}, indent=2))
    else:
        for stage in stages:
            took = "not reached" if stage.seconds is None else f"{stage.seconds:8.2f} s"
            print(f"{stage.name:14} {took}")
        print(f"study {found.study}: {found.state}{f' ({found.reason})' if found.reason else ''}")
    if found.has_passed:
        return 0
    if not found.is_over:
        stuck = next((each.name for each in stages if each.seconds is None), "the end")
        raise SelfTestFailed(f"not over after {args.timeout:.0f} s; it waits for: {stuck}")
    raise SelfTestFailed(f"the study ended as {found.state}: {found.reason}")
