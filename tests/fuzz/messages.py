"""Conversations with a Storage SCP, right or wrong at a chosen layer (PS3.7, PS3.8).

The layers, from the outside in: the stream of bytes, the association request, PDUs, presentation
data values, command sets, data sets. Everything outside the chosen layer is as it should be, so
that what is odd gets as far in as it can.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from gateway.listener import acceptance
from tests.fuzz.byte_mutations import mutate
from tests.fuzz.data_sets import SYNTAXES, Identity, Syntax, draw_data_set, draw_identity

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
C_STORE_RQ, C_STORE_RSP, C_ECHO_RQ = 0x0001, 0x8001, 0x0030
LAYERS = ("stream", "association", "pdu", "pdv", "command", "data set")
_ODD_NUMBERS = (0, 1, 2, 3, 4, 6, 12, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
CONTEXTS = {  # presentation context identifier -> abstract syntax, transfer syntax
    1: (acceptance.VERIFICATION, SYNTAXES["implicit"]),
    3: (acceptance.DERMOSCOPIC_PHOTOGRAPHY, SYNTAXES["explicit"]),
    5: (acceptance.DERMOSCOPIC_PHOTOGRAPHY, SYNTAXES["implicit"]),
    7: (acceptance.DERMOSCOPIC_PHOTOGRAPHY, SYNTAXES["big endian"]),
    9: (acceptance.DERMOSCOPIC_PHOTOGRAPHY, SYNTAXES["jpeg"]),
    11: (acceptance.DERMOSCOPIC_PHOTOGRAPHY, SYNTAXES["deflated"]),  # as the acceptor likes
}


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return one PDU; ``length`` in place of the true one."""
    stated = len(body) if length is None else length
    return struct.pack(">BxI", kind & 0xFF, stated & 0xFFFFFFFF) + body


def _item(kind: int, body: bytes, length: int | None = None) -> bytes:
    stated = len(body) if length is None else length
    return struct.pack(">BxH", kind & 0xFF, stated & 0xFFFF) + body


def pdv(context: int, control: int, data: bytes, length: int | None = None) -> bytes:
    """Return one presentation data value item (PS3.8 9.3.5.1)."""
    stated = len(data) + 2 if length is None else length
    return struct.pack(">IBB", stated & 0xFFFFFFFF, context & 0xFF, control & 0xFF) + data


def proposal(context: int, abstract_syntax: str, transfer_syntaxes: Sequence[str]) -> bytes:
    body = bytes((context, 0, 0, 0)) + _item(0x30, abstract_syntax.encode())
    return _item(0x20, body + b"".join(_item(0x40, each.encode()) for each in transfer_syntaxes))


def associate_request(
    *, calling: bytes = b"FUZZER", called: bytes = b"LENTIGO", odd: Sequence[bytes] = ()
) -> bytes:
    """Return an A-ASSOCIATE-RQ for every context, with ``odd`` items behind the usual ones."""
    user = (
        _item(0x51, struct.pack(">I", 16384))
        + _item(0x52, b"1.2.826.0.1.3680043.2.1125.9")
        + _item(0x55, b"FUZZ")
    )
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16)[:16], calling.ljust(16)[:16])
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for context, (abstract_syntax, syntax) in CONTEXTS.items():
        body += proposal(context, abstract_syntax, [syntax.uid])
    return pdu(ASSOCIATE_RQ, body + b"".join(odd) + _item(0x50, user))


def element(number: int, value: bytes, length: int | None = None) -> bytes:
    """Return one element of a command set (PS3.7 6.3.1)."""
    stated = len(value) if length is None else length
    return struct.pack("<HHI", 0, number, stated & 0xFFFFFFFF) + value


