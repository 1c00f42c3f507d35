"""An arm is scaled down once no router can send it users any more, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.core.model import ArmRole, Decision, Phase, PointService, Scale, SetRole, Verdict
from controller.core.policy import Policy
from controller.deploy.target import Order
from controller.ledger import Ledger, open_ledger
from controller.loop import actor as actors
from controller.loop.actor import Actor, Standing
from controller.loop.reach import Kept, Reach
from controller.loop.strays import Stray
from controller.router.roll import Straggler
from tests.core.clusters import policy

T = 1_795_423_600.0
"""08:46:40 UTC."""


@dataclass
class Roll:
    """What the control plane would say."""

    found: tuple[Straggler, ...] = ()
    now: float = 0.0

    def reach(self, forget_s: float = 300.0) -> Reach:
        return Reach(lambda _model, _arm: self.found, forget_s=forget_s, clock=lambda: self.now)


def sentence(kept: Kept | None) -> str:
    assert kept is not None
    return kept.sentence


def test_what_nobody_can_route_to_is_not_kept() -> None:
    assert Roll().reach().kept(policy(), "v2") is None


def test_a_router_that_is_left_behind_is_named_with_its_time() -> None:
    kept = Roll((Straggler("r3", T, is_connected=True),)).reach().kept(policy(), "v2")
    assert kept == Kept(
        "v2 is kept running, for users may still come: router r3 has been left behind with an "
        "older split since 08:46:40Z",
        is_wrong=True,
    )


def test_a_lost_router_is_said_and_nothing_that_people_must_mend() -> None:
    roll = Roll((Straggler("r3", T, is_connected=False), Straggler("", T, is_connected=False)))
    assert roll.reach().kept(policy(), "v2") == Kept(
        "v2 is kept running, for users may still come: router r3 was lost with an older split at "
        "08:46:40Z, forgotten after 5 min; a router that has not come back since this controller "
        "began, 08:46:40Z, forgotten after 5 min",
        is_wrong=False,
    )


def test_of_many_routers_three_are_named() -> None:
    roll = Roll(tuple(Straggler(f"r{i}", T, is_connected=True) for i in range(5)))
    said = sentence(roll.reach().kept(policy(), "v2"))
    assert said.endswith("; so are 2 more")
    assert "r2" in said
    assert "r3" not in said


def test_strays_keep_an_arm_until_none_has_come_for_a_while() -> None:
    roll = Roll()
    reach = roll.reach(forget_s=60.0)
    reach.seen("m", {"v2": Stray(T, 7)})
    roll.now = 59.0
    kept = reach.kept(policy(), "v2")
    assert sentence(kept).endswith("it answered a request under split 7 that came at 08:46:40Z")
    assert kept is not None
    assert kept.is_wrong
    assert reach.kept(policy(), "v1") is None
    reach.seen("m", {"v2": Stray(T + 59, -1)})
    roll.now = 118.0
    assert "a request that came at 08:47:39Z" in sentence(reach.kept(policy(), "v2"))
    roll.now = 119.0
    assert reach.kept(policy(), "v2") is None


def test_routers_of_ours_say_nothing_of_a_split_that_others_carry() -> None:
    gateway = {
        "kubernetes": {"service": "m", "port": 8080},
        "gateway": {"route": "public"},
    }
    roll = Roll((Straggler("r3", T, is_connected=True),))
    reach = roll.reach()
    carried = policy(deploy=gateway)
    assert reach.kept(carried, "v2") is None
    reach.seen("m", {"v2": Stray(T, 7)})
    assert reach.kept(carried, "v2") is not None


# --- who carries it out -------------------------------------------------------------------------


@dataclass
class Pods:
    """A target that does what it is told."""

    done: list[Scale | SetRole | PointService] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def carry_out(self, order: Order) -> None:
        if self.faults:
            raise self.faults.pop()
        self.done.append(order.effect)


class Stage:
    """An actor, a ledger in which v2 is to be scaled down, and whoever may keep it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.pods, self.worries = ledger, Pods(), 0
        self.kept: dict[str, Kept] = {}
        self.policy = policy()

    def decide(self, number: int, *effects: Scale | SetRole) -> None:
        decision = Decision(
            number, T, number, "m", "", "", "", 0, Phase.ROLLED_BACK, Verdict.HOLD, "retired",
            "v2 had its time", 3, {"v1": 10_000}, {}, "", "", 0,
        )  # fmt: skip
        self.ledger.commit("m", decisions=[(decision, effects)])

    async def act(self, until: Callable[[Actor], bool]) -> Actor:
        """Act until it is so."""
        actor = Actor(
            self.ledger,
            lambda _policy: self.pods,
            worried=self._worried,
            conflicted=lambda *_: None,
            keeps=self._keeps,
        )
        actor.wake("m", Standing(self.policy, {}, "v1"))
        try:
            async with asyncio.timeout(10):
                while not until(actor):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            await actor.stop()
        return actor

    @property
    def open(self) -> list[object]:
        return [each.effect for each in self.ledger.pending_effects("m")]

    def _keeps(self, _policy: Policy, arm: str) -> Kept | None:
        return self.kept.get(arm)

    def _worried(self) -> None:
        self.worries += 1


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(actors, "FIRST_S", 0.02)
    monkeypatch.setattr(actors, "LONGEST_S", 0.05)
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: T)) as ledger:
        ledger.begin_term("test")
        yield Stage(ledger)


