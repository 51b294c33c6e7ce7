"""A Storage SCU that streams files: one association, one C-STORE at a time, in flat memory.

pynetdicom encodes and decodes the association PDUs; the data path is ours, because its queue of
outgoing fragments would hold a whole slide in memory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from gateway.delivery.routes import Destination
from gateway.delivery.scu import peer_context
from gateway.delivery.statuses import context_words, rejection_words
from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID
from gateway.dicom.tls import tls_fault
from gateway.errors import AssociationLost, AssociationRefused
from gateway.settings import TlsSettings

MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers 1 to 255
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
_MAX_PDU_BYTES = 128 * 1024
_MAX_ANSWER_BYTES = 1024 * 1024
_PDV_HEADER_BYTES = 6

# PS3.8 Table 9-11 and following: PDU types.
_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 2, 3, 4, 5, 6, 7
_RELEASE_REQUEST = b"\x05\0" + struct.pack(">I", 4) + b"\0\0\0\0"
_ABORT_REQUEST = b"\x07\0" + struct.pack(">I", 4) + b"\0\0\0\0"

Context = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID."""


@dataclass(frozen=True, kw_only=True)
class DataSetFile:
    """A data set in a file, as it is to be sent."""

    path: Path
    offset: int
    """Byte at which the data set starts."""
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def context(self) -> Context:
        """The presentation context it needs."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, kw_only=True)
class StoreResponse:
    """What the peer answered to one C-STORE."""

    status: int
    comment: str = ""
    """Error Comment (0000,0902)."""


class StoreAssociation:
    """An open association as Storage SCU; a context manager that releases it.

    Attributes
    ----------
    refused
        Why a proposed context was not accepted, by context.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._identifiers: dict[Context, int] = {}
        self._max_pdu_bytes = _MAX_PDU_BYTES
        self._message_id = 0
        self._is_open = True
        self.refused: dict[Context, str] = {}

    @classmethod
    def open(
        cls,
        destination: Destination,
        contexts: Sequence[Context],
        *,
        calling_ae_title: str,
        timeout_s: float,
    ) -> StoreAssociation:
        """Associate, proposing every context with its one transfer syntax.

        Parameters
        ----------
        contexts
            At most 128.
        timeout_s
            Longest silence, of the connection too.

        Raises
        ------
        AssociationRefused
            The peer cannot be reached, or rejects us; the message says why.
        """
        try:
            connection = socket.create_connection(
                (destination.host, destination.port), timeout=timeout_s
            )
        except OSError as exc:
            raise AssociationRefused(f"cannot connect: {exc.strerror or exc}") from exc
        connection = _secured(connection, destination)
        # With Nagle's algorithm on, each instance would wait some 40 ms for a delayed ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = cls(connection)
        try:
            association._negotiate(destination.ae_title, calling_ae_title, contexts)
        except BaseException:
            association.abort()
            raise
        return association

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    def accepts(self, file: DataSetFile) -> bool:
        """Return whether ``file`` can be sent on this association as it is."""
        return file.context in self._identifiers

    def store(self, file: DataSetFile) -> StoreResponse:
        """Send one data set and wait for the answer.

        Raises
        ------
        AssociationLost
            The association ended or went silent; what became of the instance is unknown.
        OSError
            The file cannot be opened; the association is still good.
        """
        identifier = self._identifiers[file.context]
        self._message_id = self._message_id % 0xFFFF + 1
        with file.path.open("rb") as source:
            try:
                self._send_command(identifier, file)
                self._send_data_set(identifier, source.fileno(), file.offset)
                return self._receive_response()
            except (OSError, struct.error) as exc:
                self.abort()
                raise AssociationLost(_describe(exc)) from exc

    def release(self) -> None:
        """Release the association (PS3.8 7.2); a peer that has gone is no matter any more."""
        if not self._is_open:
            return
        # Every answer is in: there is nothing left to lose.
        with contextlib.suppress(OSError, AssociationLost):
            self._connection.sendall(_RELEASE_REQUEST)
            self._receive_pdu()
        self._close()

    def abort(self) -> None:
        """End the association at once."""
        if not self._is_open:
            return
        with contextlib.suppress(OSError):  # the connection may be gone already
            self._connection.sendall(_ABORT_REQUEST)
        self._close()

    def _close(self) -> None:
        self._is_open = False
        self._connection.close()

    def _negotiate(
        self, called_ae_title: str, calling_ae_title: str, contexts: Sequence[Context]
    ) -> None:
        request = _association_request(called_ae_title, calling_ae_title, contexts)
        try:
            self._connection.sendall(request)
            kind, body = self._receive_pdu()
        except (OSError, AssociationLost) as exc:
            raise AssociationRefused(f"no answer to the association: {_describe(exc)}") from exc
        if kind == _ASSOCIATE_RJ and len(body) == 4:
            result, source, reason = body[1], body[2], body[3]
            text = rejection_words(source, reason)
            raise AssociationRefused(f"{'rejected' if result == 1 else 'rejected for now'}: {text}")
        if kind != _ASSOCIATE_AC:
            raise AssociationRefused("the peer does not speak DICOM")
        accepted = A_ASSOCIATE_AC()
        try:
            accepted.decode(struct.pack(">BxI", kind, len(body)) + body)
            self._adopt(accepted, contexts)
        except Exception as exc:  # whatever pynetdicom raises on a malformed answer
            raise AssociationRefused("the peer's answer cannot be read") from exc

    def _adopt(self, accepted: A_ASSOCIATE_AC, contexts: Sequence[Context]) -> None:
        for item in accepted.presentation_context:
            context = contexts[(int(item.presentation_context_id or 0) - 1) // 2]
            if item.result == 0:
                self._identifiers[context] = int(item.presentation_context_id or 0)
            else:
                self.refused[context] = context_words(item.result or 0)
        user_information = accepted.user_information
        assert user_information is not None
        limit = user_information.maximum_length or 0
        # 0 stands for no limit (PS3.8 D.1); a smaller one than a header is of no use to anybody.
        self._max_pdu_bytes = max(64, min(limit or _MAX_PDU_BYTES, _MAX_PDU_BYTES))

    def _send_command(self, identifier: int, file: DataSetFile) -> None:
        """Send a C-STORE-RQ command set (PS3.7 9.3.1.1), which is implicit VR little endian."""
        body = (
            _element(0x0002, _uid(file.sop_class_uid))
            + _element(0x0100, b"\x01\x00")
            + _element(0x0110, struct.pack("<H", self._message_id))
            + _element(0x0700, b"\x00\x00")  # priority medium
            + _element(0x0800, b"\x01\x00")  # a data set follows
            + _element(0x1000, _uid(file.sop_instance_uid))
        )
        self._send_fragment(identifier, 3, _element(0, struct.pack("<I", len(body))) + body)

    def _send_data_set(self, identifier: int, descriptor: int, offset: int) -> None:
        room = self._max_pdu_bytes - _PDV_HEADER_BYTES
        chunk = os.pread(descriptor, room, offset)
        while True:
            offset += len(chunk)
            following = os.pread(descriptor, room, offset)
            self._send_fragment(identifier, 0 if following else 2, chunk)
            if not following:
                return
            chunk = following

    def _send_fragment(self, identifier: int, control: int, data: bytes) -> None:
        header = struct.pack(
            ">BxIIBB", _P_DATA, len(data) + _PDV_HEADER_BYTES, len(data) + 2, identifier, control
        )
        self._connection.sendall(header + data)

    def _receive_response(self) -> StoreResponse:
        command = b""
        while True:
            kind, body = self._receive_pdu()
            if kind != _P_DATA:
                raise AssociationLost("the peer ended the association")
            while body:
                length, _, control = struct.unpack_from(">IBB", body)
                command += body[6 : 4 + length]
                body = body[4 + length :]
                if control & 2:
                    return _parse_response(command, self._message_id)
            if len(command) > _MAX_ANSWER_BYTES:
                raise AssociationLost("an answer of absurd length")

    def _receive_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._receive_exactly(6))
        if length > _MAX_ANSWER_BYTES:
            raise AssociationLost("an answer of absurd length")
        body = self._receive_exactly(length)
        if kind == _ABORT:
            raise AssociationLost("the peer aborted the association")
        return kind, body

    def _receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            received = self._connection.recv(count - len(data))
            if not received:
                raise AssociationLost("the peer closed the connection")
            data += received
        return data


