"""What a purge takes and what it leaves: policy, holds, patients under way, links, quotas, room."""

import argparse
import datetime as dt
import sqlite3

import pytest
from sqlalchemy import select, update

from gateway.delivery.routes import FOLDER
from gateway.errors import QuotaExceeded, RetentionError, SettingsError, SpoolFull
from gateway.listener.ports import Registration
from gateway.retention import command
from gateway.retention.door import open_spool
from gateway.retention.purge import Purge
from gateway.retention.quota import QuotaDesk, parse_quotas
from gateway.retention.watermarks import Disk, forecast
from gateway.settings import ListenerSettings, RetentionSettings, StoreSettings
from gateway.spool import StoredFile
from gateway.store import audit
from gateway.store.engine import reading, writing
from gateway.store.people.control import StudyControl
from gateway.store.retention.legal_holds import LegalHolds
from gateway.store.tables import Event, Instance, ResultObject, Study
from gateway.store.values import Scheduled
from tests.records import PACS, association, header, new_object, new_uid, stored

DAY_S = 86400.0


class Kept:
    """A record with its files, and purges of it."""

    def __init__(self, record, home):
        self.record = record
        self.store = StoreSettings(home=home)
        for folder in (self.store.spool_folder, self.store.results_folder):
            folder.mkdir(parents=True)

    def file(self, content=""):
        found = stored(content)
        path = self.store.spool_folder / found.relative_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() or b"x")
        return StoredFile(
            relative_path=found.relative_path,
            sha256=found.sha256,
            size_bytes=found.size_bytes,
            path=path,
        )

    def receive(self, file=None, **changes):
        received = header(**changes)
        file = file or self.file(new_uid())
        outcome = self.record.intake.register_instance(
            header=received, stored=file, association=association()
        )
        return received, file, outcome

    def study(self, *, destination=PACS, deliver="CONFIRMED", **changes):
        """Take a study all the way; return its UID, its instance's file and its result's."""
        received, file, _ = self.receive(**changes)
        (item,) = self.record.ledger.record_routing(
            self.record.close(),
            [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="an image")],
            "",
        )
        made = new_object()
        result = self.store.results_folder / made.path
        result.parent.mkdir()
        result.write_bytes(b"sr")
        self.record.analyse(item, objects=(made,), destinations=(destination,))
        if deliver:
            self.record.deliver(item, state=deliver)
        return received.study_instance_uid, file.path, result

    def purge(self, **days):
        settings = RetentionSettings(**days)
        return Purge(self.record.engine, self.store, settings, self.record.clock).run()

    def wait(self, days):
        self.record.clock.advance(days * DAY_S)

    def rows(self, query):
        with reading(self.record.engine) as connection:
            return connection.execute(query).all()

    def check(self):
        """No row that counts points to a file that is gone."""
        for table, folder in (
            (Instance, self.store.spool_folder),
            (ResultObject, self.store.results_folder),
        ):
            for row in self.rows(select(table.path).where(table.purged_at.is_(None))):
                assert (folder / row.path).is_file()


@pytest.fixture
def kept_files(sqlite_record, home):
    return Kept(sqlite_record(home), home)


def test_nothing_goes_by_default(kept_files):
    _, image, result = kept_files.study()
    kept_files.wait(10000)
    assert kept_files.purge().is_empty
    assert image.exists()
    assert result.exists()


def test_what_a_pacs_confirmed_goes_after_its_days(kept_files):
    uid, image, result = kept_files.study()
    kept_files.wait(6)
    assert kept_files.purge(instances_days=7, results_days=30).is_empty
    kept_files.wait(2)
    report = kept_files.purge(instances_days=7, results_days=30)
    assert dict(report.files) == {"instances": 1}
    assert (image.exists(), result.exists()) == (False, True)
    kept_files.check()
    (event,) = kept_files.rows(select(Event.detail).where(Event.action == "retention.purged"))
    assert event.detail["files"] == 1
    kept_files.wait(30)
    assert dict(kept_files.purge(instances_days=7, results_days=30).files) == {"results": 1}
    assert not result.parent.exists()
    kept_files.check()
    assert kept_files.rows(select(Study.state).where(Study.study_instance_uid == uid))


def test_an_instance_that_comes_again_is_taken_back(kept_files):
    received, file, _ = kept_files.receive()
    with writing(kept_files.record.engine) as connection:
        connection.execute(update(Study).values(state="refused"))
        connection.exec_driver_sql("UPDATE generations SET state = 'routed'")
    kept_files.wait(9)
    assert dict(kept_files.purge(unconfirmed_days=7).files) == {"instances": 1}
    again = StoredFile(
        relative_path=file.relative_path,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        path=file.path,
    )
    file.path.write_bytes(b"x")
    outcome = kept_files.record.intake.register_instance(
        header=received, stored=again, association=association()
    )
    assert outcome is not Registration.CONFLICT
    (row,) = kept_files.rows(select(Instance.purged_at, Instance.is_purge_pending))
    assert row == (None, False)
    kept_files.check()


