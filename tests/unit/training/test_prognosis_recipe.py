"""The prognosis recipe: table in, judged model out, served as exported."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lifelines import CoxPHFitter
from lifelines.datasets import load_rossi

from models.backends.prognosis import PrognosisBackend
from models.metrics import Figure
from models.prognosis.patient import CodedPatient, PrognosisManifest, code_patient, interpret
from training.__main__ import main
from training.errors import CohortError, RunError, SettingsError
from training.export import Provenance
from training.prognosis.fitting import (
    SurvivalTable,
    figures,
    fit_cox,
    predict_out_of_fold,
    read_table,
)
from training.recipes import prognosis
from training.settings import read_toml
from training.simulate.survival import LOG_HAZARD_RATIOS, simulate_table

CONFIG = Path("training/configs/check/prognosis.toml")
SETTINGS = read_toml(CONFIG, prognosis.PrognosisSettings)
PROVENANCE = Provenance(
    version="1.2.3",
    training_command="train",
    evaluation_command="evaluate",
    git_commit="abc",
    created="2025-01-31",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["prognosis", "--config", str(CONFIG), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(simulate_table(160, 1).splitlines()))


def _read(folder: Path, rows: list[dict[str, str]], **changes: Any) -> SurvivalTable:
    path = folder / "table.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = dataclasses.replace(SETTINGS.table, **changes)
    return read_table(path, table, SETTINGS.covariates)


def test_shipped_and_toy_configurations_can_be_read() -> None:
    real = read_toml(Path("training/configs/prognosis.toml"), prognosis.PrognosisSettings)
    assert real.evidence_level == "real"
    assert SETTINGS.evidence_level == "simulated"
    assert real.covariates == SETTINGS.covariates


def test_export_is_served_as_it_was_fitted(run: Path, tmp_path: Path) -> None:
    manifest = prognosis.export(run, tmp_path, PROVENANCE)
    folder = tmp_path / "prognosis"
    assert PrognosisManifest.from_json((folder / "manifest.json").read_text()) == manifest
    config = (folder / "config.pbtxt").read_text()
    assert 'name: "COVARIATES" data_type: TYPE_FP32 dims: [ 4 ]' in config
    assert 'name: "SURVIVAL_LOW" data_type: TYPE_FP32 dims: [ 3 ]' in config

    backend = PrognosisBackend()
    backend.device = torch.device("cpu")
    backend.load(manifest.to_json(), (folder / "1" / "weights.safetensors").read_bytes())
    given = {"thickness": 3.0, "ulceration": "yes", "sex": "male", "age": 60}
    patient = code_patient(given, "IIB", manifest)
    assert isinstance(patient, CodedPatient)
    batch = torch.from_numpy(np.stack([patient.covariates, np.full(4, np.nan, np.float32)]))
    answers = {name: x.numpy() for name, x in backend.answer({"COVARIATES": batch}).items()}
    found = interpret(
        patient,
        linear_predictor=float(answers["LINEAR_PREDICTOR"][0, 0]),
        survival=answers["SURVIVAL"][0],
        low=answers["SURVIVAL_LOW"][0],
        high=answers["SURVIVAL_HIGH"][0],
        manifest=manifest,
    )
    assert np.isnan(answers["SURVIVAL"][1]).all()  # one bad row harms no other

    table = read_table(run / "simulated.csv", SETTINGS.table, SETTINGS.covariates)
    names = [spec.name for spec in table.specs]
    model, summary, _ = fit_cox(table.years, table.has_event, table.coded, names)
    coded = patient.covariates[None].astype(float)
    expected = model.survival(coded, np.array([3.0, 5.0, 7.0]))[0][0]
    np.testing.assert_allclose([x.probability for x in found.survival], expected, atol=1e-6)
    assert [line.ratio for line in manifest.hazard_ratios] == pytest.approx(
        np.exp(summary["coef"].to_numpy())
    )
    assert manifest.median_cut == pytest.approx(np.median(model.linear_predictor(table.coded)))
    assert manifest.evidence_level == "simulated"
    assert {figure.metric for figure in manifest.figures} >= {
        "concordance index",
        "AUROC at 3 years (IPCW)",
        "AUROC at 5 years (IPCW)",
        "AUROC at 7 years (IPCW)",
    }


def test_the_page_shows_the_groups_and_their_limits(run: Path) -> None:
    page = (run / "report.html").read_text()
    for title in ("Risk groups", "Hazard ratios", "Competing risks", "Calibration at 5 years"):
        assert f"<h2>{title}</h2>" in page
    assert "Evidence: simulated" in page


def test_running_again_gives_the_same_files(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert main(["prognosis", "--config", str(CONFIG), "--out", str(run)]) == 0
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_export_of_a_torn_run_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("result.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="not those"):
        prognosis.export(tmp_path, tmp_path / "to", PROVENANCE)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(RunError, match="no finished run"):
        prognosis.export(tmp_path, tmp_path / "to", PROVENANCE)


def test_baseline_is_that_of_lifelines_with_ties() -> None:
    rossi = load_rossi()  # weeks: many ties
    names = ["fin", "age", "prio"]
    coded = rossi[names].to_numpy(float)
    weeks, arrest = rossi["week"].to_numpy(float), rossi["arrest"].to_numpy(bool)
    model, _, _ = fit_cox(weeks, arrest, coded, names)
    fitter = CoxPHFitter().fit(rossi[[*names, "week", "arrest"]], "week", "arrest")
    # lifelines predicts about the means; a patient's survival is the same either way.
    theirs = fitter.predict_survival_function(rossi[names].head(5), times=[20.0, 40.0])
    ours = model.survival(coded[:5], np.array([20.0, 40.0]))[0]
    np.testing.assert_allclose(ours, theirs.to_numpy().T, rtol=1e-5)


def test_simulator_follows_its_own_model(tmp_path: Path) -> None:
    rows = list(csv.DictReader(simulate_table(3000, 5).splitlines()))
    table = _read(tmp_path, rows)
    names = [spec.name for spec in table.specs]
    model, _, _ = fit_cox(table.years, table.has_event, table.coded, names)
    spread = 4 * np.sqrt(np.diag(model.covariance))
    truth = np.array([*LOG_HAZARD_RATIOS.values(), 0.0])  # age changes nothing
    assert (np.abs(model.coefficients - truth) < spread).all()


def test_out_of_fold_scores_know_nothing_of_their_patient(tmp_path: Path, rows: list) -> None:
    table = _read(tmp_path, rows)
    options = {"folds": 4, "seed": 0, "grid": np.array([3.0]), "progress": lambda *_: None}
    before = predict_out_of_fold(table, **options)
    changed = table.years.copy()
    changed[0] = 0.5 * changed[0]
    other = predict_out_of_fold(dataclasses.replace(table, years=changed), **options)
    assert other.score[0] == pytest.approx(before.score[0])
    assert not np.allclose(other.score, before.score)


def test_figures_have_intervals_by_patient(tmp_path: Path, rows: list) -> None:
    table = _read(tmp_path, rows)
    held = predict_out_of_fold(
        table, folds=3, seed=0, grid=np.array([3.0, 5.0]), progress=lambda *_: None
    )
    found = figures(table, held, horizons=(3.0,), replicates=100, seed=0)
    for figure in found.values():
        assert isinstance(figure, Figure)
        assert figure.low <= figure.value <= figure.high
        assert figure.n == 160


def test_missing_values_are_left_out_and_counted(tmp_path: Path, rows: list) -> None:
    rows[0]["thickness"], rows[1]["ulcer"], rows[2]["ulcer"] = "NA", "", ""
    table = _read(tmp_path, rows)
    assert len(table.years) == 157
    assert table.left_out == {"thickness": 1, "ulceration": 2}


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("status", "9", "status '9' has no meaning"),
        ("time", "soon", "line 2: time is not a number"),
        ("time", "-3", "line 2: time is impossible"),
        ("time", "inf", "line 2: time is impossible"),
        ("thickness", "thick", "line 2: thickness is not a number"),
        ("thickness", "290", "line 2: thickness is impossible"),
        ("thickness", "-inf", "line 2: thickness is impossible"),
        ("ulcer", "2", "line 2: ulcer has an unknown code"),
        ("rownames", "2", "1 patients have several rows"),
    ],
)
def test_impossible_rows_are_named(
    tmp_path: Path, rows: list, column: str, value: str, complaint: str
) -> None:
    rows[0][column] = value
    with pytest.raises(CohortError, match=complaint):
        _read(tmp_path, rows)


def test_unknown_column_and_too_few_events_are_refused(tmp_path: Path, rows: list) -> None:
    with pytest.raises(CohortError, match=r"no column \['ended'\]"):
        _read(tmp_path, rows, status_column="ended")
    with pytest.raises(CohortError, match="too few"):
        _read(tmp_path, rows[:20])
    with pytest.raises(CohortError, match=r"absent\.csv"):
        read_table(tmp_path / "absent.csv", SETTINGS.table, SETTINGS.covariates)


def test_outcome_among_the_covariates_is_refused(tmp_path: Path, rows: list) -> None:
    with pytest.raises(SettingsError, match="thickness"):
        _read(tmp_path, rows, time_column="thickness")


def test_constant_covariate_cannot_be_fitted(tmp_path: Path, rows: list) -> None:
    table = _read(tmp_path, rows)
    coded = table.coded.copy()
    coded[:, 1] = 0
    with pytest.raises(RunError, match="no maximum"):
        fit_cox(table.years, table.has_event, coded, ["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("folds = 5", "folds = 1", "folds"),
        ("[3, 5, 7]", "[3, 5.1]", "multiples"),
        ("[3, 5, 7]", "[3, 50]", "follow-up"),
        ('"simulated"', '"real"', "no real evidence"),
        ("simulate = 160", "simulate = 0", "--table"),
        ('competing = ["3"]', 'competing = ["1"]', "one meaning"),
    ],
)
def test_impossible_settings_are_one_line(
    before: str,
    after: str,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = CONFIG.read_text()
    assert before in text
    config = tmp_path / "config.toml"
    config.write_text(text.replace(before, after))
    assert main(["prognosis", "--config", str(config), "--out", str(tmp_path / "run")]) == 1
    line = capsys.readouterr().err.strip()
    assert complaint in line
    assert "\n" not in line


def test_result_is_plain_json(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["events"] < result["patients"] == 160


def test_the_shipped_model_answers_as_its_manifest_says() -> None:
    folder = Path("triton_repo/prognosis")
    manifest = PrognosisManifest.from_json((folder / "manifest.json").read_text())
    assert manifest.evidence_level == "real"
    backend = PrognosisBackend()
    backend.device = torch.device("cpu")
    backend.load(manifest.to_json(), (folder / "1" / "weights.safetensors").read_bytes())
    found = []
    for thickness, ulceration in ((0.5, "no"), (6.0, "yes")):
        given = {"thickness": thickness, "ulceration": ulceration, "sex": "female", "age": 50}
        patient = code_patient(given, "I", manifest)
        assert isinstance(patient, CodedPatient)
        answers = backend.answer({"COVARIATES": torch.from_numpy(patient.covariates[None])})
        plain = {name: x.numpy()[0] for name, x in answers.items()}
        found.append(
            interpret(
                patient,
                linear_predictor=float(plain["LINEAR_PREDICTOR"][0]),
                survival=plain["SURVIVAL"],
                low=plain["SURVIVAL_LOW"],
                high=plain["SURVIVAL_HIGH"],
                manifest=manifest,
            )
        )
    assert [x.risk_group for x in found] == ["low risk", "high risk"]
    assert found[0].survival[1].low > found[1].survival[1].high
