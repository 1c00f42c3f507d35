"""What the ledger writes but snapshots, inside a transaction that its caller opened.

Every function leaves the tables as they are, or as they should be; none commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from controller.core.model import Decision, Effect, Rejected
from controller.errors import InvariantError
from controller.ledger import limits
from controller.ledger.database import insert_new
from controller.ledger.rows import (
    GENESIS,
    TEXT_LIMIT,
    Row,
    decision_row,
    differing,
    effect_row,
    storable,
)
from controller.ledger.tables import (
    chains,
    dead_letters,
    decisions,
    effects,
    intake_rejections,
    policies,
    snapshots,
)


class ChainEnd(NamedTuple):
    """Number and hash of a model's last decision."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Pen:
    """What everything that is written for one model in one transaction has in common."""

    connection: Connection
    model: str
    now: float
    code_version: str


def chain_end(connection: Connection, model: str, *, lock: bool = False) -> ChainEnd:
    """Where the model's chain ends: number 0 and GENESIS before its first decision."""
    query = select(chains.c.number, chains.c.hash).where(chains.c.model == model)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return ChainEnd(0, GENESIS) if row is None else ChainEnd(row.number, row.hash)


def append_decisions(pen: Pen, written: Sequence[tuple[Decision, Sequence[Effect]]]) -> None:
    """Append those decisions that are new; make sure that the others are as they stand here.

    Raises:
        InvariantError: one differs, is out of turn, or belongs to another model.
    """
    insert_new(pen.connection, chains, [{"model": pen.model, "number": 0, "hash": GENESIS}])
    end = started = chain_end(pen.connection, pen.model, lock=True)
    for decision, wanted in written:
        if decision.model != pen.model:
            raise InvariantError(f"a decision on {decision.model} in a commit for {pen.model}")
        if decision.number <= end.number:
            if decision.number >= limits.beginning(pen.connection, pen.model).decision:
                _require_same(pen, decision, wanted)
        else:
            end = _append(pen, end, decision, wanted)
    if end != started:
        pen.connection.execute(
            update(chains).where(chains.c.model == pen.model).values(**end._asdict())
        )


def keep_dead_letters(
    pen: Pen, rejected: Sequence[tuple[Rejected, bytes]], folded: int | None
) -> None:
    """Keep events that could not be used; the first word on an offset stands.

    Those that are older than what is kept are counted only. `folded` is how far the log was read
    when they were found: what was found there before is known.
    """
    if not rejected:
        return
    begun = limits.beginning(pen.connection, pen.model)
    if folded is not None:
        if folded <= begun.letters_folded:
            return
        limits.begin(pen.connection, pen.model, letters_folded=folded)
    old = Counter(event.reason.value for event, _ in rejected if event.offset < begun.letters)
    limits.count(pen.connection, dead_letters, pen.model, old)
    rows = [
        {
            "model": pen.model,
            "offset": event.offset,
            "reason": event.reason.value,
            "detail": storable(event.detail, limit=TEXT_LIMIT),
            "event": storable(text, limit=TEXT_LIMIT),
            "time": pen.now,
        }
        for event, text in rejected
        if event.offset >= begun.letters
    ]
    insert_new(pen.connection, dead_letters, rows)


def adopt_policy(pen: Pen, from_offset: int, digest: str, document: str) -> None:
    """Note a policy, unless it is the newest already; see `Ledger.adopt_policy`."""
    of_model = policies.c.model == pen.model
    newest = pen.connection.execute(
        select(policies.c.from_offset, policies.c.digest)
        .where(of_model)
        .order_by(policies.c.from_offset.desc())
        .limit(1)
    ).one_or_none()
    if newest is not None and newest.digest == digest:
        return
    folded = folded_until(pen.connection, pen.model)
    if from_offset < folded or (newest is not None and from_offset < newest.from_offset):
        raise InvariantError(
            f"{pen.model}: a policy from offset {from_offset} on would rewrite history: events "
            f"before {folded} are decided on, and the newest policy applies from "
            f"{newest.from_offset if newest is not None else 0} on"
        )
    # A policy that was replaced before any event came under it never applied.
    pen.connection.execute(delete(policies).where(of_model, policies.c.from_offset == from_offset))
    pen.connection.execute(
        insert(policies).values(
            model=pen.model,
            from_offset=from_offset,
            digest=digest,
            document=document,
            time=pen.now,
        )
    )


def mark_done(connection: Connection, key: tuple[str, int, int], now: float) -> None:
    """Mark an effect as read back, unless it is already.

    Raises:
        InvariantError: there is no such effect.
    """
    changed = connection.execute(
        update(effects)
        .where(_is_effect(key), effects.c.done_at.is_(None))
        .values(done_at=now, attempts=effects.c.attempts + 1)
    )
    if changed.rowcount == 0:
        _require_effect(connection, key)


