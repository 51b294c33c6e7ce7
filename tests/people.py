"""Accounts of every role, and browsers that are logged in, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from sqlalchemy import insert, select

from gateway.store.engine import utc_now, writing
from gateway.store.people.accounts import open_session
from gateway.store.tables import Account, WebSession
from tests.pages import BASE, TestClient
from tests.records import Record


def account(record: Record, username: str, role: str) -> int:
    """Make an account whose password nobody knows; return its number."""
    with writing(record.engine) as connection:
        return int(
            connection.execute(
                insert(Account)
                .values(
                    username=username,
                    password_hash="",
                    role=role,
                    must_change_password=False,
                    failed_logins=0,
                    created_at=utc_now(),
                )
                .returning(Account.id)
            ).scalar_one()
        )


def opened(record: Record, account_id: int) -> tuple[str, str]:
    """Log an account in; return (session token, CSRF token)."""
    with writing(record.engine) as connection:
        session = open_session(connection, account_id, utc_now(), 1.0, must_change=False)
        csrf_token = connection.execute(
            select(WebSession.csrf_token).order_by(WebSession.created_at.desc()).limit(1)
        ).scalar_one()
    return session.token, csrf_token


class Browser(TestClient):
    """A browser that is logged in and repeats its CSRF token."""

    csrf_token = ""

    def submit(self, path: str, **fields: str):
        """Send a form."""
        return self.post(path, data={"csrf_token": self.csrf_token, **fields})

    def call(self, path: str, body: object = None, method: str = "POST"):
        """Send a REST call."""
        return self.request(
            method, path, json=body or {}, headers={"x-csrf-token": self.csrf_token}
        )


@contextmanager
def browser(app: FastAPI, record: Record, role: str, username: str = "") -> Iterator[Browser]:
    """Yield a browser of a new account of a role."""
    token, csrf_token = opened(record, account(record, username or f"{role}-1", role))
    with Browser(app, base_url=BASE, follow_redirects=False) as client:
        client.cookies.set(app.state.cookie, token)
        client.csrf_token = csrf_token
        yield client
