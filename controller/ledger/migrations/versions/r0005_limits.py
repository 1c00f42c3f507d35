"""Limits: what was dropped, where what is kept begins, and what snapshots say of the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and tables; nothing has been dropped yet, so both tables are empty."""
    op.add_column("snapshots", sa.Column("clock", sa.Double))
    op.add_column("snapshots", sa.Column("needs", sa.BigInteger))
    op.add_column("snapshots", sa.Column("digest", sa.String(64)))
    op.create_table(
        "beginnings",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("base", sa.BigInteger, nullable=False),
        sa.Column("needs", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.BigInteger, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("letters", sa.BigInteger, nullable=False),
        sa.Column("letters_folded", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_beginnings"),
    )
    op.create_table(
        "dropped",
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", "model", "reason", name="pk_dropped"),
    )


def downgrade() -> None:
    """Drop them: an older version cannot verify a chain, or fold a log, that was cut."""
    op.drop_table("dropped")
    op.drop_table("beginnings")
    for column in ("digest", "needs", "clock"):
        op.drop_column("snapshots", column)
