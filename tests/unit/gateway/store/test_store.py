"""The receiving half of the record, its states, and its schema."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, inspect, select

from gateway.errors import RecordUnavailable
from gateway.listener.ports import Registration
from gateway.settings import CompletenessSettings
from gateway.store import states
from gateway.store.engine import MIGRATIONS, migrate, open_engine, reading, writing
from gateway.store.intake.receiving import Intake
from gateway.store.states import derive_state
from gateway.store.tables import (
    Base,
    Event,
    Generation,
    Identity,
    Installation,
    Instance,
    Refusal,
    Study,
)
from gateway.store.values import Scheduled
from tests.records import (
    QUIET_WINDOW_S,
    SLIDE,
    START,
    Record,
    association,
    header,
    new_object,
    new_uid,
    stored,
)


def study_row(record: Record, uid: str) -> Study:
    with reading(record.engine) as connection:
        row = connection.execute(select(Study).where(Study.study_instance_uid == uid)).one()
    return row


def generations(record: Record) -> list:
    with reading(record.engine) as connection:
        return list(connection.execute(select(Generation).order_by(Generation.number)).all())


def actions(record: Record) -> list[str]:
    with reading(record.engine) as connection:
        return list(connection.execute(select(Event.action).order_by(Event.id)).scalars())


def count(record: Record, table: type[Base]) -> int:
    with reading(record.engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


# -- receiving ----------------------------------------------------------------------------------


def test_first_instance_makes_a_study_with_an_open_generation(record):
    uid = record.receive()
    study = study_row(record, uid)
    assert (study.state, study.reason) == ("received", "")
    assert study.first_received_at == study.last_received_at == START
    (generation,) = generations(record)
    assert (generation.number, generation.state) == (1, "receiving")
    assert generation.closes_at == START + dt.timedelta(seconds=QUIET_WINDOW_S)
    assert actions(record) == ["generation.opened"]


def test_patient_attributes_are_in_the_identity_table_alone(record):
    record.receive(study_description="CANARY-DESCRIPTION")
    with reading(record.engine) as connection:
        for table in Base.metadata.sorted_tables:
            text = repr(connection.execute(select(table)).all()).lower()
            assert ("canary" in text) == (table.name == Identity.__tablename__), table.name


def test_same_bytes_again_are_a_duplicate_and_change_nothing(record):
    received, file = header(), stored()
    register = record.intake.register_instance
    first = register(header=received, stored=file, association=association())
    record.clock.advance(1.0)
    again = register(header=received, stored=file, association=association())
    assert (first, again) == (Registration.NEW, Registration.DUPLICATE)
    assert count(record, Instance) == 1
    (generation,) = generations(record)
    assert generation.closes_at == START + dt.timedelta(seconds=QUIET_WINDOW_S)


def test_same_uid_with_other_bytes_is_quarantined_with_an_alarm(record):
    received = header()
    register = record.intake.register_instance
    register(header=received, stored=stored("a"), association=association())
    record.clock.advance(1.0)
    answer = register(header=received, stored=stored("b"), association=association())
    assert answer is Registration.CONFLICT
    with reading(record.engine) as connection:
        rows = connection.execute(select(Instance).order_by(Instance.id)).all()
        alarms = connection.execute(select(Event.action).where(Event.level == "alarm")).scalars()
        assert list(alarms) == ["instance.conflict"]
    assert [row.disposition for row in rows] == ["accepted", "quarantined"]
    assert rows[1].generation_id is None
    assert rows[1].reason
    # The quarantined one must not hold the study open, nor be analysed.
    assert generations(record)[0].closes_at == START + dt.timedelta(seconds=QUIET_WINDOW_S)
    generation = record.ledger.load_generation(record.close())
    assert [row.path for row in generation.instances] == [rows[0].path]


def test_study_of_quarantined_instances_alone_is_refused(record):
    received = header()
    register = record.intake.register_instance
    register(header=received, stored=stored("a"), association=association())
    elsewhere = header(sop_instance_uid=received.sop_instance_uid)
    register(header=elsewhere, stored=stored("b"), association=association())
    study = study_row(record, elsewhere.study_instance_uid)
    assert study.state == "refused"
    assert study.reason


@pytest.mark.parametrize("by", ["equipment", "uid"])
def test_own_result_is_filed_and_never_analysed(record, by):
    (item,) = record.schedule()
    made = new_object()
    record.analyse(item, objects=(made,))
    returned = (
        header(manufacturer="Lentigo", manufacturer_model_name="Lentigo")
        if by == "equipment"
        else header(sop_instance_uid=made.sop_instance_uid)
    )
    answer = record.intake.register_instance(
        header=returned, stored=stored(), association=association()
    )
    assert answer is Registration.OWN_RESULT
    assert len(generations(record)) == 1
    assert "instance.own_result" in actions(record)


def test_another_product_of_a_like_name_is_not_taken_for_our_own(record):
    answer = record.intake.register_instance(
        header=header(manufacturer="Lentigo", manufacturer_model_name="Camera"),
        stored=stored(),
        association=association(),
    )
    assert answer is Registration.NEW


def test_each_instance_extends_the_quiet_window(record):
    uid = record.receive()
    record.clock.advance(1.5)
    record.receive(study_instance_uid=uid)
    record.clock.advance(1.5)
    assert record.intake.close_due_generations() == 0
    record.clock.advance(0.5)
    assert record.intake.close_due_generations() == 1
    assert record.intake.close_due_generations() == 0


def test_one_slide_keeps_its_study_open_for_the_longer_window(record):
    uid = record.receive(sop_class_uid=SLIDE)
    record.clock.advance(1.0)
    record.receive(study_instance_uid=uid)  # a short window must not shorten a long one
    record.clock.advance(18.9)
    assert record.intake.close_due_generations() == 0
    record.clock.advance(0.2)
    assert record.intake.close_due_generations() == 1


def test_late_instance_opens_the_next_generation_with_all_instances(record):
    uid = record.receive()
    first = record.close()
    record.ledger.record_routing(
        first, [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="r")], ""
    )
    record.receive(study_instance_uid=uid)
    assert study_row(record, uid).state == "received"
    second = record.ledger.load_generation(record.close())
    assert second.number == 2
    assert len(second.instances) == 2
    assert [row.number for row in generations(record)] == [1, 2]


def test_refusal_is_kept_with_its_status_and_makes_the_study_refused(record):
    refused = header()
    record.intake.register_refusal(
        association=association(), status=0xA900, reason="why", stored=stored(), header=refused
    )
    with reading(record.engine) as connection:
        refusal = connection.execute(select(Refusal)).one()
    assert (refusal.status, refusal.reason) == (0xA900, "why")
    assert refusal.path
    study = study_row(record, refused.study_instance_uid)
    assert (study.state, study.reason) == ("refused", "why")


def test_refusal_beside_accepted_instances_does_not_refuse_the_study(record):
    uid = record.receive()
    record.intake.register_refusal(
        association=association(),
        status=0xC000,
        reason="why",
        stored=None,
        header=header(study_instance_uid=uid),
    )
    assert study_row(record, uid).state == "received"


def test_accepted_instance_after_a_refusal_takes_the_study_back(record):
    refused = header()
    record.intake.register_refusal(
        association=association(), status=0xC000, reason="why", stored=None, header=refused
    )
    record.receive(study_instance_uid=refused.study_instance_uid)
    study = study_row(record, refused.study_instance_uid)
    assert (study.state, study.reason) == ("received", "")


def test_refusal_without_a_readable_header_is_kept(record):
    record.intake.register_refusal(
        association=association(), status=0xC000, reason="cut off", stored=stored(), header=None
    )
    assert count(record, Refusal) == 1
    assert count(record, Study) == 0


@pytest.mark.parametrize(
    ("outcome", "level"), [("accepted", "info"), ("released", "info"), ("rejected", "warning")]
)
def test_association_leaves_a_line(record, outcome, level):
    record.intake.register_association(association(), outcome=outcome)
    with reading(record.engine) as connection:
        event = connection.execute(select(Event)).one()
    assert (event.action, event.level) == (f"association.{outcome}", level)
    assert event.detail["calling_ae_title"] == "CAMERA"


def test_slide_of_many_gigabytes_fits(record):
    received = header(sop_class_uid=SLIDE)
    record.intake.register_instance(
        header=received,
        stored=replace(stored(), size_bytes=7 * 1024**3),
        association=association(),
    )
    record.clock.advance(20.0)
    generation = record.ledger.load_generation(record.close())
    assert generation.instances[0].size_bytes == 7 * 1024**3


# -- at once ------------------------------------------------------------------------------------


def together(*calls):
    """Run the calls in threads that start at the same moment; return their results."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(run, call) for call in calls]]


