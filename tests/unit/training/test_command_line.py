import json
import shutil
from pathlib import Path

import pytest
import torch
from cohort_builder import plain_settings, write_cohort

from training.__main__ import main

MODEL = Path(__file__).resolve().parents[3] / "triton_repo" / "diagnosis" / "1" / "model.py"


def as_toml(content: dict) -> str:
    """Write nested plain values as TOML, tables after scalars."""
    scalars = {k: v for k, v in content.items() if not isinstance(v, dict) and k != "stages"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in scalars.items()]
    for stage in content.get("stages", []):
        lines += ["[[stages]]", *(f"{key} = {value}" for key, value in stage.items())]
    for name, table in content.items():
        if isinstance(table, dict):
            lines.append(f"[{name}]")
            for key, value in table.items():
                if isinstance(value, dict):
                    inner = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
                    lines.append(f"{key} = {{ {inner} }}")
                else:
                    lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


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
    (repository / "diagnosis" / "1").mkdir(parents=True)
    shutil.copy(MODEL, repository / "diagnosis" / "1")
    common = ["--config", str(config), "--data", str(data)]
    assert main(["diagnosis", *common, "--out", run]) == 0
    export = ["export", "--run", run, *common, "--to", str(repository), "--version", "0.0.1"]
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
    assert main([*export, "--figures", str(figures)]) == 0
    manifest = json.loads((repository / "diagnosis" / "manifest.json").read_text())
    assert manifest["figures"][-len(elsewhere) :] == elsewhere
    assert manifest["evidence"] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["diagnosis", "--config", "absent.toml", "--out", "run", "--data", "absent"],
        ["evaluate", "--repository", "absent", "--images", "a", "--table", "b"],
        ["export", "--run", "absent", "--data", "absent", "--version", "1.0.0"],
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
