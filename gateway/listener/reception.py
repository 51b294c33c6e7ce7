"""The data path of a C-STORE on pynetdicom: P-DATA straight into the spool, fragment by fragment.

pynetdicom keeps negotiation and the state machine. Replaced here, by subclasses that it is handed:

- the DIMSE provider, so that fragments of a data set go to the spool, digest included. A full disk
  is then answered with A700 where pynetdicom would drop the association;
- the socket, so that a PDU is read in few calls and of bounded size, a silent peer runs into a
  time-out, and senders that leave Nagle's algorithm on are acknowledged at once.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import traceback
from collections.abc import Sequence
from io import BytesIO
from socketserver import BaseServer
from typing import Any

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from gateway.dicom.file_meta import encode_file_meta
from gateway.errors import SpoolError
from gateway.listener.ports import AssociationInfo
from gateway.spool import IncomingFile, Spool

log = logging.getLogger(__name__)

MAX_PDU_BYTES = 128 * 1024
# A-ASSOCIATE-RQ is not bound by the negotiated length; 128 full contexts need some 300 KB.
_MAX_ANY_PDU_BYTES = 1024 * 1024
# Command sets, and data sets of anything but C-STORE, are small; these limits keep memory bounded.
_MAX_COMMAND_BYTES = 64 * 1024
_MAX_IDENTIFIER_BYTES = 1024 * 1024
_LAST_FRAGMENT = 0x02  # PS3.8 E.2, message control header
_COMMAND_FRAGMENT = 0x01
_IDLE_WAIT_S = 0.001
_INVALID_PDU = "Evt19"  # PS3.8 Table 9-10
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only

Received = IncomingFile | SpoolError


class SpoolingProvider(DIMSEServiceProvider):
    """A DIMSE provider that writes the data sets of C-STORE requests to the spool.

    A complete request carries what was received as its attribute ``received``: the open file, or
    the error that ended its reception.
    """

    def __init__(self, assoc: Association, spool: Spool) -> None:
        super().__init__(assoc)
        self.association: AssociationInfo | None = None
        self._spool = spool
        self._received: Received | None = None
        self._buffered_bytes = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in one P-DATA indication; an association that sends nonsense is aborted."""
        try:
            for context_id, value in primitive.presentation_data_value_list:
                self._receive_fragment(context_id, value)
        except Exception as exc:  # the SCP's edge: whatever a peer sends must not end the thread
            log.warning(
                "a DIMSE message could not be read; the association is aborted",
                extra={
                    "action": "dimse.invalid",
                    "error": type(exc).__name__,
                    "frames": "".join(traceback.format_tb(exc.__traceback__)),
                },
            )
            self.abandon()
            self.dul.event_queue.put(_INVALID_PDU)

    def abandon(self) -> None:
        """Drop a data set whose association has ended before it was complete."""
        received, self._received = self._received, None
        if isinstance(received, IncomingFile):
            received.discard()

    def _receive_fragment(self, context_id: int, value: bytes) -> None:
        is_command = bool(value[0] & _COMMAND_FRAGMENT)
        if self._received is None:
            self._receive_buffered(context_id, value)
        elif is_command or self.message is None or context_id != self.message.context_id:
            raise ValueError("a fragment of another message within a data set")  # PS3.7 6.3.1
        else:
            self._spool_fragment(value)

    def _receive_buffered(self, context_id: int, value: bytes) -> None:
        """Let pynetdicom assemble everything but the data set of a C-STORE."""
        is_command = bool(value[0] & _COMMAND_FRAGMENT)
        self._buffered_bytes += len(value)
        limit = _MAX_COMMAND_BYTES if is_command else _MAX_IDENTIFIER_BYTES
        if self._buffered_bytes > limit:
            raise ValueError("a command set or identifier of absurd length")
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        super().receive_primitive(primitive)
        if self.message is None:
            self._buffered_bytes = 0
        elif isinstance(self.message, C_STORE_RQ):
            self._received = self._begin(context_id)

    def _begin(self, context_id: int) -> Received:
        """Open the file of a data set whose command set is complete."""
        assert self.message is not None
        command = self.message.command_set
        syntax = next(
            str(context.transfer_syntax[0])
            for context in self.assoc.accepted_contexts
            if context.context_id == context_id
        )
        try:
            incoming = self._spool.begin()
        except SpoolError as exc:
            return exc
        meta = encode_file_meta(
            sop_class_uid=str(command.AffectedSOPClassUID),
            sop_instance_uid=str(command.AffectedSOPInstanceUID),
            transfer_syntax_uid=syntax,
        )
        return _write(incoming, meta)

    def _spool_fragment(self, value: bytes) -> None:
        if isinstance(self._received, IncomingFile):
            self._received = _write(self._received, memoryview(value)[1:])
        if value[0] & _LAST_FRAGMENT:
            self._complete()

    def _complete(self) -> None:
        """Hand the finished request to its handler."""
        assert self.message is not None
        message, received = self.message, self._received
        self.message, self._received, self._buffered_bytes = None, None, 0
        message.data_set = BytesIO()
        request: Any = message.message_to_primitive()
        request.received = received
        context_id = message.context_id
        assert context_id is not None
        self.msg_queue.put((context_id, request))


