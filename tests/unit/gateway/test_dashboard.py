"""The admin page: who gets in, what is shown, and that it stays up to date."""

import asyncio
import io
import json
import logging
import re
import signal
import subprocess
import sys
import urllib.request
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import event, insert, select

import gateway.dashboard
from gateway.dashboard.app import create_app
from gateway.dashboard.auth import local_address
from gateway.dashboard.live import LiveFeed
from gateway.errors import RecordUnavailable
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store import accounts as accounts_module
from gateway.store.accounts import FAILURES_BEFORE_LOCK, Accounts
from gateway.store.engine import reading, utc_now, writing
from gateway.store.history import HistoryReader
from gateway.store.status import study_list
from gateway.store.tables import AuditEntry, Event, Study
from tests.records import PACS, SLIDE, Record, association, header, new_object, new_uid, stored
from tests.servers import free_port, wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette 1 would rather have httpx2; httpx serves as well
    from fastapi.testclient import TestClient

FOLDER = Path(gateway.dashboard.__file__).parent
BASE = "http://127.0.0.1:8042"
ONE_TIME = "a one-time password"
CHOSEN = "correct horse battery"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kept(home, sqlite_record, monkeypatch) -> Record:
    monkeypatch.setattr(
        accounts_module, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST)
    )
    record = sqlite_record(home)
    record.clock.now = utc_now()
    return record


@pytest.fixture
def app(home, kept):
    Accounts(kept.engine).create_first("admin", ONE_TIME)
    return create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)


@pytest.fixture
def stranger(app):
    """A browser that has not logged in."""
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


def token_in(page: str) -> str:
    return re.search(r'name="csrf_token" value="([^"]+)"', page)[1]


def log_in(client: TestClient, password: str = ONE_TIME, address: str = "/"):
    page = client.get("/login", params={"next": address}).text
    form = {
        "csrf_token": token_in(page),
        "next": address,
        "username": "admin",
        "password": password,
    }
    return client.post("/login", data=form)


def change_password(client: TestClient, **changes: str):
    page = client.get("/password").text
    form = {"csrf_token": token_in(page), "old": ONE_TIME, "new": CHOSEN, "again": CHOSEN}
    return client.post("/password", data={**form, **changes})


@pytest.fixture
def client(stranger):
    """A browser of an administrator at work."""
    log_in(stranger)
    assert change_password(stranger).status_code == 303
    return stranger


def completed(record: Record, **changes) -> str:
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, **changes)
    record.deliver(item)
    return uid


def trail(record: Record) -> list[tuple[str, str]]:
    with reading(record.engine) as connection:
        rows = connection.execute(
            select(AuditEntry.actor, AuditEntry.action).order_by(AuditEntry.id)
        ).all()
    return [(row.actor, row.action) for row in rows]


# -- who gets in --------------------------------------------------------------------------------


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
        if path in {"/login", "/healthz"}:
            continue
        answer = stranger.request(method, path, headers={"content-length": "0"})
        if path.startswith("/api/") or path == "/live":
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
    uid = completed(kept)
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
    assert sorted(posts(app)) == ["/login", "/logout", "/password"]
    client.get("/login")
    for path in posts(app):
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


# -- the list -----------------------------------------------------------------------------------


def test_empty_record_says_what_to_do(client):
    page = client.get("/studies").text
    assert "No study has been received yet" in page
    assert "lentigo send" in page


def test_list_shows_every_study_with_its_state_finding_and_reason(kept, client):
    done = completed(kept)
    failed = new_uid()
    (item,) = kept.schedule(study_instance_uid=failed)
    kept.ledger.fail(kept.claim(item), kind="REJECTED", reason="no <frame> can be decoded")
    page = client.get("/studies").text
    for text in (done, failed, "NV 0.91", "no &lt;frame&gt; can be decoded", "✓ yes", "✕ no"):
        assert text in page
    assert "<frame>" not in page


def test_chips_count_and_name_the_oldest(kept, client):
    kept.clock.advance(-3600)
    kept.receive()
    kept.clock.advance(3600)
    kept.receive()
    page = client.get("/studies").text
    chip = re.search(r'<a class="chip state-received( \w+)*".*?</a>', page, re.DOTALL)[0]
    assert '<span class="count">2</span>' in chip
    assert re.search(r"oldest .*1 h", chip)
    assert "late" in chip


