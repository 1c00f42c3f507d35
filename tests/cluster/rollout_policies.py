"""The definition of RolloutPolicy in the test cluster."""

from __future__ import annotations

from controller.core.policy.crd import NAME, crd
from controller.deploy.policies import POLICIES
from tests.cluster.client import path
from tests.cluster.control_plane import ControlPlane
from tests.processes import until


def install(cluster: ControlPlane) -> None:
    """Make it known; without effect where it is."""
    code, answer = cluster.admin.call("POST", path("customresourcedefinitions"), crd())
    assert code in {201, 409}, answer
    where = POLICIES.path("default")
    until(f"{NAME} is served", lambda: cluster.admin.call("GET", where)[0] == 200)
