"""What TBP screening says of one patient: a ranked list with reasons, counts and a grade.

Puts together what the served model answered for each lesion (``models.tbp.lesions`` has the
rules). Every lesion that came in appears in the result, with what was not assessed about it and
why.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocessing import check_image
from models.tbp.lesions import (
    ModuleScores,
    Photodamage,
    Reason,
    TbpManifest,
    UglyDucklings,
    count_nevi,
    filter_tiles,
    find_ugly_ducklings,
    fuse,
    grade_photodamage,
)
from models.tbp.measurements import LOCATIONS, NAMES, MeasurementTable, column_number
from models.tbp.remarks import Remark

MIN_SKIN_FRACTION = 0.33
"""Tiles with less skin are not graded for photodamage (PanDerm, methods, "Photodamage")."""
_CR_RANGE, _CB_RANGE = (133, 173), (77, 127)  # Chai and Ngan, IEEE TCSVT 9, 1999


def skin_fraction(image: NDArray[np.uint8]) -> float:
    """Share of the pixels whose colour is one of skin.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.

    Returns
    -------
    float
        In [0, 1].

    Notes
    -----
    Chroma alone decides, so that dark and light skin are treated alike; the bounds were found on
    photographs, and strongly tinted light defeats them.

    References
    ----------
    Chai and Ngan, Face segmentation using skin-color map in videophone applications, IEEE
    Transactions on Circuits and Systems for Video Technology 9, 1999.
    """
    check_image(image)
    converted = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YCrCb)
    cr, cb = converted[..., 1], converted[..., 2]
    is_skin = (
        (cr >= _CR_RANGE[0]) & (cr <= _CR_RANGE[1]) & (cb >= _CB_RANGE[0]) & (cb <= _CB_RANGE[1])
    )
    return float(is_skin.mean())


@dataclass(frozen=True, kw_only=True)
class LesionAnswers:
    """What the served model said of one patient's N lesions, in their order."""

    embeddings: NDArray[np.floating]
    """(N, D); a row of nan where a lesion has no tile."""
    risk: NDArray[np.floating]
    """(N,) probability; nan without a tile."""
    nevus: NDArray[np.floating]
    """(N,) probability; nan without a tile."""
    trees: NDArray[np.floating]
    """(N,) probability from the measurements."""


@dataclass(frozen=True, kw_only=True)
class LesionScreening:
    """One lesion's place in the list."""

    lesion_id: str
    rank: int
    """1 for the lesion to look at first."""
    location: str
    """Body site; ``Unknown`` when it was not given."""
    reasons: tuple[Reason, ...]
    """Modules that recommend a closer look; empty when none does."""
    risk_prob: float | None
    """Probability of the risk head; None without a tile."""
    trees_prob: float | None
    """Probability of the trees; None when a measurement they need is missing."""
    distance: float | None
    """Distance to the mean of the patient's lesions; None when that was not assessed."""
    nevus_prob: float | None
    """Probability of a nevus; None without a tile."""
    missing: tuple[str, ...]
    """Measurements without a usable value."""
    excluded: tuple[str, ...]
    """Filters that the lesion did not pass; it was then not assessed."""

    @property
    def is_flagged(self) -> bool:
        """True when at least one module recommends a closer look."""
        return bool(self.reasons)


@dataclass(frozen=True, kw_only=True)
class PatientScreening:
    """The whole patient."""

    lesions: tuple[LesionScreening, ...]
    """All lesions, the one to look at first in front."""
    assessed: int
    """Lesions that passed the filters."""
    flagged: int
    """Lesions that at least one module recommends."""
    flagged_by: dict[str, int]
    """Module -> lesions it recommends."""
    excluded_by: dict[str, int]
    """Filter -> lesions it took out."""
    nevus_count: dict[str, int]
    """Body site -> nevi of at least 2 mm."""
    photodamage: Photodamage
    ugly_duckling_cutoff: float | None
    """Distance from which a lesion is an outlier; None when there were too few lesions."""
    remarks: tuple[Remark, ...]
    """What was not assessed or not applied, and for how many lesions."""