def test_list_is_filtered_by_address(kept, client):
    done, waiting = completed(kept), kept.receive()
    page = client.get("/studies", params={"state": "completed"}).text
    assert f"/studies/{done}" in page
    assert f"/studies/{waiting}" not in page
    page = client.get("/studies", params={"uid": f" '{waiting[-9:]} "}).text
    assert f"/studies/{waiting}" in page
    assert f"/studies/{done}" not in page
    assert "No study matches" in client.get("/studies", params={"uid": "999.999"}).text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("state=nonsense", 404),
        ("before=0", 422),
        ("before=99999999999999999999", 422),
        ("before=x", 422),
        ("uid=" + "1" * 65, 422),
        ("uid=%00", 200),
        ("uid=%25", 200),
        ("state=", 200),
    ],
)
def test_odd_filters_are_answered(client, query, status):
    for path in ("/studies", "/api/studies"):
        assert client.get(f"{path}?{query}").status_code == status


def test_pages_lead_through_all_studies_once(kept, client):
    uids = [kept.receive() for _ in range(120)]
    seen, address = [], "/studies"
    while address:
        page = client.get(address).text
        seen += re.findall(r'href="/studies/([\d.]+)"', page)
        found = re.search(r'<a href="(/studies\?before=\d+)" rel="next">', page)
        address = found[1] if found else ""
    assert seen == uids[::-1]


def test_number_of_statements_of_the_list_is_fixed(kept, client):
    statements = []
    event.listen(kept.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def cost() -> int:
        statements.clear()
        assert client.get("/studies").status_code == 200
        return len(statements)

    completed(kept)
    before = cost()
    for _ in range(30):
        completed(kept)
    assert cost() == before


# -- one study ----------------------------------------------------------------------------------


def test_study_page_answers_at_the_top_whether_the_pacs_has_it(kept, client):
    page = client.get(f"/studies/{completed(kept)}").text
    answer = f"Yes: {PACS} holds the object (found there by C-FIND afterwards)."
    assert page.index(answer) < page.index("Timeline")


def test_study_page_tells_the_story_in_order(kept, client):
    uid = completed(kept)
    page = client.get(f"/studies/{uid}").text
    story = [
        "Instances are arriving",
        "Complete: nothing new came",
        "Analysis scheduled",
        "Analysis started",
        "Analysis done, results written",
        "Delivery started",
        "Destination confirmed an object",
        "Study completed",
    ]
    places = [page.index(text) for text in story]
    assert all(one < other for one, other in pairwise(places))
    for text in ("Dermoscopic Photography", "JPEG Baseline", "CAMERA", "d" * 12, "routed"):
        assert text in page


def test_study_page_counts_down_the_quiet_window(kept, client):
    uid = kept.receive()
    page = client.get(f"/studies/{uid}").text
    assert re.search(r'data-until="[^"]+" data-before="closes in"', page)


def test_study_page_shows_quarantine_and_refusals(kept, client):
    received = header()
    for content in ("a", "b"):
        kept.intake.register_instance(
            header=received, stored=stored(content), association=association()
        )
    kept.intake.register_refusal(
        association=association(),
        status=0xC001,
        reason="cut off",
        stored=None,
        header=header(study_instance_uid=received.study_instance_uid),
    )
    page = client.get(f"/studies/{received.study_instance_uid}").text
    for text in (
        "1 quarantined instance:",
        "1 instance of this study was refused",
        "C001",
        "alarm",
    ):
        assert text in page


def test_refused_study_has_a_page(kept, client):
    refused = header(sop_class_uid=SLIDE)
    kept.intake.register_refusal(
        association=association(), status=0xA900, reason="why", stored=None, header=refused
    )
    page = client.get(f"/studies/{refused.study_instance_uid}").text
    assert "the study was not analysed" in page
    assert "A900" in page


@pytest.mark.parametrize("uid", ["1.2.3", "%00", "a" * 5000, "' OR 1=1"])
def test_unknown_study_is_not_found(client, uid):
    assert client.get(f"/studies/{uid}").status_code == 404
    assert client.get(f"/api/studies/{uid}").status_code == 404


def test_no_patient_attribute_is_on_any_page(kept, client, caplog):
    caplog.set_level(logging.DEBUG)
    uid = completed(kept)
    for path in ("/studies", f"/studies/{uid}", "/api/studies", f"/api/studies/{uid}"):
        assert "canary" not in client.get(path).text.lower()
    assert "canary" not in caplog.text.lower()


def test_log_holds_no_uid(kept, client, caplog):
    caplog.set_level(logging.INFO)
    uid = completed(kept)
    caplog.clear()
    client.get(f"/studies/{uid}")
    client.get("/studies", params={"uid": uid})
    ours = [record for record in caplog.records if record.name.startswith("gateway")]
    assert {record.route for record in ours} == {"/studies/{uid}", "/studies"}
    assert uid not in repr([record.__dict__ for record in ours])


# -- previews -----------------------------------------------------------------------------------


def picture_file(path: Path, pixels: np.ndarray) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = pixels.shape
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def preview(client, uid: str, made):
    return client.get(f"/studies/{uid}/objects/{made.sop_instance_uid}/preview.png")


def test_overview_is_shown_as_it_is_stored(home, kept, client):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    made = new_object("overview-1", sop_class_uid=SECONDARY_CAPTURE, path="a/overview.dcm")
    picture_file(home / "results" / made.path, pixels)
    uid = completed(kept, objects=(made,))
    answer = preview(client, uid, made)
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), pixels)
    assert "private" in answer.headers["cache-control"]
    assert f"{made.sop_instance_uid}/preview.png" in client.get(f"/studies/{uid}").text
    headers = {"if-none-match": answer.headers["etag"]}
    path = f"/studies/{uid}/objects/{made.sop_instance_uid}/preview.png"
    assert client.get(path, headers=headers).status_code == 304


