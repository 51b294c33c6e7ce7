"""Commands around the model repository: export, promote, shadow, rollback."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from models.manifest import HeldOutFigure
from training.commands import Command
from training.errors import RunError
from training.export import (
    MANIFEST,
    SHADOW_SUFFIX,
    Provenance,
    add_figures,
    find_version,
    live_number,
    promote,
    remove_shadow,
    roll_back,
    shadow,
)
from training.runs import Progress

RECIPES = {
    "diagnosis": "training.recipes.diagnosis_export",
    "encoder": "training.recipes.encoder_export",
    "tbp": "training.recipes.tbp",
    "change": "training.recipes.change",
    "slide": "training.recipes.slide",
    "prognosis": "training.recipes.prognosis",
}
"""Recipe -> module with ``export(run, repository, provenance)``, and, where that takes more,
``export_options(options, report) -> dict`` of its keyword arguments."""

TRITON_TIMEOUT_S = 120.0  # a large model's weights are read, moved to the device and warmed up


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")
    for name in RECIPES:
        recipe = recipes.add_parser(name)
        recipe.add_argument("--run", type=Path, required=name != "encoder", help="its folder")
        recipe.add_argument("--to", type=Path, default=Path("triton_repo"), help="the repository")
        recipe.add_argument("--version", required=True, help="version of the weights, e.g. 1.0.0")
        recipe.add_argument("--training-command", default=f"python -m training {name}")
        recipe.add_argument("--evaluation-command", default=f"python -m training {name}")
        recipe.add_argument("--created", default=f"{datetime.now(UTC):%Y-%m-%d}")
        recipe.add_argument("--commit", help="default: the commit that is checked out")
        if name == "encoder":
            recipe.add_argument("--panderm", type=Path, help="the site's own PanDerm file")
        if name == "diagnosis":
            recipe.add_argument("--data", type=Path, required=True, help="what it was trained on")
            recipe.add_argument("--single-view", action="store_true", help="no mirror images")


def _export(options: argparse.Namespace, report: Progress) -> None:
    module: Any = importlib.import_module(RECIPES[options.recipe])
    provenance = Provenance(
        version=options.version,
        training_command=options.training_command,
        evaluation_command=options.evaluation_command,
        git_commit=options.commit or _checked_out_commit(),
        created=options.created,
    )
    more = module.export_options(options, report) if hasattr(module, "export_options") else {}
    manifest = module.export(options.run, options.to, provenance, **more)
    print(f"{manifest.name} {manifest.version} ({manifest.evidence_level}): {manifest.evidence}")


def _add_figures(options: argparse.Namespace, _report: Progress) -> None:
    folder = _folder(options)
    number = find_version(folder, options.version) if options.version else live_number(folder)
    digest = json.loads((folder / str(number) / MANIFEST).read_text("utf-8"))["digest"]
    figures: list[HeldOutFigure] = []
    for path in options.json:
        measured, found = read_figures(path)
        if measured != digest:
            raise RunError(f"{path} was measured on other weights than version {number}")
        figures += found
    add_figures(folder, number, figures)
    print(f"{folder.name}: {len(figures)} figures added to version {number}")


def read_figures(path: Path) -> tuple[str, tuple[HeldOutFigure, ...]]:
    """Digest of the weights and the figures in a file of ``evaluate --json``.

    Raises
    ------
    RunError
        If the file holds no figures.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in dataclasses.fields(HeldOutFigure)}
        figures = tuple(
            HeldOutFigure(**{name: figure[name] for name in names}) for figure in content["figures"]
        )
        return str(content["digest"]), figures
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise RunError(f"{path} holds no figures of `evaluate`") from exc


def _checked_out_commit() -> str:
    """Commit of the working tree, marked when it has been changed; ``unversioned`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"


def _service_arguments(needs_version: bool) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="name in the repository")
        parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
        if needs_version:
            parser.add_argument("--version", help="version, number of its folder, or digest")
        parser.add_argument("--triton", help="HOST:PORT (gRPC) of a running Triton to tell")

    return add


def _folder(options: argparse.Namespace) -> Path:
    folder: Path = options.repository / options.model
    if not folder.is_dir():
        raise RunError(f"{options.repository} holds no model {options.model}")
    return folder


def _promote(options: argparse.Namespace, _report: Progress) -> None:
    folder = _folder(options)
    if not options.version:
        raise RunError("give --version: which one to put into service")
    number = find_version(folder, options.version)
    promote(folder, number)
    print(f"{folder.name}: version {number} is in service")
    if options.triton:
        tell_triton(options.triton, folder.name)


def _roll_back(options: argparse.Namespace, _report: Progress) -> None:
    folder = _folder(options)
    print(f"{folder.name}: version {roll_back(folder)} is in service again")
    if options.triton:
        tell_triton(options.triton, folder.name)


def _shadow(options: argparse.Namespace, _report: Progress) -> None:
    folder = _folder(options)
    name = folder.name + SHADOW_SUFFIX
    if options.version is None:
        if options.triton:
            tell_triton(options.triton, name, is_wanted=False)
        remove_shadow(folder)
        print(f"{name} is gone")
        return
    shadow(folder, find_version(folder, options.version))
    print(f"{name} stands beside {folder.name}")
    if options.triton:
        tell_triton(options.triton, name)


def tell_triton(url: str, model: str, *, is_wanted: bool = True) -> None:
    """Have a running Triton load (again) or unload a model through its model-control API.

    Raises
    ------
    RunError
        If the server cannot be reached, was not started with ``--model-control-mode=explicit``, or
        refuses the model; what it served before, it then goes on serving.
    """
    client = triton.InferenceServerClient(url)
    try:
        if is_wanted:
            client.load_model(model, client_timeout=TRITON_TIMEOUT_S)
        else:
            client.unload_model(model, client_timeout=TRITON_TIMEOUT_S)
    except InferenceServerException as exc:
        raise RunError(f"Triton at {url} does not follow: {exc.message()}") from exc
    finally:
        client.close()


def _figure_arguments(parser: argparse.ArgumentParser) -> None:
    _service_arguments(needs_version=True)(parser)
    parser.add_argument("--json", type=Path, nargs="+", required=True, help="of `evaluate --json`")


FIGURES = Command(
    summary="add figures of `evaluate --json` to an exported version's manifest",
    add_arguments=_figure_arguments,
    run=_add_figures,
)
EXPORT = Command(
    summary="write a run into the Triton model repository as a new version",
    add_arguments=_add_export_arguments,
    run=_export,
)
PROMOTE = Command(
    summary="put an exported version into service",
    add_arguments=_service_arguments(needs_version=True),
    run=_promote,
)
SHADOW = Command(
    summary="let an exported version answer beside the live one; without --version: end that",
    add_arguments=_service_arguments(needs_version=True),
    run=_shadow,
)
ROLLBACK = Command(
    summary="put the version before the live one back into service",
    add_arguments=_service_arguments(needs_version=False),
    run=_roll_back,
)
