"""audit: the trail becomes a chain that only grows."""

import datetime as dt
import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_REFUSAL = "the audit trail is append-only"


def upgrade() -> None:
    trail = op.create_table(
        "audit_trail",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_sha256", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    state = op.create_table(
        "audit_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("event_gaps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit_sinks",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    _chain_what_is_there(trail, state)
    op.drop_table("audit")
    _protect()


def _chain_what_is_there(trail: sa.Table, state: sa.Table) -> None:
    connection = op.get_bind()
    audit = sa.Table(
        "audit",
        sa.MetaData(),
        sa.Column("id", sa.Integer()),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("actor", sa.String()),
        sa.Column("action", sa.String()),
        sa.Column("detail", sa.JSON()),
    )
    number, previous = 0, ""
    for row in connection.execute(sa.select(audit).order_by(audit.c.id)).all():
        at = row.at.replace(tzinfo=dt.UTC) if row.at.tzinfo is None else row.at.astimezone(dt.UTC)
        number += 1
        moment = at.isoformat(timespec="microseconds")
        content = [number, moment, row.actor, row.action, row.detail, previous]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()
        connection.execute(
            trail.insert().values(
                id=number,
                # SQLite keeps no time zone: as ``UtcDateTime`` writes it.
                at=at if connection.dialect.name == "postgresql" else at.replace(tzinfo=None),
                actor=row.actor,
                action=row.action,
                detail=row.detail,
                previous_sha256=previous,
                sha256=digest,
            )
        )
        previous = digest
    newest = connection.execute(sa.text("SELECT coalesce(max(id), 0) FROM events")).scalar_one()
    connection.execute(
        state.insert().values(id=1, entries=number, sha256=previous, event_id=newest, event_gaps={})
    )


def _protect() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION lentigo_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_trail_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            "ON audit_trail FOR EACH STATEMENT EXECUTE FUNCTION lentigo_refuse_audit_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_trail_no_{verb.lower()} BEFORE {verb} ON audit_trail "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )


def downgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute(
        "INSERT INTO audit (id, at, actor, action, detail) "
        "SELECT id, at, actor, action, detail FROM audit_trail"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SELECT setval('audit_id_seq', (SELECT coalesce(max(id), 0) + 1 FROM audit))")
    op.drop_table("audit_sinks")
    op.drop_table("audit_state")
    op.drop_table("audit_trail")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION lentigo_refuse_audit_change()")
