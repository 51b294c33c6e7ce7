"""Every analysis on the path: Orthanc routes the studies, and shows the results it got back."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from gateway.delivery.routes import Destination
from gateway.demo.studies import DemoStudy, body, follow_up, melanoma, slide
from gateway.host.embedded import free_port
from gateway.wording import headline
from tests.acceptance.test_path import check_object, delivered, push
from tests.lentigo import Lentigo, running_lentigo
from tests.servers import Orthanc, orthanc, require

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Clinic:
    """A PACS, a Lentigo, and the studies that went through both."""

    pacs: Orthanc
    lentigo: Lentigo
    sent: dict[str, DemoStudy]
    found: dict[str, dict[str, Any]]

    def item(self, study: str, analysis: str) -> dict[str, Any]:
        """The one work item of an analysis of a study."""
        items = self.found[self.sent[study].study_instance_uid]["work_items"]
        (item,) = [each for each in items if each["analysis"] == analysis]
        return item

    def object(self, study: str, analysis: str, role: str) -> pydicom.Dataset:
        """One result object as the PACS gives it back."""
        objects = {each["role"]: each for each in self.item(study, analysis)["objects"]}
        uid = objects[role]["sop_instance_uid"]
        (ds,) = [
            ds
            for ds in delivered(self.pacs, self.sent[study].study_instance_uid)
            if ds.SOPInstanceUID == uid
        ]
        return ds


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Send one study of each kind through Orthanc, and wait for every result."""
    require("Orthanc", "dcmsend", "dciodvfy", "dsrdump")
    folder = tmp_path_factory.mktemp("clinic")
    studies = [
        *follow_up(folder),
        body(folder, count=24),
        slide(folder, (1536, 1280)),
        melanoma(folder),
    ]
    port = free_port()
    with (
        orthanc(
            folder / "pacs",
            aet="PACS",
            route_to=Destination(ae_title="LENTIGO", host="127.0.0.1", port=port),
        ) as pacs,
        running_lentigo(
            folder / "home",
            send_to=f"PACS@127.0.0.1:{pacs.dicom_port}",
            arguments=("--dicom-port", str(port)),
            environment={"LENTIGO_WORKER_DEMONSTRATION_MODELS": "1"},
            models=(),
        ) as lentigo,
    ):
        for study in studies:
            for name, content in study.documents.items():
                attach(lentigo, study, folder / name, content)
        push([path for study in studies for path in study.instances], pacs.dicom_port, "PACS")
        found = lentigo.wait_for_states({"completed"}, len(studies), 400)
        yield Clinic(pacs, lentigo, {each.name: each for each in studies}, found)


def attach(lentigo: Lentigo, study: DemoStudy, path: Path, content: bytes) -> None:
    """Send a document with the command, as a site without REST would."""
    path.write_bytes(content)
    lentigo.command("attach", "--study", study.study_instance_uid, str(path))


def test_every_study_gets_the_analyses_that_apply_and_no_other(clinic: Clinic) -> None:
    def analyses(study: str) -> set[str]:
        items = clinic.found[clinic.sent[study].study_instance_uid]["work_items"]
        return {item["analysis"] for item in items}

    assert analyses("follow-up-1") == {"diagnosis", "change_detection"}
    assert analyses("follow-up-2") == {"diagnosis", "change_detection"}
    assert analyses("body") == {"tbp_screening"}
    assert analyses("slide") == {"slide_classification"}
    assert analyses("melanoma-stage-ii") == {"diagnosis", "prognosis"}


def test_every_result_is_confirmed_once_and_valid(clinic: Clinic, tmp_path: Path) -> None:
    for study in clinic.found.values():
        in_pacs = delivered(clinic.pacs, study["study_instance_uid"])
        made = [each for item in study["work_items"] for each in item["objects"]]
        assert sorted(ds.SOPInstanceUID for ds in in_pacs) == sorted(
            each["sop_instance_uid"] for each in made
        )
        for number, ds in enumerate(in_pacs):
            check_object(ds, tmp_path / f"{number}.dcm")


def test_every_headline_is_words_without_a_patient(clinic: Clinic) -> None:
    for study in clinic.found.values():
        for item in study["work_items"]:
            assert item["outcome"] in ("assessed", "not_assessed")
            if item["outcome"] == "assessed":
                assert headline(item["summary"])
            else:
                assert item["reason"]


def test_the_follow_up_is_compared_with_the_image_before(clinic: Clinic) -> None:
    first = clinic.item("follow-up-1", "change_detection")
    assert first["outcome"] == "not_assessed"
    second = clinic.item("follow-up-2", "change_detection")
    assert second["outcome"] == "assessed"
    report = clinic.object("follow-up-2", "change_detection", "sr")
    before = pydicom.dcmread(clinic.sent["follow-up-1"].instances[0], stop_before_pixels=True)
    assert before.SOPInstanceUID in str(report.PertinentOtherEvidenceSequence)


def test_the_odd_lesions_are_among_the_flagged(clinic: Clinic, tmp_path: Path) -> None:
    item = clinic.item("body", "tbp_screening")
    assert item["outcome"] == "assessed"
    text = dumped(clinic.object("body", "tbp_screening", "sr"), tmp_path / "sr.dcm")
    assert "Lesion 5" in text


def test_the_slide_has_regions_in_its_own_frame_of_reference(
    clinic: Clinic, tmp_path: Path
) -> None:
    item = clinic.item("slide", "slide_classification")
    assert item["outcome"] == "assessed"
    source = pydicom.dcmread(clinic.sent["slide"].instances[0], stop_before_pixels=True)
    text = dumped(clinic.object("slide", "slide_classification", "sr"), tmp_path / "sr.dcm")
    assert "SCOORD3D" in text
    assert source.FrameOfReferenceUID in text


def test_the_melanoma_has_a_prognosis_from_its_document(clinic: Clinic) -> None:
    item = clinic.item("melanoma-stage-ii", "prognosis")
    assert item["outcome"] == "assessed", item["reason"]
    roles = {each["role"].partition("-")[0] for each in item["objects"]}
    assert {"sr", "page", "overview"} <= roles


def dumped(ds: pydicom.Dataset, path: Path) -> str:
    """A report as dcmtk reads it."""
    ds.save_as(path, enforce_file_format=True)
    done = subprocess.run(["dsrdump", "+Pc", "+Pu", str(path)], capture_output=True, check=True)
    return done.stdout.decode()
