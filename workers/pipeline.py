"""The analysis step of one claimed work item: identify the model, run, encode, write.

Pure over its ports, and the same for every analysis; what is done to a study stands in
``workers/analyses/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.faults import failpoint
from gateway.store.values import Claim, NewObject
from reports.encode import PredecessorReport, ReportContext, ReportObject, SourceImage, encode
from workers.analysis import Analysis, Tools
from workers.encoding import Encoder
from workers.errors import DemonstrationModel, ModelChanged
from workers.metering import Meter, MeteredModels
from workers.ports import (
    Checkpoint,
    Documents,
    Embeddings,
    InferenceClient,
    InstanceSource,
    PriorReports,
    Priors,
    ResultFiles,
    Scratch,
    ServedModel,
)
from workers.slide.source import NoSlides, SlideSource
from workers.study import Study


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the pipeline needs of the world."""

    source: InstanceSource
    documents: Documents
    inference: InferenceClient
    priors: Priors
    record: PriorReports
    files: ResultFiles
    scratch: Scratch
    embeddings: Embeddings
    software_version: str
    allows_demonstration: bool = False
    """Whether models without real evidence may answer."""
    slides: SlideSource = field(default_factory=NoSlides)


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """What a work item's analysis leaves behind."""

    objects: tuple[NewObject, ...]
    outcome: str
    """``assessed`` or ``not_assessed``."""
    reason: str
    summary: dict[str, Any]
    measured: dict[str, float]
    """Seconds of its parts and traffic with the model server (``workers.metering``)."""


def analyse(claim: Claim, analysis: Analysis, ports: Ports, checkpoint: Checkpoint) -> Analysed:
    """Run one analysis on one generation and write its objects.

    Parameters
    ----------
    claim
        The work item; its model digest is that of the model in service now.
    checkpoint
        Called between two parts of the work; raises to stop it.

    Raises
    ------
    NothingDecodable
        No instance that the analysis applies to could be read.
    DemonstrationModel
        The model has no real evidence and such models are not allowed.
    ModelChanged
        Another model took over before the end.
    InstanceMissing, StorageUnavailable, ModelUnavailable, BadModelOutput, ReportError
        The step failed as a whole.
    """
    served = _identify(claim, analysis, ports.inference)
    why = served.lacks_evidence(ports.allows_demonstration)
    if why:
        raise DemonstrationModel(why)
    meter = Meter()
    models = MeteredModels(ports.inference, meter)
    with meter.measure("run"):
        conclusion = analysis.run(
            Study(claim.generation, ports.source, ports.documents),
            Tools(
                served=served,
                models=models,
                encoder=Encoder(models, ports.embeddings),
                source=ports.source,
                priors=ports.priors,
                scratch=ports.scratch,
                checkpoint=checkpoint,
                slides=ports.slides,
            ),
        )
    failpoint("worker.inferred")
    _check_same_model(served, analysis, ports.inference)
    checkpoint()
    with meter.measure("encode"):
        objects = encode(conclusion.result, _context(claim, ports, conclusion.sources))
    failpoint("worker.encoded")
    checkpoint()
    with meter.measure("write"):
        written = tuple(_write(claim, ports.files, objects))
    return Analysed(
        objects=written,
        outcome="assessed" if conclusion.is_assessed else "not_assessed",
        reason=conclusion.reason,
        summary=conclusion.summary,
        measured=meter.as_dict(),
    )


def _identify(claim: Claim, analysis: Analysis, inference: InferenceClient) -> ServedModel[Any]:
    served = inference.identify(claim.analysis, analysis.manifest_type)
    if served.digest != claim.model_digest:
        raise ModelChanged(f"another version of the model {claim.analysis} was put in service")
    return served


def _check_same_model(
    served: ServedModel[Any], analysis: Analysis, inference: InferenceClient
) -> None:
    """Refuse results of two models: the report names one digest."""
    if inference.identify(served.name, analysis.manifest_type).digest != served.digest:
        raise ModelChanged(f"the model {served.name} was replaced while a study was analysed")


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
