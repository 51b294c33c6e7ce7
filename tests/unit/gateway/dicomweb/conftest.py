"""The application behind a real HTTP server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI

from gateway.settings import StoreSettings
from tests.pages import TestClient
from tests.web import AUTH, served


@pytest.fixture
def web(client: TestClient, app: FastAPI) -> Iterator[str]:
    """Address of the DICOMweb services, with an account that may use them."""
    with served(app) as address:
        yield f"{address}/dicomweb"


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """A client with the account's password."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = AUTH
        yield session


@pytest.fixture
def spool(home: Path) -> Callable[[str], list[Path]]:
    """What lies in one folder of the spool."""

    def listing(folder: str) -> list[Path]:
        root = StoreSettings(home=home).spool_folder / folder
        return sorted(path for path in root.rglob("*") if path.is_file())

    return listing
