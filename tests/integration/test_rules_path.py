"""Rules in force on the whole path: the real ``lentigo up``, a model server that obeys, a PACS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import build_context
from sqlalchemy import select

from gateway.demo.samples import Kind, render
from gateway.sending.wrap import StudyIdentity, new_uid, wrap
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine, reading
from gateway.store.tables import Event, Generation, RuleVersion, Study
from tests.lentigo import ROOT, Lentigo
from tests.servers import require, wait_until
from tests.servers.triton_stub import TritonStub, triton_stub
from tests.storage_scp import SEGMENTATION, StorageScp

pytestmark = pytest.mark.timeout(600)

RULES = """\
[[rule]]
name = "at the end"
when = { calling_ae_title = "THEATRE" }
then = { close_at_association_end = true, priority = "urgent" }

[[rule]]
name = "three"
when = { calling_ae_title = "COUNTED" }
then = { expect_instances = 3 }

[[rule]]
name = "as stated"
when = { calling_ae_title = "STATED" }
then = { expect_instances = "ImagesInAcquisition" }

[[rule]]
name = "short"
when = { calling_ae_title = ["SHORT", "LATE", "HELD", "TEACHING"] }
then = { quiet_window_s = 1 }

[[rule]]
name = "due"
when = { calling_ae_title = "LATE" }
then = { deadline_s = 2 }

[[rule]]
name = "trial"
when = { calling_ae_title = "HELD" }
then = { hold = true, reason = "the trial office releases it" }

[[rule]]
name = "course"
when = { calling_ae_title = "TEACHING" }
then = { ignore = true, reason = "images of a course" }
last = true

[[rule]]
name = "all"
then = { quiet_window_s = 900 }
"""
TAKEN = ("1.2.840.10008.5.1.4.1.1.88.34", SEGMENTATION, "1.2.840.10008.5.1.4.1.1.7")


@dataclass(kw_only=True)
class Ward:
    """What runs, and how to send to it."""

    folder: Path
    lentigo: Lentigo
    pacs: StorageScp
    triton: TritonStub
    rules: Path
    _number: int = 0

    def draw(self, study: str = "", **elements: Any) -> Dataset:
        """Draw an image of a study."""
        self._number += 1
        path = self.folder / f"{self._number}.jpg"
        pixels = render(Kind.MELANOMA, 3).astype(np.int16) + self._number
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)[::2, ::2]).save(path, quality=90)
        ds = wrap(path, "dermoscopy", identity=StudyIdentity(study_instance_uid=study or new_uid()))
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        return ds

    def send(self, caller: str, *instances: Dataset) -> str:
        """Send on one association that is released; return the Study Instance UID."""
        paths = []
        for ds in instances:
            self._number += 1
            paths.append(self.folder / f"{self._number}.dcm")
            ds.save_as(paths[-1], enforce_file_format=True)
        done = subprocess.run(
            [
                *("dcmsend", "-aec", "LENTIGO", "-aet", caller, "127.0.0.1"),
                *(str(self.lentigo.dicom_port), *map(str, paths)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(instances[0].StudyInstanceUID)

    def send_and_abort(self, caller: str, ds: Dataset) -> str:
        """Send, and end the association by an abort."""
        syntax = ds.file_meta.TransferSyntaxUID
        assoc = AE(ae_title=caller).associate(
            "127.0.0.1",
            self.lentigo.dicom_port,
            contexts=[build_context(ds.SOPClassUID, syntax)],
            ae_title="LENTIGO",
        )
        assert assoc.send_c_store(ds).Status == 0
        assoc.abort()
        return str(ds.StudyInstanceUID)

    def state(self, uid: str) -> str:
        return str(self.lentigo.studies().get(uid, {}).get("state"))

    def wait(self, uid: str, state: str = "completed") -> None:
        wait_until(lambda: self.state(uid) == state, 90, f"{state}\n{self.lentigo.log()}")

    def rows(self, query: Any) -> list[Any]:
        engine = open_engine(StoreSettings(home=self.lentigo.home).record_url)
        try:
            with reading(engine) as connection:
                return list(connection.execute(query).all())
        finally:
            engine.dispose()

    def said(self, action: str, uid: str = "") -> list[dict[str, Any]]:
        """Details of the lines of one kind, of one study or of all."""
        query = select(Event.detail).where(Event.action == action).order_by(Event.id)
        if uid:
            query = query.join(Study, Study.id == Event.study_id)
            query = query.where(Study.study_instance_uid == uid)
        return [dict(row.detail) for row in self.rows(query)]

    def closed_because(self, uid: str) -> list[str]:
        return [str(detail["because"]) for detail in self.said("generation.closed", uid)]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One installation for all tests; each sends studies of its own."""
    require("dcmsend")
    folder = tmp_path_factory.mktemp("ward")
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    pacs = StorageScp(sop_classes=TAKEN)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pacs.serving())
        triton = stack.enter_context(triton_stub())
        lentigo = Lentigo(
            folder / "home",
            send_to=f"PACS@127.0.0.1:{pacs.port}",
            models=(),
            environment={
                "LENTIGO_TRITON_URL": triton.url,
                "LENTIGO_RULES_FILE": str(rules),
                "LENTIGO_WORKER_MAX_BACKOFF_S": "1",
            },
        )
        stack.callback(lentigo.stop)
        lentigo.start(240.0)
        yield Ward(folder=folder, lentigo=lentigo, pacs=pacs, triton=triton, rules=rules)


