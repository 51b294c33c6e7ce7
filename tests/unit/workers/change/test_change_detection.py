"""Change detection over fakes: what is compared, and what is said where nothing can be."""

from __future__ import annotations

import numpy as np
import pytest

from models.change.result import Reason
from tests.unit.workers.change.change_fakes import (
    Models,
    Spool,
    earlier,
    lesion,
    moved,
    result,
    row,
    run,
)
from tests.unit.workers.fakes import FakePriors, generation_row
from workers.analyses.change_detection import ANALYSIS
from workers.change.lesions import MAX_LESIONS, MAX_TIME_POINTS, followed
from workers.errors import (
    BadModelOutput,
    InstanceMissing,
    NothingDecodable,
    PriorsUnavailable,
    Undecodable,
)
from workers.study import Study

VL = "1.2.840.10008.5.1.4.1.1.77.1.4"


def matched(*rows: object) -> object:
    spool = Spool(dict.fromkeys((1, 2, 3), lesion()))
    return ANALYSIS.match(Study(generation_row(*rows), spool))  # type: ignore[arg-type]


def test_photographs_of_tracked_lesions_match() -> None:
    rows = (row(1), row(2, tracking_uid="", tracking_id_sha256="ab"), row(3, tracking_uid=""))
    assert matched(*rows).instances == rows[:2]


def test_untracked_photograph_matches_when_the_site_has_earlier_images() -> None:
    image = row(1, tracking_uid="", body_site="SCT|1|L", has_earlier=True)
    assert matched(image).instances == (image,)


def test_study_without_anything_to_follow_says_why() -> None:
    found = matched(row(1, tracking_uid=""))
    assert found.instances == ()
    assert "no photograph of a tracked lesion" in found.reason


def test_tiles_of_a_body_scan_are_left_to_screening() -> None:
    tiles = [
        row(1, sop_class_uid=VL, sop_instance_uid=f"2.25.{n}", tracking_uid=f"2.25.7{n}")
        for n in range(MAX_LESIONS + 1)
    ]
    assert matched(*tiles).instances == ()
    dermoscopic = row(2)
    assert matched(*tiles, dermoscopic).instances == (dermoscopic,)


def test_same_lesion_turned_is_compared_with_growth_and_probability() -> None:
    conclusion = run({1: lesion(), 2: moved(lesion())}, row(2), before={2: (earlier(1),)})
    assert conclusion.is_assessed
    assert conclusion.reason == ""
    (found,) = result(conclusion).lesions
    pair = found.comparison
    assert pair.alignment.rotation_deg == pytest.approx(8, abs=0.2)
    assert pair.alignment.is_good
    assert pair.is_changed
    assert pair.change_prob > 0.8
    assert abs(pair.growth.relative) < 0.1
    assert pair.growth.growth_mm2 is None
    assert pair.days == 31
    assert pair.frames.before.shape == pair.frames.after.shape
    assert conclusion.summary["changed"] == 1
    assert len(conclusion.sources) == 2


def test_growth_is_in_square_millimetres_where_both_images_are_calibrated() -> None:
    spool = Spool({1: lesion(), 2: moved(lesion())})
    spool.spacing = {1: [0.05, 0.05], 2: [0.05, 0.05]}
    conclusion = run({}, row(2), before={2: (earlier(1),)}, spool=spool)
    growth = result(conclusion).lesions[0].comparison.growth
    assert growth.growth_mm2 == pytest.approx(growth.growth_px * 0.0025)


def test_probability_below_the_threshold_is_no_change() -> None:
    conclusion = run(
        {1: lesion(), 2: lesion()},
        row(2),
        before={2: (earlier(1),)},
        models=Models(change_logits=[-3.0]),
    )
    assert result(conclusion).lesions[0].comparison.is_changed is False
    assert conclusion.summary["changed"] == 0


