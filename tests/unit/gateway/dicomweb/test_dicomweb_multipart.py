"""multipart/related, taken apart in blocks of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dicomweb.file_start import MAX_META_BYTES, FileStart
from gateway.dicomweb.multipart import (
    MAX_HEADER_BYTES,
    MAX_PREAMBLE_BYTES,
    MediaType,
    MultipartReader,
    PartBegin,
    PartData,
    PartEnd,
)
from gateway.errors import MultipartError, Unreadable

BOUNDARY = "b0undary"


def message(parts, *, boundary=BOUNDARY, closing=True, start=b""):
    body = start
    for headers, data in parts:
        body += b"\r\n--" + boundary.encode() + b"\r\n" + headers + b"\r\n\r\n" + data
    return body + (b"\r\n--" + boundary.encode() + b"--" if closing else b"")


def read(body, size=None, boundary=BOUNDARY):
    """Return the parts of a body that comes in blocks, and whether its end was seen."""
    reader, parts, is_open = MultipartReader(boundary), [], False
    for at in range(0, len(body), size or max(1, len(body))):
        for event in reader.feed(body[at : at + (size or len(body))]):
            if isinstance(event, PartBegin):
                assert not is_open
                parts.append([event.headers, b""])
                is_open = True
            elif isinstance(event, PartData):
                assert is_open
                parts[-1][1] += event.data
            else:
                assert isinstance(event, PartEnd)
                is_open = False
    return parts, reader.is_complete, is_open


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, None])
@pytest.mark.parametrize("start", [b"", b"preamble text", b"\r\n\r\n", b"--b0und\r\n-- b0undary"])
def test_parts_come_out_as_they_went_in(size, start):
    data = [b"", b"\r\n", b"--b0undary", b"\r\n--b0undar", b"\r\r\n-\r\n--", b"\r\n--b0undaryx\r\n"]
    body = message([(b"Content-Type: application/dicom", each) for each in data], start=start)
    parts, is_complete, _ = read(body + b"\r\nepilogue\r\n--b0undary\r\n", size)
    assert [each[1] for each in parts] == data
    assert is_complete
    assert parts[0][0] == {"content-type": "application/dicom"}


@given(
    st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--b", b"\r\n--b", b" ", b"x"]))),
    st.integers(1, 9),
)
def test_any_data_in_any_blocks(data, size):
    wanted = [b"".join(each) for each in data]
    # What is itself a delimiter cannot be data (RFC 2046 5.1.1): a boundary that nobody drew.
    body = message([(b"A: b", each) for each in wanted], boundary="bbbb")
    parts, is_complete, _ = read(body, size, boundary="bbbb")
    assert [each[1] for each in parts] == wanted
    assert is_complete


@pytest.mark.parametrize("size", [1, 5, None])
def test_a_boundary_as_long_as_that_of_orthanc(size):
    boundary = "7592403f-c509-4d5f-b02e-6b4c6fa7b0aa-" * 2
    parts, is_complete, _ = read(message([(b"A: b", b"1")], boundary=boundary), size, boundary)
    assert (parts, is_complete) == ([[{"a": "b"}, b"1"]], True)


@pytest.mark.parametrize("size", [1, 5, None])
def test_padding_folding_and_parts_without_headers(size):
    body = (
        b"--b0undary  \t \r\nContent-Type: application/dicom;\r\n transfer-syntax=*\r\nX:1\r\n\r\n1"
        b"\r\n--b0undary\r\n\r\n2\r\n--b0undary--"
    )
    parts, is_complete, _ = read(body, size)
    assert parts == [
        [{"content-type": "application/dicom; transfer-syntax=*", "x": "1"}, b"1"],
        [{}, b"2"],
    ]
    assert is_complete


def test_a_body_that_ends_early_is_not_complete():
    whole = message([(b"A: b", b"data")])
    for end in range(len(whole) - 1):
        _, is_complete, _ = read(whole[:end])
        assert not is_complete, end


def test_thousands_of_parts():
    parts, is_complete, _ = read(message([(b"A: b", b"")] * 5000), 4096)
    assert is_complete
    assert len(parts) == 5000


@pytest.mark.parametrize(
    "body",
    [
        b"x" * (MAX_PREAMBLE_BYTES + 100),
        b"--b0undary\r\nA: " + b"x" * (MAX_HEADER_BYTES + 100),
        b"--b0undary\r\n" + b"A: b\r\n" * 10000,
        b"--b0undary\r\nno header at all\r\n\r\n",
        b"--b0undary\r\n: nameless\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1000, None])
def test_absurd_bodies_are_refused(body, size):
    with pytest.raises(MultipartError):
        read(body, size)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "ä"])
def test_absurd_boundaries_are_refused(boundary):
    with pytest.raises(MultipartError):
        MultipartReader(boundary)


def test_memory_is_bounded_by_the_block():
    reader = MultipartReader(BOUNDARY)
    list(reader.feed(b"--b0undary\r\n\r\n\r\n"))
    for _ in range(50):
        list(reader.feed(bytes(100_000)))
        assert len(reader._buffer) < 100


@pytest.mark.parametrize(
    ("text", "essence", "parameters"),
    [
        ("Multipart/Related; Type=application/dicom;boundary=\"a b\"", "multipart/related",
         {"type": "application/dicom", "boundary": "a b"}),
        ("application/dicom", "application/dicom", {}),
        ("", "", {}),
        (";;;", "", {}),
        ("a/b/c", "", {}),
        ("a/b; c*=utf-8\'\'d%20e; =f", "a/b", {"c": "d e"}),
        ("text/plain\r\nX: y", "text/plain x: y", {}),
    ],
)  # fmt: skip
def test_media_types(text, essence, parameters):
    found = MediaType.parse(text)
    assert (found.essence, found.parameters) == (essence, parameters)


# -- the start of a file ---------------------------------------------------------------------------


def meta(*elements):
    return bytes(128) + b"DICM" + b"".join(elements)


def element(number, value, vr=b"UI"):
    head = b"\x02\x00" + number.to_bytes(2, "little") + vr
    size = len(value).to_bytes(2, "little")
    return head + (b"\0\0" + len(value).to_bytes(4, "little") if vr == b"OB" else size) + value


WHOLE = meta(
    element(0, b"\0\0\0\0", b"UL"),  # its group length is not believed
    element(1, b"\0\1", b"OB"),
    element(2, b"1.2.840.10008.5.1.4.1.1.7\0"),
    element(3, b"1.2.3\0"),
    element(0x10, b"1.2.840.10008.1.2.1\0"),
    element(0x16, b"CANARY", b"AE"),
)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_meta_information_ends_where_the_data_set_begins(size):
    file = WHOLE + b"\x08\x00\x05\x00CS\x00\x00"
    start, found, rest = FileStart(), None, b""
    for at in range(0, len(file), size):
        block = file[at : at + size]
        if found is None:
            read_now = start.feed(block)
            if read_now is not None:
                found, rest = read_now
        else:
            rest += block
    assert (found.sop_instance_uid, found.transfer_syntax_uid) == ("1.2.3", "1.2.840.10008.1.2.1")
    assert rest == b"\x08\x00\x05\x00CS\x00\x00"


@pytest.mark.parametrize(
    "file",
    [
        bytes(200),
        meta(element(2, b"1.2"), element(3, b"1.2.3")) + b"\x08\x00",
        meta(element(3, b"1.2.3"), element(0x10, b"1.2")) + b"\x08\x00",
        meta(element(2, b"1.2"), element(0x10, b"1.2")) + b"\x08\x00",
        meta(element(2, b"'; DROP"), element(3, b"1.2.3"), element(0x10, b"1.2")) + b"\x08\x00",
        meta(b"\x02\x00\x01\x00OB\0\0\xff\xff\xff\xff"),
        meta(*[element(0x102, bytes(60000))] * (MAX_META_BYTES // 60000 + 2)),
    ],
)
def test_what_is_no_dicom_file_is_refused(file):
    with pytest.raises(Unreadable):
        FileStart().feed(file)
