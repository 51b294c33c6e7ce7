"""``DiagnosisResult`` as DICOM: one report; for each image a mask, a picture and a page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom import Dataset

from models.results import DiagnosisResult, ImageAssessment, LabelSet
from reports import coding
from reports.coding import Concept
from reports.content_items import Relationship, uid_reference
from reports.context import ReportContext, ReportObject
from reports.diagnosis import codes
from reports.diagnosis.overview import Overview, draw_overview
from reports.diagnosis.page import diagnosis_page
from reports.diagnosis.wording import comments, details, full_name, lesion_of, ranked
from reports.document import processing_summary
from reports.encapsulated_pdf import encapsulated_pdf
from reports.errors import ResultError
from reports.measurement_report import (
    Evaluation,
    Measurement,
    MeasurementGroup,
    measurement_report,
)
from reports.outline import Size, graphic_data, lesion_sizes, margin_mark
from reports.page_pdf import page_pdf
from reports.secondary_capture import secondary_capture
from reports.segmentation import lesion_segmentation
from reports.source import Source, select_sources
from reports.tracking import Tracking, assign_tracking


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One assessment with its source."""

    number: int
    assessment: ImageAssessment
    source: Source
    tracking: Tracking
    sizes: tuple[Size, ...]

    @property
    def is_assessed(self) -> bool:
        return self.assessment.is_assessed


