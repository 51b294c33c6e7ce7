"""Patterns of rules: the same answers as a backtracking engine, in bounded time."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rules.patterns import (
    MAX_PATTERN_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    Pattern,
    PatternError,
)

PIECES = (*"ab01.|()[]*+?{},^-$:", "\\d", "\\W", "\\s", "\\.", "(?:", "[^", "{1,2}", "{2}", "a-b")


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    st.text("ab01-.x^]", max_size=5),
)
def test_a_pattern_that_is_taken_answers_like_re(pattern, text):
    try:
        ours = Pattern(pattern)
    except PatternError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "[[]": what it may mean in a later Python
        theirs = re.compile(pattern)
    assert ours.fits(text) == bool(theirs.fullmatch(text))


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("Derm.*", "Dermoscopy", True),
        ("Derm.*", "a Dermoscopy", False),
        ("(?i)DERM.*", "dermoscopy", True),
        ("(?i)stra[s-t]e", "STRASE", True),
        ("^left|right$", "right", True),
        ("[^0-9]+", "Rücken", True),
        ("\\d{3}Y", "042Y", True),
        ("\\d{3}Y", "42Y", False),
        ("a{2,}", "a", False),
        ("a{2,}", "aaaa", True),
        ("", "", True),
    ],
)
def test_examples(pattern, text, fits):
    assert Pattern(pattern).fits(text) is fits


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+x", "(.*.*.*.*){5}x"])
def test_patterns_that_freeze_a_backtracking_engine_end(pattern):
    """Each would take longer than the universe has with ``re``; here it is one pass."""
    assert not Pattern(pattern).fits("a" * MAX_TEXT_CHARACTERS)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "not closed"),
        ("a)", "unbalanced"),
        ("[a", "not closed"),
        ("*a", "nothing stands before"),
        ("a**", "repetition of a repetition"),
        ("(?=a)b", "only (?: )"),
        ("(a)\\1", "\\1 is not known"),
        ("a{300}", "at most 200"),
        ("a{2,1}", "from m to n"),
        ("((a{100}){100})", "too large"),
        ("[b-a]", "is empty"),
        ("a$b", "within a pattern"),
        ("a\\", "nothing stands behind"),
        ("(" * 60 + ")" * 60, "nested too deeply"),
        ("a" * (MAX_PATTERN_CHARACTERS + 1), "at most"),
    ],
)
def test_what_cannot_be_done_in_bounded_time_is_refused_with_its_place(pattern, said):
    with pytest.raises(PatternError, match=re.escape(said)):
        Pattern(pattern)


def test_a_value_longer_than_any_text_matches_nothing():
    assert not Pattern(".*").fits("a" * (MAX_TEXT_CHARACTERS + 1))
