"""Figures of a large record: read aside, kept with their age, never waited for long."""

import datetime as dt
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

import gateway.dashboard.shelf as shelf_module
from gateway.dashboard.app import warm_up
from gateway.dashboard.board import OverviewBoard
from gateway.dashboard.shelf import Shelf, is_large
from gateway.errors import RecordUnavailable
from gateway.store.audit import Trail
from gateway.store.engine import utc_now
from gateway.store.people.orders import Match, OrderDesk
from gateway.store.people.reviews import ReviewDesk
from gateway.store.reading.overview import OverviewReader
from gateway.store.reading.status import StatusReader
from gateway.store.reading.study_filter import DELIVERED, StudyFilter
from tests.bench.web_record import fill
from tests.servers import wait_until

DEADLINE_S = 30.0


class Hours:
    """A clock in seconds that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def patient(monkeypatch):
    """Let looks wait as long as a laden machine needs."""
    monkeypatch.setattr(shelf_module, "PATIENCE_S", DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(shelf_module, "PATIENCE_S", 0.01)


def test_figures_of_a_small_record_are_read_at_every_look():
    numbers = iter(range(9))
    small = Shelf(lambda: False)
    found = [small.look("n", lambda: next(numbers), keep_s=60.0) for _ in range(3)]
    assert [each.value for each in found] == [0, 1, 2]
    assert all(each.is_fresh for each in found)


def test_figure_of_a_large_record_is_kept_until_it_is_old(patient):
    numbers, clock = iter(range(9)), Hours()
    large = Shelf(lambda: True, clock)

    def look() -> int:
        return large.get("n", lambda: next(numbers), keep_s=60.0).value

    assert [look(), look()] == [0, 0]
    clock.now = 59.9
    assert look() == 0
    clock.now = 60.0
    wait_until(lambda: look() == 1, DEADLINE_S, what="the new figure")
    assert look() == 1
    large.close()


def test_slow_figure_is_not_waited_for_and_shown_with_its_age(impatient):
    go_on, readings, clock = threading.Event(), [], Hours()
    moments = iter(dt.datetime(2026, 3, 1, hour, tzinfo=dt.UTC) for hour in range(9))
    large = Shelf(lambda: True, clock, lambda: next(moments))

    def read() -> int:
        readings.append(1)
        assert go_on.wait(DEADLINE_S)
        return len(readings)

    def look():
        return large.look("n", read, keep_s=60.0)

    assert look() is None
    assert look() is None, "nobody waits, and nobody begins a second reading"
    go_on.set()
    wait_until(lambda: look() is not None, DEADLINE_S, what="the figure")
    first = look()
    assert (first.value, first.is_fresh, first.read_at.hour) == (1, True, 0)

    go_on.clear()
    clock.now = 3600.0
    old = look()
    assert (old.value, old.is_fresh, old.read_at.hour) == (1, False, 0)
    go_on.set()
    wait_until(lambda: look().is_fresh, DEADLINE_S, what="the new figure")
    assert (look().value, look().read_at.hour) == (2, 1)
    large.close()


def test_who_must_have_a_figure_waits_for_its_first_reading(impatient):
    is_asked, go_on = threading.Event(), threading.Event()

    def read() -> str:
        is_asked.set()
        assert go_on.wait(DEADLINE_S)
        return "there"

    large = Shelf(lambda: True)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(large.get("n", read, keep_s=60.0).value))
    waiting.start()
    assert is_asked.wait(DEADLINE_S)
    assert found == []
    go_on.set()
    waiting.join(DEADLINE_S)
    assert found == ["there"]
    large.close()


def test_outage_reaches_who_asked_and_the_next_look_tries_again(patient):
    answers = iter((RecordUnavailable("gone"), 7))

    def read() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    large = Shelf(lambda: True)
    with pytest.raises(RecordUnavailable, match="gone"):
        large.look("n", read, keep_s=60.0)
    found = large.look("n", read, keep_s=60.0)
    assert found is not None
    assert found.value == 7
    large.close()


def test_figure_that_cannot_be_read_anew_stays_with_its_age_and_is_logged(patient, caplog):
    answers, clock = iter((7, RecordUnavailable("gone"))), Hours()

    def read() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    large = Shelf(lambda: True, clock)
    assert large.get("n", read, keep_s=60.0).value == 7
    clock.now = 60.0
    old = large.look("n", read, keep_s=60.0)
    large.close()
    assert (old.value, old.is_fresh) == (7, False)
    (line,) = (each for each in caplog.records if each.name == shelf_module.__name__)
    assert (line.action, line.figure) == ("figure.failed", "n")
    assert "RecordUnavailable" in line.message


@pytest.mark.parametrize(
    ("studies", "instances", "expected"),
    [(0, 0, False), (2000, 20_000, False), (2001, 2001, True), (10, 20_001, True)],
)
def test_record_is_large_by_its_studies_or_its_instances(studies, instances, expected):
    assert is_large(studies, instances) is expected


def test_size_of_a_record_is_told_by_its_newest_rows(record):
    reader = StatusReader(record.engine, Path())
    assert reader.size() == (0, 0)
    uid = record.receive()
    record.receive(study_instance_uid=uid)
    record.receive()
    assert reader.size() == (2, 3)


# -- pages -----------------------------------------------------------------------------------------


class SlowShelf(Shelf):
    """The shelf of a large record whose figures come when they are let go."""

    def __init__(self) -> None:
        super().__init__(lambda: True)
        self.go_on = threading.Event()

    def look(self, name, read, **options):
        def slowly():
            assert self.go_on.wait(DEADLINE_S)
            return read()

        return super().look(name, slowly, **options)


@pytest.fixture
def filled(kept):
    """A record with some of everything, before anybody logs in."""
    fill(kept.engine, 60, now=utc_now(), large_study=10)
    return kept


@pytest.fixture
def slow_shelf(filled, client, app, impatient):
    shelf = SlowShelf()
    use = app.state.services
    board = OverviewBoard(OverviewReader(use.engine), shelf)
    app.state.services = replace(use, shelf=shelf, board=board)
    yield shelf
    shelf.go_on.set()
    shelf.close()


@pytest.mark.parametrize(
    ("address", "meanwhile", "then"),
    [
        ("/", "these figures are being counted", "Throughput and 95th percentile"),
        ("/?window=7d", "these figures are being counted", "Throughput and 95th percentile"),
        ("/storage", "Being counted: the record is large", "Counted <time"),
        ("/reviews", "chain of signatures: being checked", "chain of signatures whole"),
    ],
)
def test_pages_do_not_wait_for_figures(slow_shelf, client, address, meanwhile, then):
    page = client.get(address)
    assert page.status_code == 200
    assert meanwhile in page.text
    assert then not in page.text
    slow_shelf.go_on.set()
    wait_until(lambda: then in client.get(address).text, DEADLINE_S, what="the figures")
    assert meanwhile not in client.get(address).text


def test_overview_without_its_figures_fetches_itself_again(slow_shelf, client):
    def is_pending() -> bool:
        text = client.get("/").text
        assert ("data-pending" in text) == ('data-mark=""' in text)
        return "data-pending" in text

    assert is_pending()
    slow_shelf.go_on.set()
    wait_until(lambda: not is_pending(), DEADLINE_S, what="the figures")


def test_calls_say_how_old_their_figures_are(slow_shelf, client):
    waits = client.get("/api/storage").json()
    assert waits["counted_at"] is waits["purge"] is waits["disk"]["bytes_per_day"] is None
    slow_shelf.go_on.set()
    overview = client.get("/api/overview?window=7d").json()
    assert overview["funnel"][0]["count"] > 0
    age = utc_now() - dt.datetime.fromisoformat(overview["counted_at"])
    assert dt.timedelta() <= age < dt.timedelta(minutes=5)

    def storage():
        return client.get("/api/storage").json()

    wait_until(lambda: storage()["counted_at"] is not None, DEADLINE_S, what="the figures")
    assert storage()["disk"]["bytes_per_day"] > 0


# -- the record of the bench -----------------------------------------------------------------------


def test_record_of_the_bench_is_one_that_lentigo_would_have_written(record):
    fill(record.engine, 60, now=utc_now(), large_study=10)
    assert Trail(record.engine).verify().faults == ()
    desk = ReviewDesk(record.engine)
    assert desk.faults() == []
    assert sum(desk.counts().values()) == 3
    found = StatusReader(record.engine, Path()).studies()
    assert len(found) == 60
    assert {each.state for each in found if each.id <= 20} <= {"completed", "failed", "refused"}
    assert record.receive(), "ids go on after those that were given"


def test_count_for_an_order_goes_no_further_than_asked(record):
    fill(record.engine, 60, now=utc_now(), large_study=10)
    desk = OrderDesk(record.engine, tuple, record.clock)
    wanted = StudyFilter(up_to_id=50)
    assert desk.match(wanted).count == 50
    assert desk.match(wanted, most=7) == Match(count=7, up_to_id=50)
    assert desk.match(StudyFilter(sender="NOBODY"), most=7) == Match(count=0, up_to_id=0)


@pytest.mark.parametrize("delivered", DELIVERED)
def test_filter_by_answers_is_what_the_studies_say(record, delivered):
    fill(record.engine, 600, now=utc_now(), large_study=10)
    reader = StatusReader(record.engine, Path())

    def answers(study) -> set[str]:
        return {
            each.state
            for item in study.work_items
            for made in item.objects
            for each in made.deliveries
        }

    is_meant = {
        "confirmed": lambda found: found == {"CONFIRMED"},
        "pending": lambda found: bool(found & {"PENDING", "STORED"}),
        "refused": lambda found: "REFUSED" in found,
    }[delivered]
    expected = {each.id for each in reader.studies() if is_meant(answers(each))}
    assert expected
    assert {each.id for each in reader.studies(StudyFilter(delivered=delivered))} == expected


def test_no_request_waits_for_a_template_to_be_compiled(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    spared: list[int] = []
    templates = app.state.services.templates.env
    monkeypatch.setattr(
        "gateway.dashboard.app.keep_pauses_short", lambda: spared.append(len(templates.cache))
    )
    warm_up(app)
    assert spared == [len(templates.list_templates())]  # compiled first, then spared
