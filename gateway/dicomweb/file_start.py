"""The start of a DICOM file that comes in pieces: its File Meta Information (PS3.10 7.1).

A sender's own meta information names its software and its AE title. It is replaced by ours, which
depends on the instance alone, so that an instance that came by C-STORE and comes again by STOW-RS
is the same file.
"""

from __future__ import annotations

from gateway.dicom.file_meta import PREAMBLE_BYTES, FileMeta, is_uid
from gateway.dicom.text import decode_text
from gateway.errors import Unreadable

MAX_META_BYTES = 256 * 1024

_START = PREAMBLE_BYTES + 4
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)  # PS3.5 7.1.2
_SOP_CLASS_UID = 0x0002
_SOP_INSTANCE_UID = 0x0003
_TRANSFER_SYNTAX_UID = 0x0010


class FileStart:
    """Collects the first bytes of a file until its data set begins."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._position = _START
        self._values: dict[int, str] = {}

    def feed(self, data: bytes) -> tuple[FileMeta, bytes] | None:
        """Take in bytes; return the meta information and what follows it, once it is complete.

        Raises
        ------
        Unreadable
            Not a DICOM file, or one without Transfer Syntax UID or SOP UIDs in its meta
            information.
        """
        self._bytes += data
        if len(self._bytes) < _START:
            return None
        if self._bytes[PREAMBLE_BYTES:_START] != b"DICM":
            raise Unreadable("no DICM prefix: not a DICOM file")
        while self._read_element():
            pass
        if len(self._bytes) < self._position + 2 or self._is_meta_element():
            if len(self._bytes) > MAX_META_BYTES:
                raise Unreadable("File Meta Information of absurd length")
            return None
        return self._meta(), bytes(self._bytes[self._position :])

    def _is_meta_element(self) -> bool:
        return self._bytes[self._position : self._position + 2] == b"\x02\x00"

    def _read_element(self) -> bool:
        """Read one element of group 0002; False when there is none or not all of it is here."""
        if not self._is_meta_element():
            return False
        head = bytes(self._bytes[self._position : self._position + 12])
        if len(head) < 8:
            return False
        if head[4:6] in _LONG_VRS:
            if len(head) < 12:
                return False
            start, length = self._position + 12, int.from_bytes(head[8:12], "little")
        else:
            start, length = self._position + 8, int.from_bytes(head[6:8], "little")
        if length > MAX_META_BYTES:
            raise Unreadable("File Meta Information of absurd length")
        if len(self._bytes) < start + length:
            return False
        number = int.from_bytes(head[2:4], "little")
        if number in (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID):
            value = bytes(self._bytes[start : start + length])
            self._values[number] = decode_text(value, ("ascii",))
        self._position = start + length
        return True

    def _meta(self) -> FileMeta:
        for number, name in (
            (_TRANSFER_SYNTAX_UID, "Transfer Syntax UID"),
            (_SOP_CLASS_UID, "Media Storage SOP Class UID"),
            (_SOP_INSTANCE_UID, "Media Storage SOP Instance UID"),
        ):
            if not is_uid(self._values.get(number, "")):
                raise Unreadable(f"no {name} in the File Meta Information")
        return FileMeta(
            sop_class_uid=self._values[_SOP_CLASS_UID],
            sop_instance_uid=self._values[_SOP_INSTANCE_UID],
            transfer_syntax_uid=self._values[_TRANSFER_SYNTAX_UID],
            data_set_offset=self._position,
        )
