"""Puts messages together from presentation data values (PS3.7 6.3.1, PS3.8 Annex E).

The data set of a C-STORE goes fragment by fragment to the spool; anything else is small and is
kept in memory up to a limit. Nothing here knows the network.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.dicom.file_meta import encode_file_meta
from gateway.errors import (
    DataSetTooLarge,
    InstanceError,
    ProtocolError,
    SpoolError,
    StorageNotNegotiated,
)
from gateway.listener.commands import C_STORE_RQ, Command, decode_command
from gateway.listener.pdu import AbortReason, Pdv
from gateway.spool import IncomingFile, Spool

_MAX_UID_CHARACTERS = 64

Received = IncomingFile | SpoolError | InstanceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One complete DIMSE message.

    Attributes
    ----------
    received
        Of a C-STORE: the open file, or the error that ended its reception; None without one.
    data_set
        Of anything else: the data set as it came.
    """

    context_id: int
    command: Command
    received: Received | None = None
    data_set: bytes = b""


@dataclass(frozen=True, kw_only=True)
class MessageLimits:
    """Bounds of what one message may be, in bytes."""

    command_bytes: int = 64 * 1024
    identifier_bytes: int = 1024 * 1024
    """Data sets of anything but C-STORE."""
    data_set_bytes: int = 0
    """Data set of a C-STORE; 0 for no limit."""


class MessageAssembler:
    """Takes the fragments of one association, in their order.

    Parameters
    ----------
    spool
        Where data sets of C-STORE go.
    transfer_syntaxes
        Of the accepted presentation contexts, by their id.
    storage_contexts
        Ids of those that carry a Storage SOP class.
    """

    def __init__(
        self,
        spool: Spool,
        transfer_syntaxes: dict[int, str],
        storage_contexts: Collection[int],
        limits: MessageLimits,
    ) -> None:
        self._spool = spool
        self._transfer_syntaxes = transfer_syntaxes
        self._storage_contexts = storage_contexts
        self._limits = limits
        self._context_id = 0
        self._encoded = bytearray()
        self._command: Command | None = None
        self._data_set = bytearray()
        self._data_set_bytes = 0
        self._received: Received | None = None

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._context_id != 0

    def take(self, pdv: Pdv) -> Message | None:
        """Take in one fragment; return the message that it completes.

        Raises
        ------
        ProtocolError
            It belongs to no accepted context or to no message, or is more than a message may be.
        """
        if not self._context_id or pdv.context_id != self._context_id:
            self._begin(pdv)
        if self._command is None:
            return self._take_command(pdv)
        if pdv.is_command:
            raise ProtocolError("a command set within a data set", AbortReason.UNEXPECTED_PARAMETER)
        if self._received is not None:
            self._spool_fragment(pdv.data)
        else:
            self._data_set += pdv.data
            if len(self._data_set) > self._limits.identifier_bytes:
                raise ProtocolError("a data set of absurd length", AbortReason.INVALID_PARAMETER)
        return self._complete() if pdv.is_last else None

    def abandon(self) -> None:
        """Drop what is not complete."""
        received, self._received = self._received, None
        if isinstance(received, IncomingFile):
            received.discard()
        self._reset()

    def _begin(self, pdv: Pdv) -> None:
        if self._context_id:
            raise ProtocolError(
                "a fragment of another context within a message", AbortReason.INVALID_PARAMETER
            )
        if pdv.context_id not in self._transfer_syntaxes:
            raise ProtocolError(
                f"the presentation context {pdv.context_id} was not accepted",
                AbortReason.INVALID_PARAMETER,
            )
        self._context_id = pdv.context_id

    def _take_command(self, pdv: Pdv) -> Message | None:
        if not pdv.is_command:
            raise ProtocolError("a data set without a command", AbortReason.UNEXPECTED_PARAMETER)
        self._encoded += pdv.data
        if len(self._encoded) > self._limits.command_bytes:
            raise ProtocolError("a command set of absurd length", AbortReason.INVALID_PARAMETER)
        if not pdv.is_last:
            return None
        self._command = decode_command(bytes(self._encoded))
        if not self._command.has_data_set:
            return self._complete()
        if self._command.field == C_STORE_RQ:
            self._received = self._open(self._command)
        return None

    def _open(self, command: Command) -> Received:
        if self._context_id not in self._storage_contexts:
            return StorageNotNegotiated("a C-STORE on a presentation context of another service")
        try:
            incoming = self._spool.begin()
        except SpoolError as exc:
            return exc
        meta = encode_file_meta(
            sop_class_uid=command.affected_sop_class_uid[:_MAX_UID_CHARACTERS],
            sop_instance_uid=command.affected_sop_instance_uid[:_MAX_UID_CHARACTERS],
            transfer_syntax_uid=self._transfer_syntaxes[self._context_id],
        )
        return _write(incoming, meta)

    def _spool_fragment(self, data: memoryview) -> None:
        received = self._received
        if not isinstance(received, IncomingFile):
            return  # failed already: the rest is only read away
        self._data_set_bytes += len(data)
        limit = self._limits.data_set_bytes
        if limit and self._data_set_bytes > limit:
            received.discard()
            self._received = DataSetTooLarge(f"a data set of more than {limit} bytes")
        else:
            self._received = _write(received, data)

    def _complete(self) -> Message:
        assert self._command is not None
        message = Message(
            context_id=self._context_id,
            command=self._command,
            received=self._received,
            data_set=bytes(self._data_set),
        )
        self._received = None
        self._reset()
        return message

    def _reset(self) -> None:
        self._context_id, self._command, self._data_set_bytes = 0, None, 0
        self._encoded.clear()
        self._data_set.clear()


def _write(incoming: IncomingFile, data: bytes | memoryview) -> Received:
    """Append to a file; after an error its bytes are dropped and the rest is only read away."""
    try:
        incoming.write(data)
    except SpoolError as exc:
        incoming.discard()
        return exc
    return incoming
