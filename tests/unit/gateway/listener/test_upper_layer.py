"""PDUs, command sets and messages: whatever bytes come, an error of ours or the same instance."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DataSetTooLarge, InstanceError, ProtocolError
from gateway.listener.commands import Command, decode_command, encode_response
from gateway.listener.negotiation import Acceptor, decode_request
from gateway.listener.pdu import (
    AbortReason,
    Pdv,
    decode_header,
    decode_pdvs,
    encode_abort,
    encode_p_data,
    encode_reject,
)
from gateway.listener.reception import Message, MessageAssembler, MessageLimits
from gateway.listener.stream import PduStream
from gateway.spool import IncomingFile, Spool
from tests.bench.blast import _associate_request, command_set
from tests.instances import EXPLICIT, VL_PHOTOGRAPHIC

SYNTAXES = {1: EXPLICIT}


def assembler(spool: Spool, limits: MessageLimits | None = None) -> MessageAssembler:
    return MessageAssembler(spool, SYNTAXES, {1}, limits or MessageLimits())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at the given places; empty pieces are kept."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def pdvs(data: bytes, cuts: list[int], *, is_command: bool) -> list[bytes]:
    parts = pieces(data, cuts)
    return [
        struct.pack(
            ">IBB", len(part) + 2, 1, int(is_command) | (2 if number == len(parts) - 1 else 0)
        )
        + part
        for number, part in enumerate(parts)
    ]


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=3000),
    command_cuts=st.lists(st.integers(0, 10_000), max_size=6),
    data_cuts=st.lists(st.integers(0, 10_000), max_size=20),
    bundles=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    chunk=st.integers(1, 700),
)
def test_an_instance_is_the_same_however_it_is_cut(
    data: bytes, command_cuts: list[int], data_cuts: list[int], bundles: list[int], chunk: int
) -> None:
    """Over fragments, PDUs and reads of any size."""
    command = command_set(VL_PHOTOGRAPHIC, "1.2.3", 7)
    values = pdvs(command, command_cuts, is_command=True) + pdvs(data, data_cuts, is_command=False)
    wire, at = b"", 0
    for number in range(len(values)):
        take = bundles[number % len(bundles)]
        body = b"".join(values[at : at + take])
        at += take
        if not body:
            break
        wire += struct.pack(">BxI", 4, len(body)) + body
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.prepare()
        (message,) = received(spool, wire, chunk)
        incoming = message.received
        assert isinstance(incoming, IncomingFile)
        content = incoming.content
        assert content is not None
        assert message.command.message_id == 7
        assert bytes(content).endswith(data)
        assert bytes(content[128:132]) == b"DICM"
        assert len(content) == incoming.size_bytes
        incoming.discard()


def received(spool: Spool, wire: bytes, chunk: int) -> list[Message]:
    """Read a byte stream as an association does."""
    left, right = socket.socketpair()

    def write() -> None:
        for start in range(0, len(wire), chunk):
            right.sendall(wire[start : start + chunk])

    sender = threading.Thread(target=write)
    messages: list[Message] = []
    with left, right:
        left.settimeout(5.0)
        stream = PduStream(left, max_pdu_bytes=16384, silence_s=60.0)
        together = assembler(spool)
        sender.start()
        while not messages:
            found = [together.take(pdv) for pdv in decode_pdvs(stream.next().body)]
            messages = [message for message in found if message is not None]
        sender.join()
    return messages


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (
        lambda: decode_header(data.ljust(6, b"\0")),
        lambda: decode_pdvs(memoryview(data)),
        lambda: decode_command(data),
        lambda: decode_request(data),
    ):
        try:
            read()
        except ProtocolError as exc:
            AbortReason(exc.reason)  # raises for one that is not in the table


REQUEST = _associate_request("LENTIGO", "TESTER", VL_PHOTOGRAPHIC, EXPLICIT)[6:]


@settings(max_examples=80, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(REQUEST) - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    length=st.integers(0, len(REQUEST)),
)
def test_a_spoilt_association_request_is_answered_or_refused(
    changes: list[tuple[int, int]], length: int
) -> None:
    spoilt = bytearray(REQUEST)
    for place, value in changes:
        spoilt[place] = value
    for body in (bytes(spoilt), bytes(spoilt[:length])):
        try:
            agreement = Acceptor(max_pdu_bytes=16384).accept(decode_request(body))
        except ProtocolError:
            continue
        assert agreement.pdu[0] == 2


@settings(max_examples=80, deadline=None)
@given(
    fragments=st.lists(
        st.tuples(
            st.sampled_from([1, 1, 1, 3, 0]),
            st.booleans(),
            st.booleans(),
            st.one_of(
                st.binary(max_size=40),
                st.just(command_set(VL_PHOTOGRAPHIC, "1.2.3", 1)),
            ),
        ),
        max_size=12,
    )
)
def test_any_order_of_fragments_makes_messages_or_an_error(
    fragments: list[tuple[int, bool, bool, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.prepare()
        together = assembler(spool)
        try:
            for context_id, is_command, is_last, data in fragments:
                message = together.take(Pdv(context_id, is_command, is_last, memoryview(data)))
                if message is not None and isinstance(message.received, IncomingFile):
                    message.received.discard()
        except ProtocolError:
            pass
        together.abandon()
        assert not together.is_within_message
        assert list(spool.incoming.iterdir()) == []


@pytest.mark.parametrize("max_pdu_bytes", [0, 1, 6, 7, 8, 100, 16384])
def test_answers_keep_to_the_length_that_the_peer_takes(max_pdu_bytes: int) -> None:
    data = os.urandom(300)
    rebuilt, last = b"", []
    for pdu in encode_p_data(5, data, is_command=True, max_pdu_bytes=max_pdu_bytes):
        kind, length = decode_header(pdu)
        assert kind == 4
        assert length == len(pdu) - 6
        assert not max_pdu_bytes or length <= max(7, max_pdu_bytes)
        (pdv,) = decode_pdvs(memoryview(pdu)[6:])
        assert (pdv.context_id, pdv.is_command) == (5, True)
        rebuilt += pdv.data
        last.append(pdv.is_last)
    assert rebuilt == data
    assert last == [False] * (len(last) - 1) + [True]


def test_short_pdus_are_of_the_standard() -> None:
    assert encode_abort(None) == bytes.fromhex("07000000000400000000")
    assert encode_abort(AbortReason.UNEXPECTED_PDU) == bytes.fromhex("07000000000400000202")
    assert encode_reject(1, 2, 3) == bytes.fromhex("03000000000400010203")


def _command(**elements: bytes) -> Command:
    values = {int(name[1:], 16): value for name, value in elements.items()}
    encoded = b"".join(
        struct.pack("<HHI", 0, number, len(value)) + value for number, value in values.items()
    )
    return decode_command(encoded)


def test_a_response_repeats_what_identifies_its_request() -> None:
    request = decode_command(command_set(VL_PHOTOGRAPHIC, "1.2.3", 0xBEEF))
    response = decode_command(encode_response(request, 0xA700, "a\\b" + "x" * 100 + "\u00e9"))
    assert response.field == 0x8001
    assert response.message_id_responded_to == 0xBEEF
    assert response.status == 0xA700
    assert response.affected_sop_class_uid == VL_PHOTOGRAPHIC
    assert response.affected_sop_instance_uid == "1.2.3"
    assert len(response.elements[0x0902]) == 64
    assert not response.has_data_set


def test_a_request_without_a_message_id_cannot_be_answered() -> None:
    request = _command(x0100=b"\x30\x00", x0800=b"\x01\x01")
    with pytest.raises(ProtocolError, match="0110"):
        encode_response(request, 0)


def test_a_data_set_beyond_the_limit_is_read_away(spool: Spool) -> None:
    together = assembler(spool, MessageLimits(data_set_bytes=100))
    command = memoryview(command_set(VL_PHOTOGRAPHIC, "1.2.3", 1))
    assert together.take(Pdv(1, True, True, command)) is None
    assert together.take(Pdv(1, False, False, memoryview(bytes(101)))) is None
    assert list(spool.incoming.iterdir()) == []
    message = together.take(Pdv(1, False, True, memoryview(bytes(50))))
    assert message is not None
    assert isinstance(message.received, DataSetTooLarge)
    assert isinstance(message.received, InstanceError)
    assert not together.is_within_message
