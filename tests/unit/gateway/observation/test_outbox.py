"""Events reach their receivers: signed, again if it must be, and nowhere else."""

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import Engine, select, update

from gateway.errors import NoticeRefused, NoticeUndelivered, SettingsError
from gateway.observation.fhir import diagnostic_report, fhir_channels
from gateway.observation.http_post import Poster, check_address, client_tls
from gateway.observation.mail import mail_channels
from gateway.observation.notices import Receivers, webhook_target
from gateway.observation.observer import Observer
from gateway.observation.outbox import Letter, Outbox, Patience
from gateway.observation.settings import EventSettings, FhirSettings, MailSettings
from gateway.observation.webhooks import webhook_channels
from gateway.store import states
from gateway.store.engine import reading, writing
from gateway.store.tables import Event, Notice
from tests.records import START, Record, TestClock

SECRET = "a secret of sixteen and more"


class Site(http.server.ThreadingHTTPServer):
    """A receiver on loopback that answers what it is told and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/in?token=abc"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.path, headers, body))
        status, more = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def either(engine: Engine, clock: TestClock) -> Record:
    """The record on each kind of database."""
    return Record(engine, clock)


@pytest.fixture
def record(sqlite_record: Callable[[Path], Record], tmp_path: Path) -> Record:
    """The record on SQLite: what these tests try is the same on both."""
    return sqlite_record(tmp_path / "home")


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join(20.0)
    server.server_close()


def receivers(
    site: Site | None = None, mail: MailSettings | None = None, **changes: Any
) -> Receivers:
    webhooks = site.address if site else ""
    return Receivers(
        events=EventSettings(webhooks=webhooks, secret=SECRET, **changes),
        mail=mail or MailSettings(),
        fhir=FhirSettings(),
    )


def sent_out(record: Record, told: Receivers) -> Outbox:
    """File what the timeline holds; return the outbox that sends it."""
    Observer(record.engine, told, clock=record.clock).look()
    channels = {**webhook_channels(told.events, record.clock), **mail_channels(told.mail)}
    return Outbox(record.engine, channels, Patience(give_up_after_h=1.0), record.clock)


def notices(record: Record) -> list[Any]:
    with reading(record.engine) as connection:
        return list(connection.execute(select(Notice).order_by(Notice.id)).all())


def test_a_completed_study_is_told_signed_and_without_a_word_of_the_patient(
    record: Record, site: Site
) -> None:
    uid = record.completed()
    outbox = sent_out(record, receivers(site, kinds="study.completed"))
    assert outbox.look() == 1
    assert outbox.look() == 0
    ((path, headers, body),) = site.got
    assert path == "/in?token=abc"
    told = json.loads(body)
    assert told["kind"] == headers["x-lentigo-event"] == "study.completed"
    assert str(told["delivery"]) == headers["x-lentigo-delivery"]
    assert isinstance(told["study"], int)
    assert [item["analysis"] for item in told["work_items"]] == ["diagnosis"]
    assert uid not in body.decode()
    assert "canary" not in body.decode().lower()

    stamp = headers["x-lentigo-timestamp"]
    assert stamp == str(int(record.clock().timestamp()))
    expected = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["x-lentigo-signature"] == f"sha256={expected}"
    (notice,) = notices(record)
    assert (notice.state, notice.status, notice.attempts) == ("delivered", 200, 1)
    assert "token" not in notice.target


def test_an_event_is_told_once_however_many_observers_and_outboxes_there_are(
    either: Record, site: Site
) -> None:
    for _ in range(4):
        either.completed()
    told = receivers(site, kinds="study.completed")
    boxes = [sent_out(either, told) for _ in range(3)]
    threads = [threading.Thread(target=box.look) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    studies = [json.loads(body)["study"] for _, _, body in site.got]
    assert sorted(studies) == sorted(set(studies))
    assert len(studies) == 4


def test_a_receiver_that_fails_gets_it_again_later_and_in_the_end_a_person_hears_of_it(
    record: Record, site: Site
) -> None:
    record.completed()
    site.answers = [(503, {}), (429, {"retry-after": "300"}), *[(500, {})] * 3]
    outbox = sent_out(record, receivers(site, kinds="study.completed"))
    outbox.look()
    (notice,) = notices(record)
    assert (notice.state, notice.status) == ("waiting", 503)
    assert 1 <= (notice.next_attempt_at - record.clock()).total_seconds() <= 4
    outbox.look()
    assert len(site.got) == 1, "not before its pause is over"
    record.clock.advance(5.0)
    outbox.look()
    (notice,) = notices(record)
    assert (notice.next_attempt_at - record.clock()).total_seconds() >= 300
    record.clock.advance(3700.0)
    outbox.look()
    (notice,) = notices(record)
    assert (notice.state, notice.next_attempt_at) == ("given up", None)
    with reading(record.engine) as connection:
        said = connection.execute(
            select(Event.level, Event.detail).where(Event.action == "notice.given_up")
        ).one()
    assert said.level == "alarm"
    assert said.detail["target"] == "webhook:127.0.0.1"


def test_each_attempt_is_signed_with_its_own_time(record: Record, site: Site) -> None:
    record.completed()
    site.answers = [(500, {})]
    outbox = sent_out(record, receivers(site, kinds="study.completed"))
    outbox.look()
    record.clock.advance(30.0)
    outbox.look()
    first, second = (
        (headers["x-lentigo-timestamp"], headers["x-lentigo-delivery"])
        for _, headers, _ in site.got
    )
    assert int(second[0]) - int(first[0]) == 30
    assert first[1] == second[1], "the receiver can tell that it is the same one"


def test_what_the_receiver_will_never_take_is_not_tried_again(record: Record, site: Site) -> None:
    record.completed()
    site.answers = [(400, {})]
    outbox = sent_out(record, receivers(site, kinds="study.completed"))
    outbox.look()
    assert [notice.state for notice in notices(record)] == ["given up"]


def test_a_redirect_is_not_followed(record: Record, site: Site) -> None:
    record.completed()
    site.answers = [(302, {"location": "http://169.254.169.254/latest/meta-data"})]
    sent_out(record, receivers(site, kinds="study.completed")).look()
    assert [notice.state for notice in notices(record)] == ["given up"]
    assert len(site.got) == 1


def test_a_process_that_is_killed_while_it_sends_leaves_the_notice_due_again(
    either: Record, site: Site
) -> None:
    either.completed()
    outbox = sent_out(either, receivers(site, kinds="study.completed"))

    class Killed(BaseException):
        pass

    def die(letter: Letter) -> int:
        raise Killed

    (notice,) = notices(either)
    dying = Outbox(either.engine, {notice.target: die}, clock=either.clock)
    with pytest.raises(Killed):
        dying.look()
    (notice,) = notices(either)
    assert notice.state == "waiting"
    assert notice.next_attempt_at > either.clock(), "its owner has its time"
    assert outbox.look() == 0
    either.clock.advance(121.0)
    assert outbox.look() == 1
    assert [each.state for each in notices(either)] == ["delivered"]


def test_a_receiver_that_is_no_longer_set_is_given_up_with_the_reason(
    record: Record, site: Site
) -> None:
    record.completed()
    sent_out(record, receivers(site, kinds="study.completed"))
    Outbox(record.engine, {}, clock=record.clock).look()
    (notice,) = notices(record)
    assert notice.state == "given up"
    assert "settings" in notice.reason


def test_old_notices_are_forgotten_and_waiting_ones_never(record: Record, site: Site) -> None:
    record.completed()
    record.completed()
    outbox = sent_out(record, receivers(site, kinds="study.completed"))
    with writing(record.engine) as connection:
        connection.execute(update(Notice).where(Notice.id == 1).values(state="delivered"))
    record.clock.advance(86400 * 31)
    assert outbox.forget() == 1
    assert [notice.state for notice in notices(record)] == ["waiting"]


def test_nothing_is_written_where_nobody_is_told(record: Record) -> None:
    record.completed()
    Observer(record.engine, receivers(), clock=record.clock).look()
    assert notices(record) == []


def test_texts_of_third_parties_stay_in_the_record(record: Record, site: Site) -> None:
    with writing(record.engine) as connection:
        states.note(
            connection,
            START,
            "rules.refused",
            level="alarm",
            reason="Canary^Patient",
            actor="Canary",
            calling_ae_title="CANARY",
        )
    sent_out(record, receivers(site)).look()
    ((_, _, body),) = site.got
    assert b"anary" not in body
    assert b"CANARY" not in body


# -- where it may go --------------------------------------------------------------------------


def poster(address: str, *, hosts: str, found: list[str]) -> Poster:
    return Poster(
        address=address,
        setting="X",
        allowed_hosts=frozenset({hosts}),
        timeout_s=2.0,
        tls=client_tls(None),
        resolve=lambda host, port: found,
    )


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        ("other.example", ["93.184.216.34"]),
        ("ris.example", ["169.254.169.254"]),
        ("ris.example", ["93.184.216.34", "fe80::1"]),
        ("ris.example", ["::ffff:169.254.169.254"]),
        ("ris.example", ["0.0.0.0"]),
        ("ris.example", ["224.0.0.1"]),
        ("ris.example", ["nonsense"]),
    ],
)
def test_nothing_is_posted_to_where_it_may_not_go(hosts: str, found: list[str]) -> None:
    with pytest.raises(NoticeRefused):
        poster("https://ris.example/in", hosts=hosts, found=found)(b"{}", {})


def test_the_connection_goes_to_the_address_that_was_looked_at(site: Site) -> None:
    port = site.server_address[1]
    post = Poster(
        address=f"http://localhost:{port}/in",
        setting="X",
        allowed_hosts=frozenset({"localhost"}),
        timeout_s=5.0,
        tls=client_tls(None),
        resolve=lambda host, wanted: ["127.0.0.1"],
    )
    assert post(b"{}", {}) == 200
    assert site.got[0][1]["host"] == f"localhost:{port}"


def test_a_receiver_that_is_not_there_is_tried_again() -> None:
    post = poster("http://127.0.0.1:1/in", hosts="127.0.0.1", found=["127.0.0.1"])
    with pytest.raises(NoticeUndelivered, match="does not answer"):
        post(b"{}", {})


@pytest.mark.parametrize(
    "address",
    [
        "http://ris.example/in",
        "ftp://ris.example/",
        "https://user:word@ris.example/",
        "https://",
        "https://ris.example/#x",
        "https://ris.example:99999/",
        "https://ris.example/a b",
        "[::1",
    ],
)
def test_an_address_that_will_not_do_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_address(address, "LENTIGO_EVENTS_WEBHOOKS")
    assert "LENTIGO_EVENTS_WEBHOOKS" in str(caught.value)
    assert len(address) < 10 or address not in str(caught.value)


def test_webhooks_want_a_secret_and_a_host_that_is_allowed(site: Site) -> None:
    with pytest.raises(SettingsError, match="SECRET"):
        webhook_channels(EventSettings(webhooks=site.address))
    with pytest.raises(SettingsError, match="SECRET"):
        webhook_channels(EventSettings(webhooks=site.address, secret="short"))
    with pytest.raises(SettingsError, match="HOSTS"):
        webhook_channels(EventSettings(webhooks=site.address, secret=SECRET, hosts="ris.example"))
    assert webhook_channels(EventSettings()) == {}


# -- mail -------------------------------------------------------------------------------------


class Mailbox:
    """What an SMTP server got, and how it answers."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


