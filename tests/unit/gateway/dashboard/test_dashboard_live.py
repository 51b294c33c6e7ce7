"""Open pages of the admin page stay up to date, and do not hold up its end."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.request
from urllib.parse import urlencode

import httpx
from sqlalchemy import insert, select

from gateway.dashboard.live import LiveFeed
from gateway.errors import RecordUnavailable
from gateway.store.engine import reading, utc_now, writing
from gateway.store.people.accounts import Accounts
from gateway.store.reading.history import HistoryReader
from gateway.store.tables import Event, Study
from tests.pages import ONE_TIME, change_password, log_in
from tests.records import new_uid
from tests.servers import free_port, wait_until

# -- live ------------------------------------------------------------------------------------------


async def next_mark(stream) -> str:
    while True:
        text = await asyncio.wait_for(anext(stream), 10)
        if found := re.search(r"^data: (.+)$", text, re.MULTILINE):
            return found[1]


def test_stream_tells_of_every_change(record):
    uid = record.receive()
    reader = HistoryReader(record.engine)

    async def follow() -> list[str]:
        feed = LiveFeed(reader, poll_s=0.02)
        stream = feed.stream(None, lambda: True)
        marks = [await next_mark(stream)]
        for _ in range(2):
            await asyncio.to_thread(record.receive, study_instance_uid=new_uid())
            marks.append(await next_mark(stream))
        await stream.aclose()
        await feed.aclose()
        return marks

    marks = asyncio.run(follow())
    assert len(set(marks)) == 3
    assert marks[-1] == reader.marks([])[None]
    assert uid


def test_stream_of_one_study_is_silent_about_others(record):
    record.receive()
    uid = new_uid()
    record.receive(study_instance_uid=uid)
    with reading(record.engine) as connection:
        study_id = connection.execute(
            select(Study.id).where(Study.study_instance_uid == uid)
        ).scalar_one()

    async def follow() -> tuple[str, str]:
        feed = LiveFeed(HistoryReader(record.engine), poll_s=0.02)
        mine, all_of_it = feed.stream(study_id, lambda: True), feed.stream(None, lambda: True)
        first = await next_mark(mine)
        await next_mark(all_of_it)
        await asyncio.to_thread(record.receive)
        await next_mark(all_of_it)
        waiting = asyncio.ensure_future(anext(mine))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await asyncio.to_thread(record.close)
        text = await asyncio.wait_for(waiting, 10)
        await mine.aclose()
        await all_of_it.aclose()
        await feed.aclose()
        return first, text

    first, text = asyncio.run(follow())
    assert first not in text


def test_mark_changes_when_a_lower_id_appears_late(record):
    """PostgreSQL commits in another order than it gives out ids."""
    record.receive()
    reader = HistoryReader(record.engine)

    def add(event_id: int) -> None:
        with writing(record.engine) as connection:
            connection.execute(
                insert(Event).values(id=event_id, at=utc_now(), action="x", level="info", detail={})
            )

    add(100)
    before = reader.marks([])
    add(99)
    assert reader.marks([]) != before


def test_polling_rests_while_nobody_listens(record):
    async def follow() -> None:
        calls = []

        class Counting(HistoryReader):
            def marks(self, study_ids):
                calls.append(1)
                return super().marks(study_ids)

        feed = LiveFeed(Counting(record.engine), poll_s=0.01)
        first, second = feed.stream(None, lambda: True), feed.stream(None, lambda: True)
        await next_mark(first)
        await next_mark(second)
        await first.aclose()
        await second.aclose()
        await asyncio.wait_for(feed._task, 10)  # ends by itself
        rested = len(calls)
        third = feed.stream(None, lambda: True)
        await next_mark(third)  # and begins again
        await third.aclose()
        await feed.aclose()
        assert len(calls) > rested

    asyncio.run(follow())


def test_stream_ends_with_the_session(record, monkeypatch):
    monkeypatch.setattr("gateway.dashboard.live.HEARTBEAT_S", 0.05)

    async def follow() -> None:
        feed = LiveFeed(HistoryReader(record.engine), poll_s=0.02)
        async for _ in feed.stream(None, lambda: False):
            pass
        await feed.aclose()

    asyncio.run(asyncio.wait_for(follow(), 10))


def test_stream_survives_an_outage(record, monkeypatch):
    async def follow() -> str:
        answers = iter([RecordUnavailable("x"), RecordUnavailable("x"), {None: "7.7"}])

        class Flaky(HistoryReader):
            def marks(self, study_ids):
                answer = next(answers, {None: "7.7"})
                if isinstance(answer, RecordUnavailable):
                    raise answer
                return answer

        feed = LiveFeed(Flaky(record.engine), poll_s=0.01)
        stream = feed.stream(None, lambda: True)
        mark = await next_mark(stream)
        await stream.aclose()
        await feed.aclose()
        return mark

    assert asyncio.run(follow()) == "7.7"


def test_mark_for_polling_is_that_of_the_page(kept, client):
    uid = kept.completed()
    number = client.get(f"/api/studies/{uid}").json()["number"]
    for path, query in (("/studies", {}), (f"/studies/{number}", {"study": str(number)})):
        mark = client.get(f"/api/mark?{urlencode(query)}").json()["mark"]
        assert f'data-mark="{mark}"' in client.get(path).text
    assert client.get("/api/mark", params={"study": "1.2.3"}).status_code == 404


# -- the process -----------------------------------------------------------------------------------


def test_server_ends_at_sigterm_with_a_stream_open(home, kept):
    port = free_port()
    Accounts(kept.engine).create_first("admin", ONE_TIME)
    program = (
        "import sys; from pathlib import Path\n"
        "from gateway.dashboard.app import serve\n"
        "from gateway.settings import DashboardSettings, StoreSettings\n"
        "serve(StoreSettings(home=Path(sys.argv[1])), DashboardSettings(port=int(sys.argv[2])))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home), str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(f"{base}/healthz", timeout=2) as answer:
                    return json.load(answer) == {"status": "ok"}
            except OSError:
                return False

        wait_until(is_ready, 60.0, "the admin page")
        with httpx.Client(base_url=base, timeout=30) as browser:
            log_in(browser)
            change_password(browser)
            with browser.stream("GET", "/live") as stream:
                lines = stream.iter_lines()
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert next(line for line in lines if line.startswith("data:"))
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line.startswith("data:")] == []
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
