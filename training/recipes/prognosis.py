"""Recipe of the prognosis model: Cox regression on clinical covariates, judged out of fold.

The model is seconds of work, so nothing is resumed: a killed run begins again and gives the same
files. What is stored for serving (arrays, cut, curves) is written with the figures into one file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialise_safetensors

from models.errors import ManifestError
from models.manifest import EvidenceLevel
from models.prognosis.patient import HIGH_RISK, LOW_RISK, GroupCurve, HazardRatio, PrognosisManifest
from models.prognosis.survival import SurvivalCurve, kaplan_meier, log_rank
from models.weights import digest_of
from training.errors import RunError, SettingsError
from training.export import Provenance, TensorSpec, export_model
from training.prognosis.fitting import (
    CovariateSettings,
    OutOfFold,
    SurvivalTable,
    TableSettings,
    figures,
    fit_cox,
    predict_out_of_fold,
    read_table,
)
from training.prognosis.page import write_report
from training.runs import Progress, RunFolder, write_atomically
from training.settings import read_toml
from training.simulate.survival import simulate_table

SUMMARY = "fit a Cox model on clinical covariates and judge it out of fold"
RESULT, WEIGHTS, SIMULATED = "result.json", "weights.safetensors", "simulated.csv"
BACKEND = "models.backends.prognosis:PrognosisBackend"
MAX_BATCH_SIZE = 1024
GRID_STEP_YEARS = 0.25
CUT_MEANING = (
    "median linear predictor of the {n} patients the model was fitted on; patients above it are of "
    "high risk"
)
INTERVALS = (
    "95 %, delta method on log(-log S) with the variance of the baseline and the whole covariance "
    "of the coefficients (Tsiatis 1981); it does not hold what a new hospital adds"
)


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the manifest says in words."""

    endpoint: str
    free_of: str
    time_origin: str
    scope: str
    competing_risks: str
    data: str
    data_name: str
    licence: str
    citation: str
    intended_use: str
    caution: str
    """Added to the evidence, such as the age of the cohort."""


@dataclass(frozen=True, kw_only=True)
class PrognosisSettings:
    """Everything that decides the model, apart from the table and the code."""

    seed: int
    """Seed of folds and bootstrap."""
    folds: int
    """Folds of the out-of-fold predictions, stratified by the event."""
    replicates: int
    """Bootstrap replicates."""
    horizons_years: tuple[float, ...]
    """Times of the stated probabilities."""
    stages: tuple[str, ...]
    """Stages to which the model applies."""
    evidence_level: EvidenceLevel
    """What stands behind the table."""
    simulate: int
    """Patients to simulate in place of a table; 0 for a real one."""
    table: TableSettings
    covariates: tuple[CovariateSettings, ...]
    statements: Statements

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        if self.folds < 2 or self.replicates < 100 or self.simulate < 0:
            raise ValueError("folds must be at least 2, replicates at least 100")
        if not self.covariates or not self.horizons_years or not self.stages:
            raise ValueError("covariates, horizons_years and stages must not be empty")
        steps = [year / GRID_STEP_YEARS for year in self.horizons_years]
        if min(steps) < 1 or any(step != round(step) for step in steps):
            raise ValueError(f"horizons_years must be multiples of {GRID_STEP_YEARS}")
        if self.simulate and self.evidence_level == "real":
            raise ValueError("simulated patients are no real evidence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--table", type=Path, help="CSV, one row a patient (unless simulated)")


