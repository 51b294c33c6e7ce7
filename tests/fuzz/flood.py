"""Many mutated DIMSE messages on few associations: how a listener is sent a million of them.

A conversation of ``messages`` is wrong at one layer and mostly ends there. Here the framing is
right, so that an association lives long and every message is read: what lies is the command set or
the data set. A message counts when the listener has answered it, or has aborted the association
over it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from gateway.listener import acceptance
from tests.fuzz.byte_mutations import mutate
from tests.fuzz.data_sets import SYNTAXES, draw_data_set, draw_identity
from tests.fuzz.messages import (
    ABORT,
    ASSOCIATE_AC,
    CONTEXTS,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    associate_request,
    encode_command,
    pdu,
    pdv,
    proposal,
    store_command,
)

COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model SOP Class
_COMMITMENT_CONTEXT = 13
_BATCH = 16
_ANSWER_S = 60.0
_RESPONSE = 0x8000
_FAULT_OF_THE_RECEIVER = 0xC0FF
# C-CANCEL-RQ is not among them: it has no response (PS3.7 9.3.2.3).
_REQUESTS = (0x0030, 0x0010, 0x0020, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150)
_ODD_ELEMENTS = (0x0001, 0x0120, 0x0600, 0x0700, 0x0900, 0x0902, 0x1000, 0x1002, 0x1005, 0x1008,
                 0x1020, 0x1030, 0x1031, 0x5010, 0xFFFF)  # fmt: skip
_VALUES = (b"", b"\0", b"\xff" * 70, b"1.2.3\0", b"9" * 64, b"../" * 30, b"\xff\xff", b"\\" * 8)
DATA_SETS = 0.05
"""Share of the messages that carry a data set; they cost the listener fifty times as much as a
request alone. One in six of them asks for storage commitment, the others are C-STOREs."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One message as bytes."""

    kind: str
    data: bytes
    sop_instance_uid: str = ""


@dataclass(kw_only=True)
class Flood:
    """What one association came to."""

    counted: Counter[str] = field(default_factory=Counter)
    """Messages that were answered or that ended the association, by kind."""
    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def _command(context: int, elements: list[tuple[int, bytes]]) -> bytes:
    return pdu(P_DATA, pdv(context, 3, encode_command(elements)))


def _draw_request(rng: Random) -> Drawn:
    """Return a request without a data set, on any context, with fields that lie."""
    elements = [
        (0x0002, rng.choice((b"1.2.840.10008.1.1\0", *_VALUES))),
        (0x0100, struct.pack("<H", rng.choice(_REQUESTS[:4]))),
        (0x0110, struct.pack("<H", rng.randrange(0x10000))),
        (0x0800, b"\1\1"),
    ]
    for _ in range(rng.choice((1, 1, 2, 8))):
        value = rng.choice((rng.randbytes(rng.randrange(24)), *_VALUES))
        elements.insert(rng.randrange(len(elements) + 1), (rng.choice(_ODD_ELEMENTS), value))
    if rng.random() < 0.3:
        rng.shuffle(elements)
    return Drawn(kind="request", data=_command(rng.choice((1, 3, 5, 7, 9)), elements))


def _draw_store(rng: Random, number: int) -> Drawn:
    identity = draw_identity(rng)
    context = rng.choice([each for each in CONTEXTS if each not in (1, 11)])
    data_set = draw_data_set(identity, CONTEXTS[context][1], rng, rng.choice((None, 1, 1, 2, 3)))
    body = pdu(P_DATA, pdv(context, 3, encode_command(store_command(identity, number))))
    pieces = [data_set[at : at + 16000] for at in range(0, len(data_set), 16000)] or [b""]
    for position, piece in enumerate(pieces):
        body += pdu(P_DATA, pdv(context, 2 * (position == len(pieces) - 1), piece))
    return Drawn(kind="data set", data=body, sop_instance_uid=identity.sop_instance_uid)


def _draw_commitment(rng: Random, number: int) -> Drawn:
    """Return an N-ACTION of storage commitment (PS3.4 J.3.2) whose information lies."""
    elements = [
        (0x0003, COMMITMENT.encode()),
        (0x0100, struct.pack("<H", 0x0130)),
        (0x0110, struct.pack("<H", number)),
        (0x0800, b"\1\0"),
        (0x1001, b"1.2.840.10008.1.20.1.1"),
        (0x1008, struct.pack("<H", rng.choice((1, 1, 1, 0, 2, 0xFFFF)))),
    ]
    # Not UIDs of ours: what is asked for is never here.
    data_set = draw_data_set(draw_identity(rng), SYNTAXES["implicit"], rng)[:15000]
    body = pdv(_COMMITMENT_CONTEXT, 3, encode_command(elements))
    return Drawn(kind="commitment", data=pdu(P_DATA, body + pdv(_COMMITMENT_CONTEXT, 2, data_set)))


