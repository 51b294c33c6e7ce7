"""Reads a multipart/related body (RFC 2046 5.1, RFC 2387) as it comes, in bounded memory.

Bytes are fed in blocks of any size; out come the beginnings, the data and the ends of parts. A
part's data is passed on as soon as it cannot be part of a delimiter, so that an instance of
gigabytes never lies in memory. What a part means is for ``gateway.dicomweb.reception``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message

from gateway.errors import MultipartError

MAX_HEADER_BYTES = 16 * 1024
MAX_PREAMBLE_BYTES = 64 * 1024
_MAX_BOUNDARY = 200  # RFC 2046 5.1.1 says 70; Orthanc sends 73
_MAX_PADDING_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class MediaType:
    """A Content-Type: ``type/subtype`` in lower case, and its parameters."""

    essence: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> MediaType:
        """Read a Content-Type; what cannot be read has an empty essence.

        Examples
        --------
        >>> MediaType.parse('multipart/related; type="application/dicom"; boundary=x').parameters
        {'type': 'application/dicom', 'boundary': 'x'}
        """
        message = Message()
        # Message takes no line ends in a value; nobody means well with one here.
        message["content-type"] = " ".join(text.split())
        found = message.get_params(failobj=[]) or []
        essence = found[0][0].strip().lower() if found else ""
        return cls(
            essence=essence if essence.count("/") == 1 else "",
            # An extended value (RFC 2231) is (charset, language, text).
            parameters={
                name.lower(): value[2] if isinstance(value, tuple) else value
                for name, value in found[1:]
                if name
            },
        )


@dataclass(frozen=True, kw_only=True)
class PartBegin:
    """A part begins."""

    headers: Mapping[str, str]
    """By name in lower case; of a repeated one the last."""


@dataclass(frozen=True, kw_only=True)
class PartData:
    """Some bytes of the current part."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class PartEnd:
    """The current part is complete."""


Event = PartBegin | PartData | PartEnd


class _State(enum.Enum):
    PREAMBLE = "preamble"
    HEADERS = "headers"
    BODY = "body"
    EPILOGUE = "epilogue"


class MultipartReader:
    """Takes a body apart, front to back.

    Parameters
    ----------
    boundary
        As in the Content-Type of the request.

    Raises
    ------
    MultipartError
        The boundary is empty, of absurd length or not ASCII.
    """

    def __init__(self, boundary: str) -> None:
        if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
            raise MultipartError(f"the boundary must have 1 to {_MAX_BOUNDARY} ASCII characters")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very start
        self._state = _State.PREAMBLE
        self._skipped = 0

    @property
    def is_complete(self) -> bool:
        """Whether the closing delimiter was read."""
        return self._state is _State.EPILOGUE

    def feed(self, block: bytes) -> Iterator[Event]:
        """Take in the next bytes of the body; yield what they complete.

        Raises
        ------
        MultipartError
            The body is none, or its headers or preamble are of absurd length.
        """
        if self._state is _State.EPILOGUE:
            return  # RFC 2046 5.1.1: to be ignored
        self._buffer += block
        steps = {
            _State.PREAMBLE: self._preamble,
            _State.HEADERS: self._headers,
            _State.BODY: self._body,
        }
        while self._state in steps:
            events, goes_on = steps[self._state]()
            yield from events
            if not goes_on:
                return

    def _preamble(self) -> tuple[list[Event], bool]:
        at, after = self._find()
        if after is None:
            self._skipped += at
            del self._buffer[:at]
            if self._skipped > MAX_PREAMBLE_BYTES:
                raise MultipartError("the body does not begin with its boundary")
            return [], False
        self._enter(after)
        return [], True

    def _headers(self) -> tuple[list[Event], bool]:
        # The line end of the delimiter was left in place: a part may have no header at all.
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES + 4)
        if end < 0:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise MultipartError("the headers of a part are too long")
            return [], False
        headers = _parse_headers(bytes(self._buffer[2:end]))
        del self._buffer[: end + 4]
        self._state = _State.BODY
        return [PartBegin(headers=headers)], True

    def _body(self) -> tuple[list[Event], bool]:
        at, after = self._find()
        events: list[Event] = []
        if at:
            events.append(PartData(data=bytes(self._buffer[:at])))
        if after is None:
            del self._buffer[:at]
            return events, False
        self._enter(after)
        events.append(PartEnd())
        return events, True

    def _enter(self, after: int) -> None:
        """Go on behind a delimiter that ends at ``after``: the next part, or the end."""
        is_last = self._buffer[after - 2 : after] == b"--"
        del self._buffer[: after if is_last else after - 2]
        if is_last:
            self._buffer.clear()
        self._state = _State.EPILOGUE if is_last else _State.HEADERS

    def _find(self) -> tuple[int, int | None]:
        """Return where the next delimiter begins, and the byte behind it.

        Without one: how many bytes are surely none, and None.
        """
        buffer, size = self._buffer, len(self._delimiter)
        at = buffer.find(self._delimiter)
        while at >= 0:
            tail = bytes(buffer[at + size : at + size + _MAX_PADDING_BYTES])
            if tail.startswith(b"--"):
                return at, at + size + 2
            rest = tail.lstrip(b" \t")
            if rest.startswith(b"\r\n"):
                return at, at + size + len(tail) - len(rest) + 2
            if tail in (b"", b"-") or (rest in (b"", b"\r") and len(tail) < _MAX_PADDING_BYTES):
                return at, None  # the next block decides
            at = buffer.find(self._delimiter, at + 1)  # only the beginning of a longer line
        # The end of the block may hold the beginning of a delimiter, which starts with CR.
        candidate = buffer.find(b"\r", max(0, len(buffer) - size + 1))
        while candidate >= 0 and not self._delimiter.startswith(buffer[candidate:]):
            candidate = buffer.find(b"\r", candidate + 1)
        return (candidate if candidate >= 0 else len(buffer)), None


def _parse_headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    name = ""
    for line in block.decode("latin-1").split("\r\n"):
        if line[:1] in (" ", "\t") and name:
            headers[name] += " " + line.strip()  # RFC 5322 2.2.3, folding
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if line and (not colon or not name):
            raise MultipartError("a header of a part cannot be read")
        if name:
            headers[name] = value.strip()
    return headers