class _AnyPort(Controller):
    """Takes any free port and then knows which."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, MailSettings]]:
    box = Mailbox()
    server = _AnyPort(box, hostname="127.0.0.1", port=0, ready_timeout=60.0)
    server.start()
    port = server.port
    yield (
        box,
        MailSettings(
            server=f"127.0.0.1:{port}",
            sender="lentigo@clinic.example",
            recipients="pacs@clinic.example, duty@clinic.example",
            security="none",
        ),
    )
    server.stop()


def test_an_alarm_is_mailed_and_what_is_no_alarm_is_not(
    record: Record, mailbox: tuple[Mailbox, MailSettings]
) -> None:
    box, settings = mailbox
    record.completed()
    (item,) = record.schedule()
    record.ledger.fail(record.claim(item), kind="DEFECT", reason="Canary^Patient")
    sent_out(record, receivers(mail=settings)).look()
    texts = [mail.content.decode() for mail in box.mails]
    assert len(texts) == 2  # the analysis and its study
    assert box.mails[0].rcpt_tos == ["pacs@clinic.example", "duty@clinic.example"]
    assert "Subject: Lentigo: An analysis of a study failed for good" in texts[0]
    assert "anary" not in "".join(texts)
    assert {each.state for each in notices(record)} == {"delivered"}


@pytest.mark.parametrize(
    ("answer", "state"), [("451 later", "waiting"), ("550 no such user", "given up")]
)
def test_a_mail_that_is_deferred_is_tried_again_and_one_that_is_refused_is_not(
    record: Record, mailbox: tuple[Mailbox, MailSettings], answer: str, state: str
) -> None:
    box, settings = mailbox
    box.answer = answer
    with writing(record.engine) as connection:
        states.note(connection, START, "clock.jumped", level="alarm", seconds=90)
    outbox = sent_out(record, receivers(mail=settings))
    outbox.look()
    assert [each.state for each in notices(record)] == [state]


def test_a_mail_server_that_does_not_answer_is_tried_again(record: Record) -> None:
    settings = MailSettings(
        server="127.0.0.1:1", sender="a@b.example", recipients="c@d.example", security="none"
    )
    (channel,) = mail_channels(settings).values()
    letter = Letter(id=1, kind="x", target="mail", payload={}, created_at=START, attempt=1)
    with pytest.raises(NoticeUndelivered):
        channel(letter)


# -- FHIR -------------------------------------------------------------------------------------


def test_a_completed_study_makes_one_valid_diagnostic_report(record: Record, site: Site) -> None:
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    uid = record.completed()
    settings = FhirSettings(url=site.address.partition("/in")[0] + "/fhir", token="t0ken")
    told = Receivers(events=EventSettings(), mail=MailSettings(), fhir=settings)
    Observer(record.engine, told, clock=record.clock).look()
    Outbox(record.engine, fhir_channels(settings, record.engine), clock=record.clock).look()
    ((path, headers, body),) = site.got
    assert path == "/fhir/DiagnosticReport"
    assert headers["authorization"] == "Bearer t0ken"
    assert headers["if-none-exist"].startswith("identifier=urn:lentigo:")
    report = json.loads(body)
    DiagnosticReport.model_validate(report)
    assert report["status"] == "preliminary"
    assert report["subject"]["identifier"]["value"] == "CANARY-ID"
    study, observation = report["contained"]
    assert study["identifier"][0]["value"] == f"urn:oid:{uid}"
    assert len(study["series"][0]["instance"]) == 1
    assert observation["valueString"] == "NV 0.91"
    (notice,) = notices(record)
    assert "CANARY" not in json.dumps(notice.payload)


def test_a_report_without_the_patient_names_nobody(record: Record) -> None:
    record.completed()
    with reading(record.engine) as connection:
        report = diagnostic_report(connection, 1, 1, includes_patient=False)
        assert diagnostic_report(connection, 99, 1, includes_patient=False) is None
    assert "CANARY" not in json.dumps(report)


def test_a_target_names_the_host_and_not_the_token() -> None:
    target = webhook_target("https://ris.example/in?token=abc")
    assert target.startswith("webhook:ris.example:")
    assert "abc" not in target.rpartition(":")[0]
    assert target != webhook_target("https://ris.example/in?token=abd")


def test_a_study_that_begins_to_arrive_is_told_once(record: Record, site: Site) -> None:
    uid = record.receive()
    record.receive(study_instance_uid=uid)
    sent_out(record, receivers(site, kinds="study.received")).look()
    (notice,) = notices(record)
    assert (notice.kind, notice.state) == ("study.received", "delivered")
    assert notice.payload["study"] == 1
