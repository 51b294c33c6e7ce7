"""Tables of slides, and folds that keep cases together."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from training.errors import CohortError
from training.simulate.patches import Split
from training.simulate.slides import SimulatedSlide
from training.slide.features import SlideSource, fingerprint
from training.slide.readers import SlideFile, open_slide

TABLE = "slides.csv"
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a cohort."""

    slide_id: str
    """Name, unique in the cohort."""
    label: str
    """Label of the model's label set."""
    case: str
    """Patient: slides of one never come apart."""
    split: Split
    """``calibration`` slides stop the final training and decide temperature and threshold,
    ``held_out`` ones give the figures."""


@dataclass(frozen=True, kw_only=True)
class SlideCohort:
    """Rows with what opens them."""

    rows: tuple[SlideRow, ...]
    sources: tuple[SlideSource, ...]
    """One a row."""


def read_slide_table(folder: Path) -> SlideCohort:
    """Read ``slides.csv`` of a folder.

    Columns: ``path`` (file or folder of DICOM instances, relative to the folder), ``label``,
    ``case``; optional ``slide_id`` (default: the path), ``um_px`` (resolution of level 0 where the
    file states none or a wrong one) and ``split`` (``development``, ``calibration`` or
    ``held_out``).

    Raises
    ------
    CohortError
        If the table or a column is missing, a value is impossible, a slide is named twice, or a
        case lies in more than one split.
    """
    table = folder / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            records = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table} cannot be read as a table") from exc
    if not records:
        raise CohortError(f"{table} holds no slide")
    missing = {"path", "label", "case"} - set(records[0])
    if missing:
        raise CohortError(f"{table}: no column {sorted(missing)}")
    rows, sources = [], []
    for number, record in enumerate(records, start=2):
        where = f"{table}, line {number}"
        path, label, case = (record[name] or "" for name in ("path", "label", "case"))
        if not (path.strip() and label.strip() and case.strip()):
            raise CohortError(f"{where}: path, label and case are needed")
        named = record.get("split") or SPLITS[0]
        split = next((known for known in SPLITS if known == named), None)
        if split is None:
            raise CohortError(f"{where}: split must be one of {SPLITS}")
        slide_id = record.get("slide_id") or path
        rows.append(SlideRow(slide_id=slide_id, label=label, case=case, split=split))
        sources.append(_file_source(slide_id, folder / path, _um_px(record.get("um_px"), where)))
    check_rows(rows)
    return SlideCohort(rows=tuple(rows), sources=tuple(sources))


def _um_px(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as exc:
        raise CohortError(f"{where}: um_px is no number") from exc


def _file_source(slide_id: str, path: Path, um_px: float | None) -> SlideSource:
    def open_() -> SlideFile:
        return open_slide(path, um_px=um_px)

    # A missing file has no fingerprint; opening it says so, and the other slides go on.
    state = fingerprint(path) if path.exists() else "missing"
    return SlideSource(slide_id=slide_id, fingerprint=f"{state} {um_px}", open=open_)


def simulated_cohort(slides: Sequence[SimulatedSlide], state: str) -> SlideCohort:
    """Cohort of simulated slides; ``state`` is their fingerprint."""

    def source(slide: SimulatedSlide) -> SlideSource:
        return SlideSource(slide_id=slide.slide_id, fingerprint=state, open=lambda: slide)

    rows = [
        SlideRow(slide_id=s.slide_id, label=s.label, case=s.case, split=s.split) for s in slides
    ]
    check_rows(rows)
    return SlideCohort(rows=tuple(rows), sources=tuple(source(slide) for slide in slides))


def check_rows(rows: Sequence[SlideRow]) -> None:
    """Refuse duplicates, and cases in more than one split."""
    twice = [name for name, count in Counter(row.slide_id for row in rows).items() if count > 1]
    if twice:
        raise CohortError(f"{len(twice)} slides are named twice, first {twice[0]}")
    sides = defaultdict(set)
    for row in rows:
        sides[row.case].add(row.split)
    if any(len(side) > 1 for side in sides.values()):
        raise CohortError("a case has slides in more than one split")


def split_folds(rows: Sequence[SlideRow], *, folds: int, seed: int) -> list[int]:
    """Fold of each row, by case and stratified by label.

    Parameters
    ----------
    rows
        Development slides.
    folds
        Number of folds, at least 3: one tests, one stops, the rest trains.
    seed
        Seed of the order of cases.

    Returns
    -------
    list of int
        Fold of each row in [0, folds). Slides of a case share one; a case with several labels
        counts under its rarest.

    Raises
    ------
    CohortError
        If a label has fewer cases than folds.
    """
    counts = Counter(row.label for row in rows)
    strata: dict[str, str] = {}
    for row in rows:
        held = strata.get(row.case, row.label)
        strata[row.case] = min(held, row.label, key=lambda label: (counts[label], label))
    cases = defaultdict(list)
    for case in sorted(strata):
        cases[strata[case]].append(case)
    few = {label: len(cases[label]) for label in counts if len(cases[label]) < folds}
    if few:
        raise CohortError(f"each label needs a case in each of {folds} folds, there are {few}")
    rng = np.random.default_rng(seed)
    found: dict[str, int] = {}
    for label in sorted(cases):
        for position, index in enumerate(rng.permutation(len(cases[label]))):
            found[cases[label][index]] = position % folds
    return [found[row.case] for row in rows]
