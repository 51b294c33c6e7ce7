"""``lentigo doctor``: each part that is broken is a line that says so and what to do."""

import datetime as dt
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from gateway.cli import main
from gateway.dashboard.model_settings import ModelSettings
from gateway.dicom.tls import server_context
from gateway.host.doctor import command, host, nodes, record, services
from gateway.host.doctor.finding import FAIL, OK, WARN, Check, Finding, Subject
from gateway.host.embedded import free_port
from gateway.settings import (
    BrokerSettings,
    DeliverySettings,
    ListenerSettings,
    RetentionSettings,
    StoreSettings,
    TlsSettings,
)
from gateway.store import audit
from gateway.store.engine import utc_now, writing
from gateway.store.tables import AuditEntry, ClockMark, Notice, WorkItem
from tests.certificates import found_authority, signed
from tests.records import Record
from tests.storage_scp import StorageScp

Lines = dict[str, Finding]


@pytest.fixture
def subject(record: Record, record_url: str, tmp_path: Path) -> Subject:
    """An installation whose record is on each kind of database; nothing runs."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Subject(store=StoreSettings(home=home, database_url=record_url), clock=record.clock)


def lines(check: Check, subject: Subject) -> Lines:
    return {each.part: each for each in check(subject)}


def of(subject: Subject, **changes: Any) -> Subject:
    return Subject(**{**vars(subject), **changes})


# -- the record -------------------------------------------------------------------------------


def test_a_record_of_this_version_is_fine(subject: Subject) -> None:
    found = lines(record.check_record, subject)["record"]
    assert (found.verdict, found.remedy) == (OK, "")
    assert "no migration pending" in found.said


@pytest.mark.parametrize(
    ("schema", "said"),
    [("0001", "migrations pending"), ("9999", "which a later version made")],
)
def test_a_record_of_another_version_fails(
    own_record_url: str, tmp_path: Path, schema: str, said: str
) -> None:
    from gateway.store.engine import migrate, open_engine

    migrate(own_record_url)
    engine = open_engine(own_record_url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": schema})
    engine.dispose()
    subject = Subject(store=StoreSettings(home=tmp_path, database_url=own_record_url))
    found = lines(record.check_record, subject)["record"]
    assert found.verdict == FAIL
    assert said in found.said
    assert found.remedy
    # The others have nothing to ask of it, and say nothing beside it.
    assert not lines(record.check_work, subject)
    assert not lines(record.check_audit, subject)


def test_a_database_that_is_away_fails(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    subject = Subject(store=StoreSettings(home=tmp_path, database_url=url))
    found = lines(record.check_record, subject)["record"]
    assert found.verdict == FAIL
    assert "start the database" in found.remedy


def test_a_home_without_a_record_gets_none(tmp_path: Path) -> None:
    subject = Subject(store=StoreSettings(home=tmp_path))
    assert lines(record.check_record, subject)["record"].verdict == WARN
    assert not list(tmp_path.iterdir())


def test_work_of_a_worker_that_is_gone_and_work_that_waits_are_named(
    record: Record, subject: Subject
) -> None:
    from gateway.host.doctor import record as checks

    (item,) = record.schedule()
    assert lines(checks.check_work, subject)["stage analysing"].verdict == OK
    record.claim(item, lease_s=30.0)
    assert lines(checks.check_work, subject)["leases"].verdict == OK
    record.clock.advance(3600.0)
    found = lines(checks.check_work, subject)
    assert found["leases"].verdict == FAIL
    assert "1 work items are held by workers that are gone" in found["leases"].said
    assert found["stage analysing"].verdict == FAIL
    assert "1 h" in found["stage analysing"].said
    assert found["stage delivering"].said == "nothing waits"


def test_work_that_nobody_takes_is_named(record: Record, subject: Subject) -> None:
    from gateway.host.doctor import record as checks

    record.schedule()
    record.clock.advance(300.0)
    assert lines(checks.check_work, subject)["queue"].verdict == WARN


@pytest.mark.parametrize(("ahead_s", "verdict"), [(-5.0, OK), (10.0, WARN), (3600.0, FAIL)])
def test_a_clock_that_went_back_is_seen(
    record: Record, subject: Subject, ahead_s: float, verdict: str
) -> None:
    from gateway.host.doctor import record as checks

    seen = utc_now() + dt.timedelta(seconds=ahead_s)
    with writing(record.engine) as connection:
        connection.execute(insert(ClockMark).values(id=1, seen_at=seen))
    found = [each.verdict for each in checks.check_clock(of(subject, clock=utc_now))]
    assert verdict in found


def test_a_clock_that_is_not_the_databases_is_seen(record: Record, subject: Subject) -> None:
    """The clock of this test stands in March: on PostgreSQL the server's tells."""
    from gateway.host.doctor import record as checks

    found = lines(checks.check_clock, subject)["clock"]
    is_server = record.engine.dialect.name == "postgresql"
    assert found.verdict == (FAIL if is_server else OK)
    assert ("the database's" in found.said) == is_server


