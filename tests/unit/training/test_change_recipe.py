import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.backends.change_detection import ChangeDetectionBackend, load_siamese
from models.change.pair import ChangeManifest
from models.errors import ManifestError, WeightsError
from tests.unit.models.test_registration import skin
from tests.unit.training.cohort_builder import write_cohort
from tests.unit.training.tiny_encoder import DIM, tiny_embedder
from training.change.figures import PairAnswers, choose_operating_point
from training.change.pairs import PairCohort, encode_pairs, read_pairs
from training.change.settings import ChangeSettings
from training.errors import CohortError, LeakageError, RunError, SettingsError
from training.export import Provenance
from training.recipes import change
from training.recipes.change import SERVED, ChangeRun, compare
from training.runs import RunFolder
from training.settings import read_toml
from training.simulate.change import CHANGES, simulate_pairs

CONFIG = Path("training/configs/check/change.toml")
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
def settings() -> ChangeSettings:
    return read_toml(CONFIG, ChangeSettings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, settings: ChangeSettings) -> Path:
    place = tmp_path_factory.mktemp("change")
    lesions = write_cohort(place / "lesions", groups=45)
    simulate_pairs(settings.simulation, lesions=lesions, folder=place / "cohort", report=silent)
    return place / "cohort"


def read(folder: Path) -> PairCohort:
    return read_pairs(folder, fractions=(0.5, 0.25, 0.25), seed=0)


def begun(settings: ChangeSettings, folder: Path, out: Path) -> ChangeRun:
    run_folder = RunFolder(out, recipe="change", settings=settings)
    return ChangeRun(settings, read(folder), run_folder, tiny_embedder())


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, settings: ChangeSettings, folder: Path
) -> ChangeRun:
    run = begun(settings, folder, tmp_path_factory.mktemp("run") / "out")
    run.train(silent)
    return run


def test_run_ends_with_figures_and_a_page_that_names_the_evidence(finished: ChangeRun) -> None:
    results = json.loads(finished.folder.path("results.json").read_text())
    metrics = {figure["metric"] for figure in results["figures"]}
    assert {"AUROC on raw pairs", "AUROC on prepared pairs"} <= metrics
    assert "gain of AUROC, prepared over raw" in metrics
    assert results["simulation"] == "lesions"
    assert "Evidence: simulated" in finished.folder.path("report.html").read_text()
    assert len(finished.folder.history) == 2 * finished.settings.epochs


@pytest.mark.parametrize("epochs_done", [1, 4])
def test_interrupted_run_ends_like_an_unbroken_one(
    finished: ChangeRun, settings: ChangeSettings, folder: Path, tmp_path: Path, epochs_done: int
) -> None:
    class Killed(Exception):
        pass

    seen = []

    def kill(text: str, done: int, _total: int) -> None:
        if text.startswith("training on"):
            seen.append(done)
            if len(seen) == epochs_done:
                raise Killed

    with pytest.raises(Killed):
        begun(settings, folder, tmp_path / "out").train(kill)
    again = begun(settings, folder, tmp_path / "out")
    again.train(silent)
    for variant in change.VARIANTS:
        for part in ("head", "best"):
            for name, value in finished.state[variant][part].items():
                assert torch.equal(again.state[variant][part][name], value), (variant, name)
    for name in ("history.csv", "results.json"):
        texts = [run.folder.path(name).read_text() for run in (again, finished)]
        assert texts[0] == texts[1]


def test_simulated_pairs_share_no_lesion_between_splits(folder: Path) -> None:
    pairs = read(folder).pairs
    groups = [{pair.group_id for pair in pairs if pair.split == number} for number in range(3)]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert {pair.kind for pair in pairs} == {"unchanged", "other lesion", *CHANGES}
    assert all((pair.changed is None) == (pair.kind == "other lesion") for pair in pairs)


@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_change_is_made_inside_and_near_the_lesion_only(
    kind: str, settings: ChangeSettings
) -> None:
    image = skin(0)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    radius = np.hypot(rows - 120, columns - 160)
    mask = radius < 40
    image[mask] = (150, 90, 70)
    changed, changed_mask = CHANGES[kind](
        image, mask, settings.simulation, np.random.default_rng(1)
    )
    difference = np.abs(changed.astype(int) - image).max(axis=2)
    assert difference[radius < 75].max() > 10
    assert difference[radius > 80].max() <= 2  # rounding of the colour space
    if kind == "grown":
        assert 1.1 < changed_mask.sum() / mask.sum() < 1.8
    else:
        assert (changed_mask == mask).all()