def test_one_instance_from_many_associations_at_once_is_new_once(record):
    received, file = header(), stored()
    answers = together(
        *[
            lambda: record.intake.register_instance(
                header=received, stored=file, association=association()
            )
        ]
        * 8
    )
    assert sorted(answer.value for answer in answers) == ["duplicate"] * 7 + ["new"]
    assert count(record, Instance) == count(record, Study) == count(record, Generation) == 1


def test_instances_of_one_new_study_at_once_share_one_generation(record):
    uid = new_uid()
    together(*[lambda: record.receive(study_instance_uid=uid)] * 8)
    assert (count(record, Study), count(record, Generation), count(record, Instance)) == (1, 1, 8)


def test_two_sweepers_close_each_generation_once(record):
    for _ in range(6):
        record.receive()
    record.clock.advance(QUIET_WINDOW_S)
    closed = together(*[record.intake.close_due_generations] * 4)
    assert sum(closed) == 6
    assert actions(record).count("generation.closed") == 6


def test_instances_that_race_with_the_closing_are_never_lost(record):
    """Each is in the generation that closes or opens the next; nobody waits for ever."""
    uid = record.receive()
    record.clock.advance(QUIET_WINDOW_S)
    register = [lambda: record.receive(study_instance_uid=uid)] * 6
    together(*register, *[record.intake.close_due_generations] * 2)
    with reading(record.engine) as connection:
        homeless = connection.execute(
            select(func.count()).select_from(Instance).where(Instance.generation_id.is_(None))
        ).scalar_one()
    assert homeless == 0
    assert count(record, Instance) == 7
    assert 1 <= count(record, Generation) <= 2


