"""Asks the destinations what they hold of what the record says they confirmed.

A destination may be indexing, or putting an object in the place of the same one that came again:
what is missing is asked for again for a while before it is called missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from sqlalchemy import Engine, select

from gateway.delivery.routes import FOLDER, Destination, ObjectState, Outgoing, is_web_address
from gateway.delivery.scu import Proposal, associate
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.errors import AssociationRefused, GatewayError, NoContextAccepted
from gateway.settings import DeliverySettings, TlsSettings
from gateway.store.engine import reading
from gateway.store.tables import Delivery, ResultObject, Study, WorkItem
from gateway.store.verification.findings import Finding

_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3
_EXAMPLES = 10
PATIENCE_S = 10.0
_PAUSE_S = 1.0

Series = dict[tuple[str, str], dict[str, str]]
"""(Study, Series Instance UID) -> SOP Instance UID -> what we call the object."""


class PacsUnavailable(GatewayError):
    """The PACS cannot be asked what it holds; the message says why."""


def check_pacs(
    engine: Engine, settings: DeliverySettings, *, patience_s: float = PATIENCE_S
) -> Finding:
    """Every confirmed object is at its destination, once, and nothing else is in our series.

    Raises
    ------
    PacsUnavailable
        A destination cannot be asked.
    """
    examples: list[str] = []
    checked = broken = 0
    for destination, series in _confirmed(engine).items():
        checked += sum(len(expected) for expected in series.values())
        found = _problems(destination, series, settings)
        # From here on: the first look may have taken longer than all patience.
        deadline = time.monotonic() + patience_s
        while found and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
            # A busy PACS leaves out now one object, now another: what was listed is there.
            series = {pair: series[pair] for pair in found}
            found = _problems(destination, series, settings)
        problems = [text for texts in found.values() for text in texts]
        broken += len(problems)
        examples += problems
    return Finding(
        invariant="every confirmed object is at the PACS, once",
        checked=checked,
        broken=broken,
        remedy="send the study's results again, or ask the PACS who deleted it" if broken else "",
        examples=tuple(examples[:_EXAMPLES]),
    )


def _confirmed(engine: Engine) -> dict[str, Series]:
    """Return destination -> what it confirmed."""
    found: dict[str, Series] = {}
    with reading(engine) as connection:
        rows = connection.execute(
            select(
                Delivery.destination,
                Study.study_instance_uid,
                ResultObject.work_item_id,
                ResultObject.role,
                ResultObject.series_instance_uid,
                ResultObject.sop_instance_uid,
            )
            .join(ResultObject, Delivery.result_object_id == ResultObject.id)
            .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
            .join(Study, WorkItem.study_id == Study.id)
            .where(Delivery.state == "CONFIRMED", Delivery.destination != FOLDER)
            .order_by(Delivery.id)
        ).all()
    for row in rows:
        series = found.setdefault(row.destination, {})
        objects = series.setdefault((row.study_instance_uid, row.series_instance_uid), {})
        objects[row.sop_instance_uid] = f"work item {row.work_item_id}, {row.role}"
    return found


def _problems(
    destination: str, series: Series, settings: DeliverySettings
) -> dict[tuple[str, str], list[str]]:
    """Return what is wrong with each series with which something is."""
    if is_web_address(destination):
        return _web_problems(destination, series, settings)
    peer = Destination.parse(destination)
    listed = _listed(peer, series, settings)
    problems: dict[tuple[str, str], list[str]] = {}
    for pair, expected in series.items():
        found = listed[pair]
        for uid, label in expected.items():
            count = found.pop(uid, 0)
            if count != 1:
                what = f"is listed {count} times" if count else "is not there"
                problems.setdefault(pair, []).append(f"{label} at {destination}: {what}")
        if found:
            label = next(iter(expected.values()))
            unknown = f"{len(found)} unknown objects at {destination} beside {label}"
            problems.setdefault(pair, []).append(unknown)
    return problems


def _listed(
    destination: Destination, series: Series, settings: DeliverySettings
) -> dict[tuple[str, str], Counter[str]]:
    """Ask for the instances of every series, on one association (PS3.4 C.4.1)."""
    proposal = Proposal(
        calling_ae_title=settings.calling_ae_title,
        contexts=[build_context(_STUDY_ROOT_FIND)],
        timeout_s=settings.timeout_s,
    )
    try:
        assoc = associate(destination, proposal, TlsSettings())
    except NoContextAccepted as exc:
        raise PacsUnavailable(f"{destination.ae_title} offers no C-FIND") from exc
    except AssociationRefused as exc:
        raise PacsUnavailable(f"{destination.ae_title}: {exc}") from exc
    try:
        return {pair: Counter(_instances(assoc, destination, *pair)) for pair in series}
    finally:
        if assoc.is_established:
            assoc.release()


def _instances(
    assoc: Association, destination: Destination, study_uid: str, series_uid: str
) -> Iterator[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_uid, series_uid
    query.SOPInstanceUID = ""
    status = None
    try:
        for response, identifier in assoc.send_c_find(query, _STUDY_ROOT_FIND):
            status = response.get("Status")
            # Some acceptors answer with more than was asked for.
            if identifier is not None and identifier.get("SeriesInstanceUID") in (series_uid, None):
                yield str(identifier.get("SOPInstanceUID", ""))
    except (RuntimeError, ValueError) as exc:
        raise PacsUnavailable(f"{destination.ae_title} ended the association") from exc
    if status != 0x0000:
        raise PacsUnavailable(f"{destination.ae_title} did not answer a C-FIND with success")


def _web_problems(
    address: str, series: Series, settings: DeliverySettings
) -> dict[tuple[str, str], list[str]]:
    """Ask a DICOMweb service for each object by QIDO-RS."""
    sender = StowSender(address, settings, StowSettings())
    problem = sender.probe()
    if problem:
        raise PacsUnavailable(f"{address}: {problem}")
    objects = [(label, pair, uid) for pair, each in series.items() for uid, label in each.items()]
    outcomes = sender.deliver(
        [
            Outgoing(
                id=number,
                path=Path(),
                study_instance_uid=study_uid,
                series_instance_uid=series_uid,
                sop_class_uid="",
                sop_instance_uid=uid,
                sha256="",
                is_stored=True,  # nothing is sent: it is only asked for
            )
            for number, (_, (study_uid, series_uid), uid) in enumerate(objects)
        ]
    )
    problems: dict[tuple[str, str], list[str]] = {}
    for (label, pair, _), outcome in zip(objects, outcomes, strict=True):
        if outcome.state is not ObjectState.CONFIRMED:
            problems.setdefault(pair, []).append(f"{label} at {address}: {outcome.reason}")
    return problems
