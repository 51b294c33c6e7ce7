import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from models.errors import WeightsError
from models.tbp.trees import Forest, predict_forest
from training.tbp.thresholds import export_trees


def data(seed: int, count: int, *, gaps: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 5)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] ** 2 + rng.normal(0, 0.3, count) > 0.5).astype(np.int64)
    if gaps:
        rows[rng.random(rows.shape) < 0.2] = np.nan
    return rows, labels


def grown(*, gaps: bool) -> ExtraTreesClassifier:
    rows, labels = data(0, 300, gaps=gaps)
    forest = ExtraTreesClassifier(12, min_samples_leaf=3, class_weight="balanced", random_state=1)
    return forest.fit(rows, labels)


def test_walk_equals_scikit_learn() -> None:
    forest = grown(gaps=False)
    rows, _ = data(1, 500, gaps=False)
    found = predict_forest(export_trees(forest, range(5), 5), rows)
    np.testing.assert_allclose(found, forest.predict_proba(rows)[:, 1], atol=1e-6)


def test_walk_equals_scikit_learn_where_values_are_missing() -> None:
    forest = grown(gaps=True)
    rows, _ = data(1, 500, gaps=True)
    found = predict_forest(export_trees(forest, range(5), 5), rows)
    np.testing.assert_allclose(found, forest.predict_proba(rows)[:, 1], atol=1e-6)


def test_a_row_on_a_threshold_goes_the_same_way() -> None:
    forest = grown(gaps=False)
    exported = export_trees(forest, range(5), 5)
    inner = np.flatnonzero(exported.feature >= 0)[:40]
    rows = np.zeros((len(inner), 5), np.float32)
    rows[np.arange(len(inner)), exported.feature[inner]] = exported.threshold[inner]
    found = predict_forest(exported, rows)
    np.testing.assert_allclose(found, forest.predict_proba(rows)[:, 1], atol=1e-6)


def test_columns_of_a_wider_table_are_found_again() -> None:
    forest = grown(gaps=False)
    rows, _ = data(2, 50, gaps=False)
    wide = np.full((50, 9), np.nan, np.float32)
    wide[:, [8, 0, 3, 5, 1]] = rows
    found = predict_forest(export_trees(forest, [8, 0, 3, 5, 1], 9), wide)
    np.testing.assert_allclose(found, forest.predict_proba(rows)[:, 1], atol=1e-6)


def test_no_rows_give_no_answers() -> None:
    exported = export_trees(grown(gaps=False), range(5), 5)
    assert predict_forest(exported, np.empty((0, 5))).shape == (0,)
    with pytest.raises(ValueError, match="5 features"):
        predict_forest(exported, np.zeros((1, 4)))


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("left", 0, 0),
        ("right", 0, 10_000),
        ("feature", 0, 5),
        ("threshold", 0, np.nan),
        ("value", 0, 1.5),
        ("roots", 0, -1),
    ],
)
def test_impossible_trees_are_refused(name: str, place: int, value: float) -> None:
    arrays = {k: v.copy() for k, v in export_trees(grown(gaps=False), range(5), 5).arrays().items()}
    arrays[name][place] = value
    with pytest.raises(WeightsError, match="impossible"):
        Forest.from_arrays(arrays, 5)


def test_arrays_of_another_kind_are_refused() -> None:
    arrays = export_trees(grown(gaps=False), range(5), 5).arrays()
    with pytest.raises(WeightsError, match="types"):
        Forest.from_arrays({**arrays, "value": arrays["value"].astype(np.float64)}, 5)
    with pytest.raises(WeightsError, match="roots"):
        Forest.from_arrays({k: v for k, v in arrays.items() if k != "roots"}, 5)
