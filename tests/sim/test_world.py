"""What happens in a world, counted from its events by hand."""

from __future__ import annotations

import numpy as np
import pytest

from controller.core.model import Phase, SplitEvent, Tick, VersionEvent
from controller.errors import UnderstudyError
from controller.sim.simulate import generator, rollout, simulate, world_of
from controller.sim.truth import Truth, setting
from controller.sim.world import events_needed
from tests.sim.worlds import batches, plan, scenario, small_policy, split_of

HALF = split_of(0.5)


def joined(found):
    """(arm of each exposure, arm of each reward) by request, duplicates once."""
    arm_of = {}
    rewards = {}
    for batch in found:
        arm_of |= dict(
            zip(batch.exposures.request.tolist(), batch.exposures.arm.tolist(), strict=True)
        )
        rewards |= dict(zip(batch.rewards.id.tolist(), batch.rewards.request.tolist(), strict=True))
    return np.array(list(arm_of.values())), np.array([arm_of.get(r, -1) for r in rewards.values()])


def test_a_batch_is_a_log_without_gaps_that_ends_with_its_tick():
    _, found = batches(plan("events", rate=20, disorder="50%"), HALF, 5)
    for batch in found:
        control = [event.offset for event in batch.control]
        offsets = np.concatenate([batch.exposures.offset, batch.rewards.offset, control])
        assert sorted(offsets) == list(range(batch.start, batch.start + batch.count))
        assert isinstance(batch.control[-1], Tick)
    assert [type(e) for e in found[0].control] == [SplitEvent, Tick]
    assert [type(e) for e in found[1].control] == [Tick]


def test_candidates_come_when_they_are_due():
    made = plan(rate=20, requests=20_000, candidates=[{}, {"at": "100s"}])
    world = world_of(made, generator(0, 0))
    assert [e.version for e in world.first().control if isinstance(e, VersionEvent)] == ["v2"]
    offset, came = 2, []
    while world.has_more:
        batch = world.tick(HALF, offset)
        offset += batch.count
        came += [(e.version, e.time) for e in batch.control if isinstance(e, VersionEvent)]
    assert [version for version, _ in came] == ["v3"]
    assert 100.0 <= came[0][1] < 100.0 + made.tick_s


def test_rates_effects_and_errors_are_those_of_the_scenario():
    made = plan(
        "events",
        rate=400,
        base_rate="20%",
        errors="10%",
        tick="10s",
        candidates=[{"effect": "-50%", "errors": "30%"}],
    )
    _, found = batches(made, split_of(0.25), 40)
    arms, clicks = joined(found)
    n = np.bincount(arms, minlength=2)
    assert n.sum() == pytest.approx(160_000, abs=5 * 400)
    assert n[1] / n.sum() == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 160_000))
    failed = sum(
        (np.bincount(b.exposures.arm[b.exposures.status == 500], minlength=2)) for b in found
    )
    assert failed / n == pytest.approx([0.1, 0.3], abs=0.01)
    # A failed answer earns nothing: 0.2 x 0.9 and 0.1 x 0.7, less what is still on its way.
    assert np.bincount(clicks, minlength=2) / n == pytest.approx([0.18, 0.07], abs=0.006)


def test_duplicates_concern_the_share_and_the_arm_that_are_named():
    made = plan("events", rate=300, duplicates={"share": "30%", "arm": "candidate"}, tick="10s")
    _, found = batches(made, HALF, 20)
    request = np.concatenate([b.exposures.request for b in found])
    arm = np.concatenate([b.exposures.arm for b in found])
    for index, share in ((0, 0.0), (1, 0.3)):
        of_arm = request[arm == index]
        twice = len(of_arm) / len(np.unique(of_arm)) - 1
        assert twice == pytest.approx(share, abs=0.02)


def test_disorder_stays_within_its_bound_and_loses_nothing():
    made = plan("events", rate=200, disorder="80%", tick="3s")
    world, found = batches(made, HALF, 40)
    times = np.concatenate([b.exposures.time for b in found])
    late = np.concatenate([b.control[-1].time - b.exposures.time for b in found])
    assert (np.diff(times) < 0).any()
    assert late.min() >= 0.0
    assert 3.0 < late.max() <= 0.8 * 5.0 + 3.0
    settled = times[times < world.now - 4.0]
    assert len(settled) == pytest.approx(200 * (world.now - 4.0), abs=5 * np.sqrt(200 * world.now))


def test_lost_exposures_leave_their_rewards_without_one():
    made = plan("events", rate=300, base_rate="50%", loss={"share": "20%"}, tick="10s")
    _, found = batches(made, HALF, 20)
    arms, clicks = joined(found)
    assert np.bincount(arms)[1] / len(arms) == pytest.approx(0.8 / 1.8, abs=0.01)
    assert (clicks == -1).mean() == pytest.approx(0.1, abs=0.01)


def test_rewards_stop_when_the_pipe_is_dead():
    made = plan("events", rate=100, base_rate="50%", rewards_end="60s", tick="10s")
    _, found = batches(made, HALF, 12)
    times = np.concatenate([b.rewards.time for b in found])
    assert 55.0 < times.max() < 60.0


