"""Which studies are the self-test's: they are analysed like any other and stay here."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from gateway.store.tables import Instance

SELF_TEST_AE_TITLE = "LENTIGO-SELFTEST"
"""Calling AE title of a study that is never delivered."""
SELF_TEST_DELIVERED_AE_TITLE = "LENTIGO-SELFSENT"
"""The same of one that is delivered, because somebody asked for it."""
SELF_TEST_AE_TITLES = frozenset({SELF_TEST_AE_TITLE, SELF_TEST_DELIVERED_AE_TITLE})
_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def stays_here(connection: Connection, study_id: int) -> bool:
    """Whether every instance of a study is of a self-test that is not to be delivered.

    Only loopback may say so: no sender can keep the results of a patient from the PACS.
    """
    total, own = connection.execute(
        select(
            func.count(),
            func.count().filter(
                Instance.calling_ae_title == SELF_TEST_AE_TITLE,
                Instance.peer_address.in_(_LOOPBACK),
            ),
        ).where(Instance.study_id == study_id)
    ).one()
    return bool(total) and total == own
