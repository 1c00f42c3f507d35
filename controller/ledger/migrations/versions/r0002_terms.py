"""Terms, which fence off a controller that no longer leads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table with the row that every writer locks."""
    terms = op.create_table(
        "terms",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_terms"),
    )
    op.bulk_insert(terms, [{"number": 0, "holder": "", "began": 0.0}])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("terms")
