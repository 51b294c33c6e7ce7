"""The first account of the admin page, with a password for one use."""

from __future__ import annotations

import secrets
import sys

from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import open_engine
from gateway.store.people.accounts import Accounts


def create_first_account(store: StoreSettings, dashboard: DashboardSettings) -> None:
    """Make ``admin`` where there is no account yet; say a made-up password once, on stderr."""
    given = dashboard.initial_password
    password = given.get_secret_value() if given else secrets.token_urlsafe(12)
    engine = open_engine(store.record_url)
    try:
        created = Accounts(engine).create_first("admin", password)
    finally:
        engine.dispose()
    if created and not given:
        path = store.home / "initial-password.txt"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"{password}\n", encoding="utf-8")
        print(
            f"admin page: log in as 'admin' with the one-time password {password}\n"
            f"            (also in {path} until it is changed)",
            file=sys.stderr,
            flush=True,
        )
