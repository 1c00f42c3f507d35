"""What routers must know of all models: routes, splits, and where the arms answer.

What is published takes the place of all that the routers have: a model that is left out would
answer nobody. So one that could not be folded since the start goes on with the split that it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from controller.core.model import Json
from controller.core.policy import Policy
from controller.core.state import State
from controller.errors import UnderstudyError
from controller.loop.cluster import Cluster
from controller.loop.fold import Fold
from controller.router.snapshot import RoutedModel


class Router(Protocol):
    """Whatever carries the splits to the traffic."""

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits."""
        ...

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        """Model -> epoch that every connected router has accepted; waits for the wanted ones."""
        ...

    def status(self) -> dict[str, Json]:
        """For people: connected routers, refusals."""
        ...


class Routes:
    """The routed models, renewed where something of them changed.

    cluster  what knows the arms that run in a cluster; None where there is none
    """

    def __init__(self, cluster: Cluster | None) -> None:
        self._cluster = cluster
        self._known: dict[str, RoutedModel] = {}
        self._stand_ins: dict[str, RoutedModel] = {}
        self._stale: set[str] = set()

    def renew(self, model: str) -> None:
        """It was folded, or its arms moved."""
        self._stale.add(model)

    def forget(self, model: str) -> None:
        """There is no such model any more."""
        self._known.pop(model, None)
        self._stand_ins.pop(model, None)

    async def wanted(
        self, folds: Mapping[str, Fold], states: Mapping[str, State]
    ) -> list[RoutedModel]:
        """All models as the routers should have them now."""
        await self._stand_in(folds, states)
        for model in self._stale & states.keys():
            routed = self._routed(folds[model].policy, states[model])
            if self._known.get(model) != routed:
                self._known[model] = routed
        self._stale.clear()
        return [self._known[model] for model in sorted(states)] + list(self._stand_ins.values())

    async def _stand_in(self, folds: Mapping[str, Fold], states: Mapping[str, State]) -> None:
        """Keep the routes of models that could not be folded since the start."""
        for model in sorted(set(folds) - set(states) - set(self._stand_ins)):
            known = None
            with suppress(UnderstudyError):
                known = await asyncio.to_thread(folds[model].last_known)
            if known is not None:
                policy = folds[model].policy
                found = self._cluster.endpoints(policy, {}) if self._cluster is not None else {}
                self._stand_ins[model] = RoutedModel(
                    name=model,
                    route=policy.spec.route,
                    split=known.split,
                    endpoints=known.endpoints | found,
                    deploy=policy.spec.deploy,
                    namespace=policy.namespace,
                )
        for model in set(self._stand_ins) & set(states):
            del self._stand_ins[model]

    def _routed(self, policy: Policy, state: State) -> RoutedModel:
        arms = {state.champion, *state.split.weights, *state.split.mirror}
        if state.rollout is not None:
            arms |= set(state.rollout.arms)
        endpoints = {a: state.versions[a].endpoints for a in arms if a in state.versions}
        if self._cluster is not None:
            found = self._cluster.endpoints(policy, state.versions)
            endpoints |= {arm: found[arm] for arm in arms if arm in found}
        return RoutedModel(
            name=state.model,
            route=policy.spec.route,
            split=state.split,
            endpoints=endpoints,
            deploy=policy.spec.deploy,
            namespace=policy.namespace,
        )
