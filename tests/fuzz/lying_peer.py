"""A Storage SCP whose answers are mutated: what a PACS in trouble may send us."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from gateway.delivery.routes import Destination
from gateway.delivery.store_scu import DataSetFile, StoreAssociation
from gateway.errors import AssociationLost, AssociationRefused
from gateway.listener import acceptance
from tests.fuzz.byte_mutations import mutate
from tests.fuzz.messages import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    C_STORE_RSP,
    P_DATA,
    RELEASE_RP,
    encode_command,
    pdu,
    pdv,
)

_SILENCE_S = 0.3
"""Longest silence that our side is told to bear."""


def _accept(rng: Random) -> bytes:
    """Return an A-ASSOCIATE-AC for context 1."""
    syntax = acceptance.EXPLICIT_VR_LITTLE_ENDIAN.encode()
    context = bytes((1, 0, rng.choice((0, 0, 0, 3)), 0)) + struct.pack(">BxH", 0x40, len(syntax))
    context += syntax
    limit = rng.choice((0, 1, 6, 7, 16384, 0xFFFFFFFF))
    user = struct.pack(">BxHI", 0x51, 4, limit)
    name = b"1.2.840.10008.3.1.1.1"
    body = struct.pack(">HH16s16s32x", 1, 0, b"PACS".ljust(16), b"LENTIGO".ljust(16))
    body += struct.pack(">BxH", 0x10, len(name)) + name
    body += struct.pack(">BxH", 0x21, len(context)) + context
    return pdu(ASSOCIATE_AC, body + struct.pack(">BxH", 0x50, len(user)) + user)


def _response(rng: Random) -> bytes:
    """Return a C-STORE-RSP, most often to message 1."""
    elements = [
        (0x0100, struct.pack("<H", C_STORE_RSP)),
        (0x0120, struct.pack("<H", rng.choice((1, 1, 1, 2)))),
        (0x0800, b"\1\1"),
        (0x0900, struct.pack("<H", rng.choice((0, 0xA700, 0xC000, 0xB000, 0xFFFF)))),
        (0x0902, rng.choice((b"", b"full", b"\xff" * 9, b"x" * 200))),
    ]
    if rng.random() < 0.2:
        elements.pop(rng.randrange(len(elements)))
    return pdu(P_DATA, pdv(1, rng.choice((3, 3, 3, 1, 2)), encode_command(elements)))


def draw_answers(rng: Random) -> list[bytes]:
    """Return what the peer says: to the association, to the C-STORE, to the release."""
    odd = (pdu(ABORT, bytes(4)), pdu(ASSOCIATE_RJ, b"\0\1\1\3"), b"", b"HTTP/1.1 400 Bad\r\n\r\n")
    answers = [_accept(rng), _response(rng), pdu(RELEASE_RP, bytes(4))]
    place = rng.randrange(3)
    kind = rng.randrange(4)
    if kind == 0:
        answers[place] = mutate(answers[place], rng)
    elif kind == 1:
        answers[place] = rng.choice(odd)
    elif kind == 2:
        answers[place] = answers[place] * 2
    return answers


class LyingPeer:
    """Accepts one connection after the other; answers each PDU with the next of its answers."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.answers: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, name="lying-peer")
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # stopped
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2.0)
                for answer in list(self.answers):
                    # One answer to each burst: association, command with data set, release.
                    if not connection.recv(65536):
                        break
                    connection.sendall(answer)


@contextmanager
def lying_peer() -> Iterator[LyingPeer]:
    """Run one for a while."""
    peer = LyingPeer()
    try:
        yield peer
    finally:
        peer.stop()


def store_once(peer: LyingPeer, path: Path, rng: Random) -> str:
    """Send a file to the peer; return what came of it.

    Only what its callers are promised may come out: a response, or one of two typed errors.
    """
    peer.answers = draw_answers(rng)
    file = DataSetFile(
        path=path,
        offset=0,
        sop_class_uid=acceptance.DERMOSCOPIC_PHOTOGRAPHY,
        sop_instance_uid="2.25.1",
        transfer_syntax_uid=acceptance.EXPLICIT_VR_LITTLE_ENDIAN,
    )
    destination = Destination(ae_title="PACS", host="127.0.0.1", port=peer.port)
    try:
        with StoreAssociation.open(
            destination, [file.context], calling_ae_title="LENTIGO", timeout_s=_SILENCE_S
        ) as association:
            if not association.accepts(file):
                return "not accepted"
            return f"{association.store(file).status:04X}"
    except AssociationRefused:
        return "refused"
    except AssociationLost:
        return "lost"
