"""Fixtures of the acceptance tests: pictures made by the project, wrapped as DICOM."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gateway.demo.samples import render, sample_set
from gateway.sending.wrap import wrap


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rendered dermoscopic pictures as JPEG files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for sample in sample_set():
        path = folder / f"{sample.name}.jpg"
        Image.fromarray(render(sample.kind, sample.seed)).save(path, quality=92)
        paths.append(path)
    return paths


def make_studies(pictures: list[Path], folder: Path) -> list[Path]:
    """Wrap each picture as a study of its own, with new UIDs."""
    folder.mkdir()
    paths = []
    for picture in pictures:
        path = folder / f"{picture.stem}.dcm"
        wrap(picture, "dermoscopy").save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@pytest.fixture
def studies(pictures: list[Path], tmp_path: Path) -> list[Path]:
    """Fresh DICOM studies, one picture each."""
    return make_studies(pictures, tmp_path / "studies")


@pytest.fixture(scope="session")
def grey_noise() -> np.ndarray:
    """A picture in which no lesion is to be found."""
    return np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)
