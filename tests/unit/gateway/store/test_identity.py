"""Accounts that are managed, API tokens, reveals, reviews."""

import dataclasses
import datetime as dt
import json

import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from sqlalchemy import exc, select, text

from gateway.errors import AccountRefused, ReviewRefused
from gateway.store.engine import reading, writing
from gateway.store.people import accounts as module
from gateway.store.people.account_desk import AccountDesk
from gateway.store.people.accounts import Accounts
from gateway.store.people.reveals import Reveals
from gateway.store.people.reviews import LesionOpinion, Opinion, ReviewDesk
from gateway.store.people.tokens import MAX_TOKENS, Tokens
from gateway.store.tables import ApiToken, AuditEntry, Review, Study, WorkItem

ONE_TIME = "a one-time password"


@pytest.fixture
def accounts(record, monkeypatch) -> Accounts:
    monkeypatch.setattr(module, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST))
    found = Accounts(record.engine, record.clock)
    assert found.create_first("admin", ONE_TIME)
    return found


@pytest.fixture
def desk(record, accounts) -> AccountDesk:
    return AccountDesk(record.engine, accounts, record.clock)


def number_of(desk: AccountDesk, username: str) -> int:
    return next(each.id for each in desk.all() if each.username == username)


def trail(record) -> list[str]:
    with reading(record.engine) as connection:
        return list(connection.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars())


def enter(accounts: Accounts, username: str, password: str):
    return accounts.log_in(username, password, hours=1, peer="127.0.0.1")


def test_a_new_account_has_a_one_time_password(record, accounts, desk):
    password = desk.create("ada", "reviewer", actor="admin")
    opened = enter(accounts, "ada", password)
    assert opened is not None
    assert opened.must_change_password
    assert "account.created" in trail(record)


@pytest.mark.parametrize("name", ["", " ada", "-x", "a b", "a\0b", "é", "x" * 65, "a\n"])
def test_names_that_will_not_do(desk, name):
    with pytest.raises(AccountRefused):
        desk.create(name, "viewer", actor="admin")


def test_names_differ_by_more_than_case(desk):
    with pytest.raises(AccountRefused):
        desk.create("ADMIN", "viewer", actor="admin")


def test_there_is_always_somebody_who_may_administer(desk):
    first = number_of(desk, "admin")
    for change in (
        lambda: desk.set_role(first, "viewer", actor="admin"),
        lambda: desk.set_disabled(first, True, actor="admin"),
    ):
        with pytest.raises(AccountRefused, match="last"):
            change()
    desk.create("second", "admin", actor="admin")
    desk.set_disabled(first, True, actor="second")
    with pytest.raises(AccountRefused, match="last"):
        desk.set_role(number_of(desk, "second"), "viewer", actor="second")


def test_a_disabled_account_loses_everything_at_once(record, accounts, desk):
    password = desk.create("ada", "operator", actor="admin")
    opened = enter(accounts, "ada", password)
    tokens = Tokens(record.engine, record.clock)
    token = tokens.issue("ada", name="t", role="viewer", days=1, actor="ada")
    desk.set_disabled(number_of(desk, "ada"), True, actor="admin")
    assert accounts.session(opened.token) is None
    assert tokens.caller(token) is None
    assert enter(accounts, "ada", password) is None
    assert accounts.authenticate("ada", password, peer="") is None
    desk.set_disabled(number_of(desk, "ada"), False, actor="admin")
    assert tokens.caller(token) is None
    assert enter(accounts, "ada", password) is not None


def test_a_reset_ends_sessions_and_unlocks(accounts, desk):
    old = desk.create("ada", "viewer", actor="admin")
    opened = enter(accounts, "ada", old)
    for _ in range(module.FAILURES_BEFORE_LOCK):
        enter(accounts, "ada", "wrong")
    new = desk.reset_password(number_of(desk, "ada"), actor="admin")
    assert accounts.session(opened.token) is None
    assert enter(accounts, "ada", old) is None
    assert enter(accounts, "ada", new).must_change_password


def test_a_role_counts_at_the_next_request(accounts, desk):
    opened = enter(accounts, "ada", desk.create("ada", "viewer", actor="admin"))
    desk.set_role(number_of(desk, "ada"), "operator", actor="admin")
    assert accounts.session(opened.token).role == "operator"


