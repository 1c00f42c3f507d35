"""Two discoveries as one: each model's arms come from whoever runs them."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model import Version
from controller.core.policy import Policy
from controller.deploy.target import Discovery, FoundArm


class Discoveries:
    """Deployments, or, where the policy says so, an InferenceService.

    It is known when the Deployments are: routers are told where those answer. A cluster without
    KServe must not keep them waiting.
    """

    def __init__(self, deployments: Discovery, kserve: Discovery) -> None:
        self._deployments = deployments
        self._kserve = kserve

    @property
    def is_known(self) -> bool:
        """Whether the Deployments have been looked at since the start."""
        return self._deployments.is_known

    def found(self, policy: Policy, versions: Mapping[str, Version]) -> Mapping[str, FoundArm]:
        """The arms of the policy's model."""
        deploy = policy.spec.deploy
        is_kserve = deploy is not None and deploy.kserve is not None
        return (self._kserve if is_kserve else self._deployments).found(policy, versions)
