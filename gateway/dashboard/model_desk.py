"""Models as the admin page shows and switches them: the repository, Triton, and the record.

The repository is written by ``python -m training promote | rollback`` alone: this module runs that
command where it is installed and then has Triton load the model again. What it cannot do from
here, e.g. because the repository lies on another host, it says.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
from sqlalchemy import Engine, select

from gateway.dashboard.model_settings import ModelSettings
from gateway.errors import ModelRefused
from gateway.home import running_instance
from gateway.settings import StoreSettings
from gateway.store import audit
from gateway.store.engine import reading, utc_now, writing
from gateway.store.tables import DriftSeries, WorkItem

SHADOW_SUFFIX = "_shadow"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ANSWER_S = 2.0
_LOAD_S = 120.0  # weights are read, moved to the device and warmed up
_COMMAND_S = 120.0
_SAMPLE = 500
_BARS = 20
_REFUSES = "cannot load it"

Change = Literal["promote", "rollback"]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One exported version."""

    number: int
    version: str
    digest: str
    evidence_level: str
    evidence: str
    created: str
    standing: str
    """live, shadow, or retired (exported and not in service)."""


class ModelDesk:
    """Reads the models of one installation and switches their versions."""

    def __init__(
        self,
        engine: Engine,
        store: StoreSettings,
        settings: ModelSettings,
    ) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings

    def all(self) -> list[dict[str, Any]]:
        """Return every model of the repository with its versions, readiness and answers."""
        folder = self._settings.repository
        if not folder.is_dir():
            return []
        names = sorted(
            each.name
            for each in folder.iterdir()
            if (each / "manifest.json").is_file() and not each.name.endswith(SHADOW_SUFFIX)
        )
        ready = self._readiness(names)
        return [self._model(folder / name, ready.get(name, "unknown")) for name in names]

    def card(self, name: str) -> str:
        """Return the model card as it was written.

        Raises
        ------
        ModelRefused
            There is no such model or card.
        """
        try:
            return (self._folder(name) / "CARD.md").read_text(encoding="utf-8")
        except OSError as exc:
            raise ModelRefused("the model has no card") from exc

    def change(self, name: str, change: Change, *, number: int, reason: str, actor: str) -> str:
        """Put a version into service, or the one before back; return what happened in a sentence.

        Raises
        ------
        ModelRefused
            The version is incomplete or Triton cannot load it, there is none before, or the
            repository cannot be written; what was in service goes on.
        """
        folder = self._folder(name)
        if not reason.strip():
            raise ModelRefused("say why")
        arguments = [change, "--model", name, "--repository", str(self._settings.repository)]
        arguments += ["--version", str(number)] if change == "promote" else []
        said = _run_training(arguments)
        self._note(folder, change, reason.strip(), actor)
        problem = self._load(name)
        if change == "promote" and problem.startswith(_REFUSES):
            self._take_back(folder, actor)
            raise ModelRefused(
                f"Triton {problem}: version {number} was taken back, and what was in service "
                "before goes on"
            )
        return f"{said}. " + (
            f"But Triton {problem}: it goes on with what it served before; have it load the model."
            if problem
            else "Triton serves it."
        )

    def _take_back(self, folder: Path, actor: str) -> None:
        """Put the version before back: a restart of Triton must not find one that does not load."""
        _run_training(
            ["rollback", "--model", folder.name, "--repository", str(self._settings.repository)]
        )
        self._note(folder, "rollback", "Triton cannot load the version that was promoted", actor)
        self._load(folder.name)

    def _note(self, folder: Path, change: Change, reason: str, actor: str) -> None:
        with writing(self._engine) as connection:
            audit.append(
                connection,
                utc_now(),
                actor,
                "model.promoted" if change == "promote" else "model.rolled_back",
                model=folder.name,
                digest=str(manifest_of(folder).get("digest", "")),
                reason=reason[:200],
            )

    def _folder(self, name: str) -> Path:
        folder = self._settings.repository / name
        if not _NAME.fullmatch(name) or not (folder / "manifest.json").is_file():
            raise ModelRefused("there is no such model")
        return folder

    def _model(self, folder: Path, readiness: str) -> dict[str, Any]:
        live = manifest_of(folder)
        digest = str(live.get("digest", ""))
        return {
            "name": folder.name,
            "version": live.get("version", ""),
            "digest": digest,
            "evidence_level": live.get("evidence_level", ""),
            "evidence": live.get("evidence", ""),
            "licence": live.get("licence", ""),
            "intended_use": live.get("intended_use", ""),
            "readiness": readiness,
            "has_card": (folder / "CARD.md").is_file(),
            "versions": [vars(each) for each in _versions(folder)],
            "can_roll_back": len(_promotions(folder)) > 1,
            "latency": self._latency(digest),
            "distributions": self._distributions(folder.name, digest),
        }

    def _latency(self, digest: str) -> dict[str, Any]:
        """Seconds from claim to result of the newest work items of one digest."""
        query = (
            select(WorkItem.started_at, WorkItem.analysed_at)
            .where(WorkItem.model_digest == digest, WorkItem.analysed_at.is_not(None))
            .order_by(WorkItem.id.desc())
            .limit(_SAMPLE)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        seconds = sorted(
            (row.analysed_at - row.started_at).total_seconds() for row in rows if row.started_at
        )
        if not seconds:
            return {"n": 0, "median_s": None, "p95_s": None, "last_at": None}
        return {
            "n": len(seconds),
            "median_s": round(seconds[len(seconds) // 2], 3),
            "p95_s": round(seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))], 3),
            "last_at": max(row.analysed_at for row in rows),
        }

    def _distributions(self, analysis: str, digest: str) -> list[dict[str, Any]]:
        query = select(DriftSeries).where(
            DriftSeries.analysis == analysis, DriftSeries.model_digest == digest
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(DriftSeries.source)).all()
        return [
            {
                "source": row.source,
                "measure": row.measure,
                "state": row.state,
                "psi": row.psi,
                "ks": row.ks,
                "reference": _shares(row.reference.get("values", ())),
                "recent": _shares(row.recent.get("values", ())),
                "n_reference": len(row.reference.get("values", ())),
                "n_recent": len(row.recent.get("values", ())),
            }
            for row in rows
        ]

    # -- Triton -----------------------------------------------------------------------------

    def _url(self) -> str:
        if self._settings.triton_http_url:
            return self._settings.triton_http_url.rstrip("/")
        running = running_instance(self._store.home)
        return running.triton_http_url.rstrip("/") if running is not None else ""

    def _readiness(self, names: list[str]) -> dict[str, str]:
        """Name -> ``ready``, ``not ready`` or why nothing is known."""
        url = self._url()
        if not url:
            return dict.fromkeys(names, "unknown: no HTTP endpoint of Triton is set")
        found = {}
        try:
            with requests.Session() as client:
                for name in names:
                    answer = client.get(f"{url}/v2/models/{name}/ready", timeout=_ANSWER_S)
                    found[name] = "ready" if answer.ok else "not ready"
        except requests.RequestException:
            for name in names:
                found.setdefault(name, "Triton does not answer")
        return found

    def _load(self, name: str) -> str:
        """Have Triton load a model again; return what went wrong."""
        url = self._url()
        if not url:
            return "has no HTTP endpoint set here (LENTIGO_MODELS_TRITON_HTTP_URL)"
        try:
            with requests.Session() as client:
                address = f"{url}/v2/repository/models/{name}/load"
                answer = client.post(address, json={}, timeout=_LOAD_S)
        except requests.RequestException as exc:
            return f"does not answer ({type(exc).__name__})"
        return "" if answer.ok else f"{_REFUSES} ({answer.status_code})"


