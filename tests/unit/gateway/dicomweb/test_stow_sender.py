"""Results out by STOW-RS: what each answer of a PACS, and each silence, means."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.delivery.routes import DestinationError, ObjectState, Outgoing, Route, parse_routes
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.dicom.tls import server_context
from gateway.settings import DeliverySettings
from tests.certificates import found_authority, signed
from tests.instances import instance, write

JSON = "application/dicom+json"


def model(keyword, **items):
    tags = {"FailedSOPSequence": "00081198", "ReferencedSOPSequence": "00081199"}
    item = {
        "00081155": {"vr": "UI", "Value": [items["uid"]]},
        **(
            {items.get("tag", "00081197"): {"vr": "US", "Value": [items["reason"]]}}
            if "reason" in items
            else {}
        ),
    }
    return json.dumps({tags[keyword]: {"vr": "SQ", "Value": [item]}}).encode()


@dataclass
class Pacs:
    """A DICOMweb service that answers as it is told."""

    store: Callable[["Handler"], None] | tuple[int, bytes] = (200, b"")
    search: tuple[int, bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    pacs: Pacs
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _note(self) -> None:
        self.pacs.requests.append((self.command, self.path, dict(self.headers)))

    def do_POST(self) -> None:
        self._note()
        self.pacs.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
        if callable(self.pacs.store):
            self.pacs.store(self)
        else:
            self.reply(*self.pacs.store)

    def do_GET(self) -> None:
        self._note()
        listed = self.path.partition("SOPInstanceUID=")[2]
        found = {"00080018": {"vr": "UI", "Value": [listed]}}
        self.reply(*(self.pacs.search or (200, json.dumps([found]).encode())))

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", JSON)
        for name, value in self.pacs.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(pacs: Pacs, context: ssl.SSLContext | None = None) -> Iterator[Pacs]:
    """Run the service until the end of the block."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = False  # joined by server_close

        def handle_error(self, *_: object) -> None:
            """Clients that went away are what is tested."""

    server = Quiet(("127.0.0.1", pacs.port), type("Of", (Handler,), {"pacs": pacs}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        pacs.scheme = "https"
    pacs.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield pacs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with serving(Pacs()) as running:
        yield running


@pytest.fixture
def outgoing(tmp_path: Path) -> Callable[..., Outgoing]:
    def make(number: int = 1, **changes: object) -> Outgoing:
        ds = instance()
        values = {
            "id": number,
            "path": write(ds, tmp_path / f"{number}.dcm"),
            "study_instance_uid": str(ds.StudyInstanceUID),
            "series_instance_uid": str(ds.SeriesInstanceUID),
            "sop_class_uid": str(ds.SOPClassUID),
            "sop_instance_uid": str(ds.SOPInstanceUID),
            "sha256": "",
        }
        return Outgoing(**{**values, **changes})

    return make


def sender(pacs: Pacs, *, confirm: str = "auto", timeout_s: float = 20.0, **settings: object):
    delivery = DeliverySettings(confirm=confirm, timeout_s=timeout_s)
    return StowSender(pacs.address, delivery, StowSettings(**settings))


def one(pacs: Pacs, each: Outgoing, **settings: object):
    (outcome,) = sender(pacs, **settings).deliver([each])
    assert outcome.id == each.id
    return outcome


# -- what is sent ----------------------------------------------------------------------------


def test_the_file_goes_out_as_it_is_and_is_confirmed_by_a_search(pacs, outgoing):
    each = outgoing()
    outcome = one(pacs, each)
    assert (outcome.state, outcome.status, outcome.confirmed_by) == (
        ObjectState.CONFIRMED,
        0,
        "qido-rs",
    )
    (method, path, headers), (_, search, _) = pacs.requests
    assert (method, path) == ("POST", "/dicom-web/studies")
    assert headers["Accept"] == JSON
    boundary = headers["Content-Type"].partition("boundary=")[2]
    assert pacs.stored[0] == (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + each.path.read_bytes()
        + f"\r\n--{boundary}--\r\n".encode()
    )
    assert search == (
        f"/dicom-web/studies/{each.study_instance_uid}/series/{each.series_instance_uid}"
        f"/instances?SOPInstanceUID={each.sop_instance_uid}"
    )


def test_what_is_stored_is_only_asked_for(pacs, outgoing):
    outcome = one(pacs, outgoing(is_stored=True))
    assert (outcome.state, outcome.confirmed_by) == (ObjectState.CONFIRMED, "qido-rs")
    assert not pacs.stored


# -- what the answers mean -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "state", "said"),
    [
        (409, 0xA700, ObjectState.PENDING, "out of resources"),
        (409, 0xA900, ObjectState.REFUSED, "data set does not match SOP class"),
        (409, 0x0122, ObjectState.REFUSED, "SOP class not supported"),
        (409, 0xC122, ObjectState.REFUSED, "cannot understand"),
        (202, 0xC000, ObjectState.REFUSED, "cannot understand"),
        (200, 0x0110, ObjectState.PENDING, "failure"),
        (400, 0xC000, ObjectState.REFUSED, "cannot understand"),
        (503, 0xA701, ObjectState.PENDING, "out of resources"),
    ],
)
def test_failure_reasons_decide(pacs, outgoing, status, reason, state, said):
    each = outgoing()
    pacs.store = (status, model("FailedSOPSequence", uid=each.sop_instance_uid, reason=reason))
    outcome = one(pacs, each)
    assert (outcome.state, outcome.status) == (state, reason)
    assert said in outcome.reason


def test_a_duplicate_is_stored(pacs, outgoing):
    each = outgoing()
    pacs.store = (409, model("FailedSOPSequence", uid=each.sop_instance_uid, reason=0x0111))
    outcome = one(pacs, each)
    assert outcome.state is ObjectState.CONFIRMED
    assert "had it already" in outcome.reason


def test_a_warning_is_no_failure(pacs, outgoing):
    each = outgoing()
    warned = {"uid": each.sop_instance_uid, "reason": 0xB000, "tag": "00081196"}
    pacs.store = (202, model("ReferencedSOPSequence", **warned))
    outcome = one(pacs, each)
    assert (outcome.state, outcome.status) == (ObjectState.CONFIRMED, 0xB000)
    assert "warning" in outcome.reason


def test_a_failure_of_another_object_is_none_of_ours(pacs, outgoing):
    pacs.store = (200, model("FailedSOPSequence", uid="1.2.3", reason=0xC000))
    assert one(pacs, outgoing()).state is ObjectState.CONFIRMED


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (400, ObjectState.REFUSED, "HTTP status 400"),
        (409, ObjectState.REFUSED, "HTTP status 409"),
        (413, ObjectState.REFUSED, "HTTP status 413"),
        (415, ObjectState.REFUSED, "HTTP status 415"),
        (401, ObjectState.PENDING, "does not accept our credentials"),
        (403, ObjectState.PENDING, "our account may not store there"),
        (404, ObjectState.PENDING, "no STOW-RS service at this address"),
        (405, ObjectState.PENDING, "no STOW-RS service at this address"),
        (408, ObjectState.PENDING, "HTTP status 408"),
        (429, ObjectState.PENDING, "left alone"),
        (500, ObjectState.PENDING, "HTTP status 500"),
        (501, ObjectState.PENDING, "offers no STOW-RS"),
        (502, ObjectState.PENDING, "HTTP status 502"),
        (503, ObjectState.PENDING, "out of resources"),
        (507, ObjectState.PENDING, "no room"),
        (302, ObjectState.PENDING, "give the final address"),
    ],
)
def test_http_statuses(pacs, outgoing, status, state, said):
    pacs.headers = {"Location": "http://127.0.0.1:1/"}
    pacs.store = (status, b"<html>")
    outcome = one(pacs, outgoing())
    assert outcome.state is state
    assert said in outcome.reason
    assert [path for _, path, _ in pacs.requests] == ["/dicom-web/studies"]  # followed nowhere


