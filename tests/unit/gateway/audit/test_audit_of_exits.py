"""What leaves by a query or a backup is in the audit trail before it leaves (PS3.15 A.5.3)."""

import sqlite3
import xml.etree.ElementTree as ET
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from gateway.audit.message import Source, audit_message
from gateway.cli import main
from gateway.host.backup import back_up
from gateway.settings import StoreSettings
from gateway.store.audit import Entry, Trail
from gateway.store.engine import migrate, open_engine
from tests.pages import CHOSEN, TestClient
from tests.records import Record, TestClock


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[tuple[StoreSettings, Record]]:
    store = StoreSettings(home=tmp_path / "home")
    store.home.mkdir()
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    yield store, Record(engine, TestClock())
    engine.dispose()


def entries(engine: Engine, action: str) -> list[Entry]:
    return [each for each in Trail(engine).entries() if each.action == action]


def test_a_backup_is_an_export_in_the_trail_and_in_its_own_copy(
    installation: tuple[StoreSettings, Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, record = installation
    assert main(["backup", str(tmp_path / "one"), "--home", str(store.home)]) == 0
    assert "AUDIT" not in capsys.readouterr().out
    (entry,) = entries(record.engine, "record.backed_up")
    assert entry.actor.startswith("command line: ")
    message = ET.fromstring(audit_message(entry, Source(source_id="host")))
    event = message.find("EventIdentification/EventID")
    assert event is not None
    assert event.get("csd-code") == "110106"  # Export
    with closing(sqlite3.connect(tmp_path / "one" / "record.sqlite3")) as copy:
        rows = copy.execute("SELECT action FROM audit_trail").fetchall()
    assert ("record.backed_up",) in rows


def test_a_record_that_cannot_be_written_is_backed_up_all_the_same(
    installation: tuple[StoreSettings, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is when a backup is wanted most."""
    store, record = installation
    monkeypatch.setattr("gateway.store.engine.BUSY_TIMEOUT_S", 0.2)
    with closing(sqlite3.connect(store.home / "record.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        summary = back_up(store, tmp_path / "two")
        other.execute("ROLLBACK")
    assert summary.unaudited
    assert (tmp_path / "two" / "backup.json").is_file()
    assert entries(record.engine, "record.backed_up") == []


def test_a_query_of_the_worklist_is_in_the_trail_with_its_keys_and_no_value(
    client: TestClient, app: FastAPI
) -> None:
    auth = ("admin", CHOSEN)
    found = client.get("/dicomweb/workitems", params={"PatientName": "CANARY*"}, auth=auth)
    assert found.status_code == 204
    engine = app.state.worklist.accounts._engine
    (entry,) = entries(engine, "query.received")
    assert entry.actor == "admin"
    assert entry.detail["keys"] == "PatientName"
    assert "CANARY" not in str(entry.detail)
    message = ET.fromstring(audit_message(entry, Source(source_id="host")))
    event = message.find("EventIdentification/EventID")
    assert event is not None
    assert event.get("csd-code") == "110112"  # Query
    query = message.findtext("ParticipantObjectIdentification/ParticipantObjectQuery")
    assert b64decode(query or "") == b"PatientName"
