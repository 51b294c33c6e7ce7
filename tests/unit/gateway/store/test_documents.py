"""Documents of a site: kept on disk and in the record, seen by the right generation."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway import attach, cli
from gateway.documents import MAX_BYTES, DocumentDesk
from gateway.errors import DocumentRefused, SpoolFull
from gateway.settings import CompletenessSettings
from gateway.spool import Spool
from gateway.store.engine import reading
from gateway.store.intake.documents import DocumentReader, DocumentRecord, Registered
from gateway.store.tables import AuditEntry, Document, Event, Generation
from gateway.store.tables import Study as StudyRow
from tests.records import QUIET_WINDOW_S, Record, association, header, new_uid

CANARY = "Canary^Patient"


class Site:
    """A site that sends documents to one record."""

    def __init__(self, record: Record, folder: Path) -> None:
        self.record = record
        self.spool = Spool(folder / "spool")
        completeness = CompletenessSettings(quiet_window_s=QUIET_WINDOW_S)
        store = DocumentRecord(record.engine, completeness, record.clock)
        self.desk = DocumentDesk(self.spool, store)
        self.reader = DocumentReader(record.engine)

    def send(self, uid: str, name: str = "p.json", **content: object) -> Registered:
        body = json.dumps({"note": CANARY, **content}).encode()
        return self.desk.receive(uid=uid, name=name, stated_type="", content=body, actor="his")

    def seen(self, generation: int) -> dict[str, object]:
        study_id = 1
        return {
            row.name: json.loads((self.spool.root / row.path).read_bytes()).get("v")
            for row in self.reader.of_generation(study_id, generation)
        }

    def rows(self, table: type, *columns: str) -> list[tuple[object, ...]]:
        wanted = [getattr(table, name) for name in columns]
        with reading(self.record.engine) as connection:
            return [tuple(row) for row in connection.execute(select(*wanted).order_by(table.id))]


@pytest.fixture
def site(record: Record, tmp_path: Path) -> Site:
    return Site(record, tmp_path)


def test_a_document_waits_for_its_study(site: Site) -> None:
    uid = new_uid()
    kept = site.send(uid, v=1)
    assert (kept.is_new, kept.study_id, kept.generation) == (True, None, None)
    site.record.receive(study_instance_uid=uid)
    site.record.close()
    assert site.seen(1) == {"p.json": 1}
    actions = [row[0] for row in site.rows(Event, "action")]
    assert "document.attached" in actions
    assert site.rows(Document, "generation_number") == [(1,)]


def test_a_document_joins_the_generation_that_receives(site: Site) -> None:
    uid = site.record.receive()
    assert site.send(uid, v=1).generation == 1
    assert len(site.rows(Generation, "id")) == 1
    site.record.close()
    assert site.seen(1) == {"p.json": 1}


def test_a_document_holds_the_study_open(site: Site) -> None:
    uid = site.record.receive()
    site.record.clock.advance(QUIET_WINDOW_S - 0.5)
    site.send(uid, v=1)
    site.record.clock.advance(1.0)
    assert site.record.intake.close_due_generations() == 0


def test_a_late_document_opens_the_next_generation(site: Site) -> None:
    uid = site.record.completed()
    kept = site.send(uid, v=1)
    assert kept.generation == 2
    assert site.seen(1) == {}
    generation = site.record.ledger.load_generation(site.record.close())
    assert generation is not None
    assert generation.number == 2
    assert len(generation.instances) == 1  # those of the first one
    assert site.seen(2) == {"p.json": 1}
    assert site.rows(StudyRow, "state") == [("received",)]


def test_the_newest_of_a_name_counts_for_its_generation(site: Site) -> None:
    uid = site.record.receive()
    site.send(uid, v=1)
    site.send(uid, "other.json", v=9)
    site.record.close()
    assert site.send(uid, v=2).revision == 2
    assert site.seen(1) == {"other.json": 9, "p.json": 1}
    assert site.seen(2) == {"other.json": 9, "p.json": 2}


def test_the_same_document_again_changes_nothing(site: Site) -> None:
    uid = site.record.completed()
    first, again = site.send(uid, v=1), site.send(uid, v=1)
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.revision, again.generation) == (1, 2)
    assert len(site.rows(Document, "id")) == 1
    assert site.send(uid, v=2).revision == 2
    assert site.send(uid, v=1).revision == 3, "an old document sent again is the newest"


def test_an_instance_names_its_study_too(site: Site) -> None:
    instance = new_uid()
    study = site.record.receive(sop_instance_uid=instance)
    assert site.send(instance, v=1).study_id == 1
    assert site.rows(Document, "study_instance_uid") == [(study,)]


def test_a_study_whose_instances_were_all_refused_gets_no_generation(site: Site) -> None:
    refused = header(study_instance_uid=new_uid())
    site.record.intake.register_refusal(
        association=association(), status=0xA900, reason="no", stored=None, header=refused
    )
    kept = site.send(refused.study_instance_uid, v=1)
    assert (kept.study_id, kept.generation) == (1, None)
    assert site.rows(Generation, "id") == []
    assert site.rows(StudyRow, "state") == [("refused",)]


def test_bytes_are_on_disk_under_their_digest(site: Site) -> None:
    site.send(new_uid(), v=1)
    ((path, sha256, size),) = site.rows(Document, "path", "sha256", "size_bytes")
    content = (site.spool.root / str(path)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256
    assert len(content) == size
    assert list(site.spool.incoming.iterdir()) == []


def test_trail_and_timeline_name_the_sender_and_no_patient(site: Site) -> None:
    uid = site.record.receive()
    site.send(uid, "canary.json", v=1)
    site.send(new_uid(), v=1)
    ((actor, action, detail), *_) = site.rows(AuditEntry, "actor", "action", "detail")
    assert (actor, action) == ("his", "document.received")
    assert isinstance(detail, dict)
    assert detail["sha256"]
    shown = json.dumps([site.rows(AuditEntry, "detail"), site.rows(Event, "detail")])
    assert "anary" not in shown
    assert uid not in shown


def test_two_that_come_at_once_are_both_kept(site: Site) -> None:
    uid = site.record.receive()
    failures: list[Exception] = []

    def send(number: int) -> None:
        try:
            site.send(uid, v=number)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(site.rows(Document, "revision")) == [(1,), (2,), (3,), (4,)]
    assert len(site.rows(Generation, "id")) == 1


@pytest.mark.parametrize("uid", ["", "1.2.03", "x", "1" * 65, "1.2\n", "../1.2"])
def test_what_is_no_uid_is_refused(sqlite_site: Site, uid: str) -> None:
    with pytest.raises(DocumentRefused, match="UID"):
        sqlite_site.send(uid)


@pytest.mark.parametrize("name", ["", "../x.json", "a b.json", ".x.json", "ü.json", "a" * 129])
def test_names_hold_nothing_that_a_path_or_a_line_could_mean(sqlite_site: Site, name: str) -> None:
    with pytest.raises(DocumentRefused):
        sqlite_site.send(new_uid(), name)


def test_large_and_empty_documents_are_refused(sqlite_site: Site) -> None:
    for content, status in ((b" \n", 422), (b"[" + b" " * MAX_BYTES + b"]", 413)):
        with pytest.raises(DocumentRefused) as caught:
            sqlite_site.desk.receive(
                uid="1.2", name="a.json", stated_type="", content=content, actor="his"
            )
        assert caught.value.status_code == status


def test_a_full_disk_keeps_nothing(sqlite_site: Site) -> None:
    full = Spool(sqlite_site.spool.root, reserve_bytes=2**62)
    desk = DocumentDesk(full, DocumentRecord(sqlite_site.record.engine, CompletenessSettings()))
    with pytest.raises(SpoolFull):
        desk.receive(uid="1.2", name="a.json", stated_type="", content=b"{}", actor="his")
    assert sqlite_site.rows(Document, "id") == []


@pytest.fixture
def sqlite_site(sqlite_record, tmp_path: Path) -> Site:  # type: ignore[no-untyped-def]
    return Site(sqlite_record(tmp_path / "home"), tmp_path / "home")


def test_the_command_attaches_a_file(
    sqlite_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prognosis.json"
    path.write_text('{"lentigo": "prognosis"}', encoding="utf-8")
    home = str(tmp_path / "home")
    assert cli.main(["attach", "--study", "1.2.3", str(path), "--home", home]) == 0
    assert "waits for it" in capsys.readouterr().out
    assert cli.main(["attach", "--study", "1.2.3", str(path), "--home", home]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert sqlite_site.rows(Document, "name") == [("prognosis.json",)]
    ((actor,),) = sqlite_site.rows(AuditEntry, "actor")
    assert str(actor).startswith("command line")


@pytest.mark.parametrize("content", [None, "{"])
def test_the_command_says_what_it_cannot_take(
    sqlite_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "prognosis.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    home = str(tmp_path / "home")
    assert cli.main(["attach", "--study", "1.2.3", str(path), "--home", home]) == 1
    assert capsys.readouterr().err.startswith("lentigo attach: ")


def test_the_command_needs_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}", encoding="utf-8")
    assert cli.main(["attach", "--study", "1.2", str(path), "--home", str(tmp_path / "none")]) == 1
    assert "lentigo up" in capsys.readouterr().err
    assert not (tmp_path / "none" / "spool").exists()
    assert attach.MAX_BYTES == MAX_BYTES
