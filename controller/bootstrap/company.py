"""Who is told of each turn of the wheel beside the API, and what does not work there."""

from __future__ import annotations

import time  # noqa: TID251 - the wall clock is taken here and handed on
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.core.model import HealthKey
from controller.core.policy import Policy
from controller.loop.fold import Turned
from controller.loop.reach import Reach
from controller.loop.timekeeper import STEP_S, Timekeeper
from controller.loop.wheel import Wheel
from controller.notify import Notifier

if TYPE_CHECKING:
    from controller.bootstrap.cluster import ClusterSide


@dataclass(slots=True)
class Company:
    """Who is told of each turn beside the API, and what does not work there."""

    notifier: Notifier
    reach: Reach
    cluster: ClusterSide | None = None
    wheel: Wheel | None = None
    policies: dict[str, Policy] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    timekeeper: Timekeeper = field(init=False)

    def __post_init__(self) -> None:
        self.timekeeper = Timekeeper(time.time, _steady_s, longest_s=self.longest_s)

    def longest_s(self) -> float:
        """How long an exposure of any model may be open."""
        return max((_longest_s(policy) for policy in self.policies.values()), default=0.0)

    def clock_trouble(self, model: str) -> str | None:
        """What is wrong with this machine's clock, or with the one that the log has gone by."""
        ahead_s = self.times.get(model, 0.0) - time.time()
        if ahead_s <= STEP_S or self.timekeeper.trouble:
            return self.timekeeper.trouble
        return (
            f"the log has gone by a clock that was {ahead_s:.0f} s ahead of this machine's: time "
            "stands still until it has caught up, and requests meanwhile are late"
        )

    def turned(self, turned: Turned) -> None:
        """A turn is over."""
        self.policies[turned.report.model] = turned.policy
        self.times[turned.report.model] = turned.report.time
        self.notifier.told(turned.policy, turned.decisions)
        self.reach.seen(turned.report.model, turned.strays)
        if self.cluster is not None:
            self.cluster.turned(turned)

    def worries(self, model: str) -> dict[HealthKey, str | None]:
        """What does not work for a model, by who should have done it."""
        found: dict[HealthKey, str | None] = {
            "notify": self.notifier.trouble(model),
            "clock": self.clock_trouble(model),
        }
        if self.wheel is not None:
            found["deploy"] = self.wheel.deploy_trouble(model)
            if (kept := self.wheel.kept(model)) is not None:
                found["left_behind" if kept.is_wrong else "kept"] = kept.sentence
        policy = self.policies.get(model)
        if self.cluster is not None and policy is not None:
            found |= self.cluster.worries(policy)
        return found


def _steady_s() -> float:
    """Seconds of a clock that nobody sets, and that counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _longest_s(policy: Policy) -> float:
    grace_s = policy.spec.reward.grace
    return max(reward.window for reward in policy.all_rewards) + grace_s
