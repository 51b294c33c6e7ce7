"""``lentigo verify`` sees what it is there to see: each promise, broken by hand."""

import argparse
import datetime as dt
import hashlib
import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, select, text, update

from gateway import verify as command
from gateway.delivery.routes import Route
from gateway.errors import RecordUnavailable
from gateway.journal_segment import Segment
from gateway.settings import DeliverySettings, StoreSettings
from gateway.store import audit
from gateway.store.engine import migrate, open_engine, reading, writing
from gateway.store.intake.received_commitments import ReceivedCommitments
from gateway.store.retention.legal_holds import LegalHolds
from gateway.store.tables import (
    AuditEntry,
    Delivery,
    Generation,
    Instance,
    ReceivedCommitment,
    ResultObject,
    Study,
    WorkItem,
)
from gateway.store.verification.promises import CHECKS, Finding, Subject, verify
from gateway.verify import BROKEN, UNKNOWN
from gateway.verify_pacs import PacsUnavailable, check_pacs
from tests.records import Record, TestClock, association, header, new_object, new_uid, stored
from tests.storage_scp import StorageScp, write_object


class Home:
    """A record, a spool and a results folder in which nothing is wrong."""

    def __init__(self, folder: Path, empty_record: Path) -> None:
        self.store = StoreSettings(home=folder / "home")
        self.store.home.mkdir()
        shutil.copy(empty_record, self.store.home / "record.sqlite3")
        self.engine: Engine = open_engine(self.store.record_url)
        self.record = Record(self.engine, TestClock())

    def receive(self) -> Path:
        """Register one instance whose file is on disk."""
        kept = stored()
        path = self.store.spool_folder / "instances" / kept.relative_path
        kept = type(kept)(
            relative_path=Path("instances") / kept.relative_path,  # type: ignore[arg-type]
            sha256=kept.sha256,
            size_bytes=kept.size_bytes,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(kept.size_bytes))
        self.record.intake.register_instance(
            header=header(), stored=kept, association=association()
        )
        return path

    def complete(self, destination: str = "folder", **changes: Any) -> Path:
        """Take one study all the way; return its result file."""
        self.receive()
        generation = self.record.close()
        from gateway.store.values import Scheduled

        (item,) = self.record.ledger.record_routing(
            generation,
            [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="r")],
            "",
        )
        made = new_object(size_bytes=3, **changes)
        path = self.store.results_folder / made.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"abc")
        self.record.analyse(item, objects=(made,), destinations=(Route(name=destination),))
        self.record.deliver(item)
        return path

    def change(self, statement: Any) -> None:
        with writing(self.engine) as connection:
            connection.execute(statement)

    def look(self, **changes: Any) -> dict[str, Finding]:
        """Return the findings by their check's first words."""
        subject = Subject(
            engine=self.engine,
            spool=self.store.spool_folder,
            results=self.store.results_folder,
            clock=self.record.clock,
            **changes,
        )
        return {each.invariant: each for each in verify(subject)}

    def broken(self, **changes: Any) -> list[str]:
        """Return what every broken promise says."""
        found = self.look(**changes).values()
        return [text for each in found if each.verdict == "FAIL" for text in each.examples]


@pytest.fixture(scope="module")
def empty_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record with its schema and no row, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "record.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, empty_record: Path) -> Iterator[Home]:
    made = Home(tmp_path, empty_record)
    yield made
    made.engine.dispose()


def test_nothing_is_wrong_with_a_healthy_installation(home: Home) -> None:
    home.complete()
    home.receive()
    found = home.look()
    assert {each.verdict for each in found.values()} == {"PASS"}
    assert sum(each.checked for each in found.values()) >= 8


