"""Tries rules on files and on studies of the record, without changing anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from gateway.dicom.part10 import InstanceHeader, inspect
from gateway.errors import InstanceError
from gateway.rules.conditions import InstanceFacts
from gateway.rules.headers import read_header
from gateway.rules.plan import Plan
from gateway.rules.ruleset import RuleSet, StudyFacts


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who is taken to have sent the files of a trial."""

    calling_ae_title: str = ""
    called_ae_title: str = ""
    source_address: str = ""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What the rules say of one study."""

    study_instance_uid: str
    instances: int
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial."""

    studies: tuple[Tried, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()
    """Files that are no instances, and why."""


class FileInstance:
    """One file as the rules see it."""

    def __init__(
        self, path: Path, header: InstanceHeader, sender: Sender, tags: frozenset[int]
    ) -> None:
        self._path = path
        self._tags = tags
        self._header: Dataset | None = None
        self.series_instance_uid = header.series_instance_uid
        self._fields = {
            "modality": header.modality,
            "sop_class": header.sop_class_uid,
            "transfer_syntax": header.transfer_syntax_uid,
            "calling_ae_title": sender.calling_ae_title,
            "called_ae_title": sender.called_ae_title,
            "source_address": sender.source_address,
        }

    def field(self, name: str) -> str:
        """Return what the record would know of it."""
        return self._fields[name]

    def header(self) -> Dataset:
        """Return its attributes."""
        if self._header is None:
            self._header = read_header(self._path, self._tags)
        return self._header


@dataclass(kw_only=True)
class _Study:
    instances: dict[str, FileInstance] = field(default_factory=dict)


def try_on_files(rules: RuleSet, paths: Iterable[Path], sender: Sender) -> Trial:
    """Return what rules say of the studies that lie in files and folders."""
    studies: dict[str, _Study] = {}
    unreadable: list[tuple[Path, str]] = []
    for path in _files(paths):
        try:
            header = inspect(path)
        except InstanceError as exc:
            unreadable.append((path, str(exc)))
            continue
        except OSError as exc:
            unreadable.append((path, exc.strerror or type(exc).__name__))
            continue
        study = studies.setdefault(header.study_instance_uid, _Study())
        study.instances[header.sop_instance_uid] = FileInstance(path, header, sender, rules.tags)
    tried = tuple(
        _tried(rules, uid, list(study.instances.values())) for uid, study in studies.items()
    )
    return Trial(studies=tried, unreadable=tuple(unreadable))


def _tried(rules: RuleSet, uid: str, instances: Sequence[FileInstance]) -> Tried:
    facts: list[InstanceFacts] = list(instances)
    numbers = {
        "instances": len(instances),
        "series": len({each.series_instance_uid for each in instances}),
        "generation": 1,
    }
    plan = rules.decide(StudyFacts(instances=facts, numbers=numbers))
    return Tried(study_instance_uid=uid, instances=len(instances), plan=plan)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, names, files in os.walk(path):
            names.sort()
            yield from (Path(folder) / name for name in sorted(files))
