"""Orders, failures, views and figures: page and REST do the same, and each is audited."""

import datetime as dt

import pytest
from sqlalchemy import select

from gateway.errors import OrderRefused
from gateway.store import states
from gateway.store.engine import reading
from gateway.store.intake.quarantine import QuarantineDesk
from gateway.store.people.failures import FailureDesk, cause_of
from gateway.store.people.orders import Order, OrderDesk
from gateway.store.people.views import SavedViews
from gateway.store.reading.overview import WINDOWS, OverviewReader
from gateway.store.reading.queues import QueueReader
from gateway.store.reading.search import StudySearch
from gateway.store.reading.study_filter import StudyFilter, filter_of
from gateway.store.tables import AuditEntry, Delivery, Generation, Instance, Study, WorkItem
from tests.pages import token_in
from tests.records import PACS, Record, association, header, new_uid, stored


def number_of(record: Record, uid: str) -> int:
    with reading(record.engine) as connection:
        query = select(Study.id).where(Study.study_instance_uid == uid)
        return int(connection.execute(query).scalar_one())


def study(record: Record, number: int):
    with reading(record.engine) as connection:
        return connection.execute(select(Study).where(Study.id == number)).one()


def items(record: Record, number: int):
    with reading(record.engine) as connection:
        query = select(WorkItem).where(WorkItem.study_id == number).order_by(WorkItem.id)
        return connection.execute(query).all()


def audited(record: Record) -> list[str]:
    with reading(record.engine) as connection:
        return list(connection.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars())


def failed(record: Record, reason: str = "frame 3 cannot be decoded") -> int:
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.ledger.fail(record.claim(item), kind="REJECTED", reason=reason)
    return number_of(record, uid)


@pytest.fixture
def desk(record: Record) -> OrderDesk:
    from gateway.delivery.routes import parse_routes

    return OrderDesk(record.engine, lambda: parse_routes(PACS), record.clock)


# -- orders ----------------------------------------------------------------------------------------


def test_failed_analysis_begins_anew(record, desk):
    number = failed(record)
    came = desk.give(Order.RETRY, [number, number, 999], actor="anna")
    assert (came.done, came.unknown) == (1, 1)
    assert study(record, number).state == states.ANALYSING
    (item,) = items(record, number)
    assert (item.state, item.attempts, item.failure_kind) == (states.UPS_SCHEDULED, 0, "")
    record.analyse(item.id)
    record.deliver(item.id)
    assert study(record, number).state == states.COMPLETED
    assert audited(record) == ["study.retried"]
    assert desk.give(Order.RETRY, [number], actor="anna").unchanged == 1


def test_refused_delivery_is_tried_again_and_what_is_confirmed_stays(record, desk):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item)
    record.deliver(item, state="REFUSED", reason="no such SOP class")
    number = number_of(record, uid)
    assert desk.give(Order.RETRY, [number], actor="anna").done == 1
    with reading(record.engine) as connection:
        assert connection.execute(select(Delivery.state)).scalars().all() == ["PENDING"]
    assert items(record, number)[0].step == states.DELIVER
    record.deliver(item)
    assert study(record, number).state == states.COMPLETED


def test_study_without_analysis_is_routed_anew(record, desk):
    uid = new_uid()
    record.receive(study_instance_uid=uid)
    generation = record.close()
    record.ledger.record_routing(generation, [], "no analysis applies")
    number = number_of(record, uid)
    assert study(record, number).state == states.REFUSED
    assert desk.give(Order.RETRY, [number], actor="anna").done == 1
    assert [hint.kind for hint in record.ledger.due_hints(0.0)] == ["route"]


def test_attempt_that_waits_begins_now_and_one_that_runs_goes_on(record, desk):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    number = number_of(record, uid)
    claim = record.claim(item)
    assert desk.give(Order.RETRY, [number], actor="anna").unchanged == 1
    record.ledger.retry_later(claim, reason="the model does not answer", delay_s=3600)
    assert desk.give(Order.RETRY, [number], actor="anna").done == 1
    record.claim(item)


def test_cancel_ends_what_is_unfinished_and_says_why(record, desk):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    number = number_of(record, uid)
    claim = record.claim(item)
    came = desk.give(Order.CANCEL, [number], actor="anna", reason="sent by mistake")
    assert came.done == 1
    assert study(record, number).state == states.FAILED
    assert "sent by mistake" in study(record, number).reason
    with pytest.raises(Exception, match="held by another"):
        record.ledger.extend(claim, 10)


