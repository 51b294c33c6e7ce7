"""Reads PDUs off a connection through one buffer that is used again and again.

The values of a P-DATA-TF PDU go from that buffer to the spool without a copy. A peer that goes
silent, or sends so slowly that it only holds a place, is told from one that is merely slow.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.errors import PeerLost, ProtocolError
from gateway.listener.pdu import HEADER_BYTES, AbortReason, PduHeader, PduType, decode_header

# A-ASSOCIATE-RQ is not bound by the negotiated length; 128 full contexts need some 300 KB.
MAX_ASSOCIATE_BYTES = 1024 * 1024
TICK_S = 0.25
"""How often a waiting thread looks whether it should stop."""
_MIN_BUFFER_BYTES = 256 * 1024
_DRAIN_BYTES = 64 * 1024
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only


class Pdu(NamedTuple):
    """One PDU; ``body`` is valid until the next one is asked for."""

    kind: int
    body: memoryview


class PduStream:
    """The PDUs of one connection.

    Parameters
    ----------
    connection
        Plain or TLS, with its time-out set to ``TICK_S``.
    max_pdu_bytes
        Largest P-DATA-TF PDU that we announced, header left out.
    silence_s
        Time without a byte after which the peer is lost, and time in which its first PDU must be
        complete.
    on_tick
        Called when nothing came for a moment, with the seconds of silence; raises to end the wait.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        max_pdu_bytes: int,
        silence_s: float,
        on_tick: Callable[[float], None] = lambda _silence_s: None,
    ) -> None:
        self._connection = connection
        self._max_pdu_bytes = max_pdu_bytes
        self._silence_s = silence_s
        self._min_window_bytes = float("inf")  # one window for the association request, no more
        self._on_tick = on_tick
        self._buffer = memoryview(bytearray(max(_MIN_BUFFER_BYTES, 2 * max_pdu_bytes)))
        self._start = self._end = 0
        self._silent_s = 0.0
        self._window_s = 0.0
        self._window_bytes = 0
        self._quick_ack = _TCP_QUICKACK if connection.family != socket.AF_UNIX else None
        self.is_within_message = True
        """Set by whoever knows: a message has begun and is not complete."""

    def expect_messages(self, silence_s: float, min_bytes_per_s: float) -> None:
        """Judge the peer by these from now on.

        Parameters
        ----------
        silence_s
            Time without a byte after which it is lost.
        min_bytes_per_s
            Rate that a message must keep over each ``silence_s``; 0 for any.
        """
        self._silence_s = silence_s
        self._min_window_bytes = min_bytes_per_s * silence_s
        self._silent_s = self._window_s = 0.0
        self._window_bytes = 0
        self.is_within_message = False

    def next(self) -> Pdu:
        """Return the next PDU.

        Raises
        ------
        ProtocolError
            Its header is impossible, or it is longer than it may be.
        PeerLost
            The connection ended, or the peer sent nothing or too little for too long.
        """
        self._fill(HEADER_BYTES)
        header = decode_header(self._buffer[self._start : self._start + HEADER_BYTES])
        self._check_length(header)
        self._fill(HEADER_BYTES + header.length)
        start = self._start + HEADER_BYTES
        self._start = start + header.length
        return Pdu(header.kind, self._buffer[start : self._start])

    def _check_length(self, header: PduHeader) -> None:
        is_data = header.kind == PduType.P_DATA_TF
        limit = self._max_pdu_bytes if is_data else MAX_ASSOCIATE_BYTES
        if header.length > limit:
            raise ProtocolError(
                f"a PDU of {header.length} bytes where {limit} are taken",
                AbortReason.INVALID_PARAMETER,
            )

    def _fill(self, count: int) -> None:
        """Have ``count`` bytes in one piece from ``_start`` on."""
        if self._end - self._start >= count:
            return
        if self._start == self._end:
            self._start = self._end = 0
        if self._start + count > len(self._buffer):
            self._make_room(count)
        while self._end - self._start < count:
            self._receive()

    def _make_room(self, count: int) -> None:
        rest = bytes(self._buffer[self._start : self._end])
        if count > len(self._buffer):
            self._buffer = memoryview(bytearray(count))
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _receive(self) -> None:
        before = time.monotonic()
        try:
            if self._quick_ack is not None:
                # Not sticky, so again before each read: dcmtk senders leave Nagle's algorithm on
                # and would wait some 40 ms an instance for the delayed ACK of its last segment.
                self._connection.setsockopt(socket.IPPROTO_TCP, self._quick_ack, 1)
            count = self._connection.recv_into(self._buffer[self._end :])
        except TimeoutError:
            self._note_wait(time.monotonic() - before, 0)
            return
        except OSError as exc:
            raise PeerLost(f"the connection failed ({type(exc).__name__})") from exc
        if not count:
            raise PeerLost("the peer closed the connection")
        self._end += count
        self._note_wait(time.monotonic() - before, count)

    def _note_wait(self, waited_s: float, count: int) -> None:
        """Judge the peer by the time that we waited for it, not by the time that we took."""
        if count:
            self._silent_s = 0.0
        else:
            self._silent_s += waited_s
            self._on_tick(self._silent_s)
        if self._silent_s >= self._silence_s:
            raise PeerLost(f"the peer was silent for {self._silent_s:.0f} s")
        if not self._is_in_the_middle():
            self._window_s, self._window_bytes = 0.0, 0
            return
        self._window_s += waited_s
        self._window_bytes += count
        if self._window_s >= self._silence_s:
            if self._window_bytes < self._min_window_bytes:
                raise PeerLost(
                    f"the peer sent {self._window_bytes} bytes of a message in "
                    f"{self._window_s:.0f} s"
                )
            self._window_s, self._window_bytes = 0.0, 0

    def _is_in_the_middle(self) -> bool:
        return self.is_within_message or self._end > self._start


def send(connection: socket.socket, data: bytes, timeout_s: float) -> None:
    """Send ``data`` on a connection whose own time-out is short.

    Raises
    ------
    PeerLost
        The connection ended, or the peer took nothing for ``timeout_s``.
    """
    view = memoryview(data)
    deadline = time.monotonic() + timeout_s
    while view:
        try:
            view = view[connection.send(view) :]
        except TimeoutError as exc:
            if time.monotonic() >= deadline:
                raise PeerLost(f"the peer took no answer for {timeout_s:.0f} s") from exc
        except OSError as exc:
            raise PeerLost(f"the connection failed ({type(exc).__name__})") from exc


def linger(connection: socket.socket, timeout_s: float) -> None:
    """Wait for the peer to close (PS3.8 Sta13), so that it can read what we said last.

    What it still sends is thrown away; a connection closed over unread bytes would be reset, and
    the reset may overtake our last PDU.
    """
    deadline = time.monotonic() + timeout_s
    waste = bytearray(_DRAIN_BYTES)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    while time.monotonic() < deadline:
        try:
            if not connection.recv_into(waste):
                return
        except TimeoutError:
            continue
        except OSError:
            return
