"""Small files that a site sends for a study: what is let in, and how it is kept.

The door checks what needs no knowledge of the study: name, type, size and syntax. What a document
means is for the analysis that reads it, and what is wrong with it is said in that one's report.
"""

from __future__ import annotations

import re

from sqlalchemy import Engine

from gateway.document_syntax import SYNTAX, media_type_of
from gateway.errors import DocumentRefused
from gateway.retention.door import open_spool
from gateway.settings import CompletenessSettings, StoreSettings
from gateway.spool import Spool
from gateway.store.intake.documents import DocumentRecord, Registered

MAX_BYTES = 32 * 1024 * 1024
"""Largest document: a thousand lesions with their measurements take a tenth of it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 9.1
_MAX_UID = 64


def document_desk(store: StoreSettings, engine: Engine) -> DocumentDesk:
    """Return what takes documents in; it shares spool and reserve with the listener."""
    return DocumentDesk(open_spool(store), DocumentRecord(engine, CompletenessSettings()))


class DocumentDesk:
    """Takes documents in: durable on disk, then in the record."""

    def __init__(self, spool: Spool, record: DocumentRecord) -> None:
        self._spool = spool
        self._record = record

    def receive(
        self, *, uid: str, name: str, stated_type: str, content: bytes, actor: str
    ) -> Registered:
        """Check and keep one document; it is on disk for good when this returns.

        Parameters
        ----------
        uid
            Study Instance UID, or SOP Instance UID of an instance that was received.
        name
            Name under which an analysis finds it; the newest of a name counts.
        stated_type
            Its Content-Type; may be empty.
        actor
            Who sends it, for the audit trail.

        Raises
        ------
        DocumentRefused
            It is not let in; the message says why.
        SpoolFull, SpoolError, RecordUnavailable
            Nothing was kept: try again later.
        """
        media_type = self._checked(uid, name, stated_type, content)
        if not self._spool.documents.is_dir():
            self._spool.prepare()
        incoming = self._spool.begin()
        try:
            incoming.write(content)
            stored = self._spool.keep_document(incoming)
        finally:
            incoming.discard()
        return self._record.register(
            uid=uid, name=name, media_type=media_type, stored=stored, actor=actor
        )

    def _checked(self, uid: str, name: str, stated_type: str, content: bytes) -> str:
        if len(uid) > _MAX_UID or not _UID.fullmatch(uid):
            raise DocumentRefused("the study is named by no UID", 422)
        if not _NAME.fullmatch(name):
            raise DocumentRefused(
                "the name must be 1 to 128 letters, digits, dots, dashes and underscores", 422
            )
        if len(content) > MAX_BYTES:
            raise DocumentRefused(f"the document is larger than {MAX_BYTES} bytes", 413)
        if not content.strip():
            raise DocumentRefused("the document is empty", 422)
        media_type = media_type_of(name, stated_type)
        SYNTAX[media_type](content)
        return media_type