def test_sticky_users_keep_their_arm_while_the_share_grows_and_are_alike():
    made = plan(
        "events",
        spec={"route": {"prefix": "/m/", "unit": {"header": "x-user"}}},
        rate=200,
        requests=40_000,
        base_rate="30%",
        errors=0.0,
        delay={"mean": "1%"},
        units={"requests_per_unit": 10, "icc": "20%"},
        tick="10s",
    )
    world = world_of(made, generator(3, 0))
    offset, found = world.first().count, []
    for epoch, share in ((1, 0.1), (2, 0.5)):
        for _ in range(10):
            found.append(world.tick(split_of(share, epoch=epoch), offset))
            offset += found[-1].count
    early = {
        int(u)
        for b in found[:10]
        for u, a in zip(b.exposures.unit, b.exposures.arm, strict=True)
        if a == 1
    }
    late = {
        int(u)
        for b in found[10:]
        for u, a in zip(b.exposures.unit, b.exposures.arm, strict=True)
        if a == 0
    }
    assert early
    assert not early & late
    # One-way analysis of variance, unbalanced: the share of the variance between users.
    request = np.concatenate([b.exposures.request for b in found])
    unit = np.concatenate([b.exposures.unit for b in found])
    happy = np.isin(request, np.concatenate([b.rewards.request for b in found])).astype(float)
    assert len(request) / len(np.unique(unit)) == pytest.approx(10, rel=0.05)
    assert _icc(unit, happy) == pytest.approx(0.2, abs=0.03)


def _icc(group: np.ndarray, value: np.ndarray) -> float:
    """ANOVA estimator of the intraclass correlation (Donner 1986, eq. 2.1)."""
    _, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, value) / sizes
    k, n = len(sizes), len(value)
    between = (sizes * (means - value.mean()) ** 2).sum() / (k - 1)
    within = ((value - means[inverse]) ** 2).sum() / (n - k)
    n0 = (n - (sizes**2).sum() / n) / (k - 1)
    return float((between - within) / (between + (n0 - 1) * within))


def test_a_late_regression_comes_after_the_requests_that_were_said():
    truth = Truth(
        scenario(candidates=[{"later": {"effect": "-20%", "after_requests": 1000}}]),
        setting(small_policy()),
        100.0,
    )
    assert [truth.effect(1, 0.0, n) for n in (0, 999, 1000)] == [0.0, 0.0, -0.2]
    assert truth.effect(0, 0.0, 1000) == 0.0


def test_where_rewards_tell_of_something_bad_a_worse_candidate_has_more_of_them():
    bad = setting(
        small_policy(
            reward={"event": "refund", "window": "10s", "grace": "5s", "direction": "minimize"}
        )
    )
    truth = Truth(scenario(base_rate="5%", errors=0.0, candidates=[{"effect": "-20%"}]), bad, 1.0)
    assert truth.means(1, 0.0, 0.0).reward == pytest.approx(0.06)


def test_the_account_counts_harm_and_the_reward_that_was_lost():
    made = plan(rate=100, base_rate="20%", errors=0.0, tick="10s", candidates=[{"effect": "-50%"}])
    world, found = batches(made, split_of(0.25), 10)
    on = sum(b.tallies.exposures[b.tallies.arm == 1].sum() for b in found)
    account = world.account
    assert account.on_candidate == account.harmed == on
    assert account.lost_reward == pytest.approx(0.1 * on)


def test_a_better_candidate_costs_what_the_champion_still_answers():
    made = plan(rate=100, base_rate="20%", errors=0.0, candidates=[{"effect": "50%"}])
    world, _ = batches(made, split_of(0.25), 10)
    account = world.account
    assert account.harmed == 0
    assert account.lost_reward == pytest.approx(0.1 * (account.requests - account.on_candidate))


@pytest.mark.parametrize(
    ("fields", "spec"),
    [
        ({"units": {}}, {}),
        ({"duplicates": {}}, {}),
        ({"disorder": "10%"}, {}),
        ({"bursts": {}}, {}),
        ({"loss": {"share": "1%"}}, {}),
        ({"others": {"refund": {}}}, {}),
        ({"delay": {"distribution": "fixed"}}, {}),
        ({}, {"guardrails": [{"metric": "latency", "quantile": 0.9, "max_increase": "10%"}]}),
        ({}, {"guardrails": [{"metric": "reward", "event": "refund", "max_increase": "1%"}]}),
    ],
)
def test_events_serve_where_tallies_cannot(fields, spec):
    assert plan("auto", spec=spec, **fields).level == "events"
    with pytest.raises(UnderstudyError, match="tallies cannot stand for this world"):
        plan("tallies", spec=spec, **fields)


def test_a_tick_that_is_far_too_short_for_the_window_is_refused():
    with pytest.raises(UnderstudyError, match=r"a tick of 0.01 s, expected at least 0.015 s"):
        plan(tick="10ms")


def test_tallies_serve_a_plain_world():
    assert events_needed(scenario(), setting(small_policy())) == ()
    assert plan("auto").level == "tallies"


def test_amounts_need_a_policy_whose_reward_is_an_amount():
    with pytest.raises(UnderstudyError, match=r"kind continuous"):
        plan(reward={"kind": "lognormal"})


def test_a_shadow_stage_is_answered_also_where_tallies_serve():
    policy = small_policy(stages=[{"shadow": {"duration": "30s"}}])
    made = simulate(policy, scenario(rate=20, requests=5_000), runs=1, seed=0, jobs=1)
    assert made.plan.level == "tallies"
    assert made.runs[0].phase == Phase.PROMOTING
    assert made.runs[0].duration_s >= 30.0


def test_gates_are_left_out_because_nobody_registers_metrics_in_a_rehearsal():
    gated = plan(
        spec={"gates": {"offline": {"metric": "accuracy", "min": 0.9}, "cooldown": "7m"}},
        requests=5_000,
    )
    assert rollout(gated, 0, 0).stages
    assert gated.policy.spec.gates.cooldown == 420.0
