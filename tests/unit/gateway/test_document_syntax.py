"""What is let in as a document, by its bytes alone."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.document_syntax import SYNTAX, media_type_of, parse_json
from gateway.errors import DocumentRefused


@pytest.mark.parametrize(
    ("name", "stated", "found"),
    [
        ("a.json", "", "application/json"),
        ("a.bin", "Application/FHIR+JSON; charset=utf-8", "application/fhir+json"),
        ("A.CSV", "application/octet-stream", "text/csv"),
    ],
)
def test_type_is_the_stated_one_or_that_of_the_name(name: str, stated: str, found: str) -> None:
    assert media_type_of(name, stated) == found


@pytest.mark.parametrize(
    ("name", "stated"), [("a.exe", ""), ("a.json", "text/html"), ("a", "image/png"), (".json", "")]
)
def test_other_types_are_refused(name: str, stated: str) -> None:
    with pytest.raises(DocumentRefused) as caught:
        media_type_of(name, stated)
    assert caught.value.status_code == 415


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'"text"',
        b"3",
        b"null",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": 1} {"b": 2}',
        b"\x00",
    ],
)
def test_broken_json_is_refused_without_a_word_of_it(content: bytes) -> None:
    with pytest.raises(DocumentRefused) as caught:
        SYNTAX["application/json"](content)
    assert caught.value.status_code == 422
    assert "9999" not in str(caught.value)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    SYNTAX["text/csv"](b"\xef\xbb\xbfa,b\r\n1,2\r\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b\n1\n", "line 2 has 1 columns"),
        (b"a,b\n1,2\n1,2,3\n", "line 3"),
        (b'a,b\n"1,2\n', "no CSV"),
        (b"a,b\n1,\xff\n", "UTF-8"),
        (b"a,\0\n", "NUL"),
        (b"\n", "names no column"),
        (b"a\n" + b"x" * 2_000_000, "no CSV"),
    ],
)
def test_broken_csv_is_refused_with_its_line(content: bytes, why: str) -> None:
    with pytest.raises(DocumentRefused, match=why) as caught:
        SYNTAX["text/csv"](content)
    assert caught.value.status_code == 422


def test_csv_may_quote_and_end_in_blank_lines() -> None:
    SYNTAX["text/csv"](b'a,b\n"x, ""y""\nz",2\n\n\n')


@given(st.binary(max_size=200), st.sampled_from(sorted(SYNTAX)))
def test_any_bytes_are_let_in_or_refused(content: bytes, media_type: str) -> None:
    with contextlib.suppress(DocumentRefused):  # and by nothing else
        SYNTAX[media_type](content)
