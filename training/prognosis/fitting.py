"""Survival tables, Cox models fitted by lifelines, and what they are worth out of fold."""

from __future__ import annotations

import csv
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from lifelines.statistics import proportional_hazard_test
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from models.metrics import Figure, bootstrap
from models.prognosis.cox import CoxModel
from models.prognosis.patient import CovariateSpec
from models.prognosis.survival import brier_at, concordance, dynamic_auc, integrated_brier
from training.errors import CohortError, RunError, SettingsError

DAYS = {"d": 1.0, "mo": 365.25 / 12, "a": 365.25}
CENSORED, EVENT, COMPETING = 0, 1, 2
MIN_EVENTS_PER_COVARIATE = 5  # Vittinghoff and McCulloch, Am. J. Epidemiology 165, 2007


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """Where a table holds the follow-up."""

    patient_column: str
    """One row a patient."""
    time_column: str
    """Time from the origin to the event or the last contact."""
    time_unit: Literal["d", "mo", "a"]
    """UCUM unit of the time."""
    status_column: str
    """How the follow-up ended."""
    event: tuple[str, ...]
    """Values of the status that are the event."""
    competing: tuple[str, ...]
    """Values that make the event impossible, such as another death."""
    censored: tuple[str, ...]
    """Values of those last seen free of both."""

    def __post_init__(self) -> None:
        """Refuse a status that means two things."""
        values = (*self.event, *self.competing, *self.censored)
        if not self.event or len(set(values)) != len(values):
            raise ValueError("each status needs one meaning, and one must be the event")


@dataclass(frozen=True, kw_only=True)
class CovariateSettings:
    """One covariate of the model; the fields are those of ``CovariateSpec`` unless said."""

    column: str
    """Column of the table."""
    codes: dict[str, str]
    """Value in the table -> choice; empty for a measured value."""
    contrast: str
    """What the hazard ratio compares, e.g. ``per doubling``."""
    name: str
    meaning: str
    unit: str
    choices: dict[str, float]
    transform: Literal["identity", "log2"]
    centre: float
    scale: float
    possible_low: float
    possible_high: float

    def __post_init__(self) -> None:
        """Refuse codes that lead to no choice."""
        if not set(self.codes.values()) <= set(self.choices):
            raise ValueError(f"{self.name}: codes must lead to choices")
        self.spec(self.possible_low, self.possible_high)

    def spec(self, observed_low: float, observed_high: float) -> CovariateSpec:
        """Return what the manifest says of the covariate."""
        return CovariateSpec(
            name=self.name,
            meaning=self.meaning,
            unit=self.unit,
            choices=self.choices,
            transform=self.transform,
            centre=self.centre,
            scale=self.scale,
            observed_low=observed_low,
            observed_high=observed_high,
            possible_low=self.possible_low,
            possible_high=self.possible_high,
        )


@dataclass(frozen=True, kw_only=True)
class SurvivalTable:
    """Patients with complete covariates."""

    patients: NDArray[np.str_]
    """(N,) identifiers, each once."""
    years: NDArray[np.float64]
    """(N,) follow-up."""
    cause: NDArray[np.int64]
    """(N,) ``CENSORED``, ``EVENT`` or ``COMPETING``."""
    specs: tuple[CovariateSpec, ...]
    """With the ranges observed here."""
    coded: NDArray[np.float64]
    """(N, K)"""
    left_out: dict[str, int]
    """Covariate -> patients left out because it is missing."""

    @property
    def has_event(self) -> NDArray[np.bool_]:
        """(N,) True where the event was seen; a competing end counts as censored."""
        return np.asarray(self.cause == EVENT)


