"""What the ledger drops, and what it must not: the rules of retention.

A log that is trimmed cannot be folded from its first event any more. Its truth moves to a *base*: a
snapshot from which everything after it is derived. Invariant, per model, at every moment that a
reader can see:

    base = 0, and the log is whole; or the snapshot at `base` is kept, and the log still has every
    event from `needs` on, where
    needs <= base, and no fold that begins at `base` asks for an event before `needs`

So the base is moved in the transaction that writes a newer snapshot, and the log is trimmed
afterwards, up to `needs` and no further. A crash in between leaves a log that is longer than it
must be; the next trim finds the same `needs`.

A base must be there when it is old enough, so snapshots are kept like rungs of a ladder: the two
newest, and between them and the base one for each quarter of `retain_s`. The log then reaches back
between 1 and 1.25 times `retain_s`, by the clock of its own events.

Of the events that could not be used the newest are kept, by offset. They are counted before they
are dropped, by reason. A fold that is done again after a crash finds the same events again: what
was folded before is known by `letters_folded`, so that none is counted twice.

Decisions are dropped by age, oldest first, with their effects. Never the last one, nor the last
that set a split, nor one with an effect that is pending, nor any after those. The chain of hashes
then begins at the first that is kept, with the hash that it names as the one before.

Rejected: trimming at the newest snapshot (one that cannot be read would be the end of the model,
and `--verify` would have nothing to derive), a snapshot per hour by the wall clock (a stopped
controller would lose its past while nothing happened).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, and_, delete, func, select, update

from controller.ledger.database import insert_new
from controller.ledger.rows import GENESIS
from controller.ledger.tables import (
    beginnings,
    dead_letters,
    decisions,
    dropped,
    effects,
    intake_rejections,
    snapshots,
)
from controller.ledger.values import Beginning

RUNGS: Final = 4
"""How many snapshots of each `retain_s` are kept, beside the two newest."""

NEWEST: Final = 2

LOT: Final = 50_000
"""No more refused events are dropped at once, so that a commit is not held up for long."""

_WHOLE: Final = Beginning(0, 0, 1, GENESIS, 0, 0)


class Rung(NamedTuple):
    """A snapshot, without its state; see `values.Place`."""

    offset: int
    clock: float | None
    needs: int | None


def beginning(connection: Connection, model: str) -> Beginning:
    """Where what is kept of the model begins."""
    query = select(beginnings).where(beginnings.c.model == model)
    row = connection.execute(query).one_or_none()
    return _WHOLE if row is None else Beginning(*row[1:])


def needs(connection: Connection) -> dict[str, int]:
    """Model -> oldest event that is still needed, of those whose log may be trimmed."""
    query = select(beginnings.c.model, beginnings.c.needs).where(beginnings.c.needs > 0)
    return {row.model: row.needs for row in connection.execute(query.order_by(beginnings.c.model))}


# --- snapshots --------------------------------------------------------------------------------


def kept_rungs(
    rungs: Sequence[Rung], base: int, retain_s: float | None
) -> tuple[list[Rung], Rung | None]:
    """Which of the snapshots (by offset) to keep, and which of them is the base from now on.

    base  offset of the present one, 0 where the log is whole
    """
    newest = rungs[-NEWEST:]
    at = next((rung for rung in rungs if base and rung.offset == base), None)
    last = rungs[-1].clock
    if retain_s is not None and last is not None:
        old = [r for r in rungs[:-1] if _is_old(r, last - retain_s)]
        at = max([*old[-1:], *([at] if at else [])], key=lambda r: r.offset, default=None)
    kept = [] if at is None else [at]
    for rung in rungs:
        is_later = at is None or rung.offset > at.offset
        if is_later and (rung in newest or _is_far(rung, kept, retain_s)):
            kept.append(rung)
    return kept, at


def _is_old(rung: Rung, before: float) -> bool:
    return rung.needs is not None and rung.clock is not None and rung.clock <= before


def _is_far(rung: Rung, kept: Sequence[Rung], retain_s: float | None) -> bool:
    """Whether it is the next rung after those that are kept."""
    if retain_s is None or rung.clock is None:
        return False
    below = kept[-1].clock if kept else None
    return below is None or rung.clock - below >= retain_s / RUNGS


def thin_snapshots(connection: Connection, model: str, retain_s: float | None) -> set[int]:
    """Drop the snapshots that are needed no more, and move the base; gives their offsets."""
    of_model = snapshots.c.model == model
    columns = (snapshots.c.offset, snapshots.c.clock, snapshots.c.needs)
    query = select(*columns).where(of_model).order_by(snapshots.c.offset)
    rungs = [Rung(*row) for row in connection.execute(query)]
    found = beginning(connection, model)
    kept, base = kept_rungs(rungs, found.base, retain_s)
    if base is not None and base.offset > found.base:
        assert base.needs is not None
        begin(connection, model, base=base.offset, needs=max(found.needs, base.needs))
    gone = {rung.offset for rung in rungs} - {rung.offset for rung in kept}
    if gone:
        connection.execute(delete(snapshots).where(of_model, snapshots.c.offset.in_(sorted(gone))))
    return gone


# --- events that could not be used --------------------------------------------------------------


def thin_letters(connection: Connection, model: str, most: int) -> None:
    """Drop all but the newest dead letters of a model, and count them."""
    of_model = dead_letters.c.model == model
    newest = select(dead_letters.c.offset).where(of_model).order_by(dead_letters.c.offset.desc())
    oldest = connection.scalar(newest.offset(most - 1).limit(1))
    if oldest is None:
        return
    last = newest.order_by(None).order_by(dead_letters.c.offset).offset(LOT).limit(1)
    oldest = min([oldest, *connection.scalars(last)])
    is_old = and_(of_model, dead_letters.c.offset < oldest)
    count(connection, dead_letters, model, _by_reason(connection, dead_letters, is_old))
    connection.execute(delete(dead_letters).where(is_old))
    begin(connection, model, letters=oldest)


def thin_rejections(connection: Connection, most: int) -> None:
    """Drop all but the newest events that were refused at the door, and count them."""
    newest = select(intake_rejections.c.id).order_by(intake_rejections.c.id.desc())
    oldest = connection.scalar(newest.offset(most - 1).limit(1))
    if oldest is None:
        return
    last = newest.order_by(None).order_by(intake_rejections.c.id).offset(LOT).limit(1)
    oldest = min([oldest, *connection.scalars(last)])
    is_old = intake_rejections.c.id < oldest
    count(connection, intake_rejections, "", _by_reason(connection, intake_rejections, is_old))
    connection.execute(delete(intake_rejections).where(is_old))


def _by_reason(connection: Connection, table: Table, where: Any) -> dict[str, int]:
    query = select(table.c.reason, func.count()).where(where).group_by(table.c.reason)
    return {row[0]: row[1] for row in connection.execute(query)}


def count(connection: Connection, table: Table, model: str, counts: dict[str, int]) -> None:
    """Add to how many rows of a table were dropped."""
    for reason, n in sorted(counts.items()):
        row = {"source": table.name, "model": model, "reason": reason}
        insert_new(connection, dropped, [row | {"count": 0}])
        same = and_(*(dropped.c[name] == value for name, value in row.items()))
        connection.execute(update(dropped).where(same).values(count=dropped.c.count + n))


# --- decisions ----------------------------------------------------------------------------------


def thin_decisions(connection: Connection, model: str, before: float) -> None:
    """Drop the decisions that were made before an event time, as far as none is needed."""
    of_model = decisions.c.model == model
    query = select(func.max(decisions.c.number)).where(of_model, decisions.c.time < before)
    last = connection.scalar(query)
    if last is None:
        return
    last = min([last, *(number - 1 for number in _needed(connection, model))])
    query = select(decisions.c.hash).where(of_model, decisions.c.number == last)
    previous_hash = connection.scalar(query)
    if previous_hash is None:
        return
    for table in (effects, decisions):
        connection.execute(delete(table).where(table.c.model == model, table.c.number <= last))
    begin(connection, model, decision=last + 1, previous_hash=previous_hash)


def _needed(connection: Connection, model: str) -> list[int]:
    """Decisions that must stay whatever their age."""
    of_model = effects.c.model == model
    wanted = (
        select(func.max(decisions.c.number)).where(decisions.c.model == model),
        select(func.max(effects.c.number)).where(of_model, effects.c.kind == "set_split"),
        select(func.min(effects.c.number)).where(of_model, effects.c.done_at.is_(None)),
    )
    found = [connection.scalar(query) for query in wanted]
    return [number for number in found if number is not None]


# --- both ---------------------------------------------------------------------------------------


def begin(connection: Connection, model: str, **changes: object) -> None:
    """Note where something begins from now on."""
    whole = {name: getattr(_WHOLE, name) for name in Beginning.__dataclass_fields__}
    insert_new(connection, beginnings, [{"model": model} | whole])
    connection.execute(update(beginnings).where(beginnings.c.model == model).values(**changes))
