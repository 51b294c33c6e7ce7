"""Runs one hint: claims the work, holds the lease, does the step, records how it ended.

This is the task wrapper: the one place of the worker with a broad ``except``, because whatever a
step raises must end as a state of the work item and not as a lost message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.delivery.routes import Route
from gateway.errors import LeaseLost, RecordUnavailable
from gateway.faults import failpoint
from gateway.logs import log_context
from gateway.queue import BrokerUnavailable, Queue
from gateway.store.states import DELIVER
from gateway.store.values import Claim, Hint, Scheduled
from gateway.store.work.deliveries import DeliveryDesk
from gateway.store.work.ledger import WorkLedger
from workers import pipeline
from workers.adapters.scratch import ScratchFolder
from workers.analysis import Registry
from workers.delivery import Courier, deliver
from workers.errors import BadModelOutput, ModelUnavailable
from workers.failure import Failure, FailureKind, backoff_s, classify
from workers.lease import Heartbeat
from workers.limits import held_to
from workers.model_watch import ModelWatch
from workers.ports import (
    Documents,
    Embeddings,
    InferenceClient,
    InstanceSource,
    Priors,
    ResultFiles,
    ServedModel,
)
from workers.routing import Decision, decide_all, destinations_of, explain_no_match
from workers.settings import WorkerSettings
from workers.slide.source import NoSlides, SlideSource
from workers.spans import route_span, step_span
from workers.study import Study

log = logging.getLogger(__name__)

_ROUTING_BASE_S = 2.0
_CONFIRM_BASE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that one worker process works with; made after the fork."""

    ledger: WorkLedger
    queue: Queue
    registry: Registry
    source: InstanceSource
    documents: Documents
    priors: Callable[[int], Priors]
    """Finds earlier images, given the number of the attempt at an analysis."""
    inference: InferenceClient
    embeddings: Embeddings
    files: ResultFiles
    courier_to: Callable[[str], Courier]
    settings: WorkerSettings
    results_folder: Path
    scratch_folder: Path
    destinations: tuple[Route, ...]
    delivery_max_backoff_s: float
    owner: str
    """Names this process in the timeline."""
    software_version: str
    slides: SlideSource = field(default_factory=NoSlides)
    deliveries: DeliveryDesk | None = None
    """What is kept of storage commitment; None: it is not asked for."""
    confirm: str = "auto"
    """Which confirmations count (``gateway.delivery.confirmation``)."""
    model_watch: ModelWatch | None = None
    """Has work tried that waits for a model; None: it waits for the end of its pause."""


def route(services: Services, generation_id: int) -> None:
    """Turn a closed generation into work items and announce them."""
    with log_context(generation_id=generation_id):
        try:
            with route_span(services.ledger, generation_id):
                _route(services, generation_id)
        except Exception as exc:  # the task wrapper, see the module's first lines
            failure = classify(exc)
            _log_failure("route", failure, exc)
            delay_s = backoff_s(2, base_s=_ROUTING_BASE_S, max_s=services.settings.max_backoff_s)
            _persist(
                services,
                lambda: services.ledger.postpone_routing(
                    generation_id,
                    failure.reason,
                    delay_s,
                    is_defect=failure.kind is FailureKind.DEFECT,
                ),
            )


def _route(services: Services, generation_id: int) -> None:
    generation = services.ledger.load_generation(generation_id)
    if generation is None:
        return
    decisions = [
        _with_model(services, decision)
        for decision in decide_all(
            Study(generation, services.source, services.documents),
            services.registry,
            generation,
            may_fail=lambda: (
                services.ledger.routing_defects(generation_id) + 1 < services.settings.max_defects
            ),
        )
    ]
    scheduled = [
        Scheduled(
            analysis=decision.analysis,
            model_digest=decision.model_digest,
            reason=decision.reason,
            priority=decision.priority,
        )
        for decision in decisions
        if decision.applies
    ]
    failpoint("routing.decided")
    reason = "" if scheduled else explain_no_match(generation, decisions)
    ids = services.ledger.record_routing(
        generation_id,
        scheduled,
        reason,
        left_out={each.analysis: each.reason for each in decisions if each.is_left_out},
    )
    if ids or not scheduled:  # else another worker was faster
        log.info(
            "routed to %d analyses",
            len(ids),
            extra={"action": "generation.routed", "study_key": generation.study_id},
        )
    failpoint("routing.recorded")
    for work_item_id, item in zip(ids, scheduled, strict=False):
        _announce(
            services,
            Hint(
                kind="analyse",
                id=work_item_id,
                analysis=item.analysis,
                priority=item.priority,
            ),
        )


