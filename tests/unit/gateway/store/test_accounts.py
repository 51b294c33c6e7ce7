"""Accounts, sessions and the audit trail."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from sqlalchemy import select

from gateway.errors import PasswordRefused
from gateway.store.engine import reading
from gateway.store.people import accounts as module
from gateway.store.people.accounts import FAILURES_BEFORE_LOCK, LOCK_S, Accounts
from gateway.store.tables import Account, AuditEntry, WebSession

ONE_TIME = "a one-time password"
CHOSEN = "correct horse battery"


@pytest.fixture
def accounts(record, monkeypatch) -> Accounts:
    # The cost of a hash is argon2's business; here only that it is checked.
    monkeypatch.setattr(module, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST))
    return Accounts(record.engine, record.clock)


@pytest.fixture
def admin(accounts) -> Accounts:
    assert accounts.create_first("admin", ONE_TIME)
    return accounts


def log_in(accounts: Accounts, password: str = ONE_TIME, username: str = "admin"):
    return accounts.log_in(username, password, hours=12, peer="127.0.0.1")


def trail(record) -> list[str]:
    with reading(record.engine) as connection:
        return list(connection.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars())


def rows(record, table):
    with reading(record.engine) as connection:
        return connection.execute(select(table)).all()


def test_without_an_account_nobody_gets_in(accounts):
    assert log_in(accounts, "") is None
    assert log_in(accounts, "admin") is None


def test_first_account_is_made_once(record, admin):
    assert not admin.create_first("admin", "another password")
    assert not admin.create_first("second", "another password")
    assert len(rows(record, Account)) == 1
    assert log_in(admin) is not None


def test_first_account_is_made_once_by_many(record, accounts):
    barrier = threading.Barrier(4)

    def create() -> bool:
        barrier.wait(10)
        return accounts.create_first("admin", ONE_TIME)

    with ThreadPoolExecutor(4) as pool:
        made = [future.result(30) for future in [pool.submit(create) for _ in range(4)]]
    assert sorted(made) == [False, False, False, True]


def test_record_keeps_neither_password_nor_token(record, admin):
    opened = log_in(admin)
    kept = repr([rows(record, table) for table in (Account, WebSession, AuditEntry)])
    assert ONE_TIME not in kept
    assert opened.token not in kept
    assert "$argon2id$" in kept
    (session,) = rows(record, WebSession)
    assert session.token_sha256 == hashlib.sha256(opened.token.encode()).hexdigest()


def test_session_says_who_and_whether_to_change_the_password(admin):
    opened = log_in(admin)
    session = admin.session(opened.token)
    assert (session.username, session.role) == ("admin", "admin")
    assert session.must_change_password
    assert opened.must_change_password
    assert len(session.csrf_token) >= 32


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("admin", "wrong"),
        ("admin", ""),
        ("nobody", ONE_TIME),
        ("", ""),
        ("Admin\0", ONE_TIME),
        ("x" * 10_000, "y" * 10_000),
        ("admin' OR '1'='1", ONE_TIME),
    ],
)
def test_wrong_login_is_refused_and_noted(record, admin, username, password):
    assert log_in(admin, password, username) is None
    assert trail(record)[-1] == "login.failed"
    assert rows(record, WebSession) == []


def test_name_typed_wrong_is_not_kept(record, admin):
    """People type their password into the field of the name."""
    log_in(admin, "", "my secret password")
    assert "my secret" not in repr(rows(record, AuditEntry))


def test_account_is_locked_after_failures_even_for_the_right_password(record, admin):
    for _ in range(FAILURES_BEFORE_LOCK):
        assert log_in(admin, "wrong") is None
    assert "account.locked" in trail(record)
    assert log_in(admin) is None
    record.clock.advance(LOCK_S - 1)
    assert log_in(admin) is None
    record.clock.advance(2)
    assert log_in(admin) is not None


def test_success_forgets_the_failures(admin):
    for _ in range(3):
        for _ in range(FAILURES_BEFORE_LOCK - 1):
            assert log_in(admin, "wrong") is None
        assert log_in(admin) is not None


def test_guesses_sent_at_once_do_not_pass_the_lock(record, admin):
    """All of them look while the account is still open."""
    number = FAILURES_BEFORE_LOCK + 3
    barrier = threading.Barrier(number)

    def guess(_number: int):
        barrier.wait(20)
        return log_in(admin, "wrong")

    with ThreadPoolExecutor(number) as pool:
        found = list(pool.map(guess, range(number)))
    assert found == [None] * number
    assert "account.locked" in trail(record)
    assert log_in(admin) is None


def test_session_ends_with_its_time(record, admin):
    opened = log_in(admin)
    record.clock.advance(12 * 3600 - 1)
    assert admin.session(opened.token) is not None
    record.clock.advance(1)
    assert admin.session(opened.token) is None
    log_in(admin)
    assert len(rows(record, WebSession)) == 1  # the old one is swept away


@pytest.mark.parametrize("token", ["", "x", "a" * 10_000, "ä\udcff"])
def test_unknown_token_is_no_session(admin, token):
    log_in(admin)
    assert admin.session(token) is None


def test_log_out_ends_this_session_alone(record, admin):
    first, second = log_in(admin), log_in(admin)
    admin.log_out(admin.session(first.token))
    assert admin.session(first.token) is None
    assert admin.session(second.token) is not None
    assert trail(record)[-1] == "logout"


def test_changed_password_ends_the_other_sessions(record, admin):
    here, elsewhere = log_in(admin), log_in(admin)
    admin.change_password(admin.session(here.token), ONE_TIME, CHOSEN)
    assert admin.session(elsewhere.token) is None
    session = admin.session(here.token)
    assert not session.must_change_password
    assert trail(record)[-1] == "password.changed"
    assert log_in(admin, ONE_TIME) is None
    assert not log_in(admin, CHOSEN).must_change_password


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("wrong", CHOSEN, "present password is wrong"),
        (ONE_TIME, "short", "12 characters"),
        (ONE_TIME, "x" * 257, "more than 256"),
        (ONE_TIME, ONE_TIME, "is the present one"),
        (ONE_TIME, "my-Admin-password", "account's name"),
        (ONE_TIME, "aaaaaaaaaaaaaa", "repeats"),
    ],
)
def test_password_that_will_not_do_is_refused(admin, old, new, why):
    session = admin.session(log_in(admin).token)
    with pytest.raises(PasswordRefused, match=why):
        admin.change_password(session, old, new)
    assert log_in(admin, ONE_TIME).must_change_password


def test_default_hash_is_argon2id_of_recommended_cost():
    """RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes."""
    hasher = PasswordHasher()
    assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (65536, 3, 4)
