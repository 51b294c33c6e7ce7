"""Login by an OpenID provider: a real one that is honest, and all the ways in which one may lie."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from fastapi import FastAPI
from joserfc.jwk import RSAKey
from sqlalchemy import select, update

from gateway.dashboard.app import create_app
from gateway.errors import SettingsError
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import reading, writing
from gateway.store.tables import Account, AuditEntry
from tests.openid_provider import CLIENT_ID, CLIENT_SECRET, Provider, provider
from tests.pages import BASE, TestClient
from tests.people import account


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as found:
        yield found


@pytest.fixture
def honest(served: Provider, monkeypatch) -> Provider:
    fresh = Provider(served.issuer)
    fresh.key = served.key
    served.__dict__.update(fresh.__dict__)
    for name, value in {
        "ISSUER": served.issuer,
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "PUBLIC_URL": BASE,
        "ROLES": "boss=admin,derm=reviewer,staff=viewer",
    }.items():
        monkeypatch.setenv(f"LENTIGO_OPENID_{name}", value)
    return served


@pytest.fixture
def page(honest, home, kept) -> FastAPI:
    return create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)


@pytest.fixture
def person(page) -> Iterator[TestClient]:
    with TestClient(page, base_url=BASE, follow_redirects=False) as client:
        yield client


def log_in(person: TestClient, found: Provider, address: str = "/", **changes: str):
    left = person.get("/login/openid", params={"next": address})
    assert left.status_code == 303, left.text
    back = urlsplit(found.authorize(left.headers["location"]))
    query = {**dict(parse_qsl(back.query)), **changes}
    return person.get(f"{back.path}?{urlencode(query)}")


def causes(kept) -> list[str]:
    with reading(kept.engine) as connection:
        rows = connection.execute(
            select(AuditEntry.detail).where(AuditEntry.action == "login.failed")
        ).scalars()
        return [str(each.get("reason", "")) for each in rows]


def test_somebody_the_provider_vouches_for_gets_in(person, honest, kept):
    assert "/login/openid?next=" in person.get("/login").text
    answer = log_in(person, honest, "/studies?state=failed")
    assert answer.status_code == 200
    assert "/studies?state=failed" in answer.text
    assert person.get("/studies").status_code == 200
    with reading(kept.engine) as connection:
        row = connection.execute(select(Account).where(Account.username == "ada")).one()
    assert (row.role, row.password_hash) == ("reviewer", "")
    # What a page of the site shows is who it is; the code and the verifier went to the provider.
    assert "ada" in person.get("/studies").text
    assert honest.token_requests[-1]["grant_type"] == "authorization_code"


def test_the_role_follows_the_provider_at_each_login(person, honest, kept):
    log_in(person, honest)
    honest.user["groups"] = ["staff"]
    assert log_in(person, honest).status_code == 200
    with reading(kept.engine) as connection:
        rows = connection.execute(select(Account.username, Account.role)).all()
    assert [tuple(row) for row in rows] == [("ada", "viewer")]


@pytest.mark.parametrize("groups", [[], ["visitors"], None, "visitors", {"derm": 1}])
def test_nobody_without_a_group_of_the_site_gets_in(person, honest, kept, groups):
    honest.user["groups"] = groups
    answer = log_in(person, honest)
    assert answer.status_code == 403
    assert "no group" in answer.text
    assert person.get("/studies").status_code == 303


@pytest.mark.parametrize(
    "lie",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": None},
        {"aud": [CLIENT_ID, "another-client"]},
        {"azp": "another-client"},
        {"exp": 946684800},
        {"exp": None},
        {"exp": "soon"},
        {"iat": 4102444800},
        {"iat": None},
        {"nbf": 4102444800},
        {"nonce": "of another login"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"preferred_username": None},
        {"preferred_username": "../../etc"},
        {"preferred_username": ["ada"]},
    ],
    ids=str,
)
def test_a_token_that_does_not_fit_opens_nothing(person, honest, kept, lie):
    honest.claims = lie
    answer = log_in(person, honest)
    assert answer.status_code == 403, lie
    assert person.get("/studies").status_code == 303
    assert causes(kept)


@pytest.mark.parametrize("signature", ["none", "HS256", "another key"])
def test_a_signature_that_is_not_the_provider_s_opens_nothing(person, honest, kept, signature):
    honest.signs_with = signature
    answer = log_in(person, honest)
    assert answer.status_code == 403
    assert "cannot be trusted" in answer.text
    assert person.get("/studies").status_code == 303


def test_new_keys_of_the_provider_are_fetched(person, honest):
    assert log_in(person, honest).status_code == 200
    honest.key = RSAKey.generate_key(2048, {"kid": "two", "use": "sig", "alg": "RS256"})
    assert log_in(person, honest).status_code == 200


def test_an_answer_serves_once(person, honest):
    left = person.get("/login/openid")
    back = honest.authorize(left.headers["location"])
    state = person.cookies.get(next(name for name in person.cookies if name.endswith("_openid")))
    assert person.get(back).status_code == 200
    name = f"{person.app.state.cookie}_openid"
    person.cookies.set(name, state, path="/login/openid")
    answer = person.get(back)
    assert answer.status_code == 403
    assert "used before" in answer.text


def test_an_answer_serves_the_browser_that_asked_alone(page, person, honest):
    left = person.get("/login/openid")
    back = honest.authorize(left.headers["location"])
    with TestClient(page, base_url=BASE, follow_redirects=False) as victim:
        assert victim.get(back).status_code == 403
        assert victim.get("/studies").status_code == 303
    # It was not used up by the stranger.
    assert person.get(back).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "made-up"},
        {"state": ""},
        {"code": "made-up"},
        {"code": ""},
        {"iss": "https://elsewhere.example"},
        {"error": "access_denied"},
    ],
    ids=str,
)
def test_a_changed_answer_opens_nothing(person, honest, changes):
    assert log_in(person, honest, **changes).status_code == 403
    assert person.get("/studies").status_code == 303


def test_a_provider_that_names_another_issuer_is_not_asked(person, honest):
    honest.announced_issuer = "https://elsewhere.example"
    answer = person.get("/login/openid")
    assert answer.status_code == 503
    assert "another issuer" in answer.text


def test_a_local_account_is_never_taken_over(person, honest, kept):
    account(kept, "Ada", "admin")
    answer = log_in(person, honest)
    assert answer.status_code == 403
    assert "account of this name" in answer.text


def test_a_disabled_account_stays_out(person, honest, kept):
    log_in(person, honest)
    with writing(kept.engine) as connection:
        connection.execute(update(Account).values(disabled_at=kept.clock.now))
    assert person.get("/studies").status_code == 303
    assert log_in(person, honest).status_code == 403


def test_no_password_opens_an_account_of_the_provider(person, honest, page):
    log_in(person, honest)
    accounts = page.state.services.accounts
    for password in ("", "ada", " "):
        assert accounts.log_in("ada", password, hours=1, peer="") is None


def test_login_never_goes_on_to_another_site(person, honest):
    answer = log_in(person, honest, "//evil.example/")
    assert "evil" not in answer.text


def test_without_a_provider_there_is_no_such_login(stranger):
    assert stranger.get("/login/openid").status_code == 404
    assert stranger.get("/login/openid/back?state=x&code=y").status_code == 404
    assert "/login/openid" not in stranger.get("/login").text


@pytest.mark.parametrize("name", ["CLIENT_ID", "PUBLIC_URL", "ROLES"])
def test_half_a_setting_is_said(honest, home, kept, monkeypatch, name):
    monkeypatch.delenv(f"LENTIGO_OPENID_{name}")
    with pytest.raises(SettingsError, match=f"LENTIGO_OPENID_{name}"):
        create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)
