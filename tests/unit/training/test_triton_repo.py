"""The shipped model: its files agree, load, and answer sensibly."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gateway.demo.samples import Kind, render
from models.architectures.diagnosis import ServedDiagnosis
from models.diagnosis import REFUSAL_FACTOR
from models.diagnosis import DiagnosisManifest as Manifest
from models.preprocessing import INPUT_SIZE, INTERPOLATION, MEAN, STD, prepare_image
from models.segmentation import find_lesion
from models.weights import digest_of
from training.cards import model_card
from training.evaluate import load_model
from training.export import live_number

REPOSITORY = Path(__file__).resolve().parents[3] / "triton_repo"
MODELS = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
MAX_BYTES = 25_000_000  # a clone must stay small


@pytest.fixture(scope="module")
def shipped() -> tuple[ServedDiagnosis, Manifest]:
    return load_model(REPOSITORY / "diagnosis")


def answer(served: ServedDiagnosis, *images: np.ndarray):
    with torch.inference_mode():
        return served(torch.from_numpy(np.stack([prepare_image(image) for image in images])))


def test_there_is_a_model() -> None:
    assert "diagnosis" in MODELS


@pytest.mark.parametrize("name", MODELS)
def test_manifest_configuration_and_weights_agree(name: str) -> None:
    folder = REPOSITORY / name
    number = live_number(folder)
    for file in ("manifest.json", "config.pbtxt"):
        assert (folder / file).read_bytes() == (folder / str(number) / file).read_bytes()
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    config = text_format.Parse(
        (folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
    )
    assert config.name == name == json.loads(text)["name"]
    assert list(config.version_policy.specific.versions) == [number]
    assert config.parameters["manifest"].string_value == text
    weights = (folder / str(number) / "weights.safetensors").read_bytes()
    assert config.parameters["digest"].string_value == digest_of(weights)
    assert json.loads(text)["digest"] == digest_of(weights)


def test_the_repository_stays_small() -> None:
    sizes = [
        os.path.getsize(path)
        for path in REPOSITORY.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(sizes) < MAX_BYTES


def test_the_manifest_describes_this_preprocessing(
    shipped: tuple[ServedDiagnosis, Manifest],
) -> None:
    spec = shipped[1].input
    assert (spec.size, spec.mean, spec.std) == (INPUT_SIZE, MEAN, STD)
    assert spec.interpolation == INTERPOLATION


def test_licence_and_limits_travel_with_the_weights(
    shipped: tuple[ServedDiagnosis, Manifest],
) -> None:
    manifest = shipped[1]
    assert "CC BY-NC 4.0" in manifest.licence
    assert "Not a medical device" in manifest.intended_use
    assert "Tschandl" in manifest.citation
    headline = next(f for f in manifest.figures if "AUROC" in f.metric)
    assert f"{headline.value:.3f}" in manifest.evidence
    assert all(figure.command.startswith("python -m training") for figure in manifest.figures)


def test_answers_are_finite_and_differ_between_images(
    shipped: tuple[ServedDiagnosis, Manifest],
) -> None:
    served, manifest = shipped
    out = answer(served, render(Kind.NEVUS, 1), render(Kind.ANGIOMA, 1))
    assert out.logits.shape == (2, len(manifest.labels))
    for tensor in (out.logits, out.embedding, out.context, out.ood_score):
        assert torch.isfinite(tensor).all()
    assert (out.logits[0] - out.logits[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (Kind.MELANOMA, "MEL"),
        (Kind.SEBORRHOEIC_KERATOSIS, "BKL"),
        (Kind.BASAL_CELL_CARCINOMA, "BCC"),
        (Kind.ANGIOMA, "VASC"),
        (Kind.NEVUS_BROWN_SKIN, "NV"),
    ],
)
def test_a_drawn_lesion_is_recognised_and_outlined(
    shipped: tuple[ServedDiagnosis, Manifest], kind: Kind, label: str
) -> None:
    """The drawings of the demo: far from a measurement, but a broken export would fail here."""
    served, manifest = shipped
    image = render(kind, 1)
    out = answer(served, image)
    assert list(manifest.labels)[int(out.logits[0].argmax())] == label
    region = find_lesion(
        out.lesion_prob[0].numpy(), (image.shape[0], image.shape[1]), manifest.lesion_threshold
    )
    assert region is not None
    assert 0.1 < region.mask.mean() < 0.5
    assert region.mask[image.shape[0] // 2, image.shape[1] // 2]


def test_noise_is_farther_from_the_training_data_than_a_lesion(
    shipped: tuple[ServedDiagnosis, Manifest],
) -> None:
    served, manifest = shipped
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    scores = answer(served, noise, render(Kind.NEVUS, 1)).ood_score
    assert scores[0] > REFUSAL_FACTOR * manifest.ood_threshold
    assert scores[1] < manifest.ood_threshold


@pytest.mark.parametrize("name", MODELS)
def test_the_card_is_that_of_the_manifest(name: str) -> None:
    manifest = json.loads((REPOSITORY / name / "manifest.json").read_text(encoding="utf-8"))
    card = (REPOSITORY / name / "CARD.md").read_text(encoding="utf-8")
    assert card == model_card(manifest)
    for figure in manifest["figures"]:
        assert f"| {figure['value']:.3f} |" in card
        assert figure["command"] in card
