"""Every error has a meaning, and every pause is bounded."""

from __future__ import annotations

import inspect
import random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.errors import InvalidDicomError
from sqlalchemy.exc import OperationalError

import gateway.errors
import models.errors
import reports.errors
import workers.errors
from workers.failure import FailureKind, backoff_s, classify

TRANSIENT = {
    "StorageUnavailable",
    "ModelUnavailable",
    "PriorsUnavailable",
    "DestinationGone",
    "ModelChanged",
    "RecordUnavailable",
    "LeaseLost",
    "SpoolFull",
    "QuotaExceeded",
    "SpoolError",
}
REJECTED = {"DemonstrationModel", "Undecodable", "NothingDecodable"}


def errors_of(module: ModuleType) -> list[type[Exception]]:
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__
    ]


ALL = [
    each
    for module in (gateway.errors, models.errors, reports.errors, workers.errors)
    for each in errors_of(module)
]


@pytest.mark.parametrize("error", ALL, ids=lambda each: each.__name__)
def test_every_error_of_ours_is_classified_and_its_words_are_kept(
    error: type[Exception],
) -> None:
    failure = classify(error("the reason"))
    assert failure.reason == "the reason"
    expected = (
        FailureKind.TRANSIENT
        if error.__name__ in TRANSIENT
        else FailureKind.REJECTED
        if error.__name__ in REJECTED
        else FailureKind.DEFECT
    )
    assert failure.kind is expected


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Canary^Patient"),
        InvalidDicomError("Canary^Patient"),
        OperationalError("SELECT 'Canary^Patient'", {}, Exception("Canary^Patient")),
        KeyError("Canary^Patient"),
    ],
)
def test_words_of_others_are_not_repeated(error: Exception) -> None:
    failure = classify(error)
    assert failure.kind is FailureKind.DEFECT
    assert "canary" not in failure.reason.lower()
    assert type(error).__name__ in failure.reason


def test_an_error_without_words_still_has_a_reason() -> None:
    assert classify(workers.errors.ModelUnavailable()).reason == "ModelUnavailable"


@given(
    attempt=st.integers(-5, 10**6),
    max_s=st.floats(0.1, 3600),
    base_s=st.floats(0.01, 60),
    seed=st.integers(),
)
def test_pause_is_positive_and_capped(attempt: int, max_s: float, base_s: float, seed: int) -> None:
    pause = backoff_s(attempt, max_s=max_s, base_s=base_s, rng=random.Random(seed))
    assert 0 < pause <= max_s
    assert pause >= min(max_s, base_s) / 2


@given(attempt=st.integers(1, 60), max_s=st.floats(1, 3600))
def test_pause_grows_until_the_cap(attempt: int, max_s: float) -> None:
    class Most(random.Random):
        def random(self) -> float:
            return 1.0

    now, later = (backoff_s(n, max_s=max_s, rng=Most()) for n in (attempt, attempt + 1))
    assert later == min(max_s, 2 * now) or later == now == max_s


def test_jitter_spreads_those_who_wait() -> None:
    pauses = {backoff_s(5, max_s=100) for _ in range(50)}
    assert len(pauses) > 40
    assert max(pauses) - min(pauses) > 2