def _with_model(services: Services, decision: Decision) -> Decision:
    """Bind a decision to the model in service, or leave the analysis out where it may not answer.

    A model that cannot be asked now binds its work item when that runs: it holds up no other.
    """
    if not decision.applies:
        return decision
    try:
        served = _served(services, decision.analysis)
    except (ModelUnavailable, BadModelOutput) as exc:
        log.warning("scheduled without its model: %s", exc, extra={"action": "model.unknown"})
        return decision
    why = served.lacks_evidence(services.settings.demonstration_models)
    if why:
        return decision.left_out(why)
    return replace(decision, model_digest=served.digest)


def work(services: Services, work_item_id: int) -> None:
    """Do the step that a work item is at, if it is due and free.

    An old message may ask for a step that is done: the record says which one is next.
    """
    try:
        claim = services.ledger.claim_next(
            work_item_id,
            owner=services.owner,
            lease_s=services.settings.lease_s,
            analyses=services.settings.analyses_of_lane(services.registry),
            at_most={
                each.name: services.settings.limits_of(each).concurrency
                for each in services.registry
            },
        )
    except RecordUnavailable as exc:
        # The sweeper announces the work item again once the record answers.
        log.warning("waiting: %s", exc, extra={"action": "work_item.unclaimed"})
        return
    if claim is None:
        return
    with log_context(
        work_item_id=claim.work_item_id,
        study_key=claim.generation.study_id,
        analysis=claim.analysis,
        attempt=claim.attempt,
    ):
        started = time.monotonic()
        with Heartbeat(services.ledger, claim, lease_s=services.settings.lease_s) as heartbeat:
            try:
                failpoint("worker.claimed")
                with step_span(services.ledger, claim):
                    _step(services, claim, heartbeat)
            except LeaseLost:
                log.warning(
                    "another worker holds the work item; stopping",
                    extra={"action": "work_item.lease_lost"},
                )
                return
            except Exception as exc:  # the task wrapper, see the module's first lines
                failure = classify(exc)
                _log_failure(claim.step, failure, exc)
                _persist(services, lambda: _end_failed(services, claim, failure))
                if isinstance(exc, ModelUnavailable) and services.model_watch is not None:
                    services.model_watch.await_model(exc.model or claim.analysis, claim.analysis)
                return
        log.info(
            "%s ended after %.2f s",
            claim.step,
            time.monotonic() - started,
            extra={"action": f"work_item.{claim.step}.ended"},
        )


def _step(services: Services, claim: Claim, heartbeat: Heartbeat) -> None:
    if claim.step == DELIVER:
        _deliver(services, claim)
    else:
        _analyse(services, claim, heartbeat)


def _analyse(services: Services, claim: Claim, heartbeat: Heartbeat) -> None:
    destinations = destinations_of(claim.generation.plan, services.destinations)
    analysis = services.registry.get(claim.analysis)
    claim = _with_served_model(services, claim)
    limits = services.settings.limits_of(analysis)
    with ScratchFolder(services.scratch_folder) as scratch, held_to(limits, analysis.name):
        analysed = pipeline.analyse(
            claim,
            analysis,
            pipeline.Ports(
                source=services.source,
                documents=services.documents,
                priors=services.priors(claim.attempt),
                inference=services.inference,
                record=services.ledger,
                files=services.files,
                scratch=scratch,
                embeddings=services.embeddings,
                software_version=services.software_version,
                allows_demonstration=services.settings.demonstration_models,
                slides=services.slides,
            ),
            heartbeat.check,
        )
    failpoint("worker.written")
    _persist(
        services,
        lambda: services.ledger.save_results(
            claim,
            analysed.objects,
            destinations=destinations,
            outcome=analysed.outcome,
            reason=analysed.reason,
            summary=analysed.summary,
            measured=analysed.measured,
        ),
    )
    failpoint("worker.saved")
    _announce(services, Hint(kind="deliver", id=claim.work_item_id, analysis=claim.analysis))


