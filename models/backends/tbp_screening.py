"""TBP screening inside Triton: three linear heads on embeddings, and trees on measurements."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.architectures.tbp import TbpHeads
from models.serving import PythonBackend
from models.tbp.lesions import TbpManifest
from models.tbp.trees import Forest, predict_forest
from models.weights import fill, read_tensors

HEADS, TREES = "heads.", "trees."
"""Prefixes of the tensors in the weight file."""


def load_tbp(weights: bytes, manifest: TbpManifest) -> tuple[TbpHeads, Forest]:
    """Rebuild heads and trees of a manifest, strictly; in evaluation mode on the CPU.

    Raises
    ------
    ManifestError
        If the digest differs.
    WeightsError
        If the file cannot be read or does not fit.
    """
    tensors = read_tensors(weights, manifest.digest)
    heads = TbpHeads(manifest.embedding_dim)
    trees = {name: value for name, value in tensors.items() if name.startswith(TREES)}
    fill(
        heads,
        {name.removeprefix(HEADS): value for name, value in tensors.items() if name not in trees},
    )
    arrays = {name.removeprefix(TREES): value.numpy() for name, value in trees.items()}
    return heads.eval(), Forest.from_arrays(arrays, len(manifest.measurements))


class TbpScreeningBackend(PythonBackend):
    """Probabilities of lesions; what makes a patient of them is in ``models.tbp.patient``."""

    INPUTS = ("EMBEDDING", "MEASUREMENTS")

    def load(self, manifest: str, weights: bytes) -> None:
        """Build heads and trees; an exception keeps the model unavailable."""
        parsed = TbpManifest.from_json(manifest)
        heads, self._forest = load_tbp(weights, parsed)
        self._heads = heads.to(self.device)
        self._dims = (parsed.embedding_dim, len(parsed.measurements))

    def warm_up(self) -> None:
        """Answer one lesion."""
        rows = {
            name: torch.zeros(1, dim) for name, dim in zip(self.INPUTS, self._dims, strict=True)
        }
        self._run(rows)

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer (B, D) embeddings and (B, 32) measurements, nan where a value is missing."""
        risk, nevus, photodamage = self._heads(inputs["EMBEDDING"].float())
        # The trees are walked on the processor: no arithmetic, many small jumps.
        rows = inputs["MEASUREMENTS"].float().cpu().numpy()
        return {
            "RISK": risk,
            "NEVUS": nevus,
            "MALIGNANT_TREES": torch.from_numpy(predict_forest(self._forest, rows)[:, None]),
            "PHOTODAMAGE": photodamage,
        }
