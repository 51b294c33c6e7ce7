"""Pages of administration and their REST twins: each answers, says the same, hides what it must."""

import csv
import io
import json
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import select, update

from gateway.rules.ruleset import BUILT_IN_TEXT
from gateway.settings import known_variables
from gateway.store.engine import reading, writing
from gateway.store.people.accounts import ADMIN
from gateway.store.tables import AuditEntry, Identity, Study, WorkItem
from tests.people import Browser, browser

SECRET = "never to be seen 7d1f"


@pytest.fixture
def admin(app, kept) -> Iterator[Browser]:
    with browser(app, kept, ADMIN, "boss") as client:
        yield client


@pytest.fixture
def reviewer(app, kept) -> Iterator[Browser]:
    with browser(app, kept, "reviewer", "ada") as client:
        yield client


def actions(kept) -> list[str]:
    with reading(kept.engine) as connection:
        return list(connection.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars())


def finished(kept) -> tuple[int, int]:
    """Return (study, work item) of a study whose patient has a name."""
    uid = kept.completed()
    with writing(kept.engine) as connection:
        study = connection.execute(
            select(Study.id).where(Study.study_instance_uid == uid)
        ).scalar_one()
        connection.execute(
            update(Identity)
            .where(Identity.study_id == study)
            .values(patient_name="PLANTED^NAME", patient_id="PLANTED-ID")
        )
        item = connection.execute(
            select(WorkItem.id).where(WorkItem.study_id == study).limit(1)
        ).scalar_one()
    return study, item


@pytest.mark.parametrize(
    "path",
    [
        *("/models", "/models/diagnosis/card", "/rules", "/nodes", "/storage", "/audit"),
        *("/settings", "/reviews", "/accounts", "/tokens"),
        *("/api/models", "/api/rules", "/api/nodes", "/api/storage", "/api/audit"),
        *("/api/settings", "/api/reviews", "/api/reviews/chain", "/api/accounts", "/api/tokens"),
    ],
)
def test_each_answers_without_a_patient_attribute(admin, kept, path):
    finished(kept)
    answer = admin.get(path)
    assert answer.status_code == 200
    assert "PLANTED" not in answer.text
    if path.startswith("/api"):
        answer.json()
    else:
        assert 'aria-current="page"' in answer.text or path in {"/tokens"}


