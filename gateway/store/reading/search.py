"""Finds studies by what people read out on the telephone: UIDs, numbers, a Patient ID."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Engine, select

from gateway.store import audit
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Identity, Instance, ResultObject, Study, WorkItem

MAX_FOUND = 50
_MAX_NUMBER_DIGITS = 9


class StudySearch:
    """Answers the search box."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, wanted: str, *, actor: str) -> list[int]:
        """Return the record's numbers of the studies meant, the newest first.

        Parameters
        ----------
        wanted
            A Study, Series or SOP Instance UID, the number of a study in the record, an accession
            number or a Patient ID; where it is none of them, the end of a Study Instance UID.
            Digits may be a number here and some patient's ID: the studies of every reading are
            found, so that nobody is led to another patient's. ``#`` in front: the number alone.
        actor
            Who asks: a search that finds studies by a patient's attributes is in the audit trail,
            without the attributes.

        Returns
        -------
        list of int
            At most ``MAX_FOUND``.
        """
        word = wanted.replace("\0", "").strip()
        if not word:
            return []
        with reading(self._engine) as connection:
            found = _by_uid(connection, word)
            if found:
                return found
            numbered, of_patients = _by_number(connection, word), _by_identity(connection, word)
            if not of_patients:
                return numbered or _by_end(connection, word)
        with writing(self._engine) as connection:
            audit.append(
                connection,
                self._clock(),
                actor,
                "study.searched_by_identity",
                studies=len(of_patients),
            )
        return sorted({*numbered, *of_patients}, reverse=True)[:MAX_FOUND]


def _ids(connection: Connection, *conditions: ColumnElement[bool]) -> list[int]:
    rows = connection.execute(
        select(Study.id).where(*conditions).order_by(Study.id.desc()).limit(MAX_FOUND)
    )
    return [row.id for row in rows]


def _is_like_a_uid(word: str) -> bool:
    return word.isascii() and word.replace(".", "").isdigit()


def _by_uid(connection: Connection, word: str) -> list[int]:
    if not _is_like_a_uid(word) or "." not in word:
        return []
    found = _ids(connection, Study.study_instance_uid == word)
    # The dearest last: no index leads from a series to its instances.
    parts: Sequence[ColumnElement[bool]] = (
        Study.id.in_(select(Instance.study_id).where(Instance.sop_instance_uid == word)),
        Study.id.in_(
            select(WorkItem.study_id)
            .join(ResultObject, ResultObject.work_item_id == WorkItem.id)
            .where(
                (ResultObject.sop_instance_uid == word) | (ResultObject.series_instance_uid == word)
            )
        ),
        Study.id.in_(select(Instance.study_id).where(Instance.series_instance_uid == word)),
    )
    for part in parts:
        found = found or _ids(connection, part)
    return found


def _by_number(connection: Connection, word: str) -> list[int]:
    digits = word.removeprefix("#")
    # A zero in front: the end of a UID.
    if digits.startswith("0"):
        return []
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_NUMBER_DIGITS):
        return []
    return _ids(connection, Study.id == int(digits))


def _by_identity(connection: Connection, word: str) -> list[int]:
    # Typed at night, in whatever case; each comparison by its index.
    spellings = sorted({word, word.upper(), word.lower()})
    found: set[int] = set()
    for column in (Identity.accession_number, Identity.patient_id):
        found |= set(
            _ids(connection, Study.id.in_(select(Identity.study_id).where(column.in_(spellings))))
        )
    return sorted(found, reverse=True)


def _by_end(connection: Connection, word: str) -> list[int]:
    """Return the studies whose UID ends so: the page shows ends, and people read them out."""
    end = word.lstrip("….")
    if not _is_like_a_uid(end) or len(end) < 4:
        return []
    return _ids(connection, Study.study_instance_uid.endswith(end, autoescape=True))
