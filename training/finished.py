"""Reading a finished run and its figures back, for its export."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from models.manifest import HeldOutFigure
from models.strict import StrictError, build
from training.errors import RunError
from training.runs import SETTINGS, RunFolder

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MeasuredFigure:
    """One figure of a run's results with its interval and the units behind it."""

    metric: str
    """What was measured."""
    value: float
    """Point estimate; nan where it is undefined."""
    low: float
    """Lower end of the 95 % interval; nan where it is undefined."""
    high: float
    """Upper end of the 95 % interval; nan where it is undefined."""
    n: int
    """Lesions, pairs or images."""
    groups: int
    """Patients or lesions, the unit that was resampled."""


def read_finished(
    run: Path, recipe: str, kind: type[T], results: str
) -> tuple[T, dict[str, Any], dict[str, Any]]:
    """Settings, results and checkpoint of a finished run.

    Parameters
    ----------
    run
        Folder of the run.
    recipe
        Recipe that it must be of.
    kind
        Dataclass of its settings.
    results
        File that the recipe writes at its end.

    Raises
    ------
    RunError
        If the run is of another recipe, is not finished or cannot be read.
    """
    try:
        content = json.loads((run / SETTINGS).read_text("utf-8"))
        figures = json.loads((run / results).read_text("utf-8"))
    except FileNotFoundError as exc:
        raise RunError(f"{run} holds no finished run: {Path(str(exc.filename)).name}") from exc
    except (OSError, ValueError) as exc:
        raise RunError(f"{run} cannot be read") from exc
    if content.get("recipe") != recipe:
        raise RunError(f"{run} is a run of {content.get('recipe')}, not of {recipe}")
    try:
        settings = build(kind, content["settings"], "settings")
    except (StrictError, KeyError) as exc:
        raise RunError(f"{run}: {exc}") from exc
    state = RunFolder(run, recipe=recipe, settings=settings).load()
    if state is None:
        raise RunError(f"{run} holds no checkpoint")
    return settings, figures, state


def held_out(
    rows: Sequence[Mapping[str, Any]], *, data: str, command: str
) -> tuple[HeldOutFigure, ...]:
    """Figures of a run's results as a manifest holds them; undefined ones are left out.

    Parameters
    ----------
    rows
        ``metric``, ``value``, ``low``, ``high``, ``n`` and ``groups`` of each figure.
    data
        What they were measured on.
    command
        Command that gives them.
    """
    return tuple(
        HeldOutFigure(
            metric=row["metric"],
            data=data,
            value=round(row["value"], 4),
            low=round(row["low"], 4) if math.isfinite(row["low"]) else None,
            high=round(row["high"], 4) if math.isfinite(row["high"]) else None,
            n=row["n"],
            groups=row["groups"],
            command=command,
        )
        for row in rows
        if math.isfinite(row["value"])
    )
