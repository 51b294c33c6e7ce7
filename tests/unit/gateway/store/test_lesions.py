"""The lesion index: what counts as an earlier image of the same lesion, and what never does."""

from __future__ import annotations

import hashlib

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select, text

from gateway.listener.ports import Registration
from gateway.store.engine import MIGRATIONS, open_engine
from gateway.store.intake.lesions import (
    BODY_SITE,
    TRACKING_ID,
    TRACKING_UID,
    LesionIndex,
    patient_key,
)
from gateway.store.tables import Generation, Identity, Instance, Study
from gateway.store.values import EarlierImage, InstanceRow
from tests.records import Record, association, header, stored

TRACKED = {"tracking_uid": "2.25.77", "tracking_id": "Lesion 7"}
BACK = {"anatomic_region_code": "SCT|77568009", "image_laterality": "L"}


def receive(record: Record, *, is_fetched: bool = False, content: str = "", **changes: str) -> str:
    """File one image and return its SOP Instance UID."""
    image = header(**changes)
    record.intake.register_instance(
        header=image, stored=stored(content), association=association(), is_fetched=is_fetched
    )
    return image.sop_instance_uid


def earlier(record: Record, uid: str) -> tuple[EarlierImage, ...]:
    """Ask for what is earlier than one image."""
    with record.engine.connect() as connection:
        row = connection.execute(select(Instance).where(Instance.sop_instance_uid == uid)).one()
    image = InstanceRow(
        **{
            name: getattr(row, name)
            for name in InstanceRow.__dataclass_fields__
            if name != "has_earlier"
        }
    )
    return LesionIndex(record.engine).earlier(row.study_id, [image])[uid]


def uids(found: tuple[EarlierImage, ...]) -> list[str]:
    return [each.instance.sop_instance_uid for each in found]


def test_images_with_one_tracking_uid_are_found_newest_first(record):
    oldest = receive(record, acquired_at="20250101090000", **TRACKED)
    middle = receive(record, acquired_at="20250601090000", tracking_uid="2.25.77")
    newest = receive(record, acquired_at="20260101090000", **TRACKED)
    found = earlier(record, newest)
    assert uids(found) == [middle, oldest]
    assert {each.linkage for each in found} == {TRACKING_UID}
    assert uids(earlier(record, oldest)) == []


def test_tracking_id_links_where_there_is_no_uid(record):
    first = receive(record, acquired_at="20250101090000", tracking_id="Lesion 7")
    second = receive(record, acquired_at="20250601090000", tracking_id="Lesion 7")
    (found,) = earlier(record, second)
    assert (found.instance.sop_instance_uid, found.linkage) == (first, TRACKING_ID)


def test_body_site_makes_a_candidate_of_the_same_side_only(record):
    first = receive(record, acquired_at="20250101090000", **BACK)
    receive(record, acquired_at="20250102090000", **(BACK | {"image_laterality": "R"}))
    second = receive(record, acquired_at="20250601090000", **BACK)
    (found,) = earlier(record, second)
    assert (found.instance.sop_instance_uid, found.linkage) == (first, BODY_SITE)


@pytest.mark.parametrize(
    "region",
    [
        {"anatomic_region_code": "SCT|39937001"},
        {"anatomic_region_code": "SCT|38266002"},
        {"body_part_examined": "skin"},
    ],
)
def test_a_region_that_names_no_place_links_nothing(record, region):
    receive(record, acquired_at="20250101090000", **region)
    second = receive(record, acquired_at="20250601090000", **region)
    assert earlier(record, second) == ()


def test_another_tracked_lesion_at_the_body_site_is_no_candidate(record):
    receive(record, acquired_at="20250101090000", tracking_uid="2.25.8", **BACK)
    second = receive(record, acquired_at="20250601090000", tracking_uid="2.25.9", **BACK)
    assert earlier(record, second) == ()


@pytest.mark.parametrize(
    "other",
    [
        {"patient_id": "ANOTHER"},
        {"issuer_of_patient_id": "ELSEWHERE"},
        {"patient_birth_date": "19810203"},
    ],
)
def test_nothing_is_found_across_patients(record, other):
    receive(record, acquired_at="20250101090000", **TRACKED, **other)
    assert earlier(record, receive(record, acquired_at="20250601090000", **TRACKED)) == ()


def test_nothing_is_found_without_a_patient_id(record):
    receive(record, acquired_at="20250101090000", patient_id="", **TRACKED)
    second = receive(record, acquired_at="20250601090000", patient_id=" ", **TRACKED)
    assert earlier(record, second) == ()


def test_study_date_stands_in_for_a_missing_acquisition_date(record):
    late = receive(record, study_date="20260101", **TRACKED)
    early = receive(record, study_date="20250101", **TRACKED)
    index = LesionIndex(record.engine)
    record.clock.advance(10)
    record.intake.close_due_generations()
    with record.engine.connect() as connection:
        ids = {
            row.study_id: row.id
            for row in connection.execute(select(Generation.study_id, Generation.id))
        }
    found = {}
    for generation_id in ids.values():
        generation = record.ledger.load_generation(generation_id)
        assert generation is not None
        found |= index.earlier(generation.study_id, generation.instances)
    assert uids(found[late]) == [early]
    assert found[early] == ()


