"""The page that a prognosis run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.metrics import Figure
from models.prognosis.survival import SurvivalCurve, cumulative_incidence, kaplan_meier
from training import plots
from training.prognosis import plots as survival_plots
from training.prognosis.fitting import COMPETING, EVENT, OutOfFold, SurvivalTable
from training.report import Page

CALIBRATION_GROUPS = 4  # with few events, finer groups show noise


def write_report(
    path: Path,
    result: Mapping[str, Any],
    *,
    table: SurvivalTable,
    held: OutOfFold,
    curves: Mapping[str, SurvivalCurve],
    figures: Mapping[str, Figure],
) -> None:
    """Write the report of one run.

    Parameters
    ----------
    result
        Content of ``result.json``.
    table, held, curves, figures
        What it was made from.
    """
    settings = result["settings"]
    words, horizons = settings["statements"], settings["horizons_years"]
    page = Page(f"Prognosis: {words['data_name']}")
    page.notice(f"Evidence: {settings['evidence_level']}. {words['caution']} Research use only.")
    page.text(f"Event: {words['endpoint']}. Time runs from: {words['time_origin']}.")
    page.text(f"Scope: {words['scope']} Stages: {', '.join(settings['stages'])}.")
    page.table("Patients", [_describe(result, table)])
    page.table(
        "Hazard ratios (Cox, Efron's ties)",
        [
            {
                "covariate": line["covariate"],
                "contrast": line["contrast"],
                "hazard ratio": Figure(
                    value=line["ratio"], low=line["low"], high=line["high"], n=len(table.years)
                ),
                "p (Wald)": line["p_value"],
                "p (proportional hazards)": result["proportional_hazards_p"][line["covariate"]],
            }
            for line in result["hazard_ratios"]
        ],
    )
    lines = result["hazard_ratios"]
    page.figure(
        "Hazard ratios",
        plots.forest(
            [f"{line['covariate']} ({line['contrast']})" for line in lines],
            [line["ratio"] for line in lines],
            [line["low"] for line in lines],
            [line["high"] for line in lines],
        ),
        "With 95 % intervals. A small p for proportional hazards means a ratio that changes with "
        "time.",
    )
    page.table(
        f"Out of fold ({settings['folds']} folds stratified by event, bootstrap by patient)",
        [{"figure": name, "value": figure, "n": figure.n} for name, figure in figures.items()],
    )
    page.figure(
        "Risk groups",
        survival_plots.kaplan_meier(
            curves,
            outcome=words["free_of"],
            p_value=result["log_rank_p"],
            ticks=range(0, int(result["follow_up_years"]) + 1, 2),
        ),
        "Groups told apart out of fold by the median score of the other folds' patients; a new "
        f"patient is compared with the stored cut {result['median_cut']:.3f}, never with a batch.",
    )
    _add_calibration(page, table, held, horizons[len(horizons) // 2], words["free_of"])
    _add_competing(page, table, horizons)
    page.text(words["competing_risks"])
    page.write(path)


def _describe(result: Mapping[str, Any], table: SurvivalTable) -> dict[str, object]:
    followed = kaplan_meier(table.years, table.cause == 0)  # reverse Kaplan-Meier
    below = np.flatnonzero(followed.survival <= 0.5)
    return {
        "patients": result["patients"],
        "events": result["events"],
        "competing ends": int((table.cause == COMPETING).sum()),
        "median follow-up (years)": float(followed.times[below[0]]) if len(below) else None,
        "left out for missing values": sum(table.left_out.values()),
    }


def _add_calibration(
    page: Page, table: SurvivalTable, held: OutOfFold, horizon: float, outcome: str
) -> None:
    predicted = held.at(horizon)
    order = np.argsort(predicted)
    points = []
    for members in np.array_split(order, CALIBRATION_GROUPS):
        curve = kaplan_meier(table.years[members], table.has_event[members])
        step = int(np.searchsorted(curve.times, horizon, "right")) - 1
        low, high = (curve.low[step], curve.high[step]) if step >= 0 else (np.nan, np.nan)
        points.append(
            (float(predicted[members].mean()), float(curve.at(horizon)), float(low), float(high))
        )
    page.figure(
        f"Calibration at {horizon:g} years",
        survival_plots.calibration_at(points, outcome),
        "Quarters of the patients by predicted probability, out of fold; observed by Kaplan-Meier "
        "with 95 % intervals.",
    )
    page.table(
        f"Calibration at {horizon:g} years, by quarter",
        [
            {"predicted": p, "observed": Figure(value=o, low=a, high=b, n=len(members))}
            | {"n": len(members)}
            for (p, o, a, b), members in zip(
                points, np.array_split(order, CALIBRATION_GROUPS), strict=True
            )
        ],
    )


def _add_competing(page: Page, table: SurvivalTable, horizons: list[float]) -> None:
    if not (table.cause == COMPETING).any():
        return
    own = cumulative_incidence(table.years, table.cause, EVENT)
    other = cumulative_incidence(table.years, table.cause, COMPETING)
    alone = kaplan_meier(table.years, table.has_event)
    page.figure(
        "Competing risks",
        survival_plots.incidence(
            {
                "the event (Aalen-Johansen)": own,
                "a competing end (Aalen-Johansen)": other,
                "the event, 1 − Kaplan-Meier": (alone.times, 1 - alone.survival),
            }
        ),
        "One minus Kaplan-Meier answers for a world without competing ends; it lies above the "
        "share of patients in whom the event is really seen.",
    )

    def at(curve: tuple[Any, Any], years: float) -> float:
        steps = np.concatenate([[0.0], curve[1]])
        return float(steps[np.searchsorted(curve[0], years, "right")])

    page.table(
        "Cumulative incidence",
        [
            {
                "years": f"{years:g}",
                "the event": at(own, years),
                "a competing end": at(other, years),
                "the event, 1 − Kaplan-Meier": 1 - float(alone.at(years)),
            }
            for years in horizons
        ],
    )
