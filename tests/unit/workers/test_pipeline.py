"""The analysis step over fakes: one bad image never costs its siblings their result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.errors import LeaseLost
from gateway.store.values import Claim, PriorReport
from tests.unit.workers.fakes import (
    DERMOSCOPIC,
    DIGEST,
    STUDY_UID,
    FakeDocuments,
    FakeEmbeddings,
    FakeFiles,
    FakeInstances,
    FakeModels,
    FakePriors,
    FakeRecord,
    InMemory,
    claim,
    instance_row,
    roles,
    undecodable,
)
from workers.analyses.diagnosis import ANALYSIS, Diagnosis
from workers.errors import (
    BadModelOutput,
    DemonstrationModel,
    InstanceMissing,
    ModelChanged,
    ModelUnavailable,
    NothingDecodable,
)
from workers.pipeline import Analysed, Ports, analyse


class World:
    """Fakes for every port."""

    def __init__(self, source: FakeInstances | None = None, **models: object) -> None:
        self.source = source or FakeInstances()
        self.models = FakeModels(**models)  # type: ignore[arg-type]
        self.record = FakeRecord()
        self.files = FakeFiles()
        self.checks = 0
        self.allows_demonstration = False

    def run(self, work: Claim, analysis: Diagnosis = ANALYSIS) -> Analysed:
        ports = Ports(
            source=self.source,
            documents=FakeDocuments(),
            priors=FakePriors(),
            inference=self.models,
            record=self.record,
            files=self.files,
            scratch=InMemory(),
            embeddings=FakeEmbeddings(),
            software_version="9.9.9",
            allows_demonstration=self.allows_demonstration,
        )
        return analyse(work, analysis, ports, self.check)

    def check(self) -> None:
        self.checks += 1


def blank() -> np.ndarray:
    """Return an image that no quality check lets pass."""
    return np.zeros((240, 320, 3), np.uint8)


def test_one_image_gives_a_report_a_mask_and_a_picture() -> None:
    world = World()
    analysed = world.run(claim())
    assert roles(analysed.objects) == ["sr", "seg-1", "overview-1", "pdf-1"]
    assert analysed.outcome == "assessed"
    assert analysed.reason == ""
    assert analysed.summary == {
        "images": 1,
        "not_assessed": 0,
        "referred": 0,
        "label": "MEL",
        "name": "Melanoma",
        "probability": pytest.approx(0.96, abs=0.05),
        "malignancy": pytest.approx(0.97, abs=0.05),
        "suspicious": True,
    }
    report = world.files.written[analysed.objects[0].path]
    assert report.StudyInstanceUID == STUDY_UID
    assert report.PatientID == "CANARY-ID"


def test_files_are_named_by_study_generation_analysis_model_and_role() -> None:
    analysed = World().run(claim())
    assert [each.path for each in analysed.objects] == [
        f"{STUDY_UID}/g01-diagnosis-{DIGEST[:8]}-01-sr.dcm",
        f"{STUDY_UID}/g01-diagnosis-{DIGEST[:8]}-02-seg-1.dcm",
        f"{STUDY_UID}/g01-diagnosis-{DIGEST[:8]}-03-overview-1.dcm",
        f"{STUDY_UID}/g01-diagnosis-{DIGEST[:8]}-04-pdf-1.dcm",
    ]


def test_a_re_run_makes_the_same_objects() -> None:
    first, second = World().run(claim()), World().run(claim(attempt=4, token="other"))
    assert replace(first, measured={}) == replace(second, measured={})


def test_says_what_its_parts_took() -> None:
    measured = World().run(claim()).measured
    assert measured["requests"] == 1
    assert measured["bytes_sent"] == 224 * 224 * 3
    assert measured["run_s"] >= measured["inference_s"] >= 0
    assert {"encode_s", "write_s"} <= measured.keys()


def test_undecodable_image_is_not_assessed_and_its_siblings_are() -> None:
    rows = [instance_row(number) for number in (1, 2, 3)]
    world = World(FakeInstances({"2.dcm": undecodable()}))
    analysed = world.run(claim(*rows))
    assert analysed.outcome == "assessed"
    assert analysed.summary["not_assessed"] == 1
    assert "1 of 3 not assessed" in analysed.reason
    assert "ends early" in analysed.reason
    assert roles(analysed.objects).count("sr") == 1
    assert {"seg-1", "seg-3", "overview-2"} <= set(roles(analysed.objects))
    assert "seg-2" not in roles(analysed.objects)


def test_image_of_bad_quality_is_not_sent_to_the_model() -> None:
    world = World(FakeInstances({"1.dcm": blank()}))
    analysed = world.run(claim(instance_row(1), instance_row(2)))
    assert world.models.batches == [1]
    assert analysed.summary["not_assessed"] == 1


def test_nothing_fit_for_the_model_is_a_result_too() -> None:
    world = World(FakeInstances({"1.dcm": blank()}))
    analysed = world.run(claim())
    assert world.models.batches == []
    assert analysed.outcome == "not_assessed"
    assert analysed.reason.startswith("not assessed: ")
    assert roles(analysed.objects) == ["sr", "overview-1", "pdf-1"]
    assert "label" not in analysed.summary


def test_image_unlike_the_training_data_is_not_assessed() -> None:
    analysed = World(ood_score=15.0).run(claim())
    assert analysed.outcome == "not_assessed"
    assert "unlike" in analysed.reason


def test_nothing_decodable_is_rejected_with_the_reasons() -> None:
    world = World(
        FakeInstances({"1.dcm": undecodable("reason one"), "2.dcm": undecodable("reason two")})
    )
    with pytest.raises(NothingDecodable, match=r"reason one.*reason two"):
        world.run(claim(instance_row(1), instance_row(2)))
    assert world.files.written == {}


def test_images_go_to_the_model_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.analyses.diagnosis.BATCH", 2)
    world = World()
    analysed = world.run(claim(*map(instance_row, range(1, 6))))
    assert world.models.batches == [2, 2, 1]
    assert roles(analysed.objects)[1::3] == [f"seg-{number}" for number in range(1, 6)]


def test_other_instances_of_the_study_are_left_alone() -> None:
    slide = instance_row(2, sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.6", modality="SM")
    world = World()
    world.run(claim(instance_row(1), slide))
    assert world.source.decoded == ["1.dcm"]


def test_earlier_report_is_superseded() -> None:
    world = World()
    world.record.prior = PriorReport(
        study_instance_uid=STUDY_UID,
        series_instance_uid="1.2.3",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid="1.2.3.4",
    )
    analysed = world.run(claim())
    report = world.files.written[analysed.objects[0].path]
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


@pytest.mark.parametrize("digests", [["cd" * 32], [DIGEST, "cd" * 32]])
def test_another_model_before_or_during_the_analysis_stops_it(digests: list[str]) -> None:
    world = World(digests=digests)
    with pytest.raises(ModelChanged):
        world.run(claim())
    assert world.files.written == {}


@pytest.mark.parametrize("level", ["simulated", "none"])
def test_a_model_without_real_evidence_must_be_switched_on_and_says_so(level: str) -> None:
    world = World(evidence_level=level)
    with pytest.raises(DemonstrationModel, match=f"'{level}'.*LENTIGO_WORKER_DEMONSTRATION_MODELS"):
        world.run(claim())
    assert world.files.written == {}
    world.allows_demonstration = True
    analysed = world.run(claim())
    report = world.files.written[analysed.objects[0].path]
    assert "DEMONSTRATION MODEL" in report.to_json()
    known = World()
    analysed = known.run(claim())
    assert "DEMONSTRATION" not in known.files.written[analysed.objects[0].path].to_json()


def test_model_that_is_away_stops_it() -> None:
    with pytest.raises(ModelUnavailable):
        World(error=ModelUnavailable("away")).run(claim())


@pytest.mark.parametrize("name", ["LOGITS", "OOD_SCORE", "LESION_PROB"])
def test_missing_output_is_named(name: str) -> None:
    def without(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: value for key, value in outputs.items() if key != name}

    with pytest.raises(BadModelOutput, match=name):
        World(change=without).run(claim())


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("LOGITS", np.zeros((1, 6), np.float32)),
        ("LOGITS", np.full((1, 7), np.nan, np.float32)),
        ("OOD_SCORE", np.zeros((1, 2), np.float32)),
        ("LESION_PROB", np.zeros((1, 100, 100), np.uint8)),
        ("LESION_PROB", np.zeros((1, 224, 224), np.float32)),
    ],
)
def test_output_that_breaks_the_contract_is_refused(name: str, tensor: np.ndarray) -> None:
    with pytest.raises(BadModelOutput):
        World(change=lambda outputs: {**outputs, name: tensor}).run(claim())


def test_missing_file_fails_the_step() -> None:
    with pytest.raises(InstanceMissing):
        World(FakeInstances({"1.dcm": InstanceMissing("gone")})).run(claim())


def test_lost_lease_stops_before_anything_is_written() -> None:
    world = World()

    def lost() -> None:
        raise LeaseLost("work item 7 is held by another worker")

    world.check = lost  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        world.run(claim())
    assert world.files.written == {}


def test_headline_is_that_of_the_most_suspicious_image() -> None:
    logits = np.array([[0, 0, 0, 0, 0, 9, 0], [0, 9, 0, 0, 0, 0, 0]], np.float32)
    world = World(change=lambda outputs: {**outputs, "LOGITS": logits})
    summary = world.run(claim(instance_row(1), instance_row(2))).summary
    assert summary["label"] == "BCC"
    assert summary["suspicious"] is True


def test_secondary_capture_of_the_skin_is_analysed() -> None:
    row = instance_row(1, sop_class_uid="1.2.840.10008.5.1.4.1.1.7", modality="XC")
    assert World().run(claim(row)).outcome == "assessed"
    assert row.sop_class_uid != DERMOSCOPIC
