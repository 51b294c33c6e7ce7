"""Evaluation of a model folder on a cohort, with 95 % intervals that respect groups.

Nothing is fitted here: temperature and thresholds are those of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.diagnosis import ServedDiagnosis
from models.calibration import brier_score, calibrate, expected_calibration_error
from models.diagnosis import DiagnosisManifest
from models.manifest import HeldOutFigure
from models.metrics import (
    Figure,
    balanced_accuracy,
    binary_auroc,
    bootstrap,
    dice,
    jaccard,
    macro_auroc,
)
from models.preprocessing import prepare_image, restore_lesion_mask
from models.segmentation import largest_part
from models.weights import load_served_diagnosis
from training.cohorts import Cohort, find_file, read_image, read_mask
from training.errors import CohortError, RunError

BATCH_SIZE = 32
MELANOMA = "MEL"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the served model says of a cohort, one entry an image."""

    logits: NDArray[np.float32]
    """(B, C) uncalibrated."""
    embedding: NDArray[np.float32]
    """(B, E)"""
    context: NDArray[np.float32]
    """(B, K) what the distance to the training data is measured on."""
    ood_score: NDArray[np.float32]
    """(B,)"""
    jaccard: NDArray[np.float64]
    """(B,) overlap with the true mask at native size; nan where there is no mask."""
    dice: NDArray[np.float64]
    """(B,) likewise."""


def load_model(folder: Path) -> tuple[ServedDiagnosis, DiagnosisManifest]:
    """Load manifest and weights of a model folder such as ``triton_repo/diagnosis``.

    Raises
    ------
    RunError
        If a file is missing.
    ModelError
        If manifest and weights do not agree.
    """
    try:
        manifest = DiagnosisManifest.from_json((folder / "manifest.json").read_bytes())
        weights = (folder / "1" / "weights.safetensors").read_bytes()
    except OSError as exc:
        raise RunError(f"{folder} holds no exported model") from exc
    return load_served_diagnosis(weights, manifest), manifest


