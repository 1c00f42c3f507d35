"""Several discoveries as one: each model's arms come from whoever runs them."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model import Version
from controller.core.policy import Policy
from controller.deploy.carrying import ObjectRouter
from controller.deploy.found import out_of_sight
from controller.deploy.target import Discovery, FoundArm


class Discoveries:
    """Deployments, or, where the policy says so, an InferenceService.

    It is known when the Deployments are: routers are told where those answer. A cluster without
    KServe must not keep them waiting.

    Where somebody else has changed the split of a model, or its route is refused, nobody knows what
    its arms get: they are unknown until it is as it was wanted, so the rollout holds.
    """

    def __init__(
        self, deployments: Discovery, kserve: Discovery, carriers: tuple[ObjectRouter, ...] = ()
    ) -> None:
        self._deployments = deployments
        self._kserve = kserve
        self._carriers = carriers

    @property
    def is_known(self) -> bool:
        """Whether the Deployments have been looked at since the start."""
        return self._deployments.is_known

    def trouble(self, model: str) -> str | None:
        """Why the split of a model that our routers do not carry is not what is wanted."""
        return next((t for each in self._carriers if (t := each.trouble(model))), None)

    def found(self, policy: Policy, versions: Mapping[str, Version]) -> Mapping[str, FoundArm]:
        """The arms of the policy's model."""
        deploy = policy.spec.deploy
        is_kserve = deploy is not None and deploy.kserve is not None
        found = (self._kserve if is_kserve else self._deployments).found(policy, versions)
        if self.trouble(policy.model) is None:
            return found
        return {name: out_of_sight(arm) for name, arm in found.items()}