def _draw_command(rng: Random, number: int) -> Drawn:
    """Return a command set with any byte wrong: most of them end the association."""
    encoded = mutate(encode_command(store_command(draw_identity(rng), number)), rng)
    return Drawn(kind="command", data=pdu(P_DATA, pdv(3, 3, encoded)))


def draw_messages(rng: Random, count: int, data_sets: float = DATA_SETS) -> list[Drawn]:
    """Return so many messages; one that breaks the association can only be the last."""
    drawn = []
    for number in range(1, count + 1):
        if rng.random() >= data_sets:
            drawn.append(_draw_request(rng))
        elif rng.random() < 1 / 6:
            drawn.append(_draw_commitment(rng, number))
        else:
            drawn.append(_draw_store(rng, number))
    return [*drawn, _draw_command(rng, count + 1)]


class _Peer:
    """The requestor's side, as little of it as can be."""

    def __init__(self, connection: socket.socket, flood: Flood) -> None:
        self._connection, self._flood = connection, flood
        self._buffer = b""
        self.responses = 0
        self.kind = 0
        """Type of the last PDU; 0 after the connection has ended."""

    def next(self) -> int:
        """Take in one PDU; return its type, 0 at the end."""
        while len(self._buffer) < 6 or len(self._buffer) < 6 + self._length():
            received = self._receive()
            if not received:
                self.kind = 0
                return 0
            self._buffer += received
        end = 6 + self._length()
        kind, body = self._buffer[0], self._buffer[6:end]
        self._buffer = self._buffer[end:]
        if kind == P_DATA:
            self._note(body)
        self.kind = kind
        return kind

    def _length(self) -> int:
        return int.from_bytes(self._buffer[2:6], "big")

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(65536)
        except ConnectionError:
            return b""

    def _note(self, body: bytes) -> None:
        values = {}
        position = 6
        while position + 8 <= len(body) and body[5] & 1:
            _, number, length = struct.unpack_from("<HHI", body, position)
            values[number] = body[position + 8 : position + 8 + length]
            position += 8 + length
        field_ = int.from_bytes(values.get(0x0100, b""), "little")
        if not field_ & _RESPONSE:
            return  # an N-EVENT-REPORT-RQ, which we leave unanswered as some senders do
        self.responses += 1
        status = int.from_bytes(values.get(0x0900, b"\xff\xff"), "little")
        self._flood.statuses[status] += 1
        if field_ == 0x8001 and status == 0:
            uid = values.get(0x1000, b"").decode("ascii", "replace").rstrip("\0 ")
            self._flood.acknowledged.add(uid)
        elif status == _FAULT_OF_THE_RECEIVER:
            self._flood.faults.append("a fault of the receiver (C0FF)")

    def wait_for(self, count: int) -> bool:
        """Take in PDUs until so many responses came; False when the association ended first."""
        while self.responses < count:
            if self.next() in (0, ABORT, RELEASE_RP):
                return False
        return True


def _send_all(connection: socket.socket, peer: _Peer, drawn: list[Drawn], flood: Flood) -> bool:
    """Send in batches; return whether the association is still there."""
    for start in range(0, len(drawn), _BATCH):
        batch = drawn[start : start + _BATCH]
        before = peer.responses
        with contextlib.suppress(ConnectionError):  # what it answered before it went is read below
            connection.sendall(b"".join(each.data for each in batch))
        is_there = peer.wait_for(before + len(batch))
        # Answers come in the order of the messages; the one after them ended the association.
        dealt_with = peer.responses - before + (not is_there)
        flood.counted.update(each.kind for each in batch[:dealt_with])
        if not is_there:
            if batch[dealt_with - 1].kind != "command":
                flood.faults.append(f"an association ended over a {batch[dealt_with - 1].kind}")
            return False
    return True


def play_flood(port: int, rng: Random, *, count: int = 200, data_sets: float = DATA_SETS) -> Flood:
    """Send so many messages on one association; a hanging listener is a fault."""
    flood = Flood()
    request = associate_request(
        odd=[proposal(_COMMITMENT_CONTEXT, COMMITMENT, [acceptance.IMPLICIT_VR_LITTLE_ENDIAN])]
    )
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(connection, flood)
        try:
            connection.sendall(request)
            if peer.next() != ASSOCIATE_AC:
                flood.faults.append("a proper association was not accepted")
                return flood
            *messages, last = draw_messages(rng, count, data_sets)
            if _send_all(connection, peer, messages, flood):
                # The last one by itself: it may be read, answered, or taken for a beginning.
                connection.sendall(last.data + pdu(RELEASE_RQ, bytes(4)))
                while peer.next() not in (0, ABORT, RELEASE_RP):
                    continue
                flood.counted[last.kind] += 1
        except TimeoutError:
            flood.faults.append(f"no answer within {_ANSWER_S:.0f} s")
        except ConnectionError:
            flood.faults.append("the connection was reset in the middle")
    return flood
