"""Redis gone, flushed, slow, silent: it carries hints, and hints may be lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.site import Site, site
from tests.integration.worker_harness import Redis
from tests.lentigo import wait_a_moment
from tests.servers import wait_until
from tests.servers.proxy import Proxy, proxy

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("r"))
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def line(broker: Redis) -> Iterator[Proxy]:
    """The way to Redis."""
    with proxy(broker.url.removeprefix("redis+socket://")) as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, broker: Redis, line: Proxy) -> Iterator[Site]:
    address = f"redis://127.0.0.1:{line.port}/0"
    with site(tmp_path_factory.mktemp("f"), environment={"LENTIGO_BROKER_URL": address}) as found:
        yield found


def flush(broker: Redis) -> None:
    broker.client.execute_command("FLUSHALL")


def test_a_broker_that_forgets_everything_delays_and_loses_nothing(
    healthy: Site, broker: Redis
) -> None:
    paths = healthy.make(3)
    healthy.send(paths)
    for _ in range(10):
        flush(broker)
        wait_a_moment(0.3)
    healthy.check(paths, "FLUSHALL ten times")


def test_a_broker_that_dies_and_comes_back_empty(healthy: Site, broker: Redis) -> None:
    paths = healthy.make(3)
    healthy.send(paths)
    broker.kill()
    wait_a_moment(2)
    more = healthy.make()
    healthy.send(more)  # receiving needs no broker
    broker.start()
    healthy.check([*paths, *more], "a broker that was killed")


def test_a_slow_broker(healthy: Site, line: Proxy) -> None:
    line.latency_s = 0.5
    try:
        paths = healthy.make(2)
        healthy.send(paths)
        healthy.check(paths, "a broker with 0.5 s of latency")
    finally:
        line.latency_s = 0.0


def test_a_broker_that_hangs_up_and_one_that_goes_silent(healthy: Site, line: Proxy) -> None:
    for fault in ("is_refusing", "is_hung"):
        setattr(line, fault, True)
        paths = healthy.make()
        healthy.send(paths)
        wait_a_moment(3)
        setattr(line, fault, False)
        healthy.check(paths, f"a broker that {fault.replace('_', ' ')}")


def test_hints_that_are_repeated_do_the_work_once(healthy: Site, broker: Redis) -> None:
    """Old messages come again by the hundred: the record says what is left to do."""
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, "before the flood")
    before = {uid: len(study["work_items"]) for uid, study in healthy.studies().items()}
    from gateway.queue import CeleryQueue
    from gateway.store.values import Hint

    queue = CeleryQueue(broker.url)
    for number in range(1, 8):
        for _ in range(10):
            queue.announce(Hint(kind="route", id=number))
            queue.announce(Hint(kind="deliver", id=number, analysis="diagnosis"))
            queue.announce(Hint(kind="analyse", id=number, analysis="diagnosis"))
    client: redis.Redis = broker.client  # type: ignore[type-arg]
    wait_until(
        lambda: (
            not client.llen("lentigo.route")
            and not client.llen("lentigo.deliver")
            and not client.llen("lentigo.analyse.diagnosis")
        ),
        60,
        "empty queues",
    )
    after = {uid: len(study["work_items"]) for uid, study in healthy.studies().items()}
    assert before == after
    healthy.verify()


def test_a_message_of_somebody_else_stops_nothing(healthy: Site, broker: Redis) -> None:
    """Whatever lies in the queue, the next hint is served."""
    for name in ("lentigo.route", "lentigo.analyse.diagnosis"):
        for text in (b"", b"no json", b'{"body": 1}', b"[]", b'"\\ud800"'):
            broker.client.lpush(name, text)
    paths: list[Path] = healthy.make()
    healthy.send(paths)
    healthy.check(paths, "nonsense in the queues")
