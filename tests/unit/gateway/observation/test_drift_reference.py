"""An administrator names the span of time whose answers drift is measured from."""

import datetime as dt
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from gateway.cli import main
from gateway.errors import DriftRefused
from gateway.observation.drift_reference import ReferenceDesk
from gateway.observation.drift_watch import DriftWatch
from gateway.observation.settings import DriftSettings
from gateway.store.engine import reading, utc_now, writing
from gateway.store.tables import AuditEntry, DriftSeries, Generation, Instance, Study, WorkItem
from tests.records import Record, new_uid

SETTINGS = DriftSettings(reference_count=50, window_count=50)
DAY = dt.timedelta(days=1)


def answered(record: Record, values: Sequence[float], at: dt.datetime, source: str) -> None:
    """Write one study of a source for each answer, a second apart, as the worker leaves them."""
    uid = new_uid()
    record.schedule(study_instance_uid=uid)
    with writing(record.engine) as connection:
        study = connection.execute(select(Study).where(Study.study_instance_uid == uid)).one()
        rows = {
            table: dict(
                connection.execute(select(table).where(table.study_id == study.id)).one()._mapping
            )
            for table in (Instance, Generation, WorkItem)
        }
        made: dict[Any, list[dict[str, Any]]] = {
            Study: [],
            Instance: [],
            Generation: [],
            WorkItem: [],
        }
        for number, value in enumerate(values):
            own = 1000 * (study.id + 10) + number
            made[Study].append(
                {**study._mapping, "id": own, "study_instance_uid": f"{uid}.{number}"}
            )
            for table, row in rows.items():
                made[table].append({**row, "id": own, "study_id": own})
            made[Instance][-1] |= {
                "sop_instance_uid": f"{uid}.1.{number}",
                "calling_ae_title": source,
            }
            made[WorkItem][-1] |= {
                "generation_id": own,
                "analysed_at": at + dt.timedelta(seconds=number),
                "outcome": "assessed",
                "summary": {"malignancy": value},
            }
        for table, found in made.items():
            connection.execute(insert(table), found)


def drawn(number: int, *shape: float) -> list[float]:
    draw = random.Random(number)
    return [draw.betavariate(*shape) for _ in range(60)]


def score(record: Record, source: str = "CAMERA") -> Any:
    with reading(record.engine) as connection:
        return connection.execute(
            select(DriftSeries).where(DriftSeries.measure == "score", DriftSeries.source == source)
        ).one()


def test_a_named_span_is_the_reference_and_takes_no_further_answers(record: Record) -> None:
    start = record.clock.now
    answered(record, drawn(1, 2, 8), start, "CAMERA")
    answered(record, drawn(2, 8, 2), start + DAY, "CAMERA")
    answered(record, drawn(3, 2, 8), start, "OTHER")
    desk = ReferenceDesk(record.engine, SETTINGS, record.clock)

    found = desk.take("diagnosis", start, start + DAY, actor="nora", source="CAMERA")
    assert {(each.source, each.measure, each.reference) for each in found} == {
        ("CAMERA", "score", 60),
        ("CAMERA", "unassessed", 60),
    }
    row = score(record)
    assert row.state == "drifting", "what came later is compared with it at once"
    assert len(row.recent["values"]) == 50

    # The other way round nothing drifts against itself, and each source gets its own.
    found = desk.take("diagnosis", start + DAY, start + 2 * DAY, actor="nora")
    assert {each.source for each in found} == {"CAMERA"}
    assert score(record).state == "collecting"
    (item,) = record.schedule()
    with writing(record.engine) as connection:
        connection.execute(
            update(WorkItem)
            .where(WorkItem.id == item)
            .values(outcome="assessed", summary={"malignancy": 0.5})
        )
        line: Any = type("Line", (), {"action": "work_item.analysed", "work_item_id": item})
        DriftWatch(DriftSettings(reference_count=200)).add(connection, [line], record.clock())
    row = score(record)
    assert (len(row.reference["values"]), row.recent["values"]) == (60, [0.5])
    with reading(record.engine) as connection:
        entries = connection.execute(
            select(AuditEntry.actor, AuditEntry.detail).where(
                AuditEntry.action == "drift.reference_set"
            )
        ).all()
    assert [entry.actor for entry in entries] == ["nora", "nora"]
    assert entries[0].detail["analysis"] == "diagnosis"


def test_too_few_answers_are_refused_and_change_nothing(record: Record) -> None:
    start = record.clock.now
    desk = ReferenceDesk(record.engine, SETTINGS, record.clock)
    with pytest.raises(DriftRefused, match="nothing was analysed"):
        desk.take("diagnosis", start, start + DAY, actor="nora")
    answered(record, drawn(1, 2, 8)[:49], start, "CAMERA")
    with pytest.raises(DriftRefused, match="there are 49"):
        desk.take("diagnosis", start, start + DAY, actor="nora")
    with pytest.raises(DriftRefused, match="there are 0"):
        desk.take("diagnosis", start + DAY, start + 2 * DAY, actor="nora")
    assert desk.all() == []


def test_the_command_names_a_span_and_shows_it(
    sqlite_record: Callable[[Path], Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = sqlite_record(tmp_path / "home")
    home = ("--home", str(tmp_path / "home"))
    assert main(["drift", "status", *home]) == 0
    assert "Nothing was analysed yet." in capsys.readouterr().out
    answered(record, drawn(1, 2, 8), utc_now() - DAY, "CAMERA")
    span = ("--from", (utc_now() - 2 * DAY).isoformat(), "--to", utc_now().isoformat())
    assert main(["drift", "reference", "diagnosis", *span, "--json", *home]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["measure"] for each in found} == {"score", "unassessed"}
    assert all(each["named"] for each in found)
    assert main(["drift", "status", *home]) == 0
    assert "CAMERA" in capsys.readouterr().out
    assert main(["drift", "reference", "prognosis", *span, *home]) == 1
    assert "nothing was analysed by prognosis yet" in capsys.readouterr().err
