"""The failpoints themselves: plans are read strictly, every name is somewhere and in the matrix."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gateway import faults
from gateway.errors import SettingsError
from gateway.faults import FAILPOINTS, Fault, Plan, failpoint, parse_plan
from tests.lentigo import ROOT

PROGRAM = "from gateway.faults import failpoint\nfor _ in range(3): failpoint('spool.sync')\n"


def passed_names() -> Counter[str]:
    """Return every name that the source passes, with how often it stands there."""
    found: Counter[str] = Counter()
    for folder in ("gateway", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint":
                    (argument,) = node.args
                    assert isinstance(argument, ast.Constant), path
                    found[argument.value] += 1
    return found


def test_every_failpoint_stands_somewhere_and_no_other_does() -> None:
    assert set(passed_names()) == set(FAILPOINTS)


def test_every_failpoint_is_in_the_kill_matrix() -> None:
    from tests.faults import test_kill_matrix as matrix

    covered = {*matrix.ON_THE_WAY, *matrix.SUPERVISED, *matrix.NOT_ON_THE_WAY}
    assert covered == set(FAILPOINTS)
    assert set(matrix.SHORT) <= set(FAILPOINTS)


def test_every_failpoint_has_a_test_that_kills_at_it() -> None:
    """Beyond the names: those that the matrix hands on are in the plans of the tests it names."""
    from tests.faults import test_kill_matrix as matrix

    for name, place in matrix.NOT_ON_THE_WAY.items():
        file = place.partition(":")[0]
        path = Path(__file__).with_name("test_kill_matrix.py" if file == "below" else f"{file}.py")
        assert f'"{name}' in path.read_text(encoding="utf-8") or f"={name}" in path.read_text(
            encoding="utf-8"
        ), f"{name} is not in {path.name}"


def test_every_row_of_the_documented_matrix_is_a_test() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    matrix = text.partition("## The matrix")[2].partition("## Failpoints")[0]
    named, folder_of = set(), Path("tests/faults")
    file = ""
    for found in re.findall(r"`([\w/]*?\w+\.py)?::(test_\w+)`", matrix):
        if found[0]:
            file = found[0] if "/" in found[0] else str(folder_of / found[0])
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {found[1]}(" in source, f"{file} has no {found[1]}"
        named.add((file, found[1]))
    modules = {file for file, _ in named}
    ours = {str(folder_of / path.name) for path in Path(__file__).parent.glob("test_*_faults.py")}
    assert ours <= modules
    for word in ("Redis", "Triton", "PACS", "SQLite", "PostgreSQL", "STOW-RS", "ENOSPC", "clocks"):
        assert f"| {word}" in matrix or f" {word}" in matrix
    assert len(named) > 50


def test_a_plan_is_read() -> None:
    plan = parse_plan("spool.sync=kill; spool.write=enospc@3+ ;worker.claimed=sleep:2.5/workers;")
    assert plan == (
        Fault(name="spool.sync", action="kill"),
        Fault(name="spool.write", action="enospc", first=3, and_after=True),
        Fault(name="worker.claimed", action="sleep", seconds=2.5, process="workers"),
    )


@pytest.mark.parametrize(
    "text", ["spool.sync", "spool.sync=burn", "no.such=kill", "spool.sync=kill@x", "=kill", "kill"]
)
def test_a_plan_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="LENTIGO_TEST_FAILPOINTS"):
        parse_plan(text)


def test_a_disk_fails_at_the_pass_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_plan", Plan("spool.write=enospc@2;spool.sync=eio@1+"))
    failpoint("spool.write")
    with pytest.raises(OSError, match="No space") as full:
        failpoint("spool.write")
    assert full.value.errno == errno.ENOSPC
    failpoint("spool.write")
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output") as broken:
            failpoint("spool.sync")
        assert broken.value.errno == errno.EIO


def test_passes_are_counted_over_processes_and_plans_change(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("spool.sync=kill@5")
    environment = {**os.environ, faults.VARIABLE: f"@{tmp_path}"}
    ends = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT).returncode
        for _ in range(3)
    ]
    assert ends == [0, -signal.SIGKILL, 0]
    assert (tmp_path / "spool.sync").stat().st_size == 3 + 2 + 3
    (tmp_path / "plan").write_text("spool.sync=kill@1+")
    assert subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT).returncode < 0


def test_a_fault_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("spool.sync=eio@1+/listen")
    monkeypatch.setattr(faults, "_plan", plan)
    failpoint("spool.sync")
    monkeypatch.setattr(plan, "_process", "listen")
    with pytest.raises(OSError, match="Input/output"):
        failpoint("spool.sync")


def test_without_a_plan_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    monkeypatch.setattr(faults, "_plan", faults._UNREAD)
    failpoint("spool.sync")
    assert faults._plan is None  # from now on a pass is one comparison
    failpoint("not even looked up")