def test_work_items_that_end_at_once_leave_the_study_completed(record):
    uid = new_uid()
    items = record.schedule("diagnosis", "prognosis", "change_detection", study_instance_uid=uid)
    for item in items:
        record.analyse(item)
    together(*[lambda item=item: record.deliver(item) for item in items])
    assert study_row(record, uid).state == "completed"
    assert actions(record).count("study.completed") == 1


# -- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "items", "expected"),
    [
        (None, [], ("refused", "no instance of this study was accepted for analysis")),
        ((1, "receiving", ""), [], ("received", "")),
        ((1, "closed", "no model server"), [], ("received", "no model server")),
        ((1, "routed", "no rule"), [], ("refused", "no rule")),
        ((1, "routed", ""), [(1, "SCHEDULED", "analyse", "")], ("analysing", "")),
        ((1, "routed", ""), [(1, "IN PROGRESS", "analyse", "wait")], ("analysing", "wait")),
        ((1, "routed", ""), [(1, "IN PROGRESS", "deliver", "")], ("delivering", "")),
        (
            (1, "routed", ""),
            [(1, "IN PROGRESS", "deliver", ""), (1, "SCHEDULED", "analyse", "")],
            ("analysing", ""),
        ),
        (
            (1, "routed", ""),
            [(1, "CANCELED", "analyse", "bad"), (1, "IN PROGRESS", "deliver", "")],
            ("delivering", ""),
        ),
        (
            (1, "routed", ""),
            [(1, "COMPLETED", "deliver", ""), (1, "CANCELED", "analyse", "bad")],
            ("failed", "bad"),
        ),
        (
            (2, "routed", ""),
            [(1, "CANCELED", "analyse", "bad"), (2, "COMPLETED", "deliver", "")],
            ("completed", ""),
        ),
        (
            (2, "routed", ""),
            [(1, "COMPLETED", "deliver", ""), (2, "CANCELED", "analyse", "bad")],
            ("failed", "bad"),
        ),
        ((2, "receiving", ""), [(1, "COMPLETED", "deliver", "")], ("received", "")),
        (
            (1, "routed", ""),
            [(1, "COMPLETED", "deliver", "blurred"), (1, "COMPLETED", "deliver", "blurred")],
            ("completed", "blurred"),
        ),
    ],
)
def test_state_of_a_study_follows_from_its_parts(generation, items, expected):
    assert derive_state(generation, items) == expected


@given(
    generation=st.sampled_from(["receiving", "closed", "routed"]),
    items=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.sampled_from(["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]),
            st.sampled_from(["analyse", "deliver"]),
            st.sampled_from(["", "a", "b"]),
        ),
        max_size=6,
    ),
)
def test_state_is_final_only_when_nothing_is_left_to_do(generation, items):
    state, _ = derive_state((3, generation, ""), items)
    is_done = generation == "routed" and all(item[1] in states.UPS_FINAL for item in items)
    assert (state in states.FINAL_STATES) == is_done


def test_timeline_of_a_study_has_every_step_in_order(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item)
    record.deliver(item)
    assert actions(record) == [
        "generation.opened",
        "generation.closed",
        "work_item.scheduled",
        "study.analysing",
        "work_item.analyse.started",
        "work_item.analysed",
        "study.delivering",
        "work_item.deliver.started",
        "delivery.confirmed",
        "work_item.completed",
        "study.completed",
    ]
    assert study_row(record, uid).state_changed_at == record.clock.now


