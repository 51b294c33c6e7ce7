import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ManifestError
from models.tbp.lesions import (
    PHOTODAMAGE_GRADES,
    FusionThresholds,
    TbpManifest,
    TileFilters,
    UglyDucklingSettings,
)
from models.tbp.measurements import MeasurementTable, read_measurements
from models.tbp.patient import LesionAnswers, screen_patient, skin_fraction
from tests.unit.models.tbp_builder import measured_row, tbp_manifest

COUNT = 12


def table(**changes: object) -> MeasurementTable:
    rows = [measured_row() for _ in range(COUNT)]
    for key, value in changes.items():
        number, name = key.split("_", 1)
        rows[int(number[1:])][name] = value
    return read_measurements(rows)


def answers(**changes: object) -> LesionAnswers:
    rng = np.random.default_rng(0)
    plain: dict[str, NDArray[np.float64]] = {
        "embeddings": rng.normal(size=(COUNT, 6)),
        "risk": np.full(COUNT, 0.1),
        "nevus": np.full(COUNT, 0.9),
        "trees": np.full(COUNT, 0.1),
    }
    for key, value in changes.items():
        name, number = key.rsplit("_", 1)
        plain[name][int(number)] = value
    return LesionAnswers(**plain)


IDS = [f"L{i}" for i in range(COUNT)]


def test_reasons_decide_the_order_and_every_lesion_is_listed() -> None:
    found = screen_patient(
        IDS,
        table(l4_majorAxisMM=1.0),
        answers(risk_3=0.9, trees_3=0.9, trees_7=0.8, embeddings_5=np.full(6, 40.0)),
        tbp_manifest(),
    )
    assert [lesion.lesion_id for lesion in found.lesions[:3]] == ["L3", "L7", "L5"]
    assert found.lesions[0].reasons == ("risk", "measurements")
    assert found.lesions[2].reasons == ("ugly duckling",)
    assert [lesion.rank for lesion in found.lesions] == list(range(1, COUNT + 1))
    assert found.lesions[-1].lesion_id == "L4"
    assert found.lesions[-1].excluded == ("majorAxisMM",)
    assert found.lesions[-1].distance is None
    assert (found.assessed, found.flagged) == (11, 3)
    assert found.flagged_by == {"risk": 1, "measurements": 2, "ugly duckling": 1}
    assert found.excluded_by == {"majorAxisMM": 1}
    assert found.nevus_count == {"Torso Back": 11}
    assert found.photodamage.grade is None


def test_a_lesion_that_lacks_a_needed_measurement_is_judged_by_its_tile_only() -> None:
    found = screen_patient(
        IDS, table(l2_stdL=None), answers(trees_2=0.99, risk_2=0.9), tbp_manifest()
    )
    first = found.lesions[0]
    assert (first.lesion_id, first.reasons) == ("L2", ("risk",))
    assert first.trees_prob is None
    assert first.missing == ("stdL",)
    assert any("1 lesions lack a measurement" in remark.text for remark in found.remarks)


def test_an_optional_measurement_may_be_absent_and_that_is_said() -> None:
    rows = [measured_row() for _ in range(COUNT)]
    for row in rows:
        del row["dnn_lesion_confidence"]
    found = screen_patient(IDS, read_measurements(rows), answers(trees_1=0.9), tbp_manifest())
    assert found.lesions[0].reasons == ("measurements",)
    text = " ".join(remark.text for remark in found.remarks)
    assert "trees did without: dnn_lesion_confidence" in text
    words = "filters not applied to lesions without the value: out_of_bounds_fraction 12, dnn_"
    assert words in text


def test_lesions_without_a_tile_are_judged_by_their_measurements() -> None:
    found = screen_patient(
        IDS,
        table(),
        answers(embeddings_1=np.nan, risk_1=np.nan, nevus_1=np.nan, trees_1=0.9),
        tbp_manifest(),
    )
    first = found.lesions[0]
    assert (first.lesion_id, first.reasons) == ("L1", ("measurements",))
    assert first.risk_prob is first.nevus_prob is first.distance is None
    assert found.ugly_duckling_cutoff is not None
    assert found.nevus_count == {"Torso Back": 11}


def test_few_lesions_have_no_ugly_duckling() -> None:
    manifest = dataclasses.replace(
        tbp_manifest(), ugly_duckling=UglyDucklingSettings(min_lesions=13)
    )
    found = screen_patient(IDS, table(), answers(embeddings_5=np.full(6, 40.0)), manifest)
    assert found.ugly_duckling_cutoff is None
    assert found.flagged == 0
    assert any("ugly duckling not assessed" in remark.text for remark in found.remarks)


def test_one_lesion_and_none_are_possible() -> None:
    one = LesionAnswers(
        embeddings=np.zeros((1, 6)), risk=np.ones(1), nevus=np.zeros(1), trees=np.zeros(1)
    )
    found = screen_patient(["L"], read_measurements([measured_row()]), one, tbp_manifest())
    assert (found.assessed, found.flagged, found.nevus_count) == (1, 1, {})
    empty = np.empty(0)
    none = LesionAnswers(embeddings=np.empty((0, 6)), risk=empty, nevus=empty, trees=empty)
    assert screen_patient([], read_measurements([]), none, tbp_manifest()).lesions == ()


def test_ids_that_come_twice_and_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        screen_patient(["L"] * COUNT, table(), answers(), tbp_manifest())
    with pytest.raises(ValueError, match="lengths"):
        screen_patient(IDS[:-1], table(), answers(), tbp_manifest())


def test_photodamage_comes_from_the_skin_tiles() -> None:
    skin = np.array([[0.1, 0.2, 0.7]])
    found = screen_patient(IDS, table(), answers(), tbp_manifest(), photodamage=skin)
    assert found.photodamage.grade == "severe"
    assert found.photodamage.tiles == 1


def test_skin_is_told_from_cloth_at_any_lightness() -> None:
    skins = [(224, 172, 140), (141, 85, 62), (90, 56, 44)]
    for colour in skins:
        assert skin_fraction(np.full((8, 8, 3), colour, np.uint8)) == 1
    for colour in [(20, 40, 160), (240, 240, 240), (30, 120, 40)]:
        assert skin_fraction(np.full((8, 8, 3), colour, np.uint8)) == 0
    half = np.full((8, 8, 3), skins[0], np.uint8)
    half[:4] = (20, 40, 160)
    assert skin_fraction(half) == 0.5


def test_manifest_survives_its_json() -> None:
    manifest = tbp_manifest()
    assert TbpManifest.from_json(manifest.to_json()) == manifest
    assert manifest.filters == TileFilters()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("measurements", ("A",)),
        ("optional_measurements", ("nonsense",)),
        ("trained_measurements", ()),
        ("thresholds", FusionThresholds(risk=0.0, trees=0.5)),
        ("nevus_threshold", 1.0),
        ("photodamage_grades", PHOTODAMAGE_GRADES[::-1]),
    ],
)
def test_impossible_manifests_are_refused(field: str, value: object) -> None:
    with pytest.raises(ManifestError, match=field):
        dataclasses.replace(tbp_manifest(), **{field: value})  # type: ignore[arg-type]