def test_a_received_file_that_is_gone_cut_or_changed(home: Home) -> None:
    gone, cut, changed = home.receive(), home.receive(), home.receive()
    gone.unlink()
    cut.write_bytes(b"")
    assert [text.split(": ")[1].split(" (")[0] for text in home.broken()] == [
        "its file is gone",
        "its file has 0 bytes, the record says " + str(changed.stat().st_size),
    ]
    assert any("changed on disk" in text for text in home.broken(is_deep=True))


def test_a_result_file_that_is_gone(home: Home) -> None:
    home.complete().unlink()
    assert home.broken() == [text for text in home.broken() if "its file is gone" in text] != []


def test_a_file_without_a_row_is_a_note_once_it_is_old(home: Home) -> None:
    orphan = home.receive().with_name("orphan.dcm")
    orphan.write_bytes(b"x")
    assert home.broken() == []
    home.record.clock.now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    notes = [each for each in home.look(grace_s=1e5).values() if each.verdict == "NOTE"]
    assert notes == []
    notes = [each for each in home.look().values() if each.verdict == "NOTE"]
    assert len(notes) == 1
    assert "orphan.dcm" in notes[0].examples[0]


@pytest.mark.parametrize("state", ["PENDING", "STORED"])
def test_a_completed_work_item_with_an_open_delivery(home: Home, state: str) -> None:
    home.complete()
    home.change(update(Delivery).values(state=state))
    assert any("unconfirmed" in text for text in home.broken())


def test_a_completed_work_item_without_a_result_or_refused_by_all(home: Home) -> None:
    home.complete()
    home.change(update(Delivery).values(state="REFUSED"))
    assert any("confirmed by no destination" in text for text in home.broken())
    home.change(delete(Delivery))
    home.change(delete(ResultObject))
    assert any("completed without a result" in text for text in home.broken())


def test_a_role_that_was_made_twice(home: Home) -> None:
    home.complete()
    values = {
        **vars(new_object(path="x/y.dcm")),
        "work_item_id": 1,
        "created_at": home.record.clock(),
    }
    home.change(insert(ResultObject).values(**values))
    assert any("more than one sr" in text for text in home.broken())


def test_work_that_nobody_will_do(home: Home) -> None:
    home.record.schedule()
    home.change(update(WorkItem).values(next_attempt_at=None))
    assert any("due never" in text for text in home.broken())


def test_work_that_nobody_does(home: Home) -> None:
    home.record.schedule()
    home.record.clock.advance(3600)
    assert any("nobody does it" in text for text in home.broken())
    assert not any("nobody does it" in text for text in home.broken(grace_s=7200))


def test_a_lease_that_ran_out_and_one_of_a_wrong_clock(home: Home) -> None:
    (item,) = home.record.schedule()
    home.record.claim(item)
    assert not [text for text in home.broken() if "work item" in text]
    home.record.clock.advance(300)
    assert any("free 270 s ago" in text for text in home.broken())
    home.record.clock.advance(-30 * 86400)
    assert any("was the clock" in text for text in home.broken())


def test_a_generation_that_will_never_close_or_be_routed(home: Home) -> None:
    home.receive()
    home.record.clock.advance(3600)
    assert any("to be closed 3598 s ago" in text for text in home.broken())
    home.change(update(Generation).values(state="closed", next_attempt_at=None))
    assert any("to be routed never" in text for text in home.broken())


def test_a_study_whose_state_is_not_that_of_its_work(home: Home) -> None:
    home.complete()
    home.change(update(Study).values(state="analysing"))
    assert any("is called analysing, its work says completed" in text for text in home.broken())


def test_a_given_up_delivery_that_held_up_its_siblings(home: Home) -> None:
    home.complete()
    home.change(update(WorkItem).values(state="CANCELED", failure_kind="DEFECT"))
    home.change(update(Delivery).values(state="PENDING"))
    assert any("given up while 1 objects waited" in text for text in home.broken())


def test_what_was_canceled_on_request_is_no_fault(home: Home) -> None:
    home.complete()
    home.change(update(WorkItem).values(state="CANCELED", failure_kind=""))
    home.change(update(Delivery).values(state="PENDING"))
    assert not [text for text in home.broken() if "work item" in text]