def test_images_of_one_visit_are_not_earlier_than_each_other(record):
    study = {"study_instance_uid": "2.25.5"}
    receive(record, acquired_at="20250601090000", **TRACKED, **study)
    second = receive(record, acquired_at="20250601091500", **TRACKED, **study)
    assert earlier(record, second) == ()


def test_a_sequence_within_one_study_is_earlier_by_its_days(record):
    study = {"study_instance_uid": "2.25.5"}
    first = receive(record, acquired_at="20250101090000", **TRACKED, **study)
    second = receive(record, acquired_at="20250601091500", **TRACKED, **study)
    assert uids(earlier(record, second)) == [first]


def test_quarantined_versions_and_own_results_are_not_found(record):
    uid = receive(record, acquired_at="20250101090000", **TRACKED)
    receive(record, acquired_at="20250102090000", sop_instance_uid=uid, **TRACKED)
    receive(
        record,
        acquired_at="20250103090000",
        manufacturer="Lentigo",
        manufacturer_model_name="Lentigo",
        **TRACKED,
    )
    second = receive(record, acquired_at="20250601090000", **TRACKED)
    assert uids(earlier(record, second)) == [uid]


def test_untracked_images_say_whether_the_site_has_earlier_ones(record):
    receive(record, acquired_at="20250101090000", **BACK)
    second = receive(record, acquired_at="20250601090000", **BACK)
    record.clock.advance(10)
    record.intake.close_due_generations()
    with record.engine.connect() as connection:
        ids = connection.execute(select(Generation.id).order_by(Generation.id)).scalars().all()
    rows = [record.ledger.load_generation(each).instances[0] for each in ids]
    assert [row.has_earlier for row in rows] == [False, True]
    assert rows[1].sop_instance_uid == second
    assert rows[1].body_site == "SCT|77568009|L"


def test_tracking_id_is_kept_as_a_digest(record):
    uid = receive(record, tracking_id="Mr Canary, left arm")
    with record.engine.connect() as connection:
        row = connection.execute(select(Instance).where(Instance.sop_instance_uid == uid)).one()
    assert row.tracking_id_sha256 == hashlib.sha256(b"Mr Canary, left arm").hexdigest()
    assert "Canary" not in str(row)


def test_fetched_image_is_kept_and_opens_no_generation(record):
    image = header(**TRACKED)
    answer = record.intake.register_instance(
        header=image, stored=stored("a"), association=association(), is_fetched=True
    )
    assert answer is Registration.PRIOR
    with record.engine.connect() as connection:
        assert connection.execute(select(Generation)).first() is None
        study = connection.execute(select(Study)).one()
    assert study.reason == (
        "only earlier images, fetched for comparison with a newer study; not analysed"
    )


@pytest.mark.parametrize("content", ["same bytes", "other bytes"])
def test_fetched_image_that_is_sent_later_is_analysed(record, content):
    image = header(**TRACKED)
    for file, fetched in (("same bytes", True), (content, False)):
        answer = record.intake.register_instance(
            header=image, stored=stored(file), association=association(), is_fetched=fetched
        )
    assert answer is Registration.NEW
    record.clock.advance(10)
    assert record.intake.close_due_generations() == 1
    with record.engine.connect() as connection:
        generation_id = connection.execute(select(Generation.id)).scalar_one()
    generation = record.ledger.load_generation(generation_id)
    assert [each.sop_instance_uid for each in generation.instances] == [image.sop_instance_uid]


def test_fetching_what_is_here_never_raises_an_alarm(record):
    image = header(**TRACKED)
    answers = [
        record.intake.register_instance(
            header=image, stored=stored(file), association=association(), is_fetched=fetched
        )
        for file, fetched in (("a", False), ("a", True), ("b", True))
    ]
    assert answers == [Registration.NEW, Registration.DUPLICATE, Registration.PRIOR]
    newer = receive(record, acquired_at="20990101090000", **TRACKED)
    assert uids(earlier(record, newer)) == [image.sop_instance_uid]


def test_studies_of_the_release_before_get_their_patient_key(own_record_url):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = own_record_url
    command.upgrade(config, "0001")
    engine = open_engine(own_record_url)
    now = "2026-01-01 00:00:00+00:00"
    with engine.begin() as connection:
        for number, patient_id in ((1, "P-1"), (2, " ")):
            connection.execute(
                text(
                    "INSERT INTO studies (id, study_instance_uid, state, reason, "
                    "first_received_at, last_received_at, state_changed_at) "
                    f"VALUES ({number}, '2.25.{number}', 'completed', '', "
                    f"'{now}', '{now}', '{now}')"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO identities (study_id, patient_id, issuer_of_patient_id, "
                    "patient_name, patient_birth_date, patient_sex, accession_number, "
                    "study_date, study_description) "
                    f"VALUES ({number}, '{patient_id}', 'H', '', '', '', '', '', '')"
                )
            )
    command.upgrade(config, "head")
    with engine.connect() as connection:
        keys = connection.execute(
            select(Identity.patient_key).order_by(Identity.study_id)
        ).scalars()
        assert list(keys) == [patient_key("H", "P-1"), ""]
    engine.dispose()


def test_patient_key_does_not_join_issuer_and_id():
    assert patient_key("A", "BC") != patient_key("AB", "C")
