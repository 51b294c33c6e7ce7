"""``tbp_screening``: the lesions of total body photography that deserve a closer look. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tbp.lesions import TbpManifest
from models.tbp.measurements import (
    CONFIDENCES,
    MeasurementTable,
    column_number,
    read_measurements,
)
from models.tbp.patient import PatientScreening, screen_patient
from models.tbp.remarks import Remark
from models.tbp.result import LesionTile, TbpResult
from reports.context import SourceImage
from workers.analysis import Conclusion, Limits, Match, Tools
from workers.errors import NothingDecodable, Undecodable
from workers.study import Study
from workers.tbp.detect import tile_series
from workers.tbp.heads import ask_about_lesions, ask_about_skin
from workers.tbp.joining import Lesion, join
from workers.tbp.rows import OUT_OF_BOUNDS
from workers.tbp.sources import read_sources
from workers.tbp.tiles import Embedded, Tile, embed_tiles, read_tiles

MAX_TILES = 20_000
"""Tiles of a study that are screened; no patient has so many lesions."""


class TbpScreening:
    """Three modules joined by OR, counts and a ranked list; see ``models.tbp``."""

    name = "tbp_screening"
    manifest_type = TbpManifest
    limits = Limits(time_s=3600, memory_bytes=6 * 2**30, concurrency=2, priority=4, is_long=True)

    def match(self, study: Study) -> Match:
        """Return the lesion tiles of a study (``workers.tbp.detect``)."""
        series = tile_series(study)
        if not series:
            return Match(
                instances=(),
                reason="no series of lesion tiles (told by Image Type TBP, a private block of "
                "measurements, the Series Description, or small photographs of tracked lesions, 20 "
                "or with measurements)",
            )
        instances = tuple(each for one in series for each in one.instances)
        marks = " and ".join(dict.fromkeys(one.mark for one in series))
        return Match(instances=instances, reason=f"{len(instances)} lesion tiles, told by {marks}")

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Screen the patient."""
        manifest: TbpManifest = tools.served.manifest
        tools.encoder.require(manifest.encoder_digest)
        instances = self.match(study).instances
        found, unreadable = read_tiles(instances[:MAX_TILES], tools)
        tiles = [tile for tile in found if not tile.is_skin]
        if not tiles:
            raise NothingDecodable("no header of a lesion tile could be read")
        measured = read_sources(study, tiles)
        joined = join([tile.identity for tile in tiles], measured.sources)
        embedded = embed_tiles(tiles, tools)
        patient = _Patient(joined.lesions, embedded, manifest)
        if not patient.lesions:
            raise NothingDecodable(
                "; ".join(embedded.reasons) or "no tile shows anything, and no measurements came"
            )
        skin = embed_tiles([tile for tile in found if tile.is_skin], tools)
        photodamage = ask_about_skin(skin.features, tools)
        screening = screen_patient(
            [lesion.lesion_id for lesion in patient.lesions],
            patient.table,
            ask_about_lesions(patient.features, patient.table, tools),
            manifest,
            out_of_bounds=patient.out_of_bounds,
            photodamage=photodamage,
        )
        remarks = (
            *_about_tiles(len(instances), unreadable, embedded, patient),
            *measured.remarks,
            *joined.remarks,
            *screening.remarks,
            *_about_skin(skin, len(photodamage)),
        )
        result = TbpResult(
            model=manifest.identity(),
            encoder=tools.encoder.identity,
            thresholds=manifest.thresholds,
            thresholds_meaning=manifest.thresholds_meaning,
            screening=screening,
            tiles=patient.shown_by(tiles),
            not_assessed=patient.not_judgeable + unreadable,
            remarks=remarks,
        )
        return _conclude(result, tiles, tools)


class _Patient:
    """The lesions that can be judged by at least one module, with all that is known of them."""

    def __init__(
        self, lesions: Sequence[Lesion], embedded: Embedded, manifest: TbpManifest
    ) -> None:
        table = _without_fractions(read_measurements([each.values or {} for each in lesions]))
        features = np.full((len(lesions), embedded.features.shape[1]), np.nan, np.float32)
        for number, lesion in enumerate(lesions):
            if lesion.tile is not None:
                features[number] = embedded.features[lesion.tile]
        needed = [
            column_number(name)
            for name in manifest.trained_measurements
            if name not in manifest.optional_measurements
        ]
        has_tile = np.isfinite(features).all(axis=1)
        has_values = np.isfinite(table.values[:, needed]).all(axis=1)
        kept = np.flatnonzero(has_tile | has_values)
        self.lesions = tuple(lesions[int(i)] for i in kept)
        self.features = features[kept]
        self.table = replace(
            table,
            values=table.values[kept],
            problems=tuple(table.problems[i] for i in kept),
        )
        self.not_judgeable = len(lesions) - len(kept)
        """Lesions without a readable tile and without the measurements that the trees need."""

    @property
    def out_of_bounds(self) -> NDArray[np.float64]:
        """(N,) share of each tile outside the image as the device gave it; nan where unknown."""
        shares = np.full(len(self.lesions), np.nan)
        for number, lesion in enumerate(self.lesions):
            try:
                share = float(str((lesion.values or {}).get(OUT_OF_BOUNDS)))
            except ValueError:
                continue
            if 0 <= share <= 1:
                shares[number] = share
        return shares

    def shown_by(self, tiles: Sequence[Tile]) -> dict[str, LesionTile]:
        """Tile and size of each lesion."""
        axes = self.table.values[:, column_number("majorAxisMM")]
        return {
            lesion.lesion_id: LesionTile(
                sop_instance_uid=None
                if lesion.tile is None
                else tiles[lesion.tile].instance.sop_instance_uid,
                major_axis_mm=float(axis) if np.isfinite(axis) else None,
            )
            for lesion, axis in zip(self.lesions, axes, strict=True)
        }


