"""A PostgreSQL for the tests of the deployment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.records import postgresql_database
from tests.servers import postgres, require


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server; tests make databases of their own on it."""
    require("postgres")
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """An empty database."""
    with postgresql_database(postgresql_server) as url:
        yield url