def test_a_study_that_is_held_and_a_queue_may_be_late(home: Home) -> None:
    first, second = home.record.schedule(), home.record.schedule()
    home.record.clock.advance(3600)
    assert len([text for text in home.broken() if "nobody does it" in text]) == 2
    home.change(update(Study).where(Study.id == 1).values(held_at=home.record.clock()))
    assert len([text for text in home.broken() if "nobody does it" in text]) == 1
    home.change(update(Study).values(held_at=None))
    home.record.claim(second[0])
    assert first
    assert not [text for text in home.broken() if "nobody does it" in text]


def test_a_file_that_is_gone_and_stands_in_the_journal(home: Home) -> None:
    path = home.receive()
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    home.change(update(Instance).values(sha256=digest))
    folder = home.store.spool_folder / "journal"
    folder.mkdir()
    (folder / "0.journal").write_bytes(b"")
    (folder / "1.journal").write_bytes(b"no journal")
    segment = Segment.make(folder / "2.journal", 64 * 1024)
    segment.write(segment.position, digest, data)
    path.unlink()
    assert [text for text in home.broken() if "the journal has it" in text]
    segment.reset()
    segment.close()
    assert not [text for text in home.broken() if "the journal has it" in text]
    assert [text for text in home.broken() if "its file is gone" in text]


def test_an_instance_that_was_accepted_twice(home: Home) -> None:
    home.receive()
    with reading(home.engine) as connection:
        row = dict(connection.execute(select(Instance)).one()._mapping)
    del row["id"]
    home.receive()
    home.change(update(Instance).where(Instance.id == 2).values(disposition="quarantined"))
    home.change(
        update(Instance).where(Instance.id == 2).values(sop_instance_uid=row["sop_instance_uid"])
    )
    assert not [text for text in home.broken() if "of one UID" in text]  # kept apart, as promised
    home.change(update(Instance).values(disposition="accepted"))
    assert "2 instances of one UID: 1 and 2" in home.broken()


def test_a_report_on_commitment_that_nobody_makes(home: Home) -> None:
    book = ReceivedCommitments(home.engine, home.record.clock)
    book.register(
        calling_ae_title="CAMERA",
        called_ae_title="LENTIGO",
        transaction_uid=new_uid(),
        instances={new_uid(): "1.2"},
        due_in_s=30.0,
    )
    assert not [text for text in home.broken() if "CAMERA" in text]
    home.record.clock.advance(3600)
    assert [text for text in home.broken() if "request 1 of CAMERA: due 3570 s ago" in text]
    home.change(update(ReceivedCommitment).values(next_attempt_at=None))
    assert [text for text in home.broken() if "request 1 of CAMERA: due never" in text]
    home.change(update(ReceivedCommitment).values(state="reported"))
    assert not [text for text in home.broken() if "CAMERA" in text]


def test_a_purge_of_what_was_on_legal_hold(home: Home) -> None:
    path = home.complete()
    now = home.record.clock()
    with reading(home.engine) as connection:
        uid = connection.execute(select(Study.study_instance_uid)).scalar_one()
    LegalHolds(home.engine, home.record.clock).place(uid, reason="a file number", actor="admin")
    assert not [text for text in home.broken() if "hold" in text]
    home.change(update(Instance).values(purged_at=now + dt.timedelta(seconds=1)))
    assert home.broken() == ["instances 1: its study is on legal hold"]
    home.change(update(Instance).values(purged_at=now - dt.timedelta(seconds=1)))
    assert home.broken() == []  # it was gone when the hold was placed
    assert path.exists()


def test_a_purge_of_a_result_that_nobody_confirmed(home: Home) -> None:
    home.complete()
    home.change(update(ResultObject).values(purged_at=home.record.clock()))
    assert home.broken() == []
    home.change(update(Delivery).values(state="REFUSED"))
    assert "result object 1: nobody has confirmed it" in home.broken()


