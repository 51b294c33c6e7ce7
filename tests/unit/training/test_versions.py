import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from models.embedding import EncoderManifest
from models.manifest import HeldOutFigure, InputSpec
from models.shapes import EfficientNetLiteShape
from models.weights import digest_of, encode_weights
from training.__main__ import main
from training.errors import RunError
from training.export import (
    TensorSpec,
    add_figures,
    export_model,
    find_version,
    live_number,
    promote,
    remove_shadow,
    roll_back,
    shadow,
    versions,
)

IMAGE = TensorSpec(name="IMAGE", kind="UINT8", dims=(224, 224, 3))
EMBEDDING = TensorSpec(name="EMBEDDING", kind="FP32", dims=(8,))


def export(repository: Path, version: str, value: float, licence: str = "none") -> int:
    weights = encode_weights({"w": torch.full((2, 2), value)}, half=False)
    manifest = EncoderManifest(
        name="toy",
        version=version,
        digest=digest_of(weights),
        data="none",
        licence=licence,
        citation="none",
        intended_use="tests",
        training_command="none",
        git_commit="none",
        created="2025-01-31",
        evidence_level="none",
        evidence="none",
        figures=(),
        input=InputSpec(
            size=224, mean=(0.5,) * 3, std=(0.2,) * 3, interpolation="x", framing="whole"
        ),
        backbone=EfficientNetLiteShape(),
        dim=8,
    )
    return export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.encoder:EncoderBackend",
        inputs=(IMAGE,),
        outputs=(EMBEDDING,),
        max_batch_size=4,
    )


def in_service(folder: Path) -> str:
    version = json.loads((folder / "manifest.json").read_text())["version"]
    assert f"versions: [ {live_number(folder)} ]" in (folder / "config.pbtxt").read_text()
    return str(version)


def test_the_first_version_is_in_service_and_the_next_waits(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    assert export(tmp_path, "1.0.0", 1.0) == 1
    assert export(tmp_path, "1.1.0", 2.0) == 2
    assert in_service(folder) == "1.0.0"
    promote(folder, find_version(folder, "1.1.0"))
    assert in_service(folder) == "1.1.0"
    assert roll_back(folder) == 1
    assert in_service(folder) == "1.0.0"
    with pytest.raises(RunError, match="no version before"):
        roll_back(folder)


def test_the_same_version_keeps_its_folder_and_gets_the_new_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    assert export(tmp_path, "1.0.0", 1.0, licence="CC0") == 1
    assert versions(folder) == [1]
    for file in (folder / "manifest.json", folder / "1" / "manifest.json"):
        assert json.loads(file.read_text())["licence"] == "CC0"
    assert "CC0" in (folder / "config.pbtxt").read_text()


def test_a_version_is_found_by_version_number_and_digest(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    export(tmp_path, "1.1.0", 2.0)
    digest = json.loads((folder / "2" / "manifest.json").read_text())["digest"]
    assert [find_version(folder, x) for x in ("1.1.0", "2", digest, digest[:12])] == [2, 2, 2, 2]
    for unknown in ("9.9.9", "3", digest[:4], ""):
        with pytest.raises(RunError, match="no version"):
            find_version(folder, unknown)


@pytest.mark.parametrize("fault", ["weights", "missing", "config"])
def test_a_version_that_is_not_what_it_says_is_not_promoted(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    export(tmp_path, "1.1.0", 2.0)
    if fault == "weights":
        (folder / "2" / "weights.safetensors").write_bytes(b"other")
    elif fault == "missing":
        (folder / "2" / "weights.safetensors").unlink()
    else:
        (folder / "2" / "config.pbtxt").unlink()
    with pytest.raises(RunError, match="version 2"):
        promote(folder, 2)
    assert in_service(folder) == "1.0.0"


def test_a_shadow_stands_beside_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    export(tmp_path, "1.1.0", 2.0)
    beside = shadow(folder, 2)
    config = (beside / "config.pbtxt").read_text()
    assert beside.name == "toy_shadow"
    assert 'name: "toy_shadow"' in config
    assert versions(beside) == [2]
    assert in_service(folder) == "1.0.0"
    remove_shadow(folder)
    assert not beside.exists()


def test_a_half_written_version_is_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    (folder / ".2.part").mkdir()
    (folder / ".2.part" / "model.py").write_text("torn")
    assert versions(folder) == [1]
    assert export(tmp_path, "1.1.0", 2.0) == 2
    assert not (folder / ".2.part").exists()


def test_a_manifest_of_other_weights_is_refused(tmp_path: Path) -> None:
    export(tmp_path, "1.0.0", 1.0)
    manifest = EncoderManifest.from_json((tmp_path / "toy" / "manifest.json").read_bytes())
    with pytest.raises(RunError, match="other weights"):
        export_model(
            tmp_path,
            manifest,
            b"others",
            backend="models.backends.encoder:EncoderBackend",
            inputs=(IMAGE,),
            outputs=(EMBEDDING,),
            max_batch_size=4,
        )


def figure(value: float, data: str = "elsewhere") -> HeldOutFigure:
    return HeldOutFigure(
        metric="AUROC", data=data, value=value, low=0.1, high=0.9, n=10, groups=8, command="c"
    )


def test_figures_are_added_to_the_version_and_what_is_in_service(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    export(tmp_path, "1.0.0", 1.0)
    add_figures(folder, 1, [figure(0.5), figure(0.6, "here")])
    add_figures(folder, 1, [figure(0.7)])
    manifest = EncoderManifest.from_json((folder / "manifest.json").read_bytes())
    assert [(f.data, f.value) for f in manifest.figures] == [("elsewhere", 0.7), ("here", 0.6)]
    for file in ("manifest.json", "config.pbtxt"):
        assert (folder / file).read_bytes() == (folder / "1" / file).read_bytes()
    parsed = text_format.Parse(
        (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert parsed.parameters["manifest"].string_value == manifest.to_json()
    assert "| AUROC | 0.700 | 0.100 to 0.900 |" in (folder / "CARD.md").read_text()


def test_figures_of_other_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path, "1.0.0", 1.0)
    path = tmp_path / "figures.json"
    words = ["figures", "--repository", str(tmp_path), "--model", "toy", "--json", str(path)]
    path.write_text(json.dumps({"digest": "0" * 64, "figures": [asdict(figure(0.5))]}))
    assert main(words) == 1
    assert "other weights" in capsys.readouterr().err
    path.write_text("{}")
    assert main(words) == 1
    assert "holds no figures" in capsys.readouterr().err
    digest = json.loads((tmp_path / "toy" / "manifest.json").read_text())["digest"]
    path.write_text(json.dumps({"digest": digest, "figures": [asdict(figure(0.5))]}))
    assert main(words) == 0
