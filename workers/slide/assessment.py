"""One slide on its way to what is said of it: overview, tissue, tiles, classification.

What speaks against a slide ends here as a reason of its assessment; only failures of the attempt
as a whole pass through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom import Dataset

from models.calibration import calibrate
from models.errors import SlideError
from models.results import LabelProbability
from models.slide.reading import geometry_of, read_tile
from models.slide.result import SlideAssessment, TopTile
from models.slide.tiles import SlideManifest, TileGrid, lay_grid, top_tiles
from models.slide.tissue import PRESETS, Tissue, TissueFinding, find_tissue
from workers.analysis import Tools
from workers.errors import Undecodable
from workers.slide.bag import BagAnswer, classify_tiles
from workers.slide.overview import MAX_LOST_SHARE, read_slide_overview
from workers.slide.source import FoundSlide, Slide

TOP_TILES = 8


@dataclass(frozen=True, kw_only=True)
class Assessed:
    """What is said of one slide, and the instances it speaks of."""

    assessment: SlideAssessment
    headers: tuple[Dataset, ...]
    """Headers of ``assessment.sop_instance_uids``, in their order."""


def assess_slide(found: FoundSlide, tools: Tools) -> Assessed:
    """Assess one slide of a study.

    Raises
    ------
    BadModelOutput
        A model's outputs contradict its manifest.
    ModelUnavailable, InstanceMissing, StorageUnavailable
        From the ports.
    """
    try:
        slide = tools.slides.open(found)
    except Undecodable as exc:
        return not_assessed(found.headers, str(exc))
    try:
        assessment = _assess(slide, tools)
    finally:
        slide.close()
    return Assessed(assessment=assessment, headers=slide.headers)


def not_assessed(headers: tuple[Dataset, ...], reason: str) -> Assessed:
    """Say why a slide, or what should have been one, was not assessed."""
    assessment = SlideAssessment(sop_instance_uids=_uids(headers), reasons=(reason,))
    return Assessed(assessment=assessment, headers=headers)


def _uids(headers: tuple[Dataset, ...]) -> tuple[str, ...]:
    return tuple(str(header.SOPInstanceUID) for header in headers)


def _assess(slide: Slide, tools: Tools) -> SlideAssessment:
    manifest: SlideManifest = tools.served.manifest
    known: dict[str, Any] = {
        "sop_instance_uids": _uids(slide.headers),
        "warnings": slide.remarks,
    }
    try:
        known["geometry"] = geometry_of(slide)
        overview = read_slide_overview(slide, tools.checkpoint)
        known["warnings"] += overview.remarks
        known["overview"] = tools.scratch.keep(overview.pixels)
        tissue = find_tissue(
            overview.pixels, um_px=overview.um_px, preset=PRESETS[manifest.tissue_preset]
        )
        known["tissue"] = tissue = _kept(tissue, tools)
        tools.checkpoint()
        grid = lay_grid(
            known["geometry"], tissue, tile_px=manifest.tile_px, um_px=manifest.tile_um_px
        )
    except (SlideError, Undecodable) as exc:
        return SlideAssessment(**known, reasons=(str(exc),))
    reason = _against(tissue, grid, manifest)
    if reason:
        return SlideAssessment(**known, grid=grid if len(grid) else None, reasons=(reason,))
    if tissue.is_pale:
        known["warnings"] += ("the tissue is pale; its outline may be incomplete",)
    return _classified(slide, grid, known, tools)


def _kept(tissue: Tissue, tools: Tools) -> Tissue:
    keep = tools.scratch.keep
    return replace(tissue, outer=keep(tissue.outer), holes=keep(tissue.holes), ink=keep(tissue.ink))


def _against(tissue: Tissue, grid: TileGrid, manifest: SlideManifest) -> str:
    if tissue.finding is not TissueFinding.TISSUE:
        return tissue.finding.value
    if len(grid) < manifest.min_tiles:
        return f"too little tissue: {len(grid)} of at least {manifest.min_tiles} tiles"
    return ""


def _classified(
    slide: Slide, grid: TileGrid, known: dict[str, Any], tools: Tools
) -> SlideAssessment:
    manifest: SlideManifest = tools.served.manifest
    answer = classify_tiles(slide, grid, tools)
    readable = 0 if answer is None else len(answer.readable)
    lost = len(grid) - readable
    if lost:
        known["warnings"] += (f"{lost} of {len(grid)} tiles cannot be decoded",)
    if answer is None or lost > MAX_LOST_SHARE * len(grid):
        reason = f"the slide is damaged: {lost} of {len(grid)} tiles cannot be decoded"
        return SlideAssessment(**known, grid=grid, reasons=(reason,))
    if readable < manifest.min_tiles:
        reason = (
            f"too little tissue that can be read: {readable} of at least {manifest.min_tiles} tiles"
        )
        return SlideAssessment(**known, grid=grid, reasons=(reason,))
    grid = replace(grid, coordinates=grid.coordinates[answer.readable])
    return _interpreted(slide, grid, answer, known, manifest)


def _interpreted(
    slide: Slide, grid: TileGrid, answer: BagAnswer, known: dict[str, Any], manifest: SlideManifest
) -> SlideAssessment:
    probabilities = calibrate(answer.logits[np.newaxis], manifest.temperature)[0]
    by_label = dict(zip(manifest.labels, map(float, probabilities), strict=True))
    ranked = sorted(by_label, key=lambda label: -by_label[label])
    branch = list(manifest.labels).index(ranked[0]) if manifest.architecture.is_branched else 0
    attention = np.ascontiguousarray(answer.attention[:, branch])
    positive_prob = min(1.0, sum(by_label[label] for label in manifest.positive_labels))
    return SlideAssessment(
        **known,
        grid=grid,
        probabilities=tuple(
            LabelProbability(label=label, probability=by_label[label]) for label in ranked
        ),
        positive_prob=positive_prob,
        is_positive=positive_prob >= manifest.decision_threshold,
        attention=attention,
        top=tuple(
            TopTile(number=int(number), pixels=np.array(read_tile(slide, grid, int(number))))
            for number in top_tiles(attention, TOP_TILES)
        ),
    )
