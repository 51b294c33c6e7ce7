"""UPS-RS (PS3.18 11): the worklist of our own work items, to be read, and to be cancelled.

Work items are made by routing and performed by our workers: creating, updating and claiming them
from outside is refused with the reason.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request, Response
from pydicom import Dataset
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from gateway.dicomweb import model
from gateway.dicomweb.matching import Query, read_query
from gateway.dicomweb.multipart import MediaType
from gateway.dicomweb.settings import DicomwebSettings
from gateway.dicomweb.store import root_of
from gateway.dicomweb.ups import UPS_PUSH, ups
from gateway.dicomweb.workitem_uid import work_item_id_of, workitem_uid
from gateway.errors import WebRequestRefused
from gateway.store.people.accounts import Accounts
from gateway.store.work.cancel import CancelAnswer, CancelDesk
from gateway.store.work.ledger import WorkLedger
from gateway.store.work.worklist import Worklist, WorklistEntry

log = logging.getLogger(__name__)

router = APIRouter()

_MAX_BODY_BYTES = 64 * 1024
_REASON, _REASON_CODES, _CODE_MEANING = "00741238", "0074100E", "00080104"
_WARNINGS = {
    CancelAnswer.ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED.",
    CancelAnswer.ALREADY_COMPLETED: "The UPS is already COMPLETED.",
    CancelAnswer.DECLINED: "The performer chooses not to cancel: results are on their way to the "
    "PACS or stored there.",
}
# Left out of a search unless asked for (return key types of PS3.4 Table CC.2.5-3).
_LARGE = frozenset(("InputInformationSequence", "OutputInformationSequence"))


@dataclass(kw_only=True)
class WorklistDesk:
    """What the worklist needs of the record."""

    worklist: Worklist
    ledger: WorkLedger
    cancels: CancelDesk
    accounts: Accounts
    settings: DicomwebSettings

    @cached_property
    def serial(self) -> str:
        """Serial number of this installation, which is part of every UID."""
        return self.ledger.installation_serial()

    def uid_of(self, entry: WorklistEntry) -> str:
        """Return the SOP Instance UID of a work item."""
        return workitem_uid(self.serial, entry.id, entry.created_at)

    def find(self, uid: str) -> WorklistEntry:
        """Return the work item that a UID names.

        Raises
        ------
        WebRequestRefused
            404: there is none.
        """
        work_item_id = work_item_id_of(uid)
        entry = None if work_item_id is None else self.worklist.entry(work_item_id)
        if entry is None or self.uid_of(entry) != uid:
            raise WebRequestRefused("there is no such work item", 404)
        return entry


def _desk(request: Request) -> WorklistDesk:
    desk = request.app.state.worklist
    assert isinstance(desk, WorklistDesk)
    return desk


@router.get("/dicomweb/workitems")
async def search(request: Request) -> Response:
    """Search the worklist (PS3.18 11.9); 204 when nothing matches."""
    desk = _desk(request)
    media_type = model.choose(request.headers.get("accept", ""), (model.JSON, model.PLAIN_JSON))
    query = read_query(request.query_params.multi_items(), max_results=desk.settings.max_results)
    # Before the answer: what cannot be audited is not handed out.
    await run_in_threadpool(
        desk.accounts.audit,
        str(request.state.actor),
        "query.received",
        peer=_peer(request),
        sop_class=UPS_PUSH,
        keys=", ".join(query.keys),
    )
    found = await run_in_threadpool(_search, desk, query, root_of(request))
    headers = _warnings(query, is_cut=len(found) > query.limit)
    if not found[: query.limit]:
        return Response(status_code=204, headers=headers)
    return model.answer(found[: query.limit], media_type, headers=headers)


def _search(desk: WorklistDesk, query: Query, root: str) -> list[Dataset]:
    """Return the matches, and one more than asked for where there are more."""
    in_full = bool(query.fields & (_LARGE | {"all"}))
    entries = desk.worklist.search(
        query.conditions,
        limit=query.limit + 1,
        offset=query.offset,
        with_inputs=in_full,
    )
    return [ups(each, desk.uid_of(each), root, in_full=in_full) for each in entries]


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _warnings(query: Query, *, is_cut: bool) -> dict[str, str]:
    said = []
    if is_cut:
        said.append(
            "The number of results exceeded the maximum supported by the server. Additional "
            "results can be requested."
        )
    if query.unsupported:
        said.append(
            "These matching keys are not supported and were ignored: "
            + ", ".join(dict.fromkeys(query.unsupported))
        )
    return {"warning": ", ".join(f"299 Lentigo: {each}" for each in said)} if said else {}


@router.get("/dicomweb/workitems/{uid}")
async def retrieve(request: Request, uid: str) -> Response:
    """Retrieve one work item (PS3.18 11.5)."""
    desk = _desk(request)
    media_type = model.choose(
        request.headers.get("accept", ""), (model.JSON, model.XML, model.PLAIN_JSON)
    )
    root = root_of(request)
    actor, peer = str(request.state.actor), _peer(request)

    def read() -> list[Dataset]:
        entry = desk.find(uid)
        desk.accounts.audit(
            actor, "work_item.retrieved", study=entry.study_id, work_item=entry.id, peer=peer
        )
        return [ups(entry, uid, root, in_full=True)]

    return model.answer(await run_in_threadpool(read), media_type)


@router.post("/dicomweb/workitems/{uid}/cancelrequest")
async def request_cancellation(request: Request, uid: str) -> Response:
    """Cancel a work item (PS3.18 11.8)."""
    desk = _desk(request)
    reason = _reason_in(await _body(request), request.headers.get("content-type", ""))
    actor = str(request.state.actor)
    answer = await run_in_threadpool(_cancel, desk, uid, actor, reason)
    warning = _WARNINGS.get(answer, "")
    headers = {"warning": f"299 Lentigo: {warning}"} if warning else {}
    if answer in (CancelAnswer.CANCELED, CancelAnswer.ALREADY_CANCELED):
        return Response(status_code=202, headers=headers)
    return JSONResponse({"detail": warning}, 409, headers)


def _cancel(desk: WorklistDesk, uid: str, actor: str, reason: str) -> CancelAnswer:
    entry = desk.find(uid)
    answer = desk.cancels.cancel(entry.id, requested_by=actor, reason=reason)
    if answer is CancelAnswer.UNKNOWN:
        raise WebRequestRefused("there is no such work item", 404)
    log.info(
        "a work item was to be canceled",
        extra={
            "action": "work_item.cancel_requested",
            "work_item_id": entry.id,
            "answer": answer.name,
        },
    )
    desk.accounts.audit(
        actor, "work_item.cancel_requested", work_item=entry.id, answer=answer.name.lower()
    )
    return answer


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise WebRequestRefused("the body is too large", 413)
    return body


def _reason_in(body: bytes, content_type: str) -> str:
    """Return Reason For Cancellation (0074,1238) of a request; it may be missing."""
    if not body.strip():
        return ""
    if MediaType.parse(content_type).essence not in (model.JSON, model.PLAIN_JSON):
        raise WebRequestRefused("the body must be application/dicom+json", 415)
    # Not by pydicom: it logs values that it does not like.
    try:
        found: Any = json.loads(body)
        (ds,) = found if isinstance(found, list) else [found]
        said = [str(value) for value in ds.get(_REASON, {}).get("Value", ())]
        for code in ds.get(_REASON_CODES, {}).get("Value", ()):
            said += [str(value) for value in code.get(_CODE_MEANING, {}).get("Value", ())]
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise WebRequestRefused("the body is no data set in DICOM JSON") from exc
    return "; ".join(filter(None, said))


# -- what is not for others to do ------------------------------------------------------------------


@router.post("/dicomweb/workitems")
async def create(request: Request) -> Response:
    """Refuse to create a work item (PS3.18 11.4): routing does."""
    return _not_here("work items are made when a study is routed; send the study", "GET")


@router.post("/dicomweb/workitems/{uid}")
async def update(request: Request, uid: str) -> Response:
    """Refuse to update a work item (PS3.18 11.6)."""
    return _not_here("work items are updated by their performer, which is Lentigo itself", "GET")


@router.put("/dicomweb/workitems/{uid}/state")
async def change_state(request: Request, uid: str) -> Response:
    """Refuse to change the state of a work item (PS3.18 11.7): it has a performer."""
    await run_in_threadpool(_desk(request).find, uid)
    detail = "the performer of this work item is Lentigo itself; to stop it use cancelrequest"
    return JSONResponse({"detail": detail}, 409, {"warning": f"299 Lentigo: {detail}"})


def _not_here(detail: str, allow: str) -> Response:
    headers = {"allow": allow, "warning": f"299 Lentigo: {detail}"}
    return JSONResponse({"detail": detail}, 405, headers)
