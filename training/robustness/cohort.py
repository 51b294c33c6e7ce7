"""Embeddings with label, centre and group: what all measures read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import CohortError


@dataclass(frozen=True, kw_only=True)
class CentreCohort:
    """Embeddings of a multi-centre cohort."""

    embeddings: NDArray[np.float64]
    """(B, D), each of length 1."""
    labels: NDArray[np.int64]
    """(B,) number of the biological class."""
    centres: NDArray[np.int64]
    """(B,) number of the centre."""
    groups: NDArray[np.int64]
    """(B,) number of the slide or lesion."""
    label_names: tuple[str, ...]
    centre_names: tuple[str, ...]

    def subset(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> CentreCohort:
        """Return some of the samples; the numbers keep their meaning."""
        return CentreCohort(
            embeddings=self.embeddings[chosen],
            labels=self.labels[chosen],
            centres=self.centres[chosen],
            groups=self.groups[chosen],
            label_names=self.label_names,
            centre_names=self.centre_names,
        )

    def replace(self, embeddings: NDArray[np.floating]) -> CentreCohort:
        """Return the same samples under other embeddings."""
        return CentreCohort(
            embeddings=unit_length(embeddings),
            labels=self.labels,
            centres=self.centres,
            groups=self.groups,
            label_names=self.label_names,
            centre_names=self.centre_names,
        )


def unit_length(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Divide each row by its length.

    Raises
    ------
    CohortError
        If a value is not finite or a row is all zero.
    """
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise CohortError("embeddings must be finite and of shape (B, D)")
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise CohortError(f"{int((lengths == 0).sum())} embeddings are zero")
    return np.asarray(values / lengths)


def build_cohort(
    embeddings: NDArray[np.floating],
    *,
    labels: list[str],
    centres: list[str],
    groups: list[str],
) -> CentreCohort:
    """Number the names and check that there is something to compare.

    Raises
    ------
    CohortError
        If lengths differ, or there are fewer than two labels or two centres.
    """
    if not len(embeddings) == len(labels) == len(centres) == len(groups):
        raise CohortError("every embedding needs a label, a centre and a group")
    label_names, label_numbers = np.unique(np.array(labels), return_inverse=True)
    centre_names, centre_numbers = np.unique(np.array(centres), return_inverse=True)
    # A group is one slide of one centre, even where two centres number their slides alike.
    pairs = [f"{centre}\0{group}" for centre, group in zip(centres, groups, strict=True)]
    _, group_numbers = np.unique(np.array(pairs), return_inverse=True)
    if len(label_names) < 2 or len(centre_names) < 2:
        raise CohortError("at least two labels and two centres are needed")
    return CentreCohort(
        embeddings=unit_length(embeddings),
        labels=label_numbers.astype(np.int64),
        centres=centre_numbers.astype(np.int64),
        groups=group_numbers.astype(np.int64),
        label_names=tuple(str(name) for name in label_names),
        centre_names=tuple(str(name) for name in centre_names),
    )
