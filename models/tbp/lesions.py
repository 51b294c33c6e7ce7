"""Total body photography: which of a patient's many lesions need a closer look, and why.

Three modules say yes or no and are joined by OR (PanDerm, Nature Medicine 2025, methods, "TBP
screening"): a risk head on the tile, the ugly duckling among the patient's own lesions, and trees
on the measurements. Networks and trees answer elsewhere; here are the device's filters, the
statistics within a patient, the fusion, the counts and the ranked list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from models.tbp.measurements import LOCATIONS, NAMES, column_number

PHOTODAMAGE_GRADES = ("low", "moderate", "severe")
Reason: TypeAlias = Literal["risk", "ugly duckling", "measurements"]
"""Module that recommends a closer look."""


@dataclass(frozen=True, kw_only=True)
class TileFilters:
    """Which lesions of the device are looked at; None switches a filter off.

    The defaults are the paper's (PanDerm, methods, "TBP screening").
    """

    min_major_axis_mm: float | None = 2.0
    """``majorAxisMM`` at least this."""
    min_contrast: float | None = 4.5
    """``deltaLBnorm`` at least this."""
    max_out_of_bounds: float | None = 0.25
    """``out_of_bounds_fraction`` at most this."""
    min_lesion_confidence: float | None = 50.0
    """``dnn_lesion_confidence`` at least this, in percent."""
    above_nevus_confidence: float | None = 80.0
    """``nevi_confidence`` above this, in percent."""


@dataclass(frozen=True, kw_only=True)
class FilterOutcome:
    """What the filters left of N lesions."""

    is_kept: NDArray[np.bool_]
    """(N,)"""
    reasons: tuple[tuple[str, ...], ...]
    """Filters that a lesion did not pass, by the name of the measurement."""
    not_applied: dict[str, int]
    """Measurement -> lesions that lack it, to which its filter was therefore not applied."""


_FILTERS: tuple[tuple[str, str, Callable[[NDArray[np.floating], float], NDArray[np.bool_]]], ...]
_FILTERS = (
    ("majorAxisMM", "min_major_axis_mm", np.greater_equal),
    ("deltaLBnorm", "min_contrast", np.greater_equal),
    ("out_of_bounds_fraction", "max_out_of_bounds", np.less_equal),
    ("dnn_lesion_confidence", "min_lesion_confidence", np.greater_equal),
    ("nevi_confidence", "above_nevus_confidence", np.greater),
)


def filter_tiles(
    measurements: NDArray[np.floating],
    filters: TileFilters,
    *,
    out_of_bounds: NDArray[np.floating] | None = None,
) -> FilterOutcome:
    """Apply the device's filters.

    Parameters
    ----------
    measurements
        (N, 32) in the order of ``models.tbp.measurements``; nan where a value is missing.
    filters
        Bounds.
    out_of_bounds
        (N,) share of the tile outside the image in [0, 1], nan where unknown; it is not one of
        the 32. None when the export lacks it.

    Returns
    -------
    FilterOutcome
        A filter whose value is missing lets the lesion pass, and that is counted: to drop a
        lesion for a missing number would hide it.
    """
    count = len(measurements)
    is_kept = np.ones(count, np.bool_)
    reasons: list[list[str]] = [[] for _ in range(count)]
    not_applied: dict[str, int] = {}
    for name, setting, passes in _FILTERS:
        bound = getattr(filters, setting)
        if bound is None:
            continue
        if name == "out_of_bounds_fraction":
            values = np.full(count, np.nan) if out_of_bounds is None else out_of_bounds
        else:
            values = measurements[:, column_number(name)]
        unknown = np.isnan(values)
        if unknown.any():
            not_applied[name] = int(unknown.sum())
        for lesion in np.flatnonzero(~unknown & ~passes(values, bound)):
            is_kept[lesion] = False
            reasons[lesion].append(name)
    return FilterOutcome(
        is_kept=is_kept, reasons=tuple(map(tuple, reasons)), not_applied=not_applied
    )


@dataclass(frozen=True, kw_only=True)
class UglyDucklingSettings:
    """How a lesion is found to differ from the patient's others.

    The paper states neither metric nor multiplier; these are the usual ones.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between a lesion's features and the mean features."""
    multiplier: float = 1.5
    """Interquartile ranges above the third quartile from which a distance is an outlier."""
    min_lesions: int = 10
    """With fewer lesions a patient's quartiles say nothing: the module then abstains."""
    includes_self: bool = True
    """Whether a lesion counts in the mean that it is compared with, as in the paper."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 <= self.multiplier < math.inf:
            raise ValueError("multiplier must be finite and not negative")
        if self.min_lesions < 4:
            raise ValueError("min_lesions must be at least 4, else there are no quartiles")


@dataclass(frozen=True, kw_only=True)
class UglyDucklings:
    """Distances of one patient's lesions."""

    distance: NDArray[np.float64]
    """(N,) distance to the mean features; nan when the module abstains."""
    cutoff: float | None
    """Third quartile plus the multiple of the interquartile range; None when it abstains."""
    is_outlier: NDArray[np.bool_]
    """(N,) distance above the cutoff."""

    @property
    def is_assessed(self) -> bool:
        """False when the patient has too few lesions."""
        return self.cutoff is not None


