"""PostgreSQL restarted, away, locked, cut off, slow, and processes killed around its commits."""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from tests.faults.site import Site, site
from tests.lentigo import wait_a_moment
from tests.servers import PostgresServer, postgres_server, require
from tests.servers.proxy import Proxy, proxy

pytestmark = [pytest.mark.timeout(300), pytest.mark.faults]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    require("postgres")
    with postgres_server(tmp_path_factory.mktemp("db")) as running:
        yield running


@pytest.fixture(scope="module")
def line(server: PostgresServer) -> Iterator[Proxy]:
    """The way to PostgreSQL."""
    with proxy(f"127.0.0.1:{server.port}") as running:
        yield running


@pytest.fixture(scope="module")
def on_postgres(
    tmp_path_factory: pytest.TempPathFactory, server: PostgresServer, line: Proxy
) -> Iterator[Site]:
    url = server.url.replace(f":{server.port}/", f":{line.port}/")
    with site(tmp_path_factory.mktemp("p"), database_url=url) as found:
        yield found


def test_postgresql_that_restarts_under_load(on_postgres: Site, server: PostgresServer) -> None:
    paths = on_postgres.make(3)
    on_postgres.send(paths)
    for _ in range(3):
        server.stop()
        wait_a_moment(1)
        server.start()
        wait_a_moment(1)
    more = on_postgres.make()
    on_postgres.send(more)
    on_postgres.check([*paths, *more], "PostgreSQL restarted three times")


def test_postgresql_that_is_away_refuses_and_recovers(
    on_postgres: Site, server: PostgresServer
) -> None:
    before, refused = on_postgres.make(2), on_postgres.make()
    on_postgres.send(before)
    server.stop()
    assert not on_postgres.send_once(refused)
    wait_a_moment(6)  # longer than a lease
    server.start()
    on_postgres.send(refused)
    on_postgres.check([*before, *refused], "PostgreSQL away for 6 s")


def test_a_postgresql_whose_tables_are_locked_refuses_and_recovers(
    on_postgres: Site, server: PostgresServer
) -> None:
    """Maintenance holds them: nothing is acknowledged that is not in the record."""
    before, refused = on_postgres.make(), on_postgres.make()
    on_postgres.send(before)
    engine = create_engine(server.url)
    with engine.connect() as other:
        other.execute(text("LOCK TABLE instances, work_items IN ACCESS EXCLUSIVE MODE"))
        assert not on_postgres.send_once(refused)
        wait_a_moment(6)  # longer than a lease
        other.rollback()
    engine.dispose()
    on_postgres.send(refused)
    on_postgres.check([*before, *refused], "PostgreSQL with locked tables")


def test_connections_to_postgresql_that_are_cut(on_postgres: Site, line: Proxy) -> None:
    paths = on_postgres.make(2)
    on_postgres.send(paths)
    for _ in range(5):
        line.is_refusing = True
        wait_a_moment(0.3)
        line.is_refusing = False
        wait_a_moment(0.5)
    on_postgres.check(paths, "connections to PostgreSQL cut five times")


def test_a_slow_postgresql(on_postgres: Site, line: Proxy) -> None:
    line.latency_s = 0.02  # each of the some ten messages of a transaction
    try:
        paths = on_postgres.make(2)
        on_postgres.send(paths)
        on_postgres.check(paths, "PostgreSQL with 20 ms of latency")
    finally:
        line.latency_s = 0.0


@pytest.mark.parametrize(
    "step", ["intake.commit", "listener.registered", "routing.commit", "worker.saving"]
)
def test_kill_around_a_commit_on_postgresql(on_postgres: Site, step: str) -> None:
    on_postgres.arm(f"{step}=kill")
    paths = on_postgres.make()
    on_postgres.send(paths)
    on_postgres.check(paths, f"kill -9 at {step}, PostgreSQL")


def test_no_process_is_left_over(on_postgres: Site) -> None:
    """After all that, one set of services runs, each of them once."""
    names = on_postgres.lentigo.children()
    assert {"listener", "sweeper", "workers-quick", "workers-long"} <= set(names)
    for pid in names.values():
        os.kill(pid, 0)
