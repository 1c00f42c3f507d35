"""What `understudy doctor` found: one line per check, in words that every room shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controller.errors import Retryable, UnderstudyError

SKEW_WARNING_S: Final = 2.0
SKEW_FAILED_S: Final = 60.0
"""How far two clocks may be apart: beyond the grace of a reward, windows close too early."""


class Status(StrEnum):
    """How a check went: a warning is something that works, but not as it should."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it is, what was found, and what to do about it."""

    check: str
    status: Status
    found: str
    remedy: str = ""


def fine(check: str, found: str) -> Finding:
    """A check that went well."""
    return Finding(check, Status.OK, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Something that works, but not as it should."""
    return Finding(check, Status.WARNING, found, remedy)


def failed(check: str, found: str, remedy: str) -> Finding:
    """Something that Understudy cannot work with."""
    return Finding(check, Status.FAILED, found, remedy)


def of_error(check: str, exc: UnderstudyError, remedy: str) -> Finding:
    """A check that an error ended. Those that will come again say what to do at their end."""
    sentence = " ".join(str(exc).split())
    found, colon, own = sentence.rpartition(": ")
    if isinstance(exc, Retryable) or not colon:
        return failed(check, sentence.removesuffix(": it is tried again"), remedy)
    return failed(check, found, own)


def skew(check: str, *, theirs: float, ours: float, whose: str) -> Finding:
    """Two clocks, in epoch seconds, read at the same moment."""
    apart_s = theirs - ours
    found = f"the clock of {whose} is {abs(apart_s):.1f} s {'ahead' if apart_s > 0 else 'behind'}"
    remedy = "synchronise both machines (chrony, systemd-timesyncd)"
    if abs(apart_s) >= SKEW_FAILED_S:
        return failed(check, found, remedy)
    if abs(apart_s) >= SKEW_WARNING_S:
        return warning(check, found, remedy)
    return fine(check, f"the clock of {whose} agrees within {SKEW_WARNING_S:g} s")


def speed(check: str, seconds: float, *, of: str) -> Finding:
    """How long one durable write took; every micro-batch waits for some."""
    found = f"{of} takes {seconds * 1000:.1f} ms"
    if seconds >= 1.0:
        return failed(check, found, "use a faster disk, or one that is nearer")
    if seconds >= 0.1:
        return warning(check, found, "decisions and intake wait for it: use a faster disk")
    return fine(check, found)