def test_an_entry_of_the_audit_trail_that_was_changed_is_named(
    record: Record, subject: Subject
) -> None:
    from gateway.host.doctor import record as checks

    for number in range(3):
        with writing(record.engine) as connection:
            audit.append(connection, utc_now(), "nora", "study.held", study=number)
    assert lines(checks.check_audit, subject)["audit trail"].verdict == OK
    with record.engine.begin() as connection:
        if record.engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_trail DISABLE TRIGGER USER"))
        else:
            for name in (
                connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
                .scalars()
                .all()
            ):
                connection.execute(text(f'DROP TRIGGER "{name}"'))
        connection.execute(update(AuditEntry).where(AuditEntry.id == 2).values(actor="mallory"))
        if record.engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_trail ENABLE TRIGGER USER"))
    found = lines(checks.check_audit, subject)["audit trail"]
    assert found.verdict == FAIL
    assert "entry 2" in found.said


def test_events_that_no_receiver_takes_are_named(record: Record, subject: Subject) -> None:
    from gateway.host.doctor import record as checks

    with writing(record.engine) as connection:
        connection.execute(
            insert(Notice).values(
                cause="event:1",
                kind="study.failed",
                target="webhook:ris.example:abcd1234",
                payload={},
                created_at=record.clock.now - dt.timedelta(hours=2),
                state="waiting",
                attempts=3,
                reason="the receiver answered 503",
            )
        )
    found = lines(checks.check_events, subject)["events"]
    assert found.verdict == WARN
    assert found.said == (
        "1 for webhook:ris.example wait, the oldest for 2 h: the receiver answered 503"
    )


# -- this host --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "retention", "verdict", "said"),
    [
        ({"reserve_bytes": 2**60}, {}, FAIL, "A700"),
        ({"reserve_bytes": 0}, {"low_watermark_percent": 0.001}, WARN, "retention"),
    ],
)
def test_room_is_judged_by_the_watermarks(
    tmp_path: Path, listener: dict[str, Any], retention: dict[str, Any], verdict: str, said: str
) -> None:
    subject = Subject(
        store=StoreSettings(home=tmp_path / "not" / "yet"),
        listener=ListenerSettings(**listener),
        retention=RetentionSettings(**retention),
    )
    found = lines(host.check_disk, subject)["disk"]
    assert found.verdict == verdict
    assert said in found.remedy
    assert "low watermark" in found.said


def test_a_folder_that_cannot_be_written_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(store=StoreSettings(home=tmp_path))
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "spool")  # root may all
    found = lines(host.check_folders, subject)
    assert (found["home"].verdict, found["spool"].verdict) == (OK, FAIL)
    assert "results" not in found


def test_settings_that_cannot_be_used_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(store=StoreSettings(home=tmp_path))
    assert lines(host.check_settings, subject)["settings"].verdict == OK
    monkeypatch.setenv("LENTIGO_EVENTS_WEBHOOKS", "https://ris.example/x")
    found = lines(host.check_settings, subject)["settings"]
    assert found.verdict == FAIL
    assert "LENTIGO_EVENTS_SECRET" in found.said


