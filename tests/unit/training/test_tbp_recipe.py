import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backends.tbp_screening import TbpScreeningBackend, load_tbp
from models.errors import ManifestError, WeightsError
from models.tbp.lesions import TbpManifest
from models.tbp.measurements import NAMES
from models.weights import digest_of
from tests.unit.training.cohort_builder import write_cohort
from tests.unit.training.tiny_encoder import DIM, tiny_embedder
from training.errors import CohortError, LeakageError, RunError, SettingsError
from training.export import Provenance
from training.recipes import tbp
from training.recipes.tbp import TbpRun
from training.runs import RunFolder
from training.settings import read_toml
from training.simulate.tbp import simulate_tbp
from training.tbp.cohort import TbpCohort, read_cohort
from training.tbp.settings import TbpSettings

CONFIG = Path("training/configs/check/tbp.toml")
PROVENANCE = Provenance(
    version="1.0.0",
    training_command="train",
    evaluation_command="train",
    git_commit="none",
    created="2025-11-21",
)


def silent(_text: str, _done: int, _total: int) -> None:
    return None


@pytest.fixture(scope="module")
def settings() -> TbpSettings:
    return read_toml(CONFIG, TbpSettings)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, settings: TbpSettings) -> Path:
    folder = tmp_path_factory.mktemp("tbp")
    lesions = write_cohort(folder / "lesions", groups=45)
    simulate_tbp(
        settings.simulation,
        lesions=lesions,
        measurements=None,
        folder=folder / "cohort",
        report=silent,
    )
    return folder / "cohort"


def trained(settings: TbpSettings, data: Path, out: Path) -> TbpRun:
    run = TbpRun(settings, data, RunFolder(out, recipe="tbp", settings=settings), tiny_embedder())
    run.train(silent)
    return run


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, settings: TbpSettings, cohort: Path
) -> TbpRun:
    return trained(settings, cohort, tmp_path_factory.mktemp("run") / "out")


def edited(cohort: Path, folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """A copy of a cohort's tables with changed rows; images by link."""
    folder.mkdir(parents=True)
    for name in ("tiles", "photodamage"):
        (folder / name).symlink_to(cohort / name)
    (folder / "photodamage.csv").write_bytes((cohort / "photodamage.csv").read_bytes())
    with (cohort / "lesions.csv").open(newline="") as handle:
        rows: list[dict[str, Any]] = list(csv.DictReader(handle))
    change(rows)
    with (folder / "lesions.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def read(folder: Path, settings: TbpSettings) -> TbpCohort:
    return read_cohort(folder, settings.columns, fractions=(0.5, 0.25, 0.25), seed=0)


def test_run_ends_with_figures_and_a_page_that_names_the_evidence(finished: TbpRun) -> None:
    results = json.loads(finished.folder.path("results.json").read_text())
    assert results["simulation"] == {
        "lesions": "lesions",
        "measurements": "drawn from marginal distributions",
    }
    assert "dnn_lesion_confidence" not in results["trained_measurements"]
    test = finished.cohort.lesions.split == 2
    for figure in results["figures"]:
        assert figure["groups"] <= len(set(finished.cohort.lesions.patients[test].tolist()))
    metrics = {figure["metric"]: figure["value"] for figure in results["figures"]}
    assert metrics["sensitivity of the OR, lesions"] >= max(
        value
        for name, value in metrics.items()
        if name.startswith("sensitivity of") and "alone" in name
    )
    page = finished.folder.path("report.html").read_text()
    assert "Evidence: simulated" in page
    assert "dnn_lesion_confidence" in page


def test_interrupted_run_ends_like_an_unbroken_one(
    finished: TbpRun, settings: TbpSettings, cohort: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill_at_trees(text: str, _done: int, _total: int) -> None:
        if text == "growing trees":
            raise Killed

    folder = RunFolder(tmp_path / "out", recipe="tbp", settings=settings)
    with pytest.raises(Killed):
        TbpRun(settings, cohort, folder, tiny_embedder()).train(kill_at_trees)
    again = trained(settings, cohort, tmp_path / "out")
    for name in ("risk", "nevus", "photodamage"):
        assert torch.equal(again.state[name]["weight"], finished.state[name]["weight"])
    for name, values in finished.state["trees"].items():
        assert torch.equal(again.state["trees"][name], values)
    results = [r.folder.path("results.json").read_text() for r in (again, finished)]
    assert results[0] == results[1]


def test_a_run_does_not_go_on_with_other_data(
    finished: TbpRun, settings: TbpSettings, cohort: Path, tmp_path: Path
) -> None:
    other = edited(cohort, tmp_path / "other", lambda rows: rows.reverse())
    with pytest.raises(RunError, match="another cohort"):
        TbpRun(settings, other, finished.folder, tiny_embedder())


def test_simulated_splits_share_neither_patients_nor_anything_else(
    cohort: Path, settings: TbpSettings
) -> None:
    found = read(cohort, settings)
    names = [set(found.lesions.patients[found.lesions.split == i].tolist()) for i in range(3)]
    assert all(names)
    assert not names[0] & names[1]
    assert not names[1] & names[2]
    assert found.is_simulated


def test_the_simulator_gives_the_same_cohort_twice(
    cohort: Path, settings: TbpSettings, tmp_path: Path
) -> None:
    lesions = cohort.parent / "lesions"
    simulate_tbp(
        settings.simulation,
        lesions=lesions,
        measurements=None,
        folder=tmp_path / "again",
        report=silent,
    )
    first, second = ((f / "lesions.csv").read_bytes() for f in (cohort, tmp_path / "again"))
    assert first == second


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows[0].update(tbp_lv_A=""), CohortError, "values of A .*missing"),
        (lambda rows: rows[0].update(tbp_lv_A="inf"), CohortError, "values of A .*out of range"),
        (lambda rows: rows[0].update(tbp_lv_A="x"), CohortError, "values of A .*not a number"),
        (lambda rows: [r.update(surprise=1) for r in rows], CohortError, "unknown.*surprise"),
        (lambda rows: [r.pop("tbp_lv_stdL") for r in rows], CohortError, "no column stdL"),
        (lambda rows: rows[-1].update(patient_id="P0000"), LeakageError, "share 1 groups"),
        (lambda rows: rows[1].update(tile_id=rows[0]["tile_id"]), CohortError, "twice"),
        (lambda rows: rows[1].update(tile_id="absent"), CohortError, "1 tiles are missing"),
        (lambda rows: rows[1].update(malignant=""), CohortError, "malignant are neither"),
        (lambda rows: [r.update(malignant=0) for r in rows], CohortError, "without malignant"),
        (lambda rows: rows.__delitem__(slice(1, None)), CohortError, "needs lesions"),
    ],
)
def test_faulty_tables_are_refused(
    cohort: Path,
    settings: TbpSettings,
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], None],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        read(edited(cohort, tmp_path / "faulty", change), settings)


