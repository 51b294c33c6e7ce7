"""Audit messages: valid by the schema of PS3.15 A.5.1, and handed on whole and in order."""

from __future__ import annotations

import base64
import datetime as dt
import os
import re
import socket
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as StandardCode

from gateway import cli
from gateway.audit import events
from gateway.audit.events import KINDS, Code
from gateway.audit.forwarding import Forwarder, Renderer
from gateway.audit.message import Source, Subject, audit_message
from gateway.audit.recorder import AuditRecorder
from gateway.audit.settings import AuditSettings
from gateway.audit.summary import summarise
from gateway.audit.syslog import SyslogSender, SyslogServer, anchor_of, syslog_line, tls_context
from gateway.audit.trail_file import TrailFile, anchors_in
from gateway.errors import SettingsError, SinkUnavailable
from gateway.store import audit
from gateway.store.audit import Entry, Trail
from gateway.store.engine import writing
from tests.records import START, Record
from tests.servers import wait_until

SOURCE = Source(source_id="gate1", enterprise_site="clinic", ae_title="LENTIGO")
SUBJECT = Subject(study_instance_uid="1.2.3", patient="4711")
DETAIL = {
    "study": 7,
    "peer": "192.0.2.7",
    "destination": "PACS@192.0.2.8:104",
    "classes": {"1.2.840.10008.5.1.4.1.1.77.1.7": 3},
    "reason": "why",
}

# PS3.15 A.5.1.1: element -> (its children in order: name, least, most), (attributes it must have),
# (those it may have). "n" is no bound.
CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"})
SCHEMA = {
    "AuditMessage": (
        (
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, 99),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, 99),
        ),
        set(),
        set(),
    ),
    "EventIdentification": (
        (("EventID", 1, 1), ("EventTypeCode", 0, 99), ("EventOutcomeDescription", 0, 1)),
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
    ),
    "EventID": ((), *CODED),
    "EventTypeCode": ((), *CODED),
    "EventOutcomeDescription": ((), set(), set()),
    "ActiveParticipant": (
        (("RoleIDCode", 0, 99),),
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
    ),
    "RoleIDCode": ((), *CODED),
    "AuditSourceIdentification": (
        (("AuditSourceTypeCode", 0, 99),),
        {"AuditSourceID"},
        {"AuditEnterpriseSiteID"},
    ),
    "AuditSourceTypeCode": ((), {"csd-code"}, {"codeSystemName", "originalText"}),
    "ParticipantObjectIdentification": (
        (
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, 99),
            ("ParticipantObjectDescription", 0, 99),
        ),
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
    ),
    "ParticipantObjectIDTypeCode": ((), *CODED),
    "ParticipantObjectName": ((), set(), set()),
    "ParticipantObjectQuery": ((), set(), set()),
    "ParticipantObjectDetail": ((), {"type", "value"}, set()),
    "ParticipantObjectDescription": ((("SOPClass", 0, 99),), set(), set()),
    "SOPClass": ((), {"NumberOfInstances"}, {"UID"}),
}
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": r"[1-9]|1\d|2[0-6]",
    "NumberOfInstances": r"\d+",
    "UID": r"[0-9.]{1,64}",
    "codeSystemName": "DCM|RFC-3881",
}


def check(element: ElementTree.Element) -> None:
    """Compare an element and all below it with the schema."""
    children, must, may = SCHEMA[element.tag]
    assert must <= set(element.keys()) <= must | may, element.tag
    for name, value in element.items():
        assert re.fullmatch(VALUES.get(name, ".+"), value), (name, value)
    rest = [child.tag for child in element]
    for name, least, most in children:
        count = 0
        while rest and rest[0] == name:
            rest.pop(0)
            count += 1
        assert least <= count <= most, (element.tag, name, count)
    assert rest == [], (element.tag, rest)
    if element.tag == "ParticipantObjectIdentification":
        names = [child.tag for child in element]
        assert ("ParticipantObjectName" in names) != ("ParticipantObjectQuery" in names)
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.get("value", ""), validate=True)
    for child in element:
        check(child)


