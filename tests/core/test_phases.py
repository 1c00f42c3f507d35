"""The table of phases: complete, closed, and a wall against whatever does not belong."""

from __future__ import annotations

from itertools import product

import pytest

from controller.core.decide.phases import (
    ACTIVE,
    ENTER,
    IN_ROLLOUT,
    RESTING,
    TRANSITIONS,
    Happening,
    after,
    is_legal,
)
from controller.core.model import Phase
from controller.errors import InvariantError

PAIRS = list(product(Phase, Happening))
STAGES = {
    "shadow": Phase.SHADOWING,
    "canary": Phase.RAMPING,
    "ab": Phase.TESTING,
    "thompson": Phase.EXPLORING,
}


def expected(phase: Phase, happening: Happening) -> Phase | None:  # noqa: PLR0911
    """The design, said a second time: from where each happening may come."""
    in_rollout = phase in {*STAGES.values(), Phase.HOLDING, Phase.PAUSED}
    resting = phase in {Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK}
    match happening:
        case Happening.SETTLE:
            return {
                Phase.PROMOTING: Phase.PROMOTED,
                Phase.ROLLING_BACK: Phase.ROLLED_BACK,
            }.get(phase)
        case Happening.REST:
            return Phase.IDLE if phase is Phase.PAUSED else None
        case Happening.REFUSE:
            return Phase.ROLLED_BACK if resting else None
        case Happening.PAUSE:
            return Phase.PAUSED if in_rollout or resting else None
        case Happening.HOLD:
            return Phase.HOLDING if in_rollout else None
        case Happening.PROMOTE:
            return Phase.PROMOTING if in_rollout else None
        case Happening.ROLL_BACK:
            return Phase.ROLLING_BACK if in_rollout else None
        case Happening.UNDO:
            return Phase.ROLLING_BACK if resting else None
        case _:
            stage = STAGES[happening.value.removeprefix("enter_")]
            return stage if in_rollout or resting else None


@pytest.mark.parametrize(("phase", "happening"), PAIRS, ids=str)
def test_each_happening_leads_where_the_design_says_or_is_refused(phase, happening):
    target = expected(phase, happening)
    before = dict(TRANSITIONS)
    assert is_legal(phase, happening) == (target is not None)
    if target is None:
        with pytest.raises(InvariantError, match=f"{happening} is illegal in phase {phase}"):
            after(phase, happening)
    else:
        assert after(phase, happening) is target
    assert before == TRANSITIONS


def test_every_phase_can_be_reached_from_idle_and_left_towards_idle_or_rest():
    reached, frontier = {Phase.IDLE}, [Phase.IDLE]
    while frontier:
        phase = frontier.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is phase and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(Phase)
    assert {source for source, _ in TRANSITIONS} == set(Phase)


def test_phases_in_which_a_stage_runs_share_their_exits():
    exits = [{h: TRANSITIONS.get((phase, h)) for h in Happening} for phase in ACTIVE]
    assert all(row == exits[0] for row in exits)


def test_phases_at_rest_share_their_exits():
    exits = [{h: TRANSITIONS.get((phase, h)) for h in Happening} for phase in RESTING]
    assert all(row == exits[0] for row in exits)


def test_every_phase_belongs_to_one_kind():
    settling = {Phase.PROMOTING, Phase.ROLLING_BACK}
    assert len(IN_ROLLOUT) + len(RESTING) + len(settling) == len(Phase)
    assert IN_ROLLOUT | RESTING | settling == set(Phase)
    assert set(STAGES.values()) == ACTIVE < IN_ROLLOUT


def test_every_kind_of_stage_has_its_phase():
    entered = {kind: after(Phase.IDLE, happening) for kind, happening in ENTER.items()}
    assert entered == STAGES


def test_nothing_but_settling_ends_a_promotion_or_a_roll_back():
    for phase in (Phase.PROMOTING, Phase.ROLLING_BACK):
        assert [h for h in Happening if is_legal(phase, h)] == [Happening.SETTLE]
