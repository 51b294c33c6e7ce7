"""The record on SQLite and on PostgreSQL, for tests of the gateway."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from fastapi import FastAPI
from sqlalchemy import Engine, event, text

from gateway.dashboard.app import create_app
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import migrate, open_engine, utc_now
from gateway.store.people import accounts
from gateway.store.tables import Base
from tests.pages import BASE, ONE_TIME, TestClient, change_password, log_in
from tests.records import Record, TestClock, postgresql_database

# Only what holds rows is touched: TRUNCATE of every table makes each of their files anew.
_EMPTY_POSTGRESQL = """
DO $$
DECLARE name text; has_rows boolean;
BEGIN
  FOREACH name IN ARRAY ARRAY[{tables}] LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO has_rows;
    CONTINUE WHEN NOT has_rows;
    -- The audit trail lets nobody empty it, not even its owner, unless told so.
    EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', name);
    EXECUTE format('DELETE FROM %I', name);
    EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', name);
  END LOOP;
  FOR name IN SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL LOOP
    EXECUTE format('ALTER SEQUENCE %I RESTART', name);
  END LOOP;
END $$
""".format(tables=", ".join(f"'{each.name}'" for each in reversed(Base.metadata.sorted_tables)))

# Read before the fixture below hides it.
_GIVEN_SERVER = os.environ.get("LENTIGO_TEST_POSTGRESQL_URL", "")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the settings and the running instances of this host out of the tests."""
    for name in list(os.environ):
        if name.startswith("LENTIGO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server: the one given by the environment, or a private cluster."""
    if _GIVEN_SERVER:
        yield _GIVEN_SERVER
        return
    from tests.servers import postgres

    with postgres(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "record.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def _postgresql_record(postgresql_server: str) -> Iterator[tuple[str, Engine]]:
    with postgresql_database(postgresql_server) as url:
        migrate(url)
        engine = open_engine(url)
        yield url, engine
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def record_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty record on each kind of database; its schema must stay as it is."""
    if request.param == "sqlite":
        path = tmp_path / "record.sqlite3"
        shutil.copyfile(request.getfixturevalue("_sqlite_template"), path)
        return f"sqlite:///{path}"
    url, engine = request.getfixturevalue("_postgresql_record")
    with engine.begin() as connection:
        connection.execute(text(_EMPTY_POSTGRESQL))
    return str(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def own_record_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of the test's own, for what changes the schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'own.sqlite3'}"
        return
    with postgresql_database(request.getfixturevalue("postgresql_server")) as url:
        yield url


@pytest.fixture
def clock() -> TestClock:
    """The clock of the record."""
    return TestClock()


def _open(url: str) -> Engine:
    """Open a record that need not survive a power cut: waiting for the disk is most of a test."""
    engine = open_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
    return engine


@pytest.fixture
def engine(record_url: str) -> Iterator[Engine]:
    """Engine of the record."""
    engine = _open(record_url)
    yield engine
    engine.dispose()


@pytest.fixture
def record(engine: Engine, clock: TestClock) -> Record:
    """The record on each kind of database."""
    return Record(engine, clock)


@pytest.fixture
def sqlite_record(
    tmp_path: Path, _sqlite_template: Path, clock: TestClock
) -> Iterator[Callable[[Path], Record]]:
    """Makes a SQLite record as a home folder holds it."""
    engines = []

    def make(home: Path) -> Record:
        home.mkdir(parents=True, exist_ok=True)
        path = home / "record.sqlite3"
        shutil.copyfile(_sqlite_template, path)
        engines.append(_open(f"sqlite:///{path}"))
        return Record(engines[-1], clock)

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder that is not there yet."""
    return tmp_path / "home"


@pytest.fixture
def kept(
    home: Path,
    sqlite_record: Callable[[Path], Record],
    monkeypatch: pytest.MonkeyPatch,
) -> Record:
    """The record of the home folder, at the present time, with passwords that hash fast."""
    monkeypatch.setattr(
        accounts, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST)
    )
    record = sqlite_record(home)
    record.clock.now = utc_now()
    return record


@pytest.fixture
def app(home: Path, kept: Record) -> FastAPI:
    """The admin page of the home folder, with its first account."""
    accounts.Accounts(kept.engine).create_first("admin", ONE_TIME)
    return create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)


@pytest.fixture
def stranger(app: FastAPI) -> Iterator[TestClient]:
    """A browser that has not logged in."""
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A browser of an administrator at work."""
    log_in(stranger)
    assert change_password(stranger).status_code == 303
    return stranger
