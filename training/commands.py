"""What a command of ``python -m training`` consists of."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.runs import Progress


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its line of help, its arguments, and what it does."""

    summary: str
    """One line for ``--help``."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Adds the command's arguments."""
    run: Callable[[argparse.Namespace, Progress], None]
    """Does it; raises ``TrainingError`` or ``ModelError`` when it cannot be done."""


def find_command(place: str) -> Command:
    """Import ``package.module`` (its SUMMARY, add_arguments and run) or ``package.module:NAME``."""
    module_name, _, name = place.partition(":")
    module: Any = importlib.import_module(module_name)
    if name:
        command: Command = getattr(module, name)
        return command
    return Command(summary=module.SUMMARY, add_arguments=module.add_arguments, run=module.run)
