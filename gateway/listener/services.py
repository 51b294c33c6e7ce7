"""How DIMSE services other than C-STORE plug into the listener, e.g. storage commitment.

A service names the presentation contexts that it answers and turns one request into one answer.
Network, negotiation, encoding and the order of messages are the listener's; a service never sees
a socket. C-ECHO is the listener's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import (
    N_ACTION,
    N_CREATE,
    N_DELETE,
    N_EVENT_REPORT,
    N_GET,
    N_SET,
)

from gateway.listener.acceptance import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from gateway.listener.ports import AssociationInfo

ServiceRequest = N_ACTION | N_CREATE | N_DELETE | N_EVENT_REPORT | N_GET | N_SET
"""What a service may be asked (PS3.7 10.1): pynetdicom's primitive, its data set not decoded."""


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """A presentation context that a service answers, as acceptor."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...] = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    """In the order of preference."""
    requestor_may_be_scu: bool = True
    """Whether the requestor may take its usual role, SCU."""
    requestor_may_be_scp: bool = False
    """Whether it may take the other one, by SCP/SCU role selection (PS3.7 D.3.3.4): a PACS does
    when it opens an association to report on storage commitment."""


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """An N-EVENT-REPORT to be sent on the same association once the response is on its way.

    Notes
    -----
    It goes out on the presentation context of the request that it follows (PS3.4 J.3.3: the
    requestor is SCU there and takes event reports).
    """

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    event_type_id: int
    event_information: Dataset
    reference: str = ""
    """The service's own name for what is reported, handed back with the outcome."""


@dataclass(frozen=True, kw_only=True)
class ServiceAnswer:
    """The response to one request.

    Attributes
    ----------
    status
        DIMSE status (PS3.7 Annex C).
    data_set
        Action Reply, Event Reply or Attribute List; None for none.
    comment
        Error Comment (0000,0902); ASCII, at most 64 characters are sent, no attribute value in it.
    follow_up
        What to report next on this association; None for nothing.
    """

    status: int
    data_set: Dataset | None = None
    comment: str = ""
    follow_up: FollowUp | None = None


class DimseService(Protocol):
    """A service class that the listener offers beside Verification and Storage.

    One object serves every association: its methods are called from several threads at once.
    """

    @property
    def contexts(self) -> tuple[ServiceContext, ...]:
        """The presentation contexts that it answers; no two services name the same one."""
        ...

    def answer(
        self, request: ServiceRequest, data_set: Dataset | None, association: AssociationInfo
    ) -> ServiceAnswer:
        """Return the answer to ``request``.

        Parameters
        ----------
        request
            As decoded; its UIDs and type ids may be None or nonsense.
        data_set
            Action Information, Event Information or the like; None when the request has none.
            One that cannot be decoded never gets here: it is answered with 0110.

        Notes
        -----
        An exception is answered with 0110 (processing failure) and logged by kind and place.
        """
        ...

    def followed_up(
        self, follow_up: FollowUp, status: int | None, association: AssociationInfo
    ) -> None:
        """Take the outcome of a follow-up.

        Parameters
        ----------
        status
            Status of the N-EVENT-REPORT-RSP; None when the association ended before it came: the
            report must then be made on another association (PS3.4 J.3.3).
        """
        ...