def test_a_study_closes_when_its_associations_are_released(ward: Ward) -> None:
    uid = ward.send("THEATRE", ward.draw())
    ward.wait(uid)
    assert ward.closed_because(uid) == ["its associations were released"]
    assert ward.said("generation.rules", uid)[0]["matched"].keys() == {"at the end", "all"}


def test_an_aborted_association_closes_nothing_until_somebody_says_so(ward: Ward) -> None:
    uid = ward.send_and_abort("THEATRE", ward.draw())
    # A study that comes later is through: this one was looked at meanwhile.
    ward.wait(ward.send("THEATRE", ward.draw()))
    assert ward.state(uid) == "received"
    assert "closes now" in ward.lentigo.command("complete", uid)
    ward.wait(uid)
    (because,) = ward.closed_because(uid)
    assert because.startswith("said to be complete by command line: ")


def test_expected_numbers_close_a_study(ward: Ward) -> None:
    first = ward.draw()
    uid = str(first.StudyInstanceUID)
    ward.send("COUNTED", first, ward.draw(uid))
    stated = ward.draw(ImagesInAcquisition=2)
    other = str(stated.StudyInstanceUID)
    ward.send("STATED", stated)
    ward.wait(ward.send("THEATRE", ward.draw()))
    assert (ward.state(uid), ward.state(other)) == ("received", "received")
    ward.send("COUNTED", ward.draw(uid))
    ward.send("STATED", ward.draw(other, ImagesInAcquisition=2))
    ward.wait(uid)
    ward.wait(other)
    assert ward.closed_because(uid) == ["all expected instances are here"]
    assert ward.closed_because(other) == ["all expected instances are here"]


def test_a_late_instance_is_the_next_generation_by_the_rules_of_its_time(ward: Ward) -> None:
    uid = ward.send("SHORT", ward.draw())
    ward.wait(uid)
    ward.send("SHORT", ward.draw(uid))
    wait_until(lambda: len(ward.closed_because(uid)) == 2, 60, "a second generation")
    ward.wait(uid)
    items = ward.lentigo.studies()[uid]["work_items"]
    assert [(item["generation"], item["state"]) for item in items] == [
        (1, "COMPLETED"),
        (2, "COMPLETED"),
    ]


def test_a_held_study_waits_for_a_person(ward: Ward) -> None:
    uid = ward.send("HELD", ward.draw())
    wait_until(lambda: ward.said("study.held", uid), 60, "the hold")
    assert "the trial office releases it" in ward.said("study.held", uid)[0]["reason"]
    ward.wait(ward.send("SHORT", ward.draw()))
    assert ward.lentigo.studies()[uid]["work_items"] == []
    ward.lentigo.command("release", uid)
    ward.wait(uid)


def test_an_ignored_study_says_which_rule_did_it(ward: Ward) -> None:
    uid = ward.send("TEACHING", ward.draw())
    ward.wait(uid, "refused")
    study = ward.lentigo.studies()[uid]
    assert study["work_items"] == []
    assert "rule 'course': images of a course" in study["reason"]