def _run_training(arguments: list[str]) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "training", *arguments],
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ModelRefused(f"`python -m training` does not run ({type(exc).__name__})") from exc
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    said = lines[-1] if lines else ""
    if done.returncode == 0:
        return said
    if "No module named" in said:
        command = " ".join(["python -m training", *arguments])
        raise ModelRefused(f"training is not installed here; on the model server run: {command}")
    raise ModelRefused(said.partition("error: ")[2] or said or "it failed")


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of a model or of a version; empty where it cannot be read."""
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _promotions(folder: Path) -> list[int]:
    try:
        content = json.loads((folder / "promotions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in content if isinstance(each, int)] if isinstance(content, list) else []


def _versions(folder: Path) -> list[ModelVersion]:
    """Return the exported versions, the newest first."""
    promoted = _promotions(folder)
    shadow = folder.with_name(folder.name + SHADOW_SUFFIX)
    found = []
    for each in folder.iterdir():
        if not each.name.isdigit() or not (each / "manifest.json").is_file():
            continue
        number, manifest = int(each.name), manifest_of(each)
        standing = "retired"
        if promoted and promoted[-1] == number:
            standing = "live"
        elif (shadow / each.name).is_dir():
            standing = "shadow"
        found.append(
            ModelVersion(
                number=number,
                version=str(manifest.get("version", "")),
                digest=str(manifest.get("digest", "")),
                evidence_level=str(manifest.get("evidence_level", "")),
                evidence=str(manifest.get("evidence", "")),
                created=str(manifest.get("created", "")),
                standing=standing,
            )
        )
    return sorted(found, key=lambda each: each.number, reverse=True)


def _shares(values: Any) -> list[float]:
    """Return the share of values in each of ``_BARS`` equal parts of [0, 1].

    Examples
    --------
    >>> _shares([0.0, 0.99])[0], _shares([0.0, 1.0])[-1], _shares([])
    (0.5, 0.5, [])
    """
    numbers = [min(max(float(value), 0.0), 1.0) for value in values]
    if not numbers:
        return []
    counts = [0] * _BARS
    for number in numbers:
        counts[min(_BARS - 1, int(number * _BARS))] += 1
    return [round(count / len(numbers), 4) for count in counts]
