"""The whole analysis over fakes: bad input never ends it, and is always said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pydicom import Dataset

from models.tbp.measurements import NAMES
from models.tbp.patient import PatientScreening
from models.tbp.result import TbpResult
from tests.unit.workers.fakes import generation_row
from tests.unit.workers.tbp.tbp_world import (
    COMPREHENSIVE_3D,
    ROOT,
    FakeSpool,
    FakeTbpModels,
    measured,
    screen,
    structured_report,
    table,
    tile_header,
    tools,
    with_block,
)
from workers.analyses.tbp_screening import ANALYSIS
from workers.analysis import Conclusion
from workers.errors import BadModelOutput, EncoderMismatch, NothingDecodable
from workers.study import Study

TILES = 24


def tiles(count: int = TILES, **changes: object) -> list[Dataset]:
    return [tile_header(n, **changes) for n in range(1, count + 1)]


def report(rows: dict[int, dict[str, object]]) -> Dataset:
    found = structured_report(rows)
    found.SOPClassUID, found.SOPInstanceUID = COMPREHENSIVE_3D, f"{ROOT}.3.1"
    found.SeriesInstanceUID, found.Modality = f"{ROOT}.3", "SR"
    return found


def screening(conclusion: Conclusion) -> PatientScreening:
    assert isinstance(conclusion.result, TbpResult)
    return conclusion.result.screening


def codes(conclusion: Conclusion) -> set[str]:
    assert isinstance(conclusion.result, TbpResult)
    return {remark.code for remark in conclusion.result.remarks}


def missing(conclusion: Conclusion) -> dict[str, int]:
    return {each.lesion_id: len(each.missing) for each in screening(conclusion).lesions}


def test_a_patient_is_screened_and_every_lesion_is_listed() -> None:
    rows = [{"TrackingID": f"L{n}", **measured()} for n in range(1, TILES + 1)]
    found = screen(tiles(), table(rows))
    assert found.is_assessed
    assert found.summary["lesions"] == found.summary["assessed"] == TILES
    assert found.summary["nevi"] == TILES
    first, second = screening(found).lesions[:2]
    assert (first.lesion_id, first.reasons) == ("L1", ("risk",))
    assert (second.lesion_id, second.reasons) == ("L2", ("measurements",))
    assert len(found.sources) == TILES
    assert sum(source.pixels is not None for source in found.sources) == found.summary["flagged"]
    assert codes(found) == {"FILTER_SKIPPED", "NO_SKIN_TILE"}


@pytest.mark.parametrize("form", ["report", "header", "document", "json by uid"])
def test_measurements_are_read_in_every_form(form: str) -> None:
    numbers = range(1, TILES + 1)
    rows = {n: measured(L=20 + n / 10) for n in numbers}
    if form == "report":
        found = screen([*tiles(), report(rows)])
    elif form == "header":
        found = screen([with_block(header, rows[n]) for n, header in enumerate(tiles(), 1)])
    elif form == "document":
        found = screen(tiles(), table([{"instance_number": n, **rows[n]} for n in numbers]))
    else:
        uids = [{"SOPInstanceUID": f"{ROOT}.1.{n}", **rows[n]} for n in numbers]
        found = screen(tiles(), table(uids, ";"))
    assert set(missing(found).values()) == {0}
    assert found.is_assessed


def test_the_first_kind_of_source_counts_for_a_lesion_and_nothing_is_mixed() -> None:
    with_one = measured()
    del with_one["stdL"]
    found = screen(
        [*tiles(), report({1: with_one})],
        table([{"TrackingID": f"L{n}", **measured()} for n in (1, 2)]),
    )
    lacking = missing(found)
    assert (lacking["L1"], lacking["L2"], lacking["L3"]) == (1, 0, 32)
    assert "UNMEASURED" in codes(found)


def test_tiles_without_measurements_are_judged_by_the_tile() -> None:
    found = screen(tiles())
    assert found.summary["assessed"] == TILES
    assert {each.trees_prob for each in screening(found).lesions} == {None}
    assert f"{TILES} lesions without measurements" in found.reason
    assert "[UNMEASURED]" in found.reason


def test_measurements_without_a_tile_are_judged_by_themselves() -> None:
    rows = [{"TrackingID": f"L{n}", **measured()} for n in range(1, TILES + 4)]
    found = screen(tiles(), table(rows))
    alone = [each for each in screening(found).lesions if each.risk_prob is None]
    assert {each.lesion_id for each in alone} == {"L25", "L26", "L27"}
    assert all(each.trees_prob is not None for each in alone)
    assert "NO_TILE" in codes(found)


def test_tiles_that_share_an_identifier_are_each_judged_and_take_no_doubtful_measurements() -> None:
    headers = tiles()
    headers[1].TrackingID, headers[1].TrackingUID = headers[0].TrackingID, headers[0].TrackingUID
    rows = [{"TrackingID": f"L{n}", **measured()} for n in (1, 3)]
    found = screen(headers, table(rows))
    lacking = missing(found)
    assert (lacking["L1"], lacking["L1 (2)"], lacking["L3"]) == (32, 32, 0)
    assert "2 tiles share a tracking identifier" in found.reason
    assert "1 rows of measurements that name only it" in found.reason
    by_uid = [{"SOPInstanceUID": f"{ROOT}.1.{n}", **measured()} for n in (1, 2)]
    assert missing(screen(headers, table(by_uid)))["L1 (2)"] == 0


def test_rows_that_come_twice_count_once_and_rows_that_differ_not_at_all() -> None:
    rows = [{"TrackingID": f"L{n}", **measured()} for n in (1, 1, 2, 2)]
    rows[3]["stdL"] = 7
    found = screen(tiles(), table(rows))
    assert (missing(found)["L1"], missing(found)["L2"]) == (0, 32)
    assert {"DUPLICATE_ROW", "ROWS_DIFFER"} <= codes(found)


def test_rows_of_another_patient_are_refused_unless_they_name_the_instance() -> None:
    other = {"patient_id": "SOMEONE", **measured()}
    own = {"patient_id": "CANARY-ID", **measured()}
    named = {"patient_id": "SOMEONE", "tracking_uid": f"{ROOT}.9.3", **measured()}
    found = screen(
        tiles(), table([{"TrackingID": "L1", **other}, {"TrackingID": "L2", **own}, named])
    )
    lacking = missing(found)
    assert (lacking["L1"], lacking["L2"], lacking["L3"]) == (32, 0, 0)
    assert "OTHER_PATIENT" in codes(found)
    assert "SOMEONE" not in found.reason


def test_a_row_of_an_earlier_visit_is_not_joined_by_its_identifier() -> None:
    row = {"SOPInstanceUID": "1.2.3.4", "TrackingID": "L1", **measured()}
    found = screen(tiles(), table([row]))
    assert missing(found)["L1"] == 32
    assert screening(found).lesions[-1].risk_prob is None or "L1 (2)" in missing(found)


def test_values_that_are_nan_absurd_or_no_number_are_left_out_and_counted() -> None:
    rows = [{"TrackingID": f"L{n}", **measured()} for n in range(1, 5)]
    rows[0]["L"], rows[1]["L"], rows[2]["areaMM2"], rows[3]["H"] = "nan", "inf", "1e30", "blue"
    found = screen(tiles(), table(rows))
    assert [missing(found)[f"L{n}"] for n in range(1, 5)] == [1, 1, 1, 1]
    assert "3 impossible values were not used" in found.reason
    assert "BAD_VALUE" in codes(found)


def test_confidences_that_seem_to_be_fractions_take_no_lesion_out() -> None:
    rows = [
        {"TrackingID": f"L{n}", **measured(nevi_confidence=0.4, dnn_lesion_confidence=0.9)}
        for n in range(1, TILES + 1)
    ]
    found = screen(tiles(), table(rows))
    assert found.summary["excluded"] == 0
    assert "SCALE" in codes(found)


def test_tiles_that_cannot_be_read_or_show_nothing_are_counted_and_the_others_go_on() -> None:
    headers = tiles()
    headers[5] = Dataset()
    blank = np.full((40, 48, 3), 120, np.uint8)
    found = screen(headers, pixels={0: None, 1: blank})
    assert found.summary["not_assessed"] == 3
    assert found.summary["lesions"] == TILES
    assert found.summary["assessed"] == TILES - 3
    assert {"BAD_TILE", "BLANK_TILE", "NOT_ASSESSED"} <= codes(found)
    assert "its pixel data ends early" in found.reason


def test_an_unreadable_tile_with_measurements_is_judged_by_them() -> None:
    found = screen(tiles(), table([{"TrackingID": "L1", **measured()}]), pixels={0: None})
    (first,) = (each for each in screening(found).lesions if each.lesion_id == "L1")
    assert first.risk_prob is None
    assert first.trees_prob is not None


def test_nothing_readable_is_rejected_with_the_reason() -> None:
    with pytest.raises(NothingDecodable, match="ends early"):
        screen(tiles(), pixels=dict.fromkeys(range(TILES)))


def test_lesions_that_no_filter_lets_pass_are_not_assessed_and_that_is_the_reason() -> None:
    rows = [{"TrackingID": f"L{n}", **measured(majorAxisMM=1)} for n in range(1, TILES + 1)]
    found = screen(tiles(), table(rows))
    assert not found.is_assessed
    assert found.reason.startswith("no lesion passed the filters (majorAxisMM) [NONE_ASSESSED]")


def test_one_lesion_is_screened_without_an_ugly_duckling() -> None:
    found = screen([tile_header(1, ImageType=["ORIGINAL", "PRIMARY", "TBP"])])
    assert found.summary["flagged"] == 1
    assert "FEW_LESIONS" in codes(found)


def test_out_of_bounds_tiles_are_filtered_where_the_device_says_so() -> None:
    rows = [
        {"TrackingID": f"L{n}", **measured(), "out_of_bounds_fraction": n / 10} for n in (1, 2, 3)
    ]
    found = screen(tiles(), table(rows))
    excluded = {each.lesion_id for each in screening(found).lesions if each.excluded}
    assert excluded == {"L3"}


def test_photodamage_comes_from_tiles_of_skin() -> None:
    skin = tile_header(99, ImageType=["ORIGINAL", "PRIMARY", "TBP", "SKIN"], TrackingUID=None)
    marked = tiles(ImageType=["ORIGINAL", "PRIMARY", "TBP", "LESION"])
    found = screen([*marked, skin])
    assert found.summary["photodamage"] == "moderate"
    assert found.summary["lesions"] == TILES
    blue = np.random.default_rng(0).integers(0, 30, (40, 48, 3), np.uint8)
    blue[..., 2] += 150
    found = screen([*marked, skin], pixels={TILES: blue})
    assert found.summary["photodamage"] is None
    assert "none of 1 tiles shows enough skin" in found.reason


def test_thousands_of_lesions_go_through_in_bounded_requests() -> None:
    count = 1100
    models = FakeTbpModels()
    plain = np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)
    found = screen(tiles(count), pixels=dict.fromkeys(range(count), plain), models=models)
    assert found.summary["lesions"] == count
    assert max(models.batches) == 1024
    assert models.encoded == 1  # all show the same pixels


@pytest.mark.parametrize(
    "outputs",
    [
        {"RISK": lambda count: np.full((count, 2), 0.5)},
        {"NEVUS": lambda count: np.full((count, 1), 1.5)},
        {"MALIGNANT_TREES": lambda count: np.full((count, 1), np.nan)},
    ],
)
def test_answers_that_break_the_contract_are_refused(outputs: dict[str, object]) -> None:
    with pytest.raises(BadModelOutput):
        screen(tiles(), models=FakeTbpModels(**outputs))


def test_heads_of_another_encoder_are_not_fed() -> None:
    spool = FakeSpool(tiles(), {})
    made = tools(spool, FakeTbpModels())
    manifest = dataclasses.replace(made.served.manifest, encoder_digest="1" * 64)
    made = dataclasses.replace(made, served=dataclasses.replace(made.served, manifest=manifest))
    with pytest.raises(EncoderMismatch):
        ANALYSIS.run(Study(generation_row(*spool.rows()), spool), made)


def test_no_patient_attribute_leaves_the_analysis() -> None:
    rows = [{"TrackingID": f"L{n}", "patient_id": "CANARY-ID", **measured()} for n in (1, 2)]
    found = screen(tiles(), table(rows))
    told = found.reason + str(found.summary)
    assert "anary" not in told
    assert "CANARY" not in told
    assert ROOT not in told
    assert "L1" not in told
    assert len(NAMES) == 32
