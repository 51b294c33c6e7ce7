"""What stands open is named with its cure; what is refused stops the start; secrets from files."""

import re
from pathlib import Path

import pytest

from gateway.audit.events import KINDS
from gateway.dashboard.identity.settings import OpenidSettings
from gateway.errors import SettingsError, WeakSetup
from gateway.hardening.findings import Setup
from gateway.hardening.rules import REFUSED, RULES, refuse_weak, weaknesses
from gateway.secret_files import secret_variables
from gateway.settings import ALL_SETTINGS, BrokerSettings, DashboardSettings, StoreSettings

PAGE = Path(__file__).resolve().parents[4] / "docs" / "security.md"
OPEN = {
    "listener-without-tls": {"LISTENER_BIND": "0.0.0.0", "LISTENER_ALLOW": "PACS@192.0.2.7"},
    "listener-without-allow-list": {"LISTENER_BIND": "192.0.2.1"},
    "listener-for-everyone": {"LISTENER_ALLOW": "*@0.0.0.0/0"},
    "listener-from-any-address": {"LISTENER_ALLOW": "PACS@0.0.0.0/0"},
    "page-without-tls": {"DASHBOARD_BIND": "0.0.0.0"},
    "weak-initial-password": {"DASHBOARD_INITIAL_PASSWORD": "lentigo1234567"},
    "broker-without-password": {"BROKER_URL": "rediss://redis.local:6379/0"},
    "broker-without-tls": {"BROKER_URL": "redis://:secret@redis.local:6379/0"},
    "record-without-tls": {"DATABASE_URL": "postgresql+psycopg://u:p@db.local/lentigo"},
    "record-unverified": {"DATABASE_URL": "postgresql+psycopg://u:p@db.local/l?sslmode=require"},
    "credentials-in-plain": {
        "PRIORS_DICOMWEB_URL": "http://pacs.local/dicom-web",
        "PRIORS_DICOMWEB_TOKEN": "a token",
    },
    "weak-secret": {"METRICS_TOKEN": "too short"},
    "openid-admin-for-everybody": {
        "OPENID_ISSUER": "https://login.example/realms/staff",
        "OPENID_ROLES": "pathology=viewer,Domain Users=admin",
    },
    "mail-without-tls": {
        "MAIL_SERVER": "mail.local:25",
        "MAIL_SECURITY": "none",
        "MAIL_SENDER": "lentigo@clinic.example",
        "MAIL_RECIPIENTS": "pacs@clinic.example",
    },
    "destination-without-tls": {"DELIVERY_DESTINATION": "PACS@pacs.local:104"},
    "syslog-without-tls": {"AUDIT_SYSLOG": "udp://audit.local:514"},
}
BY_FILES = {"home-open", "home-listed", "readable-keys", "readable-secrets"}


def found(home, monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"LENTIGO_{name}", str(value))
    return {each.name: each for each in weaknesses(Setup(store=StoreSettings(home=home)))}


@pytest.fixture
def private(home):
    home.mkdir(mode=0o700)
    return home


def test_the_default_set_up_is_not_weak(private, monkeypatch):
    assert found(private, monkeypatch) == {}


@pytest.mark.parametrize(("name", "variables"), OPEN.items(), ids=OPEN)
def test_each_weakness_is_seen(private, monkeypatch, name, variables):
    assert name in found(private, monkeypatch, **variables)


def test_results_over_plain_http_are_a_weakness_too(private, monkeypatch):
    seen = found(private, monkeypatch, DELIVERY_DESTINATION="http://pacs.local/dicom-web")
    assert "destination-without-tls" in seen


OIDC = {"OPENID_ISSUER": "https://login.example/realms/staff"}
HOOK = {"EVENTS_WEBHOOKS": "https://ris.example/x"}
MAIL = {**OPEN["mail-without-tls"], "MAIL_USERNAME": "lentigo", "MAIL_PASSWORD": "secret"}


