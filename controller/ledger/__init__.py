"""The ledger: what was decided, what is to be done about it, and where to go on after a crash.

A commit is one transaction that holds the decisions, the effects they intend, the events that could
not be used, and a snapshot of the state that came out of it. Nothing acts on a decision before its
commit returned; an effect is marked done only after the world was read back. So a crash leaves one
of two things: nothing of a step, and the fold makes it again; or all of it, and `pending_effects`
says what may still have to be done.

Recovery folds the log from a snapshot and derives decisions that stand here already. Committing one
again changes nothing if it is the same, and is an `InvariantError` if it is not: then the code or
the log changed under a decision that may have moved traffic, and only a person can say which was
right.

Invariant, per model, at every moment that a reader can see:

    decisions are numbered 1..N without a gap, and chains.(number, hash) = (N, hash of decision N)
    hash of n = SHA-256(canonical JSON of the rest of n, which includes the hash of n - 1)

The chain ends in a row of its own because a chain alone cannot show that its tail was cut off. It
is no signature: whoever can rewrite every row can forge it. `understudy ledger --verify` derives
the decisions from the log as well.

Rejected: an ORM (rows here are values, written once), triggers against updates (two dialects of
them, and `verify_chain` finds more), JSON columns (see `tables`). The clock is an argument: times
of writing are for people, and nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, Select, func, select

from controller.core.model import Decision, Effect, Rejected, SetSplit, Split
from controller.ledger import terms, writer
from controller.ledger.database import mapped_errors, open_engine, reading, writing
from controller.ledger.rows import GENESIS, decision_of, effect_of, is_intact
from controller.ledger.tables import (
    dead_letters,
    decisions,
    effects,
    intake_rejections,
    policies,
    snapshots,
)
from controller.ledger.values import (
    AdoptedPolicy,
    DeadLetter,
    IntakeRejection,
    PendingEffect,
    Stamp,
    Term,
)

__all__ = [
    "AdoptedPolicy",
    "DeadLetter",
    "IntakeRejection",
    "Ledger",
    "PendingEffect",
    "Stamp",
    "Term",
    "open_ledger",
]

Clock: TypeAlias = Callable[[], float]

_PAGE = 1_000


def open_ledger(url: str, *, clock: Clock) -> Ledger:
    """The ledger at an SQLAlchemy URL such as `sqlite:////var/lib/understudy/ledger.db`.

    Creates the tables, or brings those of an older version up to date. `clock` gives epoch seconds.

    Raises:
        Retryable: the database is out of reach or locked.
        Permanent: it is damaged, or was written by a newer version.
    """
    return Ledger(open_engine(url), clock=clock, code_version=version("understudy"))


class Ledger:
    """Decisions, effects, snapshots, policies and refused events. Safe to call from any thread.

    Every method raises `Retryable` when the database is locked, full or out of reach, and
    `Permanent` when it is damaged; nothing was changed then. One that writes raises `Deposed` when
    another ledger began a term after this one did; so whoever carries out decisions begins one.
    """

    def __init__(self, engine: Engine, *, clock: Clock, code_version: str) -> None:
        self._engine = engine
        self._clock = clock
        self._code_version = code_version
        self._term: int | None = None

    def begin_term(self, holder: str) -> int:
        """Lead from now on: every ledger of an older term can only read. The new term's number.

        holder  names this controller, for people
        """
        with mapped_errors(), writing(self._engine) as connection:
            number = terms.begin(connection, holder, self._clock())
        self._term = number
        return number

    def is_current(self) -> bool:
        """Whether the term that this ledger began is the newest; True where it began none.

        Cheap, and true only of the moment: what must not be done twice asks `commit`.
        """
        return self._term is None or self.newest_term().number == self._term

    def require_current(self) -> None:
        """Raise `Deposed` where `is_current` is False: to be asked before acting on the world."""
        if self._term is not None:
            terms.compare(self.newest_term(), self._term)

    def newest_term(self) -> Term:
        """Who leads now, as far as this ledger knows; number 0 when nobody ever did."""
        with mapped_errors(), reading(self._engine) as connection:
            return terms.newest(connection)

    def commit(
        self,
        model: str,
        *,
        decisions: Sequence[tuple[Decision, Sequence[Effect]]] = (),
        dead_letters: Sequence[tuple[Rejected, bytes]] = (),
        snapshot: tuple[int, bytes] | None = None,
    ) -> None:
        """Write down one step of a model, all or nothing, durably when it returns.

        dead_letters  rejected events of the log with their text; known offsets are left as they are
        snapshot      offset of the first event that is not folded in, and the encoded state; the
                      newest two are kept

        Raises:
            InvariantError: a decision differs from the one that has its number, or leaves a gap;
                or the snapshot is older than the newest.
        """
        with self._writing() as connection:
            pen = writer.Pen(connection, model, self._clock(), self._code_version)
            writer.append_decisions(pen, decisions)
            writer.keep_dead_letters(pen, dead_letters)
            if snapshot is not None:
                writer.keep_snapshot(pen, *snapshot)

    def pending_effects(self, model: str) -> tuple[PendingEffect, ...]:
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
            for row in self._rows(query)
        )

    def last_split(self, model: str) -> Split | None:
        """The split that was wanted last, whether or not it came into force."""
        query = (
            select(effects)
            .where(effects.c.model == model, effects.c.kind == "set_split")
            .order_by(effects.c.number.desc(), effects.c.ordinal.desc())
            .limit(1)
        )
        for row in self._rows(query):
            effect = effect_of(row["kind"], row["body"])
            return effect.split if isinstance(effect, SetSplit) else None
        return None

    def effect_done(self, model: str, number: int, ordinal: int) -> None:
        """Mark an effect as read back from the world. The first time counts.

        Raises:
            InvariantError: there is no such effect.
        """
        with self._writing() as connection:
            writer.mark_done(connection, (model, number, ordinal), self._clock())

    def effect_failed(self, model: str, number: int, ordinal: int, error: str) -> None:
        """Count an attempt that failed; the effect stays pending. One that is done stays done.

        Raises:
            InvariantError: there is no such effect.
        """
        with self._writing() as connection:
            writer.mark_failed(connection, (model, number, ordinal), error)

    def snapshot(self, model: str, *, before: int | None = None) -> tuple[int, bytes] | None:
        """Offset and state of the newest snapshot; only those at offsets below `before` count."""
        query = select(snapshots.c.offset, snapshots.c.state).where(snapshots.c.model == model)
        if before is not None:
            query = query.where(snapshots.c.offset < before)
        rows = self._rows(query.order_by(snapshots.c.offset.desc()).limit(1))
        return (rows[0]["offset"], rows[0]["state"]) if rows else None

    def stamps(self) -> dict[str, Stamp]:
        """Which snapshot is the newest, of every model that has one: cheap, to see what is new."""
        query = select(snapshots.c.model, snapshots.c.offset, snapshots.c.time)
        rows = self._rows(query.order_by(snapshots.c.model, snapshots.c.offset))
        return {row["model"]: Stamp(row["offset"], row["time"]) for row in rows}

    def drop_snapshots(self, model: str, *, since: int) -> None:
        """Forget the snapshots at offset `since` and after it: nobody can read them any more."""
        with self._writing() as connection:
            writer.drop_snapshots(connection, model, since)

    def decisions(self, model: str, *, after: int = 0, limit: int = _PAGE) -> tuple[Decision, ...]:
        """Decisions with a number above `after`, in order."""
        return tuple(decision_of(row) for row in self._decision_rows(model, after, limit))

    def decision(self, model: str, number: int) -> Decision | None:
        """The decision with this number, None when there is none."""
        found = self.decisions(model, after=number - 1, limit=1)
        return found[0] if found and found[0].number == number else None

    def last_decision(self, model: str) -> Decision | None:
        """The newest decision, None when there is none."""
        query = select(decisions).where(decisions.c.model == model)
        rows = self._rows(query.order_by(decisions.c.number.desc()).limit(1))
        return decision_of(rows[0]) if rows else None

    def verify_chain(self, model: str) -> int | None:
        """The number of the first decision that is not as it was written, None when all are.

        A decision that is missing, at the end too, counts as broken.
        """
        with mapped_errors(), reading(self._engine) as connection:
            return _first_broken(connection, model)

    def adopt_policy(self, model: str, from_offset: int, digest: str, document: str) -> None:
        """Note that a policy applies from an offset on. The newest one again is no change.

        Raises:
            InvariantError: events at or after `from_offset` were already decided on by another.
        """
        with self._writing() as connection:
            pen = writer.Pen(connection, model, self._clock(), self._code_version)
            writer.adopt_policy(pen, from_offset, digest, document)

    def policies(self, model: str) -> tuple[AdoptedPolicy, ...]:
        """Every policy that the model had, oldest first."""
        query = select(policies).where(policies.c.model == model).order_by(policies.c.from_offset)
        return tuple(AdoptedPolicy(**_without_model(row)) for row in self._rows(query))

    def newest_policy(self, model: str) -> AdoptedPolicy | None:
        """The policy that was adopted last, None when none was."""
        query = select(policies).where(policies.c.model == model)
        rows = self._rows(query.order_by(policies.c.from_offset.desc()).limit(1))
        return AdoptedPolicy(**_without_model(rows[0])) if rows else None

    def dead_letters(
        self, model: str, limit: int = _PAGE, reason: str | None = None
    ) -> tuple[DeadLetter, ...]:
        """Events of the log that could not be used, newest first."""
        query = select(dead_letters).where(dead_letters.c.model == model)
        if reason is not None:
            query = query.where(dead_letters.c.reason == reason)
        rows = self._rows(query.order_by(dead_letters.c.offset.desc()).limit(limit))
        return tuple(DeadLetter(**_without_model(row)) for row in rows)

    def count_dead_letters(self, model: str) -> dict[str, int]:
        """How many there are, by reason."""
        query = (
            select(dead_letters.c.reason, func.count().label("n"))
            .where(dead_letters.c.model == model)
            .group_by(dead_letters.c.reason)
            .order_by(dead_letters.c.reason)
        )
        return {row["reason"]: row["n"] for row in self._rows(query)}

    def reject(self, source: str, refused: Sequence[tuple[str, str, bytes]]) -> None:
        """Keep events refused at the door: for each its reason, a detail and its text."""
        with self._writing() as connection:
            writer.keep_rejections(connection, self._clock(), source, refused)

    def rejections(
        self, limit: int = _PAGE, reason: str | None = None
    ) -> tuple[IntakeRejection, ...]:
        """Events refused at the door, newest first."""
        query = select(intake_rejections)
        if reason is not None:
            query = query.where(intake_rejections.c.reason == reason)
        rows = self._rows(query.order_by(intake_rejections.c.id.desc()).limit(limit))
        return tuple(IntakeRejection(**row) for row in rows)

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that may write, and that only the newest term's can end well."""
        with mapped_errors(), writing(self._engine) as connection:
            if self._term is not None:
                terms.require(connection, self._term)
            yield connection

    def _decision_rows(self, model: str, after: int, limit: int) -> list[Mapping[str, Any]]:
        query = select(decisions).where(decisions.c.model == model, decisions.c.number > after)
        return self._rows(query.order_by(decisions.c.number).limit(limit))

    def _rows(self, query: Select[Any]) -> list[Mapping[str, Any]]:
        with mapped_errors(), reading(self._engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _first_broken(connection: Connection, model: str) -> int | None:
    query = select(decisions).where(decisions.c.model == model).order_by(decisions.c.number)
    rows = connection.execution_options(yield_per=_PAGE).execute(query).mappings()
    number, previous_hash = 0, GENESIS
    for row in rows:
        number += 1
        if row["number"] != number or not is_intact(dict(row), previous_hash=previous_hash):
            return number
        previous_hash = row["hash"]
    end = writer.chain_end(connection, model)
    if end.number != number:
        return min(number, end.number) + 1
    return None if end.hash == previous_hash else max(number, 1)


def _without_model(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "model"}