def test_what_no_pacs_confirmed_has_days_of_its_own(kept_files):
    _, image, result = kept_files.study(destination=FOLDER)
    _, refused_image, _ = kept_files.study(deliver="REFUSED")
    kept_files.wait(400)
    assert kept_files.purge(instances_days=1, results_days=1).is_empty
    report = kept_files.purge(unconfirmed_days=365)
    assert report.files["instances"] == 2
    assert not image.exists()
    assert not refused_image.exists()
    assert not result.exists()
    kept_files.check()


def test_days_of_the_unconfirmed_take_no_confirmed_result(kept_files):
    _, _, result = kept_files.study()
    kept_files.wait(400)
    assert kept_files.purge(unconfirmed_days=30).is_empty
    assert result.exists()


ALL = {name: 1.0 for name in RetentionSettings.model_fields if name.endswith("_days")}


def test_a_study_under_way_keeps_everything(kept_files):
    _, image, result = kept_files.study(deliver="")
    _, received, _ = kept_files.receive()
    kept_files.wait(400)
    kept_files.purge(**ALL)
    assert image.exists()
    assert result.exists()
    assert received.path.exists()


def test_an_earlier_study_stays_while_a_study_of_the_patient_is_under_way(kept_files):
    _, image, _ = kept_files.study(patient_id="P1")
    _, other, _ = kept_files.study(patient_id="P2")
    kept_files.wait(30)
    kept_files.receive(patient_id="P1")
    kept_files.purge(**ALL)
    assert image.exists()
    assert not other.exists()


def test_a_legal_hold_keeps_a_study_until_it_is_released(kept_files):
    uid, image, _ = kept_files.study()
    holds = LegalHolds(kept_files.record.engine, kept_files.record.clock)
    holds.place(uid, reason="file 7/26", actor="admin")
    with pytest.raises(RetentionError, match="held already"):
        holds.place(uid, reason="again", actor="admin")
    kept_files.wait(400)
    kept_files.purge(**ALL)
    assert image.exists()
    holds.release(uid, actor="admin")
    with pytest.raises(RetentionError, match="is not held"):
        holds.release(uid, actor="admin")
    kept_files.purge(**ALL)
    assert not image.exists()


def test_a_held_study_keeps_everything(kept_files):
    uid, image, _ = kept_files.study()
    control = StudyControl(kept_files.record.engine, kept_files.record.clock)
    control.hold(control.find(uid).id, actor="admin", reason="wait")
    kept_files.wait(400)
    kept_files.purge(**ALL)
    assert image.exists()


def test_a_link_is_left_alone_and_said(kept_files, tmp_path, caplog):
    _, image, _ = kept_files.study()
    precious = tmp_path / "precious"
    precious.write_bytes(b"not ours")
    image.unlink()
    image.symlink_to(precious)
    kept_files.wait(400)
    report = kept_files.purge(**ALL)
    assert sum(report.faults.values()) == 1
    assert precious.read_bytes() == b"not ours"
    assert image.is_symlink()


def test_a_folder_that_became_a_link_leads_nowhere(kept_files, tmp_path):
    _, image, _ = kept_files.study()
    elsewhere = tmp_path / "elsewhere"
    image.parent.rename(elsewhere)
    image.parent.symlink_to(elsewhere)
    kept_files.wait(400)
    assert kept_files.purge(**ALL).faults
    assert (elsewhere / image.name).exists()


def test_timelines_and_embeddings_have_days(kept_files):
    kept_files.study()
    with sqlite3.connect(kept_files.store.features_file) as features:
        features.execute("CREATE TABLE embeddings (key TEXT, at REAL)")
        old = (kept_files.record.clock() - dt.timedelta(days=5)).timestamp()
        features.executemany("INSERT INTO embeddings VALUES (?, ?)", [("a", old), ("b", old + 9e5)])
    features.close()
    report = kept_files.purge(features_days=2)
    assert report.features == 1
    before = len(kept_files.rows(select(Event.id)))
    kept_files.wait(9)
    assert kept_files.purge(events_days=3).events == 0  # the audit trail has not seen them yet
    with writing(kept_files.record.engine) as connection:
        audit.lock_state(connection)
        audit.set_cursor(connection, 10**6, {})
    assert kept_files.purge(events_days=3).events == before - 1
    assert len(kept_files.rows(select(Event.id))) == 1


# -- room ---------------------------------------------------------------------------------------