def test_of_a_token_only_the_hash_is_kept(record, accounts):
    token = Tokens(record.engine, record.clock).issue(
        "admin", name="t", role="admin", days=1, actor="admin"
    )
    with reading(record.engine) as connection:
        kept = repr(connection.execute(select(ApiToken)).all())
        kept += repr(connection.execute(select(AuditEntry)).all())
    assert token not in kept
    assert token.removeprefix("lentigo_") not in kept


def test_a_token_ends(record, accounts, desk):
    tokens = Tokens(record.engine, record.clock)
    kept = tokens.issue("admin", name="a", role="viewer", days=2, actor="admin")
    gone = tokens.issue("admin", name="b", role="viewer", days=2, actor="admin")
    assert tokens.caller(kept).username == "admin"
    number = next(each.id for each in tokens.all() if each.name == "b")
    with pytest.raises(AccountRefused):
        tokens.revoke(number, actor="eve", owner="eve")
    tokens.revoke(number, actor="admin")
    assert tokens.caller(gone) is None
    record.clock.advance(2 * 86400 + 1)
    assert tokens.caller(kept) is None
    assert {each.state(record.clock()) for each in tokens.all()} == {"revoked", "expired"}


def test_last_use_is_noted_once_a_minute(record, accounts):
    tokens = Tokens(record.engine, record.clock)
    token = tokens.issue("admin", name="a", role="viewer", days=2, actor="admin")
    assert tokens.all()[0].last_used_at is None
    tokens.caller(token)
    first = tokens.all()[0].last_used_at
    record.clock.advance(10)
    tokens.caller(token)
    assert tokens.all()[0].last_used_at == first
    record.clock.advance(60)
    tokens.caller(token)
    assert tokens.all()[0].last_used_at > first


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "reviewer"},
        {"role": "boss"},
        {"name": " "},
        {"name": "a\nb"},
        {"days": 0},
        {"days": 10**6},
        {"username": "nobody"},
    ],
    ids=str,
)
def test_tokens_that_are_not_issued(record, accounts, changes):
    values = {"username": "admin", "name": "t", "role": "viewer", "days": 1, **changes}
    username = values.pop("username")
    with pytest.raises(AccountRefused):
        Tokens(record.engine, record.clock).issue(username, actor="admin", **values)


def test_tokens_of_an_account_are_bounded(record, accounts):
    tokens = Tokens(record.engine, record.clock)
    for number in range(MAX_TOKENS):
        tokens.issue("admin", name=str(number), role="viewer", days=1, actor="admin")
    with pytest.raises(AccountRefused, match="revoke"):
        tokens.issue("admin", name="one more", role="viewer", days=1, actor="admin")


# -- reveals ----------------------------------------------------------------------------------


def study_of(record) -> int:
    uid = record.completed()
    with reading(record.engine) as connection:
        return connection.execute(
            select(Study.id).where(Study.study_instance_uid == uid)
        ).scalar_one()


def test_a_reveal_lasts_for_minutes_in_one_session_and_is_audited(record):
    study, reveals = study_of(record), Reveals(record.engine, minutes=10, clock=record.clock)
    assert reveals.shown(study, "a" * 64) is None
    found = reveals.reveal(study, actor="ada", session_sha256="a" * 64)
    assert found is not None
    assert reveals.shown(study, "a" * 64)[0] == found
    assert reveals.shown(study, "b" * 64) is None
    assert trail(record)[-1] == "identity.revealed"
    with reading(record.engine) as connection:
        detail = connection.execute(
            select(AuditEntry.detail).order_by(AuditEntry.id.desc()).limit(1)
        ).scalar_one()
    assert detail == {"study": study}
    record.clock.advance(601)
    assert reveals.shown(study, "a" * 64) is None


def test_what_was_revealed_can_be_masked_again(record):
    study, reveals = study_of(record), Reveals(record.engine, minutes=10, clock=record.clock)
    reveals.reveal(study, actor="ada", session_sha256="a" * 64)
    reveals.hide(study, "a" * 64)
    assert reveals.shown(study, "a" * 64) is None
    assert reveals.reveal(10**6, actor="ada") is None


# -- reviews ----------------------------------------------------------------------------------


def item_of(record) -> int:
    study = study_of(record)
    with reading(record.engine) as connection:
        return connection.execute(
            select(WorkItem.id).where(WorkItem.study_id == study).limit(1)
        ).scalar_one()


CORRECTION = Opinion(
    verdict="correct",
    differential=("MEL", "NV"),
    lesions=(LesionOpinion(lesion="1", verdict="correct", label="MEL"),),
    comment="é and \U0001f600",
)


