"""The record gone and locked, in SQLite; PostgreSQL has a file of its own, and an installation."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.site import Site
from tests.lentigo import wait_a_moment

pytestmark = [pytest.mark.timeout(300), pytest.mark.faults]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of an SQLite file from this process."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def test_a_short_lock_is_waited_for(healthy: Site) -> None:
    """A backup that holds the file for some seconds costs a sender some seconds."""
    paths = healthy.make()
    with locked(healthy.store.home / "record.sqlite3"):
        release = threading.Event()
        sender = threading.Thread(target=lambda: (healthy.send(paths), release.set()))
        sender.start()
        wait_a_moment(3)
        assert not release.is_set()
    sender.join(60)
    assert release.is_set()
    healthy.check(paths, "a record that was locked for 3 s")


def test_a_long_lock_refuses_and_recovers(healthy: Site) -> None:
    """Longer than the busy time-out: nothing is acknowledged that is not in the record."""
    before, refused = healthy.make(), healthy.make()
    healthy.send(before)
    with locked(healthy.store.home / "record.sqlite3"):
        assert not healthy.send_once(refused)
        wait_a_moment(4)  # longer than a lease
    healthy.send(refused)
    healthy.check([*before, *refused], "a record that was locked for 20 s")


def test_a_record_that_is_gone_for_a_while(healthy: Site) -> None:
    """The file cannot be opened: a mount that fell off, a wrong permission."""
    path = healthy.store.home / "record.sqlite3"
    before = healthy.make()
    healthy.send(before)
    healthy.wait_for(before)
    hidden = {each: each.with_name(f"hidden-{each.name}") for each in path.parent.glob("record.*")}
    healthy.lentigo.kill_all()
    for each, other in hidden.items():
        each.rename(other)
    path.mkdir(0o700)  # what cannot be opened as a file
    with contextlib.suppress(AssertionError):  # it says why and ends
        healthy.lentigo.start()
    assert "record" in (healthy.lentigo.home / "up.log").read_text()[-500:]
    path.rmdir()
    for each, other in hidden.items():
        other.rename(each)
    healthy.lentigo.start()
    after = healthy.make()
    healthy.send(after)
    healthy.check([*before, *after], "a record that could not be opened")
