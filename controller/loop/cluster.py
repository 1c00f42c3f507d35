"""What the cluster has of each model's arms, brought to those who need it.

How many replicas are ready decides, so it is an event of the log. Where they answer only routes,
and changes with every pod that moves, so it goes to the routers directly.

Nothing is remembered here: what the log was told last is what its fold says.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model import Version
from controller.core.policy import Policy
from controller.core.state import State
from controller.deploy.news import news
from controller.deploy.target import Discovery, FoundArm


class Cluster:
    """The arms that run in a cluster, for models whose policy says that theirs do."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    @property
    def is_known(self) -> bool:
        """Whether the cluster has been looked at since the start."""
        return self._discovery.is_known

    def news(self, policy: Policy, state: State, now: float) -> list[bytes]:
        """Events that the model's log lacks."""
        if policy.spec.deploy is None:
            return []
        found = self._discovery.found(policy, state.versions)
        return news(state.model, _known(state), found, state.versions, state.champion, now)

    def endpoints(
        self, policy: Policy, versions: Mapping[str, Version]
    ) -> dict[str, tuple[str, ...]]:
        """Where the ready replicas of each arm answer."""
        if policy.spec.deploy is None:
            return {}
        found = self._discovery.found(policy, versions)
        return {arm: each.endpoints for arm, each in found.items()}


def _known(state: State) -> dict[str, FoundArm]:
    """What the log says of each arm."""
    return {
        arm: FoundArm(arm, each.state, each.ready, each.replicas, each.limit)
        for arm, each in state.capacities.items()
    }
