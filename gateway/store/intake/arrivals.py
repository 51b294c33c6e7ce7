"""The common case of an arrival: one more instance of a study that is being received.

Thousands come like that, so the statements are built once, and no more of them are sent than the
case needs. Everything else is ``gateway.store.intake.receiving``'s: a new study or generation, a
duplicate, a conflict, a result of ours.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, bindparam, case, insert, select, update

from gateway.dicom.part10 import InstanceHeader
from gateway.listener.ports import AssociationInfo
from gateway.spool import StoredFile
from gateway.store import states
from gateway.store.intake.lesions import lesion_values
from gateway.store.intake.own_results import OWN_MANUFACTURER, may_be_derived
from gateway.store.tables import Generation, Instance, ResultObject, Study

_FIND = (
    select(
        Study.id.label("study_id"),
        Study.state.label("study_state"),
        Generation.id.label("generation_id"),
        Generation.state.label("generation_state"),
        select(Instance.id)
        .where(Instance.sop_instance_uid == bindparam("sop_instance_uid"))
        .limit(1)
        .scalar_subquery()
        .label("known_instance"),
        select(ResultObject.id)
        .where(ResultObject.sop_instance_uid == bindparam("sop_instance_uid"))
        .limit(1)
        .scalar_subquery()
        .label("known_result"),
    )
    .join(Generation, Generation.study_id == Study.id)
    .where(Study.study_instance_uid == bindparam("study_instance_uid"))
    .order_by(Generation.number.desc())
    .limit(1)
)
_TOUCH_STUDY = (
    update(Study)
    .where(Study.id == bindparam("of_study"))
    .values(last_received_at=bindparam("moment"))
)
_TOUCH_GENERATION = (
    update(Generation)
    .where(Generation.id == bindparam("of_generation"), Generation.state == states.RECEIVING)
    .values(
        last_instance_at=bindparam("moment"),
        closes_at=case(
            (Generation.closes_at > bindparam("earliest"), Generation.closes_at),
            else_=bindparam("earliest"),
        ),
        revision=Generation.revision + 1,
    )
)
_INSERT = insert(Instance)


def join_receiving(
    connection: Connection,
    header: InstanceHeader,
    stored: StoredFile,
    association: AssociationInfo,
    now: dt.datetime,
    window_s: float,
) -> bool:
    """Add an instance to the receiving generation of its study; return False if it is no such case.

    Parameters
    ----------
    window_s
        Seconds of quiet after which the generation may close.

    Notes
    -----
    The state of the study stays what it is, so that it need not be derived again.
    """
    if may_be_derived(header) or _names_us(header):
        return False
    found = connection.execute(
        _FIND,
        {
            "sop_instance_uid": header.sop_instance_uid,
            "study_instance_uid": header.study_instance_uid,
        },
    ).first()
    if (
        found is None
        or found.known_instance is not None
        or found.known_result is not None
        or found.study_state != states.RECEIVED
        or found.generation_state != states.RECEIVING
    ):
        return False
    # In this order everywhere: study, then generation (states.lock_study).
    connection.execute(_TOUCH_STUDY, {"of_study": found.study_id, "moment": now})
    joined = connection.execute(
        _TOUCH_GENERATION,
        {
            "of_generation": found.generation_id,
            "moment": now,
            "earliest": now + dt.timedelta(seconds=window_s),
        },
    ).rowcount
    if not joined:
        return False  # it closed since we looked
    connection.execute(
        _INSERT,
        instance_values(header, stored, association, now)
        | {
            "study_id": found.study_id,
            "generation_id": found.generation_id,
            "disposition": "accepted",
            "reason": "",
        },
    )
    return True


def instance_values(
    header: InstanceHeader, stored: StoredFile, association: AssociationInfo, now: dt.datetime
) -> dict[str, Any]:
    """Return the columns of an instance that do not depend on what the record holds already."""
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "series_instance_uid": header.series_instance_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "modality": header.modality[:16],
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
        "path": str(stored.relative_path),
        "calling_ae_title": association.calling_ae_title,
        "called_ae_title": association.called_ae_title[:16],
        "association_id": association.association_id,
        "peer_address": association.peer_address[:45],
        "is_derived": may_be_derived(header),
        "received_at": now,
        **lesion_values(header),
    }


def _names_us(header: InstanceHeader) -> bool:
    names = (header.manufacturer, header.manufacturer_model_name)
    return OWN_MANUFACTURER.casefold() in (name.strip().casefold() for name in names)