def _secured(connection: socket.socket, destination: Destination) -> socket.socket:
    """Return the connection over TLS, where the destination is spoken to in that way."""
    try:
        context = peer_context(destination, TlsSettings())
        if context is None:
            return connection
        return context.wrap_socket(connection, server_hostname=destination.host)
    except AssociationRefused:
        connection.close()
        raise
    except OSError as exc:
        connection.close()
        fault = tls_fault(exc)
        why = fault.value if fault is not None else _describe(exc)
        raise AssociationRefused(f"no TLS connection: {why}") from exc


def _association_request(
    called_ae_title: str, calling_ae_title: str, contexts: Sequence[Context]
) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = _APPLICATION_CONTEXT
    request.calling_ae_title = calling_ae_title
    request.called_ae_title = called_ae_title
    proposed = []
    for number, (sop_class_uid, transfer_syntax_uid) in enumerate(contexts):
        context = build_context(sop_class_uid, transfer_syntax_uid)
        context.context_id = 2 * number + 1
        proposed.append(context)
    request.presentation_context_definition_list = proposed
    maximum_length = MaximumLengthNotification()
    maximum_length.maximum_length_received = _MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "LENTIGO"
    request.user_information = [maximum_length, implementation, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def _uid(text: str) -> bytes:
    value = text.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _parse_response(command: bytes, message_id: int) -> StoreResponse:
    values: dict[int, bytes] = {}
    position = 0
    while position + 8 <= len(command):
        _, number, length = struct.unpack_from("<HHI", command, position)
        values[number] = command[position + 8 : position + 8 + length]
        position += 8 + length
    if values.get(0x0120, b"") != struct.pack("<H", message_id):
        raise AssociationLost("an answer to something else")
    (status,) = struct.unpack("<H", values.get(0x0900, b""))
    comment = values.get(0x0902, b"").decode("ascii", "replace").strip("\0 ")
    return StoreResponse(status=status, comment=comment)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the peer went silent"
    if isinstance(error, OSError):
        fault = tls_fault(error)
        return fault.value if fault is not None else error.strerror or type(error).__name__
    return str(error) if isinstance(error, AssociationLost) else "an answer that cannot be read"
