"""Whether this version may work on a record: one of a later version is left alone."""

from __future__ import annotations

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gateway.errors import RecordUnavailable, SchemaTooNew
from gateway.store.engine import MIGRATIONS, open_engine, reading


def revision_of(connection: Connection) -> str | None:
    """Return the schema of a record, None before its first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def is_known(revision: str | None) -> bool:
    """Return whether this version has the migration that made a schema."""
    known = {each.revision for each in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    return revision in known


def refuse_newer_schema(url: str) -> None:
    """Let nothing of an earlier version write to the record of a later one.

    A record that does not answer is not judged: services wait for it. Nor is one that was not
    migrated yet: they wait for that, too.

    Raises
    ------
    SchemaTooNew
        The schema is none that this version knows: it was put back without its record.
    """
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            found = revision_of(connection)
    except RecordUnavailable:
        return
    finally:
        engine.dispose()
    if found is not None and not is_known(found):
        raise SchemaTooNew(
            f"the record has schema {found}, which this version does not know: a later version "
            "made it. Start that version again, or restore the backup that was made before the "
            "upgrade (docs/deployment.md)"
        )
