"""What goes out, to dcmtk and Orthanc: over TLS with certificates of both sides, and by C-FIND."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from gateway.delivery.echo import echo
from gateway.delivery.routes import Destination, ObjectState, Outcome, Outgoing
from gateway.delivery.sender import Sender
from gateway.settings import DeliverySettings, TlsSettings
from tests.certificates import authority, found_authority, signed
from tests.instances import instance, write
from tests.servers import orthanc, storescp
from tests.servers.dcmqrscp import dcmqrscp
from tests.storage_scp import COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE, SEGMENTATION

TIMEOUT_S = 20.0
CLASSES = (COMPREHENSIVE_3D_SR, SEGMENTATION, SECONDARY_CAPTURE)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    found_authority(folder)
    authority(folder, "stranger")
    signed(folder, "pacs", "IP:127.0.0.1")
    signed(folder, "us", "DNS:lentigo")
    return folder


@pytest.fixture
def objects(tmp_path: Path) -> list[Outgoing]:
    found = []
    for number, sop_class_uid in enumerate(CLASSES, start=1):
        ds = instance(SOPClassUID=sop_class_uid, Modality="OT")
        found.append(
            Outgoing(
                id=number,
                path=write(ds, tmp_path / "out" / f"{number}.dcm"),
                study_instance_uid=str(ds.StudyInstanceUID),
                series_instance_uid=str(ds.SeriesInstanceUID),
                sop_class_uid=sop_class_uid,
                sop_instance_uid=str(ds.SOPInstanceUID),
                sha256="",
            )
        )
    return found


def over_tls(pacs: Any) -> Destination:
    return Destination(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port, is_tls=True)


def ours(keys: Path, name: str = "us", *, ca: str = "ca") -> TlsSettings:
    return TlsSettings(
        ca=str(keys / f"{ca}.pem"),
        certificate=str(keys / f"{name}.pem"),
        key=str(keys / f"{name}.key"),
    )


def deliver(
    to: Destination, objects: list[Outgoing], tls: TlsSettings | None = None, **settings: Any
) -> list[Outcome]:
    delivery = DeliverySettings(timeout_s=TIMEOUT_S, **settings)
    return Sender(to, delivery, tls=tls).deliver(objects)


def assert_it_wants_our_certificate(to: Destination, objects: list[Outgoing], keys: Path) -> None:
    """Nothing is stored, nothing given up, and the reason names the certificate."""
    without = TlsSettings(ca=str(keys / "ca.pem"))
    for tls in (without, ours(keys, "stranger")):
        outcomes = deliver(to, objects, tls)
        assert {(each.state, each.is_unreachable) for each in outcomes} == {
            (ObjectState.PENDING, True)
        }
        # The end of the connection may overtake the alert that says why.
        said = [echo(to, calling_ae_title="LENTIGO", timeout_s=TIMEOUT_S, tls=tls)]
        while "does not accept our certificate" not in said[-1] and len(said) < 5:
            said.append(echo(to, calling_ae_title="LENTIGO", timeout_s=TIMEOUT_S, tls=tls))
        assert all(said)
        assert "does not accept our certificate" in said[-1], said
    problem = echo(to, calling_ae_title="LENTIGO", tls=ours(keys, ca="stranger"))
    assert "its certificate is not signed by the CA that we trust" in problem


def test_dcmtk_over_tls_with_certificates_of_both_sides(
    keys: Path, objects: list[Outgoing], tmp_path: Path
) -> None:
    options = ["+tls", str(keys / "pacs.key"), str(keys / "pacs.pem")]
    options += ["+cf", str(keys / "ca.pem"), "-rc"]
    with storescp(tmp_path / "scp", aet="PACS", options=options) as scp:
        outcomes = deliver(over_tls(scp), objects, ours(keys))
        assert {(each.state, each.confirmed_by) for each in outcomes} == {
            (ObjectState.CONFIRMED, "c-store")
        }
        assert {dcmread(path).SOPInstanceUID for path in scp.files()} == {
            each.sop_instance_uid for each in objects
        }
        assert_it_wants_our_certificate(over_tls(scp), objects, keys)
        assert len(scp.files()) == len(objects)


def test_orthanc_over_tls_with_certificates_of_both_sides(
    keys: Path, objects: list[Outgoing], tmp_path: Path
) -> None:
    configuration = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(keys / "pacs.pem"),
        "DicomTlsPrivateKey": str(keys / "pacs.key"),
        "DicomTlsTrustedCertificates": str(keys / "ca.pem"),
        "DicomTlsRemoteCertificateRequired": True,
    }
    with orthanc(tmp_path / "pacs", configuration=configuration) as pacs:
        outcomes = deliver(over_tls(pacs), objects, ours(keys), confirm="require")
        assert {(each.state, each.confirmed_by) for each in outcomes} == {
            (ObjectState.CONFIRMED, "c-find")
        }
        assert echo(over_tls(pacs), calling_ae_title="LENTIGO", tls=ours(keys)) == ""
        assert_it_wants_our_certificate(over_tls(pacs), objects, keys)


def test_dcmqrscp_confirms_by_c_find(objects: list[Outgoing], tmp_path: Path) -> None:
    with dcmqrscp(tmp_path / "pacs") as pacs:
        to = Destination(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port)
        for _ in range(2):  # it takes the same objects again
            outcomes = deliver(to, objects, confirm="require")
            assert {(each.state, each.confirmed_by) for each in outcomes} == {
                (ObjectState.CONFIRMED, "c-find")
            }
        assert echo(to, calling_ae_title="LENTIGO") == ""
        stranger = Destination(ae_title="OTHER", host=pacs.host, port=pacs.port)
        (refused,) = deliver(stranger, objects[:1])
        assert refused.state is ObjectState.PENDING
        assert "called AE title not recognised" in refused.reason
