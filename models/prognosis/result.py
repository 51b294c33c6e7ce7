"""Result kind of ``prognosis``: what is said of one patient, on what, or why nothing is."""

from __future__ import annotations

from dataclasses import dataclass

from models.prognosis.patient import Prognosis, PrognosisManifest
from models.prognosis.reasons import Reason
from models.results import ModelIdentity


@dataclass(frozen=True, kw_only=True)
class CovariateLine:
    """One covariate of the model as this patient has it."""

    name: str
    """Its name in the manifest."""
    meaning: str
    """In words."""
    value: str
    """As it was taken, with its unit, e.g. ``2.1 mm``; empty where it is missing."""
    source: str
    """Where it was taken from, e.g. ``structured report``; empty where it is missing."""
    hazard_ratio: float | None
    """Of this patient against the model's reference patient; None where it cannot be coded."""


@dataclass(frozen=True, kw_only=True)
class PrognosisResult:
    """The prognosis of one patient, or the reasons against one."""

    manifest: PrognosisManifest
    """Of the model that spoke: endpoint, horizons, scope, cut, curves and hazard ratios."""
    sop_instance_uid: str
    """The instance that the result is filed with: a photograph where the study holds one."""
    stage: str
    """As it was taken; empty where it is not stated."""
    stage_source: str
    """Where the stage was taken from."""
    covariates: tuple[CovariateLine, ...]
    """In the order of the model's input."""
    prognosis: Prognosis | None
    """None when not assessed."""
    reasons: tuple[Reason, ...] = ()
    """Why nothing is said; empty when something is."""
    remarks: tuple[str, ...] = ()
    """Conflicts between sources, values beyond the training cohort; may hold values."""

    @property
    def model(self) -> ModelIdentity:
        """The model that spoke."""
        return self.manifest.identity()

    @property
    def reference(self) -> str:
        """The patient to whom hazard ratios compare, in words."""
        parts = []
        for spec in self.manifest.covariates:
            if spec.choices:
                zero = [name for name, number in spec.choices.items() if spec.code(number) == 0]
                parts.append(f"{spec.meaning} {zero[0] if zero else 'none'}")
            else:
                centre = 2.0**spec.centre if spec.transform == "log2" else spec.centre
                parts.append(f"{spec.meaning} {centre:g} {spec.unit_words}")
        return ", ".join(parts)
