"""STOW-RS in, over a real HTTP server: what is stored, what is refused, what is left behind."""

import hashlib
import json
import os
import socket
import threading
from xml.etree import ElementTree as ET

import pytest
import requests
from fastapi.testclient import TestClient
from pydicom import Dataset, dcmread
from sqlalchemy import select

from gateway.dicomweb import store as stow
from gateway.dicomweb.settings import DicomwebSettings
from gateway.errors import RecordUnavailable, SpoolFull
from gateway.listener.filing import InstanceFiler
from gateway.spool import IncomingFile, Spool
from gateway.store.engine import reading
from gateway.store.tables import Event, Instance, Refusal
from tests.instances import CT, JPEG, encoded, instance
from tests.servers import wait_until

BOUNDARY = "message-boundary"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
PART = b"Content-Type: application/dicom"


def body_of(*files, header=PART):
    parts = [b"--" + BOUNDARY.encode() + b"\r\n" + header + b"\r\n\r\n" + file for file in files]
    return b"\r\n".join([*parts, b"--" + BOUNDARY.encode() + b"--\r\n"])


def post(http, web, body, study="", **headers):
    address = f"{web}/studies/{study}" if study else f"{web}/studies"
    wanted = {"Content-Type": TYPE, **{key.replace("_", "-"): headers[key] for key in headers}}
    return http.post(address, body, headers=wanted, timeout=60)


def answered(response):
    assert response.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(response.json())


def reasons(ds):
    return [item.FailureReason for item in ds.get("FailedSOPSequence", [])]


def others(ds):
    return [item.FailureReason for item in ds.get("OtherFailuresSequence", [])]


def instances(kept):
    with reading(kept.engine) as connection:
        return connection.execute(select(Instance).order_by(Instance.id)).all()


def refusals(kept):
    with reading(kept.engine) as connection:
        return connection.execute(select(Refusal.status)).scalars().all()


# -- what is stored ----------------------------------------------------------------------------


def test_instances_are_durable_and_recorded_before_the_answer(http, web, kept, spool):
    ours, other = instance(), instance(transfer_syntax_uid=JPEG)
    found = post(http, web, body_of(encoded(ours), encoded(other)))
    assert found.status_code == 200
    stored = answered(found).ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in stored] == [
        ours.SOPInstanceUID,
        other.SOPInstanceUID,
    ]
    assert [item.ReferencedSOPClassUID for item in stored] == [ours.SOPClassUID] * 2
    rows = instances(kept)
    assert [row.disposition for row in rows] == ["accepted", "accepted"]
    assert {row.calling_ae_title for row in rows} == {"admin"}
    files = spool("instances")
    assert sorted(path.stem for path in files) == sorted(row.sha256 for row in rows)
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)
    assert {dcmread(path).SOPInstanceUID for path in files} == {
        ours.SOPInstanceUID,
        other.SOPInstanceUID,
    }
    assert not spool("incoming")


def test_one_instance_without_multipart(http, web, kept):
    ds = instance()
    found = http.post(
        f"{web}/studies", encoded(ds), headers={"Content-Type": "application/dicom"}, timeout=60
    )
    assert found.status_code == 200
    assert instances(kept)[0].sop_instance_uid == ds.SOPInstanceUID


def test_the_senders_meta_information_makes_no_other_file(http, web, kept):
    ds = instance()
    plain = encoded(ds)
    ds.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    ds.file_meta.ImplementationVersionName = "OTHER"
    assert encoded(ds) != plain
    for file in (plain, encoded(ds)):
        assert post(http, web, body_of(file)).status_code == 200
    assert len(instances(kept)) == 1


def test_the_same_instance_twice_is_kept_once_and_other_bytes_are_quarantined(http, web, kept):
    ds = instance()
    file = encoded(ds)
    assert post(http, web, body_of(file, file)).status_code == 200
    assert len(instances(kept)) == 1
    ds.PatientComments = "other"
    assert post(http, web, body_of(encoded(ds))).status_code == 200
    assert [row.disposition for row in instances(kept)] == ["accepted", "quarantined"]


