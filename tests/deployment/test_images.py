"""The images, as far as they can be tried without an engine: every step that is not apt or pip."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway.__main__ import SERVICES
from gateway.host import health
from tests.deployment.images import (
    DOCKER,
    ROOT,
    closure,
    install,
    locked,
    read,
    requirements,
)

pytestmark = pytest.mark.timeout(600)

OURS = ("gateway", "worker", "triton")
RUNNING = ("worker", "triton", "postgresql")
"""Extras of what runs; the others are of those who train and develop."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", OURS)
def test_every_version_is_pinned(name: str) -> None:
    dockerfile = read(name)
    for step in dockerfile.of("FROM"):
        image, _, tag = step.words[0].rpartition(":")
        assert image
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?-[a-z0-9-]+", tag), step.arguments
    for step in dockerfile.of("RUN"):
        for command in re.split(r"&&|;", step.arguments):
            if " install " not in command or "pip" not in command:
                continue
            assert "-c constraints.txt" in command or "--no-deps" in command or "==" in command


@pytest.mark.parametrize("name", OURS)
def test_runs_as_nobody_and_says_how_it_is(name: str) -> None:
    stage = {step.name: step for step in read(name).last_stage}
    user, _, group = stage["USER"].arguments.partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert "CMD" in stage["HEALTHCHECK"].arguments
    assert "ADD" not in stage
    for step in read(name).steps:
        if step.name in {"ENV", "ARG"}:
            assert not re.search(r"(?i)password|secret|token|_url=", step.arguments)


@pytest.mark.parametrize("name", OURS)
def test_build_context_holds_what_is_copied_and_nothing_else(name: str) -> None:
    dockerfile = read(name)
    ignored = (DOCKER / f"{name}.Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    for source in dockerfile.copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, each) for each in allowed), source
    for each in allowed:
        assert not {".git", ".venv", "tests"} & set(Path(each).parts)


@pytest.mark.parametrize("name", OURS)
def test_requirements_are_the_projects_own_and_locked(name: str) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"]]
    lines += [each for extra in RUNNING for each in extras.get(extra, ())]
    own = {canonicalize_name(Requirement(each).name) for each in lines}
    wanted = requirements(name)
    assert {canonicalize_name(each.name) for each in wanted} <= own
    versions = locked()
    # setuptools comes with torch and is pinned by the Dockerfile.
    missing = closure(wanted) - set(versions) - {"setuptools", "pip"}
    assert not missing
    assert ("torch" in closure(wanted)) == (name == "triton")


_WALK = """
import importlib, pkgutil, sys
# What only draws the demonstration: it is run from a source tree.
left_out = ("gateway.demo", "gateway.store.migrations")
for top in sys.argv[1:]:
    package = importlib.import_module(top)
    for found in pkgutil.walk_packages(package.__path__, f"{top}."):
        if not found.name.startswith(left_out) and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
assert "torch" not in sys.modules
"""


def unpack(name: str, target: Path) -> None:
    """Carry out the COPY steps, and link what pip would install, into one folder."""
    dockerfile = read(name)
    install(closure(requirements(name)), target / "site")
    for package in dockerfile.packages:
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pyc*"))


def python(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Neither site-packages (-S) nor the source tree (-P) may be found by accident.
    return subprocess.run(
        [sys.executable, "-S", "-P", *arguments],
        env={
            "PYTHONPATH": f"{target}:{target / 'site'}",
            "PATH": "/usr/bin:/bin",
            "LENTIGO_HOME": str(target / "home"),
            "HOME": str(target),
        },
        cwd=target,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "tops", "command"),
    [
        ("gateway", ["gateway"], ("-m", "gateway", "migrate")),
        ("worker", ["reports", "workers"], ("-c", "import workers.__main__")),
    ],
)
def test_image_holds_everything_that_its_services_import(
    tmp_path: Path, name: str, tops: list[str], command: tuple[str, ...]
) -> None:
    unpack(name, tmp_path)
    done = python(tmp_path, "-c", _WALK, *tops)
    assert done.returncode == 0, done.stderr
    done = python(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "record.sqlite3").is_file() == (name == "gateway")
    blocked = python(tmp_path, "-c", "import torch")
    assert "No module named 'torch'" in blocked.stderr


def test_entry_points_and_health_checks_exist() -> None:
    stage = {step.name: step for step in read("gateway").last_stage}
    assert stage["ENTRYPOINT"].words == ["python", "-m", "gateway"]
    assert stage["CMD"].words[0] in SERVICES
    command = re.search(r"CMD (\[.*\])", stage["HEALTHCHECK"].arguments)
    assert command is not None
    assert json.loads(command[1])[2] in health._CHECKS
    worker = {step.name: step for step in read("worker").last_stage}
    assert worker["ENTRYPOINT"].words == ["python", "-m", "workers"]
    assert "workers-$LENTIGO_WORKER_LANE" in worker["HEALTHCHECK"].arguments


def test_files_that_are_no_modules_are_declared_as_package_data() -> None:
    """A template that setuptools does not know is in every test and in no image."""
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    for package in ("gateway", "workers", "models", "reports"):
        tracked = subprocess.run(
            ["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for path in tracked:
            inside = str(Path(path).relative_to(package))
            # The template of new migrations is for those who write them.
            assert path.endswith((".py", "script.py.mako")) or any(
                fnmatch.fnmatch(inside, pattern) for pattern in declared.get(package, ())
            ), f"{path} is not in package-data"
