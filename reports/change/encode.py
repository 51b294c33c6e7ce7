"""``ChangeResult`` as DICOM: one measurement report, and for each lesion masks and pictures.

All objects lie in the study of the current images. The earlier image's mask lies on the first
frame of the flicker, which shows that image in this study: a Segmentation of an instance of
another study is drawn by no viewer before somebody loads that study, and one written into the old
study would reopen it at the PACS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from models.change.result import ChangeResult, Comparison, LesionChange
from reports import coding
from reports.change import codes
from reports.change.flicker import flicker, frame_mask
from reports.change.picture import ChangePicture, draw_change
from reports.change.wording import comments, days, details
from reports.coding import Concept
from reports.content_items import Relationship, text
from reports.context import ReportContext, ReportObject, SourceImage
from reports.document import image_item, processing_summary
from reports.errors import ResultError
from reports.measurement_report import (
    Evaluation,
    Measurement,
    MeasurementGroup,
    measurement_report,
)
from reports.outline import graphic_data, image_rectangle
from reports.provenance import series_description
from reports.secondary_capture import secondary_capture, source_item
from reports.segmentation import lesion_segmentation
from reports.source import Source, select_sources, sources_of_any_study
from reports.tracking import Tracking, assign_tracking


@dataclass(frozen=True, kw_only=True)
class _Lesion:
    """One lesion with its sources."""

    number: int
    change: LesionChange
    source: Source
    """The current image."""
    earlier: Source | None
    """The image that it was compared with; None without one."""
    tracking: Tracking

    @property
    def is_assessed(self) -> bool:
        return self.change.not_assessed is None and self.change.comparison is not None


@dataclass(frozen=True, kw_only=True)
class FrameSource(Source):
    """One frame of a multi-frame image of ours, as the source of a Segmentation."""

    frame: int

    @property
    def frame_number(self) -> int | None:
        """The frame, 1-based."""
        return self.frame


def encode_change(result: ChangeResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a result: ``sr``, then ``seg-N``, ``overview-N`` and the rest by lesion.

    Raises
    ------
    ResultError
        When the result has no lesion, or holds a value out of range.
    SourceError
        When an image of the result is not among the sources, or does not fit its mask.
    """
    lesions = _lesions(result, context)
    report = measurement_report(
        [_group(lesion, result) for lesion in lesions],
        summary=_summary(lesions),
        model=result.model,
        context=context,
        others=_others(lesions, result, context),
    )
    objects = [ReportObject(role="sr", dataset=report)]
    for lesion in lesions:
        objects += _lesion_objects(lesion, len(lesions), result, context)
    return objects


def _lesions(result: ChangeResult, context: ReportContext) -> list[_Lesion]:
    if not result.lesions:
        raise ResultError("the result has no lesion")
    uids = [lesion.current.sop_instance_uid for lesion in result.lesions]
    if len(set(uids)) != len(uids):
        raise ResultError("the result names an image twice")
    sources = select_sources(context, uids)
    lesions = []
    trackings = assign_tracking(sources)
    for index, change in enumerate(result.lesions):
        _check(change, index + 1)
        earlier = None
        if change.comparison is not None:
            uid = change.comparison.before.sop_instance_uid
            (earlier,) = sources_of_any_study(context, [uid])
        lesions.append(
            _Lesion(
                number=index + 1,
                change=change,
                source=sources[index],
                earlier=earlier,
                tracking=_tracking(trackings[index], sources[index], earlier),
            )
        )
    if len({lesion.tracking.uid for lesion in lesions}) < len(lesions):
        raise ResultError("two lesions of the result have one Tracking UID")
    return lesions


def _tracking(assigned: Tracking, source: Source, earlier: Source | None) -> Tracking:
    """The identity that both images have: the current one's own, else the earlier one's."""
    if source.header.get("TrackingUID") or earlier is None:
        return assigned
    uid = str(earlier.header.get("TrackingUID") or "")
    if not uid:
        return assigned
    return Tracking(
        identifier=str(earlier.header.get("TrackingID") or assigned.identifier), uid=uid
    )


def _check(change: LesionChange, index: int) -> None:
    """Refuse a lesion that contradicts itself."""
    pair = change.comparison
    if change.not_assessed is None and (pair is None or pair.change_prob is None):
        raise ResultError(f"lesion {index} was assessed, but has no probability")
    if pair is None or pair.change_prob is None:
        return
    values = [pair.change_prob]
    if pair.growth is not None:
        values += [pair.growth.before_px, pair.growth.after_px]
    if not all(math.isfinite(value) and value >= 0 for value in values) or pair.change_prob > 1:
        raise ResultError(f"lesion {index} has a value out of range")