def test_an_upload_is_noted_like_an_association(http, web, kept):
    post(http, web, body_of(encoded(instance())))
    with reading(kept.engine) as connection:
        actions = connection.execute(
            select(Event.action).where(Event.action.like("association.%")).order_by(Event.id)
        ).scalars()
        assert list(actions) == ["association.accepted", "association.released"]


def test_a_body_in_chunks_of_any_size(http, web, kept):
    body = body_of(*(encoded(instance()) for _ in range(3)))
    for size in (1, 77):
        pieces = (body[at : at + size] for at in range(0, len(body), size))
        assert post(http, web, pieces).status_code == 200
    assert len(instances(kept)) == 3


def test_answer_in_xml_is_the_native_model(http, web):
    ds = instance()
    found = post(http, web, body_of(encoded(ds), b"junk"), Accept="application/dicom+xml")
    assert found.headers["content-type"] == "application/dicom+xml"
    root = ET.fromstring(found.content)
    assert root.tag == "{http://dicom.nema.org/PS3.19/models/NativeDICOM}NativeDicomModel"
    named = {each.get("keyword"): each for each in root.iter() if each.get("keyword")}
    assert named["ReferencedSOPInstanceUID"][0].text == ds.SOPInstanceUID
    assert named["FailureReason"][0].text == str(0xC001)
    assert (named["FailureReason"].get("vr"), named["FailureReason"].get("tag")) == (
        "US",
        "00081197",
    )


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        ("*/*", 200, "application/dicom+json"),
        ("application/*", 200, "application/dicom+json"),
        ("application/json", 200, "application/json"),
        ("application/dicom+json;q=0.1, application/dicom+xml", 200, "application/dicom+xml"),
        ("text/html", 406, "application/json"),
        ("application/dicom+json;q=0", 406, "application/json"),
    ],
)
def test_answers_come_as_asked_for(http, web, accept, status, content_type):
    found = post(http, web, body_of(encoded(instance())), Accept=accept)
    assert (found.status_code, found.headers["content-type"]) == (status, content_type)


# -- what is refused, one by one -------------------------------------------------------------------


def test_of_one_study_only(http, web, kept, spool):
    ours, other = instance(), instance()
    found = post(http, web, body_of(encoded(ours), encoded(other)), study=ours.StudyInstanceUID)
    assert found.status_code == 202
    ds = answered(found)
    assert [item.ReferencedSOPInstanceUID for item in ds.ReferencedSOPSequence] == [
        ours.SOPInstanceUID
    ]
    assert reasons(ds) == [0xC409]
    assert len(instances(kept)) == 1
    assert refusals(kept) == [0xC409]
    assert not spool("incoming")
    assert post(http, web, body_of(encoded(other)), study="1.2.3").status_code == 409


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (lambda: encoded(instance(SOPClassUID=CT)), 0x0122),
        (lambda: encoded(instance(StudyInstanceUID=None)), 0xC002),
        (lambda: encoded(instance())[:-10], 0xC001),
        (lambda: _with_another_class(), 0xA900),
        (lambda: _with_another_uid(), 0xC003),
        (lambda: _mpeg(), 0xC122),
    ],
)
def test_failure_reasons_are_those_of_a_c_store(http, web, kept, spool, file, reason):
    found = post(http, web, body_of(file()))
    assert found.status_code == 409
    assert reasons(answered(found)) == [reason]
    assert not instances(kept)
    assert refusals(kept) == [reason]
    assert not spool("incoming")


def _with_another_class():
    ds = instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.7")
    return _in_meta(encoded(ds), b".77.1.7", b".77.1.4")


def _with_another_uid():
    ds = instance(SOPInstanceUID="1.2.3.45")
    return _in_meta(encoded(ds), b"1.2.3.45", b"1.2.3.46")


