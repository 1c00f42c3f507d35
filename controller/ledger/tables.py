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
    Column("clock", Double, doc="event time of the state; null: not known"),
    Column("needs", BigInteger, doc="oldest event that a fold from here may ask for"),
    Column("digest", String(64), doc="SHA-256 of the event before the offset"),
    Column("parts", LargeBinary, doc="digests of the parts that it names; null: none"),
    info={"doc": "States of each model: the newest, and older ones for `ledger.limits`"},
)

beginnings = Table(
    "beginnings",
    metadata,
    _model(),
    Column("base", BigInteger, nullable=False, doc="offset of the oldest snapshot, once trimmed"),
    Column("needs", BigInteger, nullable=False, doc="events of the log before it may go"),
    Column("decision", BigInteger, nullable=False, doc="number of the first decision kept"),
    Column("previous_hash", String(64), nullable=False, doc="of the decision before that one"),
    Column("letters", BigInteger, nullable=False, doc="dead letters at older offsets were dropped"),
    Column("letters_folded", BigInteger, nullable=False, doc="their log was folded up to here"),
    info={"doc": "Where what is kept of a model begins; see ledger.limits"},
)

dropped = Table(
    "dropped",
    metadata,
    Column("source", Text, primary_key=True, doc="dead_letters or intake_rejections"),
    Column("model", Text, primary_key=True, doc="the model's name; empty for intake_rejections"),
    Column("reason", Text, primary_key=True, doc="the word under which they are counted"),
    Column("count", BigInteger, nullable=False),
    info={"doc": "How many refused events were dropped, because only the newest are kept"},
)

snapshot_parts = Table(
    "snapshot_parts",
    metadata,
    _model(),
    Column("digest", LargeBinary, primary_key=True, doc="of the content; see ledger.parts"),
    Column("body", LargeBinary, nullable=False),
    info={"doc": "Pieces of large columns that kept snapshots name, each once"},
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

leases = Table(
    "leases",
    metadata,
    Column("log", Text, primary_key=True, doc="of the partition; or the worker's name"),
    Column("model", Text, nullable=False, doc="empty in the row of a worker"),
    Column("number", Integer, nullable=False, doc="of the partition"),
    Column("is_routed", Integer, nullable=False, doc="1: events go there, 0: not any more"),
    Column("slots", Integer, nullable=False, doc="how many partitions the worker may hold"),
    Column("holder", Text, nullable=False, doc="the worker that folds it; empty: none"),
    Column("until", Double, nullable=False, doc="by the database's clock, epoch seconds"),
    info={"doc": "Logs of partitions, and who folds them; see ledger.leases"},
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
