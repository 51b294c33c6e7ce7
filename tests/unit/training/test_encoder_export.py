"""A site's PanDerm file becomes the served encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.architectures.panderm import PandermEncoder, load_encoder
from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from models.errors import WeightsError
from models.preprocessing import normalise_pixels
from models.shapes import EncoderShape, PandermShape
from training.errors import RunError
from training.export import Provenance
from training.recipes.encoder_export import export

SHAPE = EncoderShape(dim=64, depth=2, heads=1)
PROVENANCE = Provenance(
    version="2.0.0",
    training_command="none",
    evaluation_command="none",
    git_commit="0" * 40,
    created="2026-03-04",
)


def panderm_file(folder: Path, *, is_fine_tuned: bool = False, num_labels: int = 0) -> Path:
    torch.manual_seed(3)
    network = PandermEncoder(SHAPE, is_fine_tuned=is_fine_tuned, num_labels=num_labels)
    prefix = "encoder."
    state = {
        name.removeprefix(prefix): value
        for name, value in network.state_dict().items()
        if not name.endswith("relative_position_index")
    }
    path = folder / "panderm.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize(("is_fine_tuned", "num_labels"), [(False, 0), (True, 0), (True, 7)])
def test_the_served_encoder_says_what_the_file_says(
    tmp_path: Path, is_fine_tuned: bool, num_labels: int
) -> None:
    path = panderm_file(tmp_path, is_fine_tuned=is_fine_tuned, num_labels=num_labels)
    manifest = export(None, tmp_path / "repo", PROVENANCE, panderm=path)
    assert manifest.backbone == PandermShape(encoder=SHAPE, is_fine_tuned=is_fine_tuned)
    assert EncoderManifest.from_json(manifest.to_json()) == manifest
    weights = (tmp_path / "repo" / "encoder" / "1" / "weights.safetensors").read_bytes()
    served = load_served_encoder(weights, manifest)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        found = served(torch.from_numpy(images))
        normalised = torch.from_numpy(np.stack([normalise_pixels(image) for image in images]))
        wanted = load_encoder(path)(normalised)
    # The weights travel in half precision.
    assert torch.allclose(found, wanted, atol=5e-3)
    assert found.shape == (2, SHAPE.dim)


def test_a_run_and_a_file_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not from both"):
        export(tmp_path, tmp_path / "repo", PROVENANCE, panderm=panderm_file(tmp_path))


def test_a_file_that_is_none_of_panderm_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="cls_token"):
        export(None, tmp_path / "repo", PROVENANCE, panderm=tmp_path / "other.pth")
