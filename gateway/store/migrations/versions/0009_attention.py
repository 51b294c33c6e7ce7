"""What people do about failures, saved views, indexes of the pages."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_PLAIN = (
    ("ix_work_items_analysed_at", "work_items", "analysed_at"),
    ("ix_work_items_finished_at", "work_items", "finished_at"),
    ("ix_generations_closed_at", "generations", "closed_at"),
)
_EQUAL = (
    ("ix_identities_accession_number", "accession_number"),
    ("ix_identities_patient_id", "patient_id"),
)
_RARE = (
    ("ix_instances_quarantined", "instances", "disposition = 'quarantined'"),
    ("ix_deliveries_refused", "deliveries", "state = 'REFUSED'"),
)


def upgrade() -> None:
    op.create_table(
        "failure_care",
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("assigned_to", sa.String(length=64), server_default="", nullable=False),
        sa.Column("snoozed_until", _MOMENT, nullable=True),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("cause"),
    )
    op.create_table(
        "saved_views",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account", "name"),
    )
    for name, table, column in _PLAIN:
        op.create_index(name, table, [column])
    for name, column in _EQUAL:
        # Hashed: a B-tree of PostgreSQL refuses a long value, and with it the instance.
        op.create_index(name, "identities", [column], postgresql_using="hash")
    for name, table, condition in _RARE:
        where = sa.text(condition)
        op.create_index(name, table, ["id"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, table, _ in reversed(_RARE):
        op.drop_index(name, table)
    for name, _ in reversed(_EQUAL):
        op.drop_index(name, "identities")
    for name, table, _ in reversed(_PLAIN):
        op.drop_index(name, table)
    op.drop_table("saved_views")
    op.drop_table("failure_care")