CASES = {
    "no earlier image": (None, Reason.NO_PRIOR),
    "mirrored": (np.ascontiguousarray(lesion()[:, ::-1]), Reason.MIRRORED),
    "another lesion": (lesion(2), Reason.NOT_REGISTERED),
    "blank": (np.zeros_like(lesion()), Reason.QUALITY),
    "undecodable": (Undecodable("its pixel data ends early"), Reason.UNDECODABLE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_compared_is_not_assessed_with_its_reason(name: str) -> None:
    picture, reason = CASES[name]
    before = {} if picture is None else {2: (earlier(1),)}
    conclusion = run({1: picture, 2: lesion()}, row(2), before=before)
    assert not conclusion.is_assessed
    (found,) = result(conclusion).lesions
    assert found.not_assessed.reason is reason
    assert found.not_assessed.text in conclusion.reason
    assert len(conclusion.sources) == (1 if picture is None else 2)


def test_images_of_different_magnification_are_not_compared() -> None:
    spool = Spool({1: lesion(), 2: lesion()})
    spool.spacing = {1: [0.01, 0.01], 2: [0.1, 0.1]}
    conclusion = run({}, row(2), before={2: (earlier(1),)}, spool=spool)
    assert result(conclusion).lesions[0].not_assessed.reason is Reason.SCALE


def test_image_without_a_lesion_is_not_compared() -> None:
    conclusion = run(
        {1: lesion(), 2: lesion()},
        row(2),
        before={2: (earlier(1),)},
        models=Models(has_lesion=False),
    )
    assert result(conclusion).lesions[0].not_assessed.reason is Reason.NO_LESION


def test_body_site_alone_links_only_what_the_registration_confirms() -> None:
    site = {"tracking_uid": "", "body_site": "SCT|1|L", "has_earlier": True}
    candidates = tuple(earlier(n, "body_site", **site) for n in (2, 1))
    pictures = {1: lesion(), 2: lesion(2), 3: moved(lesion())}
    (found,) = result(run(pictures, row(3, **site), before={3: candidates})).lesions
    assert found.comparison.before.sop_instance_uid == candidates[1].instance.sop_instance_uid
    assert found.comparison.change_prob is not None
    (other,) = result(run(pictures, row(3, **site), before={3: candidates[:1]})).lesions
    assert other.not_assessed.reason is Reason.OTHER_LESION


def test_one_lesion_that_fails_leaves_its_siblings_alone() -> None:
    second = {"tracking_uid": "2.25.2"}
    conclusion = run(
        {1: lesion(), 2: lesion(), 3: Undecodable("cut off"), 4: None},
        row(2),
        row(3, **second),
        row(4, tracking_uid="2.25.3"),
        before={2: (earlier(1),), 3: (earlier(1, **second),)},
    )
    first, failed = result(conclusion).lesions
    assert first.comparison.change_prob is not None
    assert failed.not_assessed.reason is Reason.UNDECODABLE
    assert conclusion.is_assessed
    assert conclusion.reason.startswith("2 of 3 lesions not assessed")
    assert conclusion.summary["not_assessed"] == 2


def test_study_of_which_nothing_can_be_read_is_rejected() -> None:
    with pytest.raises(NothingDecodable):
        run({1: None}, row(1))


def test_earlier_image_that_is_no_dicom_is_left_out() -> None:
    (found,) = result(run({1: None, 2: lesion()}, row(2), before={2: (earlier(1),)})).lesions
    assert found.not_assessed.reason is Reason.UNDECODABLE


def test_earlier_image_whose_file_is_gone_costs_its_own_pair_only() -> None:
    conclusion = run({1: lesion(), 3: lesion()}, row(3), before={3: (earlier(2), earlier(1))})
    (found,) = result(conclusion).lesions
    assert found.comparison.before.sop_instance_uid == row(1).sop_instance_uid
    with pytest.raises(InstanceMissing):
        run({1: lesion()}, row(2), before={2: (earlier(1),)})


def test_newest_earlier_image_that_fails_gives_way_to_an_older_one() -> None:
    conclusion = run(
        {1: lesion(), 2: lesion(2), 3: lesion()}, row(3), before={3: (earlier(2), earlier(1))}
    )
    (found,) = result(conclusion).lesions
    assert found.comparison.before.sop_instance_uid == row(1).sop_instance_uid
    assert found.comparison.frames is not None
    assert [pair.not_assessed is None for pair in found.sequence] == [False, False, True]


def test_sequence_names_the_first_suspicious_time_point_by_malignancy() -> None:
    pictures = {n: moved(lesion(), n) for n in (1, 2, 3)}
    models = Models(change_logits=[-4.0], melanoma_logits=[-5.0, -5.0, 9.0])  # 3, then 1 and 2
    conclusion = run(pictures, row(3), before={3: (earlier(2), earlier(1))}, models=models)
    (found,) = result(conclusion).lesions
    assert [point.days for point in found.time_points] == [0, 31, 59]
    assert len(found.sequence) == 3
    assert found.first_suspicious is not None
    suspicious = [p for p in found.time_points if p.is_suspicious]
    assert found.first_suspicious is suspicious[0]


def test_sequence_names_the_first_time_point_that_changed() -> None:
    pictures = {n: moved(lesion(), n) for n in (1, 2, 3)}
    models = Models(change_logits=[-4.0, 4.0, 4.0])
    conclusion = run(pictures, row(3), before={3: (earlier(2), earlier(1))}, models=models)
    (found,) = result(conclusion).lesions
    assert found.first_suspicious.sop_instance_uid == row(3).sop_instance_uid


def test_two_images_are_no_sequence() -> None:
    (found,) = result(run({1: lesion(), 2: lesion()}, row(2), before={2: (earlier(1),)})).lesions
    assert found.sequence == ()
    assert found.first_suspicious is None


def test_long_sequence_keeps_the_oldest_image_and_the_newest() -> None:
    images = tuple(
        earlier(1, sop_instance_uid=f"2.25.{n}", acquired_at=f"20{n:02d}0101000000")
        for n in range(24, 4, -1)
    )
    (found,) = followed((row(1),), {row(1).sop_instance_uid: images})
    assert len(found.earlier) == MAX_TIME_POINTS - 1
    assert found.earlier[0] is images[0]
    assert found.earlier[-1] is images[-1]


def test_several_images_of_a_visit_give_one_comparison() -> None:
    clinical = row(3, sop_class_uid=VL, acquired_at="20250201120000")
    dermoscopic = row(2, acquired_at="20250201090000")
    conclusion = run(
        {1: lesion(), 2: lesion(), 3: lesion(2)},
        clinical,
        dermoscopic,
        before={2: (earlier(1),)},
    )
    (found,) = result(conclusion).lesions
    assert found.current.sop_instance_uid == dermoscopic.sop_instance_uid


def test_pacs_that_could_not_be_asked_is_a_reason_of_its_own() -> None:
    conclusion = run({1: lesion()}, row(1), priors=FakePriors(unknown="the PACS is silent"))
    found = result(conclusion).lesions[0].not_assessed
    assert found.reason is Reason.PRIORS_UNKNOWN
    assert "the PACS is silent" in conclusion.reason


def test_pacs_that_will_be_asked_again_ends_the_attempt() -> None:
    with pytest.raises(PriorsUnavailable):
        run({1: lesion()}, row(1), priors=FakePriors(error=PriorsUnavailable("silent")))


@pytest.mark.parametrize(
    "answer", [None, np.zeros((3, 1), np.float32), np.array([[np.nan]], np.float32)]
)
def test_head_that_breaks_its_contract_is_refused(answer: object) -> None:
    with pytest.raises(BadModelOutput):
        run(
            {1: lesion(), 2: lesion()},
            row(2),
            before={2: (earlier(1),)},
            models=Models(answers={"CHANGE_LOGIT": answer}),
        )