def test_retry_after_is_heard(pacs, outgoing):
    pacs.headers, pacs.store = {"Retry-After": "17"}, (503, b"")
    assert one(pacs, outgoing()).retry_in_s == 17.0
    pacs.headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert one(pacs, outgoing()).retry_in_s is None


@pytest.mark.parametrize(
    "body",
    [b"", b"<xml/>", b"[]", b"null", b'"text"', b"[1]", b'{"00081198": 7}', b"[" * 100_000,
     b'{"00081198": {"vr": "SQ", "Value": [null]}}', b'{"zz": {"vr": "SQ"}}', b"\xff\xfe",
     b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [{}]}}]}}'],
)  # fmt: skip
def test_odd_bodies_do_not_hide_the_status(pacs, outgoing, body):
    pacs.store = (200, body)
    assert one(pacs, outgoing()).state is ObjectState.CONFIRMED
    pacs.search = (200, body)
    assert one(pacs, outgoing()).state in (ObjectState.STORED, ObjectState.CONFIRMED)


# -- confirmation ----------------------------------------------------------------------------


@pytest.mark.parametrize("search", [(200, b"[]"), (204, b"")])
@pytest.mark.parametrize("confirm", ["auto", "require"])
def test_what_is_not_listed_yet_stays_stored(pacs, outgoing, search, confirm):
    pacs.search = search
    outcome = one(pacs, outgoing(), confirm=confirm)
    assert outcome.state is ObjectState.STORED
    assert "does not list it yet" in outcome.reason


