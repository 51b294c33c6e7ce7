"""Who gets into the admin page, and what it lets nobody do."""

import re

import pytest
from sqlalchemy import select

from gateway.dashboard.identity.auth import local_address
from gateway.store.engine import reading
from gateway.store.people.accounts import FAILURES_BEFORE_LOCK
from gateway.store.tables import AuditEntry
from tests.pages import BASE, CHOSEN, ONE_TIME, TestClient, change_password, log_in, token_in
from tests.records import Record


def trail(record: Record) -> list[tuple[str, str]]:
    with reading(record.engine) as connection:
        rows = connection.execute(
            select(AuditEntry.actor, AuditEntry.action).order_by(AuditEntry.id)
        ).all()
    return [(row.actor, row.action) for row in rows]


def addresses(app) -> list[tuple[str, str]]:
    found = []
    for route in app.router.routes:
        path = re.sub(r"\{\w+\}", "1.2.3", getattr(route, "path", ""))
        found += [(method, path) for method in getattr(route, "methods", None) or ()]
    for included in app.routes:
        for route in getattr(getattr(included, "original_router", None), "routes", ()):
            path = re.sub(r"\{\w+\}", "1.2.3", route.path)
            found += [(method, path) for method in route.methods]
    return found


def test_nothing_but_login_and_health_answers_without_login(app, stranger):
    found = addresses(app)
    assert ("GET", "/studies/1.2.3") in found
    assert ("POST", "/logout") in found
    for method, path in [*found, ("GET", "/no/such/page"), ("GET", "/openapi.json")]:
        if path in {"/login", "/login/openid", "/login/openid/back", "/healthz"}:
            continue
        answer = stranger.request(method, path, headers={"content-length": "0"})
        if path == "/metrics":  # has a token of its own, and takes no session
            assert answer.status_code == 403
        elif path.startswith(("/api/", "/dicomweb/")) or path == "/live":
            assert answer.status_code == 401, path
        else:
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/login")
            assert answer.content == b""


@pytest.mark.parametrize(
    "path",
    [
        "/static/../studies",
        "/static/..%2fstudies",
        "/static/%2e%2e/studies",
        "//studies",
        "/login/../studies",
        "/healthz/%2e%2e/studies",
        "/static/%2e%2e/%2e%2e/app.py",
        "/STUDIES",
    ],
)
def test_no_detour_leads_past_the_gate(kept, stranger, path):
    uid = kept.completed()
    answer = stranger.request("GET", BASE + path)
    assert answer.status_code in {303, 404}
    assert uid not in answer.text


def test_made_up_sessions_do_not_pass(app, stranger):
    for value in ("", "x", '"', "a" * 5000, "%00"):
        answer = stranger.get("/studies", headers={"cookie": f"{app.state.cookie}={value}"})
        assert answer.status_code == 303


def test_login_goes_on_to_the_page_that_was_asked_for(client):
    client.post("/logout", data={"csrf_token": token_in(client.get("/studies").text)})
    asked = client.get("/studies?state=failed")
    assert asked.headers["location"] == "/login?next=/studies%3Fstate%3Dfailed"
    answer = log_in(client, CHOSEN, "/studies?state=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies?state=failed")


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "studies", "/a\nb", ""],
)
def test_login_never_goes_on_to_another_site(address):
    assert local_address(address) == "/"


def test_wrong_login_says_the_same_for_every_cause(kept, stranger):
    answers = [log_in(stranger, "wrong") for _ in range(FAILURES_BEFORE_LOCK)]
    answers.append(log_in(stranger))  # locked by now
    page = token_in(stranger.get("/login").text)
    answers.append(
        stranger.post(
            "/login", data={"csrf_token": page, "username": "nobody", "password": ONE_TIME}
        )
    )
    assert {answer.status_code for answer in answers} == {401}
    shown = {re.sub(r'(value|data-now)="[^"]*"', "", answer.text) for answer in answers}
    assert len(shown) == 1
    assert ("admin", "account.locked") in trail(kept)


