"""An earlier version that is put back finds the record of a later one, and leaves it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.errors import SchemaTooNew
from gateway.settings import StoreSettings
from gateway.store.engine import migrate, open_engine, reading, writing
from gateway.store.schema import refuse_newer_schema, revision_of
from tests.lentigo import ROOT

LATER = "9999"


def stamp(url: str, revision: str) -> None:
    """Make it a record of another version."""
    engine = open_engine(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
    engine.dispose()


def revision(url: str) -> str | None:
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            return revision_of(connection)
    finally:
        engine.dispose()


def begin(home: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env={
            **os.environ,
            "LENTIGO_HOME": str(home),
            "LENTIGO_BROKER_URL": "redis://127.0.0.1:1/0",
            "LENTIGO_LISTENER_PORT": "0",
        },
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def later_home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    url = StoreSettings(home=home).record_url
    migrate(url)
    stamp(url, LATER)
    return home


SERVICES = (
    *(("-m", "gateway", each) for each in ("migrate", "listen", "sweep", "dashboard")),
    ("-m", "workers"),
    ("-m", "gateway.cli", "up", "--dicom-port", "0", "--http-port", "0"),
)


@pytest.mark.timeout(400)
def test_nothing_of_an_earlier_version_starts_on_the_record_of_a_later_one(
    later_home: Path,
) -> None:
    # At once: none of them changes anything, and most of each is Python that starts.
    begun = {" ".join(command): begin(later_home, *command) for command in SERVICES}
    try:
        said = {name: process.communicate(timeout=300)[1] for name, process in begun.items()}
    finally:
        for process in begun.values():
            process.kill()
            process.communicate()
    for name, process in begun.items():
        assert process.returncode == 1, (name, said[name])
        assert f"schema {LATER}" in said[name], name
        assert "restore the backup" in said[name], name
        assert "Traceback" not in said[name], name
    assert revision(StoreSettings(home=later_home).record_url) == LATER


def test_on_postgresql_too(postgresql_url: str) -> None:
    migrate(postgresql_url)
    refuse_newer_schema(postgresql_url)
    stamp(postgresql_url, LATER)
    with pytest.raises(SchemaTooNew, match=LATER):
        refuse_newer_schema(postgresql_url)


def test_a_record_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    refuse_newer_schema(f"sqlite:///{tmp_path / 'record.sqlite3'}")
    refuse_newer_schema("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
