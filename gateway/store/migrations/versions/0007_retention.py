"""retention: what was purged, what is held, and where instances came from."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_PURGEABLE = ("instances", "documents", "refusals", "result_objects")


def upgrade() -> None:
    for table in _PURGEABLE:
        op.add_column(table, sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))
        op.add_column(
            table,
            sa.Column("is_purge_pending", sa.Boolean(), server_default=sa.false(), nullable=False),
        )
    op.add_column(
        "instances",
        sa.Column("peer_address", sa.String(length=45), server_default="", nullable=False),
    )
    op.create_table(
        "retention_holds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.String(length=64), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_by", sa.String(length=64), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_retention_holds_active",
        "retention_holds",
        ["study_instance_uid"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("retention_holds")
    with op.batch_alter_table("instances") as batch:
        batch.drop_column("peer_address")
    for table in _PURGEABLE:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("is_purge_pending")
            batch.drop_column("purged_at")