@pytest.mark.parametrize("status", [404, 405, 501])
def test_without_qido_the_setting_decides(pacs, outgoing, status):
    pacs.search = (status, b"")
    outcome = one(pacs, outgoing())
    assert (outcome.state, outcome.confirmed_by) == (ObjectState.CONFIRMED, "stow-rs")
    for confirm in ("require", "commitment"):
        outcome = one(pacs, outgoing(), confirm=confirm)
        assert outcome.state is ObjectState.STORED
        assert "offers no QIDO-RS" in outcome.reason


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_search_that_fails_confirms_nothing(pacs, outgoing, status):
    pacs.search = (status, b"")
    outcome = one(pacs, outgoing())
    assert outcome.state is ObjectState.STORED
    assert f"HTTP status {status}" in outcome.reason


# -- silence and worse -----------------------------------------------------------------------


def test_nobody_there(outgoing):
    with serving(Pacs()) as gone:
        pass
    outcomes = sender(gone).deliver([outgoing(1), outgoing(2), outgoing(3, is_stored=True)])
    assert [each.state.value for each in outcomes] == ["PENDING", "PENDING", "STORED"]
    assert outcomes[0].is_unreachable
    assert "cannot be reached" in outcomes[0].reason
    assert "cannot be reached" in sender(gone).probe()


def test_silence_ends_the_attempt_and_names_the_object(pacs, outgoing):
    release = threading.Event()
    pacs.store = lambda handler: release.wait(30) and handler.reply(200, b"")
    outcomes = sender(pacs, timeout_s=0.3).deliver([outgoing(1), outgoing(2)])
    release.set()
    assert [each.state.value for each in outcomes] == ["PENDING", "PENDING"]
    assert (outcomes[0].is_unreachable, outcomes[0].is_fault) == (True, True)
    assert (outcomes[1].is_unreachable, outcomes[1].is_fault) == (False, False)
    assert len(pacs.stored) == 1


