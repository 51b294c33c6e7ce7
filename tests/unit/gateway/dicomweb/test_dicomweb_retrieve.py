"""WADO-RS over HTTP: what is kept comes out as it is, for those who may read it."""

import io

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from sqlalchemy import select

from gateway.dicomweb.multipart import MediaType, MultipartReader, PartBegin, PartData
from gateway.settings import StoreSettings
from gateway.store.engine import reading, utc_now
from gateway.store.tables import AuditEntry, Instance, ResultObject, Study
from tests.instances import JPEG, encoded, instance, new_uid
from tests.records import new_object
from tests.unit.gateway.dicomweb.test_dicomweb_store import body_of, post

ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@pytest.fixture
def stored(http, web):
    """Three instances of one study: two of one series, one of them compressed."""
    study, series = new_uid(), new_uid()
    sets = [
        instance(StudyInstanceUID=study, SeriesInstanceUID=series, side=300),
        instance(StudyInstanceUID=study, SeriesInstanceUID=series, transfer_syntax_uid=JPEG),
        instance(StudyInstanceUID=study),
    ]
    assert post(http, web, body_of(*map(encoded, sets))).status_code == 200
    return sets


def parts_of(response):
    """Return (transfer syntax, data set) of each part."""
    content_type = MediaType.parse(response.headers["content-type"])
    assert content_type.essence == "multipart/related"
    assert content_type.parameters["type"] == "application/dicom"
    reader = MultipartReader(content_type.parameters["boundary"])
    found = []
    for event in reader.feed(response.content):
        if isinstance(event, PartBegin):
            head = MediaType.parse(event.headers["content-type"])
            found.append([head.parameters["transfer-syntax"], event.headers, b""])
        elif isinstance(event, PartData):
            found[-1][2] += event.data
    assert reader.is_complete
    for syntax, headers, data in found:
        assert dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == syntax
        assert int(headers["content-length"]) == len(data)
    return [dcmread(io.BytesIO(data)) for _, _, data in found]


def path(ds, level="instance"):
    found = f"/studies/{ds.StudyInstanceUID}"
    if level != "study":
        found += f"/series/{ds.SeriesInstanceUID}"
    return found + (f"/instances/{ds.SOPInstanceUID}" if level == "instance" else "")


def get(http, web, where, accept=ANY):
    return http.get(web + where, headers={"Accept": accept}, timeout=60)


def test_study_series_and_instance_come_out_as_they_came_in(http, web, stored):
    first, second, third = stored
    assert parts_of(get(http, web, path(first, "study"))) == stored
    assert parts_of(get(http, web, path(first, "series"))) == [first, second]
    assert parts_of(get(http, web, path(third))) == [third]


def test_the_answer_to_a_store_says_where_it_is(http, web):
    ds = instance()
    answer = Dataset.from_json(post(http, web, body_of(encoded(ds))).json())
    (item,) = answer.ReferencedSOPSequence
    for address in (answer.RetrieveURL, item.RetrieveURL):
        assert parts_of(http.get(address, timeout=60)) == [ds]


def test_dicomweb_client_retrieves(http, web, stored):
    client = DICOMwebClient(web, session=http)
    found = client.retrieve_study(stored[0].StudyInstanceUID)
    assert {ds.SOPInstanceUID for ds in found} == {ds.SOPInstanceUID for ds in stored}
    for ds in stored:
        uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        kind = (("application/dicom", "*"),)
        assert client.retrieve_instance(*uids, media_types=kind) == ds


def test_our_results_are_retrieved_and_named_by_the_worklist(http, web, kept, home):
    (work_item_id,) = kept.schedule()
    with reading(kept.engine) as connection:
        study = connection.execute(select(Study.study_instance_uid)).scalar_one()
    ds = instance(StudyInstanceUID=study)
    folder = StoreSettings(home=home).results_folder
    folder.mkdir(parents=True)
    (folder / "sr.dcm").write_bytes(encoded(ds))
    made = new_object(
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        path="sr.dcm",
    )
    kept.analyse(work_item_id, objects=(made,))
    assert parts_of(get(http, web, path(ds))) == [ds]
    (model,) = http.get(f"{web}/workitems", params={"includefield": "all"}, timeout=60).json()
    (performed,) = Dataset.from_json(model).UnifiedProcedureStepPerformedProcedureSequence
    (output,) = performed.OutputInformationSequence
    address = output.WADORSRetrievalSequence[0].RetrieveURL
    assert parts_of(http.get(address, timeout=60)) == [ds]


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("", 200),
        ("*/*", 200),
        ("multipart/related; type=application/dicom", 200),
        (f'multipart/related; type="application/dicom"; transfer-syntax={JPEG}', 200),
        (f'multipart/related; type="application/dicom"; transfer-syntax={JPEG}, */*;q=0.1', 200),
        ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1', 406),
        ("image/jpeg", 406),
        ('multipart/related; type="application/octet-stream"', 406),
        ("application/dicom+json", 406),
    ],
)
def test_nothing_is_converted(http, web, stored, accept, status):
    assert get(http, web, path(stored[1]), accept).status_code == status


