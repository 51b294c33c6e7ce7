"""Reports to senders on storage commitment, on associations of our own (PS3.4 J.3.3).

What is due stands in the record, so a restart loses nothing, and two processes may do this at once.
A process that dies over a report delays it by the lease; one that is overtaken makes the report a
second time, which tells the sender nothing new.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from sqlalchemy import Engine

from gateway.delivery.commitment import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    build_report,
)
from gateway.delivery.commitment_service import StorageCommitmentService
from gateway.delivery.holdings import Holdings
from gateway.delivery.routes import Destination
from gateway.delivery.scu import Proposal, associate
from gateway.errors import AssociationRefused, LeaseLost, RecordUnavailable
from gateway.faults import failpoint
from gateway.settings import CommitmentSettings, StoreSettings, TlsSettings
from gateway.store.engine import Clock, utc_now
from gateway.store.intake.received_commitments import DueReport, ReceivedCommitments
from gateway.store.work.commitment import CommitmentBook

log = logging.getLogger(__name__)

_POLL_S = 1.0
_PAUSE_S = 5.0


def parse_peers(text: str) -> dict[str, Destination]:
    """Return the senders that we can call, by AE title.

    Raises
    ------
    DestinationError
        An entry cannot be read.
    """
    peers = [Destination.parse(entry) for entry in text.split(",") if entry.strip()]
    return {peer.ae_title: peer for peer in peers}


class CommitmentReporter:
    """Makes the reports that are due."""

    def __init__(
        self,
        record: ReceivedCommitments,
        holdings: Holdings,
        settings: CommitmentSettings,
        tls: TlsSettings,
        clock: Clock = utc_now,
    ) -> None:
        self._record = record
        self._holdings = holdings
        self._settings = settings
        self._tls = tls
        self._peers = parse_peers(settings.peers)
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Report until ``stop`` is set; an outage of the record is waited out.

        A report that ends by a defect of ours is tried again when its lease has run out.
        """
        outage = ""
        while not stop.is_set():
            try:
                while not stop.is_set() and self.report_next():
                    pass
                outage = ""
            except RecordUnavailable as exc:
                if outage != str(exc):
                    log.warning("waiting: %s", exc, extra={"action": "commitment.waiting"})
                outage = str(exc)
            except Exception as exc:  # the edge of a thread; its text may quote values
                log.error(
                    "a report ended by a defect (%s)",
                    type(exc).__name__,
                    extra={"action": "commitment.failed"},
                )
                stop.wait(_PAUSE_S)
            stop.wait(_POLL_S)

    def report_next(self) -> bool:
        """Make one report that is due; return whether there was one.

        Raises
        ------
        RecordUnavailable
            The report is made later, by whoever finds it due.
        """
        due = self._record.claim_due(self._settings.lease_s)
        if due is None:
            return False
        failpoint("commitment.claimed")
        with _held(self._record, due, self._settings.lease_s):
            problem = self._report(due)
        if not problem:
            self._record.reported(due.id)
            return True
        age_h = (self._clock() - due.received_at).total_seconds() / 3600
        if age_h >= self._settings.give_up_after_h:
            self._record.give_up(due.id, problem)
        else:
            self._record.postpone(
                due.id,
                problem,
                attempts=due.attempts,
                max_pause_s=self._settings.max_backoff_s,
            )
        log.warning("a report was not taken: %s", problem, extra={"action": "commitment.postponed"})
        return True

    def _report(self, due: DueReport) -> str:
        """Make one report; return "" when the sender took it, else why not."""
        peer = self._peers.get(due.calling_ae_title)
        if peer is None:
            return (
                "the sender ended its association, and LENTIGO_COMMITMENT_PEERS has no address "
                "for its AE title"
            )
        failed = self._holdings.failures(due.instances)
        self._record.checked(due.id, len(failed))
        failpoint("commitment.checked")
        problem = self._send(peer, due, due.instances, failed)
        if not problem:
            failpoint("commitment.told")
        return problem

    def _send(
        self,
        peer: Destination,
        due: DueReport,
        instances: Mapping[str, str],
        failed: Mapping[str, int],
    ) -> str:
        event_type_id, information = build_report(due.transaction_uid, instances, failed)
        proposal = Proposal(
            calling_ae_title=due.called_ae_title,
            contexts=[build_context(STORAGE_COMMITMENT)],
            timeout_s=self._settings.timeout_s,
            scp_roles=(STORAGE_COMMITMENT,),
        )
        try:
            assoc = associate(peer, proposal, self._tls)
        except AssociationRefused as exc:
            return str(exc)
        try:
            status: Dataset
            status, _ = assoc.send_n_event_report(
                information, event_type_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
        except (RuntimeError, ValueError):
            return "the sender does not accept us as the one that reports (SCP role)"
        finally:
            if assoc.is_established:
                assoc.release()
        if "Status" not in status:
            return "no answer to the report: aborted or timed out"
        value = int(status.Status)
        return "" if value == 0x0000 else f"the sender refuses the report (status {value:04X})"


@contextmanager
def _held(record: ReceivedCommitments, due: DueReport, lease_s: float) -> Iterator[None]:
    """Hold a report for as long as it takes: a check reads every byte that it commits to."""
    stop = threading.Event()

    def beat() -> None:
        held_until = due.held_until
        while not stop.wait(lease_s / 3):
            try:
                held_until = record.extend(due.id, held_until, lease_s)
            except LeaseLost:
                return
            except RecordUnavailable:
                log.warning(
                    "the record does not answer a heartbeat", extra={"action": "lease.waiting"}
                )

    thread = threading.Thread(target=beat, name=f"report-{due.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def commitment_service(engine: Engine, store: StoreSettings) -> StorageCommitmentService:
    """Return the service that our listener offers.

    Raises
    ------
    DestinationError
        ``LENTIGO_COMMITMENT_PEERS`` cannot be read.
    """
    record = ReceivedCommitments(engine)
    return StorageCommitmentService(
        CommitmentBook(engine),
        record,
        Holdings(record, store.spool_folder),
        frozenset(parse_peers(CommitmentSettings().peers)),
    )


@contextmanager
def reporting(engine: Engine, store: StoreSettings) -> Iterator[None]:
    """Make reports in a thread of its own for as long as the context is open."""
    record = ReceivedCommitments(engine)
    reporter = CommitmentReporter(
        record, Holdings(record, store.spool_folder), CommitmentSettings(), TlsSettings()
    )
    stop = threading.Event()
    thread = threading.Thread(target=reporter.run, args=(stop,), name="commitment", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)
