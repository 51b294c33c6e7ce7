"""The filter of studies as addresses and calls write it: one piece for pages and REST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import HTTPException, Query
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from gateway.store.reading.study_filter import MAX_TEXT_CHARACTERS, StudyFilter, filter_of

PAGE_SIZE = 50
MAX_ID = 2**31 - 1
"""Largest number of a row that the record can hold."""
_MAX_PAGE = 500
_MAX_UID_CHARACTERS = 64

UidPart = Annotated[str, Query(max_length=_MAX_UID_CHARACTERS)]
BeforeId = Annotated[int | None, Query(ge=1, le=MAX_ID)]


def _is_said(value: object) -> object:
    """Return whether a word of an address means yes; an empty field of a form does not."""
    return {"yes": True, "": False}.get(value, value) if isinstance(value, str) else value


Flag = Annotated[bool, BeforeValidator(_is_said)]
_Moment = Annotated[str, StringConstraints(max_length=40)]


class StudyQuery(BaseModel):
    """A filter of studies; every field that is set narrows it."""

    state: str = Field(default="", max_length=16)
    uid: str = Field(
        default="",
        max_length=_MAX_UID_CHARACTERS,
        description="Part of the Study Instance UID.",
    )
    sender: str = Field(default="", max_length=16, description="Calling AE title, whole.")
    analysis: str = Field(default="", max_length=64)
    delivered: str = Field(default="", description="confirmed, pending or refused.")
    reason: str = Field(default="", max_length=MAX_TEXT_CHARACTERS, description="Part of it.")
    since: _Moment = Field(default="", description="ISO 8601; first instance from then.")
    until: _Moment = Field(default="", description="ISO 8601; first instance before.")
    urgent: Flag = Field(default=False, description="Only urgent ones; an address says yes.")
    held: Flag = Field(default=False, description="Only held ones; an address says yes.")

    def as_filter(self, *, missing: int = 404) -> StudyFilter:
        """Return the filter.

        Parameters
        ----------
        missing
            HTTP status of the answer to a name that does not exist.

        Raises
        ------
        HTTPException
            ``missing``, or 422 for what cannot be used.
        """
        values = self.model_dump(include=set(StudyQuery.model_fields))
        return checked_filter(
            {
                name: ("yes" if value else "") if isinstance(value, bool) else value
                for name, value in values.items()
            },
            missing=missing,
        )


class StudyPageQuery(StudyQuery):
    """A filter of studies, and which page of them."""

    before: int | None = Field(
        default=None, ge=1, le=MAX_ID, description="Only studies in front of this number."
    )
    limit: int = Field(default=PAGE_SIZE, ge=1, le=_MAX_PAGE)


def checked_filter(
    values: Mapping[str, str],
    *,
    before: int | None = None,
    limit: int | None = None,
    missing: int = 404,
) -> StudyFilter:
    """Return the filter that an address or a call asks for.

    Raises
    ------
    HTTPException
        ``missing`` for what does not exist, 422 for what cannot be used.
    """
    if len(values.get("uid", "")) > _MAX_UID_CHARACTERS:
        raise HTTPException(422, f"A UID has at most {_MAX_UID_CHARACTERS} characters.")
    try:
        wanted = filter_of(values)
    except ValueError as exc:
        no_such = "there is no" in str(exc)
        raise HTTPException(missing if no_such else 422, f"Not done: {exc}.") from exc
    return replace(wanted, before_id=before, limit=limit)
