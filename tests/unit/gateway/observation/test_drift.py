"""Drift is said when answers have moved, not by chance, and ends when they are back."""

import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.observation.drift import ks, psi, shift
from gateway.observation.drift_watch import DriftWatch
from gateway.observation.notices import Receivers
from gateway.observation.observer import Observer
from gateway.observation.settings import DriftSettings, EventSettings, FhirSettings, MailSettings
from gateway.observation.silence import LEARNT, SilenceWatch, allowed_s
from gateway.store.engine import reading, writing
from gateway.store.tables import DriftSeries, Event, SourceRhythm, WorkItem
from tests.records import Record


def test_the_kolmogorov_smirnov_test_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(7)
    for shifted in (0.0, 0.1, 0.5):
        first = [draw.gauss(0, 1) for _ in range(200)]
        second = [draw.gauss(shifted, 1) for _ in range(100)]
        expected = stats.ks_2samp(first, second, method="asymp")
        distance, p_value = ks(first, second)
        assert distance == pytest.approx(expected.statistic, abs=1e-12)
        assert p_value == pytest.approx(expected.pvalue, abs=0.03)


def test_the_population_stability_index_by_hand() -> None:
    # 10 bins of 10; half of the recent values lie in the lowest bin, half in the highest.
    reference = [n / 100 for n in range(100)]
    assert psi(reference, reference) == pytest.approx(0.0, abs=1e-9)
    assert psi(reference, [0.01] * 50 + [0.99] * 50) > 2.0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_reference_of_one_value_can_be_compared(value: float) -> None:
    same = shift([value] * 60, [value] * 60)
    moved = shift([value] * 60, [0.5] * 60)
    assert same.psi == pytest.approx(0.0, abs=1e-9)
    assert moved.ks == 1.0
    assert moved.psi > 0.25 or value == 1.0


def test_chance_alone_raises_no_alarm_in_a_thousand_windows() -> None:
    draw = random.Random(11)
    settings = DriftSettings()
    alarms = 0
    for _ in range(300):
        reference = [draw.betavariate(2, 5) for _ in range(settings.reference_count)]
        recent = [draw.betavariate(2, 5) for _ in range(settings.window_count)]
        found = shift(reference, recent)
        alarms += found.psi >= settings.psi_alarm and found.p_value <= settings.ks_p_value
    assert alarms == 0


def answers(record: Record, watch: DriftWatch, item: int, values: list[float]) -> None:
    """Let a work item answer again and again."""
    for value in values:
        with writing(record.engine) as connection:
            connection.execute(
                update(WorkItem)
                .where(WorkItem.id == item)
                .values(summary={"malignancy": value}, outcome="assessed")
            )
            line: Any = type("Line", (), {"action": "work_item.analysed", "work_item_id": item})
            watch.add(connection, [line], record.clock())


def test_a_camera_that_changes_is_noticed_and_its_way_back_too(record: Record) -> None:
    (item,) = record.schedule()
    draw = random.Random(3)
    watch = DriftWatch(DriftSettings(reference_count=50, window_count=50))
    before = [draw.betavariate(2, 8) for _ in range(100)]
    answers(record, watch, item, before)

    def actions() -> list[str]:
        with reading(record.engine) as connection:
            return list(
                connection.execute(
                    select(Event.action).where(Event.action.like("drift.%")).order_by(Event.id)
                ).scalars()
            )

    assert actions() == []
    answers(record, watch, item, [draw.betavariate(8, 2) for _ in range(50)])
    assert actions() == ["drift.began"]
    answers(record, watch, item, before[:50])
    assert actions() == ["drift.began", "drift.ended"]
    with reading(record.engine) as connection:
        row = connection.execute(select(DriftSeries).where(DriftSeries.measure == "score")).one()
    assert (row.source, row.analysis, row.state) == ("CAMERA", "diagnosis", "stable")
    assert len(row.reference["values"]) == len(row.recent["values"]) == 50


def test_a_source_that_pauses_longer_than_its_rhythm_is_silent_until_it_sends(
    sqlite_record: Any, tmp_path: Path
) -> None:
    record = sqlite_record(tmp_path / "home")
    told = Receivers(events=EventSettings(), mail=MailSettings(), fhir=FhirSettings())
    for _ in range(LEARNT + 2):
        record.receive()
        record.clock.advance(1800.0)
    Observer(record.engine, told, clock=record.clock).look()
    watch = SilenceWatch(record.engine, told.events, record.clock)
    assert watch.look() == 0
    record.clock.advance(4 * 3600.0)
    assert watch.look() == 1
    assert watch.look() == 0, "said once"
    record.receive()
    Observer(record.engine, told, clock=record.clock).look()
    with reading(record.engine) as connection:
        said = list(
            connection.execute(
                select(Event.action).where(Event.action.like("source.%")).order_by(Event.id)
            ).scalars()
        )
        assert connection.execute(select(SourceRhythm.silent_since)).scalar_one() is None
    assert said == ["source.silent", "source.sends"]


def test_nothing_is_said_of_a_source_that_is_hardly_known() -> None:
    assert allowed_s([60.0] * (LEARNT - 1), EventSettings()) is None
    assert allowed_s([60.0] * LEARNT, EventSettings()) == 4 * 3600.0
    assert allowed_s([86400.0] * LEARNT, EventSettings()) == 4 * 86400.0
