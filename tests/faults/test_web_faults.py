"""STOW-RS as an entrance: killed in the middle of an upload, a disk that fails, a record away."""

import contextlib
import sqlite3
from pathlib import Path

import pydicom
import pytest
import requests
from sqlalchemy import func, select, update

from gateway.store.engine import open_engine, reading, writing
from gateway.store.tables import Account, Instance
from tests.faults.site import Site, check_series, series_of
from tests.lentigo import PASSWORD
from tests.servers import wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]

STEPS = (
    *("spool.begin", "spool.write", "spool.sync", "spool.rename", "spool.folder_sync"),
    *("spool.kept", "intake.commit", "listener.registered"),
)
BOUNDARY = "a-boundary-of-a-test"


@pytest.fixture
def web(healthy: Site) -> Site:
    """The installation with an account whose password is chosen."""
    engine = open_engine(healthy.store.record_url)
    with writing(engine) as connection:
        connection.execute(update(Account).values(must_change_password=False))
    engine.dispose()
    return healthy


def upload(site: Site, paths: list[Path]) -> int:
    """Send files in one request; return the status, 0 where there was no answer."""
    parts = [
        f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes()
        for path in paths
    ]
    body = b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.post(
                f"http://127.0.0.1:{site.lentigo.instance.http_port}/dicomweb/studies",
                data=body,
                headers={"Content-Type": kind, "Accept": "application/dicom+json"},
                auth=("admin", PASSWORD),
                timeout=60,
            )
        except requests.RequestException:
            return 0
    if answer.status_code == 200:
        for path in paths:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            site.acknowledged[str(ds.SOPInstanceUID)] = path
    return answer.status_code


def upload_until_taken(site: Site, paths: list[Path]) -> None:
    wait_until(lambda: upload(site, paths) == 200, 90, "an upload that is taken", interval_s=0.2)


def rows_of(site: Site, paths: list[Path]) -> int:
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    engine = open_engine(site.store.record_url)
    try:
        with reading(engine) as connection:
            found = select(func.count()).where(Instance.sop_instance_uid.in_(uids))
            return int(connection.execute(found).scalar_one())
    finally:
        engine.dispose()


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_the_middle_of_an_upload(web: Site, step: str) -> None:
    """At the second of three instances: the first is kept or not, and none is there twice."""
    # A small instance passes ``spool.write`` for its header, too.
    web.arm(f"{step}=kill@{3 if step == 'spool.write' else 2}/dashboard")
    paths = series_of(web, 3)
    assert upload(web, paths) == 0
    upload_until_taken(web, paths)
    assert rows_of(web, paths) == 3
    check_series(web, paths[:1], f"kill -9 at {step}, STOW-RS")
    web.lentigo.kill("listener")  # whose start sweeps what uploads have left
    incoming = web.store.spool_folder / "incoming"
    wait_until(lambda: not list(incoming.iterdir()), 60, "an empty incoming folder")


@pytest.mark.parametrize("error", ["enospc", "eio"])
@pytest.mark.parametrize("step", STEPS[:5])
def test_an_upload_that_cannot_be_written_is_not_acknowledged(
    web: Site, step: str, error: str
) -> None:
    web.arm(f"{step}={error}/dashboard")
    paths = web.make()
    assert upload(web, paths) not in (0, 200, 202)
    assert rows_of(web, paths) == 0
    upload_until_taken(web, paths)
    web.check(paths, f"{error.upper()} at {step}, STOW-RS")


def test_an_upload_while_the_record_is_locked_is_not_acknowledged(web: Site) -> None:
    paths = web.make()
    with contextlib.closing(
        sqlite3.connect(web.store.home / "record.sqlite3", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        assert upload(web, paths) not in (200, 202)
        other.execute("ROLLBACK")
    upload_until_taken(web, paths)
    web.check(paths, "a record that was locked, STOW-RS")


def test_the_same_instances_by_both_doors_at_once_are_there_once(web: Site) -> None:
    paths = series_of(web, 4)
    web.arm("intake.commit=kill@3")
    wait_until(
        lambda: [upload(web, paths), web.send_once(paths)] == [200, True], 90, "both answers"
    )
    assert rows_of(web, paths) == 4
    check_series(web, paths[:1], "both doors at once")