def test_reviews_are_signed_and_chained(record):
    item, desk = item_of(record), ReviewDesk(record.engine, record.clock)
    assert desk.sign(item, Opinion(verdict="agree"), reviewer="ada") == 1
    record.clock.advance(5)
    assert desk.sign(item, CORRECTION, reviewer="ada") == 2
    first, second = list(desk.all())
    assert (first.is_newest, second.is_newest) == (False, True)
    assert second.previous_sha256 == first.sha256
    assert second.statement["lesions"][0]["label"] == "MEL"
    assert desk.faults() == []
    assert desk.counts() == {"agree": 1, "correct": 1}
    assert trail(record).count("review.signed") == 2


def test_nobody_changes_a_review_by_the_way(record):
    ReviewDesk(record.engine, record.clock).sign(
        item_of(record), Opinion(verdict="agree"), reviewer="ada"
    )
    for statement in ("UPDATE reviews SET reviewer = 'eve'", "DELETE FROM reviews"):
        with pytest.raises(exc.DBAPIError), writing(record.engine) as connection:
            connection.execute(text(statement))


def _unlocked(record, statement: str) -> None:
    """Do what somebody with the keys of the database could do."""
    with writing(record.engine) as connection:
        if record.engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE reviews DISABLE TRIGGER USER"))
            connection.execute(text(statement))
            connection.execute(text("ALTER TABLE reviews ENABLE TRIGGER USER"))
            return
        for verb in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER reviews_no_{verb}"))
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE reviews SET verdict = 'disagree' WHERE id = 2", "review 2 was changed"),
        ("UPDATE reviews SET object_sha256 = 'x' WHERE id = 1", "review 1 was changed"),
        ("DELETE FROM reviews WHERE id = 2", "reviews 2 to 2 are missing"),
        ("DELETE FROM reviews WHERE id = 3", "review 3 is missing"),
    ],
)
def test_tampering_shows(record, statement, said):
    item, desk = item_of(record), ReviewDesk(record.engine, record.clock)
    for _ in range(3):
        desk.sign(item, Opinion(verdict="agree"), reviewer="ada")
    _unlocked(record, statement)
    assert said in desk.faults()


@pytest.mark.parametrize(
    "opinion",
    [
        Opinion(verdict="perhaps"),  # type: ignore[arg-type]
        Opinion(verdict="correct"),
        Opinion(verdict="agree", differential=("MEL",)),
        Opinion(verdict="correct", differential=("MEL", "MEL")),
        Opinion(verdict="correct", differential=("",)),
        Opinion(verdict="correct", differential=("a\nb",)),
        Opinion(verdict="correct", differential=tuple(str(n) for n in range(21))),
        Opinion(verdict="agree", comment="x" * 2001),
        Opinion(verdict="agree", comment="\0"),
        dataclasses.replace(CORRECTION, lesions=CORRECTION.lesions * 2),
        Opinion(verdict="disagree", lesions=(LesionOpinion(lesion="1", verdict="correct"),)),
        Opinion(
            verdict="disagree", lesions=(LesionOpinion(lesion="1", verdict="agree", label="NV"),)
        ),
    ],
)
def test_opinions_that_will_not_do(record, opinion):
    item, desk = item_of(record), ReviewDesk(record.engine, record.clock)
    with pytest.raises(ReviewRefused):
        desk.sign(item, opinion, reviewer="ada")
    assert desk.counts() == {}


def test_what_was_not_seen_is_not_signed(record):
    item, desk = item_of(record), ReviewDesk(record.engine, record.clock)
    for values in (
        {"object_sha256": "0" * 64},
        {"sop_instance_uid": "1.2.3"},
        {"work_item_id": 10**6},
    ):
        number = values.pop("work_item_id", item)
        with pytest.raises(ReviewRefused):
            desk.sign(number, Opinion(verdict="agree"), reviewer="ada", **values)


def test_the_newest_come_first_a_page_at_a_time(record):
    item, desk = item_of(record), ReviewDesk(record.engine, record.clock)
    for _ in range(5):
        desk.sign(item, Opinion(verdict="agree"), reviewer="ada")
    assert [each.id for each in desk.newest(2)] == [5, 4]
    assert [each.id for each in desk.newest(2, before=4)] == [3, 2]
    with reading(record.engine) as connection:
        kept = connection.execute(select(Review.statement).limit(1)).scalar_one()
    assert json.dumps(kept)
    assert desk.newest(1)[0].at.tzinfo == dt.UTC