def test_resend_of_a_study_without_results_changes_nothing(record, desk):
    number = failed(record)
    assert desk.give(Order.RESEND, [number], actor="anna").unchanged == 1


@pytest.mark.parametrize("order", [Order.CANCEL, Order.HOLD])
@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_order_that_stops_something_needs_a_reason(record, desk, order, reason):
    number = failed(record)
    with pytest.raises(OrderRefused):
        desk.give(order, [number], actor="anna", reason=reason)
    assert audited(record) == []


def test_order_about_all_that_match_is_about_those_that_were_counted(record, desk):
    numbers = [failed(record) for _ in range(3)]
    wanted = StudyFilter(state="failed")
    match = desk.match(wanted)
    assert (match.count, match.up_to_id) == (3, numbers[-1])
    failed(record)
    with pytest.raises(OrderRefused, match="4 studies match by now"):
        desk.give_matching(Order.RETRY, wanted, expected=3, actor="anna")
    came = desk.give_matching(Order.RETRY, wanted, expected=4, actor="anna")
    assert came.done == 4
    assert desk.match(wanted).count == 0


# -- filters ---------------------------------------------------------------------------------------


def test_each_filter_narrows(record, desk):
    done = number_of(record, record.completed())
    bad = failed(record, "the 100 % frame_ is <odd>")
    held = number_of(record, record.receive())
    desk.give(Order.HOLD, [held], actor="anna", reason="wait")
    desk.give(Order.URGENT, [bad], actor="anna")

    def found(**values: str) -> set[int]:
        with reading(record.engine) as connection:
            conditions = filter_of(values).conditions()
            return set(connection.execute(select(Study.id).where(*conditions)).scalars())

    assert found() == {done, bad, held}
    assert found(state="failed") == {bad}
    assert found(reason="100 % FRAME_") == {bad}
    assert found(reason="100_") == set()
    assert found(held="yes") == {held}
    assert found(urgent="yes") == {bad}
    assert found(analysis="diagnosis") == {done, bad}
    assert found(sender="CAMERA") == {done, bad, held}
    assert found(sender="NOBODY") == set()
    assert found(delivered="confirmed") == {done}
    assert found(delivered="refused") == set()
    assert found(since="2026-03-01T09:00:00+00:00", until="2026-03-01T10:00:00+00:00") == {
        done,
        bad,
        held,
    }
    assert found(until="2026-03-01T09:00:00+00:00") == set()


@pytest.mark.parametrize(
    "values",
    [
        {"state": "nonsense"},
        {"delivered": "perhaps"},
        {"since": "yesterday"},
        {"until": "99999-01-01"},
        {"since": "0001-01-01T00:00+14:00"},
        {"sender": "x" * 17},
        {"reason": "x" * 201},
    ],
)
def test_filter_that_cannot_be_used_is_refused(values):
    with pytest.raises(ValueError, match=r"\w"):
        filter_of(values)


def test_filter_is_the_same_after_its_address():
    wanted = StudyFilter(
        state="failed",
        reason="a & b",
        is_held=True,
        since=dt.datetime(2026, 3, 1, 9, 30, tzinfo=dt.UTC),
    )
    from urllib.parse import parse_qsl

    assert filter_of(dict(parse_qsl(wanted.as_query()))) == wanted


# -- failures --------------------------------------------------------------------------------------


def test_failures_are_grouped_by_cause_and_replayed(record, desk):
    numbers = [failed(record, f"frame {n} of 9 cannot be decoded") for n in (1, 2)]
    other = failed(record, "no image")
    failures = FailureDesk(record.engine, record.clock)
    causes = {each.reason: each for each in failures.causes()}
    assert sorted(each.count for each in causes.values()) == [1, 2]
    cause = cause_of("analysis", "diagnosis", "REJECTED", "frame 7 of 1 cannot be decoded")
    assert failures.studies_of(cause) == numbers
    desk.give(Order.RETRY, failures.studies_of(cause), actor="anna")
    assert [each.reason for each in failures.causes()] == ["no image"]
    assert study(record, other).state == states.FAILED


def test_causes_of_deliveries_and_arrivals(record):
    (item,) = record.schedule()
    record.analyse(item)
    record.deliver(item, state="REFUSED", reason="not taken")
    record.intake.register_refusal(
        association=association(), status=0xC001, reason="cut off", stored=None, header=header()
    )
    causes = FailureDesk(record.engine, record.clock).causes()
    assert {(each.kind, each.where, each.reason) for each in causes} == {
        ("delivery", PACS, "not taken"),
        ("arrival", "CAMERA", "cut off"),
    }
    by_kind = {each.kind: each for each in causes}
    assert by_kind["delivery"].can_replay
    assert not by_kind["arrival"].can_replay


