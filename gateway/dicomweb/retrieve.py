"""WADO-RS (PS3.18 10.4): instances as they are kept, received ones and our results.

Nothing is decoded or converted: a part states the transfer syntax that its file has. A study of
gigabytes goes out block by block.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from gateway.dicom.file_meta import identify, is_uid
from gateway.dicomweb import model
from gateway.dicomweb.multipart import MediaType
from gateway.dicomweb.reception import DICOM
from gateway.errors import InstanceError, WebRequestRefused
from gateway.store.people.accounts import Accounts
from gateway.store.reading.retrieval import KeptFile, Retrieval

log = logging.getLogger(__name__)

router = APIRouter()

_BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class RetrieveDesk:
    """What retrieving needs of the record."""

    retrieval: Retrieval
    accounts: Accounts


@dataclass(frozen=True, kw_only=True)
class _Part:
    study_id: int
    path: Path
    transfer_syntax_uid: str
    size_bytes: int


@router.get("/dicomweb/studies/{study}")
async def retrieve_study(request: Request, study: str) -> Response:
    """Retrieve the instances of a study."""
    return await _retrieve(request, study)


@router.get("/dicomweb/studies/{study}/series/{series}")
async def retrieve_series(request: Request, study: str, series: str) -> Response:
    """Retrieve the instances of a series."""
    return await _retrieve(request, study, series)


@router.get("/dicomweb/studies/{study}/series/{series}/instances/{instance}")
async def retrieve_instance(request: Request, study: str, series: str, instance: str) -> Response:
    """Retrieve one instance."""
    return await _retrieve(request, study, series, instance)


async def _retrieve(request: Request, *uids: str) -> Response:
    if not all(is_uid(uid) for uid in uids):
        raise WebRequestRefused("what is asked for is named by no UID")
    accept = request.headers.get("accept", "")
    model.choose(accept, (DICOM,))
    desk: RetrieveDesk = request.app.state.retrieve
    parts = await run_in_threadpool(_parts, desk, uids, _syntaxes(accept))
    # Before the first byte: what cannot be audited is not handed out.
    await run_in_threadpool(
        desk.accounts.audit,
        str(request.state.actor),
        "instances.accessed",
        study=parts[0].study_id,
        instances=len(parts),
    )
    if len(parts) == 1 and _wants_one_file(accept):
        (part,) = parts
        return StreamingResponse(
            _blocks(part.path),
            media_type=f"{DICOM}; transfer-syntax={part.transfer_syntax_uid}",
            headers={"content-length": str(part.size_bytes)},
        )
    boundary = uuid.uuid4().hex
    return StreamingResponse(
        _body(parts, boundary),
        media_type=f'multipart/related; type="{DICOM}"; boundary={boundary}',
    )


def _parts(desk: RetrieveDesk, uids: Sequence[str], syntaxes: frozenset[str]) -> list[_Part]:
    """Return what is to be sent.

    Raises
    ------
    WebRequestRefused
        404: nothing of it is kept; 406: in no transfer syntax that is asked for.
    """
    found = [part for part in map(_part, desk.retrieval.find(*uids)) if part is not None]
    if not found:
        raise WebRequestRefused("nothing of it is kept here", 404)
    if syntaxes and not {part.transfer_syntax_uid for part in found} <= syntaxes:
        raise WebRequestRefused(
            "it is kept in another transfer syntax; ask with transfer-syntax=*", 406
        )
    return found


def _part(file: KeptFile) -> _Part | None:
    try:
        syntax = identify(file.path).transfer_syntax_uid
        size = file.path.stat().st_size
    except (OSError, InstanceError) as exc:
        log.error(
            "an instance that is kept cannot be read: %s",
            type(exc).__name__,
            extra={"action": "wado.unreadable"},
        )
        return None
    return _Part(
        study_id=file.study_id, path=file.path, transfer_syntax_uid=syntax, size_bytes=size
    )


def _wanted(accept: str) -> list[MediaType]:
    return [each for each in model.accepted(accept) if model.essence_of(each) == DICOM]


def _syntaxes(accept: str) -> frozenset[str]:
    """Return the transfer syntaxes that are asked for; none: whatever there is."""
    named = [each.parameters.get("transfer-syntax", "*") for each in _wanted(accept)]
    others = len(model.accepted(accept)) > len(named)  # */* among them
    return frozenset() if "*" in named or others else frozenset(named)


def _wants_one_file(accept: str) -> bool:
    """Return whether the instance may come without multipart (PS3.18 8.7.1)."""
    wanted = _wanted(accept)
    return bool(wanted) and all(each.essence == DICOM for each in wanted)


def _body(parts: Sequence[_Part], boundary: str) -> Iterator[bytes]:
    for part in parts:
        yield (
            f"--{boundary}\r\n"
            f"Content-Type: {DICOM}; transfer-syntax={part.transfer_syntax_uid}\r\n"
            f"Content-Length: {part.size_bytes}\r\n\r\n"
        ).encode()
        yield from _blocks(part.path)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
