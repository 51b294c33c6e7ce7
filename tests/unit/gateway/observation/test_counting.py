"""What Prometheus sees is what the record went through, counted once, with bounded labels."""

import datetime as dt
import json
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, insert, select

from gateway.observation import counting, gauges
from gateway.observation.follower import Follower
from gateway.observation.gauge_table import GAUGES
from gateway.observation.metrics import exposition
from gateway.observation.observer import Observer
from gateway.observation.settings import MetricsSettings
from gateway.observation.tallies import MAX_SERIES, Family, Tallies, read_series
from gateway.settings import StoreSettings
from gateway.store.engine import reading, writing
from gateway.store.tables import Event, FollowedTable, Tally
from tests.pages import TestClient
from tests.records import PACS, START, Record

ROOT = Path(__file__).resolve().parents[4]


def scraped(record: Record, home: Path) -> dict[tuple[str, str], float]:
    """Return (name, labels as JSON) -> value of a scrape."""
    place = gauges.Place(engine=record.engine, store=StoreSettings(home=home), clock=record.clock)
    text = exposition(place, "1.2.3").decode()
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[tuple[str, str], float], name: str, **labels: str) -> float:
    return found[name, json.dumps(labels, sort_keys=True)]


def test_a_study_is_counted_from_its_instances_to_its_confirmation(
    record: Record, tmp_path: Path
) -> None:
    (item,) = record.schedule()
    record.clock.advance(4.0)
    record.analyse(item, outcome="not_assessed")
    record.clock.advance(7.0)
    record.deliver(item)
    Observer(record.engine, clock=record.clock).look()
    found = scraped(record, tmp_path)

    accepted = {"sop_class": "Dermoscopic Photography Image", "disposition": "accepted"}
    assert value(found, "lentigo_instances_received_total", **accepted) == 1
    assert value(found, "lentigo_studies_finished_total", state="completed") == 1
    assert value(found, "lentigo_studies", state="completed") == 1
    assert value(found, "lentigo_studies", state="failed") == 0
    results = {"analysis": "diagnosis", "outcome": "not_assessed"}
    assert value(found, "lentigo_results_total", **results) == 1
    answers = {"destination": PACS, "state": "CONFIRMED"}
    assert value(found, "lentigo_delivery_answers_total", **answers) == 1
    deliver = {"stage": "deliver", "analysis": "diagnosis"}
    assert value(found, "lentigo_stage_duration_seconds_sum", **deliver) == pytest.approx(7.0)
    assert value(found, "lentigo_stage_duration_seconds_bucket", **deliver, le="5") == 0
    assert value(found, "lentigo_stage_duration_seconds_bucket", **deliver, le="10") == 1
    assert value(found, "lentigo_stage_duration_seconds_count", **deliver) == 1
    assert value(found, "lentigo_record_up") == 1
    assert value(found, "lentigo_observer_lag_rows") == 0


def test_the_oldest_item_of_each_stage_has_its_age(record: Record, tmp_path: Path) -> None:
    waiting, delivering = record.schedule("diagnosis", "prognosis")
    record.analyse(delivering)
    record.clock.advance(600.0)
    record.receive()
    record.clock.advance(1.0)
    found = scraped(record, tmp_path)
    ages = {
        stage: value(found, "lentigo_oldest_item_age_seconds", stage=stage)
        for stage in gauges.STAGES
    }
    assert ages == {
        "receiving": 1.0,
        "routing": 0.0,
        "analysing": 601.0,
        "delivering": 601.0,
        "confirming": 0.0,
    }
    queued = {"analysis": "diagnosis", "step": "analyse"}
    assert value(found, "lentigo_queue_depth", **queued) == 1
    pending = {"destination": PACS, "state": "PENDING"}
    assert value(found, "lentigo_deliveries_pending", **pending) == 1
    record.claim(waiting)
    assert value(scraped(record, tmp_path), "lentigo_work_items_in_progress", **queued) == 1


