"""UPS-RS over HTTP: search, retrieve, cancel, and what is not for others to do."""

import datetime as dt
from types import SimpleNamespace

import pytest
from pydicom import Dataset
from sqlalchemy import select

from gateway.delivery.routes import Route
from gateway.dicomweb.workitem_uid import work_item_id_of, workitem_uid
from gateway.store.engine import reading
from gateway.store.tables import AuditEntry, WorkItem
from tests.pages import CHOSEN
from tests.records import new_object, new_uid

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"


@pytest.fixture
def worklist(client):
    """A client of the worklist, with its password."""

    def get(path="", status=200, **parameters):
        address = f"/dicomweb/workitems{path}"
        found = client.get(address, params=parameters, auth=("admin", CHOSEN))
        assert found.status_code == status, found.text
        return found

    def search(status=200, **parameters):
        found = get(status=status, **parameters)
        return [Dataset.from_json(each) for each in found.json()] if status == 200 else []

    def post(path, method="POST", **keywords):
        return client.request(
            method, f"/dicomweb/workitems{path}", auth=("admin", CHOSEN), **keywords
        )

    def retrieve(uid):
        (model,) = get(f"/{uid}").json()
        return Dataset.from_json(model)

    return SimpleNamespace(get=get, search=search, post=post, retrieve=retrieve)


def uid_of(worklist, kept, work_item_id):
    """Return the UID of a work item, by its study."""
    found = {work_item_id_of(ds.SOPInstanceUID): ds.SOPInstanceUID for ds in worklist.search()}
    return found[work_item_id]


# -- reading ---------------------------------------------------------------------------------


def test_an_empty_worklist_has_no_content(worklist):
    assert worklist.get(status=204).content == b""


def test_search_and_retrieve_say_the_same(worklist, kept):
    study = new_uid()
    (work_item_id,) = kept.schedule(study_instance_uid=study)
    (ds,) = worklist.search()
    assert (ds.SOPClassUID, ds.ProcedureStepState) == (UPS_PUSH, "SCHEDULED")
    assert (ds.StudyInstanceUID, ds.PatientID) == (study, "CANARY-ID")
    assert str(ds.PatientName) == "Canary^Patient"
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "CANARY-ACC"
    assert ds.ReferencedRequestSequence[0].StudyInstanceUID == study
    assert (ds.ScheduledProcedureStepPriority, ds.ProcedureStepLabel) == ("MEDIUM", "diagnosis")
    assert "InputInformationSequence" not in ds
    assert ds.UnifiedProcedureStepPerformedProcedureSequence == []
    assert ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 0
    assert work_item_id_of(ds.SOPInstanceUID) == work_item_id
    whole = worklist.retrieve(ds.SOPInstanceUID)
    (series,) = whole.pop("InputInformationSequence")
    assert whole == ds
    assert (series.StudyInstanceUID, series.TypeOfInstances) == (study, "DICOM")
    assert len(series.ReferencedSOPSequence) == 1
    (in_full,) = worklist.search(includefield="all")
    assert in_full.InputInformationSequence[0] == series
    assert "TransactionUID" not in whole


def test_progress_and_results_of_a_work_item(worklist, kept):
    (work_item_id,) = kept.schedule()
    uid = uid_of(worklist, kept, work_item_id)
    routes = (Route(name="PACS@pacs:104"), Route(name="https://pacs.local/dicom-web"))
    kept.analyse(work_item_id, objects=(new_object(), new_object("seg")), destinations=routes)
    claim = kept.claim(work_item_id)
    for delivery in kept.ledger.load_deliveries(claim)[:2]:
        kept.ledger.mark_delivery(claim, delivery.id, state="CONFIRMED", status=0)
    ds = worklist.retrieve(uid)
    assert ds.ProcedureStepState == "IN PROGRESS"
    assert ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 75
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    assert performed.PerformedProcedureStepStartDateTime.endswith("+0000")
    assert "PerformedProcedureStepEndDateTime" not in performed
    first, second = performed.OutputInformationSequence
    assert first.DICOMRetrievalSequence[0].RetrieveAETitle == "PACS"
    assert (
        first.WADORSRetrievalSequence[-1].RetrieveURL
        == f"https://pacs.local/dicom-web/studies/{ds.StudyInstanceUID}"
        f"/series/{first.SeriesInstanceUID}"
    )
    assert "DICOMRetrievalSequence" not in second
    for delivery in kept.ledger.load_deliveries(claim)[2:]:
        kept.ledger.mark_delivery(claim, delivery.id, state="CONFIRMED", status=0)
    kept.ledger.complete(claim)
    ds = worklist.retrieve(uid)
    assert ds.ProcedureStepState == "COMPLETED"
    assert ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 100
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    assert "PerformedProcedureStepEndDateTime" in performed