def test_cause_is_looked_after_until_it_is_due_again(record):
    failed(record)
    failures = FailureDesk(record.engine, record.clock)
    (cause,) = failures.causes()
    until = record.clock() + dt.timedelta(hours=1)
    failures.look_after(
        cause.cause, actor="anna", assigned_to="ben", snoozed_until=until, note="asked the vendor"
    )
    (seen,) = failures.causes()
    assert (seen.care.assigned_to, seen.care.note) == ("ben", "asked the vendor")
    assert failures.causes(with_snoozed=False) == []
    record.clock.advance(3601)
    assert len(failures.causes(with_snoozed=False)) == 1
    assert audited(record) == ["failure.looked_after"]
    with pytest.raises(OrderRefused):
        failures.look_after("0" * 32, actor="anna")
    with pytest.raises(OrderRefused):
        failures.look_after(
            cause.cause, actor="anna", snoozed_until=record.clock() + dt.timedelta(days=99)
        )


def test_released_instance_takes_the_place_of_its_namesake(record):
    image = header()
    for content in ("first", "second"):
        record.intake.register_instance(
            header=image, stored=stored(content), association=association()
        )
    number = number_of(record, image.study_instance_uid)
    record.ledger.record_routing(record.close(), [], "no analysis applies")
    (kept_apart,) = FailureDesk(record.engine, record.clock).quarantined()
    quarantine = QuarantineDesk(record.engine, window_s=2.0, clock=record.clock)
    with pytest.raises(OrderRefused):
        quarantine.release(kept_apart.id, actor="anna", reason=" ")
    assert quarantine.release(kept_apart.id, actor="anna", reason="right bytes") == number
    with pytest.raises(OrderRefused):
        quarantine.release(kept_apart.id, actor="anna", reason="again")
    with reading(record.engine) as connection:
        rows = connection.execute(
            select(Instance.id, Instance.disposition, Generation.number)
            .outerjoin(Generation, Instance.generation_id == Generation.id)
            .order_by(Instance.id)
        ).all()
    assert [(row.disposition, row.number) for row in rows] == [
        ("quarantined", None),
        ("accepted", 2),
    ]
    assert study(record, number).state == states.RECEIVED
    assert audited(record) == ["instance.released"]


# -- figures ---------------------------------------------------------------------------------------


def test_overview_counts_stages_funnel_and_percentiles(record):
    for seconds in range(1, 21):
        (item,) = record.schedule()
        claim = record.claim(item, lease_s=600)
        record.clock.advance(seconds)
        from tests.records import new_object

        record.ledger.save_results(
            claim,
            (new_object(),),
            destinations=[],
            outcome="assessed",
            reason="",
            summary={"headline": "x"},
        )
    waiting = number_of(record, record.receive())
    record.clock.advance(60)
    reader = OverviewReader(record.engine, record.clock)
    loads = {each.stage: each for each in reader.loads()}
    assert (loads["receiving"].count, loads["receiving"].study_id) == (1, waiting)
    assert loads["delivering"].count == 20
    assert loads["queued"].count == 0
    assert loads["queued"].oldest_at is None
    funnel = {each.step: each.count for each in reader.funnel(record.clock() - dt.timedelta(1))}
    assert funnel["received"] == 21
    assert funnel["assembled"] == funnel["queued"] == funnel["encoded"] == 20
    assert funnel["confirmed"] == 0
    for window in WINDOWS.values():
        histories = {each.stage: each for each in reader.histories(window)}
        inferred = histories["inferred and encoded"]
        assert inferred.count == 20
        assert inferred.p95_s == pytest.approx(19.0, abs=0.05)  # the 19th of 20
        assert sum(slot.count for slot in inferred.slots) == 20
        assert len(inferred.slots) == window.slots
        assert histories["delivered and confirmed"].count == 0


def test_queues_say_who_has_what(record):
    first, second = record.schedule("diagnosis", "tbp_screening")
    record.claim(first, owner="worker-7")
    found = QueueReader(record.engine, record.clock).read()
    by_name = {each.analysis: each for each in found.queues}
    assert (by_name["diagnosis"].running, by_name["tbp_screening"].due) == (1, 1)
    assert [(each.name, each.running) for each in found.workers] == [("worker-7", 1)]
    assert [each.id for each in found.next_items] == [second]
    record.clock.advance(3600)
    found = QueueReader(record.engine, record.clock).read()
    assert {each.analysis: each.lost for each in found.queues}["diagnosis"] == 1


