"""`python -m training evaluate` on folders a site might hold, good and bad."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_builder import tiny_settings, write_cohort

from models.errors import ManifestError
from training.__main__ import main
from training.evaluate import load_model
from training.export import Provenance
from training.recipes.diagnosis import DiagnosisRun
from training.recipes.diagnosis_export import export

LABEL_MAP = "nv=NV,mel=MEL,bcc=BCC"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort (``data``) and an exported model (``repository``)."""
    folder = tmp_path_factory.mktemp("site")
    data = write_cohort(folder / "data", groups=36)
    rows = list(csv.DictReader((data / "labels.csv").read_text().splitlines()))
    with (data / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0], "age", "sex"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow(row | {"age": number, "sex": "female" if number % 3 else "male"})
    settings = tiny_settings(stages=[{"epochs": 1, "size": 32}])
    run = folder / "run"
    DiagnosisRun(settings, data=data, folder=run, device=torch.device("cpu")).train()
    provenance = Provenance(
        version="0.1.0",
        training_command="train",
        evaluation_command="evaluate",
        git_commit="abc",
        created="2025-01-31",
    )
    export(run, folder / "repository", provenance, data=data, flips=False)
    return folder


@pytest.fixture
def data(site: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may spoil."""
    return Path(shutil.copytree(site / "data", tmp_path / "data"))


def _words(site: Path, data: Path, *more: str) -> list[str]:
    words = ["evaluate", "--repository", str(site / "repository")]
    words += ["--images", str(data / "images"), "--table", str(data / "labels.csv")]
    return [*words, "--label-column", "dx", "--label-map", LABEL_MAP, *more]


def _measure(site: Path, data: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    target = tmp_path / "out.json"
    assert main([*_words(site, data, "--json", str(target)), *more]) == 0
    found: dict[str, Any] = json.loads(target.read_text(), parse_constant=pytest.fail)
    return found


def _complaint(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 1
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


def test_everything_is_measured_with_interval_and_n(site: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    more = ["--masks", str(data / "masks"), "--group-column", "group_id"]
    more += ["--subgroup-column", "sex", "--subgroup-column", "age", "--report", str(page)]
    more += ["--against", str(site / "repository"), "--permutations", "50"]
    found = _measure(site, data, tmp_path, *more)
    assert (found["n"], found["groups"]) == (54, 36)
    names = "macro_auroc melanoma_auroc malignant_auroc balanced_accuracy ece brier jaccard dice"
    for name in names.split():
        figure = found["summary"][name]
        assert figure["low"] <= figure["value"] <= figure["high"], name
        assert (figure["n"], figure["groups"]) == (54, 36)
    assert {(x["column"], x["value"], x["n"]) for x in found["subgroups"]} >= {
        ("sex", "female", 36),
        ("sex", "male", 18),
        ("age", "under 30", 30),
    }
    assert found["comparisons"]
    assert all(line["p_value"] == 1 for line in found["comparisons"])
    assert [x["method"] for x in found["conformal"]] == ["lac", "aps"]
    assert len(found["decision_curve"]["net_benefit"]) == 99
    text = page.read_text()
    for title in ("ROC curves", "Reliability", "Confusion matrix", "Decision curve", "Subgroups"):
        assert title in text
    assert text.count("data:image/png") >= 3  # examples with their outlines


def test_segmentation_measures_outlines_alone(site: Path, data: Path, tmp_path: Path) -> None:
    found = _measure(site, data, tmp_path, "--model", "segmentation", "--masks", f"{data}/masks")
    assert set(found["summary"]) == {"jaccard", "dice", "ood_share"}


def test_outlines_without_masks_cannot_be_measured(
    site: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--masks" in _complaint(capsys, _words(site, data, "--model", "segmentation"))


def test_conflicts_and_images_trained_on_are_reported(
    site: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = tmp_path / "hashes.txt"
    _measure(site, data, tmp_path, "--write-hashes", str(hashes))
    assert len(hashes.read_text().split()) == 54
    hashes.write_text(hashes.read_text().split()[0] + "\n")
    images = data / "images"
    shutil.copy(images / "IMG_000_0.png", images / "IMG_001_0.png")  # nv under the name of a mel
    with (data / "labels.csv").open("a") as handle:
        handle.write("IMG_003_0,bcc,L003,1,male\n")
    found = _measure(site, data, tmp_path, "--training-hashes", str(hashes))
    by = {x["found_by"]: (x["images"], x["labels"]) for x in found["label_conflicts"]}
    assert by["pixels"] == (["IMG_000_0", "IMG_001_0"], ["MEL", "NV"])
    assert by["name"] == (["IMG_003_0", "IMG_003_0"], ["BCC", "NV"])
    assert found["n"] == 51
    assert any("trained on" in remark for remark in found["remarks"])
    assert "NOTE: " in capsys.readouterr().out


def test_one_label_alone_leaves_out_what_is_undefined(
    site: Path, data: Path, tmp_path: Path
) -> None:
    table = data / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines if ",nv," in line)]) + "\n")
    found = _measure(site, data, tmp_path, "--report", str(tmp_path / "page.html"))
    assert "macro_auroc" not in found["summary"]
    assert found["summary"]["accuracy"]["n"] == 18
    assert sum("no row has the label" in remark for remark in found["remarks"]) == 2


def test_version_in_service_is_loaded_whatever_its_number(site: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(site / "repository", tmp_path / "repository"))
    folder = repository / "diagnosis"
    shutil.copytree(folder / "1", folder / "7")
    (folder / "1" / "weights.safetensors").write_bytes(b"an older version")
    assert load_model(folder)[1].version == "0.1.0"
    (folder / "7" / "weights.safetensors").write_bytes(b"not these")
    with pytest.raises(ManifestError, match="digest"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("corrupt", "IMG_004_0.png: cannot be decoded"),
        ("cut", "IMG_004_0.png: cannot be decoded"),
        ("missing", "no image of 1 rows of 54: IMG_004_0"),
        ("empty", "no image of 54 rows"),
    ],
)
def test_bad_images_are_named(
    site: Path, data: Path, capsys: pytest.CaptureFixture[str], fault: str, complaint: str
) -> None:
    path = data / "images" / "IMG_004_0.png"
    if fault == "corrupt":
        path.write_bytes(b"no image at all")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:900])
    elif fault == "missing":
        path.unlink()
    else:
        shutil.rmtree(data / "images")
        (data / "images").mkdir()
    assert complaint in _complaint(capsys, _words(site, data))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--label-map", "nv=NV,mel=MELANOMA"], "no label ['MELANOMA']"),
        (["--label-column", "diagnosis"], "no column ['diagnosis']"),
        (["--group-column", "patient"], "no column ['patient']"),
        (["--subgroup-column", "skin"], "no column ['skin']"),
        (["--training-hashes", "absent.txt"], "absent.txt"),
        (["--against", "absent"], "no exported model"),
        (["--table", "absent.csv"], "absent.csv"),
    ],
)
def test_wrong_words_are_one_line(
    site: Path, data: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    assert complaint in _complaint(capsys, [*_words(site, data), *more])


def test_file_that_is_no_list_of_hashes_is_refused(
    site: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("image_1\n")
    assert "SHA-256" in _complaint(capsys, _words(site, data, "--training-hashes", str(wrong)))