def entry(action: str, actor: str = "CAMERA", **detail: object) -> Entry:
    return Entry(
        id=5,
        at=START,
        actor=actor,
        action=action,
        detail=detail,
        previous_sha256="a" * 64,
        sha256="b" * 64,
    )


def message(
    action: str, subject: Subject | None = SUBJECT, **detail: object
) -> ElementTree.Element:
    return ElementTree.fromstring(audit_message(entry(action, **detail), SOURCE, subject))


@pytest.mark.parametrize("action", [*KINDS, "something.new"])
@pytest.mark.parametrize("subject", [SUBJECT, None])
@pytest.mark.parametrize("detail", [DETAIL, {}, {"study": 7, "keys": "PatientID"}])
def test_every_message_is_valid_by_the_schema(action, subject, detail):
    check(message(action, subject, **detail))


def test_codes_are_those_of_the_standard():
    given = [value for value in vars(events).values() if isinstance(value, Code)]
    # Besides codes the dictionary has methods of its own.
    listed = [getattr(codes.DCM, name) for name in dir(codes.DCM)]
    known = {code.value: code.meaning for code in listed if isinstance(code, StandardCode)}
    for code in given:
        if code.scheme == "DCM":
            assert known[code.value] == code.meaning, code


def roles(found: ElementTree.Element) -> dict[str, tuple[str, str]]:
    """Role -> (UserID, NetworkAccessPointID) of the participants of a message."""
    return {
        each.find("RoleIDCode").get("originalText"): (
            each.get("UserID"),
            each.get("NetworkAccessPointID"),
        )
        for each in found.iter("ActiveParticipant")
        if each.find("RoleIDCode") is not None
    }


def test_transfer_to_us_names_sender_receiver_study_patient_and_counts():
    found = message("instances.transferred", peer="192.0.2.7", study=7, classes=DETAIL["classes"])
    assert roles(found) == {
        "Source Role ID": ("CAMERA", "192.0.2.7"),
        "Destination Role ID": ("LENTIGO", "gate1"),
    }
    objects = list(found.iter("ParticipantObjectIdentification"))
    assert [each.get("ParticipantObjectID") for each in objects] == ["1.2.3", "4711"]
    (sop_class,) = found.iter("SOPClass")
    assert sop_class.get("NumberOfInstances") == "3"


def test_transfer_from_us_names_the_pacs():
    found = message("results.transferred", destination="PACS@[2001:db8::8]:104/tls", study=7)
    assert roles(found)["Destination Role ID"] == ("PACS", "2001:db8::8")
    assert roles(found)["Source Role ID"] == ("LENTIGO", "gate1")


def test_failed_login_is_a_failure_with_its_cause():
    found = message("login.failed", None, peer="192.0.2.3", cause="wrong password")
    event = found.find("EventIdentification")
    assert event.get("EventOutcomeIndicator") == "4"
    assert event.find("EventOutcomeDescription").text == "wrong password"
    assert event.find("EventTypeCode").get("csd-code") == "110122"


@pytest.mark.parametrize("odd", ["<&>\"'", "a\nb", "\x00\x08\x1b", "\ud800", "é" * 300, " "])
def test_odd_text_makes_no_odd_xml(odd):
    found = message("association.rejected", None, peer=odd, reason=odd)
    check(found)
    text = audit_message(entry("login", odd, peer=odd), SOURCE, None)
    assert "\n" not in text
    check(ElementTree.fromstring(text))


def test_line_is_rfc_5424_and_carries_its_anchor():
    line = syslog_line(entry("login"), "<AuditMessage/>", "gate1", 42)
    expected = r"<85>1 2026-03-01T09:30:00\.000Z gate1 lentigo 42 DICOM\+RFC3881 \[lentigo@32473 "
    assert re.match(expected + r'id="5" sha256="b{64}" previous="a{64}"\] <AuditMessage/>', line)
    anchor = anchor_of(line)
    assert (anchor.id, anchor.sha256) == (5, "b" * 64)
    assert anchor_of("another line") is None


# -- handing on ---------------------------------------------------------------------------------