def mark_failed(connection: Connection, key: tuple[str, int, int], error: str) -> None:
    """Count a failed attempt of an effect that is not done.

    Raises:
        InvariantError: there is no such effect.
    """
    changed = connection.execute(
        update(effects)
        .where(_is_effect(key), effects.c.done_at.is_(None))
        .values(attempts=effects.c.attempts + 1, last_error=storable(error, limit=TEXT_LIMIT))
    )
    if changed.rowcount == 0:
        _require_effect(connection, key)


def keep_rejections(
    connection: Connection, now: float, refused: Sequence[tuple[str, str, str, bytes]]
) -> None:
    """Keep events that were refused at the door."""
    rows = [
        {
            "time": now,
            "source": source,
            "reason": str(reason),
            "detail": storable(detail, limit=TEXT_LIMIT),
            "event": storable(text, limit=TEXT_LIMIT),
        }
        for source, reason, detail, text in refused
    ]
    if rows:
        connection.execute(insert(intake_rejections), rows)


def _append(pen: Pen, end: ChainEnd, decision: Decision, wanted: Sequence[Effect]) -> ChainEnd:
    if decision.number != end.number + 1:
        raise InvariantError(
            f"{pen.model}: decision {decision.number} after decision {end.number} leaves a gap"
        )
    row = decision_row(decision, code_version=pen.code_version, previous_hash=end.hash)
    pen.connection.execute(insert(decisions).values(row))
    if wanted:
        pen.connection.execute(insert(effects), _effect_rows(decision, wanted))
    return ChainEnd(decision.number, row["hash"])


def _effect_rows(decision: Decision, wanted: Sequence[Effect]) -> list[Row]:
    bodies = [effect_row(effect) for effect in wanted]
    return [
        {
            "model": decision.model,
            "number": decision.number,
            "ordinal": ordinal,
            "kind": kind,
            "body": body,
            "attempts": 0,
        }
        for ordinal, (kind, body) in enumerate(bodies)
    ]


def _require_same(pen: Pen, decision: Decision, wanted: Sequence[Effect]) -> None:
    stored = _stored(pen, decision.number)
    derived = decision_row(decision, code_version=pen.code_version, previous_hash=GENESIS)
    if columns := differing(stored, derived):
        changes = "; ".join(f"{c}: {stored[c]!r:.200} -> {derived[c]!r:.200}" for c in columns)
        raise InvariantError(
            f"{pen.model}: decision {decision.number} stands as {stored['verdict']} "
            f"({stored['reason']!r}), made by version {stored['code_version']}, but is now derived "
            f"by {pen.code_version} as {derived['verdict']} ({derived['reason']!r}): {changes}"
        )
    query = (
        select(effects.c.kind, effects.c.body)
        .where(effects.c.model == pen.model, effects.c.number == decision.number)
        .order_by(effects.c.ordinal)
    )
    standing = [(row.kind, row.body) for row in pen.connection.execute(query)]
    if standing != (now := [effect_row(effect) for effect in wanted]):
        raise InvariantError(
            f"{pen.model}: decision {decision.number} stands with the effects {standing!r:.500}, "
            f"but is now derived with {now!r:.500}"
        )


def _stored(pen: Pen, number: int) -> Mapping[str, Any]:
    query = select(decisions).where(decisions.c.model == pen.model, decisions.c.number == number)
    row = pen.connection.execute(query).mappings().one_or_none()
    if row is None:
        raise InvariantError(f"{pen.model}: decision {number} is missing from the ledger")
    return dict(row)


def folded_until(connection: Connection, model: str) -> int:
    """The offset before which every event was folded in, as far as the ledger knows."""
    decided = connection.scalar(
        select(func.max(decisions.c.offset)).where(decisions.c.model == model)
    )
    folded = connection.scalar(
        select(func.max(snapshots.c.offset)).where(snapshots.c.model == model)
    )
    return max(0 if decided is None else decided + 1, folded or 0)


def _is_effect(key: tuple[str, int, int]) -> ColumnElement[bool]:
    model, number, ordinal = key
    return and_(effects.c.model == model, effects.c.number == number, effects.c.ordinal == ordinal)


def _require_effect(connection: Connection, key: tuple[str, int, int]) -> None:
    if connection.execute(select(effects.c.ordinal).where(_is_effect(key))).one_or_none() is None:
        model, number, ordinal = key
        raise InvariantError(f"{model}: decision {number} has no effect {ordinal}")
