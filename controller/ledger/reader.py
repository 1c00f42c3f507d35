"""What the ledger reads, inside a transaction that its caller opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from controller.core.model import Decision, SetSplit, Split
from controller.ledger.rows import decision_of, effect_of
from controller.ledger.tables import (
    dead_letters,
    decisions,
    dropped,
    effects,
    intake_rejections,
    policies,
    snapshot_parts,
    snapshots,
)
from controller.ledger.values import (
    AdoptedPolicy,
    DeadLetter,
    IntakeRejection,
    PendingEffect,
    Stamp,
)


def decisions_after(
    connection: Connection, model: str, after: int, limit: int
) -> tuple[Decision, ...]:
    """Decisions with a number above `after`, in order."""
    query = select(decisions).where(decisions.c.model == model, decisions.c.number > after)
    rows = _rows(connection, query.order_by(decisions.c.number).limit(limit))
    return tuple(decision_of(row) for row in rows)


def last_decision(connection: Connection, model: str) -> Decision | None:
    """The newest decision."""
    query = select(decisions).where(decisions.c.model == model)
    row = _first(connection, query.order_by(decisions.c.number.desc()))
    return None if row is None else decision_of(row)


def pending_effects(connection: Connection, model: str) -> tuple[PendingEffect, ...]:
    """Effects that were not read back yet, in the order in which they were decided."""
    query = (
        select(effects)
        .where(effects.c.model == model, effects.c.done_at.is_(None))
        .order_by(effects.c.number, effects.c.ordinal)
    )
    return tuple(
        PendingEffect(
            number=row["number"],
            ordinal=row["ordinal"],
            effect=effect_of(row["kind"], row["body"]),
            attempts=row["attempts"],
            last_error=row["last_error"],
        )
        for row in _rows(connection, query)
    )


def last_split(connection: Connection, model: str) -> Split | None:
    """The split that was wanted last, whether or not it came into force."""
    query = (
        select(effects)
        .where(effects.c.model == model, effects.c.kind == "set_split")
        .order_by(effects.c.number.desc(), effects.c.ordinal.desc())
    )
    row = _first(connection, query)
    effect = None if row is None else effect_of(row["kind"], row["body"])
    return effect.split if isinstance(effect, SetSplit) else None


def snapshot(connection: Connection, model: str, before: int | None) -> tuple[int, bytes] | None:
    """Offset and state of the newest snapshot; only those at offsets below `before` count."""
    query = select(snapshots.c.offset, snapshots.c.state).where(snapshots.c.model == model)
    if before is not None:
        query = query.where(snapshots.c.offset < before)
    row = _first(connection, query.order_by(snapshots.c.offset.desc()))
    return None if row is None else (row["offset"], row["state"])


def snapshot_digest(connection: Connection, model: str) -> tuple[int, str | None] | None:
    """Offset of the newest snapshot and digest of the event before it (see `Place`)."""
    query = select(snapshots.c.offset, snapshots.c.digest).where(snapshots.c.model == model)
    row = _first(connection, query.order_by(snapshots.c.offset.desc()))
    return None if row is None else (row["offset"], row["digest"])


def stamps(connection: Connection) -> dict[str, Stamp]:
    """Which snapshot is the newest, of every model that has one."""
    query = select(snapshots.c.model, snapshots.c.offset, snapshots.c.time)
    rows = _rows(connection, query.order_by(snapshots.c.model, snapshots.c.offset))
    return {row["model"]: Stamp(row["offset"], row["time"]) for row in rows}


def parts(
    connection: Connection, model: str, digests: Sequence[bytes]
) -> list[tuple[bytes, bytes]]:
    """Those of the parts that are kept: digest and body."""
    query = select(snapshot_parts.c.digest, snapshot_parts.c.body).where(
        snapshot_parts.c.model == model, snapshot_parts.c.digest.in_(digests)
    )
    return [(row["digest"], row["body"]) for row in _rows(connection, query)]


def adopted_policies(connection: Connection, model: str) -> tuple[AdoptedPolicy, ...]:
    """Every policy that the model had, oldest first."""
    query = select(policies).where(policies.c.model == model).order_by(policies.c.from_offset)
    return tuple(AdoptedPolicy(**_without_model(row)) for row in _rows(connection, query))


def newest_policy(connection: Connection, model: str) -> AdoptedPolicy | None:
    """The policy that was adopted last."""
    query = select(policies).where(policies.c.model == model)
    row = _first(connection, query.order_by(policies.c.from_offset.desc()))
    return None if row is None else AdoptedPolicy(**_without_model(row))


def letters(
    connection: Connection, model: str, limit: int, reason: str | None
) -> tuple[DeadLetter, ...]:
    """Events of the log that could not be used, newest first."""
    query = select(dead_letters).where(dead_letters.c.model == model)
    if reason is not None:
        query = query.where(dead_letters.c.reason == reason)
    rows = _rows(connection, query.order_by(dead_letters.c.offset.desc()).limit(limit))
    return tuple(DeadLetter(**_without_model(row)) for row in rows)


def logs_with_letters(connection: Connection, model: str) -> tuple[str, ...]:
    """The logs of the model's partitions that have any."""
    name = dead_letters.c.model
    query = select(name).where(name.startswith(f"{model}/", autoescape=True)).distinct()
    return tuple(row["model"] for row in _rows(connection, query.order_by(name)))


def letter_counts(connection: Connection, model: str) -> dict[str, int]:
    """How many are kept, by reason."""
    query = (
        select(dead_letters.c.reason, func.count().label("n"))
        .where(dead_letters.c.model == model)
        .group_by(dead_letters.c.reason)
        .order_by(dead_letters.c.reason)
    )
    return {row["reason"]: row["n"] for row in _rows(connection, query)}


def dropped_counts(connection: Connection, model: str | None) -> dict[str, int]:
    """How many refused events are kept no more, by reason: a model's, or those of the door."""
    source = intake_rejections if model is None else dead_letters
    query = select(dropped.c.reason, dropped.c.count).where(
        dropped.c.source == source.name, dropped.c.model == (model or "")
    )
    rows = _rows(connection, query.order_by(dropped.c.reason))
    return {row["reason"]: row["count"] for row in rows}


def rejections(
    connection: Connection, limit: int, reason: str | None
) -> tuple[IntakeRejection, ...]:
    """Events refused at the door, newest first."""
    query = select(intake_rejections)
    if reason is not None:
        query = query.where(intake_rejections.c.reason == reason)
    rows = _rows(connection, query.order_by(intake_rejections.c.id.desc()).limit(limit))
    return tuple(IntakeRejection(**row) for row in rows)


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _first(connection: Connection, query: Select[Any]) -> dict[str, Any] | None:
    rows = _rows(connection, query.limit(1))
    return rows[0] if rows else None


def _without_model(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "model"}