def test_large_overview_is_made_smaller(home, kept, client):
    made = new_object("overview-1", path="a/large.dcm")
    picture_file(home / "results" / made.path, np.zeros((900, 3001, 3), np.uint8))
    answer = preview(client, completed(kept, objects=(made,)), made)
    assert Image.open(io.BytesIO(answer.content)).size == (1600, 480)


@pytest.mark.parametrize("role", ["sr", "seg-1"])
def test_other_roles_have_no_preview(home, kept, client, role):
    made = new_object(role, path="a/x.dcm")
    picture_file(home / "results" / made.path, np.zeros((4, 4, 3), np.uint8))
    assert preview(client, completed(kept, objects=(made,)), made).status_code == 404


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "outside", "float"])
def test_preview_of_a_file_that_will_not_do_is_not_found(home, kept, client, damage):
    made = new_object("overview-1", path="../x.dcm" if damage == "outside" else "a/x.dcm")
    path = home / "results" / made.path
    picture_file(path, np.full((30, 30, 3), 7, np.uint8))
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no DICOM at all")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-900])
    elif damage == "float":
        path.write_bytes(path.read_bytes().replace(b"RGB ", b"XYZ "))
    answer = preview(client, completed(kept, objects=(made,)), made)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_preview_belongs_to_its_study(home, kept, client):
    made = new_object("overview-1", path="a/x.dcm")
    picture_file(home / "results" / made.path, np.zeros((4, 4, 3), np.uint8))
    completed(kept, objects=(made,))
    assert preview(client, completed(kept), made).status_code == 404


# -- JSON ---------------------------------------------------------------------------------------


def test_json_of_a_study_is_that_of_the_command(kept, client):
    uid = completed(kept)
    found = client.get(f"/api/studies/{uid}").json()
    (expected,) = study_list(kept.engine)
    found.pop("age_s")
    expected.pop("age_s")
    found["work_items"][0]["objects"][0].pop("path")
    expected["work_items"][0]["objects"][0].pop("path")
    assert found == expected


def test_json_list_names_its_next_page(kept, client):
    uids = [kept.receive() for _ in range(5)]
    seen, address = [], "/api/studies?limit=2"
    while address:
        answer = client.get(address)
        seen += [study["study_instance_uid"] for study in answer.json()]
        found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
        address = found[1] if found else ""
    assert seen == uids[::-1]