def _others(lesions: list[_Lesion], result: ChangeResult, context: ReportContext) -> list[Source]:
    """The earlier images, each once."""
    own = {lesion.source.sop_instance_uid for lesion in lesions}
    uids = [p.sop_instance_uid for each in result.lesions for p in each.time_points]
    uids += [each.earlier.sop_instance_uid for each in lesions if each.earlier is not None]
    return sources_of_any_study(context, [uid for uid in dict.fromkeys(uids) if uid not in own])


def _summary(lesions: list[_Lesion]) -> Concept:
    """CAD Processing and Findings Summary (CID 6047); a finding is a changed lesion."""
    assessed = sum(lesion.is_assessed for lesion in lesions)
    found = any(
        lesion.is_assessed and lesion.change.comparison and lesion.change.comparison.is_changed
        for lesion in lesions
    )
    return processing_summary(assessed, len(lesions), has_findings=found)


def _group(lesion: _Lesion, result: ChangeResult) -> MeasurementGroup:
    region = lesion.change.current.region
    outline = graphic_data(region) if region is not None else image_rectangle(lesion.source.shape)
    return MeasurementGroup(
        source=lesion.source,
        tracking=lesion.tracking,
        region=outline,
        finding=coding.LESION if lesion.is_assessed else None,
        measurements=_measurements(lesion) if lesion.is_assessed else _reason_count(),
        evaluations=_evaluations(lesion),
        comments=comments(lesion.change, result),
        details=details(lesion.change, result),
        context=_time_point(lesion),
    )


def _time_point(lesion: _Lesion) -> tuple[Dataset, ...]:
    """Time point context (TID 1502), and the image that was compared with."""
    link = Relationship.OBS_CONTEXT
    order = len(lesion.change.time_points)
    items = [text(codes.TIME_POINT, f"Image {order} of {order}", link)]
    if lesion.earlier is not None:
        items.append(_compared_with(lesion.earlier))
    return tuple(items)


def _compared_with(source: Source) -> Dataset:
    """The earlier image.

    With a concept name, although it needs none: OHIF stops reading at an item of a group that has
    none, and shows nothing of the report.
    """
    item = image_item(source, Relationship.CONTAINS)
    item.ConceptNameCodeSequence = [codes.SOURCE_OF_MEASUREMENT.as_item()]
    return item


def _measurements(lesion: _Lesion) -> tuple[Measurement, ...]:
    """Probability and growth first: a viewer shows only the first few."""
    pair = lesion.change.comparison
    assert pair is not None, "checked before"
    assert pair.change_prob is not None, "checked before"
    found = [
        Measurement(
            name=codes.PROBABILITY_OF_CHANGE, value=100 * pair.change_prob, unit=coding.PERCENT
        )
    ]
    found += _growth(pair)
    if pair.days is not None:
        found.append(Measurement(name=codes.DAYS_BETWEEN, value=pair.days, unit=codes.DAYS))
    if pair.alignment is not None:
        found += [
            Measurement(
                name=codes.LANDMARKS, value=pair.alignment.inliers, unit=codes.LANDMARKS_UNIT
            ),
            Measurement(name=codes.RESIDUAL, value=pair.alignment.residual_px, unit=coding.PIXELS),
            Measurement(
                name=codes.OVERLAP, value=100 * pair.alignment.overlap, unit=coding.PERCENT
            ),
        ]
    return tuple(found)


def _growth(pair: Comparison) -> list[Measurement]:
    growth = pair.growth
    if growth is None:
        return []
    absolute = (
        Measurement(name=codes.GROWTH, value=growth.growth_px, unit=coding.PIXELS)
        if growth.growth_mm2 is None
        else Measurement(name=codes.GROWTH, value=growth.growth_mm2, unit=coding.SQUARE_MILLIMETRE)
    )
    if growth.relative is None:
        return [absolute]
    relative = Measurement(
        name=codes.RELATIVE_GROWTH, value=100 * growth.relative, unit=coding.PERCENT
    )
    return [absolute, relative]


def _reason_count() -> tuple[Measurement, ...]:
    """A region must hang on a measurement; without a probability, on the number of reasons."""
    return (Measurement(name=coding.REASONS_AGAINST, value=1, unit=coding.REASONS_UNIT),)