def _drop(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def _half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[")
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def _nonsense(handler):
    handler.wfile.write(b"\x00\x01\x02 no HTTP at all\r\n\r\n")
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("fault", [_drop, _half, _nonsense])
def test_a_connection_that_breaks_is_passing(pacs, outgoing, fault):
    pacs.store = fault
    outcome = one(pacs, outgoing())
    assert (outcome.state, outcome.is_fault) == (ObjectState.PENDING, True)
    assert outcome.reason.startswith("the connection ended before the answer")


def test_an_answer_without_end_is_passing(pacs, outgoing):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(100_000))

    pacs.store = endless
    outcome = one(pacs, outgoing())
    assert (outcome.state, outcome.is_fault) == (ObjectState.PENDING, True)


def test_a_result_file_that_is_gone_is_refused_and_holds_up_nobody(pacs, outgoing):
    gone = outgoing(1)
    gone.path.unlink()
    outcomes = sender(pacs).deliver([gone, outgoing(2)])
    assert [each.state.value for each in outcomes] == ["REFUSED", "CONFIRMED"]


def test_a_refused_object_holds_up_no_sibling(pacs, outgoing):
    first, second = outgoing(1), outgoing(2)

    def half(handler):
        poison = first.sop_instance_uid.encode() in pacs.stored[-1]
        handler.reply(415 if poison else 200, b"")

    pacs.store = half
    assert [each.state.value for each in sender(pacs).deliver([first, second])] == [
        "REFUSED",
        "CONFIRMED",
    ]


def test_no_uid_and_no_secret_in_a_reason(pacs, outgoing):
    each = outgoing()
    for fault in (_drop, (500, b""), (404, b"")):
        pacs.store = fault
        reason = one(pacs, each, token=SecretStr("s3cret")).reason
        assert each.sop_instance_uid not in reason
        assert "s3cret" not in reason


# -- credentials -----------------------------------------------------------------------------


def test_credentials(pacs, outgoing, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # of no concern to us
    one(pacs, outgoing())
    assert "Authorization" not in pacs.requests[-1][2]
    one(pacs, outgoing(), username="lentigo", password=SecretStr("pässword"))
    assert pacs.requests[-1][2]["Authorization"] == "Basic bGVudGlnbzpww6Rzc3dvcmQ="
    file = tmp_path / "token"
    file.write_text("first\n")
    sent = sender(pacs, token_file=file)
    sent.deliver([outgoing()])
    assert pacs.requests[-1][2]["Authorization"] == "Bearer first"
    file.write_text("second\n")
    sent.deliver([outgoing()])
    assert pacs.requests[-1][2]["Authorization"] == "Bearer second"
    file.unlink()
    (outcome,) = sent.deliver([outgoing()])
    assert outcome.state is ObjectState.PENDING
    assert "a secret file cannot be read" in outcome.reason


def test_credentials_are_not_sent_unencrypted_to_another_host(outgoing):
    elsewhere = StowSender(
        "http://192.0.2.7/dicom-web", DeliverySettings(), StowSettings(token=SecretStr("x"))
    )
    (outcome,) = elsewhere.deliver([outgoing()])
    assert outcome.state is ObjectState.PENDING
    assert "https://" in outcome.reason
    assert "https://" in elsewhere.probe()


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=pacs", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


def test_a_service_that_wants_our_certificate(outgoing, tmp_path):
    found_authority(tmp_path)
    signed(tmp_path, "pacs", "IP:127.0.0.1")
    signed(tmp_path, "us", "DNS:lentigo")
    ca = tmp_path / "ca.pem"
    context = server_context(tmp_path / "pacs.pem", tmp_path / "pacs.key", ca)
    pair = {"certificate_file": tmp_path / "us.pem", "key_file": tmp_path / "us.key"}
    with serving(Pacs(), context) as pacs:
        assert one(pacs, outgoing(), ca_file=ca, **pair).state is ObjectState.CONFIRMED
        without = one(pacs, outgoing(), ca_file=ca)
        assert without.state is ObjectState.PENDING
        assert "our certificate" in without.reason or "connection ended" in without.reason
        alone = one(pacs, outgoing(), **pair)
        assert "CA certificates to trust" in alone.reason


def test_tls_with_a_ca_of_the_site(certificate, outgoing, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with serving(Pacs(), context) as pacs:
        trusted = one(pacs, outgoing(), ca_file=certificate / "cert.pem", token=SecretStr("x"))
        assert trusted.state is ObjectState.CONFIRMED
        unknown = one(pacs, outgoing())
        assert unknown.state is ObjectState.PENDING
        assert "not signed by the CA" in unknown.reason
        missing = one(pacs, outgoing(), ca_file=tmp_path / "none.pem")
        assert (missing.state, missing.is_unreachable) == (ObjectState.PENDING, False)
        pacs.scheme = "http"
        assert one(pacs, outgoing()).state is ObjectState.PENDING
    with serving(Pacs(scheme="https")) as plain:
        plain.scheme = "https"
        outcome = one(plain, outgoing(), ca_file=certificate / "cert.pem")
        assert "TLS" in outcome.reason


# -- the probe and the addresses -------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"), [(200, ""), (204, ""), (404, ""), (401, "credentials"), (500, "500")]
)
def test_the_probe_asks_for_nobody(pacs, status, said):
    pacs.search = (status, b"")
    problem = sender(pacs).probe()
    assert (said in problem) if said else not problem
    assert pacs.requests[-1][1] == "/dicom-web/studies?StudyInstanceUID=2.25.0&limit=1"


@pytest.mark.parametrize(
    ("text", "name", "kinds"),
    [
        ("https://pacs.local/dicom-web", "https://pacs.local/dicom-web", 7),
        ("HTTPS://Pacs.Local:8443/Dicom-Web/", "https://pacs.local:8443/Dicom-Web", 7),
        ("http://[::1]:8042/dicom-web#sr+seg", "http://[::1]:8042/dicom-web", 2),
        ("https://pacs.local#-pdf", "https://pacs.local", 6),
    ],
)
def test_addresses(text, name, kinds):
    route = Route.parse(text)
    assert (route.name, len(route.kinds)) == (name, kinds)
    assert Route.parse(route.name).name == name
    both = parse_routes(f"PACS@host:104/sr,{text}")
    assert [each.name for each in both] == ["PACS@host:104", name]


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "https:///dicom-web",
        "https://user:secret@pacs/dicom-web",
        "https://pacs:99999/",
        "https://pacs:x/",
        "https://pacs/dicom web",
        "https://pacs/dicom-web?x=y",
        "https://pacs/ä",
        "https://pacs/#",
        "https://pacs/#sr+nothing",
        "https://pacs/" + "x" * 130,
        "https://[::1",
        "ftp://pacs/",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(DestinationError) as caught:
        Route.parse(text)
    assert "secret" not in str(caught.value)