def test_an_audit_trail_that_was_changed(home: Home) -> None:
    with writing(home.engine) as connection:
        for number in range(3):
            audit.append(connection, home.record.clock(), "admin", "login", number=number)
    assert home.broken() == []
    with writing(home.engine) as connection:
        for (name,) in connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'audit%'")
        ).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    home.change(update(AuditEntry).where(AuditEntry.id == 2).values(actor="somebody else"))
    found = home.look()["the audit trail is one unbroken chain"]
    assert found.verdict == "FAIL"
    assert "entry 2" in found.examples[0]


def test_every_check_is_broken_by_a_test() -> None:
    """What is looked at is looked for: a check that no test breaks may see nothing."""
    source = Path(__file__).read_text(encoding="utf-8")
    planted = {
        "check_received": "its file is gone",
        "check_results": "test_a_result_file_that_is_gone",
        "check_once": "of one UID",
        "check_result_sets": "more than one sr",
        "check_owners": "nobody does it",
        "check_commitments": "of CAMERA",
        "check_states": "is called analysing",
        "check_purged": "on legal hold",
        "check_audit": "one unbroken chain",
        "check_orphans": "orphan.dcm",
    }
    assert {check.__name__ for check in CHECKS} == set(planted)
    assert all(source.count(text) > 1 for text in planted.values())