def _padded(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def store_command(identity: Identity, message_id: int) -> list[tuple[int, bytes]]:
    """Return the elements of a C-STORE-RQ (PS3.7 9.3.1.1), group length left out."""
    return [
        (0x0002, _padded(identity.sop_class_uid)),
        (0x0100, struct.pack("<H", C_STORE_RQ)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, b"\0\0"),
        (0x0800, b"\1\0"),
        (0x1000, _padded(identity.sop_instance_uid)),
    ]


def encode_command(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Return a command set with its group length."""
    body = b"".join(element(number, value) for number, value in elements)
    return element(0, struct.pack("<I", len(body))) + body


def echo_message(message_id: int) -> bytes:
    """Return a C-ECHO-RQ as one PDU."""
    command = encode_command(
        [
            (0x0002, _padded(acceptance.VERIFICATION)),
            (0x0100, struct.pack("<H", C_ECHO_RQ)),
            (0x0110, struct.pack("<H", message_id)),
            (0x0800, b"\1\1"),
        ]
    )
    return pdu(P_DATA, pdv(1, 3, command))


@dataclass(frozen=True, kw_only=True)
class Message:
    """One C-STORE of a conversation, as bytes."""

    message_id: int
    context: int
    identity: Identity
    data: bytes
    must_be_answered: bool
    """Whether framing and command are right, so that silence would be a fault."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What is sent on one connection."""

    layer: str
    request: bytes
    messages: tuple[Message, ...]
    ending: str
    """``release``, ``half-close``, ``reset`` or ``abort``."""
    is_pipelined: bool
    """Whether nothing is waited for."""


def _fragments(context: int, data: bytes, is_command: bool, rng: Random) -> list[bytes]:
    """Return presentation data values of one command or data set."""
    size = rng.choice((len(data) or 1, 7, 100, 1000, 4096))
    pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    flag = 1 if is_command else 0
    return [
        pdv(context, flag | (2 if number == len(pieces) - 1 else 0), piece)
        for number, piece in enumerate(pieces)
    ]


def _packed(pdvs: Sequence[bytes], rng: Random) -> list[bytes]:
    """Return PDUs that hold one to three of the values each."""
    found, left = [], list(pdvs)
    while left:
        count = rng.choice((1, 1, 3))
        found.append(pdu(P_DATA, b"".join(left[:count])))
        del left[:count]
    return found


def _odd_command(elements: list[tuple[int, bytes]], rng: Random) -> bytes:
    kind = rng.randrange(7)
    position = rng.randrange(len(elements))
    if kind == 0:
        elements.pop(position)
    elif kind == 1:
        value = rng.choice((b"", b"\0", b"\xff" * 70, rng.randbytes(rng.randint(0, 20))))
        elements[position] = (elements[position][0], value)
    elif kind == 2:
        numbers = (0x0100, 0x0120, 0x0300, 0x0600, 0x0700, 0x0800, 0x0900, 0x1030, 0x1031, 0x5010)
        elements.insert(position, (rng.choice(numbers), rng.randbytes(rng.choice((0, 2, 4, 17)))))
    elif kind == 3:
        field = rng.choice((0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140,
                            0x0150, 0x0FFF, 0x8001, 0x8020, 0x8030, 0x8110, 0xFFFF))  # fmt: skip
        elements[1] = (0x0100, struct.pack("<H", field))
    elif kind == 4:
        rng.shuffle(elements)
    encoded = encode_command(elements)
    return mutate(encoded, rng) if kind >= 5 else encoded


def _odd_values(pdvs: list[bytes], context: int, rng: Random) -> list[bytes]:
    """Return the values dropped, repeated, shuffled, interleaved or with odd headers."""
    kind = rng.randrange(8)
    position = rng.randrange(len(pdvs))
    data = pdvs[position][6:]
    if kind == 0:
        pdvs.pop(position)
    elif kind == 1:
        pdvs.insert(position, pdvs[position])
    elif kind == 2:
        rng.shuffle(pdvs)
    elif kind == 3:
        pdvs[position] = pdv(rng.choice((0, 1, 2, 13, 255)), pdvs[position][5], data)
    elif kind == 4:
        pdvs[position] = pdv(context, rng.choice((0, 1, 2, 3, 4, 0x80, 0xFF)), data)
    elif kind == 5:
        pdvs[position] = pdv(context, pdvs[position][5], data, rng.choice(_ODD_NUMBERS))
    elif kind == 6:
        pdvs[position:position] = [pdv(context, rng.choice((0, 1)), b"")] * rng.choice((1, 50))
    else:
        pdvs.insert(position, echo_message(999)[6:])
    return pdvs


def _odd_pdus(pdus: list[bytes], rng: Random) -> list[bytes]:
    kind = rng.randrange(7)
    position = rng.randrange(len(pdus)) if pdus else 0
    if not pdus or kind == 0:
        odd = pdu(
            rng.choice((0, 1, 2, 3, 5, 6, 7, 8, 99, 255)), rng.randbytes(rng.choice((0, 4, 68)))
        )
        pdus.insert(position, odd)
    elif kind == 1:
        pdus[position] = pdu(P_DATA, pdus[position][6:], rng.choice(_ODD_NUMBERS))
    elif kind == 2:
        pdus.insert(position, pdu(P_DATA, b""))
    elif kind == 3:
        pdus.insert(position, associate_request())
    elif kind == 4:
        pdus[position] = mutate(pdus[position], rng)
    elif kind == 5:
        pdus.insert(position, pdus[position])
    else:
        rng.shuffle(pdus)
    return pdus


def _draw_message(layer: str, message_id: int, rng: Random) -> Message:
    identity = draw_identity(rng)
    if rng.random() < 0.03:
        identity = replace(identity, sop_class_uid=acceptance.SECONDARY_CAPTURE)
    context = rng.choice([number for number in CONTEXTS if number != 1])
    syntax: Syntax = CONTEXTS[context][1]
    intact = None if layer == "data set" else 0
    data_set = draw_data_set(identity, syntax, rng, intact)
    elements = store_command(identity, message_id)
    command = _odd_command(elements, rng) if layer == "command" else encode_command(elements)
    pdvs = _fragments(context, command, True, rng) + _fragments(context, data_set, False, rng)
    if layer == "pdv":
        pdvs = _odd_values(pdvs, context, rng)
    pdus = _packed(pdvs, rng)
    if layer == "pdu":
        pdus = _odd_pdus(pdus, rng)
    data = b"".join(pdus)
    return Message(
        message_id=message_id,
        context=context,
        identity=identity,
        data=mutate(data, rng) if layer == "stream" else data,
        must_be_answered=layer == "data set" and identity.sop_class_uid == CONTEXTS[context][0],
    )


def _odd_request(rng: Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return mutate(associate_request(), rng)
    if kind == 1:
        odd = [
            _item(rng.randrange(256), rng.randbytes(rng.randrange(40)), rng.choice(_ODD_NUMBERS))
        ]
        return associate_request(odd=odd)
    if kind == 2:
        names = (b"", b"\0" * 16, b"\\\\", b"\xff" * 16, b"A" * 16, b"\n\r\t", b"\xc3\xa9cole")
        return associate_request(calling=rng.choice(names), called=rng.choice(names))
    if kind == 3:
        syntaxes = [rng.choice(("", "1.2", "x" * 65, "1.2.840.10008.1.2", "é"))] * rng.choice(
            (0, 1, 90)
        )
        odd = [
            proposal(rng.randrange(256), rng.choice(("", "1.2.840.10008.1.1", "9" * 70)), syntaxes)
            for _ in range(rng.choice((1, 130)))
        ]
        return associate_request(odd=odd)
    if kind == 4:
        whole = associate_request()
        return whole[: rng.randrange(len(whole))]
    kinds = (0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59)
    user = b"".join(
        _item(rng.choice(kinds), rng.randbytes(rng.randrange(30)), rng.choice((None, None, 3, 200)))
        for _ in range(rng.randint(0, 4))
    )
    return associate_request(odd=[_item(0x50, user)])


def draw_conversation(rng: Random, layer: str | None = None) -> Conversation:
    """Return a conversation that is wrong at one layer."""
    chosen = layer or rng.choices(LAYERS, weights=(2, 2, 2, 3, 3, 6))[0]
    count = rng.choice((4, 16, 32)) if chosen == "data set" else rng.choice((1, 2, 6))
    messages = tuple(_draw_message(chosen, number, rng) for number in range(1, count + 1))
    endings = ("release", "release", "half-close", "reset", "abort")
    return Conversation(
        layer=chosen,
        request=_odd_request(rng) if chosen == "association" else associate_request(),
        messages=messages,
        ending="release" if chosen == "data set" else rng.choice(endings),
        is_pipelined=chosen != "data set" and rng.random() < 0.5,
    )