# -- search and views ------------------------------------------------------------------------------


def test_search_reads_what_people_read_out(record):
    image = header(accession_number="ACC 7", patient_id="P-1")
    record.intake.register_instance(header=image, stored=stored(), association=association())
    number = number_of(record, image.study_instance_uid)
    search = StudySearch(record.engine, record.clock)
    for wanted in (
        image.study_instance_uid,
        f" {image.sop_instance_uid} ",
        str(number),
        f"#{number}",
        f"…{image.study_instance_uid[-12:]}",
        "ACC 7",
        "P-1",
    ):
        assert search.find(wanted, actor="anna") == [number], wanted
    for wanted in ("", "\0", "ACC", "%", "' OR 1=1", "9" * 300, "1.2", "0000"):
        assert search.find(wanted, actor="anna") == [], wanted
    assert audited(record) == ["study.searched_by_identity"] * 2
    with reading(record.engine) as connection:
        assert "P-1" not in str(connection.execute(select(AuditEntry.detail)).scalars().all())


def test_views_are_each_accounts_own(record):
    views = SavedViews(record.engine, record.clock)
    mine = views.save("anna", "failed", StudyFilter(state="failed"))
    with pytest.raises(OrderRefused):
        views.save("anna", "failed", StudyFilter())
    views.save("ben", "failed", StudyFilter())
    assert [(each.name, each.query) for each in views.of("anna")] == [("failed", "state=failed")]
    assert not views.forget("ben", mine)
    assert views.forget("anna", mine)
    assert views.of("anna") == []


# -- over the web ----------------------------------------------------------------------------------


def call(client, path: str, **body):
    token = token_in(client.get("/studies").text)
    return client.post(path, json=body, headers={"x-csrf-token": token})


def test_rest_does_what_the_pages_do(kept, client):
    number = failed(kept)
    assert client.get("/api/studies/count?state=failed").json()["count"] == 1
    (cause,) = client.get("/api/failures").json()
    assert client.get(f"/api/failures/{cause['cause']}/studies").json() == [number]
    cared = call(client, f"/api/failures/{cause['cause']}/care", assigned_to="admin")
    assert cared.json()["care"]["assigned_to"] == "admin"
    assert call(client, f"/api/failures/{cause['cause']}/replay", expected=0).status_code == 409
    assert call(client, f"/api/failures/{cause['cause']}/replay", expected=1).json()["done"] == 1
    came = call(client, "/api/studies/orders", order="cancel", studies=[number])
    assert came.status_code == 409
    came = call(client, "/api/studies/orders", order="cancel", studies=[number], reason="no")
    assert came.json()["done"] == 1
    matching = {"state": "failed"}
    came = call(client, "/api/studies/orders", order="retry", matching=matching, expected=1)
    assert came.json()["done"] == 1
    kept_view = call(client, "/api/views", name="mine", matching=matching)
    assert client.get("/api/views").json() == [
        {"id": kept_view.json()["id"], "name": "mine", "query": "state=failed"}
    ]
    history = client.get(f"/api/studies/{number}/history").json()
    assert history["events"]
    for path in ("/api/overview?window=1h", "/api/queues", "/api/quarantine"):
        assert client.get(path).status_code == 200


def test_call_without_the_token_changes_nothing(kept, client):
    number = failed(kept)
    body = {"order": "retry", "studies": [number]}
    assert client.post("/api/studies/orders", json=body).status_code == 403
    assert study(kept, number).state == states.FAILED


def test_page_asks_for_the_reason_and_shows_the_count_first(kept, client):
    numbers = [failed(kept) for _ in range(3)]
    page = client.get(
        "/studies/orders", params={"order": "cancel", "scope": "all", "query": "state=failed"}
    ).text
    assert "Cancel 3 studies?" in page
    assert 'name="reason"' in page
    form = {
        "csrf_token": token_in(page),
        "order": "retry",
        "study": numbers[:2],
        "next": "/studies?state=failed",
    }
    answer = client.post("/studies/orders", data=form)
    assert answer.headers["location"] == "/studies?state=failed&said=retry-2-0-0-0-0"
    assert "Retry: 2 done" in client.get(answer.headers["location"]).text
    answer = client.post("/studies/orders", data={**form, "next": "//evil.example/"})
    assert answer.headers["location"].startswith("/?said=")
    assert client.post("/studies/orders", data={**form, "study": "1; DROP"}).status_code == 422
    assert client.get("/studies?said=<script>").text.count("<script>") == 0