def read_table(
    path: Path, table: TableSettings, covariates: Sequence[CovariateSettings]
) -> SurvivalTable:
    """Read a CSV table of patients; those with a missing covariate are left out and counted.

    Raises
    ------
    SettingsError
        If the follow-up is among the covariates.
    CohortError
        If the file or a column is missing, a patient occurs twice, a status or code is unknown, a
        time or value is impossible, or too few patients with the event are left.
    """
    targets = {table.time_column, table.status_column, table.patient_column}
    leaked = sorted(targets & {covariate.column for covariate in covariates})
    if leaked:
        raise SettingsError(f"{leaked} hold the outcome and cannot be covariates")
    records = _read_records(path, targets | {covariate.column for covariate in covariates})
    patients = [record[table.patient_column] for record in records]
    twice = [name for name, count in Counter(patients).items() if count > 1]
    if twice:
        raise CohortError(f"{path.name}: {len(twice)} patients have several rows; aggregate first")
    kept, left_out, values = [], Counter[str](), []
    for line, record in enumerate(records, start=2):
        row = [_read_value(record[c.column], c, f"{path.name} line {line}") for c in covariates]
        left_out.update(c.name for c, value in zip(covariates, row, strict=True) if value is None)
        if None not in row:
            kept.append((line, record))
            values.append([float(value) for value in row if value is not None])
    matrix = np.array(values).reshape(len(kept), len(covariates))
    cause = np.array([_read_cause(record, table, path.name) for _, record in kept], np.int64)
    events = int((cause == EVENT).sum())
    if events < max(2, MIN_EVENTS_PER_COVARIATE * len(covariates)):
        raise CohortError(
            f"{path.name}: {events} events are too few for {len(covariates)} covariates"
        )
    limits = zip(matrix.min(axis=0), matrix.max(axis=0), strict=True)
    specs = tuple(
        c.spec(float(low), float(high)) for c, (low, high) in zip(covariates, limits, strict=True)
    )
    return SurvivalTable(
        patients=np.array([record[table.patient_column] for _, record in kept]),
        years=np.array([_read_years(record, table, path.name, line) for line, record in kept]),
        cause=cause,
        specs=specs,
        coded=np.column_stack([spec.code(matrix[:, i]) for i, spec in enumerate(specs)]),
        left_out=dict(left_out),
    )


