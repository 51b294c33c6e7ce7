"""Plays a conversation to a listener and notes what it answers."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.fuzz.messages import (
    ABORT,
    ASSOCIATE_AC,
    C_STORE_RSP,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    Conversation,
    pdu,
)

ANSWER_S = 30.0
"""Longest wait for what must come."""
_PATIENCE_S = 0.25
"""Wait for what may come."""


@dataclass(kw_only=True)
class Answer:
    """One C-STORE-RSP."""

    message_id: int
    status: int
    sop_instance_uid: str


@dataclass(kw_only=True)
class Played:
    """What became of one conversation."""

    answers: list[Answer] = field(default_factory=list)
    is_accepted: bool = False
    contexts: set[int] = field(default_factory=set)
    """Presentation contexts that were accepted."""
    ended_by: str = ""
    """``released``, ``aborted``, ``closed``, ``us`` or ``silence``."""
    sent: int = 0
    """C-STOREs that were sent to the end."""
    unanswered: int = 0
    """Of these, those that had to be answered and were not."""


class _Line:
    """A connection and the PDUs that come on it."""

    def __init__(self, connection: socket.socket, played: Played) -> None:
        self._connection = connection
        self._played = played
        self._data = b""
        self.is_over = False

    def send(self, data: bytes) -> None:
        """Send all, unless the peer has gone."""
        try:
            self._connection.sendall(data)
        except OSError:
            self._end("closed")

    def wait(self, timeout_s: float, is_enough: Callable[[Played], bool]) -> None:
        """Take in PDUs until there is enough, or the end."""
        deadline = time.monotonic() + timeout_s
        while not self.is_over and time.monotonic() < deadline:
            while self._next():
                pass
            if is_enough(self._played):
                return
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                received = self._connection.recv(65536)
            except TimeoutError:
                return
            except OSError:
                self._end("closed")
                return
            if not received:
                self._end("closed")
            self._data += received

    def _end(self, how: str) -> None:
        if not self.is_over:
            self.is_over, self._played.ended_by = True, how

    def _next(self) -> bool:
        """Take one complete PDU from what was received, if there is one."""
        if len(self._data) < 6:
            return False
        kind, length = struct.unpack_from(">BxI", self._data)
        if len(self._data) < 6 + length:
            return False
        body, self._data = self._data[6 : 6 + length], self._data[6 + length :]
        if kind == ASSOCIATE_AC:
            self._played.is_accepted = True
            self._played.contexts |= set(_accepted_contexts(body))
        elif kind == P_DATA:
            self._note(body)
        elif kind in (RELEASE_RP, ABORT):
            self._end("released" if kind == RELEASE_RP else "aborted")
        return True

    def _note(self, body: bytes) -> None:
        command = body[6:]
        values: dict[int, bytes] = {}
        position = 0
        while position + 8 <= len(command):
            _, number, length = struct.unpack_from("<HHI", command, position)
            values[number] = command[position + 8 : position + 8 + length]
            position += 8 + length
        if values.get(0x0100) != struct.pack("<H", C_STORE_RSP):
            return
        self._played.answers.append(
            Answer(
                message_id=int.from_bytes(values.get(0x0120, b""), "little"),
                status=int.from_bytes(values.get(0x0900, b"\xff\xff"), "little"),
                sop_instance_uid=values.get(0x1000, b"").decode("ascii", "replace").rstrip("\0 "),
            )
        )


def _accepted_contexts(body: bytes) -> Iterator[int]:
    """Yield the identifiers of the accepted contexts of an A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    position = 68
    while position + 8 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        if kind == 0x21 and body[position + 6] == 0:
            yield body[position + 4]
        position += 4 + length


def _has_answer(message_id: int, played: Played) -> bool:
    return any(answer.message_id == message_id for answer in played.answers)


def _never(_played: Played) -> bool:
    return False


def play(conversation: Conversation, port: int) -> Played:
    """Play one conversation to the end; never raises for what the listener does to it."""
    played = Played()
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = _Line(connection, played)
        line.send(conversation.request)
        is_plain = conversation.layer != "association"
        if not conversation.is_pipelined:
            line.wait(ANSWER_S if is_plain else _PATIENCE_S, lambda so_far: so_far.is_accepted)
        for message in conversation.messages:
            if line.is_over:
                break
            if conversation.layer == "data set" and message.context not in played.contexts:
                continue
            line.send(message.data)
            played.sent += 1
            if conversation.is_pipelined:
                continue
            wait_s = ANSWER_S if message.must_be_answered else _PATIENCE_S
            has_answer = functools.partial(_has_answer, message.message_id)
            line.wait(wait_s, has_answer)
            played.unanswered += message.must_be_answered and not has_answer(played)
        _end(conversation.ending, connection, line)
        if not line.is_over:
            played.ended_by = "us" if conversation.ending == "reset" else "silence"
    return played


def _end(ending: str, connection: socket.socket, line: _Line) -> None:
    if ending == "reset":
        # SO_LINGER of zero: the kernel resets the connection when it is closed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    if ending == "release":
        line.send(pdu(RELEASE_RQ, bytes(4)))
        line.wait(_PATIENCE_S * 4, _never)
    elif ending == "abort":
        line.send(pdu(ABORT, bytes(4)))
    if not line.is_over:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        line.wait(ANSWER_S, _never)
