"""What a served model says of a cohort, image by image from disk."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.diagnosis import ServedDiagnosis
from models.diagnosis import DiagnosisManifest
from models.metrics import dice, jaccard
from models.preprocessing import prepare_image, restore_lesion_mask
from models.segmentation import largest_part
from models.weights import digest_of, load_served_diagnosis
from training.cohorts import Cohort, find_file, read_image, read_mask
from training.errors import CohortError, RunError
from training.export import WEIGHTS, versions

BATCH_SIZE = 32


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
    pixel_hash: NDArray[np.str_]
    """(B,) SHA-256 of the decoded pixels: equal for equal images under any name."""

    def subset(self, kept: NDArray[np.bool_]) -> Answers:
        """Return the answers of the images that are kept."""
        fields = (field.name for field in dataclasses.fields(self))
        return Answers(**{name: getattr(self, name)[kept] for name in fields})


def load_model(folder: Path) -> tuple[ServedDiagnosis, DiagnosisManifest]:
    """Load manifest and weights of a model folder such as ``triton_repo/diagnosis``.

    Of several versions the one in service is loaded: that which the manifest names.

    Raises
    ------
    RunError
        If a file is missing.
    ModelError
        If manifest and weights do not agree.
    """
    try:
        manifest = DiagnosisManifest.from_json((folder / "manifest.json").read_bytes())
        found = [(folder / str(number) / WEIGHTS).read_bytes() for number in versions(folder)]
    except OSError as exc:
        raise RunError(f"{folder} holds no exported model") from exc
    if not found:
        raise RunError(f"{folder} holds no exported model")
    # None that fits: the last one, whose digest is then refused by name.
    weights = next((w for w in found if digest_of(w) == manifest.digest), found[-1])
    return load_served_diagnosis(weights, manifest), manifest


@torch.inference_mode()
def answer_cohort(
    served: ServedDiagnosis,
    cohort: Cohort,
    *,
    lesion_threshold: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Answers:
    """Run the served model over a cohort.

    Raises
    ------
    CohortError
        If an image is missing or cannot be decoded, or a mask has another shape than its image.
    """
    parts: list[list[NDArray[np.generic]]] = []
    overlaps: list[tuple[float, float]] = []
    hashes: list[str] = []
    device = served.ood_means.device
    for start in range(0, len(cohort.rows), BATCH_SIZE):
        names = [row.image_id for row in cohort.rows[start : start + BATCH_SIZE]]
        images = [read_cohort_image(cohort, name) for name in names]
        batch = torch.from_numpy(np.stack([prepare_image(image) for image in images]))
        out = served(batch.to(device))
        fields = (out.logits, out.embedding, out.context, out.ood_score.squeeze(1))
        parts.append([field.cpu().numpy() for field in fields])
        for image, name, found in zip(images, names, out.lesion_prob.cpu().numpy(), strict=True):
            shape = (image.shape[0], image.shape[1])
            truth = read_truth(cohort, name, shape)
            overlaps.append(_overlap(find_outline(found, shape, lesion_threshold), truth))
            hashes.append(hash_pixels(image))
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
        pixel_hash=np.array(hashes),
    )


def hash_pixels(image: NDArray[np.uint8]) -> str:
    """SHA-256 of shape and pixels, whatever file they came from."""
    content = f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(content).hexdigest()


def read_cohort_image(cohort: Cohort, image_id: str) -> NDArray[np.uint8]:
    """Read one image of a cohort.

    Raises
    ------
    CohortError
        If it is missing or cannot be decoded.
    """
    path = find_file(cohort.images, image_id)
    if path is None:
        raise CohortError(f"{image_id}: no image in {cohort.images}")
    return read_image(path)


def read_truth(cohort: Cohort, image_id: str, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Read the true mask of an image, (H, W); None where there is none.

    Raises
    ------
    CohortError
        If the mask has another shape than its image.
    """
    path = find_file(cohort.masks, image_id) if cohort.masks else None
    if path is None:
        return None
    truth = read_mask(path) > 0
    if truth.shape != shape:
        raise CohortError(f"{image_id}: mask {truth.shape} does not fit image {shape}")
    return truth


def find_outline(
    lesion_prob: NDArray[np.uint8], shape: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """Mask that a report would show, (H, W) of the source image."""
    found = restore_lesion_mask(lesion_prob, shape, threshold)
    part = largest_part(found)
    return found if part is None else part


def _overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Jaccard and Dice; nan without a true mask."""
    if truth is None:
        return float("nan"), float("nan")
    return jaccard(found, truth), dice(found, truth)