def test_session_cookie_is_out_of_reach(app, stranger):
    answer = log_in(stranger)
    cookie = next(c for c in answer.headers.get_list("set-cookie") if "_login" not in c)
    assert cookie.startswith(f"{app.state.cookie}=")
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "expires="):
        assert attribute.lower() in cookie.lower()


def test_cookie_is_for_https_alone_when_the_page_is(app):
    with TestClient(app, base_url="https://lentigo.example", follow_redirects=False) as client:
        assert "secure" in log_in(client).headers["set-cookie"].lower()


def test_one_time_password_must_be_changed_before_anything_else(home, stranger):
    (home / "initial-password.txt").write_text(ONE_TIME)
    assert log_in(stranger, address="/studies").headers["location"] == "/password"
    assert stranger.get("/studies").headers["location"] == "/password"
    assert stranger.get("/api/studies").status_code == 403
    assert stranger.get("/live").status_code == 403
    assert change_password(stranger, again="something else").status_code == 422
    assert change_password(stranger, old="wrong password").status_code == 422
    assert stranger.get("/studies").status_code == 303
    assert (home / "initial-password.txt").exists()
    assert change_password(stranger).status_code == 303
    assert stranger.get("/studies").status_code == 200
    assert not (home / "initial-password.txt").exists()


def test_later_change_of_the_password_is_open_to_all(client):
    answer = change_password(client, old=CHOSEN, new="another good one", again="another good one")
    assert answer.status_code == 303
    assert client.get("/studies").status_code == 200


def test_log_out_ends_the_session_on_the_server(app, client):
    token = client.cookies[app.state.cookie]
    answer = client.post("/logout", data={"csrf_token": token_in(client.get("/studies").text)})
    assert answer.headers["location"] == "/login"
    client.cookies.set(app.state.cookie, token)
    assert client.get("/studies").status_code == 303


def posts(app) -> list[str]:
    return [path for method, path in addresses(app) if method == "POST"]


def test_every_form_needs_its_token(app, client, kept):
    # The doors for documents and DICOMweb take no session: they have tests of their own.
    upload = "/api/studies/1.2.3/documents"
    forms = [path for path in posts(app) if not path.startswith((upload, "/dicomweb/"))]
    assert {"/login", "/logout", "/password", "/accounts", "/studies/orders"} <= set(forms)
    client.get("/login")
    for path in forms:
        for token in ({}, {"csrf_token": ""}, {"csrf_token": "x" * 43}, {"csrf_token": "ä"}):
            form = {"username": "admin", "password": CHOSEN, "old": CHOSEN, "new": "y" * 20}
            assert client.post(path, data={**form, **token}).status_code == 403, (path, token)
    assert client.get("/studies").status_code == 200
    assert ("admin", "password.changed") in trail(kept)
    assert trail(kept)[-1] == ("admin", "password.changed")


def test_login_form_of_another_browser_does_not_do(app, stranger):
    with TestClient(app, base_url=BASE) as other:
        token = token_in(other.get("/login").text)
    stranger.get("/login")
    form = {"csrf_token": token, "username": "admin", "password": ONE_TIME}
    assert stranger.post("/login", data=form).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999"])
def test_post_from_another_site_is_refused(client, origin):
    token = token_in(client.get("/studies").text)
    headers = {"origin": origin}
    assert client.post("/logout", data={"csrf_token": token}, headers=headers).status_code == 403
    headers = {"origin": BASE}
    assert client.post("/logout", data={"csrf_token": token}, headers=headers).status_code == 303


def test_body_that_no_form_has_is_refused_unread(stranger):
    assert stranger.post("/login", content=b"x" * 20_000).status_code == 413
    # Without a length nobody knows when it ends.
    assert stranger.post("/login", content=iter([b"a=b"])).status_code == 411


@pytest.mark.parametrize(
    "path", ["/login", "/studies", "/healthz", "/static/live.js", "/api/studies"]
)
def test_every_answer_forbids_foreign_content(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] in {"no-store", "no-cache"}


def test_audit_trail_tells_who_did_what(kept, client):
    log_in(client, "wrong")
    assert trail(kept) == [
        ("admin", "account.created"),
        ("admin", "login"),
        ("admin", "password.changed"),
        ("admin", "login.failed"),
    ]
