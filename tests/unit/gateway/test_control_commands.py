"""``lentigo retry``, ``cancel``, ``complete``, ``urgent``, ``hold``, ``release``: as commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.cli import main
from gateway.store.engine import reading, utc_now
from gateway.store.tables import AuditEntry, Event, Generation, Study, WorkItem
from tests.records import Record, new_object, new_uid


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kept(sqlite_record: Callable[[Path], Record], home: Path) -> Record:
    found = sqlite_record(home)
    found.clock.now = utc_now()
    return found


@pytest.fixture
def order(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Gives a command; returns its exit code and what it said."""

    def give(*words: str) -> tuple[int, str]:
        code = main([*words, "--home", str(home)])
        said = capsys.readouterr()
        return code, (said.out + said.err).strip()

    return give


def one(record: Record, table: type) -> object:
    with reading(record.engine) as connection:
        return connection.execute(select(table)).one()


def test_what_failed_begins_anew(kept: Record, order: Callable[..., tuple[int, str]]) -> None:
    uid = new_uid()
    (item,) = kept.schedule(study_instance_uid=uid)
    assert order("retry", uid) == (
        0,
        "What failed begins anew; what waited for a later attempt begins now.",
    )
    kept.ledger.fail(kept.claim(item), kind="REJECTED", reason="no such thing")
    assert one(kept, WorkItem).state == "CANCELED"
    assert order("retry", uid)[0] == 0
    with reading(kept.engine) as connection:
        states = connection.execute(select(WorkItem.state).order_by(WorkItem.id)).scalars().all()
        study = connection.execute(select(Study.state)).scalar_one()
    assert states[-1] == "SCHEDULED"
    assert study == "analysing"


def test_a_study_is_canceled_with_its_reason(
    kept: Record, order: Callable[..., tuple[int, str]]
) -> None:
    uid = new_uid()
    kept.schedule(study_instance_uid=uid)
    assert order("cancel", uid, "--reason", "wrong patient") == (
        0,
        "The study's unfinished work is canceled.",
    )
    item = one(kept, WorkItem)
    assert item.state == "CANCELED"
    assert "wrong patient" in item.reason
    assert order("cancel", uid, "--reason", "again")[1].startswith("Nothing of the study")


def test_what_is_on_its_way_to_a_pacs_is_not_canceled(
    kept: Record, order: Callable[..., tuple[int, str]]
) -> None:
    uid = new_uid()
    (item,) = kept.schedule(study_instance_uid=uid)
    kept.analyse(item, objects=(new_object(),))
    claim = kept.claim(item)
    (delivery,) = kept.ledger.load_deliveries(claim)
    kept.ledger.mark_delivery(
        claim, delivery.id, state="STORED", status=0, reason="", confirmed_by=""
    )
    assert order("cancel", uid, "--reason", "too late") == (
        1,
        "lentigo cancel: too late: the results are on their way to a PACS, or there",
    )


def test_a_study_is_closed_now(kept: Record, order: Callable[..., tuple[int, str]]) -> None:
    uid = kept.receive()
    assert order("complete", uid) == (0, "The study closes now.")
    assert kept.intake.close_due_generations() == 1  # no time has passed on its clock
    assert one(kept, Generation).state == "closed"
    assert order("complete", uid) == (
        0,
        "Nothing of the study is being received; nothing was changed.",
    )


def test_a_study_is_held_and_released_by_its_accession_number(
    kept: Record, order: Callable[..., tuple[int, str]]
) -> None:
    kept.receive(accession_number="ACC-7")
    assert order("hold", "ACC-7", "--reason", "ask the ward") == (0, "The study is held.")
    assert one(kept, Study).held_at is not None
    assert order("hold", "ACC-7", "--reason", "other")[1].startswith("The study was held already")
    code, said = order("complete", "ACC-7")
    assert (code, said) == (1, "lentigo complete: the study is held; `lentigo release` it first")
    assert order("release", "ACC-7") == (0, "The study goes on.")
    assert one(kept, Study).held_at is None
    assert order("release", "ACC-7") == (0, "The study was not held.")


def test_a_study_is_put_in_front_by_its_number(
    kept: Record, order: Callable[..., tuple[int, str]]
) -> None:
    kept.schedule()
    number = str(one(kept, Study).id)
    assert order("urgent", number) == (0, "The study's work is in front now.")
    assert order("urgent", number) == (0, "The study was urgent already.")


def test_every_order_names_who_gave_it_and_no_patient(
    kept: Record, order: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "nora")
    uid = kept.receive()
    for words in (("hold", uid, "--reason", "a test"), ("release", uid), ("complete", uid)):
        assert order(*words)[0] == 0
    with reading(kept.engine) as connection:
        actors = set(connection.execute(select(AuditEntry.actor)).scalars())
        actions = set(connection.execute(select(Event.action)).scalars())
    assert "command line: nora" in actors
    assert {"study.held", "study.released"} <= actions


@pytest.mark.parametrize("name", ["retry", "complete", "urgent", "release"])
def test_an_unknown_study_is_an_error_in_one_line(
    kept: Record, order: Callable[..., tuple[int, str]], name: str
) -> None:
    code, said = order(name, "1.2.3.4")
    assert code == 1
    assert said.startswith(f"lentigo {name}: ")
    assert "\n" not in said


def test_a_home_without_a_record_stays_as_it_is(
    tmp_path: Path, order: Callable[..., tuple[int, str]]
) -> None:
    code, said = order("retry", "1.2.3")
    assert code == 1
    assert "there is no record" in said
    assert not (tmp_path / "home" / "record.sqlite3").exists()


@pytest.mark.parametrize(
    "words", [("hold", "1"), ("cancel", "1"), ("hold", "1", "--reason", "  "), ("retry",)]
)
def test_an_incomplete_order_is_wrong_usage(
    order: Callable[..., tuple[int, str]], words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        order(*words)
    assert ended.value.code == 2
