"""Cohorts of pairs: one lesion at two times, prepared and encoded.

A folder holds ``pairs.csv`` (``pair_id``, ``before``, ``after``, ``group_id``, ``changed`` and,
where they are known, ``split``, ``kind``, ``relative_growth``), ``images/`` and perhaps ``masks/``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.change.pair import measure_growth
from models.change.preparation import PreparationSettings, PreparedPair, prepare_pair
from models.change.registration import Registration
from models.errors import ImageError
from models.preprocessing import prepare_image
from training.cohorts import Row, check_leakage, find_file, read_image, read_mask, split_groups
from training.errors import CohortError
from training.features.embedding import Embedder
from training.runs import Progress, write_atomically
from training.simulate.change import MARKER, SPLITS

BLOCK = 32  # pairs of one file of the cache: what a kill loses at most
COLUMNS = ("pair_id", "before", "after", "group_id", "changed")
OPTIONAL_COLUMNS = ("split", "kind", "relative_growth")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One lesion at two times, or two lesions."""

    pair_id: str
    before: Path
    after: Path
    masks: tuple[Path, Path] | None
    """Lesion masks; None where there are none."""
    group_id: str
    """Patient or lesion."""
    split: int
    """0 train, 1 validation, 2 test."""
    changed: bool | None
    """None for two different lesions."""
    kind: str
    """What changed, where that is known; else empty."""
    relative_growth: float | None
    """True growth of the area, where it is known."""


@dataclass(frozen=True, kw_only=True)
class PairCohort:
    """All pairs of a folder."""

    pairs: tuple[Pair, ...]
    simulation: str | None
    """Source that a simulator drew on; None for real pairs."""
    digest: str
    """SHA-256 of the table."""


