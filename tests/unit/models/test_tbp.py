import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.tbp.lesions import (
    FusionThresholds,
    ModuleScores,
    TileFilters,
    UglyDucklings,
    UglyDucklingSettings,
    count_nevi,
    filter_tiles,
    find_ugly_ducklings,
    fuse,
    grade_photodamage,
)
from models.tbp.measurements import NAMES, column_number


def measured(**values: float) -> NDArray[np.float64]:
    row = np.full(len(NAMES), np.nan)
    passing = {
        "majorAxisMM": 2.0,
        "deltaLBnorm": 4.5,
        "dnn_lesion_confidence": 50.0,
        "nevi_confidence": 80.1,
    }
    for name, value in {**passing, **values}.items():
        row[column_number(name)] = value
    return row


def test_the_papers_bounds_are_inclusive_but_for_nevus_confidence() -> None:
    rows = np.stack(
        [
            measured(),
            measured(majorAxisMM=1.99),
            measured(deltaLBnorm=4.49),
            measured(dnn_lesion_confidence=49.9),
            measured(nevi_confidence=80.0),
            measured(),
        ]
    )
    bounds = np.array([0.25, 0, 0, 0, 0, 0.26])
    outcome = filter_tiles(rows, TileFilters(), out_of_bounds=bounds)
    assert outcome.is_kept.tolist() == [True, False, False, False, False, False]
    assert [reason for reasons in outcome.reasons for reason in reasons] == [
        "majorAxisMM",
        "deltaLBnorm",
        "dnn_lesion_confidence",
        "nevi_confidence",
        "out_of_bounds_fraction",
    ]
    assert outcome.not_applied == {}


def test_a_missing_value_lets_the_lesion_pass_and_is_counted() -> None:
    rows = np.stack([measured(dnn_lesion_confidence=math.nan), measured()])
    outcome = filter_tiles(rows, TileFilters())
    assert outcome.is_kept.all()
    assert outcome.not_applied == {"dnn_lesion_confidence": 1, "out_of_bounds_fraction": 2}


def test_a_filter_can_be_switched_off() -> None:
    rows = measured(nevi_confidence=1.0)[None]
    filters = TileFilters(above_nevus_confidence=None)
    assert filter_tiles(rows, filters).is_kept.all()


def naive_ducklings(
    features: list[list[float]], multiplier: float, includes_self: bool, metric: str
) -> tuple[list[float], float]:
    """Word by word: mean of the others or of all, distance, quartiles by linear interpolation."""
    distances = []
    for i, lesion in enumerate(features):
        others = [f for j, f in enumerate(features) if includes_self or i != j]
        mean = [sum(values) / len(others) for values in zip(*others, strict=True)]
        if metric == "euclidean":
            distances.append(math.dist(lesion, mean))
        else:
            product = sum(a * b for a, b in zip(lesion, mean, strict=True))
            distances.append(1 - product / (math.hypot(*lesion) * math.hypot(*mean)))
    ordered = sorted(distances)

    def quartile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    first, third = quartile(0.25), quartile(0.75)
    return distances, third + multiplier * (third - first)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("includes_self", [True, False])
def test_ugly_ducklings_equal_their_naive_twin(metric: str, includes_self: bool) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(3, 1, (23, 7))
    features[5] *= -4
    settings = UglyDucklingSettings(metric=metric, includes_self=includes_self, multiplier=1.2)  # type: ignore[arg-type]
    found = find_ugly_ducklings(features, settings)
    distances, cutoff = naive_ducklings(features.tolist(), 1.2, includes_self, metric)
    np.testing.assert_allclose(found.distance, distances, rtol=1e-9, atol=1e-12)
    assert found.cutoff == pytest.approx(cutoff)
    assert found.is_outlier.tolist() == [d > cutoff for d in distances]
    assert found.is_outlier[5]


@given(st.integers(0, 25), st.floats(-5, 5))
def test_equal_lesions_have_no_duckling(count: int, value: float) -> None:
    found = find_ugly_ducklings(np.full((count, 3), value), UglyDucklingSettings())
    assert not found.is_outlier.any()
    assert found.is_assessed == (count >= 10)


def test_too_few_lesions_are_not_judged() -> None:
    features = np.zeros((9, 2))
    features[0] = 100
    found = find_ugly_ducklings(features, UglyDucklingSettings(min_lesions=10))
    assert found.cutoff is None
    assert np.isnan(found.distance).all()
    assert not found.is_outlier.any()


def test_order_of_lesions_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 4))
    order = rng.permutation(30)
    whole = find_ugly_ducklings(features, UglyDucklingSettings())
    turned = find_ugly_ducklings(features[order], UglyDucklingSettings())
    np.testing.assert_allclose(turned.distance, whole.distance[order])


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        find_ugly_ducklings(np.full((12, 2), np.nan), UglyDucklingSettings())


@pytest.mark.parametrize("values", [{"multiplier": -1}, {"multiplier": math.inf}])
def test_impossible_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="multiplier"):
        UglyDucklingSettings(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_lesions"):
        UglyDucklingSettings(min_lesions=3)


def test_fusion_is_an_or_and_abstaining_modules_say_no() -> None:
    scores = ModuleScores(
        risk=np.array([0.5, 0.49, np.nan, 0.9]),
        trees=np.array([0.1, 0.3, np.nan, np.nan]),
        ducklings=UglyDucklings(
            distance=np.zeros(4), cutoff=1.0, is_outlier=np.array([False, False, True, False])
        ),
    )
    assert fuse(scores, FusionThresholds(risk=0.5, trees=0.3)) == (
        ("risk",),
        ("measurements",),
        ("ugly duckling",),
        ("risk",),
    )


def test_nevi_are_counted_by_site_from_two_millimetres_on() -> None:
    counts = count_nevi(
        np.array([0.9, 0.5, 0.49, 0.8, np.nan, 0.7]),
        ["Left Arm", "Torso Back", "Torso Back", "Left Arm", "Left Arm", "Sole"],
        0.5,
        major_axis_mm=np.array([2.0, np.nan, 5, 1.9, 5, 3]),
    )
    assert counts == {"Torso Back": 1, "Left Arm": 1, "Sole": 1}


def test_photodamage_is_the_mean_over_tiles() -> None:
    graded = grade_photodamage(np.array([[0.6, 0.4, 0.0], [0.1, 0.4, 0.5]]))
    assert graded.grade == "moderate"
    assert graded.probabilities == pytest.approx((0.35, 0.4, 0.25))
    assert grade_photodamage(np.empty((0, 3))).grade is None
