"""Every action that is written to the trail has a word of the standard; queries are in it."""

import ast
import re
from pathlib import Path

from gateway.audit.events import EXPORT, KINDS, QUERY, SECURITY_ALERT, USER_AUTHENTICATION
from gateway.audit.message import Source, audit_message
from gateway.store.audit import Trail
from gateway.store.people.queries import note_query
from workers.adapters.priors import Wanted
from workers.adapters.priors_audit import AuditedArchive

ROOT = Path(__file__).resolve().parents[4]
_ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
_WRITERS = ("append", "audit", "_ordered", "append_audit")


def _written() -> dict[str, str]:
    """Action -> file of every constant that is handed to a writer of the trail."""
    found = {}
    for path in [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        text = path.read_text()
        if "audit" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            is_writer = name.rpartition(".")[2] in _WRITERS and (
                name.endswith(("audit.append", "_ordered", ".audit")) or name == "append"
            )
            words = [each for each in node.args if isinstance(each, ast.Constant)]
            if is_writer:
                found |= {
                    each.value: path.name
                    for each in words
                    if isinstance(each.value, str) and _ACTION.fullmatch(each.value)
                }
    return found


def test_every_action_that_is_written_has_a_word_of_the_standard():
    written = _written()
    assert len(written) > 15
    assert {"login.failed", "study.held", "query.sent"} <= set(written)
    assert {action: file for action, file in written.items() if action not in KINDS} == {}


def test_the_events_that_the_standard_asks_for_are_there():
    events = {kind.event for kind in KINDS.values()}
    assert {QUERY, EXPORT, SECURITY_ALERT, USER_AUTHENTICATION} <= events


def test_a_query_names_the_pacs_and_its_keys_and_no_value(record):
    uid = record.receive(patient_id="KANARI-1")

    class Silent:
        asked = 0

        def fetch(self, wanted, checkpoint):
            # The trail knows before anybody is asked.
            assert [each.action for each in Trail(record.engine).entries()] == ["query.sent"]
            self.asked += 1
            return 3

    wanted = Wanted(
        patient_id="KANARI-1",
        issuer_of_patient_id="",
        before="20260301",
        study_instance_uid=uid,
        tracking_uids=frozenset(),
        only_tracked=False,
        known=(),
    )
    silent = Silent()
    archive = AuditedArchive(silent, record.engine, name="PACS")
    assert archive.fetch(wanted, lambda: None) == 3
    assert silent.asked == 1
    (entry,) = Trail(record.engine).entries()
    assert (entry.actor, entry.detail["keys"]) == (
        "PACS",
        "PatientID, IssuerOfPatientID, StudyDate",
    )
    message = audit_message(entry, Source(source_id="host"))
    assert 'csd-code="110112"' in message
    assert "KANARI" not in message
    assert "KANARI" not in str(entry.detail)


def test_a_query_of_an_unknown_study_is_noted_too(record):
    note_query(record.engine, "1.2.3", asked="PACS", keys=("PatientID",))
    (entry,) = Trail(record.engine).entries()
    assert entry.detail["study"] is None
