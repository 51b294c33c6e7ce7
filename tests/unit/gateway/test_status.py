"""``lentigo status``, and the reads and words behind it."""

import datetime as dt
import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from gateway import cli
from gateway.home import RunningInstance, announce_instance
from gateway.store.engine import writing
from gateway.store.reading.status import StatusReader, study_list
from gateway.store.reading.study_filter import StudyFilter
from gateway.store.tables import Study
from gateway.wording import action_words, delivery_answer, duration_words, findings
from tests.records import PACS, START, Record, association, header, new_object, new_uid

RESULTS = Path("/srv/lentigo/results")


def reader(record: Record) -> StatusReader:
    return StatusReader(record.engine, RESULTS, record.clock)


def completed(record: Record, **changes) -> str:
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid, **changes)
    record.analyse(item)
    record.deliver(item)
    return uid


def failed(record: Record) -> str:
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.ledger.fail(record.claim(item), kind="REJECTED", reason="no pixel data")
    return uid


# -- reads --------------------------------------------------------------------------------------


def test_status_of_a_study_has_every_part(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    made = new_object("sr")
    record.analyse(item, objects=(made,))
    record.deliver(item)
    record.clock.advance(3.0)
    (found,) = study_list(record.engine, RESULTS)

    def time(seconds: float) -> str:
        return (START + dt.timedelta(seconds=seconds)).isoformat(timespec="milliseconds")

    assert found.pop("age_s") > 0
    assert found == {
        "number": 1,
        "study_instance_uid": uid,
        "state": "completed",
        "reason": "",
        "received_at": time(0.0),
        "last_received_at": time(0.0),
        "generation": 1,
        "instances": 1,
        "work_items": [
            {
                "analysis": "diagnosis",
                "state": "COMPLETED",
                "step": "deliver",
                "outcome": "assessed",
                "reason": "",
                "generation": 1,
                "model_digest": "d" * 64,
                "attempts": 1,
                "failure_kind": "",
                "created_at": time(2.0),
                "started_at": time(2.0),
                "analysed_at": time(2.0),
                "finished_at": time(2.0),
                "next_attempt_at": None,
                "summary": {"headline": "NV 0.91", "reason": ""},
                "objects": [
                    {
                        "id": 1,
                        "role": "sr",
                        "sop_class_uid": made.sop_class_uid,
                        "sop_instance_uid": made.sop_instance_uid,
                        "path": str(RESULTS / made.path),
                        "deliveries": [
                            {
                                "destination": PACS,
                                "state": "CONFIRMED",
                                "confirmed_by": "c-find",
                                "reason": "",
                            },
                        ],
                    },
                ],
            },
        ],
    }
    json.dumps(found)


def test_age_counts_from_the_first_instance(record):
    uid = record.receive()
    record.clock.advance(1.0)
    record.receive(study_instance_uid=uid)
    record.clock.advance(9.0)
    study = reader(record).study(uid)
    assert (study.age_s, study.instances, study.generation) == (10.0, 2, 1)


def test_unknown_study_is_none(record):
    assert reader(record).study("1.2.3") is None


def test_work_items_of_every_generation_are_there_and_the_newest_are_told(record):
    uid = completed(record)
    record.schedule(study_instance_uid=uid)
    study = reader(record).study(uid)
    assert [item.generation for item in study.work_items] == [1, 2]
    assert [item.generation for item in study.newest_items] == [2]
    assert study.generation == 2


def test_quarantined_instances_and_refusals_are_not_counted(record):
    refused = header()
    record.intake.register_refusal(
        association=association(), status=0xC000, reason="why", stored=None, header=refused
    )
    study = reader(record).study(refused.study_instance_uid)
    assert (study.state, study.reason, study.instances, study.generation) == (
        "refused",
        "why",
        0,
        0,
    )
    assert study.work_items == ()


def test_list_is_newest_first_and_can_be_filtered_and_cut(record):
    first, second, third = (record.receive(study_instance_uid=f"1.2.{n}.9") for n in (1, 2, 3))
    done = completed(record)
    status = reader(record)

    def uids(**wanted) -> list[str]:
        return [study.study_instance_uid for study in status.studies(StudyFilter(**wanted))]

    assert uids() == [done, third, second, first]
    assert uids(state="completed") == [done]
    assert uids(uid_part="1.2.2.9") == [second]
    assert uids(uid_part="%") == uids(uid_part="_") == []
    assert uids(limit=2) == [done, third]
    before = status.study(third).id
    assert uids(before_id=before) == [second, first]
    assert uids(before_id=before, state="completed") == []


def test_counts_name_every_state_and_the_age_of_its_oldest(record):
    record.receive()
    record.clock.advance(60)
    record.receive()
    found = {count.state: (count.count, count.oldest_at) for count in reader(record).counts()}
    assert list(found) == ["received", "analysing", "delivering", "completed", "failed", "refused"]
    assert found["received"] == (2, START)
    assert found["failed"] == (0, None)


@pytest.mark.parametrize("number", [1, 40])
def test_number_of_statements_does_not_grow_with_the_studies(record, number):
    for _ in range(number):
        completed(record)
    statements = []
    event.listen(record.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert len(reader(record).studies()) == number
    selects = [text for text in statements if text.lstrip().upper().startswith("SELECT")]
    assert len(selects) == 6


def test_long_list_is_read_in_parts(record):
    rows = [
        {
            "study_instance_uid": f"1.2.{number}",
            "state": "completed",
            "reason": "",
            "first_received_at": START,
            "last_received_at": START,
            "state_changed_at": START,
        }
        for number in range(1203)
    ]
    with writing(record.engine) as connection:
        connection.execute(insert(Study), rows)
    found = reader(record).studies()
    assert len({study.study_instance_uid for study in found}) == 1203


# -- words --------------------------------------------------------------------------------------


def answer_of(record: Record, uid: str) -> tuple[str, str]:
    answer = delivery_answer(reader(record).study(uid))
    return answer.kind, answer.text


def test_answer_about_a_confirmed_study_names_the_pacs_and_the_evidence(record):
    kind, text = answer_of(record, completed(record))
    assert kind == "yes"
    assert text == f"Yes: {PACS} holds the object (found there by C-FIND afterwards)."


def test_answer_before_there_is_a_result(record):
    assert answer_of(record, record.receive())[0] == "pending"


def test_answer_while_delivering_counts(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, objects=(new_object(), new_object("seg-1")))
    claim = record.claim(item)
    record.ledger.mark_delivery(
        claim, record.ledger.load_deliveries(claim)[0].id, state="CONFIRMED", confirmed_by="c-find"
    )
    kind, text = answer_of(record, uid)
    assert kind == "pending"
    assert "1 of 2 objects" in text


def test_answer_after_a_refusal_says_who_refused_and_why(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item)
    record.deliver(item, state="REFUSED", reason="SOP class not supported")
    kind, text = answer_of(record, uid)
    assert (kind, text) == ("no", f"No: {PACS} refused 1 of 1 object: SOP class not supported.")


def test_answer_about_a_part_that_was_refused(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, objects=(new_object(), new_object("seg-1")))
    claim = record.claim(item)
    first, second = record.ledger.load_deliveries(claim)
    record.ledger.mark_delivery(claim, first.id, state="CONFIRMED", confirmed_by="c-find")
    record.ledger.mark_delivery(claim, second.id, state="REFUSED", reason="no")
    record.ledger.complete(claim)
    assert answer_of(record, uid)[0] == "partly"


def test_answer_without_a_destination_says_folder(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, destinations=("folder",))
    record.deliver(item)
    assert answer_of(record, uid)[0] == "folder"


@pytest.mark.parametrize("make", [failed])
def test_answer_about_a_failed_analysis(record, make):
    kind, text = answer_of(record, make(record))
    assert (kind, text) == ("no", "No result was made: the analysis failed.")


def test_answer_does_not_call_an_older_generation_the_newest(record):
    uid = completed(record)
    record.receive(study_instance_uid=uid)
    kind, text = answer_of(record, uid)
    assert kind == "pending"
    assert "New instances" in text


def test_findings_name_each_analysis(record):
    uid = completed(record)
    assert findings(reader(record).study(uid)) == "diagnosis: NV 0.91"
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, outcome="not_assessed", reason="blurred")
    assert findings(reader(record).study(uid)) == "diagnosis: not assessed"


def test_every_action_of_the_store_has_words(record):
    """An unknown one is shown as it is; a known one never looks like code."""
    assert action_words("something.new_here") == "Something new here"
    assert action_words("work_item.deliver.postponed") == "Delivery postponed"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600 * 49, "2 d 1 h")]
)
def test_durations_read_well(seconds, words):
    assert duration_words(seconds) == words


