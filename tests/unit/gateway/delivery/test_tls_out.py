"""TLS to a PACS: what is trusted, what is shown, and why a connection does not come about."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.delivery.echo import echo
from gateway.delivery.routes import Destination
from gateway.dicom.tls import client_context, server_context
from gateway.errors import TlsSettingsError
from gateway.settings import TlsSettings
from tests.certificates import authority, found_authority, openssl, signed
from tests.storage_scp import StorageScp


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    found_authority(folder)
    authority(folder, "stranger")
    signed(folder, "pacs", "IP:127.0.0.1")
    signed(folder, "other", "DNS:other.local")
    signed(folder, "expired", "IP:127.0.0.1", is_expired=True)
    signed(folder, "us", "DNS:lentigo")
    return folder


def asked(keys: Path, *, shown: str, wants: str = "", **settings: object) -> str:
    """Return what a C-ECHO to a PACS that shows a certificate comes to."""
    context = server_context(
        keys / f"{shown}.pem", keys / f"{shown}.key", keys / f"{wants}.pem" if wants else None
    )
    tls = TlsSettings(**{"ca": str(keys / "ca.pem"), **settings})
    with StorageScp(tls=context).serving() as scp:
        pacs = Destination(ae_title="PACS", host="127.0.0.1", port=scp.port, is_tls=True)
        return echo(pacs, calling_ae_title="LENTIGO", timeout_s=20.0, tls=tls)


def test_a_peer_of_the_ca_is_spoken_to(keys: Path) -> None:
    assert asked(keys, shown="pacs") == ""


def test_a_peer_that_wants_a_certificate_gets_ours(keys: Path) -> None:
    own = {"certificate": str(keys / "us.pem"), "key": str(keys / "us.key")}
    assert asked(keys, shown="pacs", wants="ca", **own) == ""


@pytest.mark.parametrize(
    ("shown", "settings", "reason"),
    [
        ("stranger", {}, "not signed by the CA"),
        ("expired", {}, "has expired"),
        ("other", {}, "names another host"),
        ("pacs", {"ca": ""}, "LENTIGO_TLS_CA"),
        ("pacs", {"ca": "/nowhere.pem"}, "/nowhere.pem cannot be read"),
    ],
)
def test_why_it_does_not_come_about(
    keys: Path, shown: str, settings: dict[str, str], reason: str
) -> None:
    assert reason in asked(keys, shown=shown, **settings)


def test_the_host_name_may_be_left_unchecked(keys: Path) -> None:
    assert asked(keys, shown="other", check_host_name=False) == ""


def test_a_peer_that_wants_a_certificate_which_we_do_not_have(keys: Path) -> None:
    assert "our certificate" in asked(keys, shown="pacs", wants="ca")


def test_a_port_that_does_not_speak_tls(keys: Path) -> None:
    tls = TlsSettings(ca=str(keys / "ca.pem"))
    with StorageScp().serving() as scp:
        pacs = Destination(ae_title="PACS", host="127.0.0.1", port=scp.port, is_tls=True)
        problem = echo(pacs, calling_ae_title="LENTIGO", timeout_s=3.0, tls=tls)
    assert problem.startswith(("no TLS connection", "the destination"))


def test_files_that_cannot_be_used_are_named(keys: Path, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    with pytest.raises(TlsSettingsError, match=r"nonsense\.pem"):
        client_context(nonsense)
    with pytest.raises(TlsSettingsError, match="does not belong"):
        server_context(keys / "pacs.pem", keys / "us.key")
    openssl(keys, "ec", "-in", "us.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    with pytest.raises(TlsSettingsError, match="pass phrase"):
        server_context(keys / "us.pem", keys / "locked.key")
