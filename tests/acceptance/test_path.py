"""The main job on real parts: Orthanc routes a study to Lentigo and gets the results back."""

import subprocess
from pathlib import Path
from typing import Any

import highdicom
import pydicom
import pytest

from gateway.delivery.routes import Destination
from gateway.host.embedded import free_port
from gateway.listener.acceptance import SECONDARY_CAPTURE
from gateway.sending.send import send
from tests.acceptance.conftest import make_studies
from tests.lentigo import Lentigo, running_lentigo, wait_a_moment
from tests.servers import Orthanc, orthanc, require, wait_until
from tests.servers.process import accepts

pytestmark = pytest.mark.timeout(400)

SR, SEG = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.66.4"


def push(paths: list[Path], port: int, ae_title: str) -> None:
    """Send with dcmtk, as a modality would."""
    done = subprocess.run(
        ["dcmsend", "-aec", ae_title, "127.0.0.1", str(port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def uid_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def delivered(pacs: Orthanc, study_uid: str) -> list[pydicom.Dataset]:
    return [ds for ds in pacs.study_datasets(study_uid) if ds.get("Manufacturer") == "Lentigo"]


def assert_one_result_set(study: dict[str, Any], pacs: Orthanc) -> None:
    """One completed work item whose objects are confirmed, each once in the PACS."""
    assert study["state"] == "completed", study
    (item,) = study["work_items"]
    assert item["state"] == "COMPLETED"
    uids = [each["sop_instance_uid"] for each in item["objects"]]
    assert len(uids) == len(set(uids)) >= 2
    for each in item["objects"]:
        (delivery,) = each["deliveries"]
        assert delivery["state"] == "CONFIRMED"
        # A commitment that is lost with a process that was killed is replaced by a query.
        assert delivery["confirmed_by"] in ("commitment", "c-find")
    in_pacs = [ds.SOPInstanceUID for ds in delivered(pacs, study["study_instance_uid"])]
    assert sorted(in_pacs) == sorted(uids)


@pytest.mark.parametrize("route_all", [False, True], ids=["routes images", "routes everything"])
def test_orthanc_routes_and_gets_valid_results_once(
    tmp_path: Path, studies: list[Path], route_all: bool
) -> None:
    require("Orthanc", "dcmsend", "dciodvfy", "dsrdump")
    port = free_port()
    with (
        orthanc(
            tmp_path / "pacs",
            aet="PACS",
            route_to=Destination(ae_title="LENTIGO", host="127.0.0.1", port=port),
            route_all=route_all,
        ) as pacs,
        running_lentigo(
            tmp_path / "home",
            send_to=f"PACS@127.0.0.1:{pacs.dicom_port}",
            arguments=("--dicom-port", str(port)),
        ) as lentigo,
    ):
        push(studies, pacs.dicom_port, "PACS")
        lentigo.wait_for_states({"completed"}, len(studies), 240)
        if route_all:
            # Time for the results to come back and, were there a loop, to be analysed.
            wait_until(lambda: lentigo.own_results() >= 2 * len(studies), 60, "results coming back")
            wait_a_moment(6)
        found = lentigo.studies()
        assert set(found) == {uid_of(path) for path in studies}
        for study in found.values():
            assert_one_result_set(study, pacs)
            classes = {ds.SOPClassUID for ds in delivered(pacs, study["study_instance_uid"])}
            assert {SR, SECONDARY_CAPTURE} <= classes
        assert any(ds.SOPClassUID == SEG for uid in found for ds in delivered(pacs, uid))
        for uid in found:
            for number, ds in enumerate(delivered(pacs, uid)):
                check_object(ds, tmp_path / f"{number}.dcm")


def check_object(ds: pydicom.Dataset, path: Path) -> None:
    """The validators and readers of others take the object as the PACS gives it back."""
    ds.save_as(path, enforce_file_format=True)
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    errors = [line for line in (said.stdout + said.stderr).splitlines() if "Error" in line]
    assert errors == []
    if ds.SOPClassUID == SR:
        assert subprocess.run(["dsrdump", str(path)], capture_output=True).returncode == 0
        assert highdicom.sr.srread(path).SOPInstanceUID == ds.SOPInstanceUID


def test_a_late_instance_opens_the_next_generation_and_supersedes(
    tmp_path: Path, studies: list[Path]
) -> None:
    first, second = studies[0], studies[1]
    ds = pydicom.dcmread(second)
    ds.StudyInstanceUID = uid_of(first)
    ds.save_as(second)
    with running_lentigo(tmp_path / "home", to_archive=True) as lentigo:
        peer = Destination(ae_title="LENTIGO", host="127.0.0.1", port=lentigo.dicom_port)
        send([first], peer)
        lentigo.wait_for_studies(1)
        send([second], peer)
        wait_until(
            lambda: (
                [i["state"] for s in lentigo.studies().values() for i in s["work_items"]]
                == ["COMPLETED", "COMPLETED"]
            ),
            90,
            "the second generation",
        )
        (study,) = lentigo.studies().values()
        assert [item["generation"] for item in study["work_items"]] == [1, 2]
        reports = [
            pydicom.dcmread(each["path"])
            for item in study["work_items"]
            for each in item["objects"]
            if each["role"] == "sr"
        ]
        (predecessor,) = reports[1].PredecessorDocumentsSequence
        reference = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == reports[0].SOPInstanceUID


SERVICES = (
    *("listener", "workers-quick", "workers-long", "triton", "redis", "sweeper", "dashboard"),
)


def test_whatever_is_killed_every_acknowledged_study_ends_in_one_result_set(
    tmp_path: Path, pictures: list[Path]
) -> None:
    require("Orthanc")
    with orthanc(tmp_path / "pacs", aet="PACS") as pacs:
        lentigo = Lentigo(tmp_path / "home", send_to=f"PACS@127.0.0.1:{pacs.dicom_port}")
        lentigo.start()
        try:
            peer = Destination(ae_title="LENTIGO", host="127.0.0.1", port=lentigo.dicom_port)
            sent = 0
            # The next is killed while the last one's studies are still on their way. Triton does
            # not see that a model's process is gone, so that nothing may come after that one.
            for victim in (*SERVICES, "everything", "model"):
                studies = make_studies(pictures[:3], tmp_path / victim)
                assert send(studies, peer).is_complete
                sent += len(studies)
                lentigo.wait_for_states({"analysing", "delivering"}, 1, 60)
                if victim == "everything":
                    lentigo.kill_all()
                    lentigo.start()
                elif victim == "model":
                    lentigo.kill_model_process()
                else:
                    lentigo.kill(victim)
                wait_until(
                    lambda: (
                        set(lentigo.children()) == set(SERVICES) and accepts(lentigo.dicom_port)
                    ),
                    60,
                    "all services back",
                )
            found = lentigo.wait_for_states({"completed"}, sent, 240)
            assert len(found) == sent
            for study in found.values():
                assert_one_result_set(study, pacs)
        finally:
            assert lentigo.stop() == 0
