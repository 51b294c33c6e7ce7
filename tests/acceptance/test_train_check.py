"""A toy of every recipe by the command line, from drawn data to its page (make train-check)."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.unit.training import slide_builder
from tests.unit.training.cohort_builder import write_cohort
from training.__main__ import COMMANDS, main

pytestmark = pytest.mark.timeout(600)

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs" / "check"
LABELS = {"nv": "NV", "mel": "MEL", "bcc": "BCC"}


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("data") / "lesions", groups=45)


def with_labels(config: Path, folder: Path) -> Path:
    """The configuration with the labels of the drawn cohort."""
    text = config.read_text()
    start = text.index("[data.label_map]\n")
    end = text.find("\n[", start + 1)
    table = "[data.label_map]\n" + "".join(f'{k} = "{v}"\n' for k, v in LABELS.items())
    path = folder / config.name
    path.write_text(text[:start] + table + (text[end:] if end > 0 else ""))
    return path


def labelled(name: str) -> Callable[[Path, Path], list[str]]:
    def words(lesions: Path, folder: Path) -> list[str]:
        return ["--config", str(with_labels(CONFIGS / name, folder)), "--data", str(lesions)]

    return words


def unlabelled(name: str, *more: str, data: str = "") -> Callable[[Path, Path], list[str]]:
    def words(lesions: Path, _folder: Path) -> list[str]:
        return ["--config", str(CONFIGS / name), *more, str(lesions / data)]

    return words


def prognosis(_lesions: Path, _folder: Path) -> list[str]:
    return ["--config", str(CONFIGS / "prognosis.toml")]


def robustness(lesions: Path, folder: Path) -> list[str]:
    """The drawn cohort at two centres."""
    with (lesions / "labels.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["dx"] != "bcc"]
    table = folder / "table.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "label", "centre", "group"])
        for number, row in enumerate(rows):
            writer.writerow([f"{row['image_id']}.png", row["dx"], "AB"[number // 2 % 2], number])
    paths = ["--table", str(table), "--images", str(lesions / "images")]
    return ["--config", str(CONFIGS / "robustness.toml"), *paths]


def slide(_lesions: Path, folder: Path) -> list[str]:
    """Drawn patches in the place of the real ones that the configuration names."""
    slide_builder.write_patches(folder / "patches")
    text = (CONFIGS / "slide.toml").read_text()
    text = text.replace("[132262, 133286]", "[5000, 15000]").replace(
        "[95000, 117500]", "[5000, 15000]"
    )
    start, end = text.index("calibration_files"), text.index("\n", text.index("held_out_files"))
    config = folder / "slide.toml"
    files = 'calibration_files = ["mid"]\nheld_out_files = ["far"]'
    config.write_text(text[:start] + files + text[end:])
    return ["--config", str(config), "--data", str(folder / "patches")]


RECIPES: dict[str, Callable[[Path, Path], list[str]]] = {
    "diagnosis": labelled("diagnosis.toml"),
    "segment": unlabelled("segment.toml", "--data"),
    "pretrain": unlabelled("pretrain.toml", "--data", data="images"),
    "features": unlabelled("features.toml", "--data", data="images"),
    "probe": labelled("probe.toml"),
    "finetune": labelled("finetune.toml"),
    "tbp": unlabelled("tbp.toml", "--simulate-from"),
    "change": unlabelled("change.toml", "--simulate-from"),
    "slide": slide,
    "prognosis": prognosis,
    "robustness": robustness,
}


def test_every_recipe_is_checked() -> None:
    places = {name for name, place in COMMANDS.items() if place.startswith("training.recipes.")}
    assert places == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_toy_runs_to_its_page(recipe: str, lesions: Path, tmp_path: Path) -> None:
    words = RECIPES[recipe](lesions, tmp_path)
    out = tmp_path / "run"
    assert main(["--threads", "1", recipe, *words, "--out", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h1>" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "data:image/" in page