@torch.inference_mode()
def answer_cohort(
    served: ServedDiagnosis,
    cohort: Cohort,
    *,
    lesion_threshold: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Answers:
    """Run the served model over a cohort, image by image from disk.

    Raises
    ------
    CohortError
        If an image is missing or cannot be decoded, or a mask has another shape than its image.
    """
    parts: list[list[NDArray[np.generic]]] = []
    overlaps: list[tuple[float, float]] = []
    device = served.ood_means.device
    for start in range(0, len(cohort.rows), BATCH_SIZE):
        images = [_read(cohort, row.image_id) for row in cohort.rows[start : start + BATCH_SIZE]]
        batch = torch.from_numpy(np.stack([prepare_image(image) for image in images]))
        out = served(batch.to(device))
        fields = (out.logits, out.embedding, out.context, out.ood_score.squeeze(1))
        parts.append([field.cpu().numpy() for field in fields])
        for offset, image in enumerate(images):
            found = out.lesion_prob[offset].cpu().numpy()
            shape = (image.shape[0], image.shape[1])
            truth = _read_truth(cohort, cohort.rows[start + offset].image_id, shape)
            overlaps.append(_overlap(found, truth, lesion_threshold))
        progress(start + len(images), len(cohort.rows))
    logits, embedding, context, ood_score = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return Answers(
        logits=logits.astype(np.float32),
        embedding=embedding.astype(np.float32),
        context=context.astype(np.float32),
        ood_score=ood_score.astype(np.float32),
        jaccard=np.array([pair[0] for pair in overlaps]),
        dice=np.array([pair[1] for pair in overlaps]),
    )


def _read(cohort: Cohort, image_id: str) -> NDArray[np.uint8]:
    path = find_file(cohort.images, image_id)
    if path is None:
        raise CohortError(f"{image_id}: no image in {cohort.images}")
    return read_image(path)


def _read_truth(cohort: Cohort, image_id: str, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    path = find_file(cohort.masks, image_id) if cohort.masks else None
    if path is None:
        return None
    truth = read_mask(path) > 0
    if truth.shape != shape:
        raise CohortError(f"{image_id}: mask {truth.shape} does not fit image {shape}")
    return truth


def _overlap(
    lesion_prob: NDArray[np.uint8], truth: NDArray[np.bool_] | None, threshold: float
) -> tuple[float, float]:
    """Jaccard and Dice of what a report would show; nan without a true mask."""
    if truth is None:
        return float("nan"), float("nan")
    height, width = truth.shape
    found = restore_lesion_mask(lesion_prob, (height, width), threshold)
    part = largest_part(found)
    part = found if part is None else part
    return jaccard(part, truth), dice(part, truth)


def measure(
    answers: Answers, cohort: Cohort, manifest: DiagnosisManifest, *, data: str, command: str
) -> tuple[HeldOutFigure, ...]:
    """All figures that the cohort allows.

    Parameters
    ----------
    data
        Name of the cohort, copied into each figure.
    command
        Command that repeats the figures, copied into each.

    Returns
    -------
    tuple of HeldOutFigure
        Classification figures when the rows have labels, outline figures where masks exist.

    Raises
    ------
    CohortError
        If a row's label is not one of the model's.
    """
    groups = np.array([row.group_id for row in cohort.rows])
    figures = []
    if any(row.label for row in cohort.rows):
        for metric, statistic in _label_statistics(answers, cohort, manifest):
            figures.append((metric, groups, bootstrap(statistic, groups)))
    known = np.isfinite(answers.jaccard)
    for metric, values in (("Jaccard of the lesion", answers.jaccard), ("Dice", answers.dice)):
        if known.any():
            figures.append(
                (metric, groups[known], bootstrap(_mean_of(values[known]), groups[known]))
            )
    is_ood = (answers.ood_score > manifest.ood_threshold).astype(np.float64)
    figures.append(
        ("share called out of distribution", groups, bootstrap(_mean_of(is_ood), groups))
    )
    return tuple(_held_out(*figure, data=data, command=command) for figure in figures)


def _mean_of(values: NDArray[np.float64]) -> Callable[[NDArray[np.intp]], float]:
    return lambda sample: float(values[sample].mean()) if len(sample) else float("nan")


def _held_out(
    metric: str, groups: NDArray[np.str_], figure: Figure, *, data: str, command: str
) -> HeldOutFigure:
    is_known = bool(np.isfinite(figure.low))
    return HeldOutFigure(
        metric=metric,
        data=data,
        value=round(figure.value, 4),
        low=round(figure.low, 4) if is_known else None,
        high=round(figure.high, 4) if is_known else None,
        n=figure.n,
        groups=len(np.unique(groups)),
        command=command,
    )


def _label_statistics(
    answers: Answers, cohort: Cohort, manifest: DiagnosisManifest
) -> Sequence[tuple[str, Callable[[NDArray[np.intp]], float]]]:
    """Name and statistic of each classification figure that the labels allow."""
    names = list(manifest.labels)
    unknown = {row.label for row in cohort.rows} - set(names)
    if unknown:
        raise CohortError(f"the model has no label {sorted(unknown)}; map or leave them out")
    labels = np.array([names.index(row.label) for row in cohort.rows], np.int64)
    probabilities = calibrate(answers.logits, manifest.temperature)
    columns = [names.index(label) for label in manifest.malignant_labels]
    is_malignant = np.isin(labels, columns)
    malignancy = probabilities[:, columns].sum(axis=1)
    is_called = malignancy >= manifest.operating_point

    def of_melanoma(sample: NDArray[np.intp]) -> float:
        column = names.index(MELANOMA)
        return binary_auroc(labels[sample] == column, probabilities[sample, column])

    def recall(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
        return float(called[truth].mean()) if truth.any() else float("nan")

    statistics: list[tuple[str, Callable[[NDArray[np.intp]], float]]] = [
        (
            "macro one-versus-rest AUROC",
            lambda sample: macro_auroc(labels[sample], probabilities[sample]),
        ),
        (
            "malignant AUROC",
            lambda sample: binary_auroc(is_malignant[sample], malignancy[sample]),
        ),
        (
            "balanced accuracy",
            lambda sample: balanced_accuracy(labels[sample], probabilities[sample]),
        ),
        (
            "accuracy",
            lambda sample: float((probabilities[sample].argmax(1) == labels[sample]).mean()),
        ),
        (
            "expected calibration error (15 equal-width bins)",
            lambda sample: expected_calibration_error(probabilities[sample], labels[sample]),
        ),
        ("Brier score", lambda sample: brier_score(probabilities[sample], labels[sample])),
        (
            "sensitivity for malignant at the operating point",
            lambda sample: recall(is_malignant[sample], is_called[sample]),
        ),
        (
            "specificity for malignant at the operating point",
            lambda sample: recall(~is_malignant[sample], ~is_called[sample]),
        ),
    ]
    if MELANOMA in names:
        statistics.insert(1, ("melanoma AUROC", of_melanoma))
    everything = np.arange(len(labels))
    return [(name, of) for name, of in statistics if np.isfinite(of(everything))]
