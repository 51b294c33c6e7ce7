"""A record of an earlier version that holds work is brought to the newest schema, rows and all."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.store.engine import MIGRATIONS, migrate, open_engine

FIRST_ROWS = """
INSERT INTO studies (id, study_instance_uid, state, reason, first_received_at, last_received_at,
    state_changed_at) VALUES (1, '1.2', 'delivering', '', '2026-01-01', '2026-01-01', '2026-01-01');
INSERT INTO generations (id, study_id, number, state, opened_at, last_instance_at, closes_at,
    attempts, reason) VALUES (1, 1, 1, 'routed', '2026-01-01', '2026-01-01', '2026-01-01', 0, '');
INSERT INTO instances (id, study_id, generation_id, sop_instance_uid, sop_class_uid,
    series_instance_uid, transfer_syntax_uid, modality, sha256, size_bytes, path, disposition,
    reason, calling_ae_title, association_id, received_at)
    VALUES (1, 1, 1, '1.3', '1.4', '1.5', '1.6', 'DMS', 'ab', 1, 'p', 'accepted', '', 'CAM', 'x',
    '2026-01-01');
INSERT INTO work_items (id, study_id, generation_id, analysis, model_digest, state, step, outcome,
    reason, failure_kind, priority, attempts, crashes, next_attempt_at, lease_owner, created_at)
    VALUES (1, 1, 1, 'diagnosis', 'd', 'SCHEDULED', 'deliver', '', '', '', 0, 0, 0, '2026-01-01',
    '', '2026-01-01');
INSERT INTO result_objects (id, work_item_id, role, sop_class_uid, sop_instance_uid,
    series_instance_uid, path, sha256, size_bytes, created_at)
    VALUES (1, 1, 'sr', '1.4', '1.7', '1.8', 'p', 'ab', 1, '2026-01-01');
INSERT INTO deliveries (id, result_object_id, destination, state, reason, confirmed_by)
    VALUES (1, 1, 'PACS@h:1', 'PENDING', '', '');
INSERT INTO events (id, at, study_id, work_item_id, action, level, detail)
    VALUES (1, '2026-01-01', 1, 1, 'work_item.analysed', 'info', '{}');
"""
TABLES = (
    *("studies", "generations", "instances", "work_items"),
    *("result_objects", "deliveries", "events"),
)


@pytest.mark.parametrize("start", ["0001", "0003"])
def test_a_record_that_holds_work_is_upgraded(tmp_path: Path, start: str) -> None:
    path = tmp_path / "record.sqlite3"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = f"sqlite:///{path}"
    command.upgrade(config, start)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_ROWS)
        connection.commit()
    migrate(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            assert connection.execute(f"SELECT id FROM {table}").fetchall() == [(1,)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    engine = open_engine(f"sqlite:///{path}")
    with engine.connect() as opened:
        head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        assert MigrationContext.configure(opened).get_current_revision() == head
        assert opened.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()
