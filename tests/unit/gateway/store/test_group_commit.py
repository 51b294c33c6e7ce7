"""One commit for what several threads write: nobody is told of a success that was not committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from gateway.errors import RecordUnavailable
from gateway.store.engine import open_engine
from gateway.store.group_commit import GroupCommit
from tests.servers import wait_until

DEADLINE_S = 30.0

Work = Callable[[Connection], str]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path}/record.sqlite3")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE said (word TEXT UNIQUE)"))
    yield engine
    engine.dispose()


def say(word: str) -> Work:
    def work(connection: Connection) -> str:
        connection.execute(text("INSERT INTO said VALUES (:word)"), {"word": word})
        return word

    return work


def said(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT word FROM said")).scalars())


def in_one_commit(engine: Engine, works: dict[str, Work]) -> dict[str, str]:
    """Run works that queue up behind a slow one; return what became of each."""
    group: GroupCommit[str] = GroupCommit(engine)
    is_begun, may_end = threading.Event(), threading.Event()
    outcomes: dict[str, str] = {}

    def slow(_connection: Connection) -> str:
        is_begun.set()
        may_end.wait(DEADLINE_S)
        return "slow"

    def run(key: str, work: Work) -> None:
        try:
            outcomes[key] = group.run(key, work)
        except SystemExit:
            outcomes[key] = "died"
        except Exception as exc:
            outcomes[key] = type(exc).__name__

    threads = [threading.Thread(target=run, args=("slow", slow))]
    threads[0].start()
    assert is_begun.wait(DEADLINE_S)
    for key, work in works.items():
        threads.append(threading.Thread(target=run, args=(key, work)))
        threads[-1].start()
    wait_until(lambda: len(group._waiting) == len(works), DEADLINE_S, "works that wait")
    may_end.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    return outcomes


def test_what_waits_is_committed_together(engine: Engine) -> None:
    outcomes = in_one_commit(engine, {word: say(word) for word in ("one", "two", "three")})
    assert outcomes == {"slow": "slow", "one": "one", "two": "two", "three": "three"}
    assert said(engine) == {"one", "two", "three"}


def test_a_fault_of_one_costs_the_others_nothing(engine: Engine) -> None:
    outcomes = in_one_commit(
        engine, {"first": say("same"), "second": say("same"), "third": say("third")}
    )
    assert sorted(outcomes[key] for key in ("first", "second")) == ["IntegrityError", "same"]
    assert outcomes["third"] == "third"
    assert said(engine) == {"same", "third"}


def test_a_thread_that_dies_in_the_commit_leaves_no_promise(engine: Engine) -> None:
    def die(_connection: Connection) -> str:
        raise SystemExit

    outcomes = in_one_commit(engine, {"a": say("a"), "z": die})
    # Either "z" commits for both and dies, or "a" does, and its own thread is told of it.
    assert outcomes["a"] in {RecordUnavailable.__name__, "died"}
    assert outcomes["z"] in {RecordUnavailable.__name__, "died"}
    assert said(engine) == set()
