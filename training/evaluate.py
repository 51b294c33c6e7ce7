"""Evaluation of a model of the repository on a cohort: the command, and what it is made of.

Nothing is fitted here: temperature and thresholds are those of the manifest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.architectures.diagnosis import ServedDiagnosis
from models.diagnosis import DiagnosisManifest
from training.cohorts import Cohort
from training.errors import CohortError, SettingsError
from training.evaluation.analyses import (
    THRESHOLDS,
    Comparison,
    compare,
    measure_conformal,
    measure_net_benefit,
    measure_referral,
    measure_subgroups,
)
from training.evaluation.answers import Answers, answer_cohort, load_model
from training.evaluation.cohort import (
    Columns,
    EvaluationCohort,
    compare_pixels,
    read_cohort,
    scan_folders,
)
from training.evaluation.measures import SHORT_NAMES, Judged, group_names, judge, measure
from training.evaluation.page import Evaluation, write_page
from training.recipes.diagnosis import read_splits
from training.runs import Progress, device, write_atomically
from training.settings import read_settings

__all__ = ["SUMMARY", "Answers", "add_arguments", "answer_cohort", "load_model", "measure", "run"]

SUMMARY = "measure a model of the repository on a cohort"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--model",
        choices=["diagnosis", "segmentation"],
        default="diagnosis",
        help="segmentation: only the outlines of the diagnosis model",
    )
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--against", type=Path, help="repository with a model to compare with")
    parser.add_argument("--permutations", type=int, default=1000, help="of the comparison")
    parser.add_argument("--name", default="", help="name of the cohort in the figures")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--report", type=Path, help="where to write a page with plots and examples")
    parser.add_argument("--training-hashes", type=Path, help="pixel hashes of images trained on")
    parser.add_argument("--write-hashes", type=Path, help="where to write those of this cohort")
    split = parser.add_argument_group("the test split of a training configuration")
    split.add_argument("--config", type=Path)
    split.add_argument("--data", type=Path)
    cohort = parser.add_argument_group("any other cohort")
    cohort.add_argument("--images", type=Path)
    cohort.add_argument("--table", type=Path)
    cohort.add_argument("--label-folders", action="store_true", help="no table: folders are labels")
    cohort.add_argument("--masks", type=Path)
    cohort.add_argument("--image-column", default="image_id")
    cohort.add_argument("--label-column", help="leave out when only outlines are measured")
    cohort.add_argument("--group-column", help="lesion or patient; default: every image alone")
    cohort.add_argument("--label-map", type=_label_map, help="nevus=NV,melanoma=MEL")
    cohort.add_argument("--split-column", help="refused when a group is in two splits")
    cohort.add_argument("--split", help="value of the split column to measure")
    cohort.add_argument(
        "--subgroup-column", action="append", default=[], help="age, sex, ...; may be repeated"
    )


def _label_map(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(before and sign and after for before, sign, after in pairs):
        raise argparse.ArgumentTypeError("expected value=LABEL,value=LABEL")
    return {before: after for before, _, after in pairs}


def run(options: argparse.Namespace, report: Progress) -> None:
    """Measure, print the figures, and write the files that were asked for."""
    served, manifest = load_model(options.repository / "diagnosis")
    served = served.to(device())
    # Whatever can fail fails before hours of work.
    other = load_model(options.against / "diagnosis") if options.against else None
    known_hashes = _read_hashes(options.training_hashes)
    read = _read(options)
    answers = answer_cohort(
        served,
        read.cohort,
        lesion_threshold=manifest.lesion_threshold,
        progress=lambda done, total: report("images", done, total),
    )
    read, answers = compare_pixels(read, answers, known_hashes)
    has_labels = options.model == "diagnosis" and any(row.label for row in read.cohort.rows)
    if options.model == "segmentation" and not np.isfinite(answers.jaccard).any():
        raise CohortError("no image has a mask: give --masks")
    judged = judge(answers, read.cohort, manifest) if has_labels else None
    groups = group_names(read.cohort)
    data = options.name or read.cohort.images.parent.name or read.cohort.images.name
    figures = measure(
        answers,
        read.cohort,
        manifest,
        data=data,
        command=f"python -m training {shlex.join(sys.argv[1:])}",
    )
    found = Evaluation(
        manifest=manifest,
        data=data,
        read=read,
        answers=answers,
        judged=judged,
        figures=figures,
        subgroups=measure_subgroups(
            options.subgroup_column,
            read.attributes,
            groups,
            judged=judged,
            jaccard=answers.jaccard,
        ),
        comparisons=_compare(other, options.permutations, read.cohort, answers, judged, report)
        if other
        else [],
        conformal=measure_conformal(judged, groups) if judged else [],
        referral=measure_referral(judged, groups) if judged else [],
    )
    _print(found)
    if options.json:
        write_atomically(options.json, (json.dumps(describe(found), indent=2) + "\n").encode())
    if options.write_hashes:
        lines = "\n".join(sorted(set(answers.pixel_hash.tolist())))
        write_atomically(options.write_hashes, f"{lines}\n".encode())
    if options.report:
        report("page", 0, 1)
        write_page(options.report, found, served)
        report("page", 1, 1)


def _read(options: argparse.Namespace) -> EvaluationCohort:
    if options.config and options.data and not options.images:
        if options.subgroup_column:
            raise SettingsError("--subgroup-column needs --images and --table")
        cohort = read_splits(read_settings(options.config), options.data).test
        if options.model == "segmentation":
            rows = tuple(dataclasses.replace(row, label="") for row in cohort.rows)
            cohort = dataclasses.replace(cohort, rows=rows)
        return EvaluationCohort(cohort=cohort, attributes=({},) * len(cohort.rows))
    label_map = options.label_map if options.model == "diagnosis" else None
    if options.images and options.label_folders:
        return scan_folders(options.images, masks=options.masks, label_map=label_map)
    if not options.images or not options.table:
        raise SettingsError("give --images and --table, or --config and --data")
    columns = Columns(
        image=options.image_column,
        label=options.label_column if options.model == "diagnosis" else None,
        group=options.group_column,
        split=options.split_column,
        subgroups=tuple(options.subgroup_column),
    )
    return read_cohort(
        options.images,
        options.table,
        columns,
        masks=options.masks,
        label_map=label_map if columns.label else None,
        split=options.split,
    )


def _read_hashes(path: Path | None) -> set[str]:
    if path is None:
        return set()
    try:
        hashes = set(path.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError) as exc:
        raise CohortError(f"{path} cannot be read") from exc
    if not hashes or any(len(text) != 64 for text in hashes):
        raise CohortError(f"{path} is no list of SHA-256 values (see --write-hashes)")
    return hashes


def _compare(
    other: tuple[ServedDiagnosis, DiagnosisManifest],
    permutations: int,
    cohort: Cohort,
    answers: Answers,
    judged: Judged | None,
    report: Progress,
) -> list[Comparison]:
    served, manifest = other
    theirs = answer_cohort(
        served.to(device()),
        cohort,
        lesion_threshold=manifest.lesion_threshold,
        progress=lambda done, total: report("images, other model", done, total),
    )
    return compare(
        judged,
        judge(theirs, cohort, manifest) if judged else None,
        jaccard=answers.jaccard,
        other_jaccard=theirs.jaccard,
        groups=group_names(cohort),
        replicates=permutations,
    )


def _print(found: Evaluation) -> None:
    for remark in found.read.remarks:
        print(f"NOTE: {remark}")
    for figure in found.figures:
        interval = "" if figure.low is None else f" ({figure.low:.4f} to {figure.high:.4f})"
        print(f"{figure.metric}: {figure.value:.4f}{interval}, n={figure.n}")
    for line in found.comparisons:
        print(f"{line.metric}: {line.value:.4f} against {line.against:.4f}, p={line.p_value:.4f}")


def describe(found: Evaluation) -> dict[str, Any]:
    """Everything that was found, as plain values for the JSON file.

    ``figures`` can be copied into a manifest; ``summary`` holds the same by short names.
    """
    manifest, groups = found.manifest, group_names(found.read.cohort)
    content: dict[str, Any] = {
        "model": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "evidence_level": manifest.evidence_level,
        "data": found.data,
        "n": len(groups),
        "groups": len(np.unique(groups)),
        "figures": [dataclasses.asdict(figure) for figure in found.figures],
        "summary": {
            SHORT_NAMES[x.metric]: {
                "value": x.value,
                "low": x.low,
                "high": x.high,
                "n": x.n,
                "groups": x.groups,
            }
            for x in found.figures
        },
        "remarks": list(found.read.remarks),
        "label_conflicts": [dataclasses.asdict(conflict) for conflict in found.read.conflicts],
        "subgroups": [dataclasses.asdict(subgroup) for subgroup in found.subgroups],
        "comparisons": [dataclasses.asdict(line) for line in found.comparisons],
        "conformal": [dataclasses.asdict(line) for line in found.conformal],
        "referral": [dataclasses.asdict(line) for line in found.referral],
    }
    if found.judged is not None and found.judged.is_malignant.any():
        value, low, high = measure_net_benefit(found.judged, groups)
        content["decision_curve"] = {
            "positive": "malignant",
            "threshold": THRESHOLDS.round(4).tolist(),
            "net_benefit": value.round(6).tolist(),
            "low": low.round(6).tolist(),
            "high": high.round(6).tolist(),
        }
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    """JSON has no nan: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
