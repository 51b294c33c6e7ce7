"""Every route of the application has a rule, and every role gets the answer of the rule."""

import re
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute

from gateway.dashboard.identity.auth import PUBLIC
from gateway.roles import ROLES, Permission
from gateway.store.people.tokens import Tokens
from tests.pages import BASE, TestClient
from tests.people import account, opened

# Behind doors of their own (HTTP Basic or an API token), with the permissions of the same table.
DOORS = {
    ("POST", "/api/studies/{uid}/documents"): Permission.SEND,
}
ENDLESS = {"/live"}


def routes(app) -> list[APIRoute]:
    found, waiting = [], list(app.routes)
    while waiting:
        each = waiting.pop()
        waiting += getattr(getattr(each, "original_router", None), "routes", ())
        if isinstance(each, APIRoute):
            found.append(each)
    return sorted(found, key=lambda route: (route.path, sorted(route.methods)))


def permission_of(app, wanted: APIRoute) -> Permission | None:
    """Return the strictest rule that stands on a route or on its router."""
    found: set[Permission] = set()
    waiting = [wanted.dependant]
    while waiting:
        dependant = waiting.pop()
        waiting += dependant.dependencies
        if (permission := getattr(dependant.call, "permission", None)) is not None:
            found.add(permission)
    for included in app.routes:
        router = getattr(included, "original_router", None)
        if router is not None and wanted in router.routes:
            found |= {
                each.dependency.permission
                for each in router.dependencies
                if hasattr(each.dependency, "permission")
            }
    # A route may ask for more than its router does.
    return min(
        found, key=lambda each: sum(each in granted for granted in ROLES.values()), default=None
    )


def rules(app) -> Iterator[tuple[str, str, Permission | None]]:
    for route in routes(app):
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path, permission_of(app, route)


def test_there_are_many_routes_and_each_has_a_rule(app):
    found = list(rules(app))
    assert len(found) > 40
    without = [
        (method, path)
        for method, path, permission in found
        if permission is None
        and path not in PUBLIC
        and (method, path) not in DOORS
        and not path.startswith("/dicomweb/")
    ]
    # One's own session: any login will do, even before the one-time password is changed.
    assert set(without) <= {("POST", "/logout"), ("GET", "/password"), ("POST", "/password")}


def test_public_routes_are_few(app):
    # A new one must be thought about here.
    assert set(PUBLIC) <= {
        "/healthz",
        "/metrics",
        "/login",
        "/login/openid",
        "/login/openid/back",
    }


@pytest.mark.parametrize("role", [*ROLES, "of no table"])
def test_each_role_gets_the_answer_of_the_rule(app, kept, role):
    number = account(kept, "somebody", role)
    granted = ROLES.get(role, frozenset())
    seen = set()
    token, csrf_token = opened(kept, number)
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        for method, path, permission in rules(app):
            is_elsewhere = path in ENDLESS or path.startswith("/dicomweb/")
            if permission is None or is_elsewhere:
                continue
            client.cookies.clear()
            client.cookies.set(app.state.cookie, token)
            address = re.sub(r"\{\w+(:\w+)?\}", "1", path)
            body = (
                {"json": {}, "headers": {"x-csrf-token": csrf_token}}
                if path.startswith("/api")
                else {"data": {"csrf_token": csrf_token}}
            )
            answer = client.request(method, address, **({} if method == "GET" else body))
            is_refused = answer.status_code == 403
            assert is_refused == (permission not in granted), (method, path, answer.status_code)
            assert answer.status_code != 401, path
            seen.add(is_refused)
    assert seen == ({True} if role == "of no table" else {True, False})


@pytest.mark.parametrize("role", list(ROLES))
def test_doors_without_sessions_ask_the_same_table(app, kept, role):
    account(kept, "engine", role)
    token = Tokens(kept.engine).issue("engine", name="t", role=role, days=1, actor="engine")
    header = {"authorization": f"Bearer {token}"}
    may_send = Permission.SEND in ROLES[role]
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        sent = client.post(
            "/api/studies/1.2.3/documents",
            params={"name": "a.json"},
            json={"lentigo": "prognosis"},
            headers=header,
        )
        assert (sent.status_code == 403) == (not may_send), sent.text
        stored = client.post("/dicomweb/studies", content=b"", headers=header)
        assert (stored.status_code == 403) == (not may_send), stored.text
        read = client.get("/dicomweb/workitems", headers=header)
        assert (read.status_code == 403) == (Permission.REVEAL not in ROLES[role]), read.text


def test_a_token_may_do_what_both_its_role_and_its_account_may(app, kept):
    account(kept, "boss", "admin")
    tokens = Tokens(kept.engine)
    narrow = tokens.issue("boss", name="t", role="viewer", days=1, actor="boss")
    wide = tokens.issue("boss", name="t", role="admin", days=1, actor="boss")
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:

        def status(token: str, path: str) -> int:
            header = {"authorization": f"Bearer {token}"}
            return client.get(path, headers=header).status_code

        assert status(narrow, "/api/studies") == 200
        assert status(narrow, "/api/accounts") == 403
        assert status(wide, "/api/accounts") == 200
        # A token opens no page, and none is taken from an address.
        assert status(wide, "/accounts") == 303
        assert client.get("/api/accounts", params={"access_token": wide}).status_code == 401
        assert status("lentigo_wrong", "/api/studies") == 401


def test_a_token_never_makes_another(app, kept):
    account(kept, "boss", "admin")
    token = Tokens(kept.engine).issue("boss", name="t", role="viewer", days=1, actor="boss")
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        answer = client.post(
            "/api/tokens",
            json={"name": "more", "role": "admin"},
            headers={"authorization": f"Bearer {token}"},
        )
    assert answer.status_code == 403
    assert len(Tokens(kept.engine).all()) == 1


def test_calls_with_a_cookie_need_the_header(app, kept):
    token, csrf_token = opened(kept, account(kept, "boss", "admin"))
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        client.cookies.set(app.state.cookie, token)
        body = {"username": "new", "role": "viewer"}
        assert client.post("/api/accounts", json=body).status_code == 403
        wrong = {"x-csrf-token": "x" * len(csrf_token)}
        assert client.post("/api/accounts", json=body, headers=wrong).status_code == 403
        right = {"x-csrf-token": csrf_token}
        assert client.post("/api/accounts", json=body, headers=right).status_code == 201
