"""Which earlier images a PACS is asked for, and when it is asked at all."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydicom import Dataset

from gateway.store.intake.lesions import LesionIndex, Patient
from gateway.store.values import EarlierImage, InstanceRow
from tests.unit.workers.change.change_fakes import LESION, earlier, row
from workers.adapters.priors import RecordPriors, Wanted
from workers.adapters.priors_choice import Candidate, choose, choose_studies
from workers.errors import PriorsUnavailable

DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


def wanted(**changes: Any) -> Wanted:
    values: dict[str, Any] = {
        "patient_id": "P-1",
        "issuer_of_patient_id": "",
        "before": "20250101",
        "study_instance_uid": "2.25.1",
        "tracking_uids": frozenset({LESION}),
        "only_tracked": False,
        "known": frozenset(),
    }
    return Wanted(**(values | changes))


def candidate(number: int, **changes: Any) -> Candidate:
    values = {
        "study_date": f"2024010{number}",
        "study_instance_uid": f"2.25.1{number}",
        "series_instance_uid": f"2.25.2{number}",
        "sop_instance_uid": f"2.25.3{number}",
        "sop_class_uid": DERMOSCOPIC,
        "modality": "DMS",
        "tracking_uid": "",
    }
    return Candidate(**(values | changes))


def chosen(*candidates: Candidate, limit: int = 9, **changes: Any) -> list[str]:
    found = choose(candidates, wanted(**changes), limit)
    return [uid.removeprefix("2.25.3") for uids in found.values() for uid in uids]


def test_images_of_the_lesion_come_first_then_the_newest() -> None:
    images = (candidate(1, tracking_uid=LESION), candidate(2), candidate(3))
    assert chosen(*images, limit=2) == ["1", "3"]


@pytest.mark.parametrize(
    "unfit",
    [
        {"sop_class_uid": REPORT, "modality": "SR"},
        {"sop_class_uid": SECONDARY_CAPTURE, "modality": "OT"},
        {"sop_instance_uid": ""},
    ],
)
def test_what_is_no_photograph_is_not_fetched(unfit: dict[str, str]) -> None:
    assert chosen(candidate(1, **unfit)) == []


def test_what_is_here_is_not_fetched() -> None:
    assert chosen(candidate(1), known=frozenset({"2.25.31"})) == []


def test_another_tracked_lesion_is_left_out_where_only_uids_can_link() -> None:
    other = candidate(1, tracking_uid="2.25.99")
    assert chosen(other, only_tracked=True) == []
    assert chosen(other) == ["1"]


def study(number: int, **changes: str) -> Dataset:
    ds = Dataset()
    values = {
        "StudyInstanceUID": f"2.25.1{number}",
        "StudyDate": f"2024010{number}",
        "PatientID": "P-1",
    }
    for keyword, value in (values | changes).items():
        setattr(ds, keyword, value)
    return ds


def test_studies_of_the_very_patient_before_this_one_newest_first() -> None:
    answers = [
        study(1),
        study(2),
        study(3, PatientID="P-10"),
        study(4, StudyDate="20990101"),
        study(5, StudyInstanceUID="2.25.1"),
    ]
    found = choose_studies(answers, wanted(), 9)
    assert [ds.StudyInstanceUID for ds in found] == ["2.25.12", "2.25.11"]
    assert len(choose_studies(answers, wanted(), 1)) == 1


class Index:
    """A record that knows more once something was fetched."""

    def __init__(self, held: tuple[EarlierImage, ...] = (), *, identified: bool = True) -> None:
        self.held, self._identified = held, identified

    def earlier(self, study_id: int, instances: Any) -> dict[str, tuple[EarlierImage, ...]]:
        return {each.sop_instance_uid: self.held for each in instances}

    def patient(self, study_id: int) -> Patient | None:
        if not self._identified:
            return None
        return Patient(
            patient_id="P-1",
            issuer_of_patient_id="",
            study_date="",
            study_instance_uid="2.25.1",
            known=frozenset(),
        )


class Archive:
    """A PACS that has one image, or is down."""

    def __init__(self, index: Index, *, is_down: bool = False) -> None:
        self._index, self._is_down = index, is_down
        self.asked: list[Wanted] = []

    def fetch(self, wanted: Wanted, checkpoint: Any) -> int:
        self.asked.append(wanted)
        if self._is_down:
            raise PriorsUnavailable("the PACS is down")
        self._index.held = (earlier(1),)
        return 1


def ask(index: Index, archive: Archive | None, image: InstanceRow, *, is_last: bool = True) -> Any:
    priors = RecordPriors(cast(LesionIndex, index), archive, is_last_attempt=is_last)
    return priors.earlier(3, [image], lambda: None)


def test_pacs_is_asked_only_where_the_record_has_nothing() -> None:
    index = Index((earlier(1),))
    archive = Archive(index)
    assert ask(index, archive, row(2)).of[row(2).sop_instance_uid] == (earlier(1),)
    assert archive.asked == []


def test_what_the_pacs_sent_is_found_in_the_record() -> None:
    index = Index()
    archive = Archive(index)
    found = ask(index, archive, row(2))
    assert found.of[row(2).sop_instance_uid] == (earlier(1),)
    assert found.unknown == ""
    (asked,) = archive.asked
    assert asked.before == "20250201"  # of the image, since the study has no date
    assert asked.only_tracked
    assert "P-1" not in repr(asked)


def test_patient_without_an_identifier_is_never_asked_for() -> None:
    archive = Archive(index := Index(identified=False))
    assert ask(index, archive, row(2)).of == {row(2).sop_instance_uid: ()}
    assert archive.asked == []


def test_site_without_a_pacs_asks_nobody() -> None:
    found = ask(Index(), None, row(2))
    assert (found.of[row(2).sop_instance_uid], found.unknown) == ((), "")


def test_silent_pacs_is_an_attempt_more_or_a_reason() -> None:
    archive = Archive(index := Index(), is_down=True)
    with pytest.raises(PriorsUnavailable):
        ask(index, archive, row(2), is_last=False)
    assert ask(index, archive, row(2)).unknown == "the PACS is down"


def test_what_is_no_photograph_is_no_earlier_image() -> None:
    index = Index((earlier(1, sop_class_uid=REPORT),))
    assert ask(index, None, row(2)).of[row(2).sop_instance_uid] == ()