def test_failures_are_counted_by_their_cause(record: Record, tmp_path: Path) -> None:
    first, second = record.schedule("diagnosis", "prognosis")
    record.ledger.fail(record.claim(first), kind="DEFECT", reason="x")
    record.ledger.retry_later(record.claim(second), reason="x", delay_s=1.0)
    record.clock.advance(100.0)
    record.claim(second, lease_s=1.0)
    record.clock.advance(5.0)
    record.claim(second)  # its worker died
    Observer(record.engine, clock=record.clock).look()
    found = scraped(record, tmp_path)
    assert value(found, "lentigo_failures_total", analysis="diagnosis", cause="DEFECT") == 1
    assert value(found, "lentigo_failures_total", analysis="prognosis", cause="TRANSIENT") == 1
    assert value(found, "lentigo_failures_total", analysis="prognosis", cause="WORKER_DIED") == 1
    assert value(found, "lentigo_alarms_total", action="work_item.failed") == 1


def test_nothing_is_counted_twice_by_two_observers_and_nothing_forgotten_by_a_purge(
    record: Record, tmp_path: Path
) -> None:
    for _ in range(8):
        record.completed()
    observers = [Observer(record.engine, clock=record.clock) for _ in range(2)]
    threads = [threading.Thread(target=each.look) for each in observers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    with writing(record.engine) as connection:
        connection.execute(delete(Event))
    found = scraped(record, tmp_path)
    assert value(found, "lentigo_studies_finished_total", state="completed") == 8
    received = [
        count for (name, _), count in found.items() if name == "lentigo_instances_received_total"
    ]
    assert received == [8]


def test_a_row_that_is_committed_late_is_still_counted(record: Record) -> None:
    seen: list[int] = []
    follower = Follower(
        record.engine,
        "events",
        select(Event.id).where(Event.action == "test.line"),
        lambda connection, rows, now: seen.extend(row.id for row in rows),
        record.clock,
    )
    with reading(record.engine) as connection:
        start = max(connection.execute(select(Event.id)).scalars().all() or [0])

    def add(number: int) -> None:
        with writing(record.engine) as connection:
            connection.execute(
                insert(Event).values(
                    id=start + number, at=START, action="test.line", level="info", detail={}
                )
            )

    for number in (1, 3, 4):
        add(number)
    assert follower.step() == 3
    add(2)
    assert follower.step() == 1
    assert follower.step() == 0
    assert [each - start for each in seen] == [1, 3, 4, 2]
    with reading(record.engine) as connection:
        assert (
            connection.execute(select(FollowedTable.gaps).where(FollowedTable.name == "events"))
            .scalar_one()
            .get(str(start + 2))
            is None
        )


def test_a_gap_that_stays_is_forgotten_after_a_while(record: Record) -> None:
    follower = Follower(record.engine, "events", select(Event.id), lambda *_: None, record.clock)
    record.receive()
    with writing(record.engine) as connection:
        connection.execute(
            insert(Event).values(id=1_000, at=START, action="test.line", level="info", detail={})
        )
    while follower.step():
        pass
    record.clock.advance(3600.0)
    record.receive()
    follower.step()
    with reading(record.engine) as connection:
        gaps = connection.execute(
            select(FollowedTable.gaps).where(FollowedTable.name == "events")
        ).scalar_one()
    assert all(float(since) > START.timestamp() + 1800 for since in gaps.values())


def test_labels_are_bounded_whatever_is_thrown_at_them(record: Record) -> None:
    planted = "Canary^Patient"
    with writing(record.engine) as connection:
        for batch in range(3):
            tallies = Tallies()
            for number in range(300):
                name = f"{planted} {batch}-{number}"
                tallies.count(counting.REFUSED, status=name)
                tallies.count(counting.RECEIVED, sop_class=name, disposition=name)
                tallies.count(counting.ASSOCIATIONS, outcome=name)
                tallies.count(counting.DELIVERIES, destination=f"D{batch}-{number}", state=name)
                tallies.observe(counting.INFERENCE, 1.0, analysis=f"a{batch}-{number}")
            tallies.write(connection)
        rows = connection.execute(select(Tally.name, Tally.labels)).all()
        total = sum(series.value for series in read_series(connection, counting.DELIVERIES))
    assert total == 900, "what is beyond the bound is counted under other"
    assert not [row for row in rows if planted in row.labels]
    for family in counting.FAMILIES:
        sets = {
            json.dumps({k: v for k, v in json.loads(row.labels).items() if k != "le"})
            for row in rows
            if row.name == family.name
        }
        assert len(sets) <= MAX_SERIES + 8, family.name


def test_every_label_of_every_metric_is_known_to_be_bounded() -> None:
    """A new label has to be thought about: is it bounded, and does it say nothing of a patient?"""
    known = {
        "action",
        "analysis",
        "cause",
        "channel",
        "destination",
        "disposition",
        "group",
        "measure",
        "outcome",
        "sink",
        "sop_class",
        "source",
        "stage",
        "state",
        "status",
        "step",
        "use",
        "service",
    }
    used = {label for family in counting.FAMILIES for label in family.labels}
    used |= {label for gauge in GAUGES for label in gauge.labels}
    assert used <= known
    unbounded = {
        (family.name, label)
        for family in counting.FAMILIES
        for label, allowed in family.labels.items()
        if allowed is None
    }
    assert {label for _, label in unbounded} <= {"analysis", "destination", "action"}


def test_no_scrape_holds_a_patient_attribute_or_a_uid(record: Record, tmp_path: Path) -> None:
    uid = record.completed()
    Observer(record.engine, clock=record.clock).look()
    place = gauges.Place(engine=record.engine, store=StoreSettings(home=tmp_path))
    text = exposition(place, "1.2.3").decode()
    assert "CANARY" not in text.upper()
    assert uid not in text
    assert not re.search(r"2\.25\.\d{5}", text)


def test_a_record_that_does_not_answer_is_a_metric_and_no_error(tmp_path: Path) -> None:
    from gateway.store.engine import open_engine

    engine = open_engine(f"sqlite:///{tmp_path / 'none' / 'record.sqlite3'}")
    text = exposition(gauges.Place(engine=engine, store=StoreSettings(home=tmp_path)), "1").decode()
    engine.dispose()
    assert "lentigo_record_up 0.0" in text
    assert 'lentigo_scrape_errors{group="work"} 1.0' in text
    assert "lentigo_storage_free_bytes" in text


def test_a_certificate_that_cannot_be_read_spoils_its_own_group_only(
    record: Record, tmp_path: Path
) -> None:
    from gateway.settings import TlsSettings

    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    place = gauges.Place(
        engine=record.engine,
        store=StoreSettings(home=tmp_path),
        tls=TlsSettings(certificate=str(broken)),
    )
    text = exposition(place, "1").decode()
    assert 'lentigo_scrape_errors{group="certificates"} 1.0' in text
    assert "lentigo_record_up 1.0" in text


def test_each_metric_is_explained_to_the_administrator() -> None:
    page = (ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    names = [each.name for each in (*counting.FAMILIES, *GAUGES)]
    assert [name for name in names if name not in page] == []
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("token", "headers", "host", "status"),
    [
        ("", {}, "127.0.0.1", 200),
        ("", {}, "10.0.0.9", 403),
        ("", {"x-forwarded-for": "10.0.0.9"}, "127.0.0.1", 403),
        ("abc", {}, "127.0.0.1", 401),
        ("abc", {"authorization": "Bearer wrong"}, "127.0.0.1", 401),
        ("abc", {"authorization": "Basic abc"}, "127.0.0.1", 401),
        ("abc", {"authorization": "Bearer abc"}, "10.0.0.9", 200),
    ],
)
def test_metrics_are_for_loopback_or_for_who_has_the_token(
    app: object,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    headers: dict[str, str],
    host: str,
    status: int,
) -> None:
    if token:
        monkeypatch.setenv("LENTIGO_METRICS_TOKEN", token)
    with TestClient(app, client=(host, 40000)) as client:  # type: ignore[arg-type]
        answer = client.get("/metrics", headers=headers)
    assert answer.status_code == status
    assert ("lentigo_studies" in answer.text) == (status == 200)


def test_metrics_can_be_switched_off(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENTIGO_METRICS_ENABLED", "false")
    with TestClient(app, client=("127.0.0.1", 40000)) as client:  # type: ignore[arg-type]
        assert client.get("/metrics").status_code == 404
    assert not MetricsSettings().enabled


def test_a_clock_set_back_makes_no_negative_duration(record: Record) -> None:
    family = Family(name="test_seconds", help="", labels={"a": None}, is_histogram=True)
    tallies = Tallies()
    tallies.observe(family, dt.timedelta(seconds=-5).total_seconds(), a="x")
    with writing(record.engine) as connection:
        tallies.write(connection)
        (series,) = read_series(connection, family)
    assert series.value == 0.0
    assert series.buckets[0] == ("0.1", 1.0)
