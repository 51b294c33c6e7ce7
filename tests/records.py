"""Builds what the record is fed with, for tests: headers, stored files, a clock that obeys."""

import datetime as dt
import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from gateway.delivery.routes import Route
from gateway.dicom.part10 import InstanceHeader
from gateway.listener.ports import AssociationInfo
from gateway.settings import CompletenessSettings
from gateway.spool import StoredFile
from gateway.store.intake.receiving import Intake
from gateway.store.values import Claim, NewObject, Scheduled
from gateway.store.work.ledger import WorkLedger

DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
START = dt.datetime(2026, 3, 1, 9, 30, tzinfo=dt.UTC)
QUIET_WINDOW_S = 2.0
PACS = "PACS@127.0.0.1:4242"

_numbers = itertools.count(1)


def new_uid() -> str:
    """Return a UID that no other call returns (PS3.5 B.2)."""
    return f"2.25.{os.getpid() * 10**9 + next(_numbers)}"


class TestClock:
    """A clock that stands still until it is told to go on."""

    __test__ = False

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


def header(**changes: Any) -> InstanceHeader:
    """Return the header of one dermoscopic image of a study of its own."""
    values: dict[str, Any] = {
        "sop_class_uid": DERMOSCOPIC,
        "sop_instance_uid": new_uid(),
        "study_instance_uid": new_uid(),
        "series_instance_uid": new_uid(),
        "transfer_syntax_uid": JPEG_BASELINE,
        "modality": "XC",
        "patient_id": "CANARY-ID",
        "patient_name": "Canary^Patient",
        "patient_birth_date": "19700101",
        "accession_number": "CANARY-ACC",
    }
    return InstanceHeader(**{**values, **changes})


def stored(content: str = "") -> StoredFile:
    """Return a kept file; equal content gives equal hashes."""
    data = (content or new_uid()).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    return StoredFile(
        relative_path=PurePosixPath(sha256[:2]) / f"{new_uid()}.dcm",
        sha256=sha256,
        size_bytes=len(data),
    )


def association(**changes: str) -> AssociationInfo:
    """Return an association of a camera."""
    values = {
        "association_id": f"{next(_numbers):032x}",
        "calling_ae_title": "CAMERA",
        "called_ae_title": "LENTIGO",
        "peer_address": "127.0.0.1",
    }
    return AssociationInfo(**{**values, **changes})


def new_object(role: str = "sr", **changes: Any) -> NewObject:
    """Return one encoded result object."""
    values: dict[str, Any] = {
        "role": role,
        "sop_class_uid": STRUCTURED_REPORT,
        "sop_instance_uid": new_uid(),
        "series_instance_uid": new_uid(),
        "path": f"{new_uid()}/{role}.dcm",
        "sha256": "ab" * 32,
        "size_bytes": 4096,
    }
    return NewObject(**{**values, **changes})


class Record:
    """Both halves of one record on one clock, and the steps of a study on its way."""

    def __init__(self, engine: Engine, clock: TestClock) -> None:
        self.engine = engine
        self.clock = clock
        self.intake = Intake(engine, CompletenessSettings(quiet_window_s=QUIET_WINDOW_S), clock)
        self.ledger = WorkLedger(engine, clock)

    def receive(self, **changes: Any) -> str:
        """Register one new instance; return its Study Instance UID."""
        received = header(**changes)
        self.intake.register_instance(header=received, stored=stored(), association=association())
        return received.study_instance_uid

    def close(self) -> int:
        """Let the quiet window pass; return the id of the newest closed generation."""
        self.clock.advance(QUIET_WINDOW_S)
        self.intake.close_due_generations()
        return max(hint.id for hint in self.ledger.due_hints(10.0) if hint.kind == "route")

    def schedule(self, *analyses: str, **changes: Any) -> list[int]:
        """Receive a study, close it and route it; return the ids of its work items."""
        self.receive(**changes)
        return self.ledger.record_routing(
            self.close(),
            [
                Scheduled(analysis=name, model_digest="d" * 64, reason="dermoscopic image")
                for name in analyses or ("diagnosis",)
            ],
            "",
        )

    def claim(self, work_item_id: int, *, owner: str = "worker-1", lease_s: float = 30.0) -> Claim:
        """Claim a work item that is to be had."""
        claim = self.ledger.claim(work_item_id, owner=owner, lease_s=lease_s)
        assert claim is not None
        return claim

    def analyse(
        self,
        work_item_id: int,
        *,
        objects: tuple[NewObject, ...] = (),
        destinations: tuple[Route | str, ...] = (PACS,),
        outcome: str = "assessed",
        reason: str = "",
    ) -> None:
        """Claim a work item and end its analysis."""
        self.ledger.save_results(
            self.claim(work_item_id),
            objects or (new_object(),),
            destinations=[
                each if isinstance(each, Route) else Route(name=each) for each in destinations
            ],
            outcome=outcome,
            reason=reason,
            summary={"headline": "NV 0.91"},
        )

    def deliver(self, work_item_id: int, *, state: str = "CONFIRMED", reason: str = "") -> None:
        """Claim a work item, give all its deliveries the same answer, and complete it."""
        claim = self.claim(work_item_id)
        for delivery in self.ledger.load_deliveries(claim):
            self.ledger.mark_delivery(
                claim,
                delivery.id,
                state=state,
                status=0 if state == "CONFIRMED" else 0xA900,
                reason=reason,
                confirmed_by="c-find" if state == "CONFIRMED" else "",
            )
        self.ledger.complete(claim)

    def completed(self, **changes: Any) -> str:
        """Take a study all the way; return its Study Instance UID."""
        uid = new_uid()
        (item,) = self.schedule(study_instance_uid=uid)
        self.analyse(item, **changes)
        self.deliver(item)
        return uid


@contextmanager
def postgresql_database(server_url: str) -> Iterator[str]:
    """Make a database of its own on a server; yield its URL, drop it at the end."""
    name = f"lentigo_test_{os.getpid()}_{next(_numbers)}"
    server = make_url(server_url)
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        yield server.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    finally:
        engine.dispose()
