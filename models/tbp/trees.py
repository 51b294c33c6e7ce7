"""A forest of decision trees as plain arrays: what was grown elsewhere is only walked here.

Growing is scikit-learn's work in ``training``; serving needs neither it nor pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import WeightsError

LEAF = -1  # feature number of a leaf
MAX_WALK_BYTES = 32 * 2**20  # rows are walked in blocks, so that 100,000 lesions fit in memory


@dataclass(frozen=True, kw_only=True)
class Forest:
    """T trees over D features; the nodes of all trees lie one after the other."""

    roots: NDArray[np.int32]
    """(T,) node each tree begins at."""
    feature: NDArray[np.int16]
    """(M,) feature that a node asks for; ``LEAF`` in a leaf."""
    threshold: NDArray[np.float32]
    """(M,) go left when the feature is at most this; 0 in a leaf."""
    left: NDArray[np.int32]
    """(M,) node to the left, which lies behind its parent; a leaf points to itself."""
    right: NDArray[np.int32]
    """(M,) node to the right; a leaf points to itself."""
    missing_left: NDArray[np.uint8]
    """(M,) 1 where a lesion without the value goes left."""
    value: NDArray[np.float32]
    """(M,) probability of the positive label among the training lesions of the node."""
    features: int
    """D, features of an input row."""

    def __post_init__(self) -> None:
        """Refuse arrays that no walk could follow to its end."""
        count = len(self.feature)
        nodes = np.arange(count)
        is_leaf = self.feature == LEAF
        checks = {
            "lengths": all(
                array.shape == (count,)
                for array in (self.threshold, self.left, self.right, self.missing_left, self.value)
            )
            and self.roots.ndim == 1,
            "roots": len(self.roots) > 0
            and int(self.roots.min()) >= 0
            and int(self.roots.max()) < count,
            "features": bool(((self.feature >= LEAF) & (self.feature < self.features)).all()),
            "values": bool(np.isfinite(self.threshold).all())
            and bool(((self.value >= 0) & (self.value <= 1)).all()),
        }
        if checks["lengths"]:
            # Children behind their parents: every walk ends.
            checks["children"] = all(
                bool((child < count).all())
                and bool((child[is_leaf] == nodes[is_leaf]).all())
                and bool((child[~is_leaf] > nodes[~is_leaf]).all())
                for child in (self.left, self.right)
            )
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise WeightsError(f"the trees' arrays are impossible: {', '.join(wrong)}")

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays by name, as ``from_arrays`` reads them."""
        names = ("roots", "feature", "threshold", "left", "right", "missing_left", "value")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], features: int) -> Forest:
        """Build a forest from named arrays.

        Raises
        ------
        WeightsError
            If an array is missing, unknown or of another type, or the trees are impossible.
        """
        kinds = {
            "roots": np.int32,
            "feature": np.int16,
            "threshold": np.float32,
            "left": np.int32,
            "right": np.int32,
            "missing_left": np.uint8,
            "value": np.float32,
        }
        if set(arrays) != set(kinds):
            raise WeightsError(f"the trees' arrays differ: {sorted(set(arrays) ^ set(kinds))}")
        wrong = [name for name, kind in kinds.items() if arrays[name].dtype != kind]
        if wrong:
            raise WeightsError(f"the trees' arrays have other types: {sorted(wrong)}")
        return cls(features=features, **arrays)  # type: ignore[arg-type]


def predict_forest(forest: Forest, rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean probability of the positive label over all trees.

    Parameters
    ----------
    forest
        The trees.
    rows
        (N, D) features; they are compared as float32, as scikit-learn does. nan is a missing
        value and takes the branch that the node names.

    Returns
    -------
    ndarray
        (N,) float32 in [0, 1].

    Raises
    ------
    ValueError
        If the rows have another number of features.

    References
    ----------
    Geurts, Ernst and Wehenkel, Extremely randomized trees, Machine Learning 63, 2006.
    """
    if rows.ndim != 2 or rows.shape[1] != forest.features:
        raise ValueError(f"rows {rows.shape} do not have {forest.features} features")
    rows = rows.astype(np.float32)
    trees = len(forest.roots)
    block = max(1, MAX_WALK_BYTES // (trees * 8))
    answers = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        leaves = _walk(forest, part)
        answers[start : start + block] = forest.value[leaves].mean(axis=1, dtype=np.float64)
    return answers


def _walk(forest: Forest, rows: NDArray[np.float32]) -> NDArray[np.int32]:
    """Leaf of each row in each tree, (N, T): all walk one level at a time."""
    nodes = np.broadcast_to(forest.roots, (len(rows), len(forest.roots))).copy()
    while True:
        feature = forest.feature[nodes]
        is_inner = feature != LEAF
        if not is_inner.any():
            return nodes
        values = np.take_along_axis(rows, np.maximum(feature, 0).astype(np.intp), axis=1)
        goes_left = values <= forest.threshold[nodes]
        unknown = np.isnan(values)
        goes_left[unknown] = forest.missing_left[nodes[unknown]] == 1
        nodes = np.where(goes_left, forest.left[nodes], forest.right[nodes])