def edited(folder: Path, target: Path, edit: Callable[[list[dict[str, Any]]], object]) -> Path:
    target.mkdir()
    for name in ("images", "masks"):
        (target / name).symlink_to(folder / name)
    with (folder / "pairs.csv").open(newline="") as handle:
        rows: list[dict[str, Any]] = list(csv.DictReader(handle))
    edit(rows)
    with (target / "pairs.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return target


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda rows: [r.pop("after") for r in rows], CohortError, "missing columns.*after"),
        (lambda rows: [r.update(surprise=1) for r in rows], CohortError, "unknown.*surprise"),
        (lambda rows: rows[0].update(changed="yes"), CohortError, "0, 1 or empty"),
        (lambda rows: rows[0].update(before="absent"), CohortError, "no image absent"),
        (lambda rows: rows[1].update(pair_id=rows[0]["pair_id"]), CohortError, "twice"),
        (lambda rows: rows[0].update(split="holdout"), CohortError, "splits are"),
        (lambda rows: rows[-1].update(group_id=rows[0]["group_id"]), LeakageError, "share 1"),
        (lambda rows: rows[0].update(relative_growth="much"), CohortError, "no number"),
        (lambda rows: [r.update(changed="1") for r in rows], CohortError, "changed and unchanged"),
    ],
)
def test_faulty_tables_are_refused(
    folder: Path,
    tmp_path: Path,
    edit: Callable[[list[dict[str, Any]]], object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        read(edited(folder, tmp_path / "faulty", edit))


def test_a_real_cohort_needs_neither_split_nor_masks(folder: Path, tmp_path: Path) -> None:
    target = edited(
        folder,
        tmp_path / "real",
        lambda rows: [r.pop(name) for r in rows for name in ("split", "kind", "relative_growth")],
    )
    (target / "masks").unlink()
    found = read(target)
    assert found.simulation is None
    assert all(pair.masks is None for pair in found.pairs)
    assert {pair.split for pair in found.pairs} == {0, 1, 2}


def test_growth_is_measured_where_masks_and_registration_are_there(
    settings: ChangeSettings, tmp_path: Path
) -> None:
    """One lesion on textured skin, registered for real, through the whole chain."""
    source = tmp_path / "lesions"
    write_cohort(source, groups=30, side=(120, 160))
    for number, path in enumerate(sorted((source / "images").iterdir())):
        picture = np.array(Image.open(path))
        mask = np.array(Image.open(source / "masks" / path.name)) > 0
        background = skin(number, (120, 160))
        background[mask] = picture[mask]
        Image.fromarray(background).save(path)
    simulation = dataclasses.replace(
        settings.simulation, train_pairs=4, validation_pairs=4, test_pairs=4
    )
    simulate_pairs(simulation, lesions=source, folder=tmp_path / "c", report=silent)
    preparation = dataclasses.replace(settings.preparation, registers=True)
    cohort = read(tmp_path / "c")
    features = encode_pairs(cohort, preparation, tiny_embedder(), tmp_path / "cache", silent)
    same = np.array([pair.changed is not None for pair in cohort.pairs])
    assert features.is_registered[same].mean() > 0.8
    assert not features.is_registered[~same].any()
    truth = np.array([pair.relative_growth or 0.0 for pair in cohort.pairs])
    known = features.is_registered & same
    assert np.nanmean(np.abs(features.growth - truth)[known]) < 0.06


def test_threshold_reaches_the_wanted_sensitivity(finished: ChangeRun) -> None:
    features = encode_pairs(
        finished.cohort,
        finished.settings.preparation,
        finished.embedder,
        finished.folder.path("embeddings"),
        silent,
    )
    rng = np.random.default_rng(0)
    logits = rng.normal(size=len(finished.cohort.pairs)).astype(np.float32)
    answers = PairAnswers.gather(finished.cohort, features, {SERVED: (logits, logits)})
    temperature, threshold = choose_operating_point(answers, SERVED, sensitivity=0.6)
    rows = answers.rows(1)
    found = 1 / (1 + np.exp(-logits[rows][answers.changed[rows]] / temperature))
    needed = np.ceil(0.6 * len(found) - 1e-9)
    assert (found >= threshold - 1e-6).sum() >= needed
    assert (found > threshold + 1e-6).sum() < needed


def test_served_model_answers_like_the_run(finished: ChangeRun, tmp_path: Path) -> None:
    manifest = change.export(finished.folder.folder, tmp_path, PROVENANCE)
    folder = tmp_path / "change_detection"
    assert ChangeManifest.from_json((folder / "manifest.json").read_text()) == manifest
    assert manifest.evidence_level == "simulated"
    backend = ChangeDetectionBackend()
    backend.initialize(
        {
            "model_config": json.dumps(
                {
                    "max_batch_size": 256,
                    "parameters": {"manifest": {"string_value": manifest.to_json()}},
                }
            ),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    pairs = np.random.default_rng(0).normal(size=(7, 2, DIM)).astype(np.float32)
    weights = (folder / "1" / "weights.safetensors").read_bytes()
    logits, distances = compare(load_siamese(weights, manifest), pairs)
    served = finished._train_variant(
        SERVED,
        encode_pairs(
            finished.cohort,
            finished.settings.preparation,
            finished.embedder,
            finished.folder.path("embeddings"),
            silent,
        ),
        silent,
    )
    np.testing.assert_allclose(logits, compare(served, pairs)[0], atol=1e-4)
    found = backend._run(
        {
            "EMBEDDING_BEFORE": torch.from_numpy(pairs[:, 0].copy()),
            "EMBEDDING_AFTER": torch.from_numpy(pairs[:, 1].copy()),
        }
    )
    np.testing.assert_allclose(found["CHANGE_LOGIT"][:, 0], logits, atol=1e-4)
    np.testing.assert_allclose(found["DISTANCE"][:, 0], distances, atol=1e-4)
    with pytest.raises(ManifestError, match="digest"):
        load_siamese(weights + b"\0", manifest)
    with pytest.raises(WeightsError, match="first"):
        load_siamese(weights, dataclasses.replace(manifest, hidden=manifest.hidden + 1))
    with pytest.raises(ManifestError, match="threshold"):
        dataclasses.replace(manifest, threshold=0.0)


def test_an_unfinished_run_is_not_exported(settings: ChangeSettings, tmp_path: Path) -> None:
    RunFolder(tmp_path / "out", recipe="change", settings=settings)
    with pytest.raises(RunError, match="no finished run"):
        change.export(tmp_path / "out", tmp_path / "repository", PROVENANCE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin = 1.0", "margin = 0.0", "margin"),
        ("masks = false", "masks = true", "preparation.masks"),
        ("epochs = 3", "epochs = 0", "sizes"),
        ("min_inliers = 8", "min_inliers = 1", "min_inliers"),
        ("seed = 20251", "seed = 20251\nsurprise = 1", "surprise"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "faulty.toml"
    text = CONFIG.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError, match=message):
        read_toml(path, ChangeSettings)
