"""Training, evaluation and the model repository, one command each."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

import torch
from rich.progress import Progress as ProgressBar

from models.errors import ModelError
from training.commands import find_command
from training.errors import TrainingError
from training.runs import hold

COMMANDS = {
    "diagnosis": "training.recipes.diagnosis",
    "segment": "training.recipes.segment",
    "pretrain": "training.recipes.pretrain",
    "features": "training.recipes.features",
    "probe": "training.recipes.probe",
    "finetune": "training.recipes.finetune",
    "tbp": "training.recipes.tbp",
    "change": "training.recipes.change",
    "slide": "training.recipes.slide",
    "prognosis": "training.recipes.prognosis",
    "robustness": "training.recipes.robustness",
    "evaluate": "training.evaluate",
    "export": "training.repository:EXPORT",
    "figures": "training.repository:FIGURES",
    "promote": "training.repository:PROMOTE",
    "shadow": "training.repository:SHADOW",
    "rollback": "training.repository:ROLLBACK",
}
"""Command -> where it lives (``training.commands``)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one line on standard error when it cannot be done."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words).parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        with _held(options), ProgressBar(disable=not sys.stderr.isatty()) as bar:
            options.act(options, _Bar(bar))
    except (TrainingError, ModelError) as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    return 0


def _held(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Hold the run's folder, if there is one; of torchrun's processes the first one does."""
    is_first = os.environ.get("RANK", "0") == "0"
    return hold(options.out) if is_first and "out" in options else contextlib.nullcontext()


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser. Only the command asked for is imported: some take seconds to load."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="torch threads (0: torch decides)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wants_help = not any(word in COMMANDS for word in words)
    for name, place in COMMANDS.items():
        if not wants_help and name not in words:
            commands.add_parser(name)
            continue
        command = find_command(place)
        added = commands.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(added)
        added.set_defaults(act=command.run)
    return parser


class _Bar:
    """One line of progress that is renamed and restarted as the work goes on."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar
        self.task = bar.add_task("")

    def __call__(self, text: str, done: int, total: int) -> None:
        self.bar.update(self.task, description=text, completed=done, total=total)


if __name__ == "__main__":
    raise SystemExit(main())
