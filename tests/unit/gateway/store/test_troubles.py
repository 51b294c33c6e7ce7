"""What stands in the way is said with its reason and since when; nothing where nothing does."""

from sqlalchemy import insert

from gateway.store.engine import writing
from gateway.store.reading.troubles import troubles
from gateway.store.tables import DestinationHealth, SourceRhythm
from tests.records import PACS, Record


def test_nothing_stands_in_the_way_of_work_that_goes_on(record: Record) -> None:
    record.claim(record.schedule("diagnosis")[0])
    record.completed()
    assert troubles(record.engine) == []


def test_silent_destinations_and_sources_and_work_that_waits(record: Record) -> None:
    first, second = record.schedule("diagnosis", "tbp_screening")
    for item in (first, second):
        claim = record.claim(item)
        record.ledger.retry_later(claim, reason="the model does not answer", delay_s=9.0)
    now = record.clock()
    with writing(record.engine) as connection:
        for name, state in ((PACS, "open"), ("ARCHIVE@pacs:104", "closed")):
            connection.execute(
                insert(DestinationHealth).values(
                    destination=name, state=state, failures=3, reason="refused", since=now
                )
            )
        for name, since in (("CAMERA", now), ("SCANNER", None)):
            connection.execute(
                insert(SourceRhythm).values(
                    ae_title=name, last_at=now, pauses={"seconds": []}, silent_since=since
                )
            )
    found = troubles(record.engine)
    assert [(each.kind, each.subject, each.count) for each in found] == [
        ("destination", PACS, 0),
        ("work", "diagnosis", 1),
        ("work", "tbp_screening", 1),
        ("source", "CAMERA", 0),
    ]
    assert found[0].reason == "refused"
    assert found[1].reason == "the model does not answer"
    assert found[1].since is not None
    assert found[1].since.tzinfo is not None