@pytest.mark.parametrize(("days", "verdict"), [(-3.0, FAIL), (1.0, FAIL), (20.0, WARN), (22.0, OK)])
def test_a_certificate_is_judged_by_its_days(days: float, verdict: str) -> None:
    found = host.certificate_finding("listener", days)
    assert found.verdict == verdict
    assert ("ran out" in found.said) == (days <= 0)
    assert bool(found.remedy) == (verdict != OK)


def test_certificates_of_ours_are_looked_at(tmp_path: Path) -> None:
    found_authority(tmp_path)
    signed(tmp_path, "us", "IP:127.0.0.1", is_expired=True)
    subject = Subject(
        store=StoreSettings(home=tmp_path),
        listener=ListenerSettings(tls_certificate=tmp_path / "us.pem"),
        tls=TlsSettings(ca=str(tmp_path / "nothing.pem")),
    )
    said = [(each.verdict, each.said) for each in host.check_certificates(subject)]
    assert [verdict for verdict, _ in said] == [FAIL, FAIL]
    assert "ran out" in said[0][1]
    assert "cannot be read" in said[1][1]


# -- nodes ------------------------------------------------------------------------------------


def test_nodes_are_asked_and_the_silent_one_is_named(tmp_path: Path) -> None:
    silent = f"GONE@127.0.0.1:{free_port()}"
    with StorageScp().serving() as scp:
        subject = Subject(
            store=StoreSettings(home=tmp_path),
            delivery=DeliverySettings(destination=f"PACS@127.0.0.1:{scp.port},{silent}"),
        )
        there, gone = nodes.check_destinations(subject)
    assert there.verdict == OK
    assert "answers C-ECHO in" in there.said
    assert (gone.verdict, gone.said.startswith(silent)) == (FAIL, True)


def test_the_certificate_that_a_node_shows_is_looked_at(tmp_path: Path) -> None:
    found_authority(tmp_path)
    signed(tmp_path, "pacs", "IP:127.0.0.1", is_expired=True)
    context = server_context(tmp_path / "pacs.pem", tmp_path / "pacs.key")
    with StorageScp(tls=context).serving() as scp:
        subject = Subject(
            store=StoreSettings(home=tmp_path),
            delivery=DeliverySettings(destination=f"PACS@127.0.0.1:{scp.port}/tls"),
            tls=TlsSettings(ca=str(tmp_path / "ca.pem")),
        )
        answer, certificate = nodes.check_destinations(subject)
    assert answer.verdict == FAIL
    assert "has expired" in answer.said
    assert (certificate.part, certificate.verdict) == ("certificate", FAIL)
    assert "ran out" in certificate.said


def test_the_pacs_of_earlier_images_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENTIGO_PRIORS_PACS", f"OLD@127.0.0.1:{free_port()}")
    (found,) = nodes.check_other_nodes(Subject(store=StoreSettings(home=tmp_path)))
    assert (found.part, found.verdict) == ("earlier images", FAIL)


# -- services ---------------------------------------------------------------------------------


class Triton(http.server.ThreadingHTTPServer):
    """Answers as Triton's HTTP endpoint does; a real one is asked in test_observation.py."""

    def __init__(self, index: list[dict[str, str]], digests: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _TritonHandler)
        self.index, self.digests = index, digests


