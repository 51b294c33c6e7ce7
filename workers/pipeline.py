"""The analysis step of one claimed work item: load, prepare, infer, interpret, encode, write.

Pure over its ports. Images go through in chunks, so that a study of hundreds of them needs the
memory of a few; what the report needs later waits in ``Scratch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.store.values import Claim, InstanceRow, NewObject
from models.results import ImageAssessment, ImageQuality
from reports.encode import PredecessorReport, ReportContext, ReportObject, SourceImage, encode
from workers.analysis import Analysis, PreparedImage
from workers.errors import DemonstrationModel, ModelChanged, NothingDecodable, Undecodable
from workers.ports import (
    InferenceClient,
    InstanceSource,
    PriorReports,
    ResultFiles,
    Scratch,
    ServedModel,
)

Checkpoint = Callable[[], None]
"""Called between two parts of the work; raises ``LeaseLost`` when the work is not ours any more."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the pipeline needs of the world."""

    source: InstanceSource
    inference: InferenceClient
    record: PriorReports
    files: ResultFiles
    scratch: Scratch
    software_version: str
    allows_demonstration: bool = False
    """Whether models without real evidence may answer."""


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """What a work item's analysis leaves behind."""

    objects: tuple[NewObject, ...]
    outcome: str
    """``assessed`` or ``not_assessed``."""
    reason: str
    summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One selected instance of the study while it is analysed."""

    source: SourceImage
    prepared: PreparedImage


def analyse(claim: Claim, analysis: Analysis, ports: Ports, checkpoint: Checkpoint) -> Analysed:
    """Run one analysis on one generation and write its objects.

    An image that cannot be decoded, or is not fit for the model, is not assessed; its siblings are.

    Parameters
    ----------
    claim
        The work item; its model digest is that of the model in service now.
    checkpoint
        Called between two parts of the work; raises to stop it.

    Raises
    ------
    NothingDecodable
        No image of the study could be decoded.
    DemonstrationModel
        The model has no real evidence and such models are not allowed.
    ModelChanged
        Another model took over before the last image.
    InstanceMissing, StorageUnavailable, ModelUnavailable, BadModelOutput, ReportError
        The step failed as a whole.
    """
    served = _identify(claim, ports.inference)
    _check_evidence(served, ports.allows_demonstration)
    selected = analysis.match(claim.generation.instances).instances
    images: list[_Image] = []
    assessments: list[ImageAssessment] = []
    for first in range(0, len(selected), analysis.batch_size):
        chunk = []
        for instance in selected[first : first + analysis.batch_size]:
            checkpoint()
            chunk.append(_load(instance, analysis, ports))
        images += chunk
        assessments += _assess(chunk, analysis, served, ports)
    _refuse_when_nothing_decodes(images)
    _check_same_model(served, ports.inference)
    conclusion = analysis.conclude(assessments, served.manifest)
    checkpoint()
    objects = encode(
        conclusion.result, _context(claim, ports, tuple(image.source for image in images))
    )
    checkpoint()
    return Analysed(
        objects=tuple(_write(claim, ports.files, objects)),
        outcome="assessed" if conclusion.is_assessed else "not_assessed",
        reason=conclusion.reason,
        summary=conclusion.summary,
    )


def _identify(claim: Claim, inference: InferenceClient) -> ServedModel:
    served = inference.identify(claim.analysis)
    if served.digest != claim.model_digest:
        raise ModelChanged(f"another version of the model {claim.analysis} was put in service")
    return served


def _check_evidence(served: ServedModel, allows_demonstration: bool) -> None:
    level = served.manifest.evidence_level
    if level != "real" and not allows_demonstration:
        raise DemonstrationModel(
            f"the evidence behind the model {served.name} is '{level}', and demonstration models "
            "are not switched on (LENTIGO_WORKER_DEMONSTRATION_MODELS)"
        )


def _check_same_model(served: ServedModel, inference: InferenceClient) -> None:
    if inference.identify(served.name).digest != served.digest:
        raise ModelChanged(
            f"another version of the model {served.name} was put in service during the analysis"
        )


def _load(instance: InstanceRow, analysis: Analysis, ports: Ports) -> _Image:
    """Read and prepare one instance; what cannot be decoded is prepared as not assessed."""
    header = ports.source.header(instance.path)
    try:
        pixels = ports.source.pixels(instance.path)
    except Undecodable as exc:
        prepared = PreparedImage(
            sop_instance_uid=instance.sop_instance_uid,
            shape=(0, 0),
            quality=ImageQuality(reasons=(f"the image could not be read: {exc}",)),
        )
        return _Image(source=SourceImage(header=header, pixels=None), prepared=prepared)
    prepared = analysis.prepare(instance.sop_instance_uid, pixels)
    kept = ports.scratch.keep(pixels)
    return _Image(source=SourceImage(header=header, pixels=kept), prepared=prepared)


def _assess(
    images: Sequence[_Image], analysis: Analysis, served: ServedModel, ports: Ports
) -> Iterator[ImageAssessment]:
    """Yield the assessment of every image of a chunk, in order; one request to the model."""
    inputs = [image.prepared.inputs for image in images if image.prepared.inputs]
    outputs: Mapping[str, NDArray[Any]] = {}
    if inputs:
        batch = {name: np.stack([each[name] for each in inputs]) for name in inputs[0]}
        outputs = ports.inference.infer(served.name, batch)
    index = 0
    for image in images:
        prepared = image.prepared
        if not prepared.inputs:
            yield ImageAssessment(
                sop_instance_uid=prepared.sop_instance_uid,
                shape=prepared.shape,
                quality=prepared.quality,
            )
            continue
        own = {name: tensor[index] for name, tensor in outputs.items()}
        index += 1
        assessment = analysis.interpret(prepared, own, served.manifest)
        if assessment.region is not None:
            mask = ports.scratch.keep(assessment.region.mask)
            assessment = replace(assessment, region=replace(assessment.region, mask=mask))
        yield assessment


def _refuse_when_nothing_decodes(images: Sequence[_Image]) -> None:
    if any(image.source.pixels is not None for image in images):
        return
    reasons = dict.fromkeys(reason for image in images for reason in image.prepared.quality.reasons)
    raise NothingDecodable("; ".join(reasons) or "the study holds no image for this analysis")


def _context(claim: Claim, ports: Ports, sources: tuple[SourceImage, ...]) -> ReportContext:
    prior = ports.record.prior_report(claim)
    predecessors = (
        ()
        if prior is None
        else (
            PredecessorReport(
                study_instance_uid=prior.study_instance_uid,
                series_instance_uid=prior.series_instance_uid,
                sop_class_uid=prior.sop_class_uid,
                sop_instance_uid=prior.sop_instance_uid,
            ),
        )
    )
    return ReportContext(
        sources=sources,
        generation=claim.generation.number,
        analysis=claim.analysis,
        # Not the time of this attempt: a re-run must write the same bytes.
        created_at=claim.created_at,
        software_version=ports.software_version,
        device_serial=ports.record.installation_serial(),
        predecessors=predecessors,
    )


def _write(
    claim: Claim, files: ResultFiles, objects: Sequence[ReportObject]
) -> Iterator[NewObject]:
    for number, each in enumerate(objects, start=1):
        ds = each.dataset
        # The digest keeps the objects of two models apart, the number keeps the order of the roles.
        name = (
            f"g{claim.generation.number:02d}-{claim.analysis}-{claim.model_digest[:8]}-"
            f"{number:02d}-{each.role}.dcm"
        )
        written = files.write(str(ds.StudyInstanceUID), name, ds)
        yield NewObject(
            role=each.role,
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            path=written.path,
            sha256=written.sha256,
            size_bytes=written.size_bytes,
        )
