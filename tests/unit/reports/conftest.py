"""Validators of the report tests: pydicom in strict mode, dciodvfy and dsrdump."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread

# Errors of dciodvfy (dicom3tools 2022) that contradict the standard; none is met at present.
KNOWN_FALSE_ALARMS: tuple[str, ...] = ()
IOD_NAMES = (
    "Comprehensive3DSR",
    "Segmentation",
    "SCImage",
    "EncapsulatedPDF",
    "ParametricMap",
    "MultiframeTrueColorSCImage",
)

Validator = Callable[[Dataset], None]


@pytest.fixture
def strict() -> Iterator[None]:
    """Illegal values raise, on writing and on reading."""
    before = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    config.settings.writing_validation_mode = config.RAISE
    yield
    config.settings.reading_validation_mode, config.settings.writing_validation_mode = before


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{name} is not installed, and REQUIRE_SERVICES=1")
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def dciodvfy(tmp_path: Path) -> Validator:
    """Fail on any error that dciodvfy reports."""
    tool = _tool("dciodvfy")

    def validate(ds: Dataset) -> None:
        path = tmp_path / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
        run = subprocess.run([tool, "-new", path], capture_output=True, check=False, timeout=60)
        said = (run.stdout + run.stderr).decode("utf-8", "replace")
        assert any(name in said.splitlines() for name in IOD_NAMES), said  # it knew what it read
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert [e for e in errors if not any(f in e for f in KNOWN_FALSE_ALARMS)] == []

    return validate


@pytest.fixture
def dsrdump(tmp_path: Path) -> Callable[[Dataset], str]:
    """The document as dcmtk reads it; fails where dcmtk refuses it."""
    tool = _tool("dsrdump")

    def dump(ds: Dataset) -> str:
        path = tmp_path / "sr.dcm"
        ds.save_as(path, enforce_file_format=True)
        command = [tool, "+Pl", "+Pc", "+Pu", "+U8", path]
        run = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout.decode("utf-8")

    return dump


@pytest.fixture
def strictly_valid(strict: None, tmp_path: Path) -> Validator:
    """Fail unless every element is legal when written and when read."""

    def validate(ds: Dataset) -> None:
        path = tmp_path / "strict.dcm"
        ds.save_as(path, enforce_file_format=True)
        for element in dcmread(path).iterall():
            assert element.VR != "UN"
        again = tmp_path / "again.dcm"
        dcmread(path).save_as(again, enforce_file_format=True)
        assert again.read_bytes() == path.read_bytes()

    return validate
