"""What a slide run leaves for people: tables, attention, heat maps, the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.architectures.abmil import GatedAbmil
from models.manifest import HeldOutFigure
from models.slide.attention import attention_map, overlay, percentile_ranks
from models.slide.tiles import ReadPlan, TileGrid
from training import plots
from training.report import Page
from training.runs import Progress, write_atomically
from training.slide.cohort import SlideRow
from training.slide.features import OVERVIEW, SHEET, FeatureStore, SlideRecord

Maps = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Slide -> coordinates (N, 2) and raw attention (N,) of the positive branch."""
MAX_SHEETS = 8
MAX_HISTORIES = 6


class ShownSettings(Protocol):
    """What of the settings the report shows."""

    @property
    def labels(self) -> dict[str, str]:
        """Label -> full name."""

    def positive_columns(self) -> list[int]:
        """Numbers of the positive labels."""


def write_table(path: Path, rows: Sequence[SlideRow], records: Mapping[str, SlideRecord]) -> None:
    """Write what became of each slide as CSV."""
    lines = [asdict(row) | asdict(records[row.slide_id]) for row in rows]
    write_atomically(path, _csv(lines))


def _csv(lines: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


@torch.inference_mode()
def write_attention(
    folder: Path,
    store: FeatureStore,
    records: Mapping[str, SlideRecord],
    network: GatedAbmil,
    rows: Sequence[SlideRow],
    *,
    pictures: int,
    report: Progress,
) -> Maps:
    """Write each slide's attention as CSV (x, y, raw, softmax, rank) and some as pictures.

    A branched network has one attention a label; the written one is that of the label which the
    network holds most probable.
    """
    target = folder / "attention"
    target.mkdir(parents=True, exist_ok=True)
    maps: Maps = {}
    for number, row in enumerate(rows):
        record = records[row.slide_id]
        features, coordinates = store.read(record)
        out = network(torch.from_numpy(np.array(features, np.float32)))
        branch = int(out.logits.argmax()) if out.attention.shape[1] > 1 else 0
        raw = out.attention_raw[:, branch].double().numpy()
        share, ranks = out.attention[:, branch].double().numpy(), percentile_ranks(raw)
        lines = [
            {"x": int(x), "y": int(y), "raw": r, "softmax": s, "rank": k}
            for (x, y), r, s, k in zip(coordinates, raw, share, ranks, strict=True)
        ]
        name = quote(row.slide_id, safe="")
        write_atomically(target / f"{name}.csv", _csv(lines))
        if number < pictures:
            picture = heat_map(store, record, coordinates, ranks)
            Image.fromarray(picture).save(target / f"{name}.png")
        maps[row.slide_id] = (coordinates, raw)
        report("attention", number + 1, len(rows))
    return maps


def heat_map(
    store: FeatureStore,
    record: SlideRecord,
    coordinates: NDArray[np.int64],
    ranks: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Ranks of a slide's tiles over its overview, (H, W, 3) uint8 RGB."""
    grid = TileGrid(
        coordinates=coordinates,
        side=record.side,
        tile_px=record.side,
        plan=ReadPlan(level=0, factor=1.0, um_px=record.um_px),
        slide_size=(record.width, record.height),
    )
    with Image.open(store.path(record.slide_id, OVERVIEW)) as picture:
        overview = np.array(picture.convert("RGB"))
    scale = max(1, 640 // max(overview.shape[:2]))  # small slides would be a few pixels
    large = overview.repeat(scale, axis=0).repeat(scale, axis=1)
    return overlay(large, attention_map(grid, ranks))


def write_report(
    folder: Path,
    settings: ShownSettings,
    records: Mapping[str, SlideRecord],
    figures: Sequence[HeldOutFigure],
    *,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    store: FeatureStore,
    maps: Maps,
) -> None:
    """Write ``report.html``."""
    page = Page("Slide classification")
    names = list(settings.labels)
    page.text(
        "Figures come from slides whose cases the network never saw; intervals (95 %) resample "
        "cases. Attention is shown as rank within a slide: two slides cannot be compared by it, "
        "and a benign slide has high ranks too."
    )
    page.table("Figures", [_shown(figure) for figure in figures])
    statuses = sorted({record.status for record in records.values()})
    counts = {s: sum(r.status == s for r in records.values()) for s in statuses}
    page.table("Slides", [{"status": s, "slides": n} for s, n in counts.items()])
    bad = [r for r in records.values() if r.status != "ok"]
    page.table(
        "Slides left out",
        [{"slide": r.slide_id, "status": r.status, "reason": r.reason} for r in bad],
    )
    page.figure("ROC", plots.roc_curves(labels, probabilities, names))
    page.figure("Precision and recall", plots.pr_curves(labels, probabilities, names))
    page.figure("Reliability", plots.reliability(probabilities, labels))
    page.figure("Confusion", plots.confusion(labels, probabilities, names))
    for run in sorted(folder.glob("f*/history.csv"))[:MAX_HISTORIES]:
        page.figure(f"Learning curves, {run.parent.name}", plots.learning_curves(_history(run)))
    shown = [
        name for name in maps if (folder / "attention" / f"{quote(name, safe='')}.png").exists()
    ]
    page.images(
        "Attention, rank within the slide",
        [(_picture(folder / "attention" / f"{quote(name, safe='')}.png"), name) for name in shown],
    )
    page.images(
        "Quality sheets",
        [
            (_picture(store.path(name, SHEET)), f"{name}: {record.status}")
            for name, record in sorted(records.items(), key=lambda item: item[1].status == "ok")
            if store.path(name, SHEET).exists()
        ][:MAX_SHEETS],
    )
    page.write(folder / "report.html")


def _shown(figure: HeldOutFigure) -> dict[str, object]:
    interval = "" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
    return {
        "figure": figure.metric,
        "slides": figure.data,
        "value": figure.value,
        "95 % interval": interval,
        "n": figure.n,
        "cases": figure.groups,
    }


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]


def _picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))