def test_large_records_are_read_in_batches(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.verification.findings._BATCH", 2)
    paths = [home.receive() for _ in range(7)]
    paths[6].unlink()
    found = home.look()["every acknowledged instance and document is on disk, whole"]
    assert (found.checked, found.broken) == (7, 1)


# -- the PACS ---------------------------------------------------------------------------------


class ListingScp(StorageScp):
    """Answers a query of a whole series too."""

    twice = False
    answers: Iterator[list[Any]] | None = None
    """What is listed instead, query by query."""

    def _on_find(self, event: Any) -> Iterator[tuple[int, Any]]:
        if event.identifier.SOPInstanceUID:
            yield from super()._on_find(event)
            return
        stored = self.stored if self.answers is None else next(self.answers)
        for ds in [*stored, *(stored[:1] if self.twice else [])]:
            if ds.SeriesInstanceUID == event.identifier.SeriesInstanceUID:
                ds.QueryRetrieveLevel = "IMAGE"
                yield 0xFF00, ds
        if self.find_status:
            yield self.find_status, None


@pytest.fixture
def pacs(home: Home, tmp_path: Path) -> Iterator[ListingScp]:
    """A PACS that holds the one result there is."""
    import pydicom

    ds = pydicom.dcmread(write_object(tmp_path, "1.2.840.10008.5.1.4.1.1.88.34", 1))
    with ListingScp().serving() as scp:
        assert isinstance(scp, ListingScp)
        scp.stored.append(ds)
        home.complete(
            f"PACS@127.0.0.1:{scp.port}",
            sop_instance_uid=str(ds.SOPInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
        )
        yield scp


def test_a_pacs_that_holds_what_it_confirmed(home: Home, pacs: ListingScp) -> None:
    found = check_pacs(home.engine, DeliverySettings(), patience_s=0)
    assert (found.verdict, found.checked) == ("PASS", 1)


def test_a_pacs_that_lost_one_has_it_twice_or_has_more(home: Home, pacs: ListingScp) -> None:
    import copy

    pacs.twice = True
    assert "listed 2 times" in check_pacs(home.engine, DeliverySettings(), patience_s=0).examples[0]
    pacs.twice = False
    other = copy.deepcopy(pacs.stored[0])
    other.SOPInstanceUID = new_uid()
    pacs.stored.append(other)
    assert (
        "unknown objects" in check_pacs(home.engine, DeliverySettings(), patience_s=0).examples[0]
    )
    pacs.stored.clear()
    found = check_pacs(home.engine, DeliverySettings(), patience_s=0)
    assert (found.verdict, found.broken) == ("FAIL", 1)
    assert "is not there" in found.examples[0]


def test_a_pacs_that_cannot_be_asked(home: Home, pacs: ListingScp) -> None:
    pacs.find_status = 0xA700
    with pytest.raises(PacsUnavailable, match="with success"):
        check_pacs(home.engine, DeliverySettings(), patience_s=0)


def test_a_pacs_that_is_still_indexing_is_asked_again(home: Home, pacs: ListingScp) -> None:
    (kept,) = pacs.stored
    pacs.stored.clear()
    later = threading.Timer(1.0, lambda: pacs.stored.append(kept))
    later.start()
    found = check_pacs(home.engine, DeliverySettings(), patience_s=60)
    later.join()
    assert (found.verdict, found.checked) == ("PASS", 1)


def test_a_pacs_that_leaves_out_now_one_now_another(
    home: Home, pacs: ListingScp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy one does: what it has listed once is there."""
    import copy

    monkeypatch.setattr("gateway.verify_pacs._PAUSE_S", 0.0)
    other = copy.deepcopy(pacs.stored[0])
    other.SOPInstanceUID, other.SeriesInstanceUID = new_uid(), new_uid()
    home.complete(
        f"PACS@127.0.0.1:{pacs.port}",
        sop_instance_uid=str(other.SOPInstanceUID),
        series_instance_uid=str(other.SeriesInstanceUID),
    )
    pacs.answers = itertools.cycle([[pacs.stored[0]], [pacs.stored[0]], [other], [other]])
    found = check_pacs(home.engine, DeliverySettings(), patience_s=60)
    assert (found.verdict, found.checked) == ("PASS", 2)


def test_a_pacs_without_a_query_service_is_not_known(tmp_path: Path, home: Home) -> None:
    with StorageScp(offers_find=False).serving() as scp:
        home.complete(f"PACS@127.0.0.1:{scp.port}")
        with pytest.raises(PacsUnavailable, match="no C-FIND"):
            check_pacs(home.engine, DeliverySettings())


# -- the command ------------------------------------------------------------------------------


def run(home: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = command.run(parser.parse_args(["--home", str(home), *options]))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_exit_codes(home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = home.receive()
    # The record's clock of this test stands in the past.
    code, out, _ = run(home.store.home, capsys, "--grace", "1e12")
    assert (code, "PASS" in out, "FAIL" in out) == (0, True, False)
    path.unlink()
    code, out, _ = run(home.store.home, capsys, "--grace", "1e12", "--json")
    assert code == BROKEN
    assert [each["verdict"] for each in json.loads(out)].count("FAIL") == 1
    code, out, _ = run(home.store.home, capsys, "--grace", "1e12")
    assert "instances 1: its file is gone" in out.replace("\n", " ")
    code, _, err = run(tmp_path / "nowhere", capsys)
    assert (code, "there is no record" in err) == (UNKNOWN, True)
    assert not (tmp_path / "nowhere").exists()


def test_a_record_that_does_not_answer_is_no_verdict(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Subject) -> list[Finding]:
        raise RecordUnavailable("the record does not answer (OperationalError)")

    monkeypatch.setattr(command, "verify", fail)
    code, out, err = run(home.store.home, capsys)
    assert (code, out) == (UNKNOWN, "")
    assert "cannot tell" in err


def test_no_value_of_a_patient_is_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.complete()
    for path in home.store.spool_folder.rglob("*.dcm"):
        path.unlink()
    home.change(update(Study).values(state="analysing"))
    home.change(update(Instance).values(reason="CANARY-REASON"))
    code, out, err = run(home.store.home, capsys)
    assert code == BROKEN
    assert "CANARY" not in out + err
