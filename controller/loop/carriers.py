"""Who carries the split of each model: our Envoys, or what a policy's `deploy` names instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from controller.core.model import Json
from controller.core.policy import Deploy
from controller.errors import Permanent
from controller.loop.routes import Router
from controller.router.snapshot import RoutedModel

Kind: TypeAlias = Literal["envoy", "gateway", "kserve"]


class Carriers:
    """Several routers as one: each model's split goes to the one that carries it."""

    def __init__(self, envoy: Router, others: Mapping[Kind, Router]) -> None:
        self._routers: dict[Kind, Router] = {"envoy": envoy, **others}

    async def publish(self, models: Sequence[RoutedModel]) -> None:
        """Make these the wanted splits; one that fails does not keep the others waiting."""
        shares: dict[Kind, list[RoutedModel]] = {kind: [] for kind in self._routers}
        for model in models:
            kind = carrier(model.deploy)
            if kind not in shares:
                raise Permanent(
                    f"{model.name}: nothing here carries a split by {kind}: "
                    "start `serve` with --kubernetes"
                )
            shares[kind].append(model)
        done = await asyncio.gather(
            *(self._routers[kind].publish(share) for kind, share in shares.items()),
            return_exceptions=True,
        )
        for failure in done:
            if isinstance(failure, BaseException):
                raise failure

    async def confirmed(self, timeout_s: float) -> Mapping[str, int]:
        """Model -> epoch that whoever carries it has accepted."""
        found = await asyncio.gather(*(r.confirmed(timeout_s) for r in self._routers.values()))
        return {model: epoch for each in found for model, epoch in each.items()}

    def status(self) -> dict[str, Json]:
        """The Envoys' status; that of the others under their names."""
        others: dict[str, Json] = {
            kind: r.status() for kind, r in self._routers.items() if kind != "envoy"
        }
        return {**self._routers["envoy"].status(), **others}


def carrier(deploy: Deploy | None) -> Kind:
    """Who carries the split of a policy with this `deploy`."""
    if deploy is not None and deploy.kserve is not None:
        return "kserve"
    return "gateway" if deploy is not None and deploy.gateway is not None else "envoy"
