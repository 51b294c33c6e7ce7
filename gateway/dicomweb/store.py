"""STOW-RS (PS3.18 10.5): ``POST /dicomweb/studies`` and ``/dicomweb/studies/{uid}``.

The body is received block by block; each block is taken in by a thread, so that neither a slow disk
nor a slow sender holds up other requests, and a body of gigabytes costs a megabyte of memory.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import anyio
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from gateway.dicom.file_meta import is_uid
from gateway.dicomweb import model
from gateway.dicomweb.multipart import MediaType
from gateway.dicomweb.reception import DICOM, PROCESSING_FAILURE, Intake, Reception
from gateway.dicomweb.settings import DicomwebSettings
from gateway.dicomweb.store_response import response, status_of
from gateway.errors import GatewayError, SpoolError, WebRequestRefused
from gateway.listener.ports import AssociationInfo

log = logging.getLogger(__name__)

router = APIRouter()

_BLOCK_BYTES = 1024 * 1024
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 10.0
_RETRY_AFTER_S = 10
_MAX_AE_TITLE = 16  # as the record keeps it


@dataclass(kw_only=True)
class StowDesk:
    """What all STOW-RS requests of a process share."""

    intake: Intake
    settings: DicomwebSettings
    open_requests: int = 0
    _limiter: anyio.CapacityLimiter | None = field(default=None, init=False)

    @property
    def threads(self) -> anyio.CapacityLimiter:
        """Threads of our own: uploads must not use up those that answer the admin page."""
        if self._limiter is None:  # needs a running event loop
            self._limiter = anyio.CapacityLimiter(self.settings.max_uploads)
        return self._limiter

    def admit(self, request: Request) -> None:
        """Count one more request in.

        Raises
        ------
        WebRequestRefused
            503: there are too many; 413: its body is too large; 415: it is encoded.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.settings.max_request_bytes:
            raise _too_large(self.settings)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise WebRequestRefused("the body must not be encoded", 415)
        if self.open_requests >= self.settings.max_uploads:
            raise WebRequestRefused("too many uploads at a time; try again later", 503)
        self.open_requests += 1


def _too_large(settings: DicomwebSettings) -> WebRequestRefused:
    return WebRequestRefused(f"the body is larger than {settings.max_request_bytes} bytes", 413)


@router.post("/dicomweb/studies")
async def store(request: Request) -> Response:
    """Store instances of any study."""
    return await _store(request, "")


@router.post("/dicomweb/studies/{study_instance_uid}")
async def store_in_study(request: Request, study_instance_uid: str) -> Response:
    """Store instances of one study; those of another one are refused."""
    if not is_uid(study_instance_uid):
        raise WebRequestRefused("the study is named by no UID")
    return await _store(request, study_instance_uid)


async def _store(request: Request, study_instance_uid: str) -> Response:
    desk: StowDesk = request.app.state.stow
    media_type = model.choose(
        request.headers.get("accept", ""), (model.JSON, model.XML, model.PLAIN_JSON)
    )
    boundary = _boundary(request.headers.get("content-type", ""))
    desk.admit(request)
    try:
        association = _association(request)
        reception = Reception(
            desk.intake, association, study_instance_uid=study_instance_uid, boundary=boundary
        )
        return await _received(request, desk, reception, association, media_type)
    finally:
        desk.open_requests -= 1


async def _received(
    request: Request,
    desk: StowDesk,
    reception: Reception,
    association: AssociationInfo,
    media_type: str,
) -> Response:
    run = partial(anyio.to_thread.run_sync, limiter=desk.threads)
    await run(_prepare, desk.intake)
    await run(_note, desk.intake, association, "accepted")
    broken: WebRequestRefused | None = None
    ended = "aborted"
    try:
        try:
            await _feed(request, desk, reception)
            await run(reception.finish)
            ended = "released"
        except WebRequestRefused as exc:
            broken = exc
    except ClientDisconnect:
        log.info(
            "a sender went away within an upload",
            extra={"action": "stow.disconnected", "stored": _stored(reception)},
        )
        return Response(status_code=400)  # nobody reads it
    finally:
        reception.abandon()
        with anyio.CancelScope(shield=True):
            await run(_note, desk.intake, association, ended)
    if broken is not None and not reception.outcomes:
        raise broken
    return _answer(request, reception, broken, media_type)