@pytest.mark.parametrize(
    ("name", "variables", "is_seen"),
    [
        ("weak-secret", {**HOOK, "EVENTS_SECRET": "0123456789abcde"}, True),
        ("weak-secret", {**HOOK, "EVENTS_SECRET": "changeme-lentigo"}, True),
        ("weak-secret", {**HOOK, "EVENTS_SECRET": "aaaaaaaaaaaaaaaaaaaaaaaa"}, True),
        ("weak-secret", {**HOOK, "EVENTS_SECRET": "kT9v-2mQx_r71LwZpB4e"}, False),
        ("weak-secret", {"EVENTS_SECRET": "of nothing"}, False),
        ("weak-secret", {**OIDC, "OPENID_CLIENT_SECRET": "secret"}, True),
        ("weak-secret", {"OPENID_CLIENT_SECRET": "secret"}, False),
        ("weak-secret", {"METRICS_TOKEN": "short", "METRICS_ENABLED": "false"}, False),
        ("openid-admin-for-everybody", {**OIDC, "OPENID_ROLES": "everyone=viewer"}, False),
        ("openid-admin-for-everybody", {**OIDC, "OPENID_ROLES": "pacs=admin"}, False),
        ("openid-admin-for-everybody", {**OIDC, "OPENID_ROLES": "default-roles-x=admin"}, True),
        ("openid-admin-for-everybody", {"OPENID_ROLES": "everyone=admin"}, False),
        ("credentials-in-plain", MAIL, True),
        ("credentials-in-plain", {**MAIL, "MAIL_SERVER": "127.0.0.1:25"}, False),
        ("credentials-in-plain", {**MAIL, "MAIL_SECURITY": "tls"}, False),
        ("mail-without-tls", {**MAIL, "MAIL_SERVER": "localhost:25"}, False),
        (
            "credentials-in-plain",
            {"TRACING_ENDPOINT": "http://collector.local/v1/traces", "TRACING_TOKEN": "x"},
            True,
        ),
        (
            "credentials-in-plain",
            {"TRACING_ENDPOINT": "https://collector.local/v1/traces", "TRACING_TOKEN": "x"},
            False,
        ),
    ],
)
def test_the_doors_of_observation_and_login_are_looked_at(
    private, monkeypatch, name, variables, is_seen
):
    assert (name in found(private, monkeypatch, **variables)) is is_seen


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1.login.example", "http://localhost.example", "ftp://login.example", "x"],
)
@pytest.mark.parametrize("name", ["ISSUER", "PUBLIC_URL"])
def test_only_this_very_host_is_spoken_to_in_plain_for_a_login(monkeypatch, name, address):
    monkeypatch.setenv(f"LENTIGO_OPENID_{name}", address)
    with pytest.raises(ValueError, match="https"):
        OpenidSettings()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080/realms/x", "https://a.example", ""])
def test_a_provider_on_this_host_may_be_plain(monkeypatch, address):
    monkeypatch.setenv("LENTIGO_OPENID_ISSUER", address)
    assert OpenidSettings().issuer == address


def test_every_weakness_has_a_test():
    assert {rule.name for rule in RULES} == set(OPEN) | BY_FILES


def test_what_others_may_read_is_seen(home, monkeypatch):
    home.mkdir()
    home.chmod(0o755)
    assert set(found(home, monkeypatch)) == {"home-listed"}
    (home / "record.sqlite3").touch(mode=0o644)
    assert set(found(home, monkeypatch)) == {"home-listed", "home-open"}
    home.chmod(0o700)  # nobody gets in, whatever the modes inside
    assert found(home, monkeypatch) == {}


def test_a_key_that_others_may_read_is_refused(private, monkeypatch, tmp_path):
    key = tmp_path / "key.pem"
    key.touch()
    key.chmod(0o644)
    seen = found(private, monkeypatch, DASHBOARD_TLS_CERTIFICATE=key)
    assert "readable-keys" in seen


