"""Fixtures of the fault matrix; the long part of it runs with ``-m faults``."""

from collections.abc import Iterator

import pytest

from tests.faults.site import Site, site


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long matrix to ``make test-faults``."""
    if "faults" in str(config.option.markexpr):
        return
    long = [item for item in items if item.get_closest_marker("faults")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker where the project's configuration does not."""
    config.addinivalue_line("markers", "faults: the long fault matrix; run by make test-faults")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One installation for all tests of a module."""
    # A short path: the socket of Redis lies in it.
    with site(tmp_path_factory.mktemp("f")) as found:
        yield found


@pytest.fixture
def healthy(running: Site) -> Iterator[Site]:
    """The installation with nothing armed, before and after."""
    running.disarm()
    running.heal()
    yield running
    running.disarm()
    running.heal()