def _in_meta(file, old, new):
    """Change the File Meta Information alone, which comes first."""
    assert file.index(old) < 600
    return file.replace(old, new, 1)


def _mpeg():
    ds = instance(transfer_syntax_uid=JPEG)
    return _in_meta(encoded(ds), b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99")


@pytest.mark.parametrize(
    "file",
    [b"", b"junk", b"<html>" * 1000, bytes(132), bytes(128) + b"DICM", bytes(200_000)],
)
def test_what_is_no_dicom_file_is_an_other_failure(http, web, kept, file):
    good = encoded(instance())
    found = post(http, web, body_of(file, good))
    assert found.status_code == 202
    assert others(answered(found)) in ([0xC000], [0xC001])
    assert len(instances(kept)) == 1


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: image/jpeg",
        b"Content-Type: application/dicom+json",
        PART + b"\r\nContent-Transfer-Encoding: base64",
        PART + b"\r\nContent-Encoding: gzip",
    ],
)
def test_parts_of_another_type_are_refused(http, web, header):
    found = post(http, web, body_of(encoded(instance()), header=header))
    assert found.status_code == 409
    assert others(answered(found)) == [0xC000]


# -- requests that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("multipart/form-data; boundary=x", 415),
        ("multipart/related; type=application/dicom+json; boundary=x", 415),
        ("multipart/related; type=application/dicom", 400),
        (f"multipart/related; type=application/dicom; boundary={'x' * 201}", 400),
        ("", 415),
        ('multipart/related; boundary="', 400),
    ],
)
def test_content_types(http, web, content_type, status):
    found = post(http, web, b"--x\r\n\r\n\r\n--x--", Content_Type=content_type)
    assert found.status_code == status
    assert found.json()["detail"]


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (lambda good: b"", 0),
        (lambda good: b"no boundary in it", 0),
        (lambda good: b"x" * 200_000, 0),
        (lambda good: body_of(), 0),
        (lambda good: body_of(good)[:-30], 0),
        (lambda good: body_of(good, good)[: -len(good) // 2], 1),
        (lambda good: b"--" + BOUNDARY.encode() + b"\r\nA: " + b"x" * 3_000_000, 0),
        (lambda good: body_of(good) .replace(PART, b"no header"), 0),
        (lambda good: body_of(good)[:-25] + b"\r\nA: " + b"x" * 3_000_000, 0),
    ],
)  # fmt: skip
def test_bodies_that_are_none(http, web, kept, spool, body, stored):
    found = post(http, web, body(encoded(instance())))
    assert found.status_code == (202 if stored else 400), found.text
    assert len(instances(kept)) == stored
    assert not spool("incoming")
    if stored:
        assert others(answered(found)) == [0x0110]
        assert "Warning" in found.headers


def test_ill_named_studies_and_encoded_bodies(http, web):
    assert post(http, web, body_of(), study="1.2.x").status_code == 400
    assert post(http, web, body_of(), study="1" * 65).status_code == 400
    assert post(http, web, body_of(), Content_Encoding="gzip").status_code == 415


def test_thousands_of_parts_are_answered_one_by_one(http, web):
    found = post(http, web, body_of(*[b"x"] * 3000))
    assert found.status_code == 409
    assert len(others(answered(found))) == 3000


def test_a_body_over_the_limit_is_refused_early_and_late(http, web, app, kept):
    app.state.stow.settings = DicomwebSettings(max_request_bytes=10_000)
    assert post(http, web, bytes(10_001)).status_code == 413
    body = body_of(encoded(instance())) + bytes(10_001)  # chunked: its length is not stated
    found = post(http, web, iter([body]))
    assert found.status_code == 413
    assert "larger than 10000" in found.headers["warning"]
    assert not instances(kept)


def test_one_upload_too_many_is_told_to_come_again(http, web, app):
    app.state.stow.open_requests = app.state.stow.settings.max_uploads
    found = post(http, web, body_of(encoded(instance())))
    assert (found.status_code, found.headers["retry-after"]) == (503, "10")
    app.state.stow.open_requests = 0
    assert post(http, web, body_of(encoded(instance()))).status_code == 200
    assert app.state.stow.open_requests == 0


