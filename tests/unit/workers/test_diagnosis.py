"""``diagnosis`` over studies of several images and lesions, and over lesion tiles."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword

from gateway.store.values import InstanceRow
from models.quality import Remark
from models.results import DiagnosisResult
from reports.uids import tracking_uid
from tests.unit.workers.fakes import (
    DIGEST,
    FakeEmbeddings,
    FakeInstances,
    FakeModels,
    InMemory,
    claim,
    instance_row,
    manifest,
    study,
)
from tests.unit.workers.test_pipeline import World
from workers.analyses.diagnosis import ANALYSIS
from workers.analysis import Conclusion, Tools
from workers.encoding import Encoder
from workers.ports import ServedModel

CLINICAL = "1.2.840.10008.5.1.4.1.1.77.1.4"
NEVUS = np.array([0, 0, 0, 0, 0, 5, 0], np.float32)
MELANOMA = np.array([0, 0, 0, 0, 5, 0, 0], np.float32)


class Tracked(FakeInstances):
    """Instances whose headers name their lesions."""

    def __init__(self, attributes: dict[str, dict[str, str]]) -> None:
        super().__init__()
        self._attributes = attributes

    def header(self, path: str) -> Dataset:
        header = super().header(path)
        for keyword, value in self._attributes.get(path, {}).items():
            tag = tag_for_keyword(keyword)
            assert tag is not None
            # As a device may have written it, legal or not.
            element = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)
            header.add(element)
        return header


def clinical(number: int) -> InstanceRow:
    return instance_row(number, sop_class_uid=CLINICAL, modality="XC")


def concluded(
    source: FakeInstances, *instances: InstanceRow, logits: list[np.ndarray] | None = None
) -> Conclusion:
    def answer(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return outputs | ({"LOGITS": np.stack(logits)} if logits else {})

    models = FakeModels(change=answer)
    return ANALYSIS.run(
        study(*instances, source=source),
        Tools(
            served=ServedModel(name="diagnosis", digest=DIGEST, manifest=manifest()),
            models=models,
            encoder=Encoder(models, FakeEmbeddings()),
            source=source,
            scratch=InMemory(),
            checkpoint=lambda: None,
            **others(),
        ),
    )


def others() -> dict[str, object]:
    """Tools that this analysis never touches."""
    mine = {"served", "models", "encoder", "source", "scratch", "checkpoint"}
    return {name: None for name in Tools.__dataclass_fields__ if name not in mine}


def result(conclusion: Conclusion) -> DiagnosisResult:
    assert isinstance(conclusion.result, DiagnosisResult)
    return conclusion.result


@pytest.mark.parametrize("by", [{"TrackingUID": "1.2.3.4"}, {"TrackingID": "Back 3"}])
def test_dermoscopic_image_stands_for_a_lesion_and_the_clinical_one_is_seen_beside_it(
    by: dict[str, str],
) -> None:
    source = Tracked({"1.dcm": by, "2.dcm": by, "3.dcm": {"TrackingUID": "1.2.9"}})
    conclusion = concluded(
        source,
        clinical(1),
        instance_row(2),
        instance_row(3),
        logits=[MELANOMA, NEVUS, NEVUS],
    )
    (lesion,) = result(conclusion).lesions
    first, second, _ = (image.sop_instance_uid for image in result(conclusion).images)
    assert lesion.images == (first, second)
    assert lesion.deciding == second  # though the clinical one looks like a melanoma
    assert conclusion.summary["suspicious"] is False
    assert Remark.NOT_DERMOSCOPIC in result(conclusion).images[0].quality.warnings
    assert Remark.NOT_DERMOSCOPIC not in result(conclusion).images[1].quality.warnings


def test_most_suspicious_of_two_dermoscopic_images_stands() -> None:
    source = Tracked({f"{n}.dcm": {"TrackingUID": "1.2.3.4"} for n in (1, 2)})
    conclusion = concluded(source, instance_row(1), instance_row(2), logits=[NEVUS, MELANOMA])
    (lesion,) = result(conclusion).lesions
    assert lesion.deciding == result(conclusion).images[1].sop_instance_uid
    assert conclusion.summary["suspicious"] is True


def test_identifier_tells_lesions_within_a_patient_only() -> None:
    source = Tracked(
        {
            "1.dcm": {"TrackingID": "Back 3", "PatientID": "A"},
            "2.dcm": {"TrackingID": "Back 3", "PatientID": "B"},
            "3.dcm": {"TrackingUID": "no UID", "TrackingID": "Back 4", "PatientID": "A"},
        }
    )
    found = result(concluded(source, *map(instance_row, (1, 2, 3))))
    lesions = [image.lesion for image in found.images]
    assert len(set(lesions)) == 3
    assert lesions[2] == tracking_uid("", "A", "", "Back 4")
    assert found.lesions == ()


def test_images_without_tracking_are_lesions_of_their_own() -> None:
    found = result(concluded(FakeInstances(), instance_row(1), instance_row(2)))
    assert [image.lesion for image in found.images] == ["", ""]
    assert found.lesions == ()
    assert found.standing == found.images


def test_lesion_tiles_are_left_to_the_screening() -> None:
    marked = {f"{n}.dcm": {"ImageType": "DERIVED\\PRIMARY\\TBP"} for n in (1, 2)}
    tiles = [clinical(1), clinical(2)]
    only = ANALYSIS.match(study(*tiles, source=Tracked(marked)))
    assert only.instances == ()
    assert "lesion tile" in only.reason
    series = "1.2.826.0.1.3680043.10.511.9.77"
    both = (*tiles, instance_row(3, series_instance_uid=series))
    assert ANALYSIS.match(study(*both, source=Tracked(marked))).instances == (both[2],)


def test_pipeline_gives_one_group_for_each_image_of_a_lesion() -> None:
    by = {"TrackingUID": "1.2.3.4", "TrackingID": "Back 3"}
    world = World(Tracked({"1.dcm": by, "2.dcm": by}))
    analysed = world.run(claim(clinical(1), instance_row(2)))
    report = world.files.written[analysed.objects[0].path]
    measurements = report.ContentSequence[-1].ContentSequence
    names = [group.ContentSequence[0].TextValue for group in measurements]
    assert names == ["Back 3 (image 1)", "Back 3"]  # the image that stands keeps the identity
    uids = {group.ContentSequence[1].UID for group in measurements}
    assert len(uids) == 2
    assert "1.2.3.4" in uids
