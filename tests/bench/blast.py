"""A sender that costs next to nothing: pre-built PDUs over a blocking socket.

With it a figure is the receiver's own. One association, one presentation context, one C-STORE at a
time (PS3.7 9.3.1, PS3.8 9.3); it is no DICOM toolkit and checks only the status.
"""

import io
import socket
import struct
from dataclasses import dataclass

import pydicom
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_PDV_BYTES = 64 * 1024


@dataclass(frozen=True)
class Instance:
    """One C-STORE-RQ: its command set, and the data set as encoded."""

    command: bytes
    data: bytes


def encode(ds: Dataset, syntax: UID) -> bytes:
    """Return the data set as it goes over the wire."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax.is_implicit_VR
    write_dataset(buffer, ds)
    return buffer.getvalue()


def command_set(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    """Return a C-STORE-RQ command set, Implicit VR Little Endian (PS3.7 6.3.1)."""

    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, tag, len(value)) + value

    def uid(text: str) -> bytes:
        raw = text.encode()
        return raw + b"\0" * (len(raw) % 2)

    body = (
        element(0x0002, uid(sop_class_uid))
        + element(0x0100, struct.pack("<H", 0x0001))
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 0x0102))
        + element(0x1000, uid(sop_instance_uid))
    )
    return element(0x0000, struct.pack("<L", len(body))) + body


class Association:
    """One association with one presentation context."""

    def __init__(
        self, port: int, *, called: str, calling: str, sop_class_uid: str, syntax: str
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._socket.sendall(_associate_request(called, calling, sop_class_uid, syntax))
        kind, body = self._read()
        if kind != 2 or b"\x21" not in body[:4096]:
            raise ConnectionError(f"the association was not accepted (PDU type {kind})")
        # Maximum length sub-item, PS3.8 D.1; 0 means no limit.
        at = body.find(b"\x51\x00\x00\x04")
        (limit,) = struct.unpack_from(">L", body, at + 4) if at >= 0 else (0,)
        self._pdv_bytes = min(_PDV_BYTES, limit - 6) if limit else _PDV_BYTES

    def _read(self) -> tuple[int, bytes]:
        header = self._stream.read(6)
        if len(header) < 6:
            raise ConnectionError("the peer closed the connection")
        kind, length = struct.unpack(">BxL", header)
        return kind, self._stream.read(length)

    def store(self, instance: Instance) -> None:
        """Send one instance and wait for its status; anything but 0000 raises."""
        pieces = [_pdata(instance.command, 0x03)]
        data = memoryview(instance.data)
        for start in range(0, len(data), self._pdv_bytes):
            chunk = data[start : start + self._pdv_bytes]
            pieces.append(_pdata(chunk, 0x02 if start + len(chunk) == len(data) else 0x00))
        for piece in pieces:
            self._socket.sendall(piece)
        kind, body = self._read()
        at = body.find(b"\x00\x00\x00\x09\x02\x00\x00\x00") if kind == 4 else -1
        if at < 0 or body[at + 8 : at + 10] != b"\0\0":
            raise ConnectionError("the instance was not stored")

    def release(self) -> None:
        """Release the association and close."""
        self._socket.sendall(struct.pack(">BxLL", 5, 4, 0))
        self._read()
        self._stream.close()
        self._socket.close()


def _pdata(chunk: bytes | memoryview, control: int) -> bytes:
    header = struct.pack(">BxLLBB", 4, len(chunk) + 6, len(chunk) + 2, 1, control)
    return b"".join((header, chunk))


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _associate_request(called: str, calling: str, sop_class_uid: str, syntax: str) -> bytes:
    context = (
        struct.pack(">BxBx", 1, 0)
        + _item(0x30, sop_class_uid.encode())
        + _item(0x40, syntax.encode())
    )
    user = _item(0x51, struct.pack(">L", 1 << 17)) + _item(0x52, b"2.25.1")
    out = io.BytesIO()
    out.write(struct.pack(">HH16s16s32x", 1, 0, _padded(called), _padded(calling)))
    out.write(_item(0x10, _APPLICATION_CONTEXT))
    out.write(_item(0x20, context))
    out.write(_item(0x50, user))
    body = out.getvalue()
    return struct.pack(">BxL", 1, len(body)) + body


def _padded(ae_title: str) -> bytes:
    return ae_title.encode().ljust(16)