def add(record: Record, count: int) -> None:
    for _ in range(count):
        with writing(record.engine) as connection:
            audit.append(connection, record.clock(), "admin", "login")


def forwarder(record: Record, sink, name: str = "file") -> Forwarder:
    renderer = Renderer(record.engine, SOURCE, shows_patient_id=False)
    return Forwarder(record.engine, name, sink, renderer, record.clock)


def ids(path: Path) -> list[int]:
    return [anchor.id for anchor in anchors_in(path)]


def test_file_holds_every_entry_once_and_for_us_alone(record, tmp_path):
    path = tmp_path / "audit" / "audit.log"
    add(record, 3)
    assert forwarder(record, TrailFile(path)).forward() == 3
    add(record, 2)
    assert forwarder(record, TrailFile(path)).forward() == 2
    assert forwarder(record, TrailFile(path)).forward() == 0
    assert ids(path) == [1, 2, 3, 4, 5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert Trail(record.engine).verify(anchors_in(path)).faults == ()
    for line in path.read_text().splitlines():
        check(ElementTree.fromstring(line.partition("] ")[2]))


def test_crash_between_file_and_record_doubles_nothing(record, tmp_path):
    path = tmp_path / "audit.log"
    add(record, 3)
    renderer = Renderer(record.engine, SOURCE, shows_patient_id=False)
    lines = renderer.lines(list(Trail(record.engine).entries()))
    TrailFile(path).send(lines[:2])
    with path.open("a") as stream:
        stream.write(lines[2][:150])  # the power went in the middle of a line
    forwarder(record, TrailFile(path)).forward()
    assert ids(path) == [1, 2, 3]


def test_file_that_cannot_be_written_is_told_and_caught_up(record, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    add(record, 2)
    with pytest.raises(SinkUnavailable):
        forwarder(record, TrailFile(blocked / "audit.log")).forward()
    blocked.unlink()
    assert forwarder(record, TrailFile(blocked / "audit.log")).forward() == 2


def test_file_is_no_link_to_somewhere_else(record, tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "audit.log").symlink_to(tmp_path / "target")
    add(record, 1)
    with pytest.raises(SinkUnavailable):
        forwarder(record, TrailFile(tmp_path / "audit.log")).forward()
    assert (tmp_path / "target").read_text() == ""


def test_patient_is_a_digest_unless_the_site_wants_the_id(record, tmp_path):
    record.completed()
    summarise(record.engine, record.clock)
    entries = list(Trail(record.engine).entries())
    hidden = Renderer(record.engine, SOURCE, shows_patient_id=False).lines(entries)
    shown = Renderer(record.engine, SOURCE, shows_patient_id=True).lines(entries)
    assert "CANARY" not in "".join(hidden)
    assert 'ParticipantObjectID="CANARY-ID"' in "".join(shown)


class Collector(socketserver.ThreadingTCPServer):
    """A syslog server that keeps what it gets by octet counting (RFC 6587 3.4.1)."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.lines: list[str] = []
        collector = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                if context is not None:
                    with context.wrap_socket(self.request, server_side=True) as peer:
                        collector.read(peer.makefile("rb"))
                else:
                    collector.read(self.rfile)

        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def read(self, stream) -> None:
        with stream:
            while True:
                length = b""
                while (octet := stream.read(1)).isdigit():
                    length += octet
                if not octet:
                    return
                self.lines.append(stream.read(int(length)).decode())

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


def test_syslog_over_tcp_gets_all_in_order(sqlite_record, home):
    record = sqlite_record(home)
    add(record, 250)
    collector = Collector()
    server = SyslogServer.parse(f"tcp://127.0.0.1:{collector.port}")
    sender = forwarder(record, SyslogSender(server), "syslog")
    try:
        assert sender.forward() == 250
        wait_until(lambda: len(collector.lines) == 250, 20, "all lines")
        assert [anchor_of(line).id for line in collector.lines] == list(range(1, 251))
    finally:
        sender.close()
        collector.close()


def test_syslog_that_is_down_holds_up_nothing_and_is_caught_up(sqlite_record, home, tmp_path):
    record = sqlite_record(home)
    add(record, 3)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = SyslogServer.parse(f"tcp://127.0.0.1:{port}")
    sinks = (
        forwarder(record, SyslogSender(server), "syslog"),
        forwarder(record, TrailFile(tmp_path / "audit.log")),
    )
    recorder = AuditRecorder(record.engine, sinks, AuditSettings(interval_s=0.05))
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: ids(tmp_path / "audit.log") == [1, 2, 3], 20, "the file")
        collector = Collector(port=port)
        try:
            wait_until(lambda: len(collector.lines) >= 3, 30, "the lines that waited")
            assert {anchor_of(line).id for line in collector.lines} == {1, 2, 3}
        finally:
            stop.set()
            thread.join(30)
            collector.close()
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", path, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return path, key


def test_syslog_over_tls_is_verified(sqlite_record, home, certificate):
    record = sqlite_record(home)
    add(record, 3)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    collector = Collector(context)
    server = SyslogServer.parse(f"tls://localhost:{collector.port}")
    trusting = forwarder(
        record, SyslogSender(server, tls_context(certificate[0], None, None)), "syslog"
    )
    doubting = forwarder(record, SyslogSender(server, tls_context(None, None, None)), "syslog")
    try:
        with pytest.raises(SinkUnavailable):
            doubting.forward()
        assert trusting.forward() == 3
        wait_until(lambda: len(collector.lines) == 3, 20, "the lines")
    finally:
        trusting.close()
        doubting.close()
        collector.close()


def test_syslog_over_udp_is_one_datagram_a_message(sqlite_record, home):
    record = sqlite_record(home)
    add(record, 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        server = SyslogServer.parse(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
        forwarder(record, SyslogSender(server), "syslog").forward()
        got = [anchor_of(receiver.recv(65535).decode()).id for _ in range(3)]
    assert got == [1, 2, 3]


def test_two_forwarders_do_not_both_send(sqlite_record, home):
    record = sqlite_record(home)
    add(record, 2)
    busy, other = [], []

    class Slow:
        def send(self, lines) -> None:
            busy.extend(lines)
            assert forwarder(record, Quick(), "syslog").forward() == 0

        def close(self) -> None: ...

    class Quick:
        def send(self, lines) -> None:
            other.extend(lines)

        def close(self) -> None: ...

    assert forwarder(record, Slow(), "syslog").forward() == 2
    assert (len(busy), other) == (2, [])


@pytest.mark.parametrize("text", ["host:514", "http://host", "tcp://", "tcp://h:x", "udp://h/p"])
def test_syslog_address_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="LENTIGO_AUDIT_SYSLOG"):
        SyslogServer.parse(text)


# -- the command --------------------------------------------------------------------------------


def run(home: Path, *arguments: str) -> int:
    return cli.main(["audit", *arguments, "--home", str(home)])


def test_command_verifies_and_exports(sqlite_record, home, capsys):
    record = sqlite_record(home)
    add(record, 2)
    record.clock.advance(86400)
    add(record, 1)
    path = home / "audit" / "audit.log"
    forwarder(record, TrailFile(path)).forward()
    assert run(home, "verify") == 0
    head = re.search(r"head (\d+:[0-9a-f]{64})", capsys.readouterr().out)[1]
    assert run(home, "verify", "--head", head) == 0
    assert run(home, "verify", "--head", head[:-1] + ("0" if head[-1] != "0" else "1")) == 1
    capsys.readouterr()
    day = (START + dt.timedelta(days=1)).date().isoformat()
    assert run(home, "export", "--to", day) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(home, "status") == 0
    path.unlink()
    assert run(home, "verify", "--json") == 1
    assert "the audit file is gone" in capsys.readouterr().out
    assert [e.action for e in Trail(record.engine).entries()][3:] == [
        *("audit.verified", "audit.verified", "audit.tampered", "audit.exported"),
        "audit.tampered",
    ]


def test_command_says_that_there_is_no_record(home, capsys):
    os.makedirs(home)
    assert run(home, "verify") == 1
    assert "no record" in capsys.readouterr().err