def test_one_instance_comes_without_multipart_where_that_is_asked_for(http, web, stored):
    found = get(http, web, path(stored[1]), "application/dicom; transfer-syntax=*")
    assert found.headers["content-type"] == f"application/dicom; transfer-syntax={JPEG}"
    assert dcmread(io.BytesIO(found.content)) == stored[1]
    assert parts_of(get(http, web, path(stored[1], "study"), "application/dicom")) == stored


def test_what_is_not_kept_is_not_found(http, web, stored, kept, spool):
    first = stored[0]
    for where in (
        "/studies/1.2.3",
        f"/studies/{first.StudyInstanceUID}/series/1.2.3",
        f"/studies/1.2.3/series/{first.SeriesInstanceUID}",
        f"{path(first, 'series')}/instances/1.2.3",
    ):
        assert get(http, web, where).status_code == 404
    for where in ("/studies/..", "/studies/1.2/series/x", f"/studies/{'1' * 65}"):
        assert get(http, web, where).status_code in (400, 404, 405)
    with kept.engine.begin() as connection:
        connection.execute(
            Instance.__table__.update()
            .where(Instance.sop_instance_uid == first.SOPInstanceUID)
            .values(purged_at=utc_now())
        )
    assert get(http, web, path(first)).status_code == 404
    for file in spool("instances"):
        file.unlink()
    assert get(http, web, path(first, "study")).status_code == 404


def test_quarantined_instances_stay_inside(http, web, kept):
    ds = instance()
    post(http, web, body_of(encoded(ds)))
    other = instance(StudyInstanceUID=ds.StudyInstanceUID, SOPInstanceUID=ds.SOPInstanceUID)
    post(http, web, body_of(encoded(other)))
    with reading(kept.engine) as connection:
        assert len(connection.execute(select(Instance)).all()) == 2
    assert parts_of(get(http, web, path(ds, "study"))) == [ds]


def test_every_access_is_in_the_audit_trail(http, web, stored, kept):
    assert get(http, web, path(stored[0], "series")).status_code == 200
    with reading(kept.engine) as connection:
        study = connection.execute(select(Study.id)).scalar_one()
        rows = connection.execute(select(AuditEntry).order_by(AuditEntry.id)).all()
    (row,) = [row for row in rows if row.action == "instances.accessed"]
    assert row.actor == "admin"
    assert (row.detail["study"], row.detail["instances"]) == (study, 2)


def test_a_stranger_gets_nothing(web, stored):
    with requests.Session() as stranger:
        stranger.trust_env = False
        assert get(stranger, web, path(stored[0])).status_code == 401
        stranger.auth = ("admin", "wrong")
        assert get(stranger, web, path(stored[0])).status_code == 401


def test_no_uid_is_logged(http, web, stored, caplog):
    with caplog.at_level("INFO"):
        get(http, web, path(stored[0]))
        get(http, web, "/studies/1.2.3.4.5.6.7")
    assert stored[0].StudyInstanceUID not in caplog.text
    assert "1.2.3.4.5.6.7" not in caplog.text


def test_the_trail_names_no_result_object_that_is_not_there(http, web, kept):
    (work_item_id,) = kept.schedule()
    kept.analyse(work_item_id, objects=(new_object(path="gone.dcm"),))
    with reading(kept.engine) as connection:
        row = connection.execute(select(ResultObject)).one()
        study = connection.execute(select(Study.study_instance_uid)).scalar_one()
    where = f"/studies/{study}/series/{row.series_instance_uid}"
    assert get(http, web, where).status_code == 404