def test_the_start_is_refused_with_every_cure_unless_the_site_insists(private, monkeypatch):
    monkeypatch.setenv("LENTIGO_DASHBOARD_BIND", "0.0.0.0")
    monkeypatch.setenv("LENTIGO_LISTENER_BIND", "0.0.0.0")
    setup = Setup(store=StoreSettings(home=private))
    with pytest.raises(WeakSetup) as caught:
        refuse_weak(setup)
    refused = [each for each in weaknesses(setup) if each.level == REFUSED]
    assert len(refused) == 3
    assert all(each.cure in str(caught.value) for each in refused)
    accepted = str(caught.value).rpartition("=")[2]
    monkeypatch.setenv("LENTIGO_SECURITY_ACCEPT", accepted)
    refuse_weak(Setup(store=StoreSettings(home=private)))


def test_a_weakness_that_does_not_exist_cannot_be_insisted_on(private, monkeypatch):
    monkeypatch.setenv("LENTIGO_SECURITY_ACCEPT", "page-without-tsl")
    with pytest.raises(SettingsError, match="page-without-tls"):
        refuse_weak(Setup(store=StoreSettings(home=private)))


# -- the page -------------------------------------------------------------------------------------


def test_the_page_lists_every_weakness_as_it_is():
    text = PAGE.read_text()
    rows = set(re.findall(r"^\| `([a-z-]+)` \| (refused|warned) \| (.*?) \| (.*?) \|$", text, re.M))
    assert rows == {(each.name, each.level, each.meaning, each.cure) for each in RULES}


def test_the_page_lists_every_action_of_the_trail():
    text = PAGE.read_text()
    for action, kind in KINDS.items():
        (row,) = [line for line in text.splitlines() if f"({kind.event.value}) |" in line]
        assert f"`{action}`" in row


# -- secrets --------------------------------------------------------------------------------------


@pytest.fixture
def secret(private):
    path = private / "secret"
    path.write_text("redis://:a-secret@127.0.0.1:6379/0\n")
    path.chmod(0o600)
    return path


def test_a_secret_comes_from_a_file(secret, monkeypatch):
    monkeypatch.setenv("LENTIGO_BROKER_URL_FILE", str(secret))
    settings = BrokerSettings()
    assert settings.url == "redis://:a-secret@127.0.0.1:6379/0"
    assert "a-secret" not in repr(settings)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 70000, b"a\0b"])
def test_a_file_without_a_usable_secret_is_refused_without_its_content(
    secret, monkeypatch, content
):
    secret.write_bytes(content)
    monkeypatch.setenv("LENTIGO_DASHBOARD_INITIAL_PASSWORD_FILE", str(secret))
    with pytest.raises(SettingsError, match="LENTIGO_DASHBOARD_INITIAL_PASSWORD_FILE") as caught:
        DashboardSettings()
    assert "two" not in str(caught.value)


def test_a_secret_that_is_given_twice_is_refused(secret, monkeypatch):
    monkeypatch.setenv("LENTIGO_BROKER_URL_FILE", str(secret))
    monkeypatch.setenv("LENTIGO_BROKER_URL", "redis://127.0.0.1/1")
    with pytest.raises(SettingsError, match="both given"):
        BrokerSettings()


def test_a_file_that_is_not_there_is_said(private, monkeypatch):
    monkeypatch.setenv("LENTIGO_BROKER_URL_FILE", str(private / "none"))
    with pytest.raises(SettingsError, match="cannot be read"):
        BrokerSettings()


def test_no_settings_class_shows_a_secret():
    for cls in ALL_SETTINGS:
        for name, field in cls.model_fields.items():
            looks_secret = re.search(r"password$|secret$|token$", name)
            annotation = str(field.annotation)
            if looks_secret and "str" in annotation.lower():
                assert "SecretStr" in annotation or not field.repr, (cls.__name__, name)
    assert "LENTIGO_DASHBOARD_INITIAL_PASSWORD" in secret_variables(ALL_SETTINGS)
