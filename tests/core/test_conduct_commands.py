"""Operators: what they ask for happens, or is refused with a reason and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.core.model import Phase, Verdict
from controller.core.state import initial
from tests.core.logs import CANARY, Log, Told, fold, policy, run

POLICY = policy(CANARY)


def story(*commands: tuple[float, str], candidate: bool = True, end: float = 300.0) -> Told:
    """A tick each 5 s without traffic; commands come a second after their tick."""
    log = Log()
    log.tick(0)
    if candidate:
        log.version(1)
    time = 5.0
    while time <= end:
        for at, command in commands:
            if time - 5 <= at < time:
                log.command(at, command, by="ana", reason="incident 12")
        log.tick(time)
        time += 5
    return run(POLICY, log.lines)


def answers(told: Told) -> list[tuple[str, str]]:
    return [(d.verdict.value, d.reason) for d in told.decisions if "by ana" in d.reason]


def test_promote_makes_the_candidate_champion():
    told = story((21, "promote"))
    assert answers(told) == [("promote", "promote by ana: incident 12")]
    assert told.state.phase is Phase.PROMOTED
    assert told.state.champion == "v2"
    assert told.splits[-1] == {"v2": 10_000}


def test_rollback_gives_everything_back_to_the_champion():
    told = story((21, "rollback"))
    assert answers(told) == [("roll_back", "rollback by ana: incident 12")]
    assert told.state.phase is Phase.ROLLED_BACK
    assert told.state.champion == "v1"
    assert told.splits[-1] == {"v1": 10_000}


def test_pause_stops_the_clockwork_and_keeps_the_split():
    told = story((21, "pause"), end=5_000)
    assert told.state.phase is Phase.PAUSED
    assert told.state.split.weights == {"v1": 9_000, "v2": 1_000}
    assert told.decisions[-1].cause == "paused"


def test_resume_goes_on_where_it_was_with_a_fresh_step():
    told = story((21, "pause"), (101, "resume"))
    assert told.state.phase is Phase.RAMPING
    assert told.state.rollout.step_started == 105.0
    assert told.state.split.weights == {"v1": 9_000, "v2": 1_000}


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_paused_rollout_can_still_be_ended_by_hand(command):
    told = story((21, "pause"), (101, command))
    assert told.state.phase in {Phase.PROMOTED, Phase.ROLLED_BACK}
    assert told.state.resume_phase is None


@pytest.mark.parametrize(
    ("before", "command", "phase"),
    [
        ([], "promote", "idle"),
        ([], "rollback", "idle"),
        ([], "resume", "idle"),
        ([], "approve", "idle"),
        ([(21, "pause")], "pause", "paused"),
        ([(21, "pause")], "promote", "paused"),
        ([(21, "pause")], "rollback", "paused"),
    ],
)
def test_a_wish_that_does_not_fit_an_idle_model_changes_nothing_and_says_so(before, command, phase):
    quiet = story(*before, candidate=False)
    told = story(*before, (101, command), candidate=False)
    assert told.splits == quiet.splits == [{"v1": 10_000}]
    assert answers(told)[-1] == (
        "hold",
        f"{command} by ana: incident 12: ignored, because the phase is {phase}",
    )
    same = {"decisions": 0, "said": quiet.state.said, "recorded": ("", ""), "offset": 0}
    ignore = dict.fromkeys(
        ("joins", "sums", "totals", "covariates", "strata", "joined", "partitions")
    )
    assert replace(told.state, **same, **ignore) == replace(quiet.state, **same, **ignore)


@pytest.mark.parametrize("end", ["promote", "rollback"])
@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_rollout_that_is_over_cannot_be_ended_again_even_when_paused_at_rest(end, command):
    # The finished rollout is still remembered: its champion may not be the champion any more.
    told = story((21, end), (121, "pause"), (141, command))
    assert told.state.phase is Phase.PAUSED
    assert answers(told)[-1][1].endswith("ignored, because the phase is paused")
    assert told.state.champion == ("v2" if end == "promote" else "v1")
    assert told.splits[-1] == {told.state.champion: 10_000}


def test_pausing_at_rest_keeps_the_queue_waiting_until_resumed():
    log = Log()
    log.tick(0)
    log.command(1, "pause", by="ana")
    log.tick(5)
    log.version(6)
    log.ticks(10, 100)
    told = run(POLICY, log.lines)
    assert told.state.phase is Phase.PAUSED
    assert told.state.queue == ("v2",)
    log.command(101, "resume", by="ana")
    log.ticks(105, 120)
    assert run(POLICY, log.lines).state.phase is Phase.RAMPING


def test_a_command_in_the_same_tick_as_a_start_is_not_lost():
    log = Log()
    log.version(0)
    log.command(0.5, "pause", by="ana", reason="incident 12")
    log.tick(1)
    told = run(POLICY, log.lines)
    assert told.causes == ["start", "started", "paused"]
    assert told.state.phase is Phase.PAUSED


def test_of_two_commands_between_two_ticks_both_are_answered_in_order():
    told = story((21, "rollback"), (22, "pause"))
    assert answers(told) == [
        ("roll_back", "rollback by ana: incident 12"),
        ("hold", "pause by ana: incident 12: ignored, because the phase is rolling_back"),
    ]


def test_a_paused_stage_does_not_run_out_of_time():
    canary = {"canary": CANARY["canary"] | {"max_duration": "5m", "on_expiry": "promote"}}
    short = policy(canary, health={"stale_after": "1d"})
    log = Log()
    log.tick(0)
    log.version(1)
    log.ticks(5, 20)
    log.reward(22, log.exposure(21, "v2", epoch=2))
    log.ticks(25, 45)
    log.command(46, "pause", by="ana")
    log.ticks(50, 3_000, 50)
    log.command(3_001, "resume", by="ana")
    log.ticks(3_005, 3_100)
    told = run(short, log.lines)
    assert told.state.phase is Phase.RAMPING
    log.ticks(3_105, 3_400)
    assert run(short, log.lines).decisions[-2].verdict is Verdict.PROMOTE


def test_a_policy_without_the_running_stage_holds_and_can_be_rolled_back():
    two = policy({"shadow": {"duration": "10s"}}, CANARY)
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(5)
    log.add("shadow", 6, model="m", request_id="s1", arm="v2")
    log.ticks(10, 20)
    told = run(two, log.lines)
    assert told.state.phase is Phase.RAMPING
    one = policy({"shadow": {"duration": "10s"}})
    more = Log()
    more.tick(25)
    fold(one, told, more.lines)
    assert told.state.phase is Phase.HOLDING
    assert told.decisions[-1].cause == "policy_changed"
    assert told.state.split.weights == {"v1": 9_000, "v2": 1_000}
    for command in ("pause", "resume", "rollback"):
        more = Log()
        more.command(26, command, by="ana")
        more.tick(30)
        fold(one, told, more.lines)
    assert told.decisions[-1].verdict is Verdict.ROLL_BACK
    assert told.state.split.weights == {"v1": 10_000}


def test_the_state_before_the_first_tick_takes_commands_too():
    log = Log()
    log.command(0, "rollback", by="ana")
    log.tick(1)
    told = fold(POLICY, Told(initial(POLICY)), log.lines)
    assert told.causes == ["start", "ignored"]