def read_pairs(folder: Path, *, fractions: tuple[float, float, float], seed: int) -> PairCohort:
    """Read and check a cohort.

    Parameters
    ----------
    folder
        Folder with ``pairs.csv`` and ``images/``.
    fractions, seed
        Split by group, where the table has none.

    Raises
    ------
    CohortError
        If a file or a column is missing, a column is unknown, a value is impossible, or a split
        lacks changed or unchanged pairs.
    LeakageError
        If a group is in two splits.
    """
    path = folder / "pairs.csv"
    try:
        content = path.read_bytes()
        records = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{path}: {exc}") from exc
    _check_table(path, records)
    splits = _splits(path, records, fractions, seed)
    pairs = tuple(_read_pair(folder, record, splits[record["group_id"]]) for record in records)
    for number, split in enumerate(SPLITS):
        found = {pair.changed for pair in pairs if pair.split == number}
        if not {True, False} <= found:
            raise CohortError(f"{path}: the {split} split needs changed and unchanged pairs")
    return PairCohort(
        pairs=pairs,
        simulation=_read_marker(folder / MARKER),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _check_table(path: Path, records: Sequence[dict[str, str]]) -> None:
    if not records:
        raise CohortError(f"{path}: no rows")
    present = set(records[0])
    missing = [name for name in COLUMNS if name not in present]
    unknown = sorted(map(str, present - {*COLUMNS, *OPTIONAL_COLUMNS}))
    if missing or unknown:
        raise CohortError(f"{path}: missing columns {missing}, unknown columns {unknown}")
    if any(value is None for record in records for value in record.values()):
        raise CohortError(f"{path}: a row has fewer columns than the header")
    twice = [n for n, count in Counter(r["pair_id"] for r in records).items() if count > 1]
    if twice:
        raise CohortError(f"{path}: {len(twice)} pairs are named twice, first {twice[0]}")
    if any(record["changed"].strip() not in ("", "0", "1") for record in records):
        raise CohortError(f"{path}: changed must be 0, 1 or empty")


def _splits(
    path: Path,
    records: Sequence[dict[str, str]],
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[str, int]:
    if "split" not in records[0]:
        rows = [
            Row(image_id=r["pair_id"], label=r["changed"], group_id=r["group_id"]) for r in records
        ]
        parts = split_groups(rows, fractions=fractions, seed=seed)
    else:
        if {record["split"] for record in records} - set(SPLITS):
            raise CohortError(f"{path}: splits are {', '.join(SPLITS)}")
        named = {split: {r["group_id"] for r in records if r["split"] == split} for split in SPLITS}
        check_leakage(named)
        parts = (named[SPLITS[0]], named[SPLITS[1]], named[SPLITS[2]])
    return {name: number for number, part in enumerate(parts) for name in part}


def _read_pair(folder: Path, record: dict[str, str], split: int) -> Pair:
    images, masks = [], []
    for when in ("before", "after"):
        image = find_file(folder / "images", record[when])
        if image is None:
            raise CohortError(f"{record['pair_id']}: no image {record[when]}")
        images.append(image)
        masks.append(find_file(folder / "masks", record[when]))
    growth = record.get("relative_growth", "")
    try:
        relative = float(growth) if growth else None
    except ValueError as exc:
        raise CohortError(f"{record['pair_id']}: relative_growth is no number") from exc
    changed = record["changed"].strip()
    first, second = masks
    return Pair(
        pair_id=record["pair_id"],
        before=images[0],
        after=images[1],
        masks=(first, second) if first is not None and second is not None else None,
        group_id=record["group_id"],
        split=split,
        changed=changed == "1" if changed else None,
        kind=record.get("kind", ""),
        relative_growth=relative,
    )


def _read_marker(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text("utf-8"))["lesions"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise CohortError(f"{path} cannot be read") from exc


@dataclass(frozen=True, kw_only=True)
class PairFeatures:
    """What N pairs look like to the encoder, as they came and prepared."""

    raw: NDArray[np.float32]
    """(N, 2, D) embeddings of the images as they came."""
    prepared: NDArray[np.float32]
    """(N, 2, D) embeddings after preparation."""
    is_registered: NDArray[np.bool_]
    """(N,)"""
    inliers: NDArray[np.float64]
    """(N,) matches that agreed, also where that was too few."""
    residual_px: NDArray[np.float64]
    """(N,) nan without a registration."""
    overlap: NDArray[np.float64]
    """(N,) nan without a registration."""
    growth: NDArray[np.float64]
    """(N,) measured relative growth; nan without masks or registration."""


def encode_pairs(
    cohort: PairCohort,
    settings: PreparationSettings,
    embedder: Embedder,
    cache: Path,
    report: Progress,
) -> PairFeatures:
    """Prepare and encode all pairs, a block at a time; blocks that are there are read back.

    Raises
    ------
    CohortError
        If an image or a mask cannot be used.
    """
    cache.mkdir(parents=True, exist_ok=True)
    blocks: list[dict[str, NDArray[np.generic]]] = []
    for start in range(0, len(cohort.pairs), BLOCK):
        part = cohort.pairs[start : start + BLOCK]
        kept = cache / f"{_block_digest(part, settings, embedder)}.npz"
        if kept.is_file():
            with np.load(kept, allow_pickle=False) as content:
                blocks.append({name: content[name] for name in content.files})
        else:
            blocks.append(_encode_block(part, settings, embedder))
            buffer = io.BytesIO()
            np.savez(buffer, **blocks[-1])  # type: ignore[arg-type]
            write_atomically(kept, buffer.getvalue())
        report("preparing and encoding pairs", start + len(part), len(cohort.pairs))
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return PairFeatures(**whole)


def _block_digest(pairs: Sequence[Pair], settings: PreparationSettings, embedder: Embedder) -> str:
    found = hashlib.sha256(embedder.digest.encode())
    found.update(json.dumps(asdict(settings), sort_keys=True).encode())
    for pair in pairs:
        for path in (pair.before, pair.after, *(pair.masks or ())):
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:32]


def prepare(pair: Pair, settings: PreparationSettings) -> tuple[PreparedPair, float]:
    """Prepare one pair; with its measured relative growth, nan where that is unknown.

    Raises
    ------
    CohortError
        If an image or a mask cannot be used.
    """
    masks = None
    if pair.masks is not None:
        masks = (read_mask(pair.masks[0]) > 0, read_mask(pair.masks[1]) > 0)
    try:
        prepared = prepare_pair(
            read_image(pair.before), read_image(pair.after), settings, masks=masks
        )
    except ImageError as exc:
        raise CohortError(f"{pair.pair_id}: {exc}") from exc
    growth = None
    if masks is not None and prepared.source_matrix is not None:
        growth = measure_growth(*masks, prepared.source_matrix)
    relative = growth.relative if growth is not None else None
    return prepared, float("nan") if relative is None else relative


def _encode_block(
    pairs: Sequence[Pair], settings: PreparationSettings, embedder: Embedder
) -> dict[str, NDArray[np.generic]]:
    raw, clean, rows = [], [], []
    for pair in pairs:
        prepared, growth = prepare(pair, settings)
        outcome = prepared.registration
        found = isinstance(outcome, Registration)
        raw += [
            prepare_image(read_image(path), embedder.size) for path in (pair.before, pair.after)
        ]
        clean += [
            prepare_image(each.image, embedder.size) for each in (prepared.before, prepared.after)
        ]
        rows.append(
            (
                float(found),
                float(outcome.inliers) if outcome is not None else np.nan,
                outcome.residual_px if isinstance(outcome, Registration) else np.nan,
                outcome.overlap if isinstance(outcome, Registration) else np.nan,
                growth,
            )
        )
    numbers = np.array(rows)
    shape = (len(pairs), 2, embedder.dim)
    return {
        "raw": embedder.embed(np.stack(raw)).reshape(shape),
        "prepared": embedder.embed(np.stack(clean)).reshape(shape),
        "is_registered": numbers[:, 0] == 1,
        "inliers": numbers[:, 1],
        "residual_px": numbers[:, 2],
        "overlap": numbers[:, 3],
        "growth": numbers[:, 4],
    }