def screen_patient(
    lesion_ids: Sequence[str],
    table: MeasurementTable,
    answers: LesionAnswers,
    manifest: TbpManifest,
    *,
    out_of_bounds: NDArray[np.floating] | None = None,
    photodamage: NDArray[np.floating] | None = None,
) -> PatientScreening:
    """Join the modules for one patient.

    Parameters
    ----------
    lesion_ids
        N ids, each once.
    table
        Their measurements.
    answers
        The served model's outputs for them.
    manifest
        Filters, thresholds and settings of the model.
    out_of_bounds
        (N,) share of the tile outside the image, or None.
    photodamage
        (M, 3) probabilities of the patient's skin tiles, or None.

    Raises
    ------
    ValueError
        If the lengths differ or an id comes twice.
    """
    count = len(lesion_ids)
    lengths = {len(table.values), len(answers.embeddings), len(answers.risk), len(answers.trees)}
    if lengths != {count} or len(answers.nevus) != count:
        raise ValueError(f"{count} lesions, but answers of lengths {sorted(lengths)}")
    if len(set(lesion_ids)) != count:
        raise ValueError("a lesion id comes twice")
    filtered = filter_tiles(table.values, manifest.filters, out_of_bounds=out_of_bounds)
    trees = _usable_trees(table, answers.trees, manifest)
    kept = np.flatnonzero(filtered.is_kept)
    ducklings = _ducklings_of(answers.embeddings[kept], manifest)
    scores = ModuleScores(risk=answers.risk[kept], trees=trees[kept], ducklings=ducklings)
    reasons = dict(zip(kept.tolist(), fuse(scores, manifest.thresholds), strict=True))
    distances = np.full(count, np.nan)
    distances[kept] = ducklings.distance
    locations = _locations(table)
    lesions = [
        LesionScreening(
            lesion_id=lesion_ids[i],
            rank=0,
            location=locations[i],
            reasons=reasons.get(i, ()),
            risk_prob=_number(answers.risk[i]),
            trees_prob=_number(trees[i]),
            distance=_number(distances[i]),
            nevus_prob=_number(answers.nevus[i]),
            missing=table.missing(i),
            excluded=filtered.reasons[i],
        )
        for i in range(count)
    ]
    ranked = rank_lesions(lesions)
    axis = table.values[:, column_number("majorAxisMM")]
    nevi = count_nevi(
        answers.nevus[kept],
        [locations[i] for i in kept],
        manifest.nevus_threshold,
        major_axis_mm=axis[kept],
    )
    return PatientScreening(
        lesions=ranked,
        assessed=len(kept),
        flagged=sum(lesion.is_flagged for lesion in ranked),
        flagged_by=dict(Counter(reason for lesion in ranked for reason in lesion.reasons)),
        excluded_by=dict(Counter(name for lesion in ranked for name in lesion.excluded)),
        nevus_count=nevi,
        photodamage=grade_photodamage(np.empty((0, 3)) if photodamage is None else photodamage),
        ugly_duckling_cutoff=ducklings.cutoff,
        remarks=(
            *_about_filters(ranked, filtered.not_applied),
            *_remarks(table, answers, trees, kept, ducklings, manifest),
        ),
    )


def _usable_trees(
    table: MeasurementTable, trees: NDArray[np.floating], manifest: TbpManifest
) -> NDArray[np.float64]:
    """Leave out the trees' answers for lesions that lack a measurement they need."""
    needed = [
        NAMES.index(name)
        for name in manifest.trained_measurements
        if name not in manifest.optional_measurements
    ]
    usable = np.asarray(trees, np.float64).copy()
    usable[np.isnan(table.values[:, needed]).any(axis=1)] = np.nan
    return usable


