"""Reads A-ASSOCIATE-RQ and writes A-ASSOCIATE-AC (PS3.8 9.3.2 and 9.3.3, PS3.7 Annex D).

Encoding, presentation contexts and roles are pynetdicom's; this module bounds it, turns whatever
it raises into our own error, and keeps what the listener needs to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID
from gateway.errors import ProtocolError
from gateway.listener.acceptance import (
    ACCEPTED_SOP_CLASSES,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
    AcceptedSopClass,
)
from gateway.listener.pdu import AbortReason
from gateway.listener.services import DimseService

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
IMPLEMENTATION_VERSION_NAME = "LENTIGO"

_UserInformation = (
    MaximumLengthNotification
    | ImplementationClassUIDNotification
    | ImplementationVersionNameNotification
    | AsynchronousOperationsWindowNegotiation
    | UserIdentityNegotiation
)

_PROTOCOL_VERSION_BIT = 0x0001  # PS3.8 Table 9-11: only this bit is tested
_VERIFIABLE_IDENTITIES = frozenset((1, 2))  # user name, user name and passcode (PS3.7 D.3.3.7)


@dataclass(frozen=True, kw_only=True)
class AssociationRequest:
    """What a requestor asks for."""

    calling_ae_title: str
    called_ae_title: str
    is_version_supported: bool
    is_application_context_supported: bool
    max_pdu_bytes: int
    """Largest P-DATA-TF PDU that the requestor takes; 0 for no limit."""
    contexts: Sequence[PresentationContext] = field(repr=False)
    roles: dict[UID, tuple[bool | None, bool | None]] = field(repr=False)
    """(SCU, SCP) that the requestor proposes for itself, by abstract syntax."""
    wants_identity_response: bool = False
    proposes_window: bool = False
    """Whether it asks for an asynchronous operations window."""


@dataclass(frozen=True, kw_only=True)
class AcceptedContext:
    """One presentation context in force."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What was negotiated, and the A-ASSOCIATE-AC that says so."""

    pdu: bytes = field(repr=False)
    contexts: dict[int, AcceptedContext]
    """By presentation context id."""


def decode_request(body: bytes | memoryview) -> AssociationRequest:
    """Return what an A-ASSOCIATE-RQ asks for.

    Parameters
    ----------
    body
        The PDU without its header.

    Raises
    ------
    ProtocolError
        It cannot be read, or proposes no or an invalid presentation context id.
    """
    encoded = b"\x01\0" + len(body).to_bytes(4, "big") + bytes(body)
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(encoded)
        return _request(pdu)
    except ProtocolError:
        raise
    except Exception as exc:  # whatever pynetdicom and pydicom raise on a malformed request
        raise ProtocolError(
            f"an association request that cannot be read ({type(exc).__name__})",
            AbortReason.INVALID_PARAMETER,
        ) from exc


def _request(pdu: A_ASSOCIATE_RQ) -> AssociationRequest:
    primitive = pdu.to_primitive()
    contexts = primitive.presentation_context_definition_list
    ids = [context.context_id for context in contexts]
    if not ids or len(set(ids)) != len(ids) or not all(each and each % 2 for each in ids):
        raise ProtocolError(
            "presentation context ids that are not odd and unique", AbortReason.INVALID_PARAMETER
        )
    max_pdu_bytes, wants_identity_response, proposes_window = 0, False, False
    roles: dict[UID, tuple[bool | None, bool | None]] = {}
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            max_pdu_bytes = item.maximum_length_received or 0
        elif isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid:
            roles[item.sop_class_uid] = (item.scu_role, item.scp_role)
        elif isinstance(item, UserIdentityNegotiation):
            wants_identity_response = bool(
                item.positive_response_requested
                and item.user_identity_type in _VERIFIABLE_IDENTITIES
            )
        elif isinstance(item, AsynchronousOperationsWindowNegotiation):
            proposes_window = True
    return AssociationRequest(
        calling_ae_title=str(primitive.calling_ae_title or "").strip(),
        called_ae_title=str(primitive.called_ae_title or "").strip(),
        is_version_supported=bool(pdu.protocol_version & _PROTOCOL_VERSION_BIT),
        is_application_context_supported=primitive.application_context_name == APPLICATION_CONTEXT,
        max_pdu_bytes=max_pdu_bytes,
        contexts=contexts,
        roles=roles,
        wants_identity_response=wants_identity_response,
        proposes_window=proposes_window,
    )


class Acceptor:
    """Negotiates as association acceptor.

    Parameters
    ----------
    max_pdu_bytes
        Largest P-DATA-TF PDU that we take.
    storage
        Storage SOP classes, by UID.
    services
        What is offered beside Verification and Storage.
    """

    def __init__(
        self,
        *,
        max_pdu_bytes: int,
        storage: Iterable[AcceptedSopClass] = tuple(ACCEPTED_SOP_CLASSES.values()),
        services: Sequence[DimseService] = (),
    ) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._supported = [
            build_context(VERIFICATION, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
        ]
        self._supported += [
            build_context(each.uid, list(each.transfer_syntaxes)) for each in storage
        ]
        for service in services:
            for offered in service.contexts:
                context = build_context(offered.abstract_syntax, list(offered.transfer_syntaxes))
                context.scu_role = offered.requestor_may_be_scu
                context.scp_role = offered.requestor_may_be_scp
                self._supported.append(context)

    def accept(self, request: AssociationRequest) -> Agreement:
        """Return the answer to a request that policy lets in.

        Raises
        ------
        ProtocolError
            The answer cannot be encoded, e.g. for UIDs that are none.
        """
        try:
            return self._accept(request)
        except Exception as exc:  # as in decode_request: pynetdicom checks values when they are set
            raise ProtocolError(
                f"an association request that cannot be answered ({type(exc).__name__})",
                AbortReason.INVALID_PARAMETER,
            ) from exc

    def _accept(self, request: AssociationRequest) -> Agreement:
        results, roles = negotiate_as_acceptor(
            list(request.contexts), self._supported, request.roles
        )
        answer = A_ASSOCIATE()
        answer.application_context_name = APPLICATION_CONTEXT
        answer.calling_ae_title = request.calling_ae_title
        answer.called_ae_title = request.called_ae_title
        answer.result = 0
        answer.result_source = 1
        answer.presentation_context_definition_results_list = results
        answer.user_information = [*self._user_information(request), *roles]
        pdu = A_ASSOCIATE_AC()
        pdu.from_primitive(answer)
        return Agreement(
            pdu=pdu.encode(),
            contexts={
                int(context.context_id or 0): AcceptedContext(
                    abstract_syntax=str(context.abstract_syntax),
                    transfer_syntax=str(context.transfer_syntax[0]),
                )
                for context in results
                if context.result == 0
            },
        )

    def _user_information(self, request: AssociationRequest) -> list[_UserInformation]:
        """Return the items that answer the request's.

        Extended negotiation is left unanswered, which refuses it (PS3.7 D.3.3.5).
        """
        maximum_length = MaximumLengthNotification()
        maximum_length.maximum_length_received = self._max_pdu_bytes
        implementation = ImplementationClassUIDNotification()
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        items: list[_UserInformation] = [maximum_length, implementation, version]
        if request.proposes_window:
            window = AsynchronousOperationsWindowNegotiation()
            window.maximum_number_operations_invoked = 1
            window.maximum_number_operations_performed = 1
            items.append(window)
        if request.wants_identity_response:
            # Not verified: who may call is settled by the allow-list and by TLS. Senders that
            # insist on an answer would abort without one.
            identity = UserIdentityNegotiation()
            identity.server_response = b""
            items.append(identity)
        return items
