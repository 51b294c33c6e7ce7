"""The search box finds what people read out, and leads nobody to another patient's study."""

from sqlalchemy import select

from gateway.store.engine import reading
from gateway.store.reading.search import StudySearch
from gateway.store.tables import Study
from tests.records import Record, header


def received(record: Record, **changes: str) -> int:
    uid = record.receive(**changes)
    with reading(record.engine) as connection:
        query = select(Study.id).where(Study.study_instance_uid == uid)
        return int(connection.execute(query).scalar_one())


def test_digits_that_are_a_number_here_and_a_patients_id_find_both(record: Record) -> None:
    first = received(record, patient_id="P-1", accession_number="A-1")
    second = received(record, patient_id=str(first), accession_number="A-2")
    third = received(record, patient_id="P-3", accession_number=str(first))
    search = StudySearch(record.engine, record.clock)
    assert search.find(str(first), actor="anna") == [third, second, first]
    assert search.find(f"#{first}", actor="anna") == [first]


def test_the_case_of_letters_does_not_matter(record: Record) -> None:
    number = received(record, patient_id="P-77A", accession_number="ACC/12b")
    search = StudySearch(record.engine, record.clock)
    for wanted in ("p-77a", "P-77A", "ACC/12b"):
        assert search.find(wanted, actor="anna") == [number], wanted


def test_a_received_series_is_found(record: Record) -> None:
    series = header().series_instance_uid
    number = received(record, series_instance_uid=series)
    assert StudySearch(record.engine, record.clock).find(series, actor="anna") == [number]
