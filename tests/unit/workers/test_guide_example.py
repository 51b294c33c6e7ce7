"""The sixth analysis of docs/model_engineers.md: what the guide prints is loaded and run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.results import DiagnosisResult
from reports.encode import encode
from tests.unit.workers.fakes import (
    DIGEST,
    FakeEmbeddings,
    FakeInstances,
    FakeModels,
    InMemory,
    instance_row,
    manifest,
    study,
)
from tests.unit.workers.test_diagnosis import MELANOMA, clinical, others
from workers.analysis import Tools, load_registry
from workers.encoding import Encoder
from workers.ports import ServedModel

GUIDE = Path(__file__).parents[3] / "docs" / "model_engineers.md"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package of analyses that holds the guide's example alone."""
    (source,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path / "guide_plugins"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "clinical.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return __import__("guide_plugins")


def test_the_example_of_the_guide_is_an_analysis_whose_result_can_be_reported(
    plugins: ModuleType,
) -> None:
    analysis = load_registry(plugins).get("clinical")
    models = FakeModels(change=lambda outputs: outputs | {"LOGITS": MELANOMA[np.newaxis]})
    source = FakeInstances()
    both = study(instance_row(1), clinical(2), source=source)
    assert [each.modality for each in analysis.match(both).instances] == ["XC"]
    assert analysis.match(study(instance_row(1), source=source)).instances == ()
    served = replace(manifest(), name="clinical")
    conclusion = analysis.run(
        both,
        Tools(
            served=ServedModel(name="clinical", digest=DIGEST, manifest=served),
            models=models,
            encoder=Encoder(models, FakeEmbeddings()),
            source=source,
            scratch=InMemory(),
            checkpoint=lambda: None,
            **others(),
        ),
    )
    assert isinstance(conclusion.result, DiagnosisResult)
    assert conclusion.result.model.name == "clinical"
    assert encode.dispatch(type(conclusion.result)) is not encode.dispatch(object)
