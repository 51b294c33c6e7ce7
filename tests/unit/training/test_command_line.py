import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_builder import plain_settings, write_cohort

from training.__main__ import main


def as_toml(content: dict[str, Any]) -> str:
    """Write nested plain values as TOML: every key with its whole path, tables inline."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in content.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_train_export_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_cohort(tmp_path / "cohort", groups=36)
    config = tmp_path / "config.toml"
    config.write_text(as_toml(plain_settings(stages=[{"epochs": 1, "size": 32}])))
    run, repository = str(tmp_path / "run"), tmp_path / "repository"
    common = ["--config", str(config), "--data", str(data)]
    assert main(["diagnosis", *common, "--out", run]) == 0
    export = ["export", "diagnosis", "--run", run, "--data", str(data), "--to", str(repository)]
    export += ["--version", "0.0.1"]
    export += ["--single-view", "--commit", "abc", "--created", "2025-01-31"]
    assert main(export) == 0
    manifest = json.loads((repository / "diagnosis" / "manifest.json").read_text())

    figures = tmp_path / "figures.json"
    evaluate = ["evaluate", "--repository", str(repository), "--json", str(figures)]
    assert main([*evaluate, *common, "--name", "HAM10000 subset, test split"]) == 0
    measured = json.loads(figures.read_text())
    assert measured["digest"] == manifest["digest"]
    values = [(f["metric"], f["value"], f["low"], f["n"]) for f in measured["figures"]]
    assert values == [(f["metric"], f["value"], f["low"], f["n"]) for f in manifest["figures"]]

    other = ["--images", str(data / "images"), "--table", str(data / "labels.csv")]
    other += ["--masks", str(data / "masks"), "--group-column", "group_id"]
    other += ["--label-column", "dx", "--label-map", "nv=NV,mel=MEL", "--name", "elsewhere"]
    assert main([*evaluate, *other]) == 0
    elsewhere = json.loads(figures.read_text())["figures"]
    assert {figure["data"] for figure in elsewhere} == {"elsewhere"}
    assert elsewhere[0]["n"] < 54
    capsys.readouterr()
    add = ["figures", "--repository", str(repository), "--model", "diagnosis"]
    assert main([*add, "--json", str(figures)]) == 0
    assert f"{len(elsewhere)} figures added" in capsys.readouterr().out
    manifest = json.loads((repository / "diagnosis" / "manifest.json").read_text())
    assert manifest["figures"][-len(elsewhere) :] == elsewhere


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnosis", "--config", "absent.toml", "--out", "run", "--data", "absent"],
        ["evaluate", "--repository", "absent", "--images", "a", "--table", "b"],
        ["export", "diagnosis", "--run", "absent", "--data", "absent", "--version", "1.0.0"],
    ],
    ids=["diagnosis", "evaluate", "export"],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    complaint = capsys.readouterr().err.strip()
    assert complaint.count("\n") == 0
    assert "Error" in complaint


@pytest.mark.parametrize("text", ["nv", "nv=", "=NV", "nv=NV,,"])
def test_a_label_map_must_be_pairs(text: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--label-map", text])
    assert stopped.value.code == 2


def test_a_cohort_must_be_given() -> None:
    assert main(["evaluate"]) == 1
