"""What every target must do, whatever the models run on; one `World` for each of them.

@pytest.fixture
def world(cluster, namespace, …) -> World: ...

class TestSomething(TargetContract):
    pass
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Protocol

import pytest

from controller.core.model import ArmRole, PointService, Scale, SetRole
from controller.deploy.target import Order, Target
from controller.errors import Conflict, Permanent, Retryable
from tests.cluster.control_plane import ControlPlane

Effect = Scale | SetRole | PointService


class World(Protocol):
    """The model `digits` with the champion v1 and the candidate v2, in a namespace of its own."""

    target: Target

    def order(self, effect: Effect, champion: str = "v1") -> Order:
        """An order for that model."""
        ...

    def start(self, version: str, replicas: int) -> None:
        """Let an arm be there."""
        ...

    def remove(self, version: str) -> None:
        """Take an arm away, as somebody who deletes it."""
        ...

    def replicas(self, version: str) -> int:
        """How many replicas are wanted of an arm."""
        ...

    def role(self, version: str) -> str | None:
        """The role that an arm is labelled with."""
        ...

    def served(self) -> str | None:
        """The arm that the model's own Service selects."""
        ...

    def applied_by(self, manager: str, version: str, replicas: int) -> None:
        """Let somebody else apply an arm's replicas."""
        ...

    def fingerprint(self) -> object:
        """Differs after anything was written."""
        ...


class TargetContract:
    """Inherited by the tests of each target."""

    def test_candidate_is_scaled_to_what_it_needs(self, world: World) -> None:
        world.start("v1", 3)
        world.start("v2", 1)
        world.target.carry_out(world.order(Scale(1, "v2", 3)))
        assert (world.replicas("v1"), world.replicas("v2")) == (3, 3)

    def test_scale_means_at_least(self, world: World) -> None:
        world.start("v2", 3)
        world.target.carry_out(world.order(Scale(1, "v2", 1)))
        assert world.replicas("v2") == 3

    def test_arm_that_is_done_with_is_scaled_to_nothing_and_back(self, world: World) -> None:
        world.start("v1", 2)
        world.start("v2", 2)
        world.target.carry_out(world.order(Scale(1, "v2", 0)))
        assert world.replicas("v2") == 0
        world.target.carry_out(world.order(Scale(2, "v2", 2)))
        assert world.replicas("v2") == 2

    def test_champion_is_never_scaled_to_nothing(self, world: World) -> None:
        world.start("v1", 2)
        with pytest.raises(Permanent, match="v1 is the champion"):
            world.target.carry_out(world.order(Scale(1, "v1", 0)))
        assert world.replicas("v1") == 2

    def test_giving_back_takes_nothing_away(self, world: World) -> None:
        world.start("v1", 2)
        world.target.carry_out(world.order(Scale(1, "v1", 4)))
        world.target.carry_out(world.order(Scale(2, "v1", None)))
        assert world.replicas("v1") >= 2

    def test_promotion(self, world: World) -> None:
        world.start("v1", 2)
        world.start("v2", 2)
        for effect in (
            SetRole(1, "v2", ArmRole.CHAMPION),
            PointService(1, "v2"),
            SetRole(1, "v1", ArmRole.RETAINED),
        ):
            world.target.carry_out(world.order(effect, champion="v2"))
        assert (world.role("v1"), world.role("v2")) == ("retained", "champion")
        assert world.served() == "v2"
        world.target.carry_out(world.order(Scale(2, "v1", 0), champion="v2"))
        world.target.carry_out(world.order(SetRole(2, "v1", ArmRole.RETIRED), champion="v2"))
        assert (world.role("v1"), world.replicas("v1"), world.replicas("v2")) == ("retired", 0, 2)

    @pytest.mark.parametrize(
        "effect",
        [
            Scale(1, "v2", 3),
            Scale(1, "v2", 0),
            Scale(1, "v1", None),
            SetRole(1, "v2", ArmRole.CANDIDATE),
            PointService(1, "v2"),
        ],
        ids=repr,
    )
    def test_order_that_was_carried_out_writes_nothing(self, world: World, effect: Effect) -> None:
        world.start("v1", 2)
        world.start("v2", 1)
        world.target.carry_out(world.order(effect))
        before = world.fingerprint()
        world.target.carry_out(world.order(effect))
        assert world.fingerprint() == before

    def test_another_writer_is_named_and_not_fought(self, world: World) -> None:
        world.start("v2", 1)
        world.applied_by("argocd", "v2", 1)
        before = world.fingerprint()
        for _ in range(2):
            with pytest.raises(Conflict, match="argocd"):
                world.target.carry_out(world.order(Scale(1, "v2", 3)))
        assert (world.replicas("v2"), world.fingerprint()) == (1, before)
        world.target.carry_out(world.order(SetRole(1, "v2", ArmRole.CANDIDATE)))
        assert (world.role("v2"), world.replicas("v2")) == ("candidate", 1)

    @pytest.mark.parametrize(
        "effect", [Scale(1, "v2", 3), SetRole(1, "v2", ArmRole.CHAMPION)], ids=repr
    )
    def test_arm_that_is_not_there_is_named(self, world: World, effect: Effect) -> None:
        world.start("v1", 1)
        world.start("v2", 1)
        world.remove("v2")
        with pytest.raises(Permanent, match="v2"):
            world.target.carry_out(world.order(effect))

    @pytest.mark.parametrize(
        "effect",
        [Scale(1, "v2", 0), Scale(1, "v2", None), SetRole(1, "v2", ArmRole.REJECTED)],
        ids=repr,
    )
    def test_arm_that_is_not_there_needs_no_tidying(self, world: World, effect: Effect) -> None:
        world.start("v1", 1)
        world.start("v2", 1)
        world.remove("v2")
        world.target.carry_out(world.order(effect))

    def test_api_server_that_is_away_is_waited_for(
        self, cluster: ControlPlane, world: World
    ) -> None:
        effects = (Scale(1, "v2", 3), SetRole(1, "v2", ArmRole.CANDIDATE), PointService(1, "v2"))
        orders = [world.order(effect) for effect in effects]
        world.start("v2", 1)
        cluster.stop_api()
        try:
            for order in orders:
                with pytest.raises(Retryable):
                    world.target.carry_out(order)
        finally:
            cluster.start_api()
            cluster.restart_controllers()
        for order in orders:
            eventually(functools.partial(world.target.carry_out, order))


def eventually(act: Callable[[], None], attempts: int = 50) -> None:
    """Do it, as often as it is to be tried again."""
    for _ in range(attempts):
        try:
            return act()
        except (Retryable, Permanent):
            # A fresh API server refuses everybody until it has read the roles.
            time.sleep(0.1)
    return act()