def test_settings_show_no_secret(admin, monkeypatch, tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    monkeypatch.setenv("LENTIGO_OPENID_CLIENT_SECRET_FILE", str(file))
    monkeypatch.setenv("LENTIGO_PRIORS_DICOMWEB_PASSWORD", SECRET)
    monkeypatch.setenv("LENTIGO_DELIVERY_TIMEOUT_S", "7.5")
    for answer in (admin.get("/settings"), admin.get("/api/settings")):
        assert SECRET not in answer.text
        assert "7.5" in answer.text
    found = {
        each["variable"]: each
        for topic in admin.get("/api/settings").json()
        for each in topic["settings"]
    }
    assert found["LENTIGO_DELIVERY_TIMEOUT_S"]["source"] == "environment"
    assert found["LENTIGO_PRIORS_DICOMWEB_PASSWORD"]["value"] == "set, not shown"
    assert found["LENTIGO_OPENID_CLIENT_SECRET"]["source"].startswith("file")
    assert found["LENTIGO_DASHBOARD_PORT"]["source"] == "default"
    files = {name for name in known_variables() if name.endswith("_FILE")}
    assert set(found) >= known_variables() - files


def test_an_account_is_made_on_the_page(admin, kept):
    answer = admin.submit("/accounts", username="new", role="viewer")
    assert answer.status_code == 200
    assert "One-time password of <strong>new</strong>" in answer.text
    assert admin.submit("/accounts", username="new", role="viewer").status_code == 422
    assert admin.submit("/accounts", username="x", role="boss").status_code == 422
    assert "account.created" in actions(kept)


def test_a_token_is_shown_once(admin):
    answer = admin.submit("/tokens", name="engine", role="operator", days="30")
    assert "lentigo_" in answer.text.partition('class="once"')[2]
    assert "lentigo_" not in admin.get("/tokens").text
    for days in ("0", "-1", "x", "99999"):
        assert admin.submit("/tokens", name="t", role="viewer", days=days).status_code == 422


def test_patient_attributes_stay_masked_until_revealed(app, kept, reviewer):
    study, _ = finished(kept)
    assert "PLANTED" not in reviewer.get(f"/studies/{study}").text
    assert reviewer.submit(f"/studies/{study}/reveal").status_code == 303
    shown = reviewer.get(f"/studies/{study}").text
    assert "PLANTED^NAME" in shown
    assert "PLANTED-ID" in shown
    assert actions(kept)[-1] == "identity.revealed"
    with browser(app, kept, "reviewer", "bob") as other:
        assert "PLANTED" not in other.get(f"/studies/{study}").text
    with browser(app, kept, "viewer") as viewer:
        assert "Reveal" not in viewer.get(f"/studies/{study}").text
    reviewer.submit(f"/studies/{study}/hide")
    assert "PLANTED" not in reviewer.get(f"/studies/{study}").text
    assert reviewer.call(f"/api/studies/{study}/reveal").json()["patient_id"] == "PLANTED-ID"


def test_a_review_is_signed_on_the_page_and_given_out(reviewer, kept):
    study, item = finished(kept)
    link = re.search(r"/reviews/object/\d+", reviewer.get(f"/studies/{study}").text)
    assert link is not None
    assert reviewer.get(link[0]).headers["location"] == f"/reviews/new/{item}"
    form = reviewer.get(f"/reviews/new/{item}")
    assert form.status_code == 200
    refused = reviewer.submit(f"/reviews/new/{item}", verdict="correct")
    assert refused.status_code == 422
    signed = reviewer.submit(
        f"/reviews/new/{item}",
        verdict="correct",
        differential="MEL, NV",
        lesions="1 agree\r\n2 = MEL\r\n",
        comment="=HYPERLINK(1)",
    )
    assert signed.status_code == 303
    assert "MEL, NV" in reviewer.get("/reviews").text
    rows = list(csv.DictReader(io.StringIO(reviewer.submit("/reviews/export", format="csv").text)))
    assert [(row["lesion"], row["label"]) for row in rows] == [("", "MEL"), ("1", ""), ("2", "MEL")]
    assert {row["comment"] for row in rows} == {"'=HYPERLINK(1)"}
    assert all(row["image_sha256s"] for row in rows)
    found = json.loads(reviewer.submit("/reviews/export", format="json").text)
    assert found[0]["statement"]["differential"] == ["MEL", "NV"]
    assert "PLANTED" not in json.dumps(found)
    body = {"work_item": item, "verdict": "agree"}
    assert reviewer.call("/api/reviews", body).json() == {"review": 2}
    assert reviewer.get("/api/reviews/chain").json() == {"reviews": 2, "faults": []}
    assert "reviews.exported" in actions(kept)


RULES = '[[rule]]\nname = "no prognosis"\nthen = { skip = ["prognosis"], reason = "no consent" }\n'


def test_rules_are_tried_and_published(admin, kept, monkeypatch, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(BUILT_IN_TEXT)
    assert "LENTIGO_RULES_FILE" in admin.submit("/rules/publish", draft=RULES, reason="r").text
    monkeypatch.setenv("LENTIGO_RULES_FILE", str(file))
    finished(kept)
    tried = admin.submit("/rules/try", draft=RULES, last="5")
    assert tried.status_code == 200, tried.text
    assert "Tried on the newest 1 studies" in tried.text
    assert file.read_text() == BUILT_IN_TEXT
    broken = admin.submit("/rules/try", draft="[[rule]]\nnonsense = 1\n", last="5")
    assert broken.status_code == 422
    assert "line" in broken.text
    assert admin.submit("/rules/publish", draft="[[rule", reason="r").status_code == 422
    assert admin.submit("/rules/publish", draft=RULES, reason=" ").status_code == 422
    assert file.read_text() == BUILT_IN_TEXT
    assert admin.submit("/rules/publish", draft=RULES, reason="consent").status_code == 200
    assert file.read_text() == RULES
    assert actions(kept)[-1] == "rules.published"
    assert admin.get("/rules?version=77").status_code == 404


def test_the_trail_is_searched_verified_and_given_out(admin, kept):
    admin.submit("/accounts", username="new", role="viewer")
    found = admin.get("/api/audit", params={"action": "account"}).json()
    assert {each["action"] for each in found} == {"account.created"}
    assert found == sorted(found, key=lambda each: -each["id"])
    assert admin.get("/api/audit", params={"actor": "nobody\0'"}).json() == []
    assert admin.get("/audit", params={"since": "yesterday"}).status_code == 422
    assert admin.get("/api/audit", params={"since": "2999-01-01"}).json() == []
    assert "Whole" in admin.submit("/audit/verify").text
    assert admin.call("/api/audit/verify").json()["faults"] == []
    lines = admin.submit("/audit/export").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, len(lines) + 1))
    assert actions(kept)[-1] == "audit.exported"


def test_a_node_is_asked_only_if_it_is_configured(admin, monkeypatch):
    assert admin.submit("/nodes/echo", name="PACS@127.0.0.1:1").status_code == 404
    monkeypatch.setenv("LENTIGO_DELIVERY_DESTINATION", "PACS@127.0.0.1:1")
    monkeypatch.setenv("LENTIGO_DELIVERY_TIMEOUT_S", "2")
    answer = admin.call("/api/nodes/echo", {"name": "PACS@127.0.0.1:1"}).json()
    assert answer["answers"] is False
    assert answer["reason"]


def test_models_are_shown_and_nothing_else_is_reached(admin):
    found = {each["name"]: each for each in admin.get("/api/models").json()}
    assert found["diagnosis"]["evidence_level"] == "real"
    assert [each["standing"] for each in found["diagnosis"]["versions"]] == ["live"]
    assert admin.get("/models/..%2f..%2fetc/card").status_code == 404
    assert admin.get("/models/nothing/card").status_code == 404
    answer = admin.submit("/models/nothing/promote", number="1", reason="r")
    assert answer.status_code == 422
    assert admin.submit("/models/diagnosis/rollback", reason=" ").status_code == 422
