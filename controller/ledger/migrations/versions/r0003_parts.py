"""Snapshots in parts: what did not change between two of them is kept once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of parts; snapshots that there are stand alone."""
    op.add_column("snapshots", sa.Column("parts", sa.LargeBinary))
    op.create_table(
        "snapshot_parts",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("model", "digest", name="pk_snapshot_parts"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Bodies are compressed already, where that pays.
        op.execute("ALTER TABLE snapshot_parts ALTER COLUMN body SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Drop it, with the snapshots that nobody could read without it."""
    op.execute("DELETE FROM snapshots WHERE parts IS NOT NULL")
    op.drop_table("snapshot_parts")
    op.drop_column("snapshots", "parts")
