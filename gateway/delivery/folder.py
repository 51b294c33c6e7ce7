"""The results folder as a destination."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateway.delivery.routes import ObjectState, Outcome, Outgoing


class FolderSender:
    """The results folder as a destination: confirmed by reading the file back."""

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Compare every file with the digest in the record."""
        return [self._read_back(each) for each in objects]

    def _read_back(self, each: Outgoing) -> Outcome:
        try:
            with each.path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return _outcome(each, ObjectState.REFUSED, "the result file is gone")
        except OSError as exc:
            return _outcome(
                each, ObjectState.PENDING, f"the result file cannot be read ({exc.strerror})"
            )
        if found != each.sha256:
            return _outcome(each, ObjectState.REFUSED, "the result file was changed on disk")
        return Outcome(id=each.id, state=ObjectState.CONFIRMED, confirmed_by="read-back")


def _outcome(each: Outgoing, state: ObjectState, reason: str) -> Outcome:
    return Outcome(id=each.id, state=state, reason=reason)