def _ducklings_of(embeddings: NDArray[np.floating], manifest: TbpManifest) -> UglyDucklings:
    """Ugly ducklings among the lesions that have a tile; the others get no distance."""
    has_tile = np.isfinite(embeddings).all(axis=1)
    found = find_ugly_ducklings(embeddings[has_tile], manifest.ugly_duckling)
    distance = np.full(len(embeddings), np.nan)
    is_outlier = np.zeros(len(embeddings), np.bool_)
    distance[has_tile], is_outlier[has_tile] = found.distance, found.is_outlier
    return UglyDucklings(distance=distance, cutoff=found.cutoff, is_outlier=is_outlier)


def _locations(table: MeasurementTable) -> list[str]:
    numbers = table.values[:, column_number("location_simple")]
    return [LOCATIONS[int(n)] if np.isfinite(n) else "Unknown" for n in numbers]


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def rank_lesions(lesions: Sequence[LesionScreening]) -> tuple[LesionScreening, ...]:
    """Order lesions for a person to look at.

    More modules first; among equals the larger of the two probabilities, then the larger distance,
    then the id, so that the order is the same each time. Excluded lesions come last.
    """

    def key(lesion: LesionScreening) -> tuple[bool, int, float, float, str]:
        prob = max(lesion.risk_prob or 0.0, lesion.trees_prob or 0.0)
        return (
            bool(lesion.excluded),
            -len(lesion.reasons),
            -prob,
            -(lesion.distance or 0.0),
            lesion.lesion_id,
        )

    return tuple(
        dataclasses.replace(lesion, rank=rank)
        for rank, lesion in enumerate(sorted(lesions, key=key), start=1)
    )


def _remarks(
    table: MeasurementTable,
    answers: LesionAnswers,
    trees: NDArray[np.float64],
    kept: NDArray[np.intp],
    ducklings: UglyDucklings,
    manifest: TbpManifest,
) -> tuple[Remark, ...]:
    remarks = [Remark(code="SCALE", text=text) for text in table.remarks]
    remarks += _about_values(table)

    def add(code: str, text: str) -> None:
        remarks.append(Remark(code=code, text=text))

    without_tile = int(np.isnan(answers.risk[kept]).sum())
    if without_tile:
        add("NO_TILE", f"{without_tile} lesions without a tile: measurements only")
    unjudged = int(np.isnan(trees[kept]).sum())
    if unjudged:
        add("LACKS_VALUE", f"{unjudged} lesions lack a measurement that the trees need: image only")
    optional = [name for name in manifest.optional_measurements if name in table.absent]
    if optional and len(table.absent) < len(NAMES):
        add(
            "NOT_DELIVERED",
            f"measurements not delivered, the trees did without: {', '.join(optional)}",
        )
    if not ducklings.is_assessed:
        add(
            "FEW_LESIONS",
            "ugly duckling not assessed: fewer than "
            f"{manifest.ugly_duckling.min_lesions} lesions with a tile",
        )
    return tuple(remarks)


def _about_filters(lesions: Sequence[LesionScreening], not_applied: dict[str, int]) -> list[Remark]:
    remarks = []
    by_filter = Counter(name for lesion in lesions for name in lesion.excluded)
    if by_filter:
        excluded = sum(bool(lesion.excluded) for lesion in lesions)
        names = ", ".join(f"{name} {times}" for name, times in by_filter.most_common())
        text = f"{excluded} of {len(lesions)} lesions were taken out by the filters: {names}"
        remarks.append(Remark(code="FILTERED", text=text))
    if not_applied:
        names = ", ".join(f"{name} {times}" for name, times in not_applied.items())
        text = f"filters not applied to lesions without the value: {names}"
        remarks.append(Remark(code="FILTER_SKIPPED", text=text))
    return remarks


def _about_values(table: MeasurementTable) -> list[Remark]:
    """Values that were there and could not be used; what is merely missing is told elsewhere."""
    bad = Counter(
        problem.name
        for problems in table.problems
        for problem in problems
        if problem.problem != "missing"
    )
    if not bad:
        return []
    worst = ", ".join(f"{name} ({times})" for name, times in bad.most_common(5))
    more = f" and {len(bad) - 5} others" if len(bad) > 5 else ""
    text = f"{sum(bad.values())} impossible values were not used: {worst}{more}"
    return [Remark(code="BAD_VALUE", text=text)]
