"""What is known of arms that run in a cluster, and what is still to be done about them."""

from __future__ import annotations

from dataclasses import dataclass

from controller.core.model.words import ArmRole, Operation, Presence


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much of an arm runs.

    replicas  those that are wanted
    limit     the most that whoever scales the arm allows
    rises     (n, since): at least n replicas have been ready since then, without a break; n rises
    """

    state: Presence
    replicas: int
    limit: int | None = None
    rises: tuple[tuple[int, float], ...] = ()

    @property
    def ready(self) -> int:
        """Replicas that answer now."""
        return self.rises[-1][0] if self.rises else 0

    def ready_since(self, time: float) -> int:
        """Replicas that have answered since then, without a break."""
        return max((n for n, since in self.rises if since <= time), default=0)


@dataclass(frozen=True, slots=True)
class Leaving:
    """An arm that gets no traffic any more, and is scaled down when its time has come.

    role   what it is then
    epoch  the split that takes its traffic
    since  when that was carried out; None: not yet
    """

    arm: str
    role: ArmRole
    epoch: int
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """What an operator asked for that has to wait for capacity.

    said   the wish, for people
    since  when the wait began, event time
    """

    operation: Operation
    arm: str
    said: str
    since: float
