"""What a DICOMweb service said, as outcomes: HTTP statuses, Failure Reasons, errors. No network."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import requests

from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.delivery.statuses import classify_status
from gateway.dicom.tls import tls_fault

_MAX_ANSWER_BYTES = 8 * 1024 * 1024

_FOR_GOOD = frozenset((400, 406, 409, 411, 413, 415, 422))
_PASSING = {
    401: "it does not accept our credentials (LENTIGO_STOW_*)",
    403: "our account may not store there",
    404: "no STOW-RS service at this address",
    405: "no STOW-RS service at this address",
    407: "a proxy asks for credentials",
    429: "it asks to be left alone for a while",
    501: "it offers no STOW-RS",
    503: "it is out of resources or busy",
    507: "it has no room",
}


class NoAnswer(Exception):
    """The destination gave no answer."""

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent
        """It was reached, and then went silent or away."""


class Answer:
    """An HTTP response, read to its end."""

    def __init__(self, status_code: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.status_code = status_code
        self._content = content
        self._headers = headers

    @property
    def retry_after_s(self) -> float | None:
        """Seconds of Retry-After; None without (a date there is not worth the trouble)."""
        value = self._headers.get("retry-after", "").strip()
        return float(value) if value.isdigit() and len(value) < 6 else None

    def data_sets(self) -> list[Mapping[str, Any]]:
        """Return the data sets of the body (PS3.18 F.2); none where it is no DICOM JSON.

        They are not read by pydicom, which logs values that it does not like.
        """
        try:
            found: Any = json.loads(self._content)
        except (ValueError, RecursionError):
            return []  # some services answer in XML, HTML or not at all
        return _models(found if isinstance(found, list) else [found])

    def listed(self) -> set[str]:
        """Return the SOP Instance UIDs of a QIDO-RS answer."""
        return {uid for ds in self.data_sets() for uid in _values(ds, _SOP_INSTANCE_UID, str)}


_T = TypeVar("_T")

# PS3.18 F.2.2: tags are the names of attributes.
_SOP_INSTANCE_UID = "00080018"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"


def _models(found: Any) -> list[Mapping[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _values(ds: Mapping[str, Any], tag: str, kind: type[_T]) -> list[_T]:
    """Return the values of an attribute that are of the kind they should be."""
    attribute = ds.get(tag)
    found = attribute.get("Value") if isinstance(attribute, dict) else None
    return [each for each in found if isinstance(each, kind)] if isinstance(found, list) else []


def judge(each: Outgoing, answer: Answer) -> Outcome:
    """Return what became of an object that was sent."""
    code = answer.status_code
    reason, is_failure = _reason_for(each, answer)
    if reason is not None and (is_failure or 200 <= code < 300):
        state, words = classify_status(reason)
        return Outcome(id=each.id, state=state, status=reason, reason=words)
    if code in (200, 201, 202):
        return Outcome(id=each.id, state=ObjectState.STORED, status=0)
    if code in _FOR_GOOD:
        return Outcome(id=each.id, state=ObjectState.REFUSED, reason=words_of(code))
    return replace(
        waiting(each, words_of(code)),
        retry_in_s=answer.retry_after_s,
        # An answer, even if no good one: the breaker is for those that give none.
        is_unreachable=code in (502, 504),
    )


def _reason_for(each: Outgoing, answer: Answer) -> tuple[int | None, bool]:
    """Return the Failure or Warning Reason of an object, and whether it is a failure."""
    for ds in answer.data_sets():
        for sequence, tag in (
            (_FAILED_SOP_SEQUENCE, _FAILURE_REASON),
            (_REFERENCED_SOP_SEQUENCE, _WARNING_REASON),
            (_OTHER_FAILURES_SEQUENCE, _FAILURE_REASON),
        ):
            for item in _values(ds, sequence, dict):
                if sequence == _OTHER_FAILURES_SEQUENCE or _is_about(item, each):
                    for reason in _values(item, tag, int):
                        return reason, tag == _FAILURE_REASON
    return None, False


def _is_about(item: Mapping[str, Any], each: Outgoing) -> bool:
    return each.sop_instance_uid in _values(item, _REFERENCED_SOP_INSTANCE_UID, str)


def words_of(status_code: int) -> str:
    """Return what an HTTP status means for a delivery, for the administrator."""
    if 300 <= status_code < 400:
        meaning = "it redirects: give the final address"
    else:
        fallback = "it fails" if status_code >= 500 else "it does not take the request"
        meaning = _PASSING.get(status_code, fallback)
    return f"{meaning} (HTTP status {status_code})"


def waiting(each: Outgoing, reason: str) -> Outcome:
    """Return the outcome of an object that is worth another attempt."""
    state = ObjectState.STORED if each.is_stored else ObjectState.PENDING
    return Outcome(id=each.id, state=state, reason=reason)


def unconfirmed(before: Outcome, problem: str, *, is_unreachable: bool = False) -> Outcome:
    """Return the outcome of an object that is stored and not confirmed yet."""
    return replace(
        before,
        state=ObjectState.STORED,
        reason=f"stored, not confirmed: {problem}",
        is_unreachable=is_unreachable,
    )


def no_answer(error: BaseException) -> NoAnswer:
    """Say why a request got no answer, without its address: that names UIDs."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLEOFError):
            # In TLS 1.3 a service that misses a certificate says so after the handshake, if at all.
            return NoAnswer(
                "the destination ended the TLS connection: it speaks no TLS on this port, or wants "
                "our certificate"
            )
        if isinstance(cause, ssl.SSLError) and (fault := tls_fault(cause)) is not None:
            return NoAnswer(f"the destination cannot be reached over TLS: {fault.value}")
    if isinstance(error, requests.ConnectTimeout):
        return NoAnswer("the destination cannot be reached or does not answer")
    if isinstance(error, requests.Timeout | SlowAnswer):
        return NoAnswer("no answer to the request in time", is_silent=True)
    if any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error)):
        return NoAnswer("the destination cannot be reached or does not answer")
    if isinstance(error, requests.exceptions.SSLError):
        return NoAnswer("the destination cannot be reached over TLS")
    kind = type(error).__name__
    return NoAnswer(f"the connection ended before the answer ({kind})", is_silent=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is behind it, as requests and urllib3 wrap each other's."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        behind = (current.__cause__, current.__context__, getattr(current, "reason", None))
        waiting += [each for each in (*behind, *current.args) if isinstance(each, BaseException)]


class SlowAnswer(OSError):
    """An answer that comes drop by drop, or without end."""


def read(response: requests.Response, deadline: float) -> bytes:
    """Return the body of a response; one that does not end is an error."""
    content = b""
    for block in response.iter_content(64 * 1024):
        content += block
        if len(content) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise SlowAnswer("the answer does not end")
    return content