def test_a_work_item_that_failed_says_why(worklist, kept):
    (work_item_id,) = kept.schedule()
    kept.ledger.fail(kept.claim(work_item_id), kind="DEFECT", reason="no model")
    (ds,) = worklist.search(ProcedureStepState="CANCELED")
    (progress,) = ds.ProcedureStepProgressInformationSequence
    assert progress.ReasonForCancellation == "no model"
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110501"
    assert progress.ProcedureStepCancellationDateTime


def test_retrieve_in_xml(worklist, kept, client):
    (work_item_id,) = kept.schedule()
    uid = uid_of(worklist, kept, work_item_id)
    found = client.get(
        f"/dicomweb/workitems/{uid}",
        headers={"Accept": "application/dicom+xml"},
        auth=("admin", CHOSEN),
    )
    assert found.headers["content-type"] == "application/dicom+xml"
    assert "<FamilyName>Canary</FamilyName>" in found.text


@pytest.mark.parametrize(
    "values",
    [
        {"patient_name": "", "patient_id": "", "patient_birth_date": "", "accession_number": ""},
        {"patient_name": "A^B^C^D^E^F^G=", "patient_id": "x" * 100, "patient_sex": "unknown"},
        {"patient_birth_date": "1.1.1970", "patient_sex": "ÄÖ\\U"},
        {
            "patient_name": "Mü^J=漢^字=かん^じ",
            "patient_sex": "m",
            "accession_number": "\\\\",
        },
    ],
)
def test_odd_identities_are_shown_as_they_are(worklist, kept, values):
    kept.schedule(**values)
    (found,) = worklist.get().json()
    (uid,) = found["00080018"]["Value"]
    assert worklist.get(f"/{uid}").status_code == 200
    assert found["00100040"].get("Value") is None
    if "漢" in values.get("patient_name", ""):
        assert found["00100010"]["Value"][0]["Ideographic"] == "漢^字"


# -- searching -------------------------------------------------------------------------------


def test_matching(worklist, kept):
    study = new_uid()
    (first, second) = kept.schedule("diagnosis", "prognosis", study_instance_uid=study)
    (other,) = kept.schedule("tbp_screening", patient_name="Other^Name", patient_id="P2")
    kept.claim(other)
    with kept.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE work_items SET urgency = 'urgent' WHERE id = {second}")
    uids = {work_item_id_of(ds.SOPInstanceUID): ds.SOPInstanceUID for ds in worklist.search()}
    day = kept.clock.now.astimezone().strftime("%Y%m%d")
    everything = {first, second, other}
    for query, wanted in (
        ({"ProcedureStepState": "SCHEDULED"}, {first, second}),
        ({"00741000": "IN PROGRESS"}, {other}),
        ({"ProcedureStepState": "COMPLETED"}, set()),
        ({"ScheduledProcedureStepPriority": "HIGH"}, {second}),
        ({"ScheduledProcedureStepPriority": "MEDIUM"}, {first, other}),
        ({"StudyInstanceUID": study}, {first, second}),
        ({"ReferencedRequestSequence.StudyInstanceUID": study}, {first, second}),
        ({"0040A370.0020000D": f"{study},1.2.3"}, {first, second}),
        ({"SOPInstanceUID": uids[first]}, {first}),
        ({"SOPInstanceUID": "1.2.3"}, set()),
        ({"ProcedureStepLabel": "*gnosis"}, {first, second}),
        ({"ProcedureStepLabel": "%gnosis"}, set()),
        ({"WorklistLabel": "Lentigo"}, everything),
        ({"WorklistLabel": "Other"}, set()),
        ({"PatientID": "P2"}, {other}),
        ({"PatientName": "other*"}, {other}),
        ({"PatientName": ""}, everything),
        ({"PatientName": "*"}, everything),
        ({"ScheduledProcedureStepStartDateTime": day}, everything),
        ({"ScheduledProcedureStepStartDateTime": f"{day}-"}, everything),
        ({"ScheduledProcedureStepStartDateTime": f"-{day}"}, everything),
        ({"ScheduledProcedureStepStartDateTime": "19990101-20000101"}, set()),
        ({"ScheduledProcedureStepStartDateTime": "2000-2001"}, set()),
        ({"ScheduledProcedureStepModificationDateTime": f"{day[:6]}"}, everything),
        ({"ProcedureStepState": "SCHEDULED", "ProcedureStepLabel": "prognosis"}, {second}),
    ):
        found = worklist.search(status=200 if wanted else 204, **query)
        assert {work_item_id_of(ds.SOPInstanceUID) for ds in found} == wanted, query


