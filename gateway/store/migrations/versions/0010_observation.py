"""Outgoing events, drift, counts: see the tables of those names."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    followed = op.create_table(
        "followed_tables",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=256), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels"),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cause", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", _TIME, nullable=True),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("cause", "target"),
    )
    op.create_index("ix_notices_due", "notices", ["state", "next_attempt_at"])
    op.create_table(
        "drift_series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("analysis", sa.String(length=64), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("measure", sa.String(length=16), nullable=False),
        sa.Column("reference", sa.JSON(), nullable=False),
        sa.Column("recent", sa.JSON(), nullable=False),
        sa.Column("psi", sa.Float(), nullable=True),
        sa.Column("ks", sa.Float(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "analysis", "model_digest", "measure"),
    )
    op.create_table(
        "source_rhythms",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.Column("pauses", sa.JSON(), nullable=False),
        sa.Column("silent_since", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("ae_title"),
    )
    # What the record has seen so far is not told again: counts begin with this version.
    connection = op.get_bind()
    for table in ("events", "instances"):
        newest = connection.execute(
            sa.text(f"SELECT coalesce(max(id), 0) FROM {table}")
        ).scalar_one()
        connection.execute(followed.insert().values(name=table, position=newest, gaps={}))


def downgrade() -> None:
    for table in ("source_rhythms", "drift_series", "notices", "tallies", "followed_tables"):
        op.drop_table(table)
