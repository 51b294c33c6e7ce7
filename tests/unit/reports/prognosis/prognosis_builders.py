"""The shipped prognosis model without Triton, and results of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.prognosis.cox import CoxModel
from models.prognosis.patient import CodedPatient, PrognosisManifest, interpret
from models.prognosis.reasons import Obstacle, Reason
from models.prognosis.result import CovariateLine, PrognosisResult
from models.weights import read_tensors

_FOLDER = Path(__file__).parents[4] / "triton_repo" / "prognosis"
SOURCE_UID = "1.2.826.0.1.3680043.10.99.1.1.1"


@functools.cache
def manifest() -> PrognosisManifest:
    return PrognosisManifest.from_json((_FOLDER / "manifest.json").read_text(encoding="utf-8"))


@functools.cache
def _cox() -> CoxModel:
    weights = next(_FOLDER.glob("*/weights.safetensors")).read_bytes()
    tensors = read_tensors(weights, manifest().digest)
    return CoxModel.from_arrays({name: tensor.numpy() for name, tensor in tensors.items()})


def answer(coded: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.float32]]:
    """What the served model says of (N, K) coded covariates."""
    survival, low, high = _cox().survival(coded, np.array(manifest().horizons_years))
    outputs = {
        "LINEAR_PREDICTOR": _cox().linear_predictor(coded)[:, None],
        "SURVIVAL": survival,
        "SURVIVAL_LOW": low,
        "SURVIVAL_HIGH": high,
    }
    return {name: value.astype(np.float32) for name, value in outputs.items()}


def assessed(
    *,
    thickness: float = 6.76,
    ulcer: float = 1.0,
    sex: float = 1.0,
    age: float = 76.0,
    **changes: Any,
) -> PrognosisResult:
    values = (thickness, ulcer, sex, age)
    shown = (
        f"{thickness:g} mm",
        "yes" if ulcer else "no",
        "male" if sex else "female",
        f"{age:g} years",
    )
    specs = manifest().covariates
    coded = np.array([[float(s.code(v)) for s, v in zip(specs, values, strict=True)]], np.float32)
    outputs = {name: value[0] for name, value in answer(coded).items()}
    prognosis = interpret(
        CodedPatient(covariates=coded[0]),
        linear_predictor=float(outputs["LINEAR_PREDICTOR"][0]),
        survival=outputs["SURVIVAL"],
        low=outputs["SURVIVAL_LOW"],
        high=outputs["SURVIVAL_HIGH"],
        manifest=manifest(),
    )
    ratios = manifest().hazard_ratios
    return PrognosisResult(
        **{
            "manifest": manifest(),
            "sop_instance_uid": SOURCE_UID,
            "stage": "IIA",
            "stage_source": "JSON document",
            "covariates": tuple(
                CovariateLine(
                    name=spec.name,
                    meaning=spec.meaning,
                    value=text,
                    source="JSON document",
                    hazard_ratio=ratio.ratio ** float(x),
                )
                for spec, ratio, text, x in zip(specs, ratios, shown, coded[0], strict=True)
            ),
            "prognosis": prognosis,
            "remarks": ("the age at the date of the study is taken for the age at the operation",),
            **changes,
        }
    )


def not_assessed(*kinds: Obstacle, **changes: Any) -> PrognosisResult:
    return PrognosisResult(
        **{
            "manifest": manifest(),
            "sop_instance_uid": SOURCE_UID,
            "stage": "",
            "stage_source": "",
            "covariates": tuple(
                CovariateLine(
                    name=spec.name, meaning=spec.meaning, value="", source="", hazard_ratio=None
                )
                for spec in manifest().covariates
            ),
            "prognosis": None,
            "reasons": tuple(
                Reason(kind=kind, text=f"{kind.value.lower()}, in words")
                for kind in kinds or (Obstacle.STAGE_MISSING, Obstacle.MISSING)
            ),
            **changes,
        }
    )
