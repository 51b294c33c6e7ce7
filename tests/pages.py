"""What a browser does on the admin page, for tests: log in, change the password."""

import re
import warnings

import httpx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette 1 would rather have httpx2; httpx serves as well
    from fastapi.testclient import TestClient

__all__ = ["BASE", "CHOSEN", "ONE_TIME", "TestClient", "change_password", "log_in", "token_in"]

BASE = "http://127.0.0.1:8042"
ONE_TIME = "a one-time password"
CHOSEN = "correct horse battery"


def token_in(page: str) -> str:
    """Return the CSRF token of a page's form."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def log_in(client: httpx.Client, password: str = ONE_TIME, address: str = "/") -> httpx.Response:
    """Fill in the login form."""
    page = client.get("/login", params={"next": address}).text
    form = {
        "csrf_token": token_in(page),
        "next": address,
        "username": "admin",
        "password": password,
    }
    return client.post("/login", data=form)


def change_password(client: httpx.Client, **changes: str) -> httpx.Response:
    """Fill in the form that changes the password."""
    page = client.get("/password").text
    form = {"csrf_token": token_in(page), "old": ONE_TIME, "new": CHOSEN, "again": CHOSEN}
    return client.post("/password", data={**form, **changes})
