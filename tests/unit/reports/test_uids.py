from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.uids import device_uid, result_uid, tracking_uid

uids = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)
keys = st.tuples(
    uids,
    st.integers(1, 10_000),
    st.text(min_size=1, max_size=20),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    st.text(max_size=20),
)


def is_legal(uid: str) -> bool:
    return len(uid) <= 64 and re.fullmatch(r"2\.25\.[1-9][0-9]*", uid) is not None


@given(keys)
def test_result_uid_is_legal_and_repeatable(key: tuple[str, int, str, str, str]) -> None:
    assert is_legal(result_uid(*key))
    assert result_uid(*key) == result_uid(*key)


@given(keys, keys)
def test_different_work_gets_different_uids(
    first: tuple[str, int, str, str, str], second: tuple[str, int, str, str, str]
) -> None:
    assert (result_uid(*first) == result_uid(*second)) == (first == second)


@given(st.text(max_size=12), st.text(max_size=12), uids, uids)
def test_no_two_ways_of_splitting_a_text_share_a_lesion(
    issuer: str, patient: str, study: str, instance: str
) -> None:
    uid = tracking_uid(issuer, patient, study, instance)
    assert is_legal(uid)
    assert uid != tracking_uid(issuer + "|", patient, study, instance)
    if patient:
        assert uid != tracking_uid(issuer + patient[0], patient[1:], study, instance)


def test_kinds_of_uid_do_not_meet() -> None:
    assert device_uid("a") != tracking_uid("", "a", "", "")
    assert is_legal(device_uid("installation-1"))


@pytest.mark.parametrize("position", range(5))
def test_every_part_of_the_work_counts(position: int) -> None:
    base = ["1.2.3", 1, "diagnosis", "a" * 64, "sr"]
    changed = list(base)
    changed[position] = 2 if position == 1 else f"{base[position]}0"
    assert result_uid(*base) != result_uid(*changed)


def test_published_uid_never_changes() -> None:
    uid = result_uid("1.2.3", 1, "diagnosis", "ab" * 32, "sr")
    assert uid == "2.25.202714973193471467745260129111210708304"