def _write(incoming: IncomingFile, data: bytes | memoryview) -> Received:
    """Append to a file; after an error its bytes are dropped and the rest is only read away."""
    try:
        incoming.write(data)
    except SpoolError as exc:
        incoming.discard()
        return exc
    return incoming


class ListenerSocket(AssociationSocket):
    """pynetdicom's socket, made for receiving much from senders of every kind."""

    @classmethod
    def adopt(cls, original: AssociationSocket) -> ListenerSocket:
        """Return a socket in the state of ``original``, to be used in its place."""
        adopted = cls.__new__(cls)
        adopted.__dict__.update(original.__dict__)
        return adopted

    def recv(self, nr_bytes: int) -> bytearray:
        """Return ``nr_bytes`` bytes; fewer when the peer closed the connection.

        Raises
        ------
        OSError
            The PDU is longer than any we accept, or the peer was silent for too long.
        """
        if nr_bytes > _MAX_ANY_PDU_BYTES:
            raise OSError("a PDU of absurd length")
        peer = self.socket
        if peer is None:
            raise OSError("the connection is closed")
        buffer = bytearray(nr_bytes)
        view, count = memoryview(buffer), 0
        while count < nr_bytes:
            if _TCP_QUICKACK is not None:
                # Not sticky, so again before each read: dcmtk senders leave Nagle's algorithm on
                # and would wait some 40 ms an instance for the delayed ACK of its last segment.
                peer.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
            received = peer.recv_into(view[count:])
            if not received:
                view.release()
                return buffer[:count]
            count += received
        return buffer

    @property
    def ready(self) -> bool:
        """Return whether there is something to read, waiting a moment for it.

        pynetdicom's reactor polls; waiting here in place of sleeping there wakes it at once.
        """
        peer = self.socket
        if peer is None or not self._is_connected:
            return False
        if isinstance(peer, ssl.SSLSocket) and peer.pending():
            return True
        try:
            readable, _, _ = select.select([peer], [], [], _IDLE_WAIT_S)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False
        return bool(readable)


class ListenerRequestHandler(RequestHandler):
    """Sets up an association that receives into the spool."""

    server: ListenerServer

    def _create_association(self) -> Association:
        peer = self.request
        peer.settimeout(self.ae.network_timeout)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(peer, ssl.SSLSocket):
            peer.do_handshake()
        assoc = super()._create_association()
        assoc.dimse = SpoolingProvider(assoc, self.server.spool)
        assert assoc.dul.socket is not None
        assoc.dul.socket = ListenerSocket.adopt(assoc.dul.socket)
        assoc.dul._run_loop_delay = 0
        return assoc


class ListenerServer(ThreadedAssociationServer):
    """pynetdicom's server with a limit on connections and no TLS handshake in its accept loop."""

    request_queue_size = 64

    def __init__(
        self,
        ae: ApplicationEntity,
        address: tuple[str, int],
        *,
        spool: Spool,
        max_connections: int,
        handlers: Sequence[Any],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.spool = spool
        self.max_connections = max_connections
        super().__init__(
            ae,
            address,
            ae.ae_title,
            ae.supported_contexts,
            ssl_context=tls,
            evt_handlers=list(handlers),
            request_handler=ListenerRequestHandler,
        )

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away connections beyond the limit before they cost a thread."""
        return len(self.active_associations) < self.max_connections

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; its own thread does the handshake."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a connection that failed before it became an association."""
        log.warning(
            "a connection failed before its association",
            extra={"action": "connection.failed", "frames": traceback.format_exc(limit=-1)},
        )

    def shutdown(self) -> None:
        """Stop accepting; open associations go on."""
        BaseServer.shutdown(self)
        self.server_close()
