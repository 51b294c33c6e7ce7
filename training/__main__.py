"""Command line of training: ``python -m training diagnosis | evaluate | export``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from models.errors import ModelError
from models.manifest import HeldOutFigure
from training.cohorts import Cohort, read_rows
from training.errors import TrainingError
from training.evaluate import answer_cohort, load_model, measure
from training.export import Provenance, export_run
from training.recipes.diagnosis import DiagnosisRun, load_run, read_splits
from training.settings import read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one line on standard error when it cannot be done."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    commands = {"diagnosis": _train_diagnosis, "evaluate": _evaluate, "export": _export}
    try:
        commands[options.command](options)
    except (TrainingError, ModelError) as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch decides)")
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("diagnosis", help="train the diagnosis network, or go on with it")
    train.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    train.add_argument("--data", type=Path, required=True, help="labels.csv, images/, masks/")

    evaluate = commands.add_parser("evaluate", help="measure a model on a cohort")
    evaluate.add_argument("--model", choices=["diagnosis"], default="diagnosis")
    evaluate.add_argument("--repository", type=Path, default=Path("triton_repo"))
    evaluate.add_argument("--name", default="", help="name of the cohort in the figures")
    evaluate.add_argument("--json", type=Path, help="where to write the figures")
    split = evaluate.add_argument_group("the test split of a training configuration")
    split.add_argument("--config", type=Path)
    split.add_argument("--data", type=Path)
    cohort = evaluate.add_argument_group("any other cohort")
    cohort.add_argument("--images", type=Path)
    cohort.add_argument("--table", type=Path)
    cohort.add_argument("--masks", type=Path)
    cohort.add_argument("--image-column", default="image_id")
    cohort.add_argument("--label-column", help="leave out when only outlines are measured")
    cohort.add_argument("--group-column", help="lesion or patient; default: every image alone")
    cohort.add_argument("--label-map", type=_label_map, help="nevus=NV,melanoma=MEL")

    export = commands.add_parser("export", help="write a run into the Triton model repository")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--data", type=Path, required=True)
    export.add_argument("--to", type=Path, default=Path("triton_repo"))
    export.add_argument("--version", required=True, help="version of the weights, e.g. 1.0.0")
    export.add_argument("--config", default="training/configs/diagnosis.toml")
    export.add_argument("--figures", type=Path, nargs="*", default=[], help="files of `evaluate`")
    export.add_argument("--created", default=f"{datetime.now(UTC):%Y-%m-%d}")
    export.add_argument("--commit", help="default: the commit that is checked out")
    export.add_argument("--single-view", action="store_true", help="do not average mirror images")
    return parser


def _label_map(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(before and sign and after for before, sign, after in pairs):
        raise argparse.ArgumentTypeError("expected value=LABEL,value=LABEL")
    return {before: after for before, _, after in pairs}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _train_diagnosis(options: argparse.Namespace) -> None:
    run = DiagnosisRun(
        read_settings(options.config), data=options.data, folder=options.out, device=_device()
    )
    with Progress() as bar:
        run.train(_Bar(bar))
    for name, value in run.history[-1].items():
        print(f"{name}: {value}")


class _Bar:
    """One line of progress that is renamed and restarted as the work goes on."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("")

    def __call__(self, text: str, done: int, total: int) -> None:
        self.bar.update(self.task, description=text, completed=done, total=total)


def _evaluate(options: argparse.Namespace) -> None:
    served, manifest = load_model(options.repository / options.model)
    cohort = _cohort(options)
    with Progress() as bar:
        line = _Bar(bar)
        answers = answer_cohort(
            served.to(_device()),
            cohort,
            lesion_threshold=manifest.lesion_threshold,
            progress=lambda done, total: line("images", done, total),
        )
    figures = measure(
        answers,
        cohort,
        manifest,
        data=options.name or cohort.images.parent.name,
        command=f"python -m training {' '.join(sys.argv[1:])}",
    )
    for figure in figures:
        interval = "" if figure.low is None else f" ({figure.low:.4f} to {figure.high:.4f})"
        print(f"{figure.metric}: {figure.value:.4f}{interval}, n={figure.n}")
    if options.json:
        content = {"digest": manifest.digest, "figures": [dataclasses.asdict(f) for f in figures]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cohort(options: argparse.Namespace) -> Cohort:
    if options.config and options.data and not options.images:
        return read_splits(read_settings(options.config), options.data).test
    if not options.images or not options.table:
        raise TrainingError("give --images and --table, or --config and --data")
    rows = read_rows(
        options.table,
        image_column=options.image_column,
        label_column=options.label_column,
        group_column=options.group_column,
        label_map=options.label_map,
    )
    return Cohort(rows=rows, images=options.images, masks=options.masks)


def _export(options: argparse.Namespace) -> None:
    if read_settings(Path(options.config)).digest() != load_run(options.run)[0].digest():
        raise TrainingError(f"{options.config} is not the configuration of {options.run}")
    provenance = Provenance(
        version=options.version,
        training_command=f"python -m training diagnosis --config {options.config} "
        "--data ham10000_256 --out run",
        evaluation_command=f"python -m training evaluate --config {options.config} "
        "--data ham10000_256",
        git_commit=options.commit or _checked_out_commit(),
        created=options.created,
    )
    with Progress() as bar:
        manifest = export_run(
            options.run,
            data=options.data,
            repository=options.to,
            provenance=provenance,
            flips=not options.single_view,
            more_figures=_read_figures(options.figures),
            progress=_Bar(bar),
        )
    print(manifest.evidence)


def _read_figures(paths: Sequence[Path]) -> dict[str, tuple[HeldOutFigure, ...]]:
    """Digest of the weights -> figures, from files of ``evaluate``."""
    found: dict[str, tuple[HeldOutFigure, ...]] = {}
    for path in paths:
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            figures = tuple(HeldOutFigure(**figure) for figure in content["figures"])
            found[content["digest"]] = found.get(content["digest"], ()) + figures
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise TrainingError(f"{path} holds no figures of `evaluate`") from exc
    return found


def _checked_out_commit() -> str:
    """Commit of the working tree, marked when it has been changed; ``unversioned`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"


if __name__ == "__main__":
    raise SystemExit(main())
