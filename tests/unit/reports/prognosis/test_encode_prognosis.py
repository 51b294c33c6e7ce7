"""A prognosis as DICOM: report, page, picture; what they say, and that they are valid."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from models.prognosis.patient import HorizonSurvival
from models.prognosis.reasons import Obstacle
from models.prognosis.result import PrognosisResult
from reports import coding
from reports.context import ReportObject, SourceImage
from reports.encode import encode
from reports.errors import ResultError
from reports.page import HEIGHT, WIDTH, Page, Text
from reports.page_fonts import text_width
from reports.prognosis import codes
from reports.prognosis.sheet import prognosis_page
from tests.unit.reports.prognosis.prognosis_builders import assessed, manifest, not_assessed
from tests.unit.reports.report_builders import PREDECESSOR, context, header

Validator = Callable[[Dataset], None]
SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"


def objects(
    result: PrognosisResult, ds: Dataset | None = None, **changes: Any
) -> list[ReportObject]:
    image = SourceImage(header=ds if ds is not None else header(), pixels=None)
    return encode(result, context(image, analysis="prognosis", **changes))


def report_source() -> Dataset:
    """A structured report as the only instance of a study."""
    without = ("Rows", "Columns", "LossyImageCompression", "LossyImageCompressionRatio")
    ds = header(sop_class_uid=SR_CLASS, without=(*without, "LossyImageCompressionMethod"))
    ds.Modality = "SR"
    return ds


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence") or ():
        yield item
        yield from items(item)


def said(ds: Dataset, concept: coding.Concept) -> list[Any]:
    """Values of the items of one concept."""
    found = []
    for item in items(ds):
        name = item.get("ConceptNameCodeSequence")
        if not name or name[0].CodeValue != concept.value:
            continue
        if item.ValueType == "NUM":
            found.append(float(item.MeasuredValueSequence[0].NumericValue))
        elif item.ValueType == "CODE":
            found.append(item.ConceptCodeSequence[0].CodeValue)
        else:
            found.append(item.TextValue)
    return found


def words(page: Page) -> str:
    return " ".join(mark.text for mark in page.marks if isinstance(mark, Text))


@pytest.mark.parametrize(
    ("result", "source"),
    [
        (assessed(), header()),
        (assessed(thickness=0.4, ulcer=0.0), header(geometry=True, spacing=[0.1, 0.1])),
        (assessed(), report_source()),
        (not_assessed(), header()),
        (not_assessed(), report_source()),
    ],
)
def test_every_object_is_valid(
    result: PrognosisResult, source: Dataset, dciodvfy: Validator, strictly_valid: Validator
) -> None:
    made = objects(result, source)
    assert [each.role for each in made] == ["sr", "page-1", "overview-1"]
    for each in made:
        dciodvfy(each.dataset)
        strictly_valid(each.dataset)


def test_dcmtk_reads_the_report(dsrdump: Callable[[Dataset], str]) -> None:
    for source in (header(), report_source()):
        text = dsrdump(objects(assessed(), source)[0].dataset)
        assert "Not dead of melanoma 5 y" in text
        assert "High risk" in text


def test_the_same_result_gives_the_same_bytes() -> None:
    first, second = objects(assessed()), objects(assessed())
    for one, other in zip(first, second, strict=True):
        assert written(one.dataset) == written(other.dataset), one.role


def test_numbers_of_the_report_are_those_of_the_model() -> None:
    result = assessed()
    assert result.prognosis is not None
    report = objects(result)[0].dataset
    for each in result.prognosis.survival:
        name = codes.free_of_concept(manifest().free_of, each.years)
        low = codes.limit_concept(each.years, is_upper=False)
        high = codes.limit_concept(each.years, is_upper=True)
        wanted = (100 * each.probability, 100 * each.low, 100 * each.high)
        found = [said(report, concept)[0] for concept in (name, low, high)]
        assert np.allclose(found, wanted, atol=0.01)
    assert np.allclose(said(report, codes.RISK_SCORE), result.prognosis.risk_score, atol=0.01)
    assert said(report, codes.RISK_GROUP) == [coding.HIGH_RISK.value]
    assert len(said(report, codes.COVARIATE_USED)) == len(result.covariates)
    assert "6.76 mm (from the JSON document)" in said(report, codes.COVARIATE_USED)[0]
    assert said(report, codes.STAGE) == ["IIA (from the JSON document)"]
    assert said(report, codes.REMARK) == list(result.remarks)


def test_low_risk_is_called_so() -> None:
    result = assessed(thickness=0.3, ulcer=0.0, sex=0.0, age=40.0)
    made = objects(result)
    assert said(made[0].dataset, codes.RISK_GROUP) == [coding.LOW_RISK.value]
    assert "AI prognosis: low risk" in words(prognosis_page(result))


def test_the_endpoint_is_death_from_melanoma_and_never_recurrence() -> None:
    result = assessed()
    report = objects(result)[0].dataset
    texts = " ".join([*said(report, codes.ENDPOINT), words(prognosis_page(result))])
    assert manifest().endpoint.split(";")[0] in texts
    assert "recurrence" not in texts.lower()
    assert "Competing risks" in texts


@pytest.mark.parametrize("kind", list(Obstacle))
def test_every_reason_has_its_code(kind: Obstacle, strict: None) -> None:
    made = objects(not_assessed(kind))
    report = made[0].dataset
    assert said(report, coding.ASSESSMENT_STATUS) == [coding.NOT_ASSESSED.value]
    assert said(report, coding.REASON_AGAINST) == [codes.REASONS[kind].value]
    assert said(report, codes.RISK_GROUP) == []
    assert len({concept.value for concept in codes.REASONS.values()}) == len(Obstacle)
    assert len(codes.REASONS[kind].value) <= 16
    assert kind.value.lower() in words(prognosis_page(not_assessed(kind))).lower()


def test_an_image_gets_a_region_and_a_report_gets_none() -> None:
    drawn_image = header()
    sources = (drawn_image, report_source())
    drawn, printed = (objects(assessed(), ds)[0].dataset for ds in sources)
    (region,) = [item for item in items(drawn) if item.ValueType == "SCOORD"]
    assert region.GraphicType == "POLYLINE"
    columns, rows = region.GraphicData[::2], region.GraphicData[1::2]
    # Viewers write to the right of it: there must be room, within the image.
    assert 0 < min(columns) < max(columns) < 0.1 * drawn_image.Columns
    assert 0.5 * drawn_image.Rows < min(rows) < max(rows) < 0.9 * drawn_image.Rows
    assert drawn.ConceptNameCodeSequence[0].CodeValue == "126000"
    kinds = [item.ValueType for item in items(printed)]
    assert "SCOORD" not in kinds
    assert "IMAGE" not in kinds, "a structured report is no image"
    assert printed.ConceptNameCodeSequence[0].CodeValue == "126001"
    (evidence,) = printed.CurrentRequestedProcedureEvidenceSequence
    assert evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence


def test_a_page_inherits_nothing_of_the_image() -> None:
    picture = objects(assessed(), header())[2].dataset
    assert picture.LossyImageCompression == "00"
    assert "LossyImageCompressionRatio" not in picture
    assert picture.pixel_array.shape == (2 * HEIGHT, 2 * WIDTH, 3)


def test_superseding_reports_point_back() -> None:
    made = objects(assessed(), generation=2, predecessors=(PREDECESSOR,))
    assert "PredecessorDocumentsSequence" in made[0].dataset
    assert all("rev. 2" in each.dataset.SeriesDescription for each in made)
    assert len({each.dataset.SeriesInstanceUID for each in made}) == 3
    assert len({each.dataset.SeriesNumber for each in made}) == 3


def test_demonstration_models_say_so_first() -> None:
    result = assessed(manifest=replace(manifest(), evidence_level="simulated"))
    assert words(prognosis_page(result)).index("DEMONSTRATION MODEL") < 120
    comments = said(objects(result)[0].dataset, coding.COMMENT)
    assert comments[0].startswith("DEMONSTRATION MODEL")


@pytest.mark.parametrize(
    "remarks", [(), ("a remark of many words " * 20,) * 3, tuple(f"remark {n}" for n in range(40))]
)
def test_page_stays_within_its_margins(remarks: tuple[str, ...]) -> None:
    for result in (assessed(remarks=remarks), not_assessed(*Obstacle, remarks=remarks)):
        page = prognosis_page(result)
        for mark in page.marks:
            if not isinstance(mark, Text):
                continue
            width = text_width(mark.text, mark.size, mark.is_bold)
            left = mark.at[0] - {"left": 0, "centre": width / 2, "right": width}[mark.align]
            assert left >= 40, mark.text
            assert left + width <= WIDTH - 40, mark.text
            assert mark.at[1] < HEIGHT - 15


def test_patient_is_not_named() -> None:
    made = objects(assessed(), header())
    page = words(prognosis_page(assessed()))
    for secret in ("Probe", "Paula", "P-4711", "19700101"):
        assert secret not in page
        assert secret not in made[1].dataset.DocumentTitle


def test_contradictions_are_refused() -> None:
    good = assessed()
    assert good.prognosis is not None
    odd = HorizonSurvival(years=3.0, probability=0.5, low=0.6, high=0.7)
    for result in (
        replace(good, prognosis=None),
        replace(good, reasons=not_assessed().reasons),
        replace(good, prognosis=replace(good.prognosis, survival=(odd,))),
        replace(good, prognosis=replace(good.prognosis, risk_score=float("nan"))),
    ):
        with pytest.raises(ResultError):
            objects(result)
