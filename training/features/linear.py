"""Linear probes on embeddings, by both readings of PanDerm's regularisation.

The paper's text and its code do not describe the same model (the norm is unsquared in the code,
and the strength is inverse), so each is a named preset and the name stays with the head.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as serialise_safetensors
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from training.errors import CohortError, RunError
from training.runs import write_atomically

Preset = Literal["panderm-code", "sklearn"]
MAX_ITERATIONS = 1000
WEIGHTS = "head.safetensors"
DESCRIPTION = "head.json"
_ABSENT_BIAS = -100.0  # logit of a label that no training image had: its probability is zero


def strength(dim: int, num_labels: int) -> float:
    """M * C / 100, the inverse strength of the penalty in both presets.

    Parameters
    ----------
    dim
        Width M of an embedding.
    num_labels
        Labels C of the task.
    """
    return dim * num_labels / 100


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """A fitted probe."""

    weight: NDArray[np.float32]
    """(C, D)"""
    bias: NDArray[np.float32]
    """(C,)"""
    labels: tuple[str, ...]
    """Labels in the order of the logits."""
    preset: Preset
    """How it was fitted."""
    inverse_strength: float
    """M * C / 100 of the fit."""
    backbone: str
    """SHA-256 of the encoder whose embeddings it reads."""
    framing: str
    """Framing of the images (``training.features.extraction.FRAMINGS``)."""
    loss: float
    """Value of the preset's objective at the end."""
    has_converged: bool
    """Whether the optimiser stopped by itself before its last iteration."""

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(B, C) from raw embeddings (B, D)."""
        return np.asarray(features, np.float64) @ self.weight.T + self.bias

    def save(self, folder: Path) -> None:
        """Write weights and description into a folder."""
        content = serialise_safetensors({"weight": self.weight, "bias": self.bias})
        write_atomically(folder / WEIGHTS, content)
        described = {k: v for k, v in self.__dict__.items() if k not in ("weight", "bias")}
        text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / DESCRIPTION, text.encode())

    @classmethod
    def read(cls, folder: Path) -> LinearHead:
        """Read what ``save`` wrote.

        Raises
        ------
        RunError
            If a file is missing, damaged or of another shape.
        """
        try:
            tensors = parse_safetensors((folder / WEIGHTS).read_bytes())
            described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            described["labels"] = tuple(described["labels"])
            head = cls(weight=tensors["weight"], bias=tensors["bias"], **described)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
            raise RunError(f"{folder} holds no readable head") from exc
        if head.weight.shape[:1] != (len(head.labels),) or head.bias.shape != (len(head.labels),):
            raise RunError(f"{folder}: the head does not fit its {len(head.labels)} labels")
        return head


@dataclass(frozen=True)
class _Fit:
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    loss: float
    has_converged: bool


def fit_probe(
    features: NDArray[np.float32],
    numbers: NDArray[np.int64],
    *,
    labels: tuple[str, ...],
    preset: Preset,
    backbone: str,
    framing: str,
    seed: int = 0,
) -> LinearHead:
    """Fit a linear probe on raw embeddings: neither scaled nor normalised.

    Parameters
    ----------
    features
        (B, D)
    numbers
        (B,) label numbers.
    labels
        The C labels of the task, whether or not they all occur.
    preset
        ``panderm-code``: mean cross-entropy + 0.5 * ||W|| / (M C / 100), the norm unsquared, by
        L-BFGS in torch. ``sklearn``: ``LogisticRegression(C=M C / 100)``, that is summed
        cross-entropy + 0.5 * ||W||^2 / (M C / 100).
    backbone, framing
        Kept with the head.
    seed
        Start values of ``panderm-code``; upstream uses 0.

    Raises
    ------
    CohortError
        If fewer than two labels occur or a feature is not finite.

    References
    ----------
    Yan et al., Nature Medicine 2025, Methods (linear probing), and the code published with it.
    """
    if not np.isfinite(features).all():
        raise CohortError("a feature is not finite")
    if len(np.unique(numbers)) < 2:
        raise CohortError("a probe needs images of at least two labels")
    cost = strength(features.shape[1], len(labels))
    if preset == "panderm-code":
        fit = _fit_as_code(features, numbers, len(labels), cost, seed)
    else:
        fit = _fit_by_sklearn(features, numbers, len(labels), cost)
    return LinearHead(
        weight=fit.weight,
        bias=fit.bias,
        labels=labels,
        preset=preset,
        inverse_strength=cost,
        backbone=backbone,
        framing=framing,
        loss=fit.loss,
        has_converged=fit.has_converged,
    )


def code_objective(logits: Tensor, targets: Tensor, weight: Tensor, cost: float) -> Tensor:
    """Mean cross-entropy + (1 / cost) * 0.5 * ||W||_2; the norm is not squared, the bias is free.

    Parameters
    ----------
    logits
        (B, C)
    targets
        (B,) label numbers.
    weight
        (C, D)
    cost
        Inverse strength.
    """
    penalised: Tensor = functional.cross_entropy(logits, targets) + 0.5 * weight.norm() / cost
    return penalised


def _fit_as_code(
    features: NDArray[np.float32], numbers: NDArray[np.int64], count: int, cost: float, seed: int
) -> _Fit:
    inputs, targets = torch.from_numpy(features), torch.from_numpy(numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(features.shape[1], count)
    optimiser = torch.optim.LBFGS(
        layer.parameters(), lr=1, max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = code_objective(layer(inputs), targets, layer.weight, cost)
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        loss = float(code_objective(layer(inputs), targets, layer.weight, cost))
    state = optimiser.state[next(iter(layer.parameters()))]
    return _Fit(
        weight=layer.weight.detach().numpy().copy(),
        bias=layer.bias.detach().numpy().copy(),
        loss=loss,
        has_converged=int(state["n_iter"]) < MAX_ITERATIONS,
    )


def _fit_by_sklearn(
    features: NDArray[np.float32], numbers: NDArray[np.int64], count: int, cost: float
) -> _Fit:
    model = LogisticRegression(C=cost, max_iter=MAX_ITERATIONS, solver="lbfgs")
    values = features.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by ``has_converged``
        model.fit(values, numbers)
    weight = np.zeros((count, features.shape[1]))
    bias = np.full(count, _ABSENT_BIAS)
    if len(model.classes_) == 2:  # one row for the second label: sigmoid(z) = softmax(0, z)
        first, second = model.classes_
        weight[second], bias[first], bias[second] = model.coef_[0], 0.0, model.intercept_[0]
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    logits = values @ weight.T + bias
    entropy = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), numbers]
    loss = float(entropy.sum() + 0.5 * (model.coef_**2).sum() / cost)
    return _Fit(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        loss=loss,
        has_converged=int(np.max(model.n_iter_)) < MAX_ITERATIONS,
    )


def label_share(count: int, percent: int, seed: int = 42) -> NDArray[np.intp]:
    """Positions of the first ``percent`` per cent of a shuffled training split.

    Parameters
    ----------
    count
        Images in the split.
    percent
        In [1, 100].
    seed
        Of the shuffle; 42 upstream (``pandas.DataFrame.sample(frac=1, random_state=42)``).

    Returns
    -------
    ndarray
        At least one position. Smaller shares are contained in larger ones.
    """
    order = np.random.RandomState(seed).permutation(count)
    return order[: max(1, int(count * percent / 100))]
