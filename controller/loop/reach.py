"""The reach of routers: whether an arm that is to be scaled down may still be sent users.

A split in force and a time to drain are not enough: a router that is left behind goes on by an
older split, and nobody waits for it. What it needs is kept. Known of it

    from the control plane    who is connected and behind, and who was lost (`router.roll`)
    from the log              that requests are still answered by the arm (`strays`)

The arm is kept for as long as one of them says so. A lost router, and one that sends no exposures
any more, is forgotten after `forget_s`. Only scaling down waits; traffic, roles and the Service
never do.

Rejected: an event of the log and a rule of the core. Who is connected is true of one controller at
one moment; what was decided does not change by it, only when it may be carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.core.decide.situation import for_people
from controller.core.policy import Policy
from controller.loop.carriers import carrier
from controller.loop.strays import Stray
from controller.router.roll import Straggler

SHOWN = 3
"""How many routers a sentence names."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Why an arm is kept running.

    is_wrong  somebody should look: it does not end by waiting
    """

    sentence: str
    is_wrong: bool


class Reach:
    """Says what keeps an arm; called from any thread.

    stragglers  routers that may still send requests to an arm of a model
    forget_s    how long what was seen of a router counts
    clock       monotonic seconds
    """

    def __init__(
        self,
        stragglers: Callable[[str, str], Sequence[Straggler]],
        *,
        forget_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._stragglers = stragglers
        self._forget_s = forget_s
        self._clock = clock
        self._strays: dict[tuple[str, str], tuple[Stray, float]] = {}

    def seen(self, model: str, strays: Mapping[str, Stray]) -> None:
        """These were read in the model's log just now."""
        now = self._clock()
        for arm, stray in strays.items():
            self._strays[model, arm] = (stray, now)

    def kept(self, policy: Policy, arm: str) -> Kept | None:
        """Why the arm must go on running; None: nobody can send it users any more."""
        stray = self._stray(policy.model, arm)
        routers = self._stragglers(policy.model, arm) if _is_ours(policy) else ()
        if stray is None and not routers:
            return None
        why = [_answered(stray)] if stray is not None else []
        why += [self._said(each) for each in routers[:SHOWN]]
        more = len(routers) - SHOWN
        why += [f"so are {more} more"] if more > 0 else []
        is_wrong = stray is not None or any(each.is_connected for each in routers)
        return Kept(f"{arm} is kept running, for users may still come: {'; '.join(why)}", is_wrong)

    def _stray(self, model: str, arm: str) -> Stray | None:
        stray, at = self._strays.get((model, arm), (None, 0.0))
        return stray if self._clock() - at < self._forget_s else None

    def _said(self, router: Straggler) -> str:
        since = _time(router.since)
        if router.is_connected:
            return f"router {router.name} has been left behind with an older split since {since}"
        forgotten = f"forgotten after {for_people(self._forget_s)}"
        if router.name:
            return f"router {router.name} was lost with an older split at {since}, {forgotten}"
        return f"a router that has not come back since this controller began, {since}, {forgotten}"


def _is_ours(policy: Policy) -> bool:
    return carrier(policy.spec.deploy) == "envoy"


def _answered(stray: Stray) -> str:
    split = f" under split {stray.epoch}" if stray.epoch >= 0 else ""
    return f"it answered a request{split} that came at {_time(stray.time)}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%H:%M:%SZ")
