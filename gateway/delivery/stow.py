"""STOW-RS user agent for results (PS3.18 10.5), with confirmation by QIDO-RS (PS3.18 10.6).

One request carries one object: what the destination says about it never decides about its
siblings, and the PACS need not hold a whole result set in memory. Retrying is the caller's
business, as with ``gateway.delivery.sender``.

What counts as what:

- *stored*: 200 or 202 without a failure for the object; a Warning Reason is no failure; so is
  0111 duplicate SOP instance;
- *refused for good*: a Failure Reason that the same object will always meet (PS3.4 Table B.2-1),
  and 400, 406, 409, 411, 413, 415 and 422 without one;
- *passing*: 5xx, 408, 425, 429, silence, TLS that does not come about; and what is cured at the
  PACS or in the settings and not by giving up: 401, 403, 404, 405, redirects.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.delivery.stow_answer import (
    Answer,
    NoAnswer,
    judge,
    no_answer,
    read,
    unconfirmed,
    waiting,
    words_of,
)
from gateway.delivery.stow_settings import StowSettings
from gateway.delivery.web_session import Credentials, NotUsable, Trust, open_session
from gateway.settings import DeliverySettings

_JSON = "application/dicom+json"
_BLOCK_BYTES = 256 * 1024
_NOT_TRIED = "the destination gave no answer to the object before"

# Without QIDO-RS there, in the words of HTTP.
_NO_SEARCH = frozenset((400, 404, 405, 406, 410, 501))


class StowSender:
    """Stores result objects at one DICOMweb service and asks whether it lists them.

    Parameters
    ----------
    address
        Root of its DICOMweb services, without a slash at the end.
    """

    def __init__(self, address: str, delivery: DeliverySettings, settings: StowSettings) -> None:
        self._address = address
        self._delivery = delivery
        self._settings = settings

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object; return one outcome for each, in the same order.

        Never raises for what the destination or the network does.
        """
        try:
            with self._session() as session:
                outcomes = self._store_all(session, objects)
                return [
                    self._confirm(session, each, outcome)
                    if outcome.state is ObjectState.STORED
                    else outcome
                    for each, outcome in zip(objects, outcomes, strict=True)
                ]
        except NotUsable as exc:
            return [waiting(each, str(exc)) for each in objects]

    def probe(self) -> str:
        """Ask whether the service is there; return "" or why not, in one phrase."""
        try:
            with self._session() as session:
                # A study that nobody has: nothing about a patient is asked for or answered.
                query = {"StudyInstanceUID": "2.25.0", "limit": "1"}
                answer = self._request(session, "GET", "/studies", params=query)
        except (NotUsable, NoAnswer) as exc:
            return str(exc)
        if answer.status_code in (401, 403) or answer.status_code >= 500:
            return words_of(answer.status_code)
        return ""

    # -- one request --------------------------------------------------------------------------

    def _session(self) -> requests.Session:
        settings = self._settings
        credentials = Credentials(
            username=settings.username,
            password=_secret(settings.password, settings.password_file),
            token=_secret(settings.token, settings.token_file),
        )
        trust = Trust(
            ca=settings.ca_file, certificate=settings.certificate_file, key=settings.key_file
        )
        return open_session(self._address, credentials, trust)

    def _request(
        self,
        session: requests.Session,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: _Body | None = None,
    ) -> Answer:
        headers = {"Accept": _JSON}
        if body is not None:
            headers["Content-Type"] = body.content_type
        try:
            with session.request(
                method,
                self._address + path,
                params=params,
                data=body,
                headers=headers,
                timeout=self._delivery.timeout_s,
                # Credentials go to the address in the settings and nowhere else.
                allow_redirects=False,
                stream=True,
            ) as response:
                content = read(response, time.monotonic() + self._delivery.timeout_s)
                return Answer(response.status_code, content, response.headers)
        except (requests.RequestException, OSError) as exc:
            raise no_answer(exc) from exc

    # -- storing ------------------------------------------------------------------------------

    def _store_all(self, session: requests.Session, objects: Sequence[Outgoing]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        is_away = False
        for each in objects:
            if each.is_stored:
                outcomes.append(Outcome(id=each.id, state=ObjectState.STORED))
            elif is_away:
                outcomes.append(waiting(each, _NOT_TRIED))
            else:
                outcomes.append(self._store(session, each))
                is_away = outcomes[-1].is_unreachable
        return outcomes

    def _store(self, session: requests.Session, each: Outgoing) -> Outcome:
        try:
            body = _Body(each.path)
        except FileNotFoundError:
            return Outcome(id=each.id, state=ObjectState.REFUSED, reason="the result file is gone")
        except OSError as exc:
            return waiting(each, f"the result file cannot be read ({exc.strerror})")
        try:
            answer = self._request(session, "POST", "/studies", body=body)
        except NoAnswer as exc:
            return replace(waiting(each, str(exc)), is_unreachable=True, is_fault=exc.is_silent)
        return judge(each, answer)

    # -- confirming ---------------------------------------------------------------------------

    def _confirm(self, session: requests.Session, each: Outgoing, before: Outcome) -> Outcome:
        path = f"/studies/{each.study_instance_uid}/series/{each.series_instance_uid}/instances"
        try:
            answer = self._request(
                session, "GET", path, params={"SOPInstanceUID": each.sop_instance_uid}
            )
        except NoAnswer as exc:
            return unconfirmed(before, str(exc), is_unreachable=before.status is None)
        if answer.status_code == 200 and each.sop_instance_uid in answer.listed():
            return replace(before, state=ObjectState.CONFIRMED, confirmed_by="qido-rs")
        if answer.status_code in (200, 204, 404) and self._searches(session):
            return unconfirmed(before, "the destination does not list it yet")
        if answer.status_code not in _NO_SEARCH | {200, 204}:
            return unconfirmed(before, f"QIDO-RS: {words_of(answer.status_code)}")
        if self._delivery.confirm == "auto" and before.status is not None:
            return replace(before, state=ObjectState.CONFIRMED, confirmed_by="stow-rs")
        return unconfirmed(before, "the destination offers no QIDO-RS")

    def _searches(self, session: requests.Session) -> bool:
        """Return whether it searches at all: 404 may mean an unknown study or no such service."""
        query = {"StudyInstanceUID": "2.25.0", "limit": "1"}
        try:
            answer = self._request(session, "GET", "/studies", params=query)
        except NoAnswer:
            return True  # not known; what is not confirmed now is asked for again
        return answer.status_code in (200, 204)


def _secret(value: Any, path: Path | None) -> str:
    if path is not None:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise NotUsable(f"a secret file cannot be read ({type(exc).__name__})") from exc
    return str(value.get_secret_value()) if value is not None else ""


class _Body:
    """A multipart/related body of one file, read while it is sent; its length is known."""

    def __init__(self, path: Path) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        self._path = path
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size = path.stat().st_size

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        yield self._tail