def _read_records(path: Path, columns: set[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            records = [{k: v or "" for k, v in row.items()} for row in csv.DictReader(handle)]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{path}: {exc}") from exc
    if not records:
        raise CohortError(f"{path}: no rows")
    if not columns <= set(records[0]):
        raise CohortError(f"{path}: no column {sorted(columns - set(records[0]))}")
    return records


def _read_value(text: str, covariate: CovariateSettings, where: str) -> float | None:
    if text.strip().lower() in ("", "na", "nan"):
        return None
    if covariate.choices:
        if text not in covariate.codes:
            raise CohortError(f"{where}: {covariate.column} has an unknown code")
        return covariate.choices[covariate.codes[text]]
    try:
        value = float(text)
    except ValueError as exc:
        raise CohortError(f"{where}: {covariate.column} is not a number") from exc
    if not covariate.possible_low <= value <= covariate.possible_high:
        raise CohortError(f"{where}: {covariate.column} is impossible; is the unit right?")
    return value


def _read_cause(record: dict[str, str], table: TableSettings, name: str) -> int:
    value = record[table.status_column]
    known = ((table.censored, CENSORED), (table.event, EVENT), (table.competing, COMPETING))
    for values, cause in known:
        if value in values:
            return cause
    raise CohortError(f"{name}: {table.status_column} {value!r} has no meaning in the settings")


def _read_years(record: dict[str, str], table: TableSettings, name: str, line: int) -> float:
    try:
        years = float(record[table.time_column]) * DAYS[table.time_unit] / DAYS["a"]
    except ValueError as exc:
        raise CohortError(f"{name} line {line}: {table.time_column} is not a number") from exc
    if not (math.isfinite(years) and years >= 0):
        raise CohortError(f"{name} line {line}: {table.time_column} is impossible")
    return years


def fit_cox(
    years: NDArray[np.float64],
    has_event: NDArray[np.bool_],
    coded: NDArray[np.float64],
    names: Sequence[str],
) -> tuple[CoxModel, pd.DataFrame, pd.DataFrame]:
    """Fit a Cox model by lifelines (Efron's method for ties) and its Breslow baseline.

    Parameters
    ----------
    years, has_event
        (N,) follow-up and event.
    coded
        (N, K) coded covariates.
    names
        The K covariates.

    Returns
    -------
    tuple
        The model, lifelines' summary (one row a covariate), and its test of proportional hazards
        (Grambsch and Therneau, Biometrika 81, 1994; scaled Schoenfeld residuals against the
        Kaplan-Meier time).

    Raises
    ------
    RunError
        If the likelihood has no maximum, e.g. when a covariate separates the events or is
        constant.
    """
    frame = pd.DataFrame(coded, columns=list(names)).assign(_years=years, _event=has_event)
    fitter = CoxPHFitter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", ConvergenceWarning)
            fitter.fit(frame, "_years", "_event")
            check = proportional_hazard_test(fitter, frame, time_transform="km").summary
    except (ConvergenceError, ConvergenceWarning, ValueError, np.linalg.LinAlgError) as exc:
        raise RunError("the Cox model cannot be fitted: its likelihood has no maximum") from exc
    beta = fitter.params_.to_numpy(np.float64)
    covariance = fitter.variance_matrix_.to_numpy(np.float64)
    return baseline(years, has_event, coded, beta, covariance), fitter.summary, check


def baseline(
    years: NDArray[np.float64],
    has_event: NDArray[np.bool_],
    coded: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> CoxModel:
    """Breslow's baseline of given coefficients, with the sums that its variance needs.

    References
    ----------
    Breslow, JRSS B 34, 1972: steps d / S0 at each event time, S0 the summed relative hazards of
    those at risk; Therneau and Grambsch, 2000, eq. 10.2.
    """
    relative = np.exp(coded @ coefficients)
    times, deaths = np.unique(years[has_event], return_counts=True)
    is_at_risk = years[None, :] >= times[:, None]
    total = is_at_risk @ relative
    mean = (is_at_risk @ (relative[:, None] * coded)) / total[:, None]
    steps = deaths / total
    return CoxModel(
        coefficients=coefficients,
        covariance=covariance,
        times=times,
        hazard=np.cumsum(steps),
        hazard_variance=np.cumsum(deaths / total**2),
        hazard_gradient=np.cumsum(mean * steps[:, None], axis=0),
    )


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """What models fitted without a patient say of that patient."""

    score: NDArray[np.float64]
    """(N,) linear predictor."""
    is_high: NDArray[np.bool_]
    """(N,) above the median score of the patients the model was fitted on."""
    grid: NDArray[np.float64]
    """(T,) years."""
    survival: NDArray[np.float64]
    """(N, T) at ``grid``."""

    def at(self, years: float) -> NDArray[np.float64]:
        """(N,) survival at a time of the grid."""
        return self.survival[:, int(np.flatnonzero(np.isclose(self.grid, years))[0])]


def predict_out_of_fold(
    table: SurvivalTable,
    *,
    folds: int,
    seed: int,
    grid: NDArray[np.float64],
    progress: Callable[[int, int], None],
) -> OutOfFold:
    """Fit on all folds but one and predict that one, folds stratified by the event.

    The cut between the risk groups is each fitted model's own, from its own patients.

    Raises
    ------
    RunError
        If a fold cannot be fitted.
    """
    count = len(table.years)
    score, is_high = np.empty(count), np.empty(count, np.bool_)
    survival = np.empty((count, len(grid)))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    names = [spec.name for spec in table.specs]
    try:
        parts = list(splitter.split(table.coded, table.has_event))
    except ValueError as exc:
        raise RunError(f"{folds} folds need as many patients with and without the event") from exc
    for number, (kept, held) in enumerate(parts, start=1):
        model, _, _ = fit_cox(table.years[kept], table.has_event[kept], table.coded[kept], names)
        score[held] = model.linear_predictor(table.coded[held])
        is_high[held] = score[held] > np.median(model.linear_predictor(table.coded[kept]))
        survival[held] = model.survival(table.coded[held], grid)[0]
        progress(number, folds)
    return OutOfFold(score=score, is_high=is_high, grid=grid, survival=survival)


def figures(
    table: SurvivalTable, held: OutOfFold, *, horizons: Sequence[float], replicates: int, seed: int
) -> dict[str, Figure]:
    """Discrimination and error of out-of-fold predictions, with intervals by patient.

    Returns
    -------
    dict
        Metric -> figure; metrics that are undefined at a horizon are left out.
    """
    years, has_event = table.years, table.has_event

    def of(function: Callable[..., float], values: NDArray[np.float64], *more: object) -> Figure:
        return bootstrap(
            lambda sample: function(years[sample], has_event[sample], values[sample], *more),
            table.patients,
            replicates=replicates,
            seed=seed,
        )

    found = {"concordance index": of(concordance, held.score)}
    for horizon in horizons:
        found[f"AUROC at {horizon:g} years (IPCW)"] = of(dynamic_auc, held.score, horizon)
    for horizon in horizons:
        found[f"Brier score at {horizon:g} years (IPCW)"] = of(brier_at, held.at(horizon), horizon)
    name = f"integrated Brier score, {held.grid[0]:g} to {held.grid[-1]:g} years"
    found[name] = of(integrated_brier, held.survival, held.grid)
    return {name: figure for name, figure in found.items() if math.isfinite(figure.value)}
