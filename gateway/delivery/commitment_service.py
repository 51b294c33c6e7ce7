"""Storage commitment at our listener, in both roles (PS3.4 J).

Senders ask us by N-ACTION; destinations report to us by N-EVENT-REPORT what we asked of them.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

from gateway.delivery.commitment import (
    REQUEST_ACTION,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    build_report,
    read_request,
)
from gateway.delivery.holdings import Holdings
from gateway.delivery.reports import ReportBook, take_report
from gateway.errors import MalformedReport, RecordUnavailable
from gateway.faults import failpoint
from gateway.listener.ports import AssociationInfo
from gateway.listener.services import FollowUp, ServiceAnswer, ServiceContext, ServiceRequest
from gateway.store.intake.received_commitments import ReceivedCommitments

# PS3.7 10.1.4.1.10 and Annex C.
_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_INVALID_ARGUMENT = 0x0115
_NO_SUCH_ACTION = 0x0123
_UNRECOGNISED_OPERATION = 0x0211
_RESOURCE_LIMITATION = 0x0213

_FOLLOW_UP_S = 60.0
"""Time that a report on the sender's own association has, before one on a new one is due."""


class StorageCommitmentService:
    """Implements ``gateway.listener.services.DimseService``.

    Parameters
    ----------
    answers
        Where reports of destinations go.
    record
        Where requests of senders go.
    callable_peers
        AE titles of senders that we can call for a report.
    """

    def __init__(
        self,
        answers: ReportBook,
        record: ReceivedCommitments,
        holdings: Holdings,
        callable_peers: frozenset[str],
    ) -> None:
        self._answers = answers
        self._record = record
        self._holdings = holdings
        self._callable_peers = callable_peers

    @property
    def contexts(self) -> tuple[ServiceContext, ...]:
        """Storage Commitment Push Model; a destination that reports takes the role of SCP."""
        return (
            ServiceContext(
                abstract_syntax=STORAGE_COMMITMENT,
                requestor_may_be_scu=True,
                requestor_may_be_scp=True,
            ),
        )

    def answer(
        self, request: ServiceRequest, data_set: Dataset | None, association: AssociationInfo
    ) -> ServiceAnswer:
        """Return the answer to an N-ACTION or an N-EVENT-REPORT."""
        if isinstance(request, N_EVENT_REPORT):
            return ServiceAnswer(
                status=take_report(
                    self._answers,
                    request.EventTypeID,
                    data_set,
                    reporter=association.calling_ae_title,
                )
            )
        if not isinstance(request, N_ACTION):
            return ServiceAnswer(status=_UNRECOGNISED_OPERATION)
        if request.ActionTypeID != REQUEST_ACTION:
            return ServiceAnswer(status=_NO_SUCH_ACTION)
        if str(request.RequestedSOPInstanceUID or "") != STORAGE_COMMITMENT_INSTANCE:
            return ServiceAnswer(status=_NO_SUCH_INSTANCE)
        try:
            return self._register(data_set, association)
        except MalformedReport as exc:
            return ServiceAnswer(status=_INVALID_ARGUMENT, comment=str(exc))
        except RecordUnavailable:
            return ServiceAnswer(
                status=_RESOURCE_LIMITATION, comment="try again later: the record does not answer"
            )

    def _register(self, data_set: Dataset | None, association: AssociationInfo) -> ServiceAnswer:
        transaction_uid, instances = read_request(data_set)
        calling = association.calling_ae_title
        # Whom we can call is called: most senders release as soon as they have our response, and
        # the check of a large study takes longer than they wait.
        is_callable = calling in self._callable_peers
        request_id = self._record.register(
            calling_ae_title=calling,
            called_ae_title=association.called_ae_title,
            transaction_uid=transaction_uid,
            instances=instances,
            due_in_s=0.0 if is_callable else _FOLLOW_UP_S,
        )
        if request_id is None:
            return ServiceAnswer(
                status=_PROCESSING_FAILURE, comment="the Transaction UID is in use"
            )
        failpoint("commitment.registered")
        if is_callable:
            return ServiceAnswer(status=_SUCCESS)
        failed = self._holdings.failures(instances)
        self._record.checked(request_id, len(failed))
        event_type_id, information = build_report(transaction_uid, instances, failed)
        return ServiceAnswer(
            status=_SUCCESS,
            follow_up=FollowUp(
                affected_sop_class_uid=STORAGE_COMMITMENT,
                affected_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
                event_type_id=event_type_id,
                event_information=information,
                reference=str(request_id),
            ),
        )

    def followed_up(
        self, follow_up: FollowUp, status: int | None, association: AssociationInfo
    ) -> None:
        """Note that a sender took the report, or have it made on a new association."""
        request_id = int(follow_up.reference)
        if status == _SUCCESS:
            self._record.reported(request_id)
            return
        said = "the association ended" if status is None else f"status {status:04X}"
        self._record.postpone(
            request_id,
            f"not taken on the sender's own association: {said}",
            attempts=0,
            max_pause_s=0.0,
        )
