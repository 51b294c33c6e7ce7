"""Comprehensive 3D SR with TID 1500, laid out so that viewers draw what it says.

One instance holds one measurement group (TID 1501) for each image. The group's region hangs on
its first measurement (INFERRED FROM a SCOORD, TID 320) and every group has one: OHIF draws such a
group read-only with outline, comments and measurements, five lines in all, and turns black on a
group without a region. Coded values are not drawn there, so the comments repeat what matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.results import ModelIdentity
from reports import coding
from reports.coding import Concept
from reports.content_items import (
    Relationship,
    code,
    container,
    number,
    polyline,
    text,
    uid_reference,
)
from reports.context import ReportContext
from reports.document import algorithm, image_item, measurement_document
from reports.errors import ResultError
from reports.source import Source, written_again
from reports.tracking import Tracking


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number: a NUM content item (TID 300)."""

    name: Concept
    value: float
    unit: Concept


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One coded statement: a CODE content item."""

    name: Concept
    value: Concept


@dataclass(frozen=True, kw_only=True)
class MeasurementGroup:
    """What is said about one lesion in one image."""

    source: Source
    tracking: Tracking
    region: NDArray[np.float32]
    """(N, 2) closed polygon, (column, row), the image's top left corner at (0, 0)."""
    finding: Concept | None
    """What is seen; None where nothing was assessed."""
    measurements: tuple[Measurement, ...]
    """At least one: the first carries the region. A viewer shows the first few."""
    evaluations: tuple[Evaluation, ...]
    comments: tuple[str, ...]
    """Short lines that viewers draw beside the outline, before the measurements."""
    details: str
    """Everything a reader of the report should know, in sentences; not drawn on the image."""
    context: tuple[Dataset, ...] = ()
    """Content items that say more of what the group is about, after its tracking."""


def measurement_report(
    groups: list[MeasurementGroup],
    *,
    summary: Concept,
    model: ModelIdentity,
    context: ReportContext,
    others: Sequence[Source] = (),
) -> Dataset:
    """The measurement report of one analysis of one study.

    Parameters
    ----------
    groups
        One for each image, at least one; their tracking UIDs are distinct.
    summary
        CAD Processing and Findings Summary (CID 6047).
    model
        The model that spoke (TID 4019).
    context
        Time, installation, generation and predecessors.
    others
        Further instances that the report speaks of, perhaps of other studies.

    Returns
    -------
        A Comprehensive 3D SR, UNVERIFIED and PRELIMINARY, with File Meta Information.

    References
    ----------
    PS3.16 TID 1500, 1501, 300, 320, 4019 (2024c).
    """
    if not groups or any(not group.measurements for group in groups):
        raise ResultError("a report needs groups, and each group a measurement")
    identified = algorithm(model)  # encoded once for all groups
    return measurement_document(
        [_group(group, identified) for group in groups],
        sources=[*(group.source for group in groups), *others],
        summary=summary,
        model=model,
        context=context,
    )


def _group(group: MeasurementGroup, identified: list[Dataset]) -> Dataset:
    """One measurement group (TID 1501)."""
    first, *others = group.measurements
    children = [
        text(coding.TRACKING_IDENTIFIER, group.tracking.identifier, Relationship.OBS_CONTEXT),
        uid_reference(
            coding.TRACKING_UNIQUE_IDENTIFIER, group.tracking.uid, Relationship.OBS_CONTEXT
        ),
        *group.context,
        *_finding(group.finding),
        *[_finding_site(site, group.source) for site in group.source.finding_sites],
        *identified,
        number(first.name, first.value, first.unit, [_region(group)]),
        *[number(item.name, item.value, item.unit) for item in others],
        *[code(item.name, item.value) for item in group.evaluations],
        *[text(coding.COMMENT, comment) for comment in group.comments],
        text(coding.ASSESSMENT_DETAILS, group.details),
    ]
    return container(coding.MEASUREMENT_GROUP, children, template="1501")


def _finding(finding: Concept | None) -> list[Dataset]:
    if finding is None:
        return []
    return [
        code(coding.FINDING_CATEGORY, coding.MORPHOLOGICALLY_ABNORMAL),
        code(coding.FINDING, finding),
    ]


def _finding_site(site: Dataset, source: Source) -> Dataset:
    sides = {"L": coding.LEFT, "R": coding.RIGHT}
    side = sides.get(source.laterality or "")
    modifier = code(coding.LATERALITY, side, Relationship.CONCEPT_MOD) if side else None
    return code(coding.FINDING_SITE, written_again(site), children=[modifier] if modifier else None)


def _region(group: MeasurementGroup) -> Dataset:
    """The outline, selected from its image (TID 320)."""
    selected = image_item(group.source, Relationship.SELECTED_FROM)
    return polyline(coding.AREA_OUTLINE, group.region, Relationship.INFERRED_FROM, selected)
