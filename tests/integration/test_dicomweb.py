"""DICOMweb against real counterparts: Orthanc on either side, dicomweb-client, curl."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from sqlalchemy import Engine, select, update

from gateway.dashboard.app import create_app
from gateway.delivery.routes import ObjectState, Outgoing
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.settings import DashboardSettings, DeliverySettings, StoreSettings
from gateway.store.engine import migrate, open_engine, reading
from gateway.store.people.accounts import Accounts
from gateway.store.tables import Account, Instance
from tests.instances import JPEG, encoded, instance, write
from tests.records import Record, TestClock
from tests.servers import OrthancError, orthanc
from tests.servers.orthanc import Orthanc
from tests.web import AUTH, served

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    store = StoreSettings(home=tmp_path)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    Accounts(engine).create_first(*AUTH)
    with engine.begin() as connection:
        connection.execute(update(Account).values(must_change_password=False))
    yield engine
    engine.dispose()


@pytest.fixture
def web(tmp_path: Path, engine: Engine) -> Iterator[str]:
    """Address of our own DICOMweb services."""
    app = create_app(StoreSettings(home=tmp_path), DashboardSettings(), engine)
    with served(app) as address:
        yield f"{address}/dicomweb"


@pytest.fixture
def dicomweb(web: str) -> Iterator[DICOMwebClient]:
    with requests.Session() as session:
        session.trust_env = False
        session.auth = AUTH
        yield DICOMwebClient(web, session=session)


def received(engine: Engine) -> dict[str, Instance]:
    with reading(engine) as connection:
        rows = connection.execute(select(Instance)).all()
    return {row.sop_instance_uid: row for row in rows}


def outgoing(ds: Dataset, folder: Path, number: int = 1, **changes: object) -> Outgoing:
    values = {
        "id": number,
        "path": write(ds, folder / f"out{number}.dcm"),
        "study_instance_uid": str(ds.StudyInstanceUID),
        "series_instance_uid": str(ds.SeriesInstanceUID),
        "sop_class_uid": str(ds.SOPClassUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "sha256": "",
    }
    return Outgoing(**{**values, **changes})


# -- in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_orthanc_pushes_a_study_to_us(pacs, web, engine, tmp_path, chunked):
    study = instance().StudyInstanceUID
    sent = [
        instance(StudyInstanceUID=study),
        instance(StudyInstanceUID=study, transfer_syntax_uid=JPEG, side=64),
        instance(StudyInstanceUID=study, side=700),
    ]
    for ds in sent:
        pacs.store(encoded(ds))
    server = {
        "Url": web,
        "Username": AUTH[0],
        "Password": AUTH[1],
        "ChunkedTransfers": chunked,
    }
    pacs.request("PUT", "/dicom-web/servers/lentigo", json.dumps(server).encode())
    resources = {"Resources": [pacs.find_study(study)], "Synchronous": True}
    pacs.post_json("/dicom-web/servers/lentigo/stow", resources)
    found = received(engine)
    assert set(found) == {ds.SOPInstanceUID for ds in sent}
    spool = StoreSettings(home=tmp_path).spool_folder
    for ds in sent:
        kept = dcmread(spool / found[ds.SOPInstanceUID].path)
        assert kept == ds
        assert kept.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    # Once more: the same instances are the same files, and Orthanc is told success.
    pacs.post_json("/dicom-web/servers/lentigo/stow", resources)
    assert len(received(engine)) == len(sent)


def test_orthanc_hears_of_a_wrong_password(pacs, web, engine):
    ds = instance()
    pacs.store(encoded(ds))
    server = {"Url": web, "Username": AUTH[0], "Password": "wrong"}
    pacs.request("PUT", "/dicom-web/servers/stranger", json.dumps(server).encode())
    with pytest.raises(OrthancError):
        pacs.post_json(
            "/dicom-web/servers/stranger/stow",
            {"Resources": [pacs.find_study(ds.StudyInstanceUID)], "Synchronous": True},
        )
    assert not received(engine)


def readable(ds: Dataset) -> Dataset:
    """Return a data set as read from a file: the client writes no preamble of its own."""
    return dcmread(io.BytesIO(encoded(ds)))


def test_dicomweb_client_stores(dicomweb, engine):
    sets = [readable(instance()) for _ in range(3)]
    answer = dicomweb.store_instances(sets)
    assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {
        ds.SOPInstanceUID for ds in sets
    }
    assert len(received(engine)) == 3
    ds = readable(instance())
    dicomweb.store_instances([ds], study_instance_uid=ds.StudyInstanceUID)
    with pytest.raises(requests.HTTPError, match="409"):
        dicomweb.store_instances([readable(instance())], study_instance_uid=ds.StudyInstanceUID)
    assert len(received(engine)) == 4


def test_curl_stores(web, engine, tmp_path):
    if shutil.which("curl") is None:
        pytest.fail("curl is needed")
    ds = instance()
    body = tmp_path / "body"
    body.write_bytes(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + encoded(ds) + b"\r\n--x--")
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--user", ":".join(AUTH)),
            *("--header", 'Content-Type: multipart/related; type="application/dicom"; boundary=x'),
            *("--header", "Expect: 100-continue", "--data-binary", f"@{body}"),
            *("--write-out", "%{stderr}%{http_code}", f"{web}/studies"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == "200"
    (item,) = Dataset.from_json(json.loads(done.stdout)).ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == ds.SOPInstanceUID
    assert set(received(engine)) == {ds.SOPInstanceUID}


# -- out -------------------------------------------------------------------------------------


def test_results_go_to_orthanc_and_are_found_there(pacs, tmp_path):
    sets = [instance(), instance(transfer_syntax_uid=JPEG, side=64)]
    sender = StowSender(pacs.dicomweb_url, DeliverySettings(confirm="require"), StowSettings())
    objects = [outgoing(ds, tmp_path, number) for number, ds in enumerate(sets, start=1)]
    for _ in range(2):  # again: it is there already, which is no failure
        outcomes = sender.deliver(objects)
        assert [(each.state, each.confirmed_by) for each in outcomes] == [
            (ObjectState.CONFIRMED, "qido-rs")
        ] * 2
    for ds in sets:
        (found,) = pacs.study_datasets(ds.StudyInstanceUID)
        assert found == ds
    assert sender.probe() == ""


def test_what_orthanc_lost_is_not_confirmed(pacs, tmp_path):
    ds = instance()
    sender = StowSender(pacs.dicomweb_url, DeliverySettings(), StowSettings())
    (outcome,) = sender.deliver([outgoing(ds, tmp_path, is_stored=True)])
    assert outcome.state is ObjectState.STORED
    assert "does not list it yet" in outcome.reason


def test_what_orthanc_cannot_read_is_refused_and_holds_up_nobody(pacs, tmp_path):
    bad, good = outgoing(instance(), tmp_path, 1), outgoing(instance(), tmp_path, 2)
    bad.path.write_bytes(b"no DICOM at all")
    sender = StowSender(pacs.dicomweb_url, DeliverySettings(), StowSettings())
    outcomes = sender.deliver([bad, good])
    assert [each.state for each in outcomes] == [ObjectState.REFUSED, ObjectState.CONFIRMED]


def test_an_orthanc_with_a_password_and_one_that_restarts(tmp_path):
    configuration = {"AuthenticationEnabled": True, "RegisteredUsers": {"lentigo": "s3cret"}}
    with orthanc(tmp_path / "pacs") as pacs:
        pacs.stop()
        pacs._configuration = configuration

        def is_ready() -> bool:
            try:
                return requests.get(f"{pacs.url}/system", timeout=5).status_code == 401
            except requests.RequestException:
                return False

        pacs._is_ready = is_ready
        delivery, ds = DeliverySettings(timeout_s=10), instance()
        objects = [outgoing(ds, tmp_path)]
        right = StowSettings(username="lentigo", password="s3cret")
        (away,) = StowSender(pacs.dicomweb_url, delivery, right).deliver(objects)
        assert (away.state, away.is_unreachable) == (ObjectState.PENDING, True)
        pacs.start()
        wrong = StowSettings(username="lentigo", password="wrong")
        (refused,) = StowSender(pacs.dicomweb_url, delivery, wrong).deliver(objects)
        assert refused.state is ObjectState.PENDING
        assert "credentials" in refused.reason
        (stored,) = StowSender(pacs.dicomweb_url, delivery, right).deliver(objects)
        assert stored.state is ObjectState.CONFIRMED


# -- the worklist ----------------------------------------------------------------------------


def test_dicomweb_client_reads_the_worklist(web, engine):
    clock = TestClock()
    record = Record(engine, clock)
    (work_item_id,) = record.schedule()
    with requests.Session() as session:
        session.trust_env = False
        session.auth = AUTH
        found = session.get(f"{web}/workitems", params={"ProcedureStepState": "SCHEDULED"})
        (listed,) = [Dataset.from_json(each) for each in found.json()]
        uid = listed.SOPInstanceUID
        cancelled = session.post(f"{web}/workitems/{uid}/cancelrequest", timeout=TIMEOUT_S)
        assert cancelled.status_code == 202
        (model,) = session.get(f"{web}/workitems/{uid}", timeout=TIMEOUT_S).json()
    ds = Dataset.from_json(model)
    assert ds.ProcedureStepState == "CANCELED"
    assert record.ledger.claim(work_item_id, owner="w", lease_s=30) is None
    stream = io.BytesIO()
    ds.save_as(stream, implicit_vr=False, little_endian=True)
    assert dcmread(io.BytesIO(stream.getvalue()), force=True) is not None
