"""Subgroups, comparison, conformal sets, referral and net benefit on drawn answers."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.decision import net_benefit
from training.errors import CohortError
from training.evaluation import analyses
from training.evaluation.measures import Judged

NAMES = ("NV", "MEL", "BCC")


def _judged(skill: float = 1.5, count: int = 240, seed: int = 0) -> Judged:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    logits = np.random.default_rng(seed + 1).normal(size=(count, 3))
    logits[np.arange(count), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    malignancy = probabilities[:, 1:].sum(axis=1)
    return Judged(
        names=NAMES,
        labels=labels,
        probabilities=probabilities,
        is_malignant=labels > 0,
        malignancy=malignancy,
        is_called=malignancy > 0.5,
    )


GROUPS = np.array([f"p{i // 2}" for i in range(240)])
NO_MASKS = np.full(240, np.nan)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("age", "29.0", "under 30"),
        ("age_approx", "30", "30 to 49"),
        ("Age", "69.9", "50 to 69"),
        ("age", "70", "70 and over"),
        ("age", "", "not stated"),
        ("age", "adult", "adult"),
        ("sex", " nan ", "not stated"),
        ("sex", "female", "female"),
        ("site", "70", "70"),
    ],
)
def test_values_are_banded(column: str, value: str, expected: str) -> None:
    assert analyses.band(column, value) == expected


def test_subgroups_are_measured_on_their_own_images_and_small_ones_only_counted() -> None:
    judged = _judged()
    attributes = [{"sex": "female" if i < 150 else "male" if i < 232 else ""} for i in range(240)]
    found = analyses.measure_subgroups(["sex"], attributes, GROUPS, judged=judged, jaccard=NO_MASKS)
    assert [(x.value, x.n) for x in found] == [("female", 150), ("male", 82), ("not stated", 8)]
    assert found[2].figures == {}
    malignant = found[0].figures["malignant_auroc"]
    expected = roc_auc_score(judged.is_malignant[:150], judged.malignancy[:150])
    assert malignant.value == pytest.approx(expected)
    assert malignant.low < expected < malignant.high
    assert found[0].groups == 75


def test_subgroups_of_outlines() -> None:
    overlap = np.where(np.arange(240) < 9, np.nan, 0.8)
    attributes = [{"sex": "f"} for _ in range(240)]
    found = analyses.measure_subgroups(["sex"], attributes, GROUPS, judged=None, jaccard=overlap)
    assert found[0].figures["jaccard"].value == pytest.approx(0.8)
    assert found[0].figures["jaccard"].n == 231


def test_column_that_names_images_is_no_subgroup() -> None:
    attributes = [{"id": str(i)} for i in range(240)]
    with pytest.raises(CohortError, match="240 values"):
        analyses.measure_subgroups(["id"], attributes, GROUPS, judged=None, jaccard=NO_MASKS)


def _compare(one: Judged, two: Judged) -> dict[str, analyses.Comparison]:
    found = analyses.compare(
        one, two, jaccard=NO_MASKS, other_jaccard=NO_MASKS, groups=GROUPS, replicates=100
    )
    return {line.metric: line for line in found}


def test_better_model_is_told_from_a_worse_one() -> None:
    found = _compare(_judged(2.5), _judged(0.5, seed=5))
    assert found["macro one-versus-rest AUROC"].p_value < 0.02
    assert found["macro one-versus-rest AUROC"].value > found["macro one-versus-rest AUROC"].against


def test_equal_models_are_not_told_apart() -> None:
    assert _compare(_judged(), _judged())["balanced accuracy"].p_value == 1
    rejected = sum(
        _compare(_judged(seed=s), _judged(seed=s + 50))["malignant AUROC"].p_value < 0.05
        for s in range(6)
    )
    assert rejected <= 2


def test_models_with_labels_in_another_order_are_compared_by_name() -> None:
    one = _judged()
    order = [2, 0, 1]
    other = dataclasses.replace(
        one,
        names=tuple(NAMES[i] for i in order),
        labels=np.array([order.index(label) for label in one.labels]),
        probabilities=one.probabilities[:, order],
    )
    found = _compare(one, other)["macro one-versus-rest AUROC"]
    assert found.value == pytest.approx(found.against)
    with pytest.raises(CohortError, match="DF"):
        _compare(one, dataclasses.replace(one, names=("NV", "MEL", "DF")))


def test_outlines_are_compared_where_both_have_masks() -> None:
    better, worse = np.full(240, 0.9), np.full(240, 0.7)
    better[0] = np.nan
    found = analyses.compare(
        None, None, jaccard=better, other_jaccard=worse, groups=GROUPS, replicates=100
    )
    assert found[0].n == 239
    assert found[0].p_value == pytest.approx(1 / 101)


def test_conformal_sets_cover_as_promised() -> None:
    judged = _judged(count=1000)
    groups = np.array([f"p{i}" for i in range(1000)])
    for found in analyses.measure_conformal(judged, groups):
        assert found.promised == 0.9
        assert found.coverage.low < 0.92
        assert found.coverage.value > 0.87
        assert 1 <= found.size.value <= 3
        assert found.malignant_coverage is not None
    assert analyses.measure_conformal(judged, np.array(["one"] * 1000)) == []


def test_halves_for_calibration_share_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(probabilities, labels, method):
        seen.append(set(map(tuple, probabilities.round(12))))
        return np.ones(len(labels))

    monkeypatch.setattr(analyses, "conformal_scores", spy)
    judged = _judged()
    analyses.measure_conformal(judged, GROUPS)
    by_group = {g: {tuple(p) for p in judged.probabilities[g == GROUPS].round(12)} for g in GROUPS}
    for members in by_group.values():
        assert members <= seen[0] or not members & seen[0]


def test_referral_leaves_the_surer_images() -> None:
    judged = _judged()
    found = {x.kept: x.accuracy for x in analyses.measure_referral(judged, GROUPS)}
    right = judged.probabilities.argmax(axis=1) == judged.labels
    assert found[1.0].value == pytest.approx(right.mean())
    order = np.argsort(-judged.probabilities.max(axis=1))
    assert found[0.5].value == pytest.approx(right[order[:120]].mean())
    assert found[0.5].value > found[1.0].value


def test_net_benefit_lies_within_its_interval() -> None:
    judged = _judged()
    value, low, high = analyses.measure_net_benefit(judged, GROUPS)
    expected = net_benefit(judged.is_malignant, judged.malignancy, analyses.THRESHOLDS)
    np.testing.assert_allclose(value, expected)
    assert ((low <= value) & (value <= high)).mean() > 0.95


def test_labels_are_counted_with_their_recall() -> None:
    judged = _judged()
    rows = analyses.count_labels(dataclasses.replace(judged, labels=judged.labels % 2), GROUPS)
    assert [row["images"] for row in rows] == [*np.bincount(judged.labels % 2).tolist(), 0]
    assert rows[2]["recall"] is None
