"""The first ledger: decisions, effects, snapshots, policies, dead letters, intake rejections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _create_decisions()
    _create_effects()
    _create_states()
    _create_refused()


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in (
        "intake_rejections",
        "dead_letters",
        "policies",
        "snapshots",
        "effects",
        "decisions",
        "chains",
    ):
        op.drop_table(table)


def _create_decisions() -> None:
    op.create_table(
        "chains",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_chains"),
    )
    op.create_table(
        "decisions",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("evidence_digest", sa.Text, nullable=False),
        sa.Column("policy_digest", sa.Text, nullable=False),
        sa.Column("seed", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("model", "number", name="pk_decisions"),
    )


def _create_effects() -> None:
    op.create_table(
        "effects",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("done_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("model", "number", "ordinal", name="pk_effects"),
        sa.ForeignKeyConstraint(
            ["model", "number"],
            ["decisions.model", "decisions.number"],
            name="fk_effects_decisions",
        ),
    )
    op.create_index("ix_effects_model_done_at", "effects", ["model", "done_at"])


def _create_states() -> None:
    op.create_table(
        "snapshots",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "offset", name="pk_snapshots"),
    )
    op.create_table(
        "policies",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("from_offset", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "from_offset", name="pk_policies"),
    )


def _create_refused() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "offset", name="pk_dead_letters"),
    )
    op.create_index("ix_dead_letters_model_reason", "dead_letters", ["model", "reason"])
    op.create_table(
        "intake_rejections",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_intake_rejections"),
    )
    op.create_index("ix_intake_rejections_reason", "intake_rejections", ["reason"])
