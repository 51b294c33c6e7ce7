"""What a finished pretraining run leaves: weights, a card, and lists of the images."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from training.errors import CohortError
from training.pretraining.page import Findings
from training.runs import Progress, RunFolder, write_atomically

WEIGHTS = "encoder.pth"
"""The whole network in the layout of the published pretraining files."""
CARD = "pretraining.json"
USED_IMAGES = "images.csv"
BAD_IMAGES = "bad_images.csv"


def write_results(
    folder: RunFolder, network: nn.Module, findings: Findings, report: Progress
) -> None:
    """Write ``encoder.pth``, ``pretraining.json``, ``images.csv`` and ``bad_images.csv``.

    ``images.csv`` holds the SHA-256 of every file, so that an overlap with images on which the
    encoder is to be judged can be found.

    Raises
    ------
    CohortError
        If an image is no longer there.
    RunError
        If a file cannot be written.
    """
    content = io.BytesIO()
    torch.save({k: v.detach().cpu() for k, v in network.state_dict().items()}, content)
    weights = content.getvalue()
    write_atomically(folder.path(WEIGHTS), weights)
    _write_table(folder.path(USED_IMAGES), ("path", "sha256"), _list_used(findings, report))
    _write_table(folder.path(BAD_IMAGES), ("path",), ((name,) for name in findings.bad))
    folder.write_json(
        CARD,
        {
            "weights": WEIGHTS,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "images": len(findings.images.paths),
            "bad_images": len(findings.bad),
            "origin": dict(findings.origin),
            "settings": asdict(findings.settings),
            "last_epoch": dict(findings.history[-1]),
        },
    )


def _list_used(findings: Findings, report: Progress) -> Iterable[tuple[str, str]]:
    bad, images = set(findings.bad), findings.images
    pairs = zip(images.paths, images.names, strict=True)
    for number, (path, name) in enumerate(pairs, start=1):
        if name not in bad:
            yield name, _file_digest(path)
        report("listing images", number, len(images.paths))


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as exc:
        raise CohortError(f"{path.name}: {exc.strerror}") from exc


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
