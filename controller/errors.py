"""Every exception of Understudy, in one tree: whose fault it is, and whether to try again.

    UnderstudyError
    ├── PolicyError          the author of a policy file   fix the file
    ├── EventError           the sender of an event        the event goes to the dead-letter table
    ├── CommandError         the operator                  the command does not fit the phase
    ├── BackendError         a service that we use
    │   ├── Retryable        try again after `after_s`
    │   │   ├── Standby      this controller does not lead: ask again, or ask the leader
    │   │   └── Busy         more came than can be held: nothing was kept, send it again
    │   └── Permanent        trying again will not help
    │       ├── Conflict     another writer owns what we would change: not fought
    │       ├── Deposed      another controller leads: stop acting
    │       └── Trimmed      these events are kept no more: begin at a later one
    └── InvariantError       Understudy itself: a bug. Hold the split and say so

Foreign exceptions are mapped to these at the boundary, with `raise … from exc`.
"""

from __future__ import annotations

from dataclasses import dataclass


class UnderstudyError(Exception):
    """The root of the tree."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a policy: where, what was found, what was expected."""

    path: str
    found: str
    expected: str
    line: int | None = None
    column: int | None = None
    nearest: str | None = None

    def sentence(self) -> str:
        """One line for people, without file name and position."""
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        where = f"{self.path}: " if self.path else ""
        return f"{where}found {self.found}, expected {self.expected}{hint}"


class PolicyError(UnderstudyError):
    """A policy cannot be used. `problems` names every fault, not only the first."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{self._where(p)}: {p.sentence()}" for p in problems))

    def _where(self, problem: Problem) -> str:
        parts = [self.source]
        if problem.line is not None:
            parts.append(str(problem.line))
            if problem.column is not None:
                parts.append(str(problem.column))
        return ":".join(parts)


class EventError(UnderstudyError):
    """An event that cannot be used; `reason` is the word under which it is counted.

    event  the event as it came, for the dead-letter table
    """

    def __init__(self, reason: str, message: str, *, event: bytes = b"") -> None:
        self.reason = reason
        self.event = event
        super().__init__(message)


class CommandError(UnderstudyError):
    """A command that does not fit the phase of its model. Nothing was changed."""


class BackendError(UnderstudyError):
    """A service that we use did not do what we asked."""


class Retryable(BackendError):  # noqa: N818 - the design's word
    """The same call may succeed later."""

    def __init__(self, message: str, *, after_s: float = 1.0) -> None:
        self.after_s = after_s
        super().__init__(message)


class Standby(Retryable):
    """This controller does not lead, and cannot do what only a leader does.

    leader  who leads, as far as is known
    """

    def __init__(self, message: str, leader: str, *, after_s: float = 1.0) -> None:
        self.leader = leader
        super().__init__(message, after_s=after_s)


class Busy(Retryable):
    """More came than can be held. Nothing of it was kept; after a while it may be sent again."""


class Permanent(BackendError):  # noqa: N818 - the design's word
    """The same call will fail again until somebody changes something."""


class Conflict(Permanent):
    """Another writer owns a field that we would change. It is reported, not fought."""


class Deposed(Permanent):
    """Another controller leads now. Whoever gets this must stop acting."""


class Trimmed(Permanent):
    """Events before `first` of a model's log were dropped, as its retention says."""

    def __init__(self, model: str, first: int) -> None:
        self.model = model
        self.first = first
        super().__init__(
            f"the log of {model} begins at event {first}: those before it were trimmed, and are "
            "kept for as long as --retain says"
        )


class InvariantError(UnderstudyError):
    """A state that cannot be: a bug in Understudy. The split is held."""
