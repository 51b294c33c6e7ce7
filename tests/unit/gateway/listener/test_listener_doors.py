"""TLS, AE titles, places and patience of the listener, against dcmtk, openssl and raw sockets."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from gateway.delivery.scu import keep_answers
from gateway.errors import SettingsError, TlsSettingsError
from gateway.listener.acceptance import StoreStatus
from gateway.listener.ports import AssociationInfo
from gateway.listener.server import Listener
from gateway.listener.services import FollowUp, ServiceAnswer, ServiceContext, ServiceRequest
from gateway.settings import ListenerSettings
from gateway.spool import Spool
from tests.bench.blast import _associate_request
from tests.instances import (
    CT,
    EXPLICIT,
    VL_PHOTOGRAPHIC,
    RecordInMemory,
    instance,
    write,
)
from tests.rejections import rejection
from tests.servers import require, wait_until

DEADLINE_S = 30.0
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
HTJ2K = "1.2.840.10008.1.2.4.201"
JPEG_XL = "1.2.840.10008.1.2.4.112"

Start = Callable[..., Listener]


@pytest.fixture
def record() -> RecordInMemory:
    return RecordInMemory()


@pytest.fixture
def start(record: RecordInMemory, tmp_path: Path) -> Iterator[Start]:
    started: list[Listener] = []

    def start(services: Any = (), **settings: Any) -> Listener:
        spool = Spool(tmp_path / "spool")
        listener = Listener(
            ListenerSettings(**{"port": 0, **settings}), record, spool, services=services
        )
        listener.start()
        started.append(listener)
        return listener

    yield start
    for listener in started:
        listener.stop(grace_s=2.0)


def associate(listener: Listener, *contexts: Any, **options: Any) -> Association:
    ae = AE(ae_title="TESTER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = DEADLINE_S
    proposed = list(contexts) or [build_context(VL_PHOTOGRAPHIC, EXPLICIT)]
    assoc = ae.associate("127.0.0.1", listener.port, contexts=proposed, **options)
    keep_answers(assoc)
    return assoc


# -- TLS --------------------------------------------------------------------------------------


class Certificates:
    """A CA of the test and what it has signed."""

    def __init__(self, folder: Path) -> None:
        require("openssl")
        self.folder = folder
        self.ca = self._self_signed("ca")
        self.server, self.server_key = self.sign("server")
        self.client, self.client_key = self.sign("client")

    def _self_signed(self, name: str) -> Path:
        certificate = self.folder / f"{name}.pem"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", certificate, "-days", "2", "-subj", f"/CN={name}"),
        )
        return certificate

    def sign(self, name: str) -> tuple[Path, Path]:
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _run(self, *arguments: Any) -> None:
        subprocess.run(
            ["openssl", *map(str, arguments)], cwd=self.folder, check=True, capture_output=True
        )

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"tls_certificate": self.server, "tls_key": self.server_key, **more}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def echo(port: int, *options: Any) -> bool:
    command = ["echoscu", "-to", "20", *map(str, options), "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def handshake(port: int, *options: str) -> str:
    """Return what openssl says of a connection."""
    found = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input=b"",
        capture_output=True,
        timeout=60,
    )
    return (found.stdout + found.stderr).decode(errors="replace")


def test_plain_and_tls_doors_stand_side_by_side(
    start: Start, certificates: Certificates, record: RecordInMemory, tmp_path: Path
) -> None:
    require("echoscu", "storescu")
    listener = start(**certificates.settings(tls_port=0))
    assert listener.tls_port
    assert echo(listener.port)
    assert echo(listener.tls_port, "+tla", "+cf", certificates.ca)
    assert not echo(listener.tls_port)
    assert not echo(listener.port, "+tla", "+cf", certificates.ca)
    ds = instance(SOPClassUID=VL_PHOTOGRAPHIC, side=200)
    path = write(ds, tmp_path / "a.dcm")
    subprocess.run(
        [
            *("storescu", "+tla", "+cf", certificates.ca, "127.0.0.1", str(listener.tls_port)),
            path,
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert set(record.instances) == {ds.SOPInstanceUID}


def test_a_client_certificate_is_asked_for(start: Start, certificates: Certificates) -> None:
    require("echoscu")
    listener = start(**certificates.settings(tls_client_ca=certificates.ca))
    trusting = ("+cf", certificates.ca)
    assert listener.tls_port is None  # the only door speaks TLS
    assert echo(listener.port, "+tls", certificates.client_key, certificates.client, *trusting)
    assert not echo(listener.port, "+tla", *trusting)
    lenient = start(
        **certificates.settings(tls_client_ca=certificates.ca, tls_require_client_certificate=False)
    )
    assert echo(lenient.port, "+tla", *trusting)


def test_old_protocols_and_weak_ciphers_are_refused(
    start: Start, certificates: Certificates
) -> None:
    listener = start(**certificates.settings())
    assert "TLSv1.3" in handshake(listener.port, "-tls1_3")
    assert "Protocol  : TLSv1.2" in handshake(listener.port, "-tls1_2")
    assert "Cipher is (NONE)" in handshake(listener.port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert "Cipher is (NONE)" in handshake(listener.port, "-tls1_2", "-cipher", "AES128-SHA256")


def test_a_renewed_certificate_is_used_without_a_restart(
    start: Start, certificates: Certificates, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(certificates.server.read_bytes())
    key.write_bytes(certificates.server_key.read_bytes())
    listener = start(tls_certificate=certificate, tls_key=key)
    assert "CN = server" in handshake(listener.port)
    certificate.write_bytes(b"half written")
    assert "CN = server" in handshake(listener.port)  # the former one stays
    renewed, renewed_key = certificates.sign("renewed")
    key.write_bytes(renewed_key.read_bytes())
    certificate.write_bytes(renewed.read_bytes())
    assert "CN = renewed" in handshake(listener.port)


def test_tls_without_a_certificate_stops_the_start(start: Start, tmp_path: Path) -> None:
    with pytest.raises(TlsSettingsError, match="TLS_CERTIFICATE"):
        start(tls_port=0)
    with pytest.raises(TlsSettingsError, match=r"missing\.pem"):
        start(tls_certificate=tmp_path / "missing.pem")


# -- AE titles, SOP classes, transfer syntaxes -------------------------------------------------


def test_several_ae_titles_are_answered_on_one_port(start: Start, record: RecordInMemory) -> None:
    listener = start(ae_title="LENTIGO", ae_titles="DERM, PATHO", require_called_ae_title=True)
    for called in ("LENTIGO", "DERM", "PATHO"):
        assoc = associate(listener, ae_title=called)
        assert assoc.is_established
        assoc.release()
    assert rejection(associate(listener, ae_title="OTHER")) == (1, 1, 7)
    called = [
        info.called_ae_title for info, outcome in record.associations if outcome == "accepted"
    ]
    assert called == ["LENTIGO", "DERM", "PATHO"]


@pytest.mark.parametrize("entry", ["CTImageStorage", CT])
def test_a_site_may_add_storage_classes(start: Start, entry: str) -> None:
    assoc = associate(start(more_sop_classes=entry), build_context(CT, EXPLICIT))
    assert assoc.is_established
    assoc.release()


@pytest.mark.parametrize("entry", ["CT Image", "1.2.840.10008.1.1", "1..2", "Verification"])
def test_what_is_no_storage_class_stops_the_start(start: Start, entry: str) -> None:
    with pytest.raises(SettingsError, match="more_sop_classes"):
        start(more_sop_classes=entry)


def test_what_is_no_ae_title_stops_the_start(start: Start) -> None:
    with pytest.raises(SettingsError, match="AE title"):
        start(ae_titles="A" * 17)


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([HTJ2K], HTJ2K),
        ([JPEG_XL], JPEG_XL),
        ([JPEG_XL, EXPLICIT], EXPLICIT),  # hardly a reader knows JPEG XL
        (["1.2.840.10008.1.2.1.99"], "1.2.840.10008.1.2.1.99"),
        ([EXPLICIT, HTJ2K], HTJ2K),
    ],
)
def test_recent_transfer_syntaxes_are_taken(start: Start, proposed: list[str], chosen: str) -> None:
    assoc = associate(start(), build_context(VL_PHOTOGRAPHIC, proposed))
    assert assoc.accepted_contexts[0].transfer_syntax == [chosen]
    assoc.release()


# -- negotiation -------------------------------------------------------------------------------


def test_items_of_extended_negotiation_are_answered_as_they_should(start: Start) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 0
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"user", b"secret"
    identity.positive_response_requested = True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = UID(VL_PHOTOGRAPHIC)
    extended.service_class_application_information = b"\x02\x00\x03\x00"
    assoc = associate(start(), ext_neg=[window, identity, extended])
    assert assoc.is_established
    answered = assoc.acceptor
    assert answered.asynchronous_operations == (1, 1)
    assert answered.user_identity is not None
    assert answered.user_identity.server_response == b""
    assert answered.sop_class_extended == {}
    assoc.release()


# -- services ----------------------------------------------------------------------------------


class Commitment:
    """A storage commitment SCP that keeps nothing and promises everything at once."""

    contexts = (ServiceContext(abstract_syntax=COMMITMENT, requestor_may_be_scp=True),)

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.outcomes: list[int | None] = []

    def answer(
        self, request: ServiceRequest, data_set: Dataset | None, association: AssociationInfo
    ) -> ServiceAnswer:
        assert data_set is not None
        transaction = str(data_set.TransactionUID)
        self.asked.append((type(request).__name__, transaction))
        if type(request).__name__ == "N_EVENT_REPORT":
            return ServiceAnswer(status=0x0000)
        if transaction == "1.9":
            raise ZeroDivisionError
        report = Dataset()
        report.TransactionUID = transaction
        return ServiceAnswer(
            status=0x0000,
            follow_up=FollowUp(
                affected_sop_class_uid=COMMITMENT,
                affected_sop_instance_uid=COMMITMENT_INSTANCE,
                event_type_id=1,
                event_information=report,
            ),
        )

    def followed_up(
        self, follow_up: FollowUp, status: int | None, association: AssociationInfo
    ) -> None:
        self.outcomes.append(status)


def _transaction(uid: str) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = uid
    return ds


def test_a_service_answers_and_reports_on_the_same_association(start: Start) -> None:
    service = Commitment()
    listener = start(services=(service,))
    reports: list[str] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append(str(event.event_information.TransactionUID))
        return 0x0000, None

    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = UID(COMMITMENT)
    role.scu_role, role.scp_role = True, False
    assoc = associate(
        listener,
        build_context(COMMITMENT, EXPLICIT),
        ext_neg=[role],
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
    )
    status, _ = assoc.send_n_action(_transaction("1.1"), 1, COMMITMENT, COMMITMENT_INSTANCE)
    assert status.Status == 0x0000
    wait_until(lambda: service.outcomes == [0], DEADLINE_S, "the report to be answered")
    assert reports == ["1.1"]
    status, _ = assoc.send_n_action(_transaction("1.9"), 1, COMMITMENT, COMMITMENT_INSTANCE)
    assert status.Status == 0x0110  # a fault of the service ends neither it nor the association
    assoc.release()


def test_a_pacs_reports_as_scp(start: Start) -> None:
    service = Commitment()
    listener = start(services=(service,))
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = UID(COMMITMENT)
    role.scu_role, role.scp_role = False, True
    assoc = associate(listener, build_context(COMMITMENT, EXPLICIT), ext_neg=[role])
    assert assoc.is_established
    assert assoc.accepted_contexts[0].as_scp
    status, _ = assoc.send_n_event_report(_transaction("1.2"), 1, COMMITMENT, COMMITMENT_INSTANCE)
    assert status.Status == 0x0000
    assert service.asked == [("N_EVENT_REPORT", "1.2")]
    assoc.release()


# -- places and patience -----------------------------------------------------------------------


def test_one_address_may_have_fewer_places_than_all(start: Start) -> None:
    listener = start(max_associations=8, max_associations_per_peer=2)
    held = [associate(listener), associate(listener)]
    third = associate(listener)
    assert rejection(third) == (2, 3, 2)
    for assoc in held:
        assoc.release()


def _raw(listener: Listener) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S)
    connection.sendall(_associate_request("LENTIGO", "RAW", VL_PHOTOGRAPHIC, EXPLICIT))
    assert connection.recv(4096)[0] == 2
    return connection


def test_a_peer_that_dribbles_is_cut_off(start: Start) -> None:
    listener = start(network_timeout_s=1.0, min_bytes_per_s=1000.0)
    with _raw(listener) as connection:
        connection.sendall(struct.pack(">BxI", 4, 10_000))
        ended = time.monotonic() + DEADLINE_S
        connection.settimeout(0.05)
        answer = b""
        while time.monotonic() < ended and not answer:
            try:
                connection.send(b"\0")
                answer = connection.recv(64)
            except TimeoutError:
                continue
            except OSError:
                return  # closed: as good
        assert answer[:1] == b"\x07"


def test_a_peer_that_dribbles_its_association_request_is_cut_off(start: Start) -> None:
    listener = start(request_timeout_s=0.5)
    request = _associate_request("LENTIGO", "RAW", VL_PHOTOGRAPHIC, EXPLICIT)
    with socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S) as connection:
        for number in range(len(request) - 1):
            try:
                connection.send(request[number : number + 1])
            except OSError:
                return
            time.sleep(0.05)
        pytest.fail("it was listened to for as long as it liked")


def test_an_instance_beyond_the_limit_is_refused_and_the_next_taken(
    start: Start, record: RecordInMemory
) -> None:
    assoc = associate(start(max_instance_bytes=20_000))
    large = instance(SOPClassUID=VL_PHOTOGRAPHIC, side=200)
    small = instance(SOPClassUID=VL_PHOTOGRAPHIC, side=20)
    statuses = [int(assoc.send_c_store(ds).Status) for ds in (large, small)]
    assoc.release()
    assert statuses == [StoreStatus.TOO_LARGE, 0]
    assert set(record.instances) == {small.SOPInstanceUID}


def test_hundreds_of_associations_one_after_another_leave_no_trace(
    start: Start, record: RecordInMemory
) -> None:
    listener = start(max_associations=4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        with _raw(listener):
            pass
    wait_until(lambda: len(record.associations) == 600, DEADLINE_S, "all of them to end")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, DEADLINE_S, "closed sockets")