def test_a_deadline_that_passes_is_an_alarm_and_the_work_goes_on(ward: Ward) -> None:
    ward.triton.fault = "hang"
    try:
        uid = ward.send("LATE", ward.draw())
        wait_until(lambda: ward.said("generation.deadline_missed", uid), 60, "the alarm")
    finally:
        ward.triton.heal()
    ward.wait(uid)


def test_a_bad_file_is_refused_with_its_line_and_the_old_one_stays(ward: Ward) -> None:
    before = ward.rows(select(RuleVersion.id))
    ward.rules.write_text(RULES.replace('priority = "urgent"', 'priority = "high"'))
    try:
        wait_until(lambda: ward.said("rules.refused"), 60, "the refusal")
        reason = ward.said("rules.refused")[-1]["reason"]
        assert reason.startswith("rules.toml: line 4: rule 'at the end': priority is one of")
        assert ward.rows(select(RuleVersion.id)) == before
        uid = ward.send("THEATRE", ward.draw())
        ward.wait(uid)
        assert ward.closed_because(uid) == ["its associations were released"]
    finally:
        ward.rules.write_text(RULES + "\n# mended\n")
    wait_until(
        lambda: len(ward.rows(select(RuleVersion.id))) == len(before) + 1, 60, "the new version"
    )
    uid = ward.send("THEATRE", ward.draw())
    ward.wait(uid)
    ((used,),) = ward.rows(
        select(Generation.rule_version_id)
        .join(Study, Study.id == Generation.study_id)
        .where(Study.study_instance_uid == uid)
    )
    assert used == ward.rows(select(RuleVersion.id).order_by(RuleVersion.id))[-1].id
    shown = ward.lentigo.command("rules", "show")
    assert f"# version {used}," in shown
    assert "# mended" in shown


def test_the_newest_studies_of_the_record_are_tried(ward: Ward) -> None:
    uid = ward.send("TEACHING", ward.draw())
    ward.wait(uid, "refused")
    said = ward.lentigo.command("rules", "test", "--last", "1")
    assert said.startswith(uid)
    assert "ignored: rule 'course': images of a course" in said


def changed(ds: Dataset, *, renames: bool, anew: bool) -> Dataset:
    """One of our results as a PACS may give it back."""
    again = deepcopy(ds)
    if renames:
        again.Manufacturer, again.ManufacturerModelName = "Acme PACS", "Archive 3000"
    if anew:
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = new_uid()
        again.SeriesInstanceUID = new_uid()
        again.PatientID, again.PatientName = "ANON", "ANON"
    return again


@pytest.mark.parametrize(
    ("renames", "anew"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["as it was", "renamed", "new UIDs", "renamed, new UIDs"],
)
def test_our_results_that_come_back_are_filed_and_never_analysed(
    ward: Ward, renames: bool, anew: bool
) -> None:
    uid = ward.send("SHORT", ward.draw())
    ward.wait(uid)
    ours = [ds for ds in ward.pacs.stored if ds.StudyInstanceUID == uid]
    assert {ds.SOPClassUID for ds in ours} >= {TAKEN[0], TAKEN[2]}
    before = ward.lentigo.own_results()
    for ds in ours:
        assert ds.file_meta.TransferSyntaxUID != ImplicitVRLittleEndian
    ward.send("SHORT", *(changed(ds, renames=renames, anew=anew) for ds in ours))
    wait_until(
        lambda: ward.lentigo.own_results() == before + len(ours), 60, f"{len(ours)} of ours filed"
    )
    ward.wait(uid)
    items = ward.lentigo.studies()[uid]["work_items"]
    assert [(item["generation"], item["analysis"]) for item in items] == [(1, "diagnosis")]


def test_up_refuses_rules_that_cannot_be_used_where_none_were_before(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[[rule]]\nname = 'x'\nthen = { priority = 'high' }\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli", "up", "--home", str(tmp_path / "home")),
            *("--dicom-port", "0", "--http-port", "0"),
        ],
        env={**Lentigo(tmp_path / "home")._environment, "LENTIGO_RULES_FILE": str(rules)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "rules.toml: line 3: rule 'x': priority is one of urgent, routine, low" in done.stderr