def test_outcome_columns_may_lie_in_the_table_but_not_among_the_inputs(
    cohort: Path, settings: TbpSettings, tmp_path: Path
) -> None:
    folder = edited(
        cohort,
        tmp_path / "isic",
        lambda rows: [
            r.update(iddx_1="Malignant", mel_thick_mm="1.2", lesion_id="IL_1") for r in rows
        ],
    )
    assert len(read(folder, settings).lesions.tiles) == len(read(cohort, settings).lesions.tiles)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iddx_1", "targets among the inputs: iddx_1"),
        ("mel_thick_mm", "targets among the inputs"),
        ("lesion_id", "targets among the inputs"),
        ("malignant", "targets among the inputs"),
        ("nonsense", "no such measurements: nonsense"),
        ("tbp_lv_A", "each once"),
    ],
)
def test_inputs_that_tell_the_outcome_are_refused(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "faulty.toml"
    path.write_text(CONFIG.read_text().replace('"A", "Aext",', f'"A", "Aext", "{name}",'))
    with pytest.raises(SettingsError, match=message):
        read_toml(path, TbpSettings)


def test_patients_are_split_by_the_recipe_where_the_table_has_no_split(
    cohort: Path, settings: TbpSettings
) -> None:
    columns = dataclasses.replace(settings.columns, split=None, ignored=("split",))
    found = read_cohort(cohort, columns, fractions=(0.6, 0.2, 0.2), seed=1)
    for patient in np.unique(found.lesions.patients):
        assert len(set(found.lesions.split[found.lesions.patients == patient].tolist())) == 1


def test_served_model_answers_like_the_run(finished: TbpRun, tmp_path: Path) -> None:
    manifest = tbp.export(finished.folder.folder, tmp_path / "repository", PROVENANCE)
    folder = tmp_path / "repository" / "tbp_screening"
    assert TbpManifest.from_json((folder / "manifest.json").read_text()) == manifest
    assert manifest.evidence_level == "simulated"
    assert "simulated" in manifest.evidence
    backend = TbpScreeningBackend()
    backend.initialize(
        {
            "model_config": json.dumps(
                {
                    "max_batch_size": 4096,
                    "parameters": {"manifest": {"string_value": manifest.to_json()}},
                }
            ),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    features = finished._embed(silent)
    heads = {name: finished._head(name, features, silent) for name in tbp.HEADS}
    expected = finished._answer(features, heads, finished._forest(features, silent))
    measurements = finished.cohort.lesions.measurements.values
    inputs = {
        "EMBEDDING": torch.from_numpy(features.lesions),
        "MEASUREMENTS": torch.from_numpy(measurements),
    }
    found = backend._run(inputs)
    np.testing.assert_allclose(found["RISK"][:, 0], expected.risk, atol=1e-4)
    np.testing.assert_allclose(found["NEVUS"][:, 0], expected.nevus, atol=1e-4)
    np.testing.assert_allclose(found["MALIGNANT_TREES"][:, 0], expected.trees, atol=1e-4)
    assert found["PHOTODAMAGE"].shape == (len(measurements), 3)
    alone = backend._run({name: tensor[3:4] for name, tensor in inputs.items()})
    np.testing.assert_allclose(alone["RISK"], found["RISK"][3:4], atol=1e-6)


def test_other_weights_are_refused(finished: TbpRun, tmp_path: Path) -> None:
    manifest = tbp.export(finished.folder.folder, tmp_path, PROVENANCE)
    weights = (tmp_path / "tbp_screening" / "1" / "weights.safetensors").read_bytes()
    with pytest.raises(ManifestError, match="digest"):
        load_tbp(weights[:-1] + b"\1", manifest)
    narrow = dataclasses.replace(manifest, embedding_dim=DIM - 1)
    with pytest.raises(WeightsError, match="risk"):
        load_tbp(weights, narrow)
    torn = dataclasses.replace(manifest, digest=digest_of(weights[:100]))
    with pytest.raises(WeightsError):
        load_tbp(weights[:100], torn)


def test_an_unfinished_run_is_not_exported(settings: TbpSettings, tmp_path: Path) -> None:
    RunFolder(tmp_path / "out", recipe="tbp", settings=settings)
    with pytest.raises(RunError, match="no finished run"):
        tbp.export(tmp_path / "out", tmp_path / "repository", PROVENANCE)


def test_trained_names_are_the_devices(finished: TbpRun) -> None:
    assert set(finished._trained_names()) == set(NAMES) - {"dnn_lesion_confidence"}
