"""Whatever stands in a log, the engine's promises hold after every tick."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.decide.phases import TRANSITIONS
from controller.core.model import BASIS, Phase, SetSplit, Verdict
from controller.core.state import initial
from tests.core.logs import CANARY, MODEL, Log, Told, fold, policy

HASTY = {"steps": ["10%", "100%"], "min_duration": "0s", "min_outcomes": 1, "max_duration": "1m"}
POLICIES = (
    policy(CANARY),
    policy({"shadow": {"duration": "5s"}}, {"canary": HASTY}, {"ab": {"min_duration": "10s"}}),
    policy({"canary": HASTY | {"on_expiry": "promote"}}),
    policy({"canary": HASTY | {"on_expiry": "roll_back"}}, gates={"cooldown": "20s"}),
    policy({"thompson": {"floor": "0%", "update_every": "1s"}}),
    policy(CANARY, gates={"offline": {"metric": "accuracy", "min": 0.5, "max_drop": "5%"}}),
)

ARMS = st.sampled_from(["v1", "v2", "v3", "v9"])
EVENTS = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([0.0, 1.0, 5.0, 20.0, 90.0])),
    st.tuples(st.just("exposures"), ARMS, st.integers(1, 60), st.booleans()),
    st.tuples(st.just("reward"), st.floats(-1, 2)),
    st.tuples(st.just("version"), ARMS, st.sampled_from([None, 0.4, 0.9])),
    st.tuples(
        st.just("command"),
        st.sampled_from(["promote", "rollback", "pause", "resume", "approve", "undo"]),
    ),
    st.tuples(st.just("split"), st.integers(0, 12), st.integers(0, BASIS)),
    st.tuples(st.just("shadow"), ARMS),
    st.tuples(st.just("junk")),
)


def write(log: Log, event: tuple, now: float, epoch: int) -> None:
    match event:
        case ("exposures", arm, n, fails):
            for i in range(n):
                status = 500 if fails else 200
                request = log.exposure(now + i / 100, arm, epoch=epoch, status=status)
                if i % 3 == 0:
                    log.reward(now + 1, request)
        case ("reward", value):
            log.reward(now, f"r{log.requests}", value=value, id=f"x{len(log.lines)}")
        case ("version", arm, None):
            log.version(now, arm)
        case ("version", arm, accuracy):
            log.version(now, arm, metrics={"accuracy": accuracy})
        case ("command", command):
            log.command(now, command)
        case ("split", number, weight):
            log.split(now, number, v1=weight, v2=BASIS - weight)
        case ("shadow", arm):
            log.add("shadow", now, model=MODEL, request_id=f"s{len(log.lines)}", arm=arm)
        case _:
            log.lines.append(b"junk")


def check(after: Told, made: int, effects: int) -> None:
    """What must hold between two ticks, beyond what `fold` asserts."""
    state = after.state
    new = after.decisions[made:]
    splits = [e for e in after.effects[effects:] if isinstance(e, SetSplit)]
    assert sum(state.split.weights.values()) == BASIS
    assert state.champion in state.split.weights
    assert [d.number for d in after.decisions] == list(range(1, len(after.decisions) + 1))
    assert {e.decision for e in splits} <= {d.number for d in new}
    assert all(e.split.epoch > 0 for e in splits)
    for decision in new:
        assert decision.reason
        if decision.verdict is Verdict.PROMOTE:
            assert decision.weights == {decision.candidate: BASIS}
        if decision.verdict is Verdict.ROLL_BACK and decision.candidate:
            assert decision.candidate not in decision.weights
            assert decision.candidate in state.tried
    if state.phase in {Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK}:
        assert state.split.weights == {state.champion: BASIS}
    assert state.phase in {phase for phase, _ in TRANSITIONS}


@settings(max_examples=60, deadline=None)
@given(used=st.sampled_from(POLICIES), events=st.lists(EVENTS, max_size=40))
def test_no_log_breaks_an_invariant(used, events):
    told, log, now, done = Told(initial(used)), Log(), 0.0, 0
    for event in [("tick", 0.0), ("version", "v2", 0.9), *events, ("tick", 5.0), ("tick", 90.0)]:
        if event[0] != "tick":
            write(log, event, now, told.state.split.epoch)
            continue
        now += event[1]
        log.tick(now)
        made, effects = len(told.decisions), len(told.effects)
        fold(used, told, log.lines[done:])
        check(told, made, effects)
        done = len(log.lines)
