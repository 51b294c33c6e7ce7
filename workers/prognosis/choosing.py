"""Which of several statements counts. Pure.

Sources come in a fixed order; the first that states a covariate is taken. Another that says
something else is named in a remark, so that a reader can see the conflict. Within one source two
different values (two tumours, say) cannot be told apart: nothing is taken then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.prognosis.patient import CovariateSpec, Given, PrognosisManifest, read_covariate
from models.prognosis.reasons import Obstacle, Reason
from workers.prognosis.attributes import AGE_REMARK, SOURCE
from workers.prognosis.statements import STAGE, Reading, Statement, shown

_AGE_TOLERANCE = 1.01
"""Years: an age in whole years, and one at another day of the same year, are no conflict."""
_SHOWN_UNKNOWN = 5
_OF_THE_PERSON = ("sex", "age")
"""A contradiction here may mean that a document was sent for the wrong study."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What counts."""

    values: Mapping[str, Given]
    """By covariate, and ``stage``."""
    sources: Mapping[str, str]
    """Where each was taken from."""
    remarks: tuple[str, ...]
    reasons: tuple[Reason, ...]

    @property
    def stage(self) -> str:
        """The stage; empty where it is not stated."""
        value = self.values.get(STAGE)
        return value if isinstance(value, str) else ""


def choose(readings: Sequence[Reading], manifest: PrognosisManifest) -> Chosen:
    """Choose among statements.

    Parameters
    ----------
    readings
        In order of precedence.
    """
    specs: dict[str, CovariateSpec | None] = {spec.name: spec for spec in manifest.covariates}
    specs[STAGE] = None
    values: dict[str, Given] = {}
    sources: dict[str, str] = {}
    remarks = [remark for reading in readings for remark in reading.remarks]
    reasons = [reason for reading in readings for reason in reading.reasons]
    for name, spec in specs.items():
        for reading in readings:
            candidates = _first_rank(reading, name)
            if not candidates:
                continue
            meaning = spec.meaning if spec else "the stage"
            value = candidates[0].value
            if name in values:
                if not _is_same(values[name], value, spec):
                    doubt = "; is it the same patient?" if name in _OF_THE_PERSON else ""
                    remarks.append(
                        f"{meaning}: {shown(values[name])} was taken from the {sources[name]}, "
                        f"which goes first; the {reading.source} says {shown(value)}{doubt}"
                    )
                continue
            if any(not _is_same(value, other.value, spec) for other in candidates[1:]):
                text = f"{meaning} is stated more than once, differently, in the {reading.source}"
                reasons.append(Reason(kind=Obstacle.AMBIGUOUS, text=text))
            values[name], sources[name] = value, reading.source
            if name == "age" and (reading.source == SOURCE or candidates[0].rank):
                remarks.append(AGE_REMARK)
    remarks += _unknown(readings, specs)
    return Chosen(
        values=values,
        sources=sources,
        remarks=tuple(dict.fromkeys(remarks)),
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _first_rank(reading: Reading, name: str) -> list[Statement]:
    own = [each for each in reading.statements if each.name == name]
    best = min((each.rank for each in own), default=0)
    return [each for each in own if each.rank == best]


def _is_same(first: Given, second: Given, spec: CovariateSpec | None) -> bool:
    if spec is None:
        return first == second
    a, b = read_covariate(first, spec), read_covariate(second, spec)
    if isinstance(a, Reason) or isinstance(b, Reason):
        return first == second
    if spec.unit == "a":
        return abs(a - b) <= _AGE_TOLERANCE
    return math.isclose(a, b, rel_tol=1e-3)


def _unknown(readings: Sequence[Reading], specs: Mapping[str, object]) -> list[str]:
    names = [each.name for reading in readings for each in reading.statements]
    unknown = [name for name in dict.fromkeys(names) if name not in specs]
    if not unknown:
        return []
    listed = ", ".join(name[:40] for name in unknown[:_SHOWN_UNKNOWN])
    more = " and others" if len(unknown) > _SHOWN_UNKNOWN else ""
    return [f"not used by this model: {listed}{more}"]
