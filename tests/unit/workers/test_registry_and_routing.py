"""Which analyses there are, and which of them a study gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.queue import queue_name
from gateway.rules.plan import Plan
from tests.unit.workers.fakes import DERMOSCOPIC, generation_row, instance_row, study
from workers import analyses
from workers.analyses.diagnosis import ANALYSIS
from workers.analysis import load_registry
from workers.app import queue_names
from workers.errors import RegistryError
from workers.routing import decide, explain_no_match
from workers.settings import WorkerSettings

PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

GOOD = """
class Analysis:
    name = "{name}"
    manifest_type = None
    limits = None
    def match(self, study): ...
    def run(self, study, tools): ...
ANALYSIS = Analysis()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An empty package of analyses, importable as ``plugins``."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("plugins")
    for name in [each for each in sys.modules if each.partition(".")[0] == "plugins"]:
        del sys.modules[name]


def add(package: ModuleType, name: str, source: str) -> None:
    (Path(package.__path__[0]) / f"{name}.py").write_text(source)


class TestRegistry:
    def test_finds_the_analyses_of_the_project(self) -> None:
        registry = load_registry(analyses)
        assert "diagnosis" in registry.names
        assert registry.get("diagnosis") is ANALYSIS
        assert list(registry.names) == sorted(registry.names)

    def test_adding_a_file_adds_an_analysis(self, package: ModuleType) -> None:
        for name in ("zeta", "alpha"):
            add(package, name, GOOD.format(name=name))
        assert load_registry(package).names == ("alpha", "zeta")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("", "no ANALYSIS"),
            (GOOD.format(name="other"), "file and name must agree"),
            (GOOD.format(name="one").replace("def run", "def other"), "lacks run"),
            ("import nothing_of_that_name", "cannot be imported"),
        ],
    )
    def test_a_module_that_cannot_be_used_stops_the_start(
        self, package: ModuleType, source: str, words: str
    ) -> None:
        add(package, "one", source)
        with pytest.raises(RegistryError, match=words):
            load_registry(package)

    def test_no_analysis_at_all_stops_the_start(self, package: ModuleType) -> None:
        with pytest.raises(RegistryError, match="no analysis"):
            load_registry(package)

    def test_asking_for_one_that_is_not_offered(self) -> None:
        with pytest.raises(RegistryError, match="does not offer"):
            load_registry(analyses).get("nothing")

    def test_the_worker_consumes_every_queue_that_is_announced_to(self) -> None:
        registry = load_registry(analyses)
        queues = queue_names(registry, WorkerSettings())
        assert queue_name("route") in queues
        for name in registry.names:
            assert queue_name("analyse", name) in queues
            assert queue_name("deliver", name) in queues

    def test_two_lanes_share_every_queue_without_overlap(self) -> None:
        registry = load_registry(analyses)
        quick = queue_names(registry, WorkerSettings(lane="quick"))
        slow = queue_names(registry, WorkerSettings(lane="long"))
        assert {*quick, *slow} == {*queue_names(registry, WorkerSettings())}
        assert not {*quick} & {*slow}
        assert queue_name("analyse", "diagnosis") in quick

    def test_the_most_urgent_analysis_is_served_first(self) -> None:
        registry = load_registry(analyses)
        lowest = {name: {"priority": 9 if name == "diagnosis" else 1} for name in registry.names}
        queues = queue_names(registry, WorkerSettings(limits=lowest))
        asked = [name for name in queues if name.startswith("lentigo.analyse")]
        assert asked[0] == queue_name("analyse", "diagnosis")


class TestDiagnosisMatch:
    @pytest.mark.parametrize(
        ("sop_class_uid", "modality", "applies"),
        [
            (DERMOSCOPIC, "DMS", True),
            (DERMOSCOPIC, "", True),
            (PHOTOGRAPHIC, "XC", True),
            (SECONDARY_CAPTURE, "DMS", True),
            (SECONDARY_CAPTURE, "XC", True),
            (SECONDARY_CAPTURE, "OT", False),
            (SECONDARY_CAPTURE, "", False),
            (SLIDE, "SM", False),
            ("1.2.840.10008.5.1.4.1.1.88.34", "SR", False),
        ],
    )
    def test_by_sop_class_and_modality(
        self, sop_class_uid: str, modality: str, applies: bool
    ) -> None:
        row = instance_row(1, sop_class_uid=sop_class_uid, modality=modality)
        match = ANALYSIS.match(study(row))
        assert match.instances == ((row,) if applies else ())
        assert match.reason

    def test_takes_only_what_applies_of_a_mixed_study(self) -> None:
        rows = [instance_row(1), instance_row(2, sop_class_uid=SLIDE, modality="SM")]
        assert ANALYSIS.match(study(*rows)).instances == (rows[0],)


class TestDecide:
    def test_one_decision_with_a_reason_for_each_analysis(self) -> None:
        decision = decide(study(instance_row(1)), ANALYSIS, Plan())
        assert decision.analysis == "diagnosis"
        assert decision.applies
        assert "1 dermoscopic" in decision.reason

    def test_a_study_without_a_match_is_explained(self) -> None:
        row = instance_row(1, sop_class_uid=SLIDE, modality="SM")
        reason = explain_no_match(generation_row(row), [decide(study(row), ANALYSIS, Plan())])
        assert "1 of SM" in reason
        assert "diagnosis: no dermoscopic" in reason

    def test_an_empty_study_is_explained(self) -> None:
        assert "no instance" in explain_no_match(generation_row(), [])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([DERMOSCOPIC, PHOTOGRAPHIC, SLIDE, SECONDARY_CAPTURE, "1.2.3"]),
                st.sampled_from(["DMS", "XC", "SM", "OT", "", "dms "]),
            ),
            max_size=8,
        )
    )
    def test_is_total_and_deterministic(self, content: list[tuple[str, str]]) -> None:
        rows: Any = [
            instance_row(number, sop_class_uid=uid, modality=modality)
            for number, (uid, modality) in enumerate(content)
        ]
        first, second = (decide(study(*rows), ANALYSIS, Plan()) for _ in range(2))
        assert first == second
        assert first.reason