def find_ugly_ducklings(
    features: NDArray[np.floating], settings: UglyDucklingSettings
) -> UglyDucklings:
    """Find the lesions that differ from the patient's others.

    Parameters
    ----------
    features
        (N, D) finite features of all lesions of one patient, of one scan or of several: that is
        the caller's choice.
    settings
        Metric, multiplier and guards.

    Raises
    ------
    ValueError
        If the features are not a finite table.

    References
    ----------
    Grob and Bonerandi, The "ugly duckling" sign, Archives of Dermatology 134, 1998; Tukey,
    Exploratory Data Analysis, 1977 (the fences); PanDerm, Nature Medicine 2025, methods.
    """
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(f"features {features.shape} must be a finite (N, D) table")
    count = len(features)
    if count < settings.min_lesions:
        return UglyDucklings(
            distance=np.full(count, np.nan), cutoff=None, is_outlier=np.zeros(count, np.bool_)
        )
    points = features.astype(np.float64)
    total = points.sum(axis=0)
    means = total / count if settings.includes_self else (total - points) / (count - 1)
    distance = _distances(points, np.broadcast_to(means, points.shape), settings.metric)
    low, high = np.percentile(distance, (25, 75))
    cutoff = float(high + settings.multiplier * (high - low))
    # Rounding must not make an outlier out of lesions that are all alike.
    slack = 1e-9 * max(1.0, float(np.abs(points).max()))
    return UglyDucklings(distance=distance, cutoff=cutoff, is_outlier=distance > cutoff + slack)