# -- outages ------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    def fail(*_args, **_kwargs):
        raise RecordUnavailable("the record does not answer (OperationalError)")

    def break_it() -> None:
        monkeypatch.setattr("gateway.store.history.reading", fail)
        monkeypatch.setattr("gateway.store.status.reading", fail)

    return break_it


def test_health_follows_the_record(stranger, broken):
    assert stranger.get("/healthz").status_code == 200
    broken()
    assert stranger.get("/healthz").status_code == 503


def test_outage_is_said_in_words(client, broken):
    broken()
    answer = client.get("/studies")
    assert answer.status_code == 503
    assert "does not answer" in answer.text
    assert client.get("/api/studies").status_code == 503


def test_outage_of_the_sessions_is_no_open_door(client, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RecordUnavailable

    monkeypatch.setattr("gateway.store.accounts.reading", fail)
    assert client.get("/studies").status_code == 503


# -- live ---------------------------------------------------------------------------------------


async def next_mark(stream) -> str:
    while True:
        text = await asyncio.wait_for(anext(stream), 10)
        if found := re.search(r"^data: (.+)$", text, re.MULTILINE):
            return found[1]


def test_stream_tells_of_every_change(record):
    uid = record.receive()
    reader = HistoryReader(record.engine)

    async def follow() -> list[str]:
        feed = LiveFeed(reader, poll_s=0.02)
        stream = feed.stream(None, lambda: True)
        marks = [await next_mark(stream)]
        for _ in range(2):
            await asyncio.to_thread(record.receive, study_instance_uid=new_uid())
            marks.append(await next_mark(stream))
        await stream.aclose()
        await feed.aclose()
        return marks

    marks = asyncio.run(follow())
    assert len(set(marks)) == 3
    assert marks[-1] == reader.marks([])[None]
    assert uid


def test_stream_of_one_study_is_silent_about_others(record):
    record.receive()
    uid = new_uid()
    record.receive(study_instance_uid=uid)
    with reading(record.engine) as connection:
        study_id = connection.execute(
            select(Study.id).where(Study.study_instance_uid == uid)
        ).scalar_one()

    async def follow() -> tuple[str, str]:
        feed = LiveFeed(HistoryReader(record.engine), poll_s=0.02)
        mine, all_of_it = feed.stream(study_id, lambda: True), feed.stream(None, lambda: True)
        first = await next_mark(mine)
        await next_mark(all_of_it)
        await asyncio.to_thread(record.receive)
        await next_mark(all_of_it)
        waiting = asyncio.ensure_future(anext(mine))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await asyncio.to_thread(record.close)
        text = await asyncio.wait_for(waiting, 10)
        await mine.aclose()
        await all_of_it.aclose()
        await feed.aclose()
        return first, text

    first, text = asyncio.run(follow())
    assert first not in text


def test_mark_changes_when_a_lower_id_appears_late(record):
    """PostgreSQL commits in another order than it gives out ids."""
    record.receive()
    reader = HistoryReader(record.engine)

    def add(event_id: int) -> None:
        with writing(record.engine) as connection:
            connection.execute(
                insert(Event).values(id=event_id, at=utc_now(), action="x", level="info", detail={})
            )

    add(100)
    before = reader.marks([])
    add(99)
    assert reader.marks([]) != before


def test_polling_rests_while_nobody_listens(record):
    async def follow() -> None:
        calls = []

        class Counting(HistoryReader):
            def marks(self, study_ids):
                calls.append(1)
                return super().marks(study_ids)

        feed = LiveFeed(Counting(record.engine), poll_s=0.01)
        first, second = feed.stream(None, lambda: True), feed.stream(None, lambda: True)
        await next_mark(first)
        await next_mark(second)
        await first.aclose()
        await second.aclose()
        await asyncio.sleep(0.1)
        rested = len(calls)
        await asyncio.sleep(0.1)
        assert len(calls) == rested
        third = feed.stream(None, lambda: True)
        await next_mark(third)  # and begins again
        await third.aclose()
        await feed.aclose()
        assert len(calls) > rested

    asyncio.run(follow())


def test_stream_ends_with_the_session(record, monkeypatch):
    monkeypatch.setattr("gateway.dashboard.live.HEARTBEAT_S", 0.05)

    async def follow() -> None:
        feed = LiveFeed(HistoryReader(record.engine), poll_s=0.02)
        async for _ in feed.stream(None, lambda: False):
            pass
        await feed.aclose()

    asyncio.run(asyncio.wait_for(follow(), 10))


def test_stream_survives_an_outage(record, monkeypatch):
    async def follow() -> str:
        answers = iter([RecordUnavailable("x"), RecordUnavailable("x"), {None: "7.7"}])

        class Flaky(HistoryReader):
            def marks(self, study_ids):
                answer = next(answers, {None: "7.7"})
                if isinstance(answer, RecordUnavailable):
                    raise answer
                return answer

        feed = LiveFeed(Flaky(record.engine), poll_s=0.01)
        stream = feed.stream(None, lambda: True)
        mark = await next_mark(stream)
        await stream.aclose()
        await feed.aclose()
        return mark

    assert asyncio.run(follow()) == "7.7"


def test_mark_for_polling_is_that_of_the_page(kept, client):
    uid = completed(kept)
    for path, query in (("/studies", {}), (f"/studies/{uid}", {"study": uid})):
        mark = client.get(f"/api/mark?{urlencode(query)}").json()["mark"]
        assert f'data-mark="{mark}"' in client.get(path).text
    assert client.get("/api/mark", params={"study": "1.2.3"}).status_code == 404


# -- the process --------------------------------------------------------------------------------


def test_server_ends_at_sigterm_with_a_stream_open(home, kept):
    port = free_port()
    Accounts(kept.engine).create_first("admin", ONE_TIME)
    program = (
        "import sys; from pathlib import Path\n"
        "from gateway.dashboard.app import serve\n"
        "from gateway.settings import DashboardSettings, StoreSettings\n"
        "serve(StoreSettings(home=Path(sys.argv[1])), DashboardSettings(port=int(sys.argv[2])))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home), str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(f"{base}/healthz", timeout=2) as answer:
                    return json.load(answer) == {"status": "ok"}
            except OSError:
                return False

        wait_until(is_ready, 60.0, "the admin page")
        with httpx.Client(base_url=base, timeout=30) as browser:
            log_in(browser)
            change_password(browser)
            with browser.stream("GET", "/live") as stream:
                lines = stream.iter_lines()
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert next(line for line in lines if line.startswith("data:"))
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line.startswith("data:")] == []
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


# -- the looks ----------------------------------------------------------------------------------


class Inline(HTMLParser):
    """Collects what the content security policy would block, and labels that lead nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        named = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in named):
            self.faults.append(tag)
        self.faults += [name for name in named if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            if name in named and not named[name].startswith(("/", "#")):
                self.faults.append(f"{name}={named[name]}")
        if tag == "img" and "alt" not in named:
            self.faults.append("img without alt")
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "label":
            self.labels.append(named["for"])


def test_pages_hold_nothing_inline_or_from_elsewhere(kept, client):
    uid = completed(kept, objects=(new_object(), new_object("overview-1")))
    for path in ("/login", "/password", "/studies", f"/studies/{uid}", "/studies/1.2"):
        found = Inline()
        found.feed(client.get(path).text)
        assert found.faults == [], path
        assert len(found.ids) == len(set(found.ids)), path
        assert set(found.labels) <= set(found.ids), path


def colours(css: str, scheme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    block = blocks[0] if scheme == "light" else blocks[1]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_meets_wcag_aa(scheme):
    found = colours((FOLDER / "static" / "lentigo.css").read_text(), scheme)
    grounds = ("ground", "sheet", "sunk")
    pairs = [
        (text, ground)
        for text in ("text", "quiet", "accent", "good", "bad", "warn")
        for ground in grounds
    ]
    pairs += [(tone, f"{tone}-ground") for tone in ("good", "bad", "warn", "busy")]
    pairs += [("text", f"{tone}-ground") for tone in ("good", "bad", "warn", "busy")]
    pairs += [("accent-text", "accent")]
    for one, other in pairs:
        assert contrast(found[one], found[other]) >= 4.5, (one, other)
    # Outlines and borders of controls: 3:1 (WCAG 1.4.11).
    for one, other in [("focus", ground) for ground in grounds] + [("quiet", "sheet")]:
        assert contrast(found[one], found[other]) >= 3.0, (one, other)
