"""The tables of the ledger, for SQLite and PostgreSQL alike.

The migrations say how a database gets here; this module says what here is, and a test holds the
two together. Text holds canonical JSON (`core.record`) rather than the databases' JSON types: those
reorder keys and reformat numbers, and what is hashed must come back to the byte.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _model() -> Column[str]:
    return Column("model", Text, primary_key=True, doc="the model's name")


chains = Table(
    "chains",
    metadata,
    _model(),
    Column("number", BigInteger, nullable=False, doc="of the model's last decision; 0: none"),
    Column("hash", String(64), nullable=False, doc="of the model's last decision"),
    info={"doc": "Where each chain ends: what a commit locks, and what betrays a lost tail"},
)

decisions = Table(
    "decisions",
    metadata,
    _model(),
    Column("number", BigInteger, primary_key=True, doc="counts a model's decisions from 1"),
    Column("time", Double, nullable=False, doc="event time of the tick, epoch seconds"),
    Column("offset", BigInteger, nullable=False, doc="of that tick in the model's log"),
    Column("rollout", Text, nullable=False, doc="the rollout's id, empty when none is on"),
    Column("candidate", Text, nullable=False, doc="its candidate, empty when none is on"),
    Column("stage", Text, nullable=False, doc="shadow, canary, ab, thompson or empty"),
    Column("step", BigInteger, nullable=False, doc="of the stage, from 1; 0 without a rollout"),
    Column("phase", Text, nullable=False, doc="after the decision"),
    Column("verdict", Text, nullable=False, doc="advance, hold, promote or roll_back"),
    Column("cause", Text, nullable=False, doc="a constant word"),
    Column("reason", Text, nullable=False, doc="one sentence, for people"),
    Column("epoch", BigInteger, nullable=False, doc="of the split that is wanted"),
    Column("weights", Text, nullable=False, doc="canonical JSON: arm -> basis points"),
    Column("evidence", Text, nullable=False, doc="canonical JSON"),
    Column("evidence_digest", Text, nullable=False),
    Column("policy_digest", Text, nullable=False, doc="of the policy in force"),
    Column("seed", Text, nullable=False, doc="decimal; may exceed 63 bits"),
    Column("code_version", Text, nullable=False, doc="of the Understudy that decided"),
    Column("previous_hash", String(64), nullable=False, doc="of the decision before"),
    Column("hash", String(64), nullable=False, doc="SHA-256 of canonical JSON of the rest"),
    info={"doc": "Append-only; hash-chained per model"},
)

effects = Table(
    "effects",
    metadata,
    _model(),
    Column("number", BigInteger, primary_key=True, doc="of the decision that wants it"),
    Column("ordinal", Integer, primary_key=True, doc="order within the decision, from 0"),
    Column("kind", Text, nullable=False, doc="such as set_split"),
    Column("body", Text, nullable=False, doc="JSON"),
    Column("done_at", Double, doc="when it was read back, epoch seconds; null: pending"),
    Column("attempts", Integer, nullable=False, doc="how often it was tried"),
    Column("last_error", Text, doc="of the last attempt that failed"),
    ForeignKeyConstraint(["model", "number"], ["decisions.model", "decisions.number"]),
    Index(None, "model", "done_at"),
    info={"doc": "What is intended, written before anything acts"},
)

snapshots = Table(
    "snapshots",
    metadata,
    _model(),
    Column("offset", BigInteger, primary_key=True, doc="of the first event not folded in"),
    Column("state", LargeBinary, nullable=False, doc="see ledger.codec"),
    Column("code_version", Text, nullable=False),
    Column("time", Double, nullable=False, doc="when it was written, epoch seconds"),
    info={"doc": "The newest states of each model: shortcuts, never the truth"},
)

policies = Table(
    "policies",
    metadata,
    _model(),
    Column("from_offset", BigInteger, primary_key=True, doc="first event it applies to"),
    Column("digest", Text, nullable=False),
    Column("document", Text, nullable=False, doc="as it was read"),
    Column("time", Double, nullable=False, doc="when it was adopted, epoch seconds"),
    info={"doc": "Which policy applies from which offset of the log on"},
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _model(),
    Column("offset", BigInteger, primary_key=True, doc="of the event in the model's log"),
    Column("reason", Text, nullable=False, doc="the word under which it is counted"),
    Column("detail", Text, nullable=False),
    Column("event", Text, nullable=False, doc="its text, at most 4 KiB of it"),
    Column("time", Double, nullable=False, doc="when it was first kept, epoch seconds"),
    Index(None, "model", "reason"),
    info={"doc": "Events of the log that could not be used"},
)

terms = Table(
    "terms",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False, doc="counts from 1"),
    Column("holder", Text, nullable=False, doc="the controller that leads, or led, in it"),
    Column("began", Double, nullable=False, doc="epoch seconds"),
    info={"doc": "Who may write: the newest; see ledger.terms. Row 0 is nobody's: a lock"},
)

intake_rejections = Table(
    "intake_rejections",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("time", Double, nullable=False, doc="when it was refused, epoch seconds"),
    Column("source", Text, nullable=False, doc="such as http or access_log"),
    Column("reason", Text, nullable=False, doc="the word under which it is counted"),
    Column("detail", Text, nullable=False),
    Column("event", Text, nullable=False, doc="its text, at most 4 KiB of it"),
    Index(None, "reason"),
    info={"doc": "Events refused at the door: they have no model, or no offset"},
)
