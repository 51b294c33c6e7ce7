"""rules: versions of routing rules, plans of generations, holds, priorities, the clock's mark."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "rule_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("loaded_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "association_ends",
        sa.Column("association_id", sa.String(length=36), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("association_id"),
    )
    op.create_index("ix_association_ends_ended_at", "association_ends", ["ended_at"])
    op.create_table(
        "clock_marks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("studies") as batch_op:
        batch_op.add_column(_text("urgency", 8))
        batch_op.add_column(sa.Column("held_at", _MOMENT, nullable=True))
        batch_op.add_column(_text("held_by", 64))
        batch_op.add_column(sa.Column("hold_reason", sa.Text(), server_default="", nullable=False))
        batch_op.create_index("ix_studies_held_at", ["held_at"])
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(_text("called_ae_title", 16))
        batch_op.add_column(_flag("is_derived"))
    with op.batch_alter_table("generations") as batch_op:
        batch_op.add_column(sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(
            sa.Column("planned_revision", sa.Integer(), server_default="-1", nullable=False)
        )
        batch_op.add_column(sa.Column("rule_version_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("plan", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("deadline_at", _MOMENT, nullable=True))
        batch_op.add_column(_text("complete_by", 64))
        batch_op.add_column(sa.Column("hold_released_at", _MOMENT, nullable=True))
        batch_op.create_index("ix_generations_deadline_at", ["deadline_at"])
        batch_op.create_foreign_key(
            "fk_generations_rule_version_id", "rule_versions", ["rule_version_id"], ["id"]
        )
    with op.batch_alter_table("work_items") as batch_op:
        batch_op.add_column(sa.Column("rank_at", _MOMENT, nullable=True))
        batch_op.add_column(_text("urgency", 8))
        batch_op.create_index("ix_work_items_rank", ["state", "rank_at"])
    op.create_index(
        "ix_result_objects_series_instance_uid", "result_objects", ["series_instance_uid"]
    )
    op.execute("UPDATE work_items SET rank_at = created_at")


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), server_default="", nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)


def downgrade() -> None:
    op.drop_index("ix_result_objects_series_instance_uid", "result_objects")
    with op.batch_alter_table("work_items") as batch_op:
        batch_op.drop_index("ix_work_items_rank")
        batch_op.drop_column("urgency")
        batch_op.drop_column("rank_at")
    with op.batch_alter_table("generations") as batch_op:
        batch_op.drop_constraint("fk_generations_rule_version_id", type_="foreignkey")
        batch_op.drop_index("ix_generations_deadline_at")
        for name in (
            *("hold_released_at", "complete_by", "deadline_at", "plan", "rule_version_id"),
            *("planned_revision", "revision"),
        ):
            batch_op.drop_column(name)
    with op.batch_alter_table("instances") as batch_op:
        for name in ("is_derived", "called_ae_title"):
            batch_op.drop_column(name)
    with op.batch_alter_table("studies") as batch_op:
        batch_op.drop_index("ix_studies_held_at")
        for name in ("hold_reason", "held_by", "held_at", "urgency"):
            batch_op.drop_column(name)
    op.drop_table("clock_marks")
    op.drop_index("ix_association_ends_ended_at", "association_ends")
    op.drop_table("association_ends")
    op.drop_table("rule_versions")
