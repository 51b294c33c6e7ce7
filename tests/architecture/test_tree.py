"""What must hold for the tree as a whole."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gateway
import models
import reports
import training
import workers
from gateway.cli import COMMANDS
from gateway.errors import GatewayError
from gateway.queue import TASK_NAMES, queue_name
from gateway.settings import ALL_SETTINGS
from gateway.store.intake.own_results import OWN_MANUFACTURER
from models.errors import ModelError
from reports import provenance
from workers.app import create_app
from workers.bootstrap import Settings, offered_analyses

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (gateway, workers, models, reports, training)


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "migrations" not in info.name and not info.name.endswith("__main__"):
                found.append(info.name)
    return found


@pytest.mark.parametrize("name", modules())
def test_module_says_what_it_is_for_and_stays_readable(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(inspect.getsource(module).splitlines()) <= 650


def test_importing_everything_opens_no_socket_and_starts_no_process() -> None:
    script = (
        "import socket, subprocess, importlib, sys\n"
        "def refuse(*a, **k): raise AssertionError('I/O at import')\n"
        "socket.socket.connect = socket.socket.bind = refuse\n"
        "subprocess.Popen.__init__ = refuse\n"
        f"[importlib.import_module(name) for name in {modules()!r}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr


def subclasses(base: type[BaseException]) -> list[type[BaseException]]:
    found = list(base.__subclasses__())
    return found + [deeper for each in found for deeper in subclasses(each)]


def test_every_error_says_what_it_means() -> None:
    for name in modules():
        importlib.import_module(name)
    errors = [*subclasses(GatewayError), *subclasses(ModelError)]
    assert len(errors) > 8
    assert [error.__name__ for error in errors if not error.__doc__] == []


def test_every_setting_is_documented() -> None:
    undocumented = [
        f"{cls.__name__}.{name}"
        for cls in ALL_SETTINGS
        for name, field in cls.model_fields.items()
        if not field.description
    ]
    assert undocumented == []


def test_every_subcommand_exists() -> None:
    for module, _ in COMMANDS.values():
        assert callable(importlib.import_module(module).add_arguments)
        assert callable(importlib.import_module(module).run)


def test_workers_consume_every_queue_and_know_every_task_that_the_gateway_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LENTIGO_BROKER_URL", "redis://127.0.0.1:1/0")
    app = create_app(Settings())
    assert set(TASK_NAMES.values()) <= set(app.tasks)
    wanted = {queue_name("route"), queue_name("deliver")}
    wanted |= {queue_name("analyse", name) for name in offered_analyses().names}
    assert set(app.conf.task_queues) == wanted


def test_each_analysis_has_its_folder_in_the_model_repository() -> None:
    folders = {path.parent.name for path in (ROOT / "triton_repo").glob("*/config.pbtxt")}
    assert set(offered_analyses().names) <= folders


def test_the_gateway_recognises_results_by_what_reports_write() -> None:
    assert OWN_MANUFACTURER == provenance.MANUFACTURER == provenance.MODEL_NAME


def test_no_file_names_the_place_it_was_written_at() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    texts = [
        path
        for name in listed
        if (path := ROOT / name).is_file() and path.suffix not in {".safetensors", ".png"}
    ]
    planted = ["/" + "work/main", "/" + "tmp/w/", ".py" + "env/"]
    offenders = [
        path.name
        for path in texts
        if any(word in path.read_text(encoding="utf-8", errors="replace") for word in planted)
    ]
    assert offenders == []