# -- faults ----------------------------------------------------------------------------------------


def _disk_full(*_args):
    raise SpoolFull("no space left on device")


@pytest.mark.parametrize("place", [(Spool, "begin"), (Spool, "keep"), (IncomingFile, "write")])
def test_a_full_disk_promises_nothing(http, web, kept, spool, monkeypatch, place):
    monkeypatch.setattr(*place, _disk_full)
    found = post(http, web, body_of(encoded(instance()), encoded(instance())))
    assert (found.status_code, found.headers["retry-after"]) == (503, "10")
    assert reasons(answered(found)) == [0xA700, 0xA700]
    assert not instances(kept)
    assert not spool("incoming")


def test_a_record_that_is_away_promises_nothing(http, web, app, kept, spool, monkeypatch):
    def away(*_args, **_keywords):
        raise RecordUnavailable("the record does not answer")

    for name in ("register_instance", "register_refusal", "register_association"):
        monkeypatch.setattr(app.state.stow.intake.record, name, away)
    found = post(http, web, body_of(encoded(instance())))
    assert found.status_code == 503
    assert reasons(answered(found)) == [0xA700]
    assert not spool("incoming")


def test_a_fault_of_ours_costs_one_instance_only(http, web, kept, spool, monkeypatch):
    right, calls = InstanceFiler.file, []

    def faulty(self, *arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("Canary^Planted")
        return right(self, *arguments)

    monkeypatch.setattr(InstanceFiler, "file", faulty)
    found = post(http, web, body_of(encoded(instance()), encoded(instance())))
    assert found.status_code == 202
    assert reasons(answered(found)) == [0x0110]
    assert "Canary" not in found.text
    assert not spool("incoming")


def _head(web, length, auth):
    host = web.removeprefix("http://").partition("/")[0]
    prepared = requests.Request("POST", web, auth=auth).prepare()
    return (
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: {prepared.headers['Authorization']}\r\n"
        f"Content-Type: {TYPE}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _connect(web):
    host, port = web.removeprefix("http://").partition("/")[0].split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_a_sender_that_goes_away_leaves_no_half_instance(http, web, app, kept, spool):
    first, second = encoded(instance()), encoded(instance(side=512))
    body = body_of(first, second)
    with _connect(web) as connection:
        connection.sendall(_head(web, len(body), http.auth) + body[: len(body) - 10_000])
    wait_until(lambda: "association.aborted" in _associations(kept), 30.0, what="the abort")
    wait_until(lambda: not spool("incoming"), 30.0, what="a clean spool")
    wait_until(lambda: app.state.stow.open_requests == 0, 30.0, what="the end of the request")
    assert len(instances(kept)) in (0, 1)  # the first one, if its block was taken in


def _associations(kept):
    with reading(kept.engine) as connection:
        return connection.execute(select(Event.action)).scalars().all()


def test_a_sender_that_falls_silent_is_given_up(http, web, app, spool):
    app.state.stow.settings = DicomwebSettings(timeout_s=0.3)
    body = body_of(encoded(instance()))
    with _connect(web) as connection:
        connection.sendall(_head(web, len(body), http.auth) + body[:100])
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert not spool("incoming")
    assert app.state.stow.open_requests == 0


def test_pages_are_answered_while_an_upload_hangs_on_the_disk(http, web, app, monkeypatch):
    release, right = threading.Event(), Spool.keep

    def slow(self, incoming):
        assert release.wait(60)
        return right(self, incoming)

    monkeypatch.setattr(Spool, "keep", slow)
    found = []
    uploads = [
        threading.Thread(
            target=lambda: found.append(post(http, web, body_of(encoded(instance()))).status_code)
        )
        for _ in range(app.state.stow.settings.max_uploads)
    ]
    for upload in uploads:
        upload.start()
    wait_until(
        lambda: app.state.stow.open_requests == len(uploads),
        30.0,
        what="all uploads to be under way",
    )
    assert requests.get(web.replace("/dicomweb", "/healthz"), timeout=30).status_code == 200
    release.set()
    for upload in uploads:
        upload.join(60)
    assert found == [200] * len(uploads)


def test_a_large_instance_is_received_in_little_memory(http, web, kept, monkeypatch):
    largest, right = [], stow.Reception.feed

    def measured(self, block):
        largest.append(len(block))
        right(self, block)

    monkeypatch.setattr(stow.Reception, "feed", measured)
    ds = instance(side=4096)
    body = body_of(encoded(ds))
    assert post(http, web, body).status_code == 200
    assert sum(largest) == len(body)
    assert max(largest) < 1.5 * 1024 * 1024
    assert instances(kept)[0].size_bytes > 50_000_000


# -- who may ---------------------------------------------------------------------------------------


def test_an_account_is_needed(web, http, kept):
    body = body_of(encoded(instance()))
    with requests.Session() as stranger:
        assert post(stranger, web, body).status_code == 401
        stranger.auth = ("admin", "wrong")
        found = post(stranger, web, body)
        assert found.status_code == 401
        assert found.headers["www-authenticate"].startswith("Basic ")
    assert post(http, web, body, Origin="http://evil.example").status_code == 403
    assert not instances(kept)


def test_before_the_one_time_password_is_changed_nothing_is_taken(stranger: TestClient):
    found = stranger.post("/dicomweb/studies", auth=("admin", "a one-time password"))
    assert found.status_code == 403
    assert "one-time" in found.json()["detail"]


def test_a_password_is_hashed_once_and_a_changed_one_counts_at_once(http, web, app, kept):
    calls = []
    right = app.state.services.accounts._matches
    app.state.services.accounts._matches = lambda *given: calls.append(1) or right(*given)
    for _ in range(3):
        assert post(http, web, body_of(encoded(instance()))).status_code == 200
    assert len(calls) == 1
    with kept.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounts SET must_change_password = 1")
    assert post(http, web, body_of(encoded(instance()))).status_code == 403
    assert len(calls) == 2


@pytest.mark.parametrize(("allow", "status"), [("127.0.0.0/8", 200), ("192.0.2.0/24", 403)])
def test_only_admitted_networks(client, app, allow, status, monkeypatch, kept, home):
    from gateway.dashboard.app import create_app
    from gateway.settings import DashboardSettings, StoreSettings
    from tests.web import AUTH, served

    monkeypatch.setenv("LENTIGO_DICOMWEB_ALLOW", allow)
    other = create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)
    with served(other) as address, requests.Session() as session:
        session.auth = AUTH
        found = post(session, f"{address}/dicomweb", body_of(encoded(instance())))
    assert found.status_code == status


def test_it_can_be_switched_off(client, monkeypatch, kept, home):
    from gateway.dashboard.app import create_app
    from gateway.settings import DashboardSettings, StoreSettings

    monkeypatch.setenv("LENTIGO_DICOMWEB_ENABLED", "false")
    other = create_app(StoreSettings(home=home), DashboardSettings(), kept.engine)
    with TestClient(other) as session:
        assert session.post("/dicomweb/studies").status_code == 404


def test_networks_are_checked_at_the_start():
    with pytest.raises(ValueError, match="does not appear to be"):
        DicomwebSettings(allow="pacs.example")


def test_nothing_of_a_patient_is_logged(http, web, caplog):
    caplog.set_level("DEBUG")
    ds = instance(StudyInstanceUID="1.2.3.4.5.6.7.8.9")
    post(http, web, body_of(encoded(ds), b"Canary^Planted", encoded(ds)[:-3]), study="1.2.3.4.5")
    said = json.dumps([str(vars(record)) for record in caplog.records if "gateway" in record.name])
    for value in ("Canary", "CANARY", "1.2.3.4.5", str(os.getpid()) + "00000"):
        assert value not in said
