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
