"""What the ledger gives back, where the vocabulary of the core has no word for it."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model import Effect


@dataclass(frozen=True, slots=True)
class PendingEffect:
    """An effect that was written down but not read back: number of its decision, place in it."""

    number: int
    ordinal: int
    effect: Effect
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Term:
    """A time for which a controller leads: from `began` on until the next one begins."""

    number: int
    holder: str
    began: float


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which snapshot of a model is the newest; another one of the same offset has another time."""

    offset: int
    time: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its log a snapshot stands.

    clock   event time of the state, epoch seconds
    needs   offset of the oldest event that a fold which begins there may ask for
    digest  SHA-256 of the event before the snapshot's offset, "" where there is none: a log
            without that event is not the one that the snapshot was made of
    """

    clock: float
    needs: int
    digest: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept; see `ledger.limits`.

    retain_s     at least so much of each log, event time; None: all of it
    letters      events that could not be used: so many of each model; and so many of all that were
                 refused at the door
    decisions_s  decisions of so much event time; None: all of them
    """

    retain_s: float | None = 86_400.0
    letters: int = 100_000
    decisions_s: float | None = None


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where what is kept of a model begins.

    base           offset of the snapshot that the log is folded from; 0: from its beginning
    needs          events of the log before this one are needed no more
    decision       number of the first decision that is kept
    previous_hash  of the decision before it
    letters        dead letters at older offsets were dropped
    """

    base: int
    needs: int
    decision: int
    previous_hash: str
    letters: int
    letters_folded: int


@dataclass(frozen=True, slots=True)
class AdoptedPolicy:
    """A policy, the offset of the first event it applies to, and when it was adopted."""

    from_offset: int
    digest: str
    document: str
    time: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event of a model's log that could not be used; `event` is its text, maybe cut."""

    offset: int
    reason: str
    detail: str
    event: str
    time: float


@dataclass(frozen=True, slots=True)
class IntakeRejection:
    """An event that was refused at the door; `event` is its text, maybe cut."""

    id: int
    time: float
    source: str
    reason: str
    detail: str
    event: str
