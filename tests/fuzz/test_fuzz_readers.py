"""Everything that reads a stranger's bytes in a process: bounded, the same inputs each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.engine import run_random
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

RUNS = {"picture": 120, "stream": 250, "multipart": 250, "association": 300}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Pydicom wonders about the values it meets; what our processes print is ``logs``' matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    found = request.param
    assert isinstance(found, Target)
    return found


def test_drawn_and_mutated_input_is_read_or_refused(target: Target) -> None:
    tried = run_random(target, seed=1, runs=RUNS.get(target.name, 600))
    assert tried.findings == {}


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(st.binary(max_size=2048))
    def read(data: bytes) -> None:
        TARGETS[name].read(data)

    read()


def test_what_is_drawn_gets_far_in() -> None:
    """A search whose input is turned away at the door would find nothing."""
    from random import Random

    from gateway.dicom.part10 import inspect
    from gateway.errors import InstanceError
    from tests.fuzz.data_sets import draw_file
    from tests.fuzz.targets import file_of

    outcomes: set[str] = set()
    for seed in range(300):
        with file_of(draw_file(Random(seed))) as path:
            try:
                inspect(path)
                outcomes.add("read")
            except InstanceError as exc:
                outcomes.add(type(exc).__name__)
    assert {"read", "Unreadable", "Truncated", "MissingIdentity"} <= outcomes
