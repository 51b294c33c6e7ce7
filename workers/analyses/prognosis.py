"""``prognosis``: survival of a melanoma patient, from covariates that the site states. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.store.values import InstanceRow
from models.errors import OutputError
from models.prognosis.patient import (
    CodedPatient,
    NotAssessed,
    Prognosis,
    PrognosisManifest,
    code_patient,
    interpret,
    read_covariate,
)
from models.prognosis.reasons import Reason
from models.prognosis.result import CovariateLine, PrognosisResult
from reports.context import SourceImage
from workers.analysis import Conclusion, Limits, Match, Tools
from workers.errors import BadModelOutput, NothingDecodable, Undecodable
from workers.photographs import photographs
from workers.prognosis.choosing import Chosen, choose
from workers.prognosis.gathering import documents_for_prognosis, gather, reports_for_prognosis
from workers.prognosis.statements import STAGE, shown
from workers.study import Study

_OUTPUTS = ("LINEAR_PREDICTOR", "SURVIVAL", "SURVIVAL_LOW", "SURVIVAL_HIGH")
_NO_IMAGE = ("SR", "PR", "KO", "DOC", "SEG", "AU")


class PrognosisAnalysis:
    """Risk score, risk group and survival at the model's horizons; see ``models.prognosis``."""

    name = "prognosis"
    manifest_type = PrognosisManifest
    limits = Limits(time_s=120, memory_bytes=2**30, concurrency=16, priority=5)

    def match(self, study: Study) -> Match:
        """Apply to a study for which covariates were sent, and to no other.

        Sex and age of every header are no reason: nobody asked for a prognosis then.
        """
        if not study.instances:
            return Match(instances=(), reason="the study holds no instance")
        documents = len(documents_for_prognosis(study))
        reports = len(reports_for_prognosis(study))
        if not documents and not reports:
            return Match(
                instances=(),
                reason="no document and no structured report with a melanoma's thickness or "
                "ulceration",
            )
        return Match(
            instances=(_filed_with(study.instances),),
            reason=f"{documents} documents and {reports} structured reports with covariates",
        )

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Read the covariates, code them, and ask the model."""
        manifest: PrognosisManifest = tools.served.manifest
        anchor = _filed_with(study.instances)
        try:
            header = study.header(anchor)
        except Undecodable as exc:
            raise NothingDecodable(f"the instance to file the result with: {exc}") from exc
        chosen = choose(gather(study, header), manifest)
        tools.checkpoint()
        coded = code_patient(chosen.values, chosen.stage, manifest)
        prognosis = None
        reasons = chosen.reasons
        if isinstance(coded, NotAssessed):
            reasons += coded.reasons
        elif not reasons:
            prognosis = _ask(coded, manifest, tools)
        return _conclude(
            PrognosisResult(
                manifest=manifest,
                sop_instance_uid=anchor.sop_instance_uid,
                stage=chosen.stage,
                stage_source=chosen.sources.get(STAGE, ""),
                covariates=_lines(chosen, manifest),
                prognosis=prognosis,
                reasons=reasons,
                remarks=(*chosen.remarks, *(prognosis.warnings if prognosis else ())),
            ),
            SourceImage(header=header, pixels=None),
        )


def _filed_with(instances: tuple[InstanceRow, ...]) -> InstanceRow:
    """The first photograph, else the first image, else whatever there is."""
    images = tuple(each for each in instances if each.modality not in _NO_IMAGE)
    return (*photographs(instances), *images, *instances)[0]


def _ask(patient: CodedPatient, manifest: PrognosisManifest, tools: Tools) -> Prognosis:
    outputs = tools.models.infer(tools.served.name, {"COVARIATES": patient.covariates[None]})
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
        raise BadModelOutput(f"the model prognosis sent no {', '.join(missing)}")
    predictor = np.asarray(outputs["LINEAR_PREDICTOR"]).ravel()
    if predictor.size != 1:
        raise BadModelOutput(f"the model prognosis sent {predictor.size} scores for one patient")
    try:
        return interpret(
            patient,
            linear_predictor=float(predictor[0]),
            survival=np.asarray(outputs["SURVIVAL"]).ravel(),
            low=np.asarray(outputs["SURVIVAL_LOW"]).ravel(),
            high=np.asarray(outputs["SURVIVAL_HIGH"]).ravel(),
            manifest=manifest,
        )
    except OutputError as exc:
        raise BadModelOutput(f"the model prognosis broke its contract: {exc}") from exc


def _lines(chosen: Chosen, manifest: PrognosisManifest) -> tuple[CovariateLine, ...]:
    lines = []
    for spec, ratio in zip(manifest.covariates, manifest.hazard_ratios, strict=True):
        value = chosen.values.get(spec.name)
        number = read_covariate(value, spec)
        own = None if isinstance(number, Reason) else ratio.ratio ** float(spec.code(number))
        lines.append(
            CovariateLine(
                name=spec.name,
                meaning=spec.meaning,
                value="" if value is None else shown(value),
                source=chosen.sources.get(spec.name, ""),
                hazard_ratio=own,
            )
        )
    return tuple(lines)


def _conclude(result: PrognosisResult, source: SourceImage) -> Conclusion:
    prognosis = result.prognosis
    summary: dict[str, Any] = {"assessed": prognosis is not None}
    if prognosis is not None:
        summary |= {
            "headline": _headline(prognosis, result.manifest),
            "group": prognosis.risk_group,
            "score": round(prognosis.risk_score, 3),
            "free": {f"{each.years:g}": round(each.probability, 4) for each in prognosis.survival},
        }
    reason = "; ".join(each.text for each in result.reasons)
    return Conclusion(
        result=result,
        sources=(source,),
        is_assessed=prognosis is not None,
        reason=f"not assessed: {reason}" if reason else "",
        summary=summary,
    )


def _headline(prognosis: Prognosis, manifest: PrognosisManifest) -> str:
    last = prognosis.survival[-1]
    share = f"{100 * last.probability:.0f} % {manifest.free_of} at {last.years:g} years"
    return f"{prognosis.risk_group}, {share}"


ANALYSIS = PrognosisAnalysis()