def test_a_full_disk_refuses_new_work_and_removes_nothing(kept_files):
    _, image, _ = kept_files.study()
    full = RetentionSettings(high_watermark_percent=0.0001, low_watermark_percent=0.0001)
    kept_files.wait(400)
    spool = open_spool(kept_files.store, ListenerSettings(), full)
    with pytest.raises(SpoolFull):
        spool.begin()
    settings = full.model_copy(update={"instances_days": 1000.0})
    assert Purge(kept_files.record.engine, kept_files.store, settings).run().is_empty
    assert image.exists()
    found = forecast(kept_files.record.engine, kept_files.store.home, ListenerSettings(), full)
    assert found.is_refusing
    assert found.is_above_low


def test_the_forecast_divides_the_room_by_the_pace(kept_files):
    kept_files.study()
    settings = RetentionSettings(high_watermark_percent=0)
    found = forecast(
        kept_files.record.engine,
        kept_files.store.home,
        ListenerSettings(reserve_bytes=0),
        settings,
        kept_files.record.clock,
    )
    assert found.days_until_refusal is not None
    assert found.days_until_refusal == pytest.approx(
        found.disk.free_bytes / found.bytes_per_day, rel=0.01
    )
    assert 0 <= Disk.of(kept_files.store.home / "not there yet").used_percent <= 100


@pytest.mark.parametrize(
    "text", ["CAMERA@10.0.0.1", "CAMERA@10.0.0.1=", "=5GB", "CAMERA@10.0.0.1=lots", "A@host=5GB"]
)
def test_a_quota_that_cannot_be_read_is_refused(text):
    with pytest.raises(SettingsError):
        parse_quotas(text)


def test_a_source_that_used_up_its_share_is_refused_and_the_others_are_served(kept_files):
    desk = QuotaDesk(
        kept_files.record.engine, parse_quotas("CAMERA@10.0.0.0/8=100, *@10.0.0.0/8=1kB")
    )
    camera = association(peer_address="10.0.0.7")
    scanner = association(peer_address="10.0.0.8", calling_ae_title="SCANNER")
    desk.admit(camera, 60)
    with pytest.raises(QuotaExceeded):
        desk.admit(camera, 60)
    desk.admit(camera, 40)
    desk.admit(scanner, 800)
    with pytest.raises(QuotaExceeded):
        desk.admit(scanner, 200)
    desk.admit(association(peer_address="192.0.2.1"), 10**9)
    (alarm,) = kept_files.rows(
        select(Event.detail, Event.level).where(
            Event.action == "quota.exceeded", Event.level == "alarm"
        )
    )[:1]
    assert alarm.detail["quota"] == "CAMERA@10.0.0.0/8"


# -- the command ----------------------------------------------------------------------------------


def lentigo_retention(home, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*arguments, "--home", str(home)]))


def test_the_command_plans_holds_and_purges(kept_files, home, capsys, monkeypatch):
    uid, image, _ = kept_files.study()
    monkeypatch.setenv("LENTIGO_RETENTION_INSTANCES_DAYS", "1")
    with writing(kept_files.record.engine) as connection:
        long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        connection.execute(update(Study).values(last_received_at=long_ago))
    assert lentigo_retention(home, "plan") == 0
    assert "a purge would remove 1 instances" in capsys.readouterr().out
    assert lentigo_retention(home, "hold", uid, "--reason", "file 7") == 0
    lentigo_retention(home, "plan")
    lentigo_retention(home, "holds")
    said = capsys.readouterr().out
    assert "a purge would remove nothing" in said
    assert f"{uid}  since" in said
    lentigo_retention(home, "release", uid)
    lentigo_retention(home, "run")
    assert "removed 1 instances" in capsys.readouterr().out
    assert not image.exists()
    assert lentigo_retention(home, "disk", "--json") == 0
    assert '"is_refusing"' in capsys.readouterr().out


def test_quarantine_stays_until_its_days_are_set_and_under_a_hold(kept_files):
    """Refused bytes, and other bytes under a known UID, which were answered with success."""
    record = kept_files.record
    known, _, _ = kept_files.receive()
    _, conflict, outcome = kept_files.receive(
        sop_instance_uid=known.sop_instance_uid, study_instance_uid=known.study_instance_uid
    )
    assert outcome is Registration.CONFLICT
    refused = kept_files.file(new_uid())
    record.intake.register_refusal(
        association=association(), status=0xC000, reason="no", stored=refused, header=None
    )
    holds = LegalHolds(record.engine, record.clock)
    holds.place(known.study_instance_uid, reason="file 7/26", actor="admin")
    kept_files.wait(400)
    kept_files.purge()
    assert refused.path.exists()
    kept_files.purge(quarantine_days=90)
    assert (refused.path.exists(), conflict.path.exists()) == (False, True)
    holds.release(known.study_instance_uid, actor="admin")
    kept_files.purge(quarantine_days=90)
    assert not conflict.path.exists()