def encode_diagnosis(result: DiagnosisResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a diagnosis: ``sr``, then ``seg-N``, ``overview-N`` and ``pdf-N`` by image.

    Raises
    ------
    ResultError
        When the result has no image, names one twice, or holds a value out of range.
    SourceError
        When an image of the result is not among the sources, or does not fit its mask.
    """
    images = _images(result, context)
    report = measurement_report(
        [_group(image, result) for image in images],
        summary=_summary(images, result),
        model=result.model,
        context=context,
    )
    objects = [ReportObject(role="sr", dataset=report)]
    for image in images:
        objects += _image_objects(image, result, context)
    return objects


def _image_objects(
    image: _Image, result: DiagnosisResult, context: ReportContext
) -> list[ReportObject]:
    objects = []
    if image.assessment.region is not None:
        segmentation = lesion_segmentation(
            image.assessment.region.mask,
            source=image.source,
            tracking=image.tracking,
            index=image.number,
            model=result.model,
            context=context,
        )
        objects.append(ReportObject(role=f"seg-{image.number}", dataset=segmentation))
    overview = Overview(
        pixels=image.source.image.pixels,
        assessment=image.assessment,
        result=result,
        sizes=image.sizes,
        number=image.number,
    )
    capture = secondary_capture(
        draw_overview(overview),
        source=image.source,
        index=image.number,
        model=result.model,
        context=context,
    )
    page = encapsulated_pdf(
        page_pdf(diagnosis_page(overview)),
        source=image.source,
        role=f"pdf-{image.number}",
        number=image.number,
        title="page" if len(result.images) == 1 else f"page {image.number}",
        model=result.model,
        context=context,
    )
    return [
        *objects,
        ReportObject(role=f"overview-{image.number}", dataset=capture),
        ReportObject(role=f"pdf-{image.number}", dataset=page),
    ]


def _images(result: DiagnosisResult, context: ReportContext) -> list[_Image]:
    if not result.images:
        raise ResultError("the result has no image")
    uids = [assessment.sop_instance_uid for assessment in result.images]
    if len(set(uids)) != len(uids):
        raise ResultError("the result names an image twice")
    sources = select_sources(context, uids)
    standing = [each.deciding for each in result.lesions if each.deciding is not None]
    numbered = zip(result.images, sources, assign_tracking(sources, standing), strict=True)
    images = []
    for number, (assessment, source, tracking) in enumerate(numbered, start=1):
        _check(assessment, source, number)
        region = assessment.region
        sizes = lesion_sizes(region, source.pixel_spacing_mm) if region is not None else ()
        images.append(
            _Image(
                number=number,
                assessment=assessment,
                source=source,
                tracking=tracking,
                sizes=sizes,
            )
        )
    return images


def _check(assessment: ImageAssessment, source: Source, number: int) -> None:
    """Refuse an assessment that contradicts itself or its source."""
    values = [line.probability for line in assessment.differential]
    if assessment.differential:
        if assessment.malignancy_prob is None or assessment.is_suspicious is None:
            raise ResultError(f"image {number} has a differential but no malignancy")
        values.append(assessment.malignancy_prob)
    elif assessment.malignancy_prob is not None or assessment.region is not None:
        raise ResultError(f"image {number} was not assessed, but has a finding")
    if not all(math.isfinite(value) and -1e-6 <= value <= 1 + 1e-6 for value in values):
        raise ResultError(f"image {number} has a probability outside [0, 1]")
    region, pixels = assessment.region, source.image.pixels
    if region is not None and pixels is not None and region.mask.shape != pixels.shape[:2]:
        raise ResultError(f"image {number}: mask {region.mask.shape}, pixels {pixels.shape}")


def _summary(images: list[_Image], result: DiagnosisResult) -> Concept:
    """CAD Processing and Findings Summary (CID 6047); a finding is a suspicious lesion."""
    assessed = sum(image.is_assessed for image in images)
    has_findings = any(image.is_suspicious for image in result.standing)
    return processing_summary(assessed, len(images), has_findings=has_findings)


def _group(image: _Image, result: DiagnosisResult) -> MeasurementGroup:
    region = image.assessment.region
    shape = image.assessment.shape if all(image.assessment.shape) else image.source.shape
    outline = graphic_data(region) if region is not None else margin_mark(shape)
    is_assessed = image.is_assessed
    return MeasurementGroup(
        source=image.source,
        tracking=image.tracking,
        region=outline,
        finding=coding.LESION if is_assessed else None,
        measurements=(_measurements(image, result) if is_assessed else _reasons(image.assessment)),
        evaluations=(
            *(
                _evaluations(image.assessment, result)
                if is_assessed
                else _not_assessed(image.assessment)
            ),
            *_role(image.assessment, result),
        ),
        comments=comments(image.assessment, result),
        details=details(image.assessment, result),
        context=_lesion_reference(image.assessment, result),
    )


def _measurements(image: _Image, result: DiagnosisResult) -> tuple[Measurement, ...]:
    """Malignancy, then the differential, then sizes: a viewer shows only the first few."""
    assessment = image.assessment
    assert assessment.malignancy_prob is not None, "checked before"
    malignancy = _percentage(coding.PROBABILITY_OF_CANCER, assessment.malignancy_prob)
    differential = [
        _percentage(
            coding.probability_concept(line.label, full_name(result, line.label)),
            line.probability,
        )
        for line in ranked(assessment)
    ]
    sizes = [Measurement(name=s.name, value=s.value, unit=s.unit) for s in image.sizes]
    found = assessment.label_set
    coverage = [_percentage(codes.SET_COVERAGE, found.coverage)] if found else []
    return (malignancy, *differential, *sizes, *coverage)


def _percentage(name: Concept, prob: float) -> Measurement:
    return Measurement(name=name, value=100 * min(max(prob, 0.0), 1.0), unit=coding.PERCENT)


def _reasons(assessment: ImageAssessment) -> tuple[Measurement, ...]:
    """A region must hang on a measurement; without a probability, on the number of reasons."""
    count = len(assessment.quality.reasons)
    return (Measurement(name=coding.REASONS_AGAINST, value=count, unit=coding.REASONS_UNIT),)


def _evaluations(assessment: ImageAssessment, result: DiagnosisResult) -> tuple[Evaluation, ...]:
    """Diagnosis, risk level and suspicion.

    The risk level follows the operating point alone, the one threshold that was validated: at or
    above it High risk, below it Low risk.
    """
    top = ranked(assessment)[0].label
    diagnosis = coding.diagnosis_concept(top, full_name(result, top))
    is_suspicious = bool(assessment.is_suspicious)
    return (
        Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.ASSESSED),
        Evaluation(name=coding.MOST_LIKELY_DIAGNOSIS, value=diagnosis),
        Evaluation(
            name=coding.RISK_LEVEL, value=coding.HIGH_RISK if is_suspicious else coding.LOW_RISK
        ),
        Evaluation(name=coding.SUSPICIOUS, value=coding.YES if is_suspicious else coding.NO),
        *_possible(assessment.label_set, result),
        *_remarks(assessment),
    )


def _possible(found: LabelSet | None, result: DiagnosisResult) -> tuple[Evaluation, ...]:
    """Every label of the set, and whether it is a referral."""
    if found is None:
        return ()
    labels = [
        Evaluation(
            name=codes.POSSIBLE_DIAGNOSIS,
            value=coding.diagnosis_concept(label, full_name(result, label)),
        )
        for label in found.labels
    ]
    if not found.is_referred:
        return (*labels, Evaluation(name=codes.REFERRAL, value=coding.NO))
    reason = codes.TOO_MANY_POSSIBLE if found.labels else codes.NONE_PROBABLE
    return (
        *labels,
        Evaluation(name=codes.REFERRAL, value=coding.YES),
        Evaluation(name=codes.REFERRAL_REASON, value=reason),
    )


def _remarks(assessment: ImageAssessment) -> tuple[Evaluation, ...]:
    return tuple(
        Evaluation(name=codes.QUALITY_REMARK, value=codes.remark_concept(remark))
        for remark in assessment.quality.warnings
    )


def _not_assessed(assessment: ImageAssessment) -> tuple[Evaluation, ...]:
    return (
        Evaluation(name=coding.ASSESSMENT_STATUS, value=coding.NOT_ASSESSED),
        Evaluation(name=coding.SUSPICIOUS, value=coding.UNDETERMINED),
        *(
            Evaluation(name=coding.REASON_AGAINST, value=codes.reason_concept(reason))
            for reason in assessment.quality.reasons
        ),
        *_remarks(assessment),
    )


def _role(assessment: ImageAssessment, result: DiagnosisResult) -> tuple[Evaluation, ...]:
    """Whether an image stands for a lesion that others show too."""
    lesion = lesion_of(assessment, result)
    if lesion is None or lesion.deciding is None:
        return ()
    stands = lesion.deciding == assessment.sop_instance_uid
    role = codes.DECIDES if stands else codes.SEEN_BESIDE
    return (Evaluation(name=codes.IMAGE_ROLE, value=role),)


def _lesion_reference(assessment: ImageAssessment, result: DiagnosisResult) -> tuple[Dataset, ...]:
    """The source's Tracking UID, in each of the groups that may not share it."""
    if lesion_of(assessment, result) is None:
        return ()
    return (uid_reference(codes.LESION_UID, assessment.lesion, Relationship.OBS_CONTEXT),)
