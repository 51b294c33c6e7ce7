"""What the Dockerfiles say, read well enough to check it without an engine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One instruction of a Dockerfile; continuation lines are joined."""

    name: str
    arguments: str

    @property
    def words(self) -> list[str]:
        """Its arguments, of the shell form or the JSON form."""
        if self.arguments.startswith("["):
            return [str(word) for word in json.loads(self.arguments)]
        return shlex.split(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """The stages of one file, each beginning with its FROM."""

    path: Path
    steps: tuple[Step, ...]

    def of(self, name: str) -> list[Step]:
        """Every instruction of a kind."""
        return [step for step in self.steps if step.name == name]

    @property
    def last_stage(self) -> list[Step]:
        """What makes the image that runs."""
        start = max(n for n, step in enumerate(self.steps) if step.name == "FROM")
        return list(self.steps[start:])

    @property
    def copied(self) -> list[str]:
        """What the build context gives."""
        return [
            source
            for step in self.of("COPY")
            if not step.arguments.startswith("--from=")
            for source in step.words[:-1]
        ]

    @property
    def packages(self) -> list[str]:
        """Our own folders inside."""
        return [name for name in self.copied if (ROOT / name).is_dir() and name != "triton_repo"]


def read(name: str) -> Dockerfile:
    """Read ``docker/NAME.Dockerfile``."""
    path = DOCKER / f"{name}.Dockerfile"
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    steps = []
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        steps.append(Step(name=word.upper(), arguments=rest.strip()))
    return Dockerfile(path=path, steps=tuple(steps))


def requirements(name: str) -> list[Requirement]:
    """Read ``docker/NAME-requirements.txt`` with what it includes."""
    found = []
    for line in (DOCKER / f"{name}-requirements.txt").read_text().splitlines():
        if line.startswith("-r "):
            found += requirements(line[3:].removesuffix("-requirements.txt"))
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def locked() -> dict[str, str]:
    """Version of each package in ``constraints.txt``."""
    pairs = (
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    return {canonicalize_name(name): version for name, version in pairs}


def closure(wanted: list[Requirement]) -> set[str]:
    """Return every distribution that an installation of these brings, as installed here."""
    seen: set[str] = set()
    waiting = [(each.name, frozenset(each.extras)) for each in wanted]
    done = set()
    while waiting:
        name, extras = waiting.pop()
        key = (canonicalize_name(name), extras)
        if key in done:
            continue
        done.add(key)
        seen.add(key[0])
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                waiting.append((needed.name, frozenset(needed.extras)))
    return seen


def install(distributions: set[str], site: Path) -> None:
    """Link what these distributions installed here into a folder of its own."""
    site.mkdir()
    here = Path(metadata.distribution("packaging").locate_file(""))
    for name in distributions:
        entries = {file.parts[0] for file in metadata.files(name) or () if file.parts[0] != ".."}
        for entry in entries - {"__pycache__"}:
            if not (site / entry).is_symlink():
                (site / entry).symlink_to(here / entry)