def test_pages_and_limits(worklist, kept, app):
    ids = [kept.schedule()[0] for _ in range(5)]
    seen = []
    for offset in range(0, 6, 2):
        found = worklist.search(limit=2, offset=offset, status=200)
        seen += [work_item_id_of(ds.SOPInstanceUID) for ds in found]
    assert seen == ids[::-1]
    assert "maximum" in worklist.get(limit=2).headers["warning"]
    assert "warning" not in worklist.get(limit=5).headers
    worklist.get(limit=0, status=204)
    worklist.get(offset=5, status=204)


@pytest.mark.parametrize(
    "query",
    [
        "limit=x", "limit=-1", "offset=1e3", "limit=99999999999999999999", "NoSuchKeyword=1",
        "includefield=NoSuchKeyword", "ScheduledProcedureStepStartDateTime=yesterday",
        "ScheduledProcedureStepStartDateTime=20261301", "ScheduledProcedureStepStartDateTime=-",
        "PatientName=" + "x" * 2000, "PatientName=%00", "ZZZZZZZZ=1", "=1", "a.b.c=1",
        "ScheduledProcedureStepStartDateTime=00000101",
        "ScheduledProcedureStepStartDateTime=99991231",
    ],
)  # fmt: skip
def test_odd_queries_are_refused_without_their_values(worklist, client, query):
    found = client.get(f"/dicomweb/workitems?{query}", auth=("admin", CHOSEN))
    assert found.status_code == 400
    assert "yesterday" not in found.text


def test_unsupported_keys_are_named(worklist, kept):
    kept.schedule()
    found = worklist.get(PatientBirthDate="19700101", fuzzymatching="true")
    assert "PatientBirthDate, fuzzymatching" in found.headers["warning"]


@pytest.mark.parametrize(
    "uid",
    ["1.2.3", "2.25.1", "x", "2.25." + "9" * 60, "2.25.٣", "2.25.340282366920938463463374607"],
)
def test_unknown_work_items(worklist, uid):
    worklist.get(f"/{uid}", status=404)
    assert worklist.post(f"/{uid}/cancelrequest").status_code == 404
    assert worklist.post(f"/{uid}/state", "PUT").status_code == 404


def test_a_uid_names_one_row_of_one_installation():
    moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    uid = workitem_uid("serial", 12345, moment)
    assert uid == workitem_uid("serial", 12345, moment)
    assert work_item_id_of(uid) == 12345
    others = {
        workitem_uid("other", 12345, moment),
        workitem_uid("serial", 12346, moment),
        workitem_uid("serial", 12345, moment + dt.timedelta(microseconds=1)),
    }
    assert uid not in others
    assert len(others) == 3
    assert all(len(each) <= 64 for each in others)


# -- cancelling ------------------------------------------------------------------------------


def body(reason):
    return [{"00741238": {"vr": "LT", "Value": [reason]}}]


