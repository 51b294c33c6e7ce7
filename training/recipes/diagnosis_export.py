"""From a diagnosis run to a version in the model repository.

Fits what serving needs on the validation split (temperature, operating point, lesion threshold,
out-of-distribution threshold), measures the figures on the test split, and exports. Files are
functions of the run, the data and the arguments alone.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from models.architectures.diagnosis import DiagnosisNetwork, ServedDiagnosis
from models.calibration import calibrate, fit_temperature
from models.conformal import ConformalSpec, Method, fit_by_group
from models.diagnosis import ArchitectureSpec, DiagnosisManifest
from models.manifest import HeldOutFigure, InputSpec
from models.preprocessing import FRAMING, INPUT_SIZE, INTERPOLATION, MEAN, STD
from models.weights import digest_of, encode_weights, stored
from training.cohorts import Cohort
from training.errors import RunError
from training.evaluate import Answers, answer_cohort, measure
from training.export import Provenance, TensorSpec, export_model
from training.recipes.diagnosis import label_numbers, load_run, read_splits
from training.runs import Progress

MALIGNANT_LABELS = ("MEL", "BCC", "AKIEC")  # AKIEC: in-situ carcinoma and its precursor
LABEL_NAMES = {
    "NV": "Melanocytic nevus",
    "MEL": "Melanoma",
    "BKL": "Benign keratosis-like lesion",
    "BCC": "Basal cell carcinoma",
    "AKIEC": "Actinic keratosis or intraepithelial carcinoma",
    "VASC": "Vascular lesion",
    "DF": "Dermatofibroma",
}
SENSITIVITY = 0.90  # sought on validation lesions; a miss costs more than a second look
OOD_QUANTILE = 0.99
LESION_THRESHOLD = 0.5
SET_METHOD: Method = "lac"  # sets of 1.6 labels on validation images; "aps" needs 2.5
SET_COVERAGE = 0.90
LARGEST_SET = 3  # of seven labels; more of them tell a reader nothing
HEADLINES = ("macro one-versus-rest AUROC", "melanoma AUROC", "Jaccard of the lesion")
MAX_BATCH_SIZE = 32

DATA = (
    "4,580 dermoscopic images of HAM10000 (every non-nevus image and part of the nevi) at 256x192 "
    "pixels with lesion masks, doi:10.7910/DVN/DBW86T; training split 70 % of the lesions"
)
LICENCE = "CC BY-NC 4.0 (inherited from HAM10000); research use only. The code is Apache-2.0."
CITATION = (
    "Tschandl P, Rosendahl C, Kittler H. The HAM10000 dataset, a large collection of multi-source "
    "dermatoscopic images of common pigmented skin lesions. Scientific Data 5, 180161 (2018)."
)
INTENDED_USE = (
    "Research on dermoscopic images of single pigmented lesions. Not a medical device. Trained on "
    "mostly light skin with enriched rare diagnoses; not for clinical photographs, nails, mucosa."
)


def fit_ood_statistics(
    context: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Class means and the whitening matrix of the covariance shared by all labels.

    Parameters
    ----------
    context
        (B, K) of the training images.
    labels
        (B,) label numbers; each of ``count`` labels must occur.
    count
        Number of labels C.

    Returns
    -------
    tuple of ndarray
        (C, K) means and (K, K) matrix W with W @ W.T the inverse covariance.

    References
    ----------
    Lee et al., NeurIPS 2018, eq. 1; Ledoit and Wolf, J. Multivariate Analysis 88, 2004 (the
    shrinkage that keeps the covariance of few images invertible).
    """
    values = context.astype(np.float64)
    means = np.stack([values[labels == label].mean(axis=0) for label in range(count)])
    covariance, _ = ledoit_wolf(values - means[labels], assume_centered=True)
    spectrum, vectors = np.linalg.eigh(covariance)
    floor = spectrum.max() * 1e-6
    whitening = vectors / np.sqrt(np.maximum(spectrum, floor))
    return means.astype(np.float32), whitening.astype(np.float32)


