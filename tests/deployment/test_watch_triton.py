"""``docker/watch-triton``: what starts Triton in the image and in the systemd unit."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lentigo import ROOT, children_of, running_triton
from tests.servers import wait_until

WATCH = ROOT / "docker" / "watch-triton"
# Plays Triton: a child that ends, and nobody waits for it, or somebody does.
_FORGETS = "import subprocess, time; child = subprocess.Popen(['true']); time.sleep(60)"
_WAITS = "import subprocess, sys; subprocess.run(['true']); import time; time.sleep(3); sys.exit(3)"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _FORGETS


@contextmanager
def watched(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the place of Triton, looked at every 0.2 s."""
    process = subprocess.Popen(
        # Started in the background, the tests may ignore SIGINT; a shell below could not trap it.
        ["env", "--default-signal=INT,TERM", WATCH, *command],
        env={**os.environ, "WATCH_TRITON_EVERY_S": "0.2", "WATCH_TRITON_PATIENCE": "4"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()


@pytest.mark.parametrize(
    ("program", "status"),
    [(_FORGETS, 128 + signal.SIGTERM), (_STUBBORN, 128 + signal.SIGKILL)],
    ids=["ends", "stubborn"],
)
def test_one_that_lost_a_child_is_ended(program: str, status: int) -> None:
    with watched(sys.executable, "-c", program) as process:
        _, said = process.communicate(timeout=50)
        assert process.returncode == status
    assert said.count("a model's process has died; Triton is ended, to be started anew") == 1


def test_one_that_waits_for_its_children_runs_on_and_its_status_is_told() -> None:
    with watched(sys.executable, "-c", _WAITS) as process:
        _, said = process.communicate(timeout=50)
        assert (process.returncode, said) == (3, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stop_is_handed_on_and_waited_for(name: str, tmp_path: Path) -> None:
    ready, done = tmp_path / "ready", tmp_path / "done"
    program = f"""
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(1)
    pathlib.Path({str(done)!r}).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({str(ready)!r}).touch()
time.sleep(60)
"""
    with watched(sys.executable, "-c", program) as process:
        wait_until(ready.exists, 30, "the program")
        process.send_signal(signal.Signals[name])
        assert process.wait(30) == 0
        assert done.exists()


def test_triton_ends_when_the_process_of_a_model_is_killed(tmp_path: Path) -> None:
    def child(pid: int, program: str) -> int | None:
        programs = {each: line.split("\0")[0] for each, line in children_of(pid).items()}
        return next((each for each, name in programs.items() if name.endswith(program)), None)

    with running_triton(tmp_path, started_by=["/bin/sh", str(WATCH)]):
        watch = next(pid for pid, line in children_of(os.getpid()).items() if str(WATCH) in line)
        triton = child(watch, "tritonserver")
        assert triton is not None
        stub = child(triton, "triton_python_backend_stub")
        assert stub is not None
        os.kill(stub, signal.SIGKILL)
        wait_until(lambda: triton not in children_of(watch), 90, "Triton's end")
    assert "a model's process has died" in (tmp_path / "triton.log").read_text()
