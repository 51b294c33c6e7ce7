import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backends.slide import SlideBackend
from models.manifest import HeldOutFigure
from models.slide.reading import geometry_of, read_overview
from models.slide.tiles import SlideManifest
from tests.unit.training.slide_builder import section, write_patches, write_tiff
from tests.unit.training.test_slides import fake_encoder, quiet
from training.errors import CohortError, RunError
from training.export import Provenance
from training.recipes import slide
from training.settings import read_toml
from training.simulate.slides import CELL_PX, simulate_slides
from training.slide.figures import evidence_sentence, threshold_for

TOY = Path(__file__).parents[3] / "training" / "configs" / "check" / "slide.toml"
PROVENANCE = Provenance(
    version="1.0.0",
    training_command="train",
    evaluation_command="measure",
    git_commit="unversioned",
    created="2025-01-31",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    write_patches(folder)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The toy configuration on the patches of the tests."""
    text = TOY.read_text()
    text = text.replace("[132262, 133286]", "[5000, 15000]").replace(
        "[95000, 117500]", "[5000, 15000]"
    )
    start = text.index("calibration_files")
    end = text.index("\n", text.index("held_out_files"))
    path = tmp_path_factory.mktemp("config") / "slide.toml"
    path.write_text(
        text[:start] + 'calibration_files = ["mid"]\nheld_out_files = ["far"]' + text[end:]
    )
    return path


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    make_fast(monkeypatch)


def make_fast(patch):
    patch.setattr(slide, "load_tile_encoder", lambda _folder: fake_encoder())
    patch.setattr("training.slide.figures.REPLICATES", 30)


def run(config, data, out, report=quiet):
    options = argparse.Namespace(config=config, data=data, out=out, encoder=None)
    slide.run(options, report)


@pytest.fixture(scope="module")
def finished(config, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        run(config, data, out)
    return out


def read_csv(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_splits_share_no_pixel(config, data):
    settings = read_toml(config, slide.SlideSettings)
    slides, _ = simulate_slides(settings.source, data)
    used = {}
    for made in slides:
        assert (made.tumour_share > 0) == (made.label == "tumour")
        for cell in made.cells.values():
            used.setdefault(made.split, set()).add(cell.patch.name)
            assert cell.is_tumour == bool(cell.patch.tumour[cell.y, cell.x])
    assert used == {
        "development": {"normal_001_1", "tumor_001_1", "near"},
        "calibration": {"normal_001_0", "tumor_001_0", "mid"},
        "held_out": {"normal_001_2", "tumor_001_2", "far"},
    }


def test_simulation_is_repeatable_and_reads_like_a_slide(config, data):
    settings = read_toml(config, slide.SlideSettings)
    first, state = simulate_slides(settings.source, data)
    second, again = simulate_slides(settings.source, data)
    assert state == again
    one, two = first[1], second[1]
    pixels = one.read(0, 300, 400, 700, 600)
    assert (pixels == two.read(0, 300, 400, 700, 600)).all()
    whole = one.read(0, 0, 0, *one.sizes[0])
    assert (whole[400:1000, 300:1000] == pixels).all()
    assert (whole[:CELL_PX] == 255).all()
    overview, um_px = read_overview(one)
    assert um_px == pytest.approx(8.0)
    assert geometry_of(one).um_px == 0.25
    assert overview[20:30, 20:30].mean() < 240


def test_a_run_leaves_figures_attention_and_a_report(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["evidence_level"] == "simulated"
    figures = {(f["metric"], f["data"]): f for f in result["figures"]}
    auroc = figures["macro one-versus-rest AUROC", "held-out simulated slides"]
    assert auroc["groups"] == auroc["n"] == 4
    rows = read_csv(finished / "slides.csv")
    assert len(rows) == 20
    assert {row["status"] for row in rows} == {"ok"}
    attention = sorted((finished / "attention").glob("*.csv"))
    assert len(attention) == 4
    lines = read_csv(attention[0])
    assert sum(float(line["softmax"]) for line in lines) == pytest.approx(1.0, abs=1e-5)
    assert max(float(line["rank"]) for line in lines) <= 1.0
    assert len(list((finished / "attention").glob("*.png"))) == 1
    page = (finished / "report.html").read_text()
    assert "held-out simulated slides" in page
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")


def test_an_interrupted_run_ends_as_an_unbroken_one(config, data, finished, tmp_path):
    for stop in ("fold_1", "final"):

        def dying(text, done, _total, stop=stop):
            if text == stop and done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(config, data, tmp_path, dying)
    run(config, data, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        finished / "weights.safetensors"
    ).read_bytes()
    assert (tmp_path / "result.json").read_text() == (finished / "result.json").read_text()


def test_a_folder_of_other_settings_is_refused(config, data, finished, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(config.read_text().replace("\nseed = 0\npositive", "\nseed = 1\npositive"))
    with pytest.raises(RunError, match="another configuration"):
        run(other, data, finished)


def test_the_served_model_answers_as_the_recipe(finished, tmp_path):
    manifest = slide.export(finished, tmp_path, PROVENANCE)
    folder = tmp_path / "slide_classification"
    served = SlideManifest.from_json((folder / "manifest.json").read_text())
    assert served == manifest
    assert served.evidence_level == "simulated"
    assert all(figure.command == "measure" for figure in served.figures)
    backend = SlideBackend()
    backend.device = torch.device("cpu")
    backend.load(served.to_json(), (folder / "1" / "weights.safetensors").read_bytes())
    backend.warm_up()
    result = json.loads((finished / "result.json").read_text())
    expected = {p["slide_id"]: p["logits"] for p in result["predictions"]}
    held_out = [name for name in expected if name.startswith("held_out")]
    assert len(held_out) == 4
    for name in held_out:
        features = np.load(finished / "features" / name / "features.npy").astype(np.float32)
        answer = backend.answer({"FEATURES": torch.from_numpy(features)})
        np.testing.assert_allclose(answer["LOGITS"].detach(), expected[name], atol=1e-4)
        lines = read_csv(finished / "attention" / f"{name}.csv")
        raw = [float(line["raw"]) for line in lines]
        np.testing.assert_allclose(answer["ATTENTION_RAW"].detach()[:, 0], raw, atol=1e-4)
    config = (folder / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in config
    assert "dims: [ -1, 2 ]" in config


def test_an_unfinished_run_is_not_exported(tmp_path):
    with pytest.raises(RunError, match="no finished run"):
        slide.export(tmp_path, tmp_path / "repository", PROVENANCE)


def test_real_slides_take_the_same_path_and_bad_ones_are_left_out(config, tmp_path):
    lines = ["path,label,case,um_px"]
    for number in range(8):
        name = f"s{number}.tiff"
        write_tiff(tmp_path / name, section(1500, 1200, seed=number), um_px=None)
        lines.append(f"{name},{('normal', 'tumour')[number % 2]},case{number // 1},0.5")
    (tmp_path / "broken.tiff").write_bytes(b"II*\0")
    lines.append("broken.tiff,tumour,case99,0.5")
    (tmp_path / "slides.csv").write_text("\n".join(lines) + "\n")
    text = config.read_text()
    start, end = text.index("[source]"), text.index("[tiles]")
    own = tmp_path / "own.toml"
    own.write_text(text[:start] + '[source]\nkind = "table"\n\n' + text[end:])
    run(own, tmp_path, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["evidence_level"] == "real"
    assert {f["data"] for f in result["figures"]} == {"development, out of fold"}
    assert len(result["predictions"]) == 8
    assert "cannot be read" in (tmp_path / "out" / "slides.csv").read_text()


def test_labels_that_the_configuration_lacks_are_refused(config, data, tmp_path):
    other = tmp_path / "other.toml"
    text = config.read_text().replace('tumour = "Meta', 'cancer = "Meta')
    other.write_text(text.replace('positive_labels = ["tumour"]', 'positive_labels = ["cancer"]'))
    with pytest.raises(CohortError, match="tumour"):
        run(other, data, tmp_path / "out")


def test_missing_patches_are_refused(config, tmp_path):
    with pytest.raises(CohortError, match=r"labels\.csv"):
        run(config, tmp_path, tmp_path / "out")


def test_the_threshold_finds_the_wanted_share_and_no_less():
    rng = np.random.default_rng(0)
    scores, truth = rng.random(200), rng.random(200) < 0.4
    for wanted in (0.5, 0.9, 0.95):
        threshold = threshold_for(scores, truth, wanted)
        assert (scores[truth] >= threshold).mean() >= wanted
        assert (scores[truth] > threshold).mean() < wanted


def test_the_evidence_sentence_speaks_of_the_last_slides():
    def figure(data, value):
        return HeldOutFigure(
            metric="balanced accuracy",
            data=data,
            value=value,
            low=0.1,
            high=0.9,
            n=10,
            groups=5,
            command="x",
        )

    sentence = evidence_sentence([figure("development", 0.3), figure("held-out", 0.7)])
    assert "held-out" in sentence
    assert "0.700" in sentence
