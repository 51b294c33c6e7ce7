"""Fixtures of the browser tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Folder for the pictures that a test takes: ``build/screenshots/<test>``.

    ``SCREENSHOTS`` names another folder than ``build/screenshots``.
    """
    root = Path(os.environ.get("SCREENSHOTS") or request.config.rootpath / "build/screenshots")
    folder = root / request.node.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
