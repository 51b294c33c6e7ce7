"""One instance by WADO-RS (PS3.18 10.4), as it comes: never a whole one in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import quote

import requests

from gateway.dicom.file_meta import FileMeta
from gateway.dicomweb.file_start import FileStart
from gateway.dicomweb.multipart import MediaType, MultipartReader, PartData, PartEnd
from gateway.errors import Truncated

_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_BLOCK_BYTES = 256 * 1024


def instance_address(root: str, study: str, series: str, instance: str) -> str:
    """Return the address of an instance; what a PACS calls a UID may hold anything."""
    study, series, instance = (quote(uid, safe=".") for uid in (study, series, instance))
    return f"{root.rstrip('/')}/studies/{study}/series/{series}/instances/{instance}"


def request_instance(
    session: requests.Session, address: str, *, timeout_s: float
) -> requests.Response:
    """Ask for an instance in the transfer syntax in which it is stored.

    Returns
    -------
    A response whose body has not been read; the caller closes it.

    Raises
    ------
    requests.RequestException
        No answer, or one with an error status.
    """
    response = session.get(address, headers={"Accept": _AS_STORED}, timeout=timeout_s, stream=True)
    try:
        response.raise_for_status()
    except requests.HTTPError:
        response.close()
        raise
    return response


def read_instance(response: requests.Response) -> tuple[FileMeta, Iterator[bytes]]:
    """Return the meta information of the instance in a response, and its data set.

    The data set is read while it is iterated over.

    Raises
    ------
    InstanceError
        There is no DICOM file in it, or not all of one; also while the data set is read.
    WebRequestRefused
        The body is no multipart message; also while the data set is read.
    requests.RequestException
        The connection ended; also while the data set is read.
    """
    blocks: Iterator[bytes] = response.iter_content(_BLOCK_BYTES)
    found = MediaType.parse(response.headers.get("Content-Type", ""))
    if found.essence.startswith("multipart/"):
        blocks = _first_part(blocks, found.parameters.get("boundary", ""))
    start = FileStart()
    for block in blocks:
        begun = start.feed(block)
        if begun is not None:
            meta, head = begun
            return meta, _following(head, blocks)
    raise Truncated("the answer ends inside its File Meta Information")


def _following(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from blocks


def _first_part(blocks: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """Yield the data of the first part of a body."""
    reader = MultipartReader(boundary)
    for block in blocks:
        for event in reader.feed(block):
            if isinstance(event, PartEnd):
                return
            if isinstance(event, PartData):
                yield event.data
    raise Truncated("the answer ends before its boundary")