def _evaluations(lesion: _Lesion) -> tuple[Evaluation, ...]:
    change, pair = lesion.change, lesion.change.comparison
    found = []
    if change.not_assessed is not None:
        reason = codes.REASONS[change.not_assessed.reason]
        found += [
            Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.NOT_ASSESSED),
            Evaluation(name=coding.REASON_AGAINST, value=reason),
        ]
    else:
        assert pair is not None, "checked before"
        call = codes.CHANGED if pair.is_changed else codes.NO_CHANGE
        found += [
            Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.ASSESSED),
            Evaluation(name=codes.CHANGE, value=call),
        ]
    if pair is not None:
        if pair.alignment is not None:
            grade = codes.GOOD if pair.alignment.is_good else codes.FAIR
        else:
            grade = codes.FAILED
        found.append(Evaluation(name=codes.REGISTRATION, value=grade))
        if pair.before.linkage is not None and change.not_assessed is None:
            linkage = codes.LINKAGES[pair.before.linkage]
            found.append(Evaluation(name=codes.LINKAGE, value=linkage))
    if change.sequence:
        found.append(Evaluation(name=codes.FIRST_SUSPICIOUS, value=_first_suspicious(change)))
    return tuple(found)


def _first_suspicious(change: LesionChange) -> Concept:
    first = change.first_suspicious
    if first is None:
        return codes.NONE_SUSPICIOUS
    is_current = first.sop_instance_uid == change.current.sop_instance_uid
    return codes.THIS_IMAGE if is_current else codes.AN_EARLIER_IMAGE


def _lesion_objects(
    lesion: _Lesion, total: int, result: ChangeResult, context: ReportContext
) -> list[ReportObject]:
    objects = []
    index = lesion.number
    region = lesion.change.current.region
    if region is not None:
        mask = lesion_segmentation(
            region.mask,
            source=lesion.source,
            tracking=lesion.tracking,
            index=index,
            model=result.segmentation,
            context=context,
        )
        objects.append(ReportObject(role=f"seg-{index}", dataset=mask))
    picture = draw_change(
        ChangePicture(
            lesion=lesion.change,
            result=result,
            current=lesion.source.image.pixels,
            earlier=None if lesion.earlier is None else lesion.earlier.image.pixels,
            number=index,
        )
    )
    capture = secondary_capture(
        picture, source=lesion.source, index=index, model=result.model, context=context
    )
    if lesion.earlier is not None:
        capture.DerivationDescription = "Earlier image and this image with an AI model's result"
        capture.SourceImageSequence.append(source_item(lesion.earlier))
    objects.append(ReportObject(role=f"overview-{index}", dataset=capture))
    if lesion.earlier is not None and lesion.is_assessed:
        objects += _flicker_objects(lesion, lesion.earlier, total, result, context)
    return objects


def _flicker_objects(
    lesion: _Lesion,
    earlier: Source,
    total: int,
    result: ChangeResult,
    context: ReportContext,
) -> list[ReportObject]:
    """The flicker, and the earlier image's lesion on its first frame."""
    pair = lesion.change.comparison
    if pair is None or pair.frames is None:
        return []
    before = "EARLIER" if pair.days is None else f"EARLIER, {days(pair.days)} before"
    moving = flicker(
        pair.frames,
        (before, "NOW, brought onto the earlier image"),
        sources=(lesion.source, earlier),
        index=lesion.number,
        model=result.model,
        context=context,
    )
    objects = [ReportObject(role=f"flicker-{lesion.number}", dataset=moving)]
    if pair.frames.before_mask.any():
        mask = lesion_segmentation(
            frame_mask(pair.frames.before_mask),
            source=_frame(moving, lesion.source, 1),
            tracking=lesion.tracking,
            index=total + lesion.number,
            model=result.segmentation,
            context=context,
        )
        mask.SeriesDescription = series_description("mask of the earlier image", context)
        objects.append(ReportObject(role=f"seg-{total + lesion.number}", dataset=mask))
    return objects


def _frame(moving: Dataset, current: Source, frame: int) -> FrameSource:
    header = Dataset()
    for element in current.header:
        header.add(element)
    for keyword in ("PixelSpacing", "FrameOfReferenceUID"):
        if keyword in header:
            delattr(header, keyword)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        setattr(header, keyword, moving[keyword].value)
    assert header.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage
    return FrameSource(header=header, image=SourceImage(header=moving, pixels=None), frame=frame)