class _TritonHandler(http.server.BaseHTTPRequestHandler):
    server: Triton

    def do_GET(self) -> None:
        name = self.path.split("/")[3]
        digest = {"string_value": self.server.digests.get(name, "")}
        self._answer({"parameters": {"digest": digest}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(self.server.index)

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def triton(index: list[dict[str, str]], digests: dict[str, str]) -> Iterator[str]:
    server = Triton(index, digests)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(20.0)
        server.server_close()


def test_each_model_answers_with_the_weights_of_its_manifest(tmp_path: Path) -> None:
    for name in ("fine", "other", "broken", "absent", "fine_shadow"):
        (tmp_path / "models" / name).mkdir(parents=True)
        manifest = json.dumps({"digest": "a" * 64, "version": "2.0"})
        (tmp_path / "models" / name / "manifest.json").write_text(manifest)
    index = [
        {"name": "fine", "state": "READY"},
        {"name": "other", "state": "READY"},
        {"name": "broken", "state": "UNAVAILABLE", "reason": "no such file"},
        {"name": "absent", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
    with triton(index, {"fine": "a" * 64, "other": "b" * 64}) as url:
        models = ModelSettings(repository=tmp_path / "models", triton_http_url=url)
        subject = Subject(store=StoreSettings(home=tmp_path), models=models)
        found = lines(services.check_triton, subject)
    verdicts = {part: each.verdict for part, each in found.items()}
    assert verdicts == {
        "Triton": OK,
        "model fine": OK,
        "model other": FAIL,
        "model broken": FAIL,
        "model absent": WARN,
    }
    assert "bbbbbbbbbbbb" in found["model other"].said
    assert "no such file" in found["model broken"].said


def test_servers_that_are_away_fail_and_say_so(tmp_path: Path) -> None:
    subject = Subject(
        store=StoreSettings(home=tmp_path),
        broker=BrokerSettings(url=f"redis://127.0.0.1:{free_port()}/0"),
        models=ModelSettings(triton_http_url=f"http://127.0.0.1:{free_port()}"),
        listener=ListenerSettings(port=free_port()),
    )
    assert lines(services.check_broker, subject)["Redis"].verdict == FAIL
    assert lines(services.check_triton, subject)["Triton"].verdict == FAIL


# -- the command ------------------------------------------------------------------------------


def test_the_worst_line_is_the_exit_code() -> None:
    def said(*verdicts: str) -> list[Finding]:
        return [Finding(part="x", verdict=each, said="") for each in verdicts]

    assert [
        command.exit_code(each) for each in ([], said(OK), said(OK, WARN), said(WARN, FAIL, OK))
    ] == [0, 0, 1, 2]


def test_a_check_that_breaks_hides_no_other(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_in_a_new_way(_: Subject) -> Iterator[Finding]:
        yield Finding(part="first", verdict=OK, said="seen")
        raise ZeroDivisionError("Canary^Patient")

    monkeypatch.setattr(command, "CHECKS", (check_in_a_new_way, record.check_record))
    first, broken, last = command.examine(subject)
    assert (first.verdict, last.part) == (OK, "record")
    assert (broken.part, broken.verdict) == ("in a new way", FAIL)
    assert "ZeroDivisionError" in broken.said
    assert "Canary" not in broken.said


def test_every_finding_that_is_not_fine_says_what_to_do(
    sqlite_record: Callable[[Path], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = sqlite_record(tmp_path / "home")
    kept.schedule(study_instance_uid="1.2.3.4.5", accession_number="CANARY-ACC")
    with writing(kept.engine) as connection:
        connection.execute(update(WorkItem).values(created_at=utc_now() - dt.timedelta(days=1)))
    monkeypatch.setenv("LENTIGO_LISTENER_PORT", str(free_port()))
    monkeypatch.setenv("LENTIGO_DASHBOARD_PORT", str(free_port()))
    monkeypatch.setenv("LENTIGO_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert main(["doctor", "--json", "--home", str(tmp_path / "home")]) == 2
    shown = capsys.readouterr().out
    found = json.loads(shown)
    assert {"part", "verdict", "said", "remedy"} == set(found[0])
    assert {each["verdict"] for each in found} == {OK, WARN, FAIL}
    assert all(bool(each["remedy"]) == (each["verdict"] != OK) for each in found)
    assert "CANARY" not in shown
    assert "1.2.3.4.5" not in shown

    assert main(["doctor", "--home", str(tmp_path / "home")]) == 2
    table = capsys.readouterr().out
    assert "stage analysing" in table
    assert "are the workers and Triton up?" in table
