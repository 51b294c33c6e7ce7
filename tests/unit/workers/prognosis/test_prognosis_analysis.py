"""``prognosis``: which studies get one, from what, and what stands against it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from models.prognosis.reasons import Obstacle
from reports.context import SourceImage
from reports.encode import encode
from tests.unit.reports.prognosis.prognosis_builders import manifest
from tests.unit.reports.report_builders import context
from tests.unit.workers.fakes import study
from tests.unit.workers.prognosis.prognosis_world import (
    FULL_BUNDLE,
    PATIENT,
    STAGE_IIA,
    ULCERATED,
    Served,
    World,
    bundle,
    document,
    number_item,
    observation,
    report,
    site_document,
)
from workers.analyses.prognosis import ANALYSIS
from workers.errors import BadModelOutput, NothingDecodable
from workers.ports import Document
from workers.study import Study

KNOWN = {"PatientSex": "F", "PatientAge": "061Y", "StudyDate": "20250301"}


def kinds(world: World) -> list[Obstacle]:
    return [reason.kind for reason in world.result().reasons]


# -- match ------------------------------------------------------------------------------------


def test_an_ordinary_study_gets_no_prognosis() -> None:
    world = World(patient=KNOWN)
    assert world.match().instances == ()
    assert world.source.read == [], "routing reads nothing of it"


@pytest.mark.parametrize(
    "other",
    [
        document({"lesions": []}, "tbp.json"),
        Document(name="prognosis.csv", media_type="text/csv", content=b"a,b\n1,2\n"),
        document(bundle(PATIENT), "patient.json"),
        document(bundle(observation({"system": "http://loinc.org", "code": "30525-0"})), "a.json"),
        document(bundle(observation({"system": "http://loinc.org", "code": "97816-3"})), "b.json"),
        document([1, 2], "c.json"),
    ],
)
def test_documents_of_others_are_left_alone(other: Document) -> None:
    assert World(other).match().instances == ()


@pytest.mark.parametrize(
    "given",
    [
        site_document(name="any.json"),
        document(bundle(*FULL_BUNDLE), "any.json", "application/fhir+json"),
        document({"unheard": "of"}, "prognosis-2.json"),
    ],
)
def test_a_study_with_its_document_does(given: Document) -> None:
    match = World(given).match()
    assert len(match.instances) == 1
    assert "1 documents" in match.reason


def test_a_structured_report_asks_for_one_where_it_speaks_of_a_melanoma() -> None:
    assert World(reports=(report(number_item("2.1", "mm")),)).match().instances
    of_another_tumour = report(STAGE_IIA, number_item("61", "a", "DCM", "121033", "Subject Age"))
    assert World(reports=(of_another_tumour,)).match().instances == ()
    assert World(reports=(None,)).match().instances == ()


def test_large_and_many_reports_are_not_looked_into() -> None:
    one = report(number_item("2.1", "mm"))
    large = World(reports=(one,), report_bytes=2**30)
    assert large.match().instances == ()
    many = World(reports=tuple(report(number_item("2.1", "mm")) for _ in range(9)))
    assert many.match().instances == ()
    assert large.source.read == many.source.read == []


def test_documents_without_an_instance_wait() -> None:
    empty: Study = study(documents=(site_document(),))
    assert ANALYSIS.match(empty).instances == ()


def test_result_is_filed_with_a_photograph() -> None:
    world = World(reports=(report(number_item("2.1", "mm")),))
    assert world.match().instances[0].modality == "DMS"
    alone = World(photographs=0, reports=(report(number_item("2.1", "mm")),))
    assert alone.match().instances[0].modality == "SR"


# -- from covariates to a result --------------------------------------------------------------


def test_a_complete_document_is_assessed_as_the_model_says() -> None:
    world = World(site_document())
    conclusion = world.run()
    (coded,) = world.served.asked
    assert np.allclose(coded, [[math.log2(2.1) - 1, 1.0, 0.0, 0.6]], atol=1e-6)
    result = world.result()
    assert result.prognosis is not None
    beta = np.log([line.ratio for line in manifest().hazard_ratios])
    assert result.prognosis.risk_score == pytest.approx(float(coded[0] @ beta), abs=1e-5)
    product = math.prod(line.hazard_ratio or 0 for line in result.covariates)
    assert product == pytest.approx(math.exp(result.prognosis.risk_score), rel=1e-5)
    assert conclusion.is_assessed
    assert conclusion.reason == ""
    assert [line.source for line in result.covariates] == ["JSON document"] * 4
    assert [line.value for line in result.covariates] == ["2.1 mm", "yes", "female", "61 years"]
    assert result.remarks == ()


def test_headline_holds_no_covariate() -> None:
    summary = World(site_document()).run().summary
    assert summary["headline"].startswith(summary["group"])
    assert "2.1" not in str(summary)
    assert set(summary["free"]) == {"3", "5", "7"}


def test_header_fills_in_sex_and_age_and_says_so() -> None:
    world = World(site_document(sex="gone", age="gone"), patient=KNOWN)
    result = world.result()
    assert result.prognosis is not None
    assert [line.source for line in result.covariates[2:]] == ["DICOM header"] * 2
    assert any("date of the study" in remark for remark in result.remarks)


def test_a_structured_report_alone_will_do() -> None:
    sr = report(number_item("0.21", "cm"), ULCERATED, STAGE_IIA)
    result = World(reports=(sr,), patient=KNOWN).result()
    assert result.prognosis is not None
    assert (result.stage, result.stage_source) == ("IIA", "structured report")
    assert result.covariates[0].value == "0.21 cm"


def test_a_fhir_bundle_alone_will_do() -> None:
    world = World(document(bundle(*FULL_BUNDLE)), patient={"StudyDate": "20250516"})
    result = world.result()
    assert result.prognosis is not None
    assert [line.value for line in result.covariates] == ["1.8 mm", "yes", "male", "75 years"]
    assert any("date of the study" in remark for remark in result.remarks)


def test_order_is_json_fhir_report_header_and_conflicts_are_named() -> None:
    world = World(
        site_document(ulceration="gone", sex="gone", stage=None),
        document(bundle(*FULL_BUNDLE[:2]), "b.json"),
        reports=(report(number_item("3.3", "mm"), ULCERATED, STAGE_IIA),),
        patient=KNOWN,
    )
    result = world.result()
    assert [line.value for line in result.covariates] == ["2.1 mm", "yes", "male", "61 years"]
    sources = [line.source for line in result.covariates]
    assert sources == ["JSON document", "structured report", "FHIR document", "JSON document"]
    told = [remark for remark in result.remarks if "goes first" in remark]
    assert len(told) == 4, result.remarks
    assert any("1.8 mm" in remark and "FHIR" in remark for remark in told)
    assert any("3.3 mm" in remark and "structured report" in remark for remark in told)
    assert any("female" in remark and "DICOM header" in remark for remark in told)
    assert any("75 years" in remark and "FHIR" in remark for remark in told)
    assert result.prognosis is not None


def test_ages_of_one_patient_agree_within_a_year() -> None:
    world = World(site_document(age={"value": 60.4, "unit": "a"}), patient=KNOWN)
    assert world.result().remarks == ()


# -- what stands against it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"thickness": "gone"}, Obstacle.MISSING),
        ({"thickness": None}, Obstacle.MISSING),
        ({"thickness": {"value": 2.1}}, Obstacle.WRONG_UNIT),
        ({"thickness": 2.1}, Obstacle.WRONG_UNIT),
        ({"thickness": {"value": 2.1, "unit": "in"}}, Obstacle.WRONG_UNIT),
        ({"thickness": {"value": 2.1, "unit": "MM"}}, Obstacle.WRONG_UNIT),
        ({"thickness": {"value": 2.1, "unit": "m"}}, Obstacle.WRONG_UNIT),
        ({"thickness": {"value": 2100, "unit": "mm"}}, Obstacle.IMPOSSIBLE),
        ({"thickness": {"value": 0, "unit": "mm"}}, Obstacle.IMPOSSIBLE),
        ({"thickness": {"value": -1, "unit": "mm"}}, Obstacle.IMPOSSIBLE),
        ({"thickness": {"value": "2.1", "unit": "mm"}}, Obstacle.NOT_A_NUMBER),
        ({"thickness": {"value": 10**400, "unit": "mm"}}, Obstacle.NOT_A_NUMBER),
        ({"thickness": True}, Obstacle.NOT_A_NUMBER),
        ({"thickness": {"value": 2.1, "unit": 3}}, Obstacle.UNREADABLE),
        ({"thickness": {"v": 2.1}}, Obstacle.UNREADABLE),
        ({"thickness": [2.1]}, Obstacle.UNREADABLE),
        ({"ulceration": "maybe"}, Obstacle.NOT_A_CHOICE),
        ({"ulceration": 1}, Obstacle.NOT_A_CHOICE),
        ({"sex": "other"}, Obstacle.NOT_A_CHOICE),
        ({"age": {"value": 61, "unit": "mm"}}, Obstacle.WRONG_UNIT),
        ({"age": {"value": 140, "unit": "a"}}, Obstacle.IMPOSSIBLE),
        ({"stage": None}, Obstacle.STAGE_MISSING),
        ({"stage": ""}, Obstacle.STAGE_MISSING),
        ({"stage": "T2b"}, Obstacle.STAGE_UNREADABLE),
        ({"stage": "IIIC"}, Obstacle.STAGE_OUT_OF_SCOPE),
        ({"stage": "Stage IV"}, Obstacle.STAGE_OUT_OF_SCOPE),
        ({"stage": "0"}, Obstacle.STAGE_OUT_OF_SCOPE),
        ({"stage": 2}, Obstacle.UNREADABLE),
    ],
)
def test_nothing_is_imputed_and_each_obstacle_has_its_code(
    changes: dict[str, Any], kind: Obstacle
) -> None:
    world = World(site_document(**changes))
    conclusion = world.run()
    assert not conclusion.is_assessed
    assert kind in kinds(world)
    assert world.served.asked == [], "the model is not asked"
    assert conclusion.reason.startswith("not assessed: ")
    for secret in ("2.1", "2100", "140", "maybe"):
        assert secret not in conclusion.reason
    assert conclusion.summary == {"assessed": False}


def test_all_reasons_are_told_at_once() -> None:
    world = World(document({"lentigo": "prognosis"}))
    assert kinds(world) == [Obstacle.STAGE_MISSING] + [Obstacle.MISSING] * 4


def test_a_wrong_value_is_not_replaced_by_another_source() -> None:
    world = World(
        site_document(thickness={"value": 2.1, "unit": "in"}),
        reports=(report(number_item("2.1", "mm")),),
        patient=KNOWN,
    )
    assert kinds(world) == [Obstacle.WRONG_UNIT]


@pytest.mark.parametrize(
    "broken",
    [
        document({"lentigo": "prognosis", "covariats": {}}, "prognosis-b.json"),
        document({"lentigo": "prognosis", "covariates": [1]}, "prognosis-b.json"),
        document({"some": "thing"}, "prognosis-b.json"),
        document(b"{", "prognosis-b.json"),
        document(bundle(*FULL_BUNDLE, PATIENT), "prognosis-b.json"),
    ],
)
def test_a_source_that_cannot_be_read_stops_it(broken: Document) -> None:
    assert kinds(World(site_document(), broken)) == [Obstacle.UNREADABLE]


def test_two_tumours_in_one_report_cannot_be_told_apart() -> None:
    sr = report(number_item("2.1", "mm"), number_item("0.4", "mm"), ULCERATED, STAGE_IIA)
    assert kinds(World(reports=(sr,), patient=KNOWN)) == [Obstacle.AMBIGUOUS]
    same = report(number_item("2.1", "mm"), number_item("0.21", "cm"), ULCERATED, STAGE_IIA)
    assert kinds(World(reports=(same,), patient=KNOWN)) == []


def test_unknown_covariates_are_named_and_not_used() -> None:
    result = World(site_document(mitoses=3, **{"x" * 100: "y"})).result()
    assert result.prognosis is not None
    assert any("mitoses" in remark for remark in result.remarks)


def test_values_beyond_the_training_cohort_are_remarked_on() -> None:
    result = World(site_document(age={"value": 99, "unit": "a"})).result()
    assert result.prognosis is not None
    assert any("outside the training cohort" in remark for remark in result.remarks)


# -- the model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs.pop("SURVIVAL"),
        lambda outputs: outputs.update(SURVIVAL=np.array([[0.5, 0.6, 0.7]], np.float32)),
        lambda outputs: outputs.update(SURVIVAL_LOW=np.ones((1, 3), np.float32)),
        lambda outputs: outputs.update(LINEAR_PREDICTOR=np.ones((1, 2), np.float32)),
        lambda outputs: outputs.update(LINEAR_PREDICTOR=np.array([[np.nan]], np.float32)),
        lambda outputs: outputs.update(SURVIVAL=np.ones((1, 2), np.float32)),
    ],
)
def test_broken_outputs_are_no_result(change: Any) -> None:
    with pytest.raises(BadModelOutput):
        World(site_document(), served=Served(change)).run()


def test_an_instance_that_cannot_be_read_is_said() -> None:
    world = World(site_document(), photographs=0, reports=(None,))
    with pytest.raises(NothingDecodable):
        world.run()


def test_result_can_be_written() -> None:
    for world in (
        World(site_document()),
        World(site_document(stage="IV")),
        World(photographs=0, reports=(report(number_item("2.1", "mm")),)),
    ):
        conclusion = world.run()
        (source,) = conclusion.sources
        assert isinstance(source, SourceImage)
        made = encode(conclusion.result, context(source, analysis="prognosis"))
        assert [each.role for each in made] == ["sr", "page-1", "overview-1"]
