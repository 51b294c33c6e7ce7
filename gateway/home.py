"""Which home folder a command talks about, and which instances run on this host.

``lentigo up`` leaves a note for each running instance in the user's state folder, so that
``lentigo status`` finds it without being told the home again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.settings import default_home


@dataclass(frozen=True, kw_only=True)
class RunningInstance:
    """One ``lentigo up`` on this host."""

    home: str
    pid: int
    ae_title: str
    dicom_port: int
    http_port: int
    broker_url: str
    triton_url: str
    """``HOST:PORT`` of Triton's gRPC service."""
    triton_http_url: str
    database_url: str
    destination: str
    started_at: float
    """Seconds since the epoch."""


def _notes_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "lentigo" / "running"


def _note_path(home: Path) -> Path:
    return _notes_folder() / f"{hashlib.sha256(str(home).encode()).hexdigest()[:16]}.json"


def announce_instance(instance: RunningInstance) -> None:
    """Leave the note of a running instance."""
    path = _note_path(Path(instance.home))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(asdict(instance)), encoding="utf-8")
    temporary.replace(path)


def retract_instance(home: Path) -> None:
    """Remove the note."""
    _note_path(home).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def running_instances() -> list[RunningInstance]:
    """Return the instances that run now, the most recently started first."""
    found = []
    folder = _notes_folder()
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            instance = RunningInstance(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            # A half-written or older note says nothing; the instance rewrites it at its start.
            continue
        if _is_alive(instance.pid):
            found.append(instance)
    return sorted(found, key=lambda instance: instance.started_at, reverse=True)


def running_instance(home: Path) -> RunningInstance | None:
    """Return the instance that runs on ``home`` now, if any."""
    wanted = str(home)
    return next((each for each in running_instances() if each.home == wanted), None)


def resolve_home(given: str | Path | None) -> Path:
    """Return the home folder a command means.

    In this order: ``--home``, ``LENTIGO_HOME``, the most recently started running instance, the
    default folder.
    """
    if given:
        return Path(given).expanduser().resolve()
    if os.environ.get("LENTIGO_HOME"):
        return Path(os.environ["LENTIGO_HOME"]).expanduser().resolve()
    running = running_instances()
    return Path(running[0].home) if running else default_home()
