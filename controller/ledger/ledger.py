"""The ledger as its callers have it: one object, safe to call from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from importlib.metadata import version
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine

from controller.core.model import Decision, Effect, Rejected, Split
from controller.ledger import chain, leases, reader, snapshots, terms, writer
from controller.ledger import limits as keeping
from controller.ledger.database import mapped_errors, open_engine, reading, writing
from controller.ledger.leases import Leases
from controller.ledger.parts import Parts
from controller.ledger.values import (
    AdoptedPolicy,
    Beginning,
    DeadLetter,
    IntakeRejection,
    Limits,
    PendingEffect,
    Place,
    Stamp,
    Term,
)

Clock: TypeAlias = Callable[[], float]
Asked = ParamSpec("Asked")
Found = TypeVar("Found")

_LIMITS = Limits()

_PAGE = 1_000

SLACK = 10
"""Refused events are dropped when a tenth more than are kept may be there: counting takes time."""
_PARTS_READ = 256
"""Parts in one query: 16 MiB."""


def open_ledger(url: str, *, clock: Clock, limits: Limits = _LIMITS) -> Ledger:
    """The ledger at an SQLAlchemy URL such as `sqlite:////var/lib/understudy/ledger.db`.

    Creates the tables, or brings those of an older version up to date. `clock` gives epoch seconds;
    `limits` say what is dropped when something is written.

    Raises:
        Retryable: the database is out of reach or locked.
        Permanent: it is damaged, or was written by a newer version.
    """
    engine = open_engine(url)
    return Ledger(engine, clock=clock, code_version=version("understudy"), limits=limits)


class Ledger:
    """Decisions, effects, snapshots, policies and refused events. Safe to call from any thread.

    Every method raises `Retryable` when the database is locked, full or out of reach, and
    `Permanent` when it is damaged; nothing was changed then. One that writes raises `Deposed` when
    another ledger began a term after this one did; so whoever carries out decisions begins one.
    """

    def __init__(self, engine: Engine, *, clock: Clock, code_version: str, limits: Limits) -> None:
        self._engine = engine
        self._clock = clock
        self._code_version = code_version
        self._limits = limits
        self._term: int | None = None
        self._refused: dict[str, int] = {}

    @property
    def leases(self) -> Leases:
        """Who folds which partition."""
        return Leases(self._engine)

    def lay_out(self, model: str, logs: Mapping[int, str], count: int) -> None:
        """From now on these are the model's partitions, and events go to the first `count`.

        logs   number -> name of the log; those that are left out are folded no more
        count  1: events go to the model's own log
        """
        with self._writing() as connection:
            leases.lay_out(connection, model, logs, count)

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
        return self._read(terms.newest)

    def commit(  # noqa: PLR0913 - all that one transaction holds
        self,
        model: str,
        *,
        decisions: Sequence[tuple[Decision, Sequence[Effect]]] = (),
        dead_letters: Sequence[tuple[Rejected, bytes]] = (),
        folded: int | None = None,
        snapshot: tuple[int, bytes] | None = None,
        place: Place | None = None,
        parts: Parts | None = None,
    ) -> None:
        """Write down one step of a model, all or nothing, durably when it returns.

        dead_letters  rejected events of the log with their text; known offsets are left as they are
        folded        how far the log is read; letters found before there are known already
        place         where in the log the snapshot stands; without it, it is never a base
        snapshot      offset of the first event that is not folded in, and the encoded state; the
                      newest two are kept
        parts         what the snapshot names, and what of it is new

        Raises:
            InvariantError: a decision differs from the one that has its number, or leaves a gap;
                or the snapshot is older than the newest, or names parts that nobody has.
        """
        with self._writing() as connection:
            pen = writer.Pen(connection, model, self._clock(), self._code_version)
            writer.append_decisions(pen, decisions)
            writer.keep_dead_letters(pen, dead_letters, folded)
            if snapshot is not None:
                retain_s = self._limits.retain_s
                kept = parts or Parts()
                snapshots.keep(pen, *snapshot, kept, place=place, retain_s=retain_s)
            if self._is_time_to_drop(model, len(dead_letters)):
                keeping.thin_letters(connection, model, self._limits.letters)
            if decisions and self._limits.decisions_s is not None:
                oldest = decisions[-1][0].time - self._limits.decisions_s
                keeping.thin_decisions(connection, model, oldest)

    def pending_effects(self, model: str) -> tuple[PendingEffect, ...]:
        """Effects that were not read back yet, in the order in which they were decided."""
        return self._read(reader.pending_effects, model)

    def last_split(self, model: str) -> Split | None:
        """The split that was wanted last, whether or not it came into force."""
        return self._read(reader.last_split, model)

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
        return self._read(reader.snapshot, model, before)

    def snapshot_digest(self, model: str) -> tuple[int, str | None] | None:
        """Offset of the newest snapshot and digest of the event before it (see `Place`)."""
        return self._read(reader.snapshot_digest, model)

    def folded_until(self, model: str) -> int:
        """The offset before which every event of the log was folded, as far as is known here."""
        return self._read(writer.folded_until, model)

    def beginning(self, model: str) -> Beginning:
        """Where what is kept of a model begins."""
        return self._read(keeping.beginning, model)

    def log_needs(self) -> dict[str, int]:
        """Model -> offset before which its log may be trimmed, of models where there is one."""
        return self._read(keeping.needs)

    def parts(self, model: str, digests: AbstractSet[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Those of the parts that are kept: digest and body, a few at a time."""
        wanted = sorted(digests)
        for start in range(0, len(wanted), _PARTS_READ):
            some = wanted[start : start + _PARTS_READ]
            yield from self._read(reader.parts, model, some)

    def stamps(self) -> dict[str, Stamp]:
        """Which snapshot is the newest, of every model that has one: cheap, to see what is new."""
        return self._read(reader.stamps)

    def drop_snapshots(self, model: str, *, since: int) -> None:
        """Forget the snapshots at offset `since` and after it: nobody can read them any more."""
        with self._writing() as connection:
            snapshots.drop_since(connection, model, since)

    def decisions(self, model: str, *, after: int = 0, limit: int = _PAGE) -> tuple[Decision, ...]:
        """Decisions with a number above `after`, in order."""
        return self._read(reader.decisions_after, model, after, limit)

    def decision(self, model: str, number: int) -> Decision | None:
        """The decision with this number, None when there is none."""
        found = self.decisions(model, after=number - 1, limit=1)
        return found[0] if found and found[0].number == number else None

    def last_decision(self, model: str) -> Decision | None:
        """The newest decision, None when there is none."""
        return self._read(reader.last_decision, model)

    def verify_chain(self, model: str) -> int | None:
        """The number of the first decision that is not as it was written, None when all are.

        A decision that is missing, at the end too, counts as broken.
        """
        return self._read(chain.first_broken, model)

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
        return self._read(reader.adopted_policies, model)

    def newest_policy(self, model: str) -> AdoptedPolicy | None:
        """The policy that was adopted last, None when none was."""
        return self._read(reader.newest_policy, model)

    def dead_letters(
        self, model: str, limit: int = _PAGE, reason: str | None = None
    ) -> tuple[DeadLetter, ...]:
        """Events of the log that could not be used, newest first."""
        return self._read(reader.letters, model, limit, reason)

    def logs_with_dead_letters(self, model: str) -> tuple[str, ...]:
        """The logs of the model's partitions that have any."""
        return self._read(reader.logs_with_letters, model)

    def count_dead_letters(self, model: str) -> dict[str, int]:
        """How many are kept, by reason."""
        return self._read(reader.letter_counts, model)

    def reject(self, source: str, refused: Sequence[tuple[str, str, bytes]]) -> None:
        """Keep events refused at the door: for each its reason, a detail and its text."""
        self.reject_each([(source, *each) for each in refused])

    def reject_each(self, refused: Sequence[tuple[str, str, str, bytes]]) -> None:
        """As `reject`, with the place that each came from before its reason."""
        with self._writing() as connection:
            writer.keep_rejections(connection, self._clock(), refused)
            if self._is_time_to_drop("", len(refused)):
                keeping.thin_rejections(connection, self._limits.letters)

    def count_dropped(self, model: str | None = None) -> dict[str, int]:
        """How many refused events are kept no more, by reason: a model's, or those of the door."""
        return self._read(reader.dropped_counts, model)

    def rejections(
        self, limit: int = _PAGE, reason: str | None = None
    ) -> tuple[IntakeRejection, ...]:
        """Events refused at the door, newest first."""
        return self._read(reader.rejections, limit, reason)

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def _is_time_to_drop(self, model: str, more: int) -> bool:
        """Whether so many refused events of a model came that it is worth counting them."""
        if not more:
            return False
        waiting = self._refused.get(model, self._limits.letters) + more
        is_time = waiting >= self._limits.letters / SLACK
        self._refused[model] = 0 if is_time else waiting
        return is_time

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that may write, and that only the newest term's can end well."""
        with mapped_errors(), writing(self._engine) as connection:
            if self._term is not None:
                terms.require(connection, self._term)
            yield connection

    def _read(
        self,
        look: Callable[Concatenate[Connection, Asked], Found],
        *asked: Asked.args,
        **more: Asked.kwargs,
    ) -> Found:
        with mapped_errors(), reading(self._engine) as connection:
            return look(connection, *asked, **more)
