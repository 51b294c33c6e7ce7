"""``POST /api/studies/{uid}/documents``: who may send, and what is answered."""

from __future__ import annotations

import base64

import httpx
import pytest
from sqlalchemy import select, update

from gateway.dashboard.identity import basic
from gateway.store.engine import reading, writing
from gateway.store.people.accounts import FAILURES_BEFORE_LOCK
from gateway.store.tables import Account, Document
from tests.pages import CHOSEN, ONE_TIME
from tests.records import Record, new_uid

BODY = b'{"lentigo": "prognosis"}'


def post(
    client: httpx.Client,
    uid: str,
    *,
    password: str = CHOSEN,
    name: str = "a.json",
    **changes: object,
) -> httpx.Response:
    values: dict[str, object] = {
        "params": {"name": name},
        "content": BODY,
        "auth": ("admin", password),
        "headers": {"content-type": "application/json"},
    }
    return client.post(f"/api/studies/{uid}/documents", **{**values, **changes})  # type: ignore[arg-type]


def count(record: Record) -> int:
    with reading(record.engine) as connection:
        return len(connection.execute(select(Document.id)).all())


@pytest.fixture
def opened(client: httpx.Client, stranger: httpx.Client) -> httpx.Client:
    """A sender without a session; the account's one-time password was changed."""
    stranger.cookies.clear()
    return stranger


def test_kept_then_known(opened: httpx.Client, kept: Record) -> None:
    uid = new_uid()
    first, again = post(opened, uid), post(opened, uid)
    assert first.status_code == 201, first.text
    assert first.json()["waits_for_study"] is True
    assert again.status_code == 200
    assert again.json()["sha256"] == first.json()["sha256"]
    assert count(kept) == 1


def test_joins_the_study_that_is_there(opened: httpx.Client, kept: Record) -> None:
    uid = kept.receive()
    assert post(opened, uid).json()["generation"] == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer abc",
        "Basic " + base64.b64encode(b"nocolon").decode(),
        "Basic " + base64.b64encode(b"admin:wrong").decode(),
        "Basic " + base64.b64encode(b"nobody:x").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
    ],
)
def test_nobody_else_gets_in(opened: httpx.Client, kept: Record, header: str) -> None:
    answer = post(opened, "1.2", auth=None, headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    expected = "Bearer" if header.startswith("Bearer") else "Basic"
    assert answer.headers["www-authenticate"].startswith(expected)
    assert count(kept) == 0


def test_a_session_is_no_password(client: httpx.Client, kept: Record) -> None:
    assert client.get("/studies").status_code == 200
    assert post(client, "1.2", auth=None).status_code == 401
    assert count(kept) == 0


def test_a_one_time_password_must_be_changed_first(stranger: httpx.Client, kept: Record) -> None:
    assert post(stranger, "1.2", password=ONE_TIME).status_code == 403
    assert count(kept) == 0


def test_guesses_lock_the_account(opened: httpx.Client, kept: Record) -> None:
    for _ in range(FAILURES_BEFORE_LOCK):
        assert post(opened, "1.2", password="a guess").status_code == 401
    assert post(opened, "1.2").status_code == 401, "the right password, too late"


@pytest.mark.parametrize("role", ["viewer", "reviewer", "of no table"])
def test_other_roles_may_not_send(opened: httpx.Client, kept: Record, role: str) -> None:
    with writing(kept.engine) as connection:
        connection.execute(update(Account).values(role=role))
    assert post(opened, "1.2").status_code == 403


@pytest.mark.parametrize(
    ("uid", "changes", "status"),
    [
        ("1.2", {"params": {}}, 422),
        ("1.2", {"name": "../a.json"}, 422),
        ("1.02", {}, 422),
        ("x", {}, 422),
        ("1.2", {"content": b"{"}, 422),
        ("1.2", {"content": b"a,b\n1\n", "headers": {"content-type": "text/csv"}}, 422),
        ("1.2", {"headers": {"content-type": "text/html"}}, 415),
        ("1.2", {"headers": {"origin": "https://evil.example"}}, 403),
    ],
)
def test_what_is_refused_says_why(
    opened: httpx.Client, kept: Record, uid: str, changes: dict[str, object], status: int
) -> None:
    answer = post(opened, uid, **changes)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert answer.text
    assert count(kept) == 0


def test_a_large_body_is_refused_before_it_is_read(opened: httpx.Client) -> None:
    headers = {"content-length": str(basic.MAX_BODY_BYTES + 1)}
    assert post(opened, "1.2", headers=headers).status_code == 413


def test_other_addresses_still_take_small_bodies_only(opened: httpx.Client) -> None:
    answer = opened.post("/login", content=b"x" * 20_000)
    assert answer.status_code == 413
