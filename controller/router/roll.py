"""The roll: which routers may still send users to an arm that gets nothing any more.

A split is in force without the routers that are left behind (see `server`). Those go on by an older
one, and an arm that is scaled down under them answers their users with 503. So whoever scales an
arm down asks here first. Of each router is known to what its routes may lead:

    connected      to what the last split that it has accepted leads, and to what those lead that it
                   was sent since: it may have taken one and not have said so
    came back      to what it led when it was lost; to anything, if it was never seen
    began anew     to nothing: a process that has no configuration, in the place of the one before
    lost           to what it led then, for `forget_s`: cut off from us, it may yet have users

A router that does not come back is forgotten after `forget_s`, so it holds nothing for ever; one
that is connected is not, for it is there. A control plane that has just begun cannot know whom the
one before it had lost: for its first `forget_s` there may be routers that it has not met.

Rejected: to tell a router that ended from one that was cut off by how its connection closed (what
stands in between closes connections, too).
"""

from __future__ import annotations

import time  # noqa: TID251 - how long a router is away: it is asked from any thread
from collections.abc import Iterable
from dataclasses import dataclass

from controller.router.node import Node


@dataclass(frozen=True, slots=True)
class Straggler:
    """A router that may route by an older split.

    name          its id; empty for those that were never met
    since         epoch seconds: when it fell behind, or was lost, or when we began
    is_connected  else it was lost
    """

    name: str
    since: float
    is_connected: bool


@dataclass(frozen=True, slots=True)
class _Lost:
    led_to: frozenset[str] | None
    at: float


class Roll:
    """The routers that were lost, and what may be asked of all; times are monotonic inside."""

    def __init__(self, forget_s: float) -> None:
        self._forget_s = forget_s
        self._lost: dict[str, _Lost] = {}
        self._began = time.monotonic()
        self._wall = time.time() - self._began

    def begin(self) -> None:
        """From now on routers may come."""
        self._began = time.monotonic()

    def came(self, node: Node) -> None:
        """A router connected: before it is sent anything, it routes as it did.

        One that crashes again and again is therefore lost with what it was sent last, not with what
        it led to long ago.
        """
        lost = self._lost.pop(node.id, None)
        node.led_to = lost.led_to if lost is not None else None
        if node.is_new:
            node.led_to = frozenset()

    def left(self, node: Node) -> None:
        """Its connection ended, and it has no other."""
        now = time.monotonic()
        self._lost = {name: each for name, each in self._lost.items() if self._is_known(each, now)}
        self._lost[node.id] = _Lost(node.led_to, now)

    def stragglers(self, nodes: Iterable[Node], cluster: str) -> tuple[Straggler, ...]:
        """Who may send users' requests to this cluster: the connected first, each sorted."""
        now = time.monotonic()
        behind = sorted(
            (node.id, now if node.behind_since is None else node.behind_since)
            for node in nodes
            if _may_lead(node.led_to, cluster)
        )
        away = sorted(
            (name, each.at)
            for name, each in list(self._lost.items())
            if self._is_known(each, now) and _may_lead(each.led_to, cluster)
        )
        if now - self._began < self._forget_s:
            away.append(("", self._began))
        return (
            *(Straggler(name, self._wall + at, is_connected=True) for name, at in behind),
            *(Straggler(name, self._wall + at, is_connected=False) for name, at in away),
        )

    def _is_known(self, lost: _Lost, now: float) -> bool:
        return now - lost.at < self._forget_s


def _may_lead(led_to: frozenset[str] | None, cluster: str) -> bool:
    return led_to is None or cluster in led_to