# -- the command --------------------------------------------------------------------------------


def run(capsys, home, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["status", "--home", str(home), *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_json_lists_every_study(capsys, home, kept):
    uids = [completed(kept), failed(kept)]
    code, out, err = run(capsys, home, "--json")
    assert (code, err) == (0, "")
    assert [study["study_instance_uid"] for study in json.loads(out)] == uids[::-1]
    path = json.loads(out)[1]["work_items"][0]["objects"][0]["path"]
    assert path.startswith(str(home / "results"))


def test_json_of_one_study(capsys, home, kept):
    uid = completed(kept)
    failed(kept)
    code, out, _ = run(capsys, home, uid, "--json")
    assert code == 0
    assert [study["study_instance_uid"] for study in json.loads(out)] == [uid]


def test_limit_takes_the_newest(capsys, home, kept):
    completed(kept)
    newest = failed(kept)
    _, out, _ = run(capsys, home, "--json", "--limit", "1")
    assert [study["study_instance_uid"] for study in json.loads(out)] == [newest]


def test_empty_record_is_an_empty_list(capsys, home, kept):
    assert run(capsys, home, "--json")[:2] == (0, "[]\n")
    code, out, _ = run(capsys, home)
    assert code == 0
    assert "No study" in out


def test_unknown_study_is_one_line_and_exit_code_1(capsys, home, kept):
    code, out, err = run(capsys, home, "1.2.3", "--json")
    assert (code, json.loads(out), len(err.splitlines())) == (1, [], 1)
    code, out, err = run(capsys, home, "1.2.3")
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_home_without_a_record_is_told_and_not_made(capsys, home):
    code, out, err = run(capsys, home, "--json")
    assert (code, json.loads(out), len(err.splitlines())) == (1, [], 1)
    assert not home.exists()


def test_table_names_studies_states_and_findings(capsys, home, kept):
    uids = [completed(kept), failed(kept), kept.receive()]
    code, out, _ = run(capsys, home)
    assert code == 0
    for text in (*uids, "completed", "failed", "received", "NV 0.91", "no pixel data"):
        assert text in out


def test_one_study_tells_whether_the_pacs_has_it(capsys, home, kept):
    uid = completed(kept)
    _, out, _ = run(capsys, home, uid)
    assert f"Yes: {PACS} holds the object" in out
    assert "c-find" in out


def test_markup_in_a_reason_is_shown_as_it_is(capsys, home, kept):
    uid = new_uid()
    (item,) = kept.schedule(study_instance_uid=uid)
    kept.ledger.fail(kept.claim(item), kind="REJECTED", reason="bad [red]tag[/red] [/x]")
    for arguments in ((), (uid,)):
        assert "[red]tag[/red] [/x]" in run(capsys, home, *arguments)[1].replace("\n", "")


def test_no_patient_attribute_is_shown(capsys, home, kept):
    uid = completed(kept)
    for arguments in (("--json",), (), (uid,)):
        assert "canary" not in "".join(map(str, run(capsys, home, *arguments))).lower()


@pytest.mark.parametrize(
    ("make", "code"), [(completed, 0), (failed, 1), (lambda record: record.receive(), 3)]
)
def test_wait_answers_with_the_exit_code(capsys, home, kept, make, code):
    uid = make(kept)
    assert run(capsys, home, uid, "--wait", "0")[0] == code
    assert run(capsys, home, "--wait", "0")[0] == code


def test_wait_for_a_study_that_never_comes(capsys, home, kept):
    completed(kept)
    assert run(capsys, home, "1.2.3", "--wait", "0.1", "--json")[0] == 1


def test_wait_for_any_study_when_none_is_known(capsys, home, kept):
    assert run(capsys, home, "--wait", "0.1")[0] == 1


def test_wait_is_over_all_studies_not_only_those_shown(capsys, home, kept):
    kept.receive()
    completed_last = kept.receive()
    with writing(kept.engine) as connection:
        connection.execute(
            Study.__table__.update()
            .where(Study.study_instance_uid == completed_last)
            .values(state="completed")
        )
    assert run(capsys, home, "--wait", "0", "--limit", "1")[0] == 3


def test_wait_for_a_generation_that_opened_after_the_last_result(capsys, home, kept):
    uid = completed(kept)
    kept.receive(study_instance_uid=uid)
    assert run(capsys, home, uid, "--wait", "0")[0] == 3


def test_wait_ends_when_the_study_ends(capsys, home, kept):
    uid = new_uid()
    (item,) = kept.schedule(study_instance_uid=uid)

    def work() -> None:
        kept.analyse(item)
        kept.deliver(item)

    timer = threading.Timer(0.3, work)
    timer.start()
    code, out, _ = run(capsys, home, uid, "--wait", "60", "--json")
    timer.join()
    assert code == 0
    assert json.loads(out)[0]["state"] == "completed"


def test_wait_begins_before_there_is_a_record(capsys, home, sqlite_record):
    timer = threading.Timer(0.3, lambda: completed(sqlite_record(home)))
    timer.start()
    code, _, _ = run(capsys, home, "--wait", "60", "--json")
    timer.join()
    assert code == 0


@pytest.mark.parametrize("arguments", [("--wait", "-1"), ("--wait", "soon"), ("--limit", "0")])
def test_wrong_usage_is_exit_code_2(capsys, home, arguments):
    with pytest.raises(SystemExit) as caught:
        run(capsys, home, *arguments)
    assert caught.value.code == 2


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["status", "--help"])
    said = capsys.readouterr().out
    for text in ("exit codes", "--wait", "  3  "):
        assert text in said


def test_record_of_a_running_instance_elsewhere_is_found(capsys, home, kept, sqlite_record):
    """A home whose instance keeps its record in another database needs no setting."""
    other = home.parent / "other"
    uid = completed(sqlite_record(other))
    announce_instance(
        RunningInstance(
            home=str(home),
            pid=1,
            ae_title="LENTIGO",
            dicom_port=0,
            http_port=0,
            broker_url="",
            triton_url="",
            triton_http_url="",
            database_url=f"sqlite:///{other / 'record.sqlite3'}",
            destination="",
            started_at=dt.datetime.now().timestamp(),
        )
    )
    _, out, _ = run(capsys, home, "--json")
    assert [study["study_instance_uid"] for study in json.loads(out)] == [uid]
