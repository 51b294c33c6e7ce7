"""Each gate of ``make check`` is shown to fail on a planted fault: a gate that cannot fail is none.

Every case copies the tree's configuration and a small package with one fault into a fresh folder
and runs the very command that the Makefile runs.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("gateway", "workers", "models", "reports", "training")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the configuration with the five packages, empty but for a docstring."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('"""A package."""\n')
    return tmp_path


def gate(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=tree,
        env={"PATH": str(BIN), "PYTHONPATH": str(tree), "HOME": str(tree)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


COMMANDS = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "spelling": ("codespell",),
}

FAULTS = {
    "format": ('"""A module."""\n\nx   =  1\n', "would be reformatted"),
    "lint": ('"""A module."""\n\nimport os\n', "F401"),
    "types": ('"""A module."""\n\n\ndef half(x):\n    """Halve."""\n    return x / 2\n', "untyped"),
    "spelling": ('"""It rec' + 'ieves."""\n', "rec" + "ieves"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_gate_passes_on_a_clean_tree_and_fails_on_a_planted_fault(tree: Path, name: str) -> None:
    clean = gate(tree, *COMMANDS[name])
    assert clean.returncode == 0, clean.stdout + clean.stderr
    source, complaint = FAULTS[name]
    (tree / "models" / "planted.py").write_text(source)
    faulty = gate(tree, *COMMANDS[name])
    assert faulty.returncode != 0
    assert complaint in faulty.stdout + faulty.stderr


FORBIDDEN_IMPORTS = {
    "an upward import": ("models/planted.py", "import gateway\n"),
    "siblings": ("reports/planted.py", "import gateway\n"),
    "torch in the gateway": ("gateway/planted.py", "import torch\n"),
    "models in the gateway": ("gateway/planted.py", "import models\n"),
    "DICOM in models": ("models/planted.py", "import pydicom\n"),
    "sockets in reports": ("reports/planted.py", "import pynetdicom\n"),
    "database in training": ("training/planted.py", "import sqlalchemy\n"),
    "work in the intake of the record": (
        "gateway/store/intake/planted.py",
        "import gateway.store.work.ledger\n",
    ),
    "an analysis in another": (
        "workers/analyses/planted.py",
        "import workers.analyses.diagnosis\n",
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the real packages, because the contracts name real modules."""
    tree = tmp_path_factory.mktemp("sources")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tree


def test_import_contracts_hold(sources: Path) -> None:
    kept = gate(sources, "lint-imports", "--no-cache")
    assert kept.returncode == 0, kept.stdout + kept.stderr


@pytest.mark.parametrize("name", FORBIDDEN_IMPORTS)
def test_import_contract_breaks_on(sources: Path, name: str) -> None:
    place, source = FORBIDDEN_IMPORTS[name]
    planted = sources / place
    planted.write_text(f'"""Planted."""\n\n{source}')
    try:
        broken = gate(sources, "lint-imports", "--no-cache")
    finally:
        planted.unlink()
    assert broken.returncode != 0
    assert "BROKEN" in broken.stdout
