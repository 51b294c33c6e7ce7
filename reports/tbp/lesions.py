"""The recommended lesions as a report for the viewer: one measurement group on each tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports import coding
from reports.coding import Concept
from reports.content_items import Relationship, code
from reports.context import ReportContext
from reports.measurement_report import Evaluation, Measurement, MeasurementGroup, measurement_report
from reports.outline import image_rectangle
from reports.source import Source
from reports.tbp import codes
from reports.tbp.wording import comments, cutoff_share, details, identity
from reports.tracking import Tracking

MIDDLE = 2 / 3
"""Share of a tile's sides that the lesion takes at most: devices cut tiles so."""


def lesion_report(
    shown: list[tuple[LesionScreening, Source, Tracking]],
    result: TbpResult,
    *,
    summary: Concept,
    context: ReportContext,
) -> Dataset:
    """The report that a viewer draws.

    Parameters
    ----------
    shown
        Lesions with their tiles, the one to look at first in front; at least one.

    Notes
    -----
    Every group must have a region (see ``reports.measurement_report``). It is the middle of the
    tile, where the device centres the lesion; a viewer writes beside it, and beyond the tile's
    edge the text would be cut off.
    """
    groups = [_group(lesion, source, tracking, result) for lesion, source, tracking in shown]
    return measurement_report(groups, summary=summary, model=result.model, context=context)


def _group(
    lesion: LesionScreening, source: Source, tracking: Tracking, result: TbpResult
) -> MeasurementGroup:
    is_assessed = not lesion.excluded
    return MeasurementGroup(
        source=source,
        tracking=tracking,
        region=_middle(source),
        finding=coding.LESION if is_assessed else None,
        measurements=measurements(lesion, result),
        evaluations=evaluations(lesion),
        comments=comments(lesion, result),
        details=f"{details(lesion, result)} {identity(result)}",
        context=() if source.finding_sites else finding_site(lesion.location),
    )


def _middle(source: Source) -> NDArray[np.float32]:
    """Closed rectangle of two thirds of the tile's sides, (column, row)."""
    whole = image_rectangle(source.shape)
    centre = whole[:4].mean(axis=0)
    return np.asarray(centre + (whole - centre) * np.float32(MIDDLE), np.float32)


def finding_site(location: str) -> tuple[Dataset, ...]:
    """Finding Site of the device's body region; nothing where the region is unknown."""
    if location not in codes.SITES:
        return ()
    site, side = codes.SITES[location]
    sides = [code(coding.LATERALITY, side, Relationship.CONCEPT_MOD)] if side else None
    return (code(coding.FINDING_SITE, site, children=sides),)


def measurements(lesion: LesionScreening, result: TbpResult) -> tuple[Measurement, ...]:
    """What the modules say, then nevus, rank and size: a viewer shows the first five."""
    share = cutoff_share(lesion, result)
    shares = (
        (codes.TILE_PROBABILITY, lesion.risk_prob),
        (codes.TREES_PROBABILITY, lesion.trees_prob),
        (codes.DISTANCE, share),
        (codes.NEVUS_PROBABILITY, lesion.nevus_prob),
    )
    found = [
        Measurement(name=name, value=100 * value, unit=coding.PERCENT)
        for name, value in shares
        if value is not None
    ]
    found.append(Measurement(name=codes.RANK, value=lesion.rank, unit=codes.RANK_UNIT))
    axis = result.tiles[lesion.lesion_id].major_axis_mm
    if axis is not None:
        found.append(Measurement(name=coding.MAJOR_AXIS, value=axis, unit=coding.MILLIMETRE))
    return tuple(found)


def evaluations(lesion: LesionScreening) -> tuple[Evaluation, ...]:
    """Whether a closer look is recommended and why, or which filter took the lesion out."""
    if lesion.excluded:
        return (
            Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.NOT_ASSESSED),
            *[Evaluation(name=codes.FILTER, value=codes.FILTERS[f]) for f in lesion.excluded],
        )
    return (
        Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.ASSESSED),
        Evaluation(name=codes.RECOMMENDED, value=coding.YES if lesion.is_flagged else coding.NO),
        *[Evaluation(name=codes.REASON, value=codes.REASONS[r]) for r in lesion.reasons],
    )
