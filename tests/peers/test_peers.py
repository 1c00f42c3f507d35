"""Failures of admired systems that must not be ours, by their number in our list of them.

Here stand those that take the whole engine; 3, 4, 5 and 7 stand in the rooms of the real router and
the joiner too.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from controller.core import estimate, split
from controller.core.model import BASIS, Phase, Split, Verdict
from controller.core.policy import parse
from controller.core.report import evidence_summary
from controller.errors import Permanent, PolicyError
from controller.stream import open_stream
from tests.core.logs import CANARY, Log, Traffic, drive, policy, run

POLICY = policy(CANARY)


def begun(name: str = "v2") -> Log:
    log = Log()
    log.tick(0)
    log.version(1, name)
    log.tick(5)
    return log


@pytest.mark.parametrize(
    "stage",
    [
        {"shadow": {"duration": "10s"}},
        CANARY,
        {"ab": {"min_duration": "10s"}},
        {"thompson": {}},
    ],
    ids=["shadow", "canary", "ab", "thompson"],
)
def test_peer_1_no_traffic_is_not_failure(stage):
    log = begun()
    log.ticks(10, 86_400, 60)
    told = run(policy(stage), log.lines)
    assert {d.verdict for d in told.decisions[2:]} <= {Verdict.HOLD}
    assert told.state.rollout.live[0] == "v2"
    assert told.state.tried == ()
    assert told.state.said.reason


@pytest.mark.parametrize(
    "stage",
    [
        {"shadow": {"duration": "10s"}},
        {"canary": {"steps": ["50%"], "min_outcomes": 1, "min_duration": "0s"}},
        {
            "canary": {
                "steps": ["50%"],
                "min_outcomes": 1,
                "max_duration": "1m",
                "on_expiry": "promote",
            }
        },
        {"ab": {"min_duration": "0s", "max_duration": "1m"}},
        {"thompson": {"min_outcomes": 1, "promote_probability": "1%", "max_loss": "100%"}},
    ],
    ids=["shadow", "canary", "expiry", "ab", "thompson"],
)
def test_peer_2_there_is_no_success_without_one_measurement(stage):
    log = begun()
    log.ticks(10, 7_200, 30)
    told = run(policy(stage), log.lines)
    assert Verdict.PROMOTE not in [d.verdict for d in told.decisions]
    assert told.state.champion == "v1"


def test_peer_3_a_reward_is_attributed_to_the_arm_that_answered_not_looked_up_later():
    # The unit's place belongs to v2 after the promotion; its answer came from v1 before.
    log = begun()
    request = log.exposure(6, "v1", epoch=2, unit="ana")
    log.command(7, "promote", by="ana")
    log.tick(8)
    log.reward(9, request)
    log.ticks(10, 40)
    told = run(POLICY, log.lines)
    value = dict(zip(told.state.arms, told.state.sums[0].value.tolist(), strict=True))
    assert value == {"v1": 1.0, "v2": 0.0}


def test_peer_3_ninety_to_ten_is_ninety_to_ten():
    wanted = Split(1, "v1", {"v1": 9_000, "v2": 1_000}, salt="m/1:", anchors=("v2",))
    arms = split.assign_many(wanted, [f"user-{i}" for i in range(100_000)])
    # five standard deviations of a binomial of 100 000 at 10 %
    assert abs(arms.count("v2") - 10_000) < 5 * np.sqrt(100_000 * 0.1 * 0.9)


@pytest.mark.parametrize("command", ["rollback", "promote"])
def test_peer_4_an_arm_that_is_drained_is_in_no_split(command):
    log = begun()
    log.command(6, command, by="ana")
    log.tick(10)
    told = run(POLICY, log.lines)
    drained = "v2" if command == "rollback" else "v1"
    assert drained not in told.splits[-1]
    assert {part.arm for part in split.ranges(told.state.split)} == {told.state.champion}


def test_peer_5_an_ab_test_is_randomised_by_unit_and_anew_for_each_rollout():
    used = policy({"ab": {"share": "50%", "min_duration": "0s"}})
    log = begun()
    first = run(used, log.lines).state.split
    log.command(6, "rollback", by="ana")
    log.tick(10)
    log.version(71, "v3")
    log.ticks(75, 80)
    second = run(used, log.lines).state.split
    units = [f"user-{i}" for i in range(20_000)]
    in_first = np.array(split.assign_many(first, units)) == "v2"
    in_second = np.array(split.assign_many(second, units)) == "v3"
    for chosen in (in_first, in_second):
        assert abs(chosen.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(units))
    # Independent: half of the first rollout's candidates are candidates again.
    assert abs(in_second[in_first].mean() - 0.5) < 5 * 0.5 / np.sqrt(in_first.sum())


def test_peer_7_a_reward_of_seven_tenths_counts_seven_tenths_in_the_evidence():
    used = policy({"thompson": {}})
    log = begun()
    for i in range(400):
        request = log.exposure(5 + i / 40, "v2" if i % 2 else "v1", epoch=2)
        log.reward(6 + i / 40, request, value=0.7 if i % 2 else 0.2)
    log.ticks(20, 60)
    told = run(used, log.lines)
    seen = evidence_summary(used, told.state)
    assert seen["candidate"]["mean"] == pytest.approx(0.7)
    assert seen["champion"]["mean"] == pytest.approx(0.2)
    assert seen["p_best"] > 0.99


def test_peer_10_an_unknown_provider_is_refused_and_never_replaced_by_a_default():
    with pytest.raises(Permanent, match="sqlite"):
        open_stream("kafak://broker/events")
    document = POLICY.model_dump_json().replace("error_rate", "eror_rate")
    with pytest.raises(PolicyError, match="eror_rate"):
        parse(document, "policy.yaml")


def test_peer_11_what_could_not_be_estimated_does_not_look_like_a_number():
    told = run(POLICY, begun().lines)
    seen = evidence_summary(POLICY, told.state)
    assert seen["candidate"]["mean"] is None
    assert seen["candidate"]["interval"] is None
    assert seen["lift"] == {"estimate": None, "interval": [-1.0, None]}
    state = told.state
    (fresh,) = estimate.evidence(state.spec, state.estimators, "v1", ["v2"])
    assert fresh.lift.estimate is None
    assert fresh.lift.upper == float("inf")


def test_peer_11_decisions_are_the_same_in_every_process():
    log = begun()
    drive(POLICY, log, Traffic({"v1": 0.2, "v2": 0.5}), seconds=60, seed=0, start=5)
    script = (
        "import sys; from tests.core.logs import policy, CANARY, run;"
        "print('\\n'.join(run(policy(CANARY), sys.stdin.buffer.read().split(b'\\n')).documents))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            input=b"\n".join(log.lines),
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout.decode()
        for seed in ("0", "1")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines() == run(POLICY, log.lines).documents


def test_peer_12_rolling_back_an_idle_model_does_nothing():
    log = Log()
    log.tick(0)
    log.command(1, "rollback", by="ci")
    log.tick(5)
    told = run(POLICY, log.lines)
    assert told.state.phase is Phase.IDLE
    assert told.splits == [{"v1": BASIS}]
    assert told.decisions[-1].cause == "ignored"