def run(options: argparse.Namespace, report: Progress) -> None:
    """Fit, judge out of fold, write ``result.json``, the weights and ``report.html``."""
    settings = read_toml(options.config, PrognosisSettings)
    folder = RunFolder(options.out, recipe="prognosis", settings=settings)
    if settings.simulate:
        path = folder.path(SIMULATED)
        write_atomically(path, simulate_table(settings.simulate, settings.seed).encode())
    elif options.table is None:
        raise SettingsError("give --table FILE: one row a patient")
    else:
        path = options.table
    table = read_table(path, settings.table, settings.covariates)
    if settings.horizons_years[-1] >= table.years.max():
        raise SettingsError(
            f"horizons_years: the follow-up of {path.name} ends after {table.years.max():.1f} years"
        )
    names = [spec.name for spec in table.specs]
    model, summary, hazards_check = fit_cox(table.years, table.has_event, table.coded, names)
    steps = round(max(settings.horizons_years) / GRID_STEP_YEARS)
    held = predict_out_of_fold(
        table,
        folds=settings.folds,
        seed=settings.seed,
        grid=np.linspace(GRID_STEP_YEARS, steps * GRID_STEP_YEARS, steps),
        progress=lambda done, total: report("folds", done, total),
    )
    report("bootstrap", 0, 1)
    measured = figures(
        table,
        held,
        horizons=settings.horizons_years,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    weights = serialise_safetensors(model.to_arrays())
    curves = risk_curves(table, held)
    _, p_value = log_rank(table.years, table.has_event, held.is_high)
    ratios = [
        HazardRatio(
            covariate=covariate.name,
            contrast=covariate.contrast,
            ratio=float(summary.loc[covariate.name, "exp(coef)"]),
            low=float(summary.loc[covariate.name, "exp(coef) lower 95%"]),
            high=float(summary.loc[covariate.name, "exp(coef) upper 95%"]),
            p_value=float(summary.loc[covariate.name, "p"]),
        )
        for covariate in settings.covariates
    ]
    result = {
        "settings": dataclasses.asdict(settings),
        "digest": digest_of(weights),
        "patients": len(table.years),
        "events": int(table.has_event.sum()),
        "left_out": table.left_out,
        "follow_up_years": float(table.years.max()),
        "median_cut": float(np.median(model.linear_predictor(table.coded))),
        "log_rank_p": p_value,
        "proportional_hazards_p": {name: float(hazards_check.loc[name, "p"]) for name in names},
        "covariates": [dataclasses.asdict(spec) for spec in table.specs],
        "hazard_ratios": [dataclasses.asdict(line) for line in ratios],
        "curves": [dataclasses.asdict(store_curve(*item)) for item in curves.items()],
        "figures": {name: dataclasses.asdict(figure) for name, figure in measured.items()},
    }
    write_atomically(folder.path(WEIGHTS), weights)
    folder.write_json(RESULT, _plain(result))
    write_report(
        folder.path("report.html"), result, table=table, held=held, curves=curves, figures=measured
    )
    report("bootstrap", 1, 1)
    print(_evidence(result))


def risk_curves(table: SurvivalTable, held: OutOfFold) -> dict[str, SurvivalCurve]:
    """Kaplan-Meier curve of each risk group, groups told apart out of fold."""
    found = {}
    for name, members in ((LOW_RISK, ~held.is_high), (HIGH_RISK, held.is_high)):
        if not members.any():
            raise RunError(f"nobody is of {name}: the covariates do not tell patients apart")
        found[name] = kaplan_meier(table.years[members], table.has_event[members])
    return found


def store_curve(group: str, curve: SurvivalCurve) -> GroupCurve:
    """Return a curve as the manifest holds it: steps and counts, no patient's time of censoring."""

    def plain(values: Any) -> tuple[float | None, ...]:
        return tuple(round(float(v), 6) if np.isfinite(v) else None for v in values)

    years = range(int(curve.subject_times[-1]) + 1)
    counts = curve.at_risk(np.array(years, float))
    return GroupCurve(
        group=group,
        n=len(curve.subject_times),
        events=int((~curve.is_censored).sum()),
        years=tuple(round(float(t), 6) for t in curve.times),
        survival=tuple(round(float(v), 6) for v in curve.survival),
        low=plain(curve.low),
        high=plain(curve.high),
        at_risk={str(year): int(n) for year, n in zip(years, counts, strict=True)},
    )


def _plain(value: Any) -> Any:
    """JSON has no nan: undefined interval ends become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _evidence(result: dict[str, Any]) -> str:
    words = result["settings"]["statements"]
    index = result["figures"]["concordance index"]
    return (
        f"{words['data_name']}: {result['patients']} patients, {result['events']} events, out of "
        f"fold; concordance index {index['value']:.3f} ({index['low']:.3f} to "
        f"{index['high']:.3f}). {words['caution']}"
    )


def export(run: Path, repository: Path, provenance: Provenance) -> PrognosisManifest:
    """Write a finished run into the model repository.

    Raises
    ------
    RunError
        If the run is not finished or its files contradict each other.
    """
    try:
        result = json.loads((run / RESULT).read_text("utf-8"))
        weights = (run / WEIGHTS).read_bytes()
        manifest = _manifest(result, provenance)
    except (OSError, ValueError, KeyError, TypeError, ManifestError) as exc:
        raise RunError(f"{run} holds no finished run of this recipe: {exc}") from exc
    if manifest.digest != digest_of(weights):
        raise RunError(f"{run}: the weights are not those of {RESULT}")
    size, horizons = (len(manifest.covariates),), (len(manifest.horizons_years),)
    export_model(
        repository,
        manifest,
        weights,
        backend=BACKEND,
        inputs=(TensorSpec(name="COVARIATES", kind="FP32", dims=size),),
        outputs=(
            TensorSpec(name="LINEAR_PREDICTOR", kind="FP32", dims=(1,)),
            TensorSpec(name="SURVIVAL", kind="FP32", dims=horizons),
            TensorSpec(name="SURVIVAL_LOW", kind="FP32", dims=horizons),
            TensorSpec(name="SURVIVAL_HIGH", kind="FP32", dims=horizons),
        ),
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest


def _manifest(result: dict[str, Any], provenance: Provenance) -> PrognosisManifest:
    settings = result["settings"]
    words = dict(settings["statements"])
    data_name = words.pop("data_name")
    words.pop("caution")
    held_out = [
        {
            "metric": name,
            "data": f"{data_name}, out of fold",
            **{
                end: None if figure[end] is None else round(figure[end], 4)
                for end in ("low", "high")
            },
            "value": round(figure["value"], 4),
            "n": figure["n"],
            "groups": figure["n"],
            "command": provenance.evaluation_command,
        }
        for name, figure in result["figures"].items()
    ]
    plain = {
        "name": "prognosis",
        "version": provenance.version,
        "digest": result["digest"],
        "training_command": provenance.training_command,
        "git_commit": provenance.git_commit,
        "created": provenance.created,
        "evidence_level": settings["evidence_level"],
        "evidence": _evidence(result),
        "figures": held_out,
        **words,
        **{key: result[key] for key in ("covariates", "follow_up_years", "median_cut")},
        **{key: result[key] for key in ("hazard_ratios", "curves")},
        "horizons_years": settings["horizons_years"],
        "median_cut_meaning": CUT_MEANING.format(n=result["patients"]),
        "stages": settings["stages"],
        "interval_method": INTERVALS,
    }
    return PrognosisManifest.from_json(json.dumps(plain))
