"""systemd units of a bare host: what they start exists, what they set is known, and is closed."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.__main__ import SERVICES
from gateway.cli import COMMANDS
from gateway.settings import reject_unknown_environment
from tests.deployment.images import DOCKER

UNITS = sorted((DOCKER / "systemd").glob("*.service"))
_CLOSED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "yes",
    "UMask": "0077",
    "User": "lentigo",
}
MAX_EXPOSURE = 2.5
"""Of `systemd-analyze security`, which calls 10 exposed and below 2 tight."""


class Unit:
    """One unit; a key may stand more than once."""

    def __init__(self, path: Path) -> None:
        self.values: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, separator, value = line.partition("=")
            if separator and not line.startswith("#"):
                self.values.setdefault(key, []).append(value)

    def one(self, key: str) -> str:
        (value,) = self.values[key]
        return value

    @property
    def environment(self) -> dict[str, str]:
        words = " ".join(self.values.get("Environment", ())).split()
        return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_starts_what_exists_and_is_closed(path: Path) -> None:
    unit = Unit(path)
    for key, value in _CLOSED.items():
        assert unit.one(key) == value, key
    command = unit.one("ExecStart").split()
    if command[1:2] == ["-m"]:
        assert command[2:] == ["workers"] or command[3] in SERVICES
    else:
        if command[1].endswith("tritonserver"):
            assert command[0] == "/opt/lentigo/docker/watch-triton"
            assert os.access(DOCKER / "watch-triton", os.X_OK)
        else:
            assert command[1] in COMMANDS
    environment = unit.environment
    ours = {name: value for name, value in environment.items() if name.startswith("LENTIGO_")}
    reject_unknown_environment(ours)
    handed = {each.partition(":")[0] for each in unit.values.get("LoadCredential", ())}
    read = {value[3:] for value in ours.values() if value.startswith("%d/")}
    assert read == handed
    settings = Path(unit.one("EnvironmentFile")).name
    assert (DOCKER / "systemd" / settings).is_file()


@pytest.mark.parametrize("name", ["lentigo.env", "lentigo-up.env"])
def test_settings_are_known(name: str) -> None:
    lines = (DOCKER / "systemd" / name).read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    reject_unknown_environment(pairs)


def test_target_wants_every_service_of_a_host() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DOCKER / "systemd" / "lentigo.target")
    wanted = {re.sub(r"@\w+", "@", each) for each in parser["Unit"]["Wants"].split()}
    # The schema is a requirement of each service; `up` is in place of all.
    assert wanted == {path.name for path in UNITS} - {
        "lentigo-migrate.service",
        "lentigo-up.service",
    }


def test_systemd_reads_the_units_and_finds_them_tight(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        # Not on every host; the tests above need nothing.
        return
    for path in (*UNITS, DOCKER / "systemd" / "lentigo.target"):
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    analyse = ["systemd-analyze", "--man=no", "--no-pager"]
    done = subprocess.run(
        [*analyse, "verify", *(str(tmp_path / path.name) for path in UNITS)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "lentigo" in line]
    assert not [line for line in said if re.search("Unknown|Invalid|Failed|ignor", line)], said
    for path in UNITS:
        done = subprocess.run(
            [*analyse, "security", "--offline=true", str(tmp_path / path.name)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert found is not None, done.stderr
        assert float(found[1]) <= MAX_EXPOSURE, path.name
