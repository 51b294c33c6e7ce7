"""lesion index: which lesion, body site and moment an instance shows."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Rows of the release before keep empty texts: their lesions are found once they are sent again.
_COLUMNS = {"tracking_uid": 64, "tracking_id_sha256": 64, "body_site": 80, "acquired_at": 14}


def upgrade() -> None:
    with op.batch_alter_table("instances", schema=None) as batch_op:
        for name, length in _COLUMNS.items():
            batch_op.add_column(
                sa.Column(name, sa.String(length=length), nullable=False, server_default="")
            )
        for name in ("tracking_uid", "tracking_id_sha256", "body_site"):
            batch_op.create_index(batch_op.f(f"ix_instances_{name}"), [name], unique=False)
    with op.batch_alter_table("identities", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("patient_key", sa.String(length=64), nullable=False, server_default="")
        )
        batch_op.create_index(
            batch_op.f("ix_identities_patient_key"), ["patient_key"], unique=False
        )
    _fill_patient_keys()


def _fill_patient_keys() -> None:
    identities = sa.table(
        "identities",
        sa.column("study_id", sa.Integer),
        sa.column("patient_key", sa.String),
        sa.column("patient_id", sa.Text),
        sa.column("issuer_of_patient_id", sa.Text),
    )
    connection = op.get_bind()
    rows = connection.execute(
        sa.select(identities.c.study_id, identities.c.patient_id, identities.c.issuer_of_patient_id)
    ).all()
    for row in rows:
        connection.execute(
            identities.update()
            .where(identities.c.study_id == row.study_id)
            .values(patient_key=_key(row.issuer_of_patient_id, row.patient_id))
        )


def _key(issuer: str, patient_id: str) -> str:
    # gateway.store.intake.lesions.patient_key as it was at this revision.
    if not patient_id.strip():
        return ""
    return hashlib.sha256(f"{issuer.strip()}\x1f{patient_id.strip()}".encode()).hexdigest()


def downgrade() -> None:
    with op.batch_alter_table("identities", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_identities_patient_key"))
        batch_op.drop_column("patient_key")
    with op.batch_alter_table("instances", schema=None) as batch_op:
        for name in ("tracking_uid", "tracking_id_sha256", "body_site"):
            batch_op.drop_index(batch_op.f(f"ix_instances_{name}"))
        for name in _COLUMNS:
            batch_op.drop_column(name)