def operating_point(
    malignancy: NDArray[np.float64], is_malignant: NDArray[np.bool_], sensitivity: float
) -> float:
    """Highest threshold at which at least ``sensitivity`` of the malignant images are caught.

    Parameters
    ----------
    malignancy
        (B,) calibrated malignancy in [0, 1].
    is_malignant
        (B,), at least one True.
    """
    caught = np.sort(malignancy[is_malignant])[::-1]
    if not len(caught):
        raise RunError("no malignant image to choose an operating point on")
    needed = int(np.ceil(sensitivity * len(caught) - 1e-9))
    # Rounded down, so that the image it was taken from stays caught.
    return float(np.clip(np.floor(caught[needed - 1] * 1e4) / 1e4, 1e-4, 1 - 1e-4))


def serve_network(network: DiagnosisNetwork, *, flips: bool) -> ServedDiagnosis:
    """Wrap a trained network for serving, its weights rounded as they will be stored."""
    served = ServedDiagnosis(network.shape, mean=MEAN, std=STD, flips=flips)
    served.network.load_state_dict(
        {name: stored(tensor).to(tensor.dtype) for name, tensor in network.state_dict().items()}
    )
    return served.eval()


def encode_served(served: ServedDiagnosis) -> bytes:
    """Bytes of the weight file; the out-of-distribution statistics stay float32."""
    tensors = {
        name: stored(tensor) if name.startswith("network.") else tensor
        for name, tensor in served.state_dict().items()
    }
    return encode_weights(tensors, half=False)


def build_manifest(
    served: ServedDiagnosis,
    *,
    labels: tuple[str, ...],
    weights: bytes,
    thresholds: Mapping[str, float],
    conformal: ConformalSpec,
    provenance: Provenance,
    figures: tuple[HeldOutFigure, ...],
) -> DiagnosisManifest:
    """Put the manifest together; its evidence says that nothing was measured yet.

    Parameters
    ----------
    thresholds
        ``temperature``, ``operating_point`` and ``ood_threshold``.
    """
    return DiagnosisManifest(
        name="diagnosis",
        version=provenance.version,
        digest=digest_of(weights),
        labels={label: LABEL_NAMES.get(label, label) for label in labels},
        malignant_labels=tuple(x for x in labels if x in MALIGNANT_LABELS),
        input=InputSpec(
            size=INPUT_SIZE, mean=MEAN, std=STD, interpolation=INTERPOLATION, framing=FRAMING
        ),
        architecture=ArchitectureSpec(
            backbone=served.network.shape.backbone,
            decoder_width=served.network.shape.decoder_width,
            flips=served.flips,
        ),
        temperature=thresholds["temperature"],
        lesion_threshold=LESION_THRESHOLD,
        operating_point=thresholds["operating_point"],
        operating_point_meaning=f"sensitivity {SENSITIVITY:.2f} for malignant validation images",
        ood_threshold=thresholds["ood_threshold"],
        ood_threshold_meaning=f"{OOD_QUANTILE:.0%} of the validation images lie below it",
        conformal=conformal,
        data=DATA,
        licence=LICENCE,
        citation=CITATION,
        intended_use=INTENDED_USE,
        training_command=provenance.training_command,
        git_commit=provenance.git_commit,
        created=provenance.created,
        evidence_level="real" if figures else "none",
        evidence="not measured yet",
        figures=figures,
    )


def fit_thresholds(
    answers: Answers, label_indices: NDArray[np.int64], labels: tuple[str, ...]
) -> dict[str, float]:
    """Temperature, operating point and out-of-distribution threshold from validation images."""
    temperature = round(fit_temperature(answers.logits, label_indices), 4)
    columns = [i for i, label in enumerate(labels) if label in MALIGNANT_LABELS]
    malignancy = calibrate(answers.logits, temperature)[:, columns].sum(axis=1)
    is_malignant = np.isin(label_indices, columns)
    return {
        "temperature": temperature,
        "operating_point": operating_point(malignancy, is_malignant, SENSITIVITY),
        "ood_threshold": round(float(np.quantile(answers.ood_score, OOD_QUANTILE)), 3),
    }


def fit_conformal(
    answers: Answers, cohort: Cohort, labels: tuple[str, ...], temperature: float
) -> ConformalSpec:
    """Sets of labels that promise their coverage for malignant and for benign images.

    Every validation image counts, as for the other thresholds: reports speak of images. Images of
    one lesion resemble each other, so the threshold is less certain than their number says.
    """
    names = label_numbers(cohort, labels)
    is_malignant = [label in MALIGNANT_LABELS for label in labels]
    groups = [[i for i, x in enumerate(is_malignant) if x is kind] for kind in (True, False)]
    thresholds = fit_by_group(
        calibrate(answers.logits, temperature),
        names,
        groups,
        coverage=SET_COVERAGE,
        method=SET_METHOD,
    )
    # Rounded up, so that the image it was taken from stays covered.
    rounded = np.minimum(np.ceil(thresholds * 1e4) / 1e4, 1.0)
    return ConformalSpec(
        method=SET_METHOD,
        coverage=SET_COVERAGE,
        thresholds={name: float(value) for name, value in zip(labels, rounded, strict=True)},
        largest_set=min(LARGEST_SET, len(labels) - 1),
        calibration=f"{len(names)} validation images, malignant and benign labels apart",
    )


