import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_builder import tiny_settings, write_cohort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from models.diagnosis import DiagnosisManifest as Manifest
from training.cohorts import Cohort, read_rows
from training.errors import CohortError, RunError
from training.evaluate import answer_cohort, load_model, measure
from training.export import Provenance, triton_config
from training.recipes.diagnosis import DiagnosisRun
from training.recipes.diagnosis_export import (
    evidence_sentence,
    export,
    fit_ood_statistics,
    operating_point,
)

PROVENANCE = Provenance(
    version="0.1.0",
    training_command="train",
    evaluation_command="evaluate",
    git_commit="abc",
    created="2025-01-31",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("data") / "cohort", groups=36)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = tiny_settings(stages=[{"epochs": 1, "size": 32}])
    DiagnosisRun(settings, data=data, folder=folder, device=torch.device("cpu")).train()
    return folder


@pytest.fixture(scope="module")
def repository(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    export(run, folder, PROVENANCE, data=data, flips=False)
    return folder


def files(repository: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(repository)): path.read_bytes()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def test_the_same_run_exports_the_same_bytes(
    run: Path, data: Path, repository: Path, tmp_path: Path
) -> None:
    again = tmp_path / "repository"
    export(run, again, PROVENANCE, data=data, flips=False)
    assert files(again) == files(repository)
    assert set(files(again)) == {
        "diagnosis/CARD.md",
        "diagnosis/config.pbtxt",
        "diagnosis/manifest.json",
        "diagnosis/promotions.json",
        "diagnosis/1/config.pbtxt",
        "diagnosis/1/manifest.json",
        "diagnosis/1/model.py",
        "diagnosis/1/weights.safetensors",
    }


def test_the_manifest_says_what_was_measured_on_the_test_split(repository: Path) -> None:
    manifest = Manifest.from_json((repository / "diagnosis" / "manifest.json").read_bytes())
    assert manifest.version == "0.1.0"
    assert list(manifest.labels) == ["NV", "MEL", "BCC"]
    assert manifest.labels["MEL"] == "Melanoma"
    assert manifest.malignant_labels == ("MEL", "BCC")
    by_metric = {figure.metric: figure for figure in manifest.figures}
    assert {"macro one-versus-rest AUROC", "Jaccard of the lesion"} <= set(by_metric)
    test_split = by_metric["Jaccard of the lesion"]
    assert test_split.groups == 9  # 36 groups: 7, 3 and 2 of each of 3 labels
    assert f"{test_split.n} held-out" in manifest.evidence
    assert f"{test_split.value:.3f}" in manifest.evidence


def test_the_exported_network_is_the_trained_one(repository: Path, data: Path) -> None:
    served, manifest = load_model(repository / "diagnosis")
    rows = read_rows(data / "labels.csv", image_column="image_id")[:5]
    cohort = Cohort(rows=rows, images=data / "images", masks=data / "masks")
    answers = answer_cohort(served, cohort, lesion_threshold=manifest.lesion_threshold)
    assert np.isfinite(answers.logits).all()
    assert np.isfinite(answers.jaccard).all()
    assert (answers.ood_score > 0).all()
    nearest = served.ood_means.numpy()[None] - answers.context[:, None]
    distances = np.linalg.norm(nearest @ served.ood_whitening.numpy(), axis=2).min(axis=1)
    assert answers.ood_score == pytest.approx(distances, rel=1e-3)


def test_triton_can_read_the_configuration(repository: Path) -> None:
    text = (repository / "diagnosis" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    stored = (repository / "diagnosis" / "manifest.json").read_text()
    assert config.parameters["manifest"].string_value == stored
    manifest = Manifest.from_json(stored)
    assert config.parameters["digest"].string_value == manifest.digest
    assert config.name == "diagnosis"
    assert config.max_batch_size == 32
    assert [(i.name, list(i.dims)) for i in config.input] == [("IMAGE", [224, 224, 3])]
    assert {o.name: list(o.dims) for o in config.output} == {
        "LOGITS": [3],
        "EMBEDDING": [48],
        "OOD_SCORE": [1],
        "LESION_PROB": [224, 224],
    }


def test_any_text_survives_the_configuration(repository: Path) -> None:
    manifest = Manifest.from_json((repository / "diagnosis" / "manifest.json").read_bytes())
    odd = dataclasses.replace(manifest, data='quotes " and \\ and é, \n a line, \u2028, {braces}')
    config = text_format.Parse(
        triton_config(odd, number=1, inputs=(), outputs=(), max_batch_size=8),
        model_config_pb2.ModelConfig(),
    )
    assert Manifest.from_json(config.parameters["manifest"].string_value) == odd


def test_labels_the_model_does_not_have_are_refused(repository: Path, data: Path) -> None:
    served, manifest = load_model(repository / "diagnosis")
    rows = read_rows(data / "labels.csv", image_column="image_id", label_column="dx")[:2]
    cohort = Cohort(rows=rows, images=data / "images")
    answers = answer_cohort(served, cohort, lesion_threshold=0.5)
    with pytest.raises(CohortError, match="nv"):
        measure(answers, cohort, manifest, data="d", command="c")


def test_outlines_are_measured_without_labels(repository: Path, data: Path) -> None:
    served, manifest = load_model(repository / "diagnosis")
    rows = read_rows(data / "labels.csv", image_column="image_id")[:4]
    cohort = Cohort(rows=rows, images=data / "images", masks=data / "masks")
    answers = answer_cohort(served, cohort, lesion_threshold=0.5)
    metrics = {f.metric for f in measure(answers, cohort, manifest, data="d", command="c")}
    assert metrics == {"Jaccard of the lesion", "Dice", "share called out of distribution"}


def test_whitening_makes_the_training_distances_unit() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 4000)
    root = rng.normal(size=(6, 6))
    root += 3 * np.eye(6)  # well conditioned: shrinkage then changes little
    embedding = rng.normal(size=(4000, 6)) @ root + rng.normal(size=(3, 6))[labels] * 5
    means, whitening = fit_ood_statistics(embedding.astype(np.float32), labels, 3)
    white = (embedding - means[labels]) @ whitening
    assert np.cov(white.T) == pytest.approx(np.eye(6), abs=0.1)


@pytest.mark.parametrize("sensitivity", [0.5, 0.9, 1.0])
def test_the_operating_point_reaches_its_sensitivity(sensitivity: float) -> None:
    rng = np.random.default_rng(0)
    malignancy, is_malignant = rng.random(500), rng.random(500) < 0.3
    threshold = operating_point(malignancy, is_malignant, sensitivity)
    assert (malignancy[is_malignant] >= threshold).mean() >= sensitivity
    assert (malignancy[is_malignant] >= threshold + 2e-3 + 0.01).mean() < sensitivity


def test_without_malignant_images_there_is_no_operating_point() -> None:
    with pytest.raises(RunError):
        operating_point(np.array([0.5]), np.array([False]), 0.9)


def test_the_evidence_names_data_number_and_figures(repository: Path) -> None:
    content = json.loads((repository / "diagnosis" / "manifest.json").read_text())
    manifest = Manifest.from_json(json.dumps(content))
    sentence = evidence_sentence(manifest.figures)
    assert sentence == manifest.evidence
    assert "not validated clinically" in sentence
