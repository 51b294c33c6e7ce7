"""Backups of a running installation, whoever is killed while they are made or put back."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from gateway.cli import main
from gateway.errors import BackupError
from gateway.host.backup import back_up, named_files
from gateway.host.restore import MARK, restore
from gateway.settings import StoreSettings
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine, reading, utc_now, writing
from gateway.store.tables import Base, Instance
from gateway.store.values import Scheduled
from tests.lentigo import ROOT
from tests.records import Record, TestClock, association, header, new_object, postgresql_database
from tests.servers import wait_until

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, StoreSettings]]:
    """An installation and an empty place, on the databases that the test names."""
    kinds = getattr(request, "param", (SQLITE, SQLITE))
    found = {}
    contexts = []
    for name, kind in zip(("live", "new"), kinds, strict=True):
        url = ""
        if kind == POSTGRESQL:
            contexts.append(postgresql_database(request.getfixturevalue("postgresql_server")))
            url = contexts[-1].__enter__()
        found[name] = StoreSettings(home=tmp_path / name, database_url=url)
    yield found
    for context in contexts:
        context.__exit__(None, None, None)


class Installation:
    """A record with real files behind it."""

    def __init__(self, store: StoreSettings) -> None:
        self.store = store
        store.home.mkdir()
        migrate(store.record_url)
        self.engine = open_engine(store.record_url)
        self.record = Record(self.engine, TestClock())
        self.spool = Spool(store.spool_folder)
        self.spool.prepare()

    def receive(self, **changes: str) -> None:
        """Store one instance as the listener does: bytes, then row."""
        found = header(**changes)
        incoming = self.spool.begin()
        incoming.write(found.sop_instance_uid.encode() * 50)
        stored = self.spool.keep(incoming)
        self.record.intake.register_instance(header=found, stored=stored, association=association())

    def conclude(self) -> None:
        """Take one study all the way to a confirmed result with its file."""
        self.receive()
        (item,) = self.record.ledger.record_routing(
            self.record.close(),
            [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="dermoscopic image")],
            "",
        )
        content = os.urandom(2000)
        made = new_object(sha256=hashlib.sha256(content).hexdigest(), size_bytes=2000)
        path = self.store.results_folder / made.path
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        self.record.analyse(item, objects=(made,))
        self.record.deliver(item)


@pytest.fixture
def live(stores: dict[str, StoreSettings]) -> Iterator[Installation]:
    installation = Installation(stores["live"])
    for _ in range(20):
        installation.receive()
    yield installation
    installation.engine.dispose()


def rows(store: StoreSettings) -> dict[str, int]:
    engine = open_engine(store.record_url)
    try:
        with reading(engine) as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in Base.metadata.sorted_tables
            }
    finally:
        engine.dispose()


def broken_files(store: StoreSettings) -> list[str]:
    """Return the files that the record names and that are not there as it says."""
    engine = open_engine(store.record_url)
    try:
        return [
            str(each.path)
            for each in named_files(engine)
            if not (store.home / each.path).is_file()
            or hashlib.sha256((store.home / each.path).read_bytes()).hexdigest() != each.sha256
        ]
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "stores",
    [
        (SQLITE, SQLITE),
        (POSTGRESQL, POSTGRESQL),
        (SQLITE, POSTGRESQL),
        (POSTGRESQL, SQLITE),
    ],
    indirect=True,
    ids="-to-".join,
)
def test_backup_of_a_running_installation_is_restored_whole(
    stores: dict[str, StoreSettings], live: Installation, tmp_path: Path
) -> None:
    stop = threading.Event()

    def go_on_receiving() -> None:
        while not stop.is_set():
            live.receive()

    before = rows(live.store)
    writer = threading.Thread(target=go_on_receiving)
    writer.start()
    try:
        summary = back_up(live.store, tmp_path / "backup")
    finally:
        stop.set()
        writer.join()
    assert summary.damaged == []

    restore(tmp_path / "backup", stores["new"])

    found, after = rows(stores["new"]), rows(live.store)
    assert all(before[name] <= found[name] <= after[name] for name in before)
    assert before["instances"] >= 20
    assert broken_files(stores["new"]) == []
    # The copy goes on where the original stood: numbers are not given twice.
    again = Record(open_engine(stores["new"].record_url), TestClock())
    again.receive()
    again.engine.dispose()
    assert rows(stores["new"])["instances"] == found["instances"] + 1


def command(name: str, *arguments: str, store: StoreSettings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", name, *arguments, "--home", str(store.home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stall(path: Path) -> bytes:
    """Put a pipe in the place of a file: who reads it waits; return what was in it."""
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    return content


def mend(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def kill_when(process: subprocess.Popen[str], reached: Path) -> None:
    try:
        wait_until(lambda: any(reached.rglob("*.dcm")), 60, f"files under {reached.name}")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_backup_that_is_killed_leaves_no_backup_and_is_made_again(
    live: Installation, tmp_path: Path
) -> None:
    live.conclude()
    (result,) = live.store.results_folder.rglob("*.dcm")
    content = stall(result)
    folder = tmp_path / "backup"
    kill_when(command("backup", str(folder), store=live.store), tmp_path / "backup.partial")
    assert not folder.exists()
    with pytest.raises(BackupError, match="not a whole backup"):
        restore(tmp_path / "backup.partial", StoreSettings(home=tmp_path / "elsewhere"))
    mend(result, content)

    done = command("backup", str(folder), store=live.store)
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0, said
    assert "backed up 22 files" in said
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "files.sha256"], cwd=folder)
    assert checked.returncode == 0


def test_restore_that_is_killed_starts_nothing_and_is_finished_by_running_it_again(
    live: Installation, tmp_path: Path, stores: dict[str, StoreSettings]
) -> None:
    live.conclude()
    folder, new = tmp_path / "backup", stores["new"]
    back_up(live.store, folder)
    last = max(each for each in folder.rglob("*.dcm"))
    content = stall(last)
    kill_when(command("restore", str(folder), store=new), new.home)
    mend(last, content)
    assert (new.home / MARK).exists()
    assert not (new.home / "record.sqlite3").exists()
    for name in ("up", "migrate"):
        module = "gateway.cli" if name == "up" else "gateway"
        refused = subprocess.run(
            [sys.executable, "-m", module, name],
            env={**os.environ, "LENTIGO_HOME": str(new.home), "LENTIGO_LISTENER_PORT": "0"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert refused.returncode == 1
        assert "half restored" in refused.stderr

    done = command("restore", str(folder), store=new)
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0, said
    assert not (new.home / MARK).exists()
    assert rows(new) == rows(live.store)
    assert broken_files(new) == []


def test_damage_is_named_and_the_rest_is_kept(
    live: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = sorted(live.store.spool_folder.rglob("*.dcm"))
    first.unlink()
    second.write_bytes(b"rotten")
    home = str(live.store.home)
    assert main(["backup", str(tmp_path / "backup"), "--home", home]) == 1
    said = capsys.readouterr().out
    assert f"{first.name}: missing" in said
    assert f"{second.name}: other bytes" in said
    assert len(list((tmp_path / "backup").rglob("*.dcm"))) == 19


def test_damaged_backup_is_refused_before_there_is_a_record(
    live: Installation, tmp_path: Path, stores: dict[str, StoreSettings]
) -> None:
    back_up(live.store, tmp_path / "backup")
    victim = sorted((tmp_path / "backup").rglob("*.dcm"))[7]
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(BackupError, match="damaged"):
        restore(tmp_path / "backup", stores["new"])
    assert not (stores["new"].home / "record.sqlite3").exists()


def test_what_retention_took_meanwhile_is_no_damage(
    live: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = sorted(live.store.spool_folder.rglob("*.dcm"))[3]

    def save_and_purge(url: str, target: Path) -> None:
        save_record(url, target)
        with writing(live.engine) as connection:
            path = str(victim.relative_to(live.store.spool_folder))
            connection.execute(
                update(Instance).where(Instance.path == path).values(purged_at=utc_now())
            )
        victim.unlink()

    from gateway.host import backup
    from gateway.host.record_copy import save_record

    monkeypatch.setattr(backup, "save_record", save_and_purge)
    summary = back_up(live.store, tmp_path / "backup")
    assert (summary.purged, summary.damaged, summary.files) == (1, [], 19)
    new = StoreSettings(home=tmp_path / "new")
    restore(tmp_path / "backup", new)
    assert broken_files(new) == []


def test_unchanged_files_are_linked_to_an_earlier_backup(
    live: Installation, tmp_path: Path
) -> None:
    back_up(live.store, tmp_path / "monday")
    live.receive()
    summary = back_up(live.store, tmp_path / "tuesday", earlier=tmp_path / "monday")
    assert (summary.files, summary.linked) == (21, 20)
    rotten = next((tmp_path / "monday").rglob("*.dcm"))
    rotten.write_bytes(b"rotten")  # the earlier copy is not trusted
    summary = back_up(live.store, tmp_path / "wednesday", earlier=tmp_path / "monday")
    assert (summary.linked, summary.damaged) == (19, [])
    linked = back_up(live.store, tmp_path / "moment", link=True)
    assert linked.linked == 21


def test_nothing_is_restored_over_anything(
    live: Installation, tmp_path: Path, stores: dict[str, StoreSettings]
) -> None:
    folder = tmp_path / "backup"
    back_up(live.store, folder)
    with pytest.raises(BackupError, match="exists already"):
        back_up(live.store, folder)
    with pytest.raises(BackupError, match="holds a record already"):
        restore(folder, live.store)
    (stores["new"].spool_folder / "instances").mkdir(parents=True)
    (stores["new"].spool_folder / "instances" / "1.dcm").touch()
    with pytest.raises(BackupError, match="not empty"):
        restore(folder, stores["new"])
    with pytest.raises(BackupError, match="no record"):
        back_up(StoreSettings(home=tmp_path / "nowhere"), tmp_path / "of nothing")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  ../outside",
        "0" * 64 + "  /etc/passwd",
        "0" * 64 + "  spool/../../outside",
        "0" * 64 + "  run/lock",
        "no digest",
    ],
)
def test_list_that_points_outside_is_refused(
    live: Installation, tmp_path: Path, stores: dict[str, StoreSettings], line: str
) -> None:
    back_up(live.store, tmp_path / "backup")
    with (tmp_path / "backup" / "files.sha256").open("a") as listed:
        listed.write(line + "\n")
    with pytest.raises(BackupError, match="cannot be used"):
        restore(tmp_path / "backup", stores["new"])
    assert not stores["new"].home.exists()


def test_backup_of_a_later_version_is_refused(
    live: Installation, tmp_path: Path, stores: dict[str, StoreSettings]
) -> None:
    back_up(live.store, tmp_path / "backup")
    record = tmp_path / "backup" / "record.sqlite3"
    connection = sqlite3.connect(record)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    digests = tmp_path / "backup" / "files.sha256"
    lines = [
        f"{hashlib.sha256(record.read_bytes()).hexdigest()}  record.sqlite3"
        if line.endswith("record.sqlite3")
        else line
        for line in digests.read_text().splitlines()
    ]
    digests.write_text("\n".join(lines) + "\n")
    with pytest.raises(BackupError, match="does not know"):
        restore(tmp_path / "backup", stores["new"])