def test_installation_serial_stays_the_same(record):
    serials = set(together(*[record.ledger.installation_serial] * 4))
    assert len(serials) == 1
    assert record.ledger.installation_serial() in serials
    assert count(record, Installation) == 1


# -- the database -------------------------------------------------------------------------------


def test_failed_write_leaves_nothing(record):
    def write() -> None:
        with writing(record.engine) as connection:
            states.note(connection, START, "before.the.fault")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert actions(record) == []


def test_read_sees_one_snapshot_whatever_is_written_meanwhile(record):
    record.receive()
    with reading(record.engine) as connection:
        query = select(func.count()).select_from(Study)
        before = connection.execute(query).scalar_one()
        record.receive()
        assert connection.execute(query).scalar_one() == before
    assert count(record, Study) == before + 1


def test_write_after_a_read_is_not_held_to_its_snapshot(record):
    """A pooled connection forgets the isolation level of the read before."""
    for _ in range(12):
        assert count(record, Study) >= 0
    with writing(record.engine) as connection:
        level = connection.get_isolation_level()
    assert level in {"READ COMMITTED", "SERIALIZABLE"}


def test_naive_time_is_refused(record):
    with (
        pytest.raises(Exception, match="naive datetime"),
        writing(record.engine) as connection,
    ):
        states.note(connection, dt.datetime(2026, 1, 1), "x")


def test_times_come_back_aware_in_utc(record):
    elsewhere = dt.timezone(dt.timedelta(hours=5))
    with writing(record.engine) as connection:
        states.note(connection, START.astimezone(elsewhere), "x")
    with reading(record.engine) as connection:
        at = connection.execute(select(Event.at)).scalar_one()
    assert (at, at.utcoffset()) == (START, dt.timedelta())


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nonexistent/folder/record.sqlite3",
        "postgresql+psycopg://nobody@127.0.0.1:9/none?connect_timeout=2",
    ],
)
def test_database_that_does_not_answer_is_an_outage(url):
    engine = open_engine(url)
    intake = Intake(engine, CompletenessSettings())
    with pytest.raises(RecordUnavailable) as caught:
        intake.register_instance(header=header(), stored=stored(), association=association())
    assert "CANARY" not in str(caught.value)
    engine.dispose()


def test_record_without_a_schema_is_an_outage(own_record_url, clock):
    engine = open_engine(own_record_url)
    with pytest.raises(RecordUnavailable):
        Record(engine, clock).receive()
    engine.dispose()


def test_locked_record_is_an_outage_and_nothing_is_written(sqlite_record, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.store.engine.BUSY_TIMEOUT_S", 0.05)
    record = sqlite_record(tmp_path / "home")
    with writing(record.engine):
        with pytest.raises(RecordUnavailable):
            record.receive()
        # Readers are not held up: WAL.
        assert actions(record) == []
    record.receive()


def test_acknowledged_instance_survives_a_copy_of_the_files_alone(sqlite_record, tmp_path):
    """A commit is in the files when it returns, not in the memory of the process."""
    record = sqlite_record(tmp_path / "home")
    uid = record.receive()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (tmp_path / "home").glob("record.sqlite3*"):
        (copy / path.name).write_bytes(path.read_bytes())
    other = open_engine(f"sqlite:///{copy / 'record.sqlite3'}")
    with reading(other) as connection:
        found = connection.execute(select(Study.study_instance_uid)).scalars().all()
    other.dispose()
    assert found == [uid]


# -- the schema ---------------------------------------------------------------------------------


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def difference(engine: Engine) -> list:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def test_migrations_make_the_schema_of_the_tables(engine):
    assert difference(engine) == []


def test_downgrade_removes_all_and_upgrade_brings_it_back(own_record_url):
    migrate(own_record_url)
    engine = open_engine(own_record_url)
    command.downgrade(alembic_config(own_record_url), "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    migrate(own_record_url)
    assert difference(engine) == []
    engine.dispose()


def test_migrating_again_keeps_what_is_there(record_url, record):
    uid = record.receive()
    migrate(record_url)
    assert study_row(record, uid).study_instance_uid == uid


def test_home_with_a_space_and_odd_characters_can_hold_a_record(tmp_path):
    path = tmp_path / "a home ä" / "record.sqlite3"
    path.parent.mkdir()
    migrate(f"sqlite:///{path}")
    assert path.is_file()