def _without_fractions(table: MeasurementTable) -> MeasurementTable:
    """Leave out confidences that seem to be fractions: the filters would drop every lesion."""
    doubtful = [name for name in CONFIDENCES if any(name in text for text in table.remarks)]
    values = table.values.copy()
    for name in doubtful:
        values[:, column_number(name)] = np.nan
    return replace(table, values=values)


def _about_tiles(
    count: int, unreadable: int, embedded: Embedded, patient: _Patient
) -> list[Remark]:
    remarks = []
    if count > MAX_TILES:
        text = f"only the first {MAX_TILES} of {count} tiles were screened"
        remarks.append(Remark(code="TOO_MANY", text=text))
    undecodable = embedded.undecodable + unreadable
    if undecodable:
        why = f" ({'; '.join(embedded.reasons[:3])})" if embedded.reasons else ""
        text = f"{undecodable} tiles cannot be read{why}"
        remarks.append(Remark(code="BAD_TILE", text=text))
    if embedded.blank:
        text = f"{embedded.blank} tiles show nothing"
        remarks.append(Remark(code="BLANK_TILE", text=text))
    if patient.not_judgeable:
        text = (
            f"{patient.not_judgeable} lesions were not assessed: no readable tile, and not the "
            "measurements that the trees need"
        )
        remarks.append(Remark(code="NOT_ASSESSED", text=text))
    unmeasured = sum(not lesion.values for lesion in patient.lesions)
    if unmeasured:
        text = f"{unmeasured} lesions without measurements: judged by the tile only"
        remarks.append(Remark(code="UNMEASURED", text=text))
    return remarks


def _about_skin(skin: Embedded, graded: int) -> list[Remark]:
    if graded:
        return []
    total = len(skin.features)
    text = "photodamage not graded: "
    text += "no tile of skin came" if not total else f"none of {total} tiles shows enough skin"
    return [Remark(code="NO_SKIN_TILE", text=text)]


def _conclude(result: TbpResult, tiles: Sequence[Tile], tools: Tools) -> Conclusion:
    screening = result.screening
    remarks = result.remarks
    if not screening.assessed:
        filters = ", ".join(screening.excluded_by)
        text = f"no lesion passed the filters ({filters})"
        remarks = (Remark(code="NONE_ASSESSED", text=text), *remarks)
        result = replace(result, remarks=remarks)
    return Conclusion(
        result=result,
        sources=tuple(_sources(result, tiles, tools)),
        is_assessed=screening.assessed > 0,
        reason="; ".join(f"{remark.text} [{remark.code}]" for remark in remarks),
        summary=_summary(screening, result.not_assessed),
    )


def _sources(result: TbpResult, tiles: Sequence[Tile], tools: Tools) -> list[SourceImage]:
    """Every tile, with the pixels of those that the contact sheets show."""
    shown = (result.tiles[lesion.lesion_id].sop_instance_uid for lesion in result.drawn)
    drawn = {uid for uid in shown if uid is not None}
    sources = []
    for tile in tiles:
        pixels = None
        if tile.instance.sop_instance_uid in drawn:
            try:
                pixels = tools.scratch.keep(tools.source.pixels(tile.instance.path))
            except Undecodable:
                pixels = None  # judged by its measurements; the sheet says that there is no tile
        sources.append(SourceImage(header=tile.header, pixels=pixels))
    return sources


def _summary(screening: PatientScreening, not_assessed: int) -> dict[str, Any]:
    return {
        "headline": f"{screening.flagged} of {screening.assessed} lesions flagged"
        if screening.assessed
        else "no lesion assessed",
        "lesions": len(screening.lesions) + not_assessed,
        "assessed": screening.assessed,
        "flagged": screening.flagged,
        "excluded": len(screening.lesions) - screening.assessed,
        "not_assessed": not_assessed,
        "nevi": sum(screening.nevus_count.values()),
        "photodamage": screening.photodamage.grade,
    }


ANALYSIS = TbpScreening()