def _served(services: Services, analysis: str) -> ServedModel[Any]:
    kind = services.registry.get(analysis).manifest_type
    return services.inference.identify(analysis, kind)


def _with_served_model(services: Services, claim: Claim) -> Claim:
    """Bind the work item to the model in service now, if it was replaced since the routing.

    Nothing was made with the old one, so nothing is lost; the timeline says it.
    """
    served = _served(services, claim.analysis)
    if served.digest == claim.model_digest:
        return claim
    services.ledger.change_model(claim, served.digest)
    return replace(claim, model_digest=served.digest)


def _deliver(services: Services, claim: Claim) -> None:
    delivered = deliver(
        claim,
        services.ledger,
        services.courier_to,
        services.results_folder,
        commitments=services.deliveries,
        confirm=services.confirm,
    )
    if delivered.failure is None:
        failpoint("delivery.completing")
        _persist(services, lambda: services.ledger.complete(claim, reason=delivered.reason))
        failpoint("delivery.completed")
        return
    failure = Failure(kind=delivered.failure, reason=delivered.reason)
    if delivered.failure is not FailureKind.TRANSIENT or delivered.retry_in_s is None:
        log.warning(
            "delivery: %s", failure.kind.value, extra={"action": "work_item.deliver.not_done"}
        )
        _persist(services, lambda: _end_failed(services, claim, failure))
    else:
        delay_s = delivered.retry_in_s
        log.info("delivery: waiting", extra={"action": "work_item.deliver.waiting"})
        _persist(
            services,
            lambda: services.ledger.retry_later(
                claim, reason=failure.reason, delay_s=delay_s, is_expected=delivered.is_expected
            ),
        )
    if services.deliveries is not None:
        # An answer that came while this was written has made the work item due too early.
        deliveries = services.deliveries
        _persist(services, lambda: deliveries.wake_answered(claim.work_item_id))


def _end_failed(services: Services, claim: Claim, failure: Failure) -> None:
    settings = services.settings
    is_defect = failure.kind is FailureKind.DEFECT
    # Attempts that an outage has cost do not count.
    is_last_defect = is_defect and services.ledger.defects(claim) + 1 >= settings.max_defects
    if failure.kind is FailureKind.REJECTED or is_last_defect:
        services.ledger.fail(claim, kind=failure.kind.value, reason=failure.reason)
        return
    max_s = services.delivery_max_backoff_s if claim.step == DELIVER else settings.max_backoff_s
    services.ledger.retry_later(
        claim,
        reason=failure.reason,
        delay_s=backoff_s(claim.attempt, base_s=_CONFIRM_BASE_S, max_s=max_s),
        is_defect=is_defect,
    )


def _persist(services: Services, write: Callable[[], None]) -> None:
    """Write to the record, waiting out a short outage while the lease lasts.

    When the record stays away the lease runs out and the step is done again: its objects keep
    their UIDs, so nothing is doubled.
    """
    deadline = time.monotonic() + services.settings.lease_s
    attempt = 0
    while True:
        attempt += 1
        try:
            write()
        except LeaseLost:
            log.warning(
                "another worker holds the work item; nothing was written",
                extra={"action": "work_item.lease_lost"},
            )
        except RecordUnavailable:
            pause_s = backoff_s(attempt, base_s=0.2, max_s=2.0)
            if time.monotonic() + pause_s > deadline:
                log.warning(
                    "the record does not answer; the step will be done again",
                    extra={"action": "work_item.not_recorded"},
                )
                return
            time.sleep(pause_s)
            continue
        return


def _announce(services: Services, hint: Hint) -> None:
    try:
        services.queue.announce(hint)
    except BrokerUnavailable as exc:
        # The sweeper does it once the broker answers.
        log.warning("not announced: %s", exc, extra={"action": "hint.not_sent"})


def _log_failure(step: str, failure: Failure, exc: Exception) -> None:
    is_expected = failure.kind is not FailureKind.DEFECT
    log.log(
        logging.WARNING if is_expected else logging.ERROR,
        "%s failed: %s",
        step,
        failure.reason,
        extra={"action": f"work_item.{step}.failed", "failure_kind": failure.kind.value},
        exc_info=None if is_expected else exc,
    )
