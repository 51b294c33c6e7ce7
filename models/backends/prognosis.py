"""The Cox model inside Triton."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.errors import WeightsError
from models.prognosis.cox import CoxModel
from models.prognosis.patient import PrognosisManifest
from models.serving import PythonBackend
from models.weights import read_tensors


class PrognosisBackend(PythonBackend):
    """Linear predictor and survival at the manifest's horizons, from coded covariates."""

    INPUTS = ("COVARIATES",)

    def load(self, manifest: str, weights: bytes) -> None:
        """Read the arrays; an exception keeps the model unavailable."""
        parsed = PrognosisManifest.from_json(manifest)
        tensors = read_tensors(weights, parsed.digest)
        self._model = CoxModel.from_arrays({name: t.numpy() for name, t in tensors.items()})
        if len(self._model.coefficients) != len(parsed.covariates):
            raise WeightsError(
                f"{len(self._model.coefficients)} coefficients, {len(parsed.covariates)} covariates"
            )
        self._years = np.array(parsed.horizons_years)

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer a batch of (B, K) float32 coded covariates; of nan comes nan, row by row."""
        coded = inputs["COVARIATES"].cpu().numpy().astype(np.float64)
        survival, low, high = self._model.survival(coded, self._years)
        outputs = {
            "LINEAR_PREDICTOR": self._model.linear_predictor(coded)[:, None],
            "SURVIVAL": survival,
            "SURVIVAL_LOW": low,
            "SURVIVAL_HIGH": high,
        }
        return {name: torch.from_numpy(x.astype(np.float32)) for name, x in outputs.items()}