WHY = Kept("v2 is kept running: router r3", is_wrong=True)


def test_an_arm_that_is_kept_is_scaled_down_when_it_is_not_any_more(stage: Stage) -> None:
    down, role = Scale(1, "v2", 0), SetRole(1, "v2", ArmRole.REJECTED)
    stage.decide(1, down, role)
    stage.kept = {"v2": WHY}
    actor = asyncio.run(stage.act(lambda actor: "m" in actor.kept))
    assert actor.kept == {"m": WHY}
    assert actor.troubles == {}
    assert stage.pods.done == [role]
    assert stage.open == [down]

    async def released() -> Actor:
        acting = asyncio.create_task(stage.act(lambda a: not (stage.open or a.kept)))
        await asyncio.sleep(0.2)
        assert stage.open == [down]
        stage.kept = {}
        return await acting

    worries = stage.worries
    actor = asyncio.run(released())
    assert actor.kept == {}
    assert stage.pods.done == [role, down]
    assert stage.worries >= worries + 1


def test_other_arms_and_growth_do_not_wait(stage: Stage) -> None:
    stage.decide(1, Scale(1, "v2", 0), Scale(1, "v3", 0))
    stage.decide(2, Scale(2, "v1", 6), Scale(2, "v1", None))
    stage.kept = {"v2": WHY, "v1": WHY}
    asyncio.run(stage.act(lambda actor: "m" in actor.kept))
    assert stage.pods.done == [Scale(1, "v3", 0), Scale(2, "v1", None)]


def test_an_arm_that_is_wanted_again_is_not_scaled_down_afterwards(stage: Stage) -> None:
    stage.decide(1, Scale(1, "v2", 0))
    stage.kept = {"v2": WHY}
    asyncio.run(stage.act(lambda actor: "m" in actor.kept))
    stage.decide(2, Scale(2, "v2", 3))
    asyncio.run(stage.act(lambda _: not stage.open))
    assert stage.pods.done == [Scale(2, "v2", 3)]


def test_a_bug_in_one_effect_is_told_and_tried_again_and_holds_no_other(stage: Stage) -> None:
    first, second = Scale(1, "v2", 2), Scale(1, "v3", 3)
    stage.decide(1, first, second)
    stage.pods.faults = [KeyError("spec")]
    said: list[str] = []

    def is_over(actor: Actor) -> bool:
        said.extend(actor.troubles.values())
        return not (stage.open or actor.troubles)

    actor = asyncio.run(stage.act(is_over))
    assert set(said) == {"scale v2 to 2: KeyError: 'spec'"}
    assert stage.pods.done == [second, first]
    assert actor.troubles == {}
