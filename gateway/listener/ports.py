"""What the listener needs of the record, and the values that pass between them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from gateway.dicom.part10 import InstanceHeader
from gateway.spool import StoredFile


class Registration(enum.Enum):
    """What the record made of a received instance."""

    NEW = "new"
    """A row was written; the instance belongs to the open generation of its study."""
    DUPLICATE = "duplicate"
    """The same bytes were here already; nothing was written."""
    CONFLICT = "conflict"
    """The SOP Instance UID is known with other bytes: kept, quarantined, alarm raised."""
    OWN_RESULT = "own_result"
    """One of our own results came back: filed, never analysed."""
    PRIOR = "prior"
    """An earlier image that we fetched for comparison: filed, not analysed."""


@dataclass(frozen=True, kw_only=True)
class AssociationInfo:
    """Who is at the other end of an association."""

    association_id: str
    """Made by us, 32 hexadecimal digits."""
    calling_ae_title: str
    called_ae_title: str
    peer_address: str


class InstanceRecord(Protocol):
    """The part of the record that the listener writes."""

    def register_instance(
        self,
        *,
        header: InstanceHeader,
        stored: StoredFile,
        association: AssociationInfo,
        is_fetched: bool = False,
    ) -> Registration:
        """Commit one instance; raises ``RecordUnavailable`` when nothing was written.

        Parameters
        ----------
        is_fetched
            Whether we asked for it ourselves, as an image to compare with.
        """
        ...

    def register_refusal(
        self,
        *,
        association: AssociationInfo,
        status: int,
        reason: str,
        stored: StoredFile | None,
        header: InstanceHeader | None,
    ) -> None:
        """Note an instance that was not accepted, with the status answered."""
        ...

    def register_association(self, association: AssociationInfo, *, outcome: str) -> None:
        """Note an association: accepted, rejected, aborted or released."""
        ...
