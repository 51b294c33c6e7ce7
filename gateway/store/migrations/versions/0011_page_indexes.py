"""Indexes by which the pages find a sender's, an analysis' or a model's rows in a long record."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_instances_sender": ("instances", ["calling_ae_title", "study_id"]),
    "ix_work_items_analysis": ("work_items", ["analysis", "study_id"]),
    "ix_work_items_model": ("work_items", ["model_digest", "id"]),
    "ix_audit_trail_action": ("audit_trail", ["action", "id"]),
    "ix_audit_trail_actor": ("audit_trail", ["actor", "id"]),
}
_UNCONFIRMED = "ix_deliveries_unconfirmed"


def upgrade() -> None:
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)
    op.create_index(
        _UNCONFIRMED,
        "deliveries",
        ["state", "result_object_id"],
        sqlite_where=sa.text("state != 'CONFIRMED'"),
        postgresql_where=sa.text("state != 'CONFIRMED'"),
    )


def downgrade() -> None:
    op.drop_index(_UNCONFIRMED, "deliveries")
    for name, (table, _columns) in _INDEXES.items():
        op.drop_index(name, table)
