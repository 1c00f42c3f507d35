"""What of the events that come from outside is refused, whoever brings them."""

from __future__ import annotations

from typing import Final

from controller.stream.wire import Canonical

AHEAD_S: Final = 300.0
"""How far ahead of our clock an event's time may be: more would never close."""

OURS: Final = {
    "tick": "ticks are made by the controller",
    "tallies": "tallies are made by the workers of partitions",
    "capacity": "capacities are what the controller sees in the cluster",
    "command": "commands go to POST /v1/models/{model}/…, candidates to …/candidates",
}


def misplaced(event: Canonical, now: float) -> str | None:
    """Why an event from outside is refused, though it is one."""
    if event.type in OURS:
        return OURS[event.type]
    if event.time > now + AHEAD_S:
        return f"time: found {event.time}, which is more than {AHEAD_S:g} s ahead of our clock"
    return None