def tensor_specs(
    served: ServedDiagnosis, manifest: DiagnosisManifest
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the served model."""
    size = manifest.input.size
    inputs = (TensorSpec(name="IMAGE", kind="UINT8", dims=(size, size, 3)),)
    outputs = (
        TensorSpec(name="LOGITS", kind="FP32", dims=(len(manifest.labels),)),
        TensorSpec(name="EMBEDDING", kind="FP32", dims=(served.network.embedding_dim,)),
        TensorSpec(name="OOD_SCORE", kind="FP32", dims=(1,)),
        TensorSpec(name="LESION_PROB", kind="UINT8", dims=(size, size)),
    )
    return inputs, outputs


def export(
    run: Path,
    repository: Path,
    provenance: Provenance,
    *,
    data: Path,
    flips: bool = True,
    progress: Progress = lambda _text, _done, _total: None,
) -> DiagnosisManifest:
    """Export a run into ``<repository>/diagnosis``.

    Parameters
    ----------
    run
        Folder of the training run.
    data
        Folder the run was trained on: its splits are made anew from the run's settings.
    repository
        Triton model repository; the model's ``1/model.py`` must be there.
    provenance
        What the manifest says of the export.
    flips
        Whether serving averages over the four mirror images.
    progress
        Called with a description, images done and images in all.

    Raises
    ------
    RunError
        If the run or the repository cannot be used.
    CohortError
        If the data cannot be used.
    """
    settings, network, _ = load_run(run)
    splits = read_splits(settings, data)
    served = serve_network(network, flips=flips)

    def answer(cohort: Cohort, text: str) -> Answers:
        return answer_cohort(
            served,
            cohort,
            lesion_threshold=LESION_THRESHOLD,
            progress=lambda done, total: progress(text, done, total),
        )

    train = answer(splits.train, "training split")
    numbers = label_numbers(splits.train, settings.labels)
    means, whitening = fit_ood_statistics(train.context, numbers, len(settings.labels))
    served.ood_means.copy_(torch.from_numpy(means))
    served.ood_whitening.copy_(torch.from_numpy(whitening))
    weights = encode_served(served)
    validation = answer(splits.validation, "validation split")
    thresholds = fit_thresholds(
        validation, label_numbers(splits.validation, settings.labels), settings.labels
    )
    draft = build_manifest(
        served,
        labels=settings.labels,
        weights=weights,
        thresholds=thresholds,
        conformal=fit_conformal(
            validation, splits.validation, settings.labels, thresholds["temperature"]
        ),
        provenance=provenance,
        figures=(),
    )
    figures = measure(
        answer(splits.test, "test split"),
        splits.test,
        draft,
        data="HAM10000 subset, test split",
        command=provenance.evaluation_command,
    )
    manifest = dataclasses.replace(
        draft,
        evidence_level="real",
        figures=figures,
        evidence=evidence_sentence(figures),
    )
    inputs, outputs = tensor_specs(served, manifest)
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.diagnosis:DiagnosisBackend",
        inputs=inputs,
        outputs=outputs,
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest


def evidence_sentence(figures: Sequence[HeldOutFigure]) -> str:
    """One sentence for every report: data, number of held-out images, headline figures."""
    parts = [
        f"{figure.metric} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
        for figure in figures
        if figure.low is not None and figure.metric in HEADLINES
    ]
    return (
        f"{'; '.join(parts)} with 95 % intervals on {figures[0].n} held-out dermoscopic images "
        f"of {figures[0].groups} lesions ({figures[0].data}); not validated clinically."
    )


def export_options(options: argparse.Namespace, report: Progress) -> dict[str, Any]:
    """Return the keyword arguments of ``export``."""
    return {
        "data": options.data,
        "flips": not options.single_view,
        "progress": report,
    }