async def _feed(request: Request, desk: StowDesk, reception: Reception) -> None:
    """Hand the body to the reception in blocks, each in a thread."""
    block = bytearray()
    total = 0
    chunks = _chunks(request, desk.settings.timeout_s)
    async for chunk in chunks:
        block += chunk
        total += len(chunk)
        try:
            if total > desk.settings.max_request_bytes:
                raise _too_large(desk.settings)
            if len(block) >= _BLOCK_BYTES:
                full, block = bytes(block), bytearray()
                await anyio.to_thread.run_sync(reception.feed, full, limiter=desk.threads)
        except WebRequestRefused:
            await _drain(chunks)
            raise
    if not total:
        raise WebRequestRefused("the body is empty")
    if block:
        await anyio.to_thread.run_sync(reception.feed, bytes(block), limiter=desk.threads)


async def _chunks(request: Request, timeout_s: float) -> AsyncIterator[bytes]:
    """Yield the body as it comes; a sender that falls silent is given up."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                chunk = await anext(stream, None)
        except TimeoutError as exc:
            raise WebRequestRefused(f"nothing came for {timeout_s:g} s", 408) from exc
        if chunk is None:
            return
        yield chunk


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read some of the rest away: many clients read no answer while they are sending."""
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
    except (TimeoutError, WebRequestRefused):
        return


def _answer(
    request: Request, reception: Reception, broken: WebRequestRefused | None, media_type: str
) -> Response:
    stored = _stored(reception)
    status_code = status_of(reception.outcomes, is_whole=broken is None)
    if broken is not None and not stored:
        status_code = broken.status_code
    headers: dict[str, str] = {}
    if broken is not None:
        headers = {"connection": "close", "warning": f"299 Lentigo: {broken}"}
    if status_code == 503:
        headers["retry-after"] = str(_RETRY_AFTER_S)
    failures = len(reception.outcomes) - stored
    log.log(
        logging.WARNING if failures or broken else logging.INFO,
        "STOW-RS: %d stored, %d refused",
        stored,
        failures,
        extra={
            "action": "stow.received",
            "stored": stored,
            "refused": failures,
            "status": status_code,
            "reason": str(broken or ""),
        },
    )
    ds = response(
        reception.outcomes,
        broken=PROCESSING_FAILURE if broken is not None else 0,
        root=root_of(request),
    )
    return model.answer(ds, media_type, status_code, headers)


def root_of(request: Request) -> str:
    """Return the address of our DICOMweb services as the client sees it."""
    return f"{request.url.scheme}://{request.url.netloc}/dicomweb"


def _boundary(content_type: str) -> str | None:
    """Return the boundary of a multipart body; None where the body is one instance.

    Raises
    ------
    WebRequestRefused
        415: the body holds no DICOM files; 400: it states no boundary.
    """
    found = MediaType.parse(content_type)
    if found.essence == DICOM:
        return None
    if found.essence != "multipart/related":
        raise WebRequestRefused("the body must be multipart/related; type=application/dicom", 415)
    if found.parameters.get("type", DICOM).strip().lower() != DICOM:
        raise WebRequestRefused("the parts must be application/dicom", 415)
    if not found.parameters.get("boundary"):
        raise WebRequestRefused("Content-Type states no boundary", 400)
    return found.parameters["boundary"]


def _association(request: Request) -> AssociationInfo:
    """Return who sends, in the place of an association: the account is the calling AE title."""
    return AssociationInfo(
        association_id=uuid.uuid4().hex,
        calling_ae_title=str(request.state.actor)[:_MAX_AE_TITLE],
        called_ae_title="",
        peer_address=request.client.host if request.client else "",
    )


def _prepare(intake: Intake) -> None:
    """Make the folders of the spool where the listener has not made them yet."""
    try:
        if not intake.spool.incoming.is_dir():
            intake.spool.prepare()
    except SpoolError as exc:
        raise WebRequestRefused("the spool does not answer; try again later", 503) from exc


def _note(intake: Intake, association: AssociationInfo, outcome: str) -> None:
    try:
        intake.record.register_association(association, outcome=outcome)
    except GatewayError as exc:
        log.warning(
            "an upload could not be recorded",
            extra={"action": "association.unrecorded", "outcome": outcome, "error": str(exc)},
        )


def _stored(reception: Reception) -> int:
    return sum(outcome.status == 0 for outcome in reception.outcomes)
