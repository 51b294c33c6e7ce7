"""The HTTP doors when the watermark, the reserve or a quota refuses: nothing kept, all said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI
from pydicom import Dataset
from sqlalchemy import func, select

from gateway.dashboard.app import create_app
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import reading
from gateway.store.tables import Document, Event, Instance
from tests.instances import encoded, instance
from tests.pages import TestClient
from tests.records import Record, new_uid
from tests.web import AUTH, served

BOUNDARY = "a-boundary"
FULL = {
    "watermark": ("LENTIGO_RETENTION_HIGH_WATERMARK_PERCENT", "0.000001"),
    "reserve": ("LENTIGO_LISTENER_RESERVE_BYTES", str(2**60)),
}


@contextmanager
def door(home: Path, kept: Record) -> Iterator[tuple[requests.Session, str]]:
    """Serve an application that reads the settings now; the account is there already."""
    app = create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)
    with served(app) as address, requests.Session() as session:
        session.trust_env = False
        session.auth = AUTH
        yield session, address


def stow(session: requests.Session, address: str, *files: bytes) -> requests.Response:
    parts = [
        f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + each for each in files
    ]
    body = b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    return session.post(
        f"{address}/dicomweb/studies", body, headers={"Content-Type": kind}, timeout=60
    )


def count(kept: Record, table: type) -> int:
    with reading(kept.engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def files_in(home: Path) -> list[Path]:
    """What lies in the spool, but for the journal's own space."""
    spool = StoreSettings(home=home).spool_folder
    return [path for path in spool.rglob("*") if path.is_file() and path.suffix != ".journal"]


def reasons(response: requests.Response) -> list[int]:
    ds = Dataset.from_json(response.json())
    return [item.FailureReason for item in ds.get("FailedSOPSequence", [])]


@pytest.mark.parametrize("why", FULL)
def test_above_the_watermark_an_upload_is_answered_503_and_a_document_507(
    client: TestClient,
    app: FastAPI,
    home: Path,
    kept: Record,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    """PS3.18 10.5.3: 503 where nothing could be stored for want of room, A700 for each."""
    with monkeypatch.context() as full:
        full.setenv(*FULL[why])
        with door(home, kept) as (session, address):
            found = stow(session, address, encoded(instance()), encoded(instance()))
            assert found.status_code == 503
            assert int(found.headers["retry-after"]) > 0
            assert reasons(found) == [0xA700, 0xA700]
            document = session.post(
                f"{address}/api/studies/{new_uid()}/documents?name=covariates",
                b"{}",
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
            assert document.status_code == 507, document.text
    assert (count(kept, Instance), count(kept, Document), files_in(home)) == (0, 0, [])
    with door(home, kept) as (session, address):  # the same sender, once there is room
        assert stow(session, address, encoded(instance())).status_code == 200
    assert count(kept, Instance) == 1


def test_a_quota_that_is_used_up_refuses_what_is_beyond_it_and_says_so(
    client: TestClient, app: FastAPI, home: Path, kept: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account stands in the place of the AE title; others are not touched."""
    first, second = encoded(instance()), encoded(instance())
    room = int(1.5 * max(len(first), len(second)))
    monkeypatch.setenv("LENTIGO_RETENTION_QUOTA", f"{AUTH[0]}@127.0.0.0/8={room}B")
    with door(home, kept) as (session, address):
        partly = stow(session, address, first, second)
        assert partly.status_code == 202
        assert reasons(partly) == [0xA700]
        nothing = stow(session, address, second)
        assert (nothing.status_code, reasons(nothing)) == (503, [0xA700])
    assert count(kept, Instance) == 1
    with reading(kept.engine) as connection:
        alarms = connection.execute(select(Event.level).where(Event.action == "quota.exceeded"))
        assert set(alarms.scalars()) == {"alarm"}
    monkeypatch.setenv("LENTIGO_RETENTION_QUOTA", f"SOMEBODY@127.0.0.0/8={room}B")
    with door(home, kept) as (session, address):
        assert stow(session, address, second).status_code == 200