def _distances(
    points: NDArray[np.float64], means: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    if metric == "euclidean":
        return np.asarray(np.linalg.norm(points - means, axis=1))
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(means, axis=1)
    products = np.einsum("ij,ij->i", points, means)
    # A feature of length 0 has no direction: it is as far as can be from all that have one.
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(1 - cosines)


@dataclass(frozen=True, kw_only=True)
class FusionThresholds:
    """From where a module says yes."""

    risk: float
    """Probability of the risk head."""
    trees: float
    """Probability of the trees."""


@dataclass(frozen=True, kw_only=True)
class ModuleScores:
    """What the three modules say of one patient's N lesions."""

    risk: NDArray[np.floating]
    """(N,) probability in [0, 1]; nan where there is no tile."""
    trees: NDArray[np.floating]
    """(N,) probability in [0, 1]; nan where a required measurement is missing."""
    ducklings: UglyDucklings
    """Of the same lesions, in the same order."""


def fuse(scores: ModuleScores, thresholds: FusionThresholds) -> tuple[tuple[Reason, ...], ...]:
    """OR of the three modules: each lesion's reasons, empty when none says yes.

    A module that abstains (nan, or too few lesions) never says yes.
    """
    # Comparisons with nan are False: an abstaining module says no.
    votes: tuple[tuple[Reason, NDArray[np.bool_]], ...] = (
        ("risk", np.asarray(scores.risk) >= thresholds.risk),
        ("ugly duckling", scores.ducklings.is_outlier),
        ("measurements", np.asarray(scores.trees) >= thresholds.trees),
    )
    count = len(scores.risk)
    if any(len(vote) != count for _, vote in votes):
        raise ValueError("the modules speak of different numbers of lesions")
    return tuple(tuple(name for name, vote in votes if vote[i]) for i in range(count))


def count_nevi(
    nevus_prob: NDArray[np.floating],
    locations: Sequence[str],
    threshold: float,
    *,
    major_axis_mm: NDArray[np.floating] | None = None,
    min_major_axis_mm: float = 2.0,
) -> dict[str, int]:
    """Count a patient's nevi by body site.

    Parameters
    ----------
    nevus_prob
        (N,) probability in [0, 1]; nan counts as no nevus.
    locations
        N body sites.
    threshold
        Probability from which a tile counts, calibrated for the count, not for single tiles.
    major_axis_mm
        (N,) longest diameter in mm; smaller lesions than ``min_major_axis_mm`` do not count,
        those of unknown size do.

    Returns
    -------
    dict
        Site -> count, sites in the order of ``LOCATIONS`` and then as they come; sites without a
        nevus are left out.
    """
    counts = np.asarray(nevus_prob) >= threshold
    if major_axis_mm is not None:
        counts &= ~(np.asarray(major_axis_mm) < min_major_axis_mm)
    sites = [site for site, is_nevus in zip(locations, counts, strict=True) if is_nevus]
    order = dict.fromkeys([*LOCATIONS, *sites])
    return {site: sites.count(site) for site in order if site in sites}


@dataclass(frozen=True, kw_only=True)
class Photodamage:
    """Grade of a patient's sun damage."""

    grade: str | None
    """One of ``PHOTODAMAGE_GRADES``; None without a tile that shows enough skin."""
    probabilities: tuple[float, ...]
    """Mean probability of each grade over the tiles; empty without one."""
    tiles: int
    """Tiles behind the grade."""


def grade_photodamage(probabilities: NDArray[np.floating]) -> Photodamage:
    """Grade a patient from the probabilities of the skin tiles.

    Parameters
    ----------
    probabilities
        (N, 3) rows that sum to 1, of tiles that show enough skin only.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(PHOTODAMAGE_GRADES):
        raise ValueError(f"probabilities {probabilities.shape} are not (N, 3)")
    if len(probabilities) == 0:
        return Photodamage(grade=None, probabilities=(), tiles=0)
    mean = probabilities.mean(axis=0, dtype=np.float64)
    return Photodamage(
        grade=PHOTODAMAGE_GRADES[int(mean.argmax())],
        probabilities=tuple(float(value) for value in mean),
        tiles=len(probabilities),
    )


@dataclass(frozen=True, kw_only=True)
class TbpManifest(Manifest):
    """What travels with the weights of TBP screening."""

    measurements: tuple[str, ...]
    """Names of the input's columns, in order."""
    optional_measurements: tuple[str, ...]
    """Columns the trees can do without; a lesion that lacks another is not judged by them."""
    trained_measurements: tuple[str, ...]
    """Columns the trees have learnt from."""
    filters: TileFilters
    ugly_duckling: UglyDucklingSettings
    thresholds: FusionThresholds
    thresholds_meaning: str
    """What the thresholds were chosen for."""
    nevus_threshold: float
    """Probability in (0, 1) from which a tile counts as a nevus."""
    photodamage_grades: tuple[str, ...]
    """Grades in the order of the output."""
    embedding_dim: int
    """Features of an embedding."""
    encoder_digest: str
    """SHA-256 of the encoder whose embeddings the heads were trained on."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        return {
            "measurements": lambda: self.measurements == NAMES,
            "optional_measurements": lambda: set(self.optional_measurements) <= set(NAMES),
            "trained_measurements": lambda: (
                bool(self.trained_measurements)
                and set(self.trained_measurements) <= set(NAMES)
                and len(set(self.trained_measurements)) == len(self.trained_measurements)
            ),
            "thresholds": lambda: 0 < self.thresholds.risk <= 1 and 0 < self.thresholds.trees <= 1,
            "nevus_threshold": lambda: 0 < self.nevus_threshold < 1,
            "photodamage_grades": lambda: self.photodamage_grades == PHOTODAMAGE_GRADES,
            "embedding_dim": lambda: self.embedding_dim > 0,
            "encoder_digest": lambda: (
                len(self.encoder_digest) == 64
                and set(self.encoder_digest) <= set("0123456789abcdef")
            ),
        }