def test_cancel_requests_by_state(worklist, kept):
    (scheduled, running, done) = kept.schedule("diagnosis", "prognosis", "tbp_screening")
    uids = {each: uid_of(worklist, kept, each) for each in (scheduled, running, done)}
    kept.claim(running)
    kept.analyse(done)
    kept.deliver(done)
    for work_item_id in (scheduled, running):
        path = f"/{uids[work_item_id]}/cancelrequest"
        found = worklist.post(
            path, json=body("wrong side"), headers={"Content-Type": "application/dicom+json"}
        )
        assert (found.status_code, found.content) == (202, b"")
        assert "warning" not in found.headers
        again = worklist.post(path)
        assert again.status_code == 202
        assert again.headers["warning"].endswith(
            ": The UPS is already in the requested state of CANCELED."
        )
        ds = worklist.retrieve(uids[work_item_id])
        assert ds.ProcedureStepState == "CANCELED"
        (progress,) = ds.ProcedureStepProgressInformationSequence
        assert progress.ReasonForCancellation == "canceled on request of admin: wrong side"
        assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    found = worklist.post(f"/{uids[done]}/cancelrequest")
    assert found.status_code == 409
    assert found.headers["warning"].endswith(": The UPS is already COMPLETED.")
    with reading(kept.engine) as connection:
        told = connection.execute(
            select(AuditEntry.actor, AuditEntry.action).where(
                AuditEntry.action.like("work_item.c%")
            )
        ).all()
    assert {tuple(each) for each in told} == {("admin", "work_item.cancel_requested")}
    assert len(told) == 5


def test_a_work_item_whose_results_are_in_the_pacs_is_not_canceled(worklist, kept):
    (work_item_id,) = kept.schedule()
    uid = uid_of(worklist, kept, work_item_id)
    kept.analyse(work_item_id)
    kept.claim(work_item_id)
    found = worklist.post(f"/{uid}/cancelrequest")
    assert found.status_code == 409
    assert "chooses not to cancel" in found.headers["warning"]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", "application/dicom+json", 202),
        (b"[{}]", "application/dicom+json", 202),
        (b"{}", "application/json; charset=utf-8", 202),
        (b"[{}, {}]", "application/dicom+json", 400),
        (b"[]", "application/dicom+json", 400),
        (b"7", "application/dicom+json", 400),
        (b"{", "application/dicom+json", 400),
        (b"\xff", "application/dicom+json", 400),
        (b"[" * 30000, "application/dicom+json", 400),
        (b'[{"00741238": 7}]', "application/dicom+json", 400),
        (b'[{"x": {"vr": "SQ"}}]', "application/dicom+json", 202),
        (b"<xml/>", "application/dicom+xml", 415),
        (b"x", "", 415),
        (b" " * 70_000, "application/dicom+json", 413),
    ],
)
def test_bodies_of_cancel_requests(worklist, kept, content, content_type, status):
    (work_item_id,) = kept.schedule()
    uid = uid_of(worklist, kept, work_item_id)
    found = worklist.post(
        f"/{uid}/cancelrequest", content=content, headers={"Content-Type": content_type}
    )
    assert found.status_code == status, found.text
    with reading(kept.engine) as connection:
        state = connection.execute(select(WorkItem.state)).scalar_one()
    assert state == ("CANCELED" if status == 202 else "SCHEDULED")


# -- what is not for others ------------------------------------------------------------------


def test_creating_updating_and_claiming_are_refused_with_a_reason(worklist, kept):
    (work_item_id,) = kept.schedule()
    uid = uid_of(worklist, kept, work_item_id)
    for path, method, status in (
        ("", "POST", 405),
        (f"/{uid}", "POST", 405),
        (f"/{uid}/state", "PUT", 409),
        ("?workitem=1.2.3", "POST", 405),
    ):
        found = worklist.post(path, method)
        assert found.status_code == status
        assert found.json()["detail"]
        assert found.headers["warning"].startswith("299 Lentigo: ")
    assert worklist.post(f"/{uid}", "DELETE").status_code == 405
    assert worklist.retrieve(uid).ProcedureStepState == "SCHEDULED"


def test_an_account_is_needed(client, stranger):
    stranger.cookies.clear()
    for path in ("", "/1.2.3"):
        assert stranger.get(f"/dicomweb/workitems{path}").status_code == 401
    assert stranger.post("/dicomweb/workitems/1.2.3/cancelrequest").status_code == 401
