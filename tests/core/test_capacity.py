"""Capacity before traffic: no weight rises before enough of the arm runs; falling never waits."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import capacity
from controller.core.model import BASIS, Capacity, CapacityEvent, Phase, Verdict
from controller.core.state import evolve, initial
from tests.core import logs
from tests.core.clusters import CANARY, Cluster, policy, wanted

AB = {"ab": {"share": "50%", "min_duration": "1h", "max_duration": "2d"}}


# --- how much is needed -----------------------------------------------------------------------


def state_with(**found: Capacity):
    return evolve(initial(policy()), capacities=dict(found))


@pytest.mark.parametrize(
    ("full", "share", "limit", "replicas"),
    [
        (6, 5_000, None, 3),
        (6, 1_000, None, 1),
        (6, 1, None, 1),
        (5, 5_000, None, 3),
        (10, BASIS, None, 10),
        (10, BASIS, 4, 4),
        (0, BASIS, None, 1),
    ],
)
def test_an_arm_needs_its_share_of_what_the_champion_has(full, share, limit, replicas):
    state = state_with(v1=Capacity("known", full), v2=Capacity("known", 0, limit))
    assert capacity.needed(state, "v2", share) == replicas


def test_a_champion_that_shrank_while_traffic_left_it_is_still_as_large_as_it_was():
    state = evolve(state_with(v1=Capacity("known", 3)), full=6)
    assert capacity.full(state) == 6
    grown = evolve(state_with(v1=Capacity("known", 9)), full=6)
    assert capacity.full(grown) == 9


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=30))
def test_replicas_are_ready_since_the_last_time_that_fewer_were(steps):
    """Against brute force: the least number ready at any moment since then."""
    state, now, course = state_with(), 0.0, []
    for ready, seconds in steps:
        event = CapacityEvent(0, now, "v2", "known", ready, 5)
        state = capacity.learn(state, event)
        course += [ready] * seconds
        now += seconds
    found = state.capacities["v2"]
    assert found.ready == steps[-1][0]
    for since in range(len(course)):
        assert found.ready_since(float(since)) == min(course[since:])


def test_what_was_known_of_an_arm_is_kept_while_the_cluster_does_not_answer():
    state = capacity.learn(state_with(), CapacityEvent(0, 1.0, "v2", "known", 2, 3, 10))
    state = capacity.learn(state, CapacityEvent(0, 9.0, "v2", "unknown"))
    assert state.capacities["v2"] == Capacity("unknown", 3, 10, ((2, 1.0),))
    state = capacity.learn(state, CapacityEvent(0, 20.0, "v2", "known", 2, 3, 10))
    assert state.capacities["v2"].ready_since(1.0) == 2
    state = capacity.learn(state, CapacityEvent(0, 30.0, "v2", "gone"))
    assert state.capacities["v2"] == Capacity("gone", 0)


# --- a rollout begins -------------------------------------------------------------------------


def test_a_rollout_asks_for_replicas_waits_for_them_and_for_the_warm_up():
    model = Cluster().started()
    model.offered("v2")
    model.capacity("v2", 0)
    (asked,) = model.tick()
    assert (asked.verdict, asked.cause) == (Verdict.HOLD, "capacity")
    assert asked.reason == "v2 needs 1 of 6 replicas for 10 %; 0 are ready"
    assert wanted(model.told, asked.number) == [
        ("scale", "v2", 1),
        ("role", "v2", "candidate"),
        ("scale", "v1", 6),
    ]
    assert model.ticks(20) == []
    model.capacity("v2", 1)
    ready_at = model.now
    assert model.tick() == []
    assert model.state.said.reason == ("v2 has what 10 % needs, 1 replica, and warms up: 5 s left")
    (started,) = model.tick()
    assert model.now - ready_at == 10.0
    assert (started.cause, started.weights) == ("started", {"v1": 9000, "v2": 1000})
    assert wanted(model.told, started.number) == [("split", {"v1": 9000, "v2": 1000})]


def test_a_candidate_that_runs_already_starts_at_once_and_its_decision_carries_the_effects():
    model = Cluster().started()
    model.capacity("v2", 1)
    model.ticks(15)
    model.offered("v2")
    (started,) = model.tick()
    assert started.cause == "started"
    assert wanted(model.told, started.number) == [
        ("scale", "v2", 1),
        ("role", "v2", "candidate"),
        ("scale", "v1", 6),
        ("split", {"v1": 9000, "v2": 1000}),
    ]


def test_a_version_that_the_cluster_does_not_have_waits():
    model = Cluster().started()
    model.offered("v2")
    (held,) = model.tick()
    assert (held.cause, held.reason) == ("capacity", "v2 was not found in the cluster")
    assert wanted(model.told, held.number) == []
    model.capacity("v2", 1)
    model.ticks(20)
    assert model.state.phase is Phase.RAMPING


def test_a_champion_that_lacks_replicas_holds_and_nobody_is_blamed():
    model = Cluster()
    model.capacity("v1", 5, 6)
    model.ticks(10)
    model.offered("v2")
    model.capacity("v2", 1)
    model.ticks(600)
    assert model.state.phase is Phase.IDLE
    assert model.state.said.reason == "v1, the champion, needs 6 replicas; 5 are ready"
    model.capacity("v1", 6)
    model.ticks(10)
    assert model.state.phase is Phase.RAMPING


def test_a_candidate_that_is_never_ready_is_refused_after_the_deadline_and_scaled_down():
    model = Cluster().started()
    model.offered("v2")
    model.capacity("v2", 0)
    model.tick()
    *_, refused = model.ticks(120)
    assert (refused.verdict, refused.cause) == (Verdict.ROLL_BACK, "progress_deadline")
    assert refused.reason == "v2 needs 1 of 6 replicas for 10 %; 0 are ready, after 2 min"
    assert refused.phase is Phase.ROLLED_BACK
    assert wanted(model.told, refused.number) == [
        ("scale", "v2", 0),
        ("role", "v2", "rejected"),
        ("scale", "v1", None),
    ]
    assert model.state.tried == ("v2",)
    assert (model.state.asked, model.state.waits, model.state.full) == ({}, {}, 0)
    model.ticks(600)
    assert [d.cause for d in model.told.decisions][-2:] == ["progress_deadline", "no_candidate"]


def test_a_candidate_that_is_deleted_before_it_started_is_refused():
    model = Cluster().started()
    model.offered("v2")
    model.capacity("v2", 0)
    model.tick()
    model.lost("v2")
    (refused,) = model.tick()
    assert (refused.verdict, refused.cause) == (Verdict.ROLL_BACK, "gone")
    assert wanted(model.told, refused.number) == [("scale", "v1", None)]


def test_the_next_in_the_queue_starts_when_the_first_is_refused():
    model = Cluster().started()
    model.offered("v2")
    model.offered("v3")
    model.capacity("v2", 0)
    model.capacity("v3", 1)
    model.ticks(140)
    assert model.state.rollout.candidates == ("v3",)
    assert wanted(model.told)[-1] == ("split", {"v1": 9000, "v3": 1000})


# --- a rollout goes on ------------------------------------------------------------------------


def test_the_next_step_waits_for_the_replicas_that_it_needs():
    model = Cluster().ramping()
    model.drive(120)
    held = model.told.decisions[-1]
    assert (held.verdict, held.cause) == (Verdict.HOLD, "capacity")
    assert held.reason == "v2 needs 3 of 6 replicas for 50 %; 1 is ready"
    assert wanted(model.told, held.number) == [("scale", "v2", 3)]
    assert model.state.split.weights == {"v1": 9000, "v2": 1000}
    model.capacity("v2", 3)
    model.drive(20)
    advanced = [d for d in model.told.decisions if d.verdict is Verdict.ADVANCE][-1]
    assert advanced.reason.endswith("canary at 50 % of the traffic")
    assert model.state.split.weights == {"v1": 5000, "v2": 5000}


def test_a_step_that_never_gets_its_replicas_is_rolled_back_after_the_deadline():
    model = Cluster().ramping()
    model.drive(400)
    causes = [d.cause for d in model.told.decisions]
    at = causes.index("progress_deadline")
    waited = model.told.decisions[causes.index("capacity", causes.index("started"))]
    rolled_back = model.told.decisions[at]
    assert rolled_back.verdict is Verdict.ROLL_BACK
    assert rolled_back.time - waited.time == 120.0
    assert wanted(model.told, rolled_back.number) == [("split", {"v1": BASIS})]


def test_readiness_that_flaps_moves_no_weight():
    model = Cluster().ramping()
    model.drive(60)
    for _ in range(20):
        for ready in (3, 1):
            model.capacity("v2", ready, 3)
            model.ticks(5)
            assert model.state.split.weights.get("v2", 0) in (1000, 0)
    assert model.state.phase is Phase.ROLLED_BACK
    assert [d.cause for d in model.told.decisions if d.verdict is not Verdict.HOLD] == [
        "started",
        "progress_deadline",
    ]


def test_a_cluster_that_does_not_answer_holds_and_the_time_is_not_counted():
    model = Cluster().ramping()
    model.lost("v1", "unknown")
    model.lost("v2", "unknown")
    model.drive(600)
    assert model.state.said.cause == "capacity"
    assert "the cluster does not say what runs of v2" in model.state.said.reason
    assert model.state.split.weights == {"v1": 9000, "v2": 1000}
    model.capacity("v1", 6)
    model.capacity("v2", 3)
    model.drive(20)
    assert model.state.split.weights == {"v1": 5000, "v2": 5000}


def test_a_candidate_that_is_deleted_is_rolled_back_at_once_in_any_phase():
    for command in (None, "pause"):
        model = Cluster().ramping()
        if command:
            model.command(command)
            model.tick()
        model.lost("v2")
        (decided,) = model.tick()
        assert (decided.verdict, decided.cause) == (Verdict.ROLL_BACK, "gone")
        assert model.state.split.weights == {"v1": BASIS}
        model.ticks(120)
        assert wanted(model.told)[-1] == ("scale", "v1", None)
        assert ("scale", "v2", 0) not in wanted(model.told)


def test_a_champion_that_is_deleted_holds_and_nothing_is_rolled_back_to_it():
    model = Cluster().ramping()
    model.lost("v1")
    model.drive(300)
    assert model.state.said.reason.endswith("v1, the champion, is gone from the cluster")
    assert model.state.split.weights == {"v1": 9000, "v2": 1000}


def test_one_of_two_candidates_that_is_deleted_leaves_and_the_other_waits_for_its_share():
    model = Cluster(policy(AB, candidates={"on_new": "join"})).started()
    for arm in ("v2", "v3"):
        model.offered(arm)
        model.capacity(arm, 3)
        model.ticks(20)
    assert model.state.split.weights == {"v1": 5000, "v2": 2500, "v3": 2500}
    model.capacity("v3", 2)
    model.tick()
    model.lost("v2")
    gone, *_ = model.tick()
    assert (gone.cause, gone.candidate) == ("gone", "v2")
    assert model.state.split.weights == {"v1": 7500, "v3": 2500}
    held = [d for d in model.ticks(10) if d.cause == "capacity"]
    assert [d.reason for d in held] == ["v3 needs 3 of 6 replicas for 50 %; 2 are ready"]
    model.capacity("v3", 3)
    model.ticks(20)
    assert model.state.split.weights == {"v1": 5000, "v3": 5000}


def test_where_somebody_else_scales_replicas_are_waited_for_and_not_asked_for():
    model = Cluster(policy(target={"scaling": "observed"})).started()
    model.offered("v2")
    model.capacity("v2", 0)
    (held,) = model.tick()
    assert held.cause == "capacity"
    assert wanted(model.told, held.number) == [("role", "v2", "candidate")]
    model.capacity("v2", 1)
    model.ticks(20)
    assert model.state.phase is Phase.RAMPING
    model.command("rollback")
    model.ticks(120)
    assert not [effect for effect in wanted(model.told) if effect[0] == "scale"]
    assert wanted(model.told)[-1] == ("role", "v2", "rejected")


# --- operators --------------------------------------------------------------------------------


def test_a_promotion_that_must_wait_is_remembered_and_carried_out_when_there_is_room():
    model = Cluster().ramping()
    model.command("promote", reason="hotfix")
    (asked,) = model.tick()
    assert (asked.verdict, asked.cause) == (Verdict.HOLD, "capacity")
    assert asked.reason == (
        "promote by ana: hotfix: waits, because v2 needs 6 of 6 replicas for 100 %; 1 is ready"
    )
    assert wanted(model.told, asked.number) == [("scale", "v2", 6)]
    model.ticks(30)
    assert model.state.split.weights == {"v1": 9000, "v2": 1000}
    model.capacity("v2", 6)
    promoted, *_ = [d for d in model.ticks(15) if d.verdict is Verdict.PROMOTE]
    assert (promoted.cause, promoted.reason) == ("operator", "promote by ana: hotfix")
    assert wanted(model.told, promoted.number) == [("split", {"v2": BASIS})]


@pytest.mark.parametrize("command", ["rollback", "pause"])
def test_what_waits_is_cancelled_by(command):
    model = Cluster().ramping()
    model.command("promote")
    model.tick()
    model.command(command)
    model.tick()
    assert model.state.intent is None
    model.capacity("v2", 6)
    model.ticks(60)
    assert model.state.champion == "v1"


def test_a_promotion_that_waits_too_long_is_dropped_and_the_rollout_goes_on():
    model = Cluster().ramping()
    model.command("promote")
    model.tick()
    found = [d for d in model.ticks(130) if d.cause == "progress_deadline"]
    assert [d.verdict for d in found] == [Verdict.HOLD]
    assert found[0].reason.startswith("promote by ana: given up, because v2 needs 6 of 6")
    assert model.state.phase is Phase.RAMPING


def test_rolling_back_never_waits():
    model = Cluster().ramping()
    for arm in ("v1", "v2"):
        model.lost(arm, "unknown")
    model.command("rollback")
    (decided,) = model.tick()
    assert decided.verdict is Verdict.ROLL_BACK
    assert model.state.split.weights == {"v1": BASIS}


def test_rolling_back_an_idle_model_changes_and_scales_nothing():
    model = Cluster().started()
    model.command("rollback")
    (decided,) = model.tick()
    assert (decided.verdict, decided.cause) == (Verdict.HOLD, "ignored")
    assert wanted(model.told, decided.number) == []


# --- properties -------------------------------------------------------------------------------

ARMS = ("v1", "v2", "v3")
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("capacity"), st.sampled_from(ARMS), st.integers(0, 7)),
        st.tuples(st.just("capacity"), st.sampled_from(ARMS), st.integers(3, 7)),
        st.tuples(st.just("lost"), st.sampled_from(ARMS), st.sampled_from(["unknown", "gone"])),
        st.tuples(st.just("offered"), st.sampled_from(ARMS[1:]), st.none()),
        st.tuples(
            st.just("command"),
            st.sampled_from(["promote", "rollback", "pause", "resume", "undo"]),
            st.none(),
        ),
        st.tuples(st.just("drive"), st.integers(1, 1000), st.none()),
        st.tuples(st.just("ticks"), st.integers(1, 80), st.none()),
    ),
    max_size=25,
)
POLICIES = st.sampled_from(
    [
        policy(),
        policy(AB, candidates={"on_new": "join"}),
        policy({"shadow": {"duration": "20s"}}, CANARY, candidates={"on_new": "replace"}),
        policy(
            {"thompson": {"update_every": "5s", "min_outcomes": 50}},
            candidates={"on_new": "join"},
        ),
    ]
)


def happen(model: Cluster, kind: str, what, more) -> None:
    match kind:
        case "capacity":
            model.capacity(what, more)
        case "lost":
            model.lost(what, more)
        case "offered":
            model.offered(what)
        case "command":
            model.command(what)
        case "drive":
            model.drive(25, seed=what)
        case _:
            model.ticks(float(what))


def begun(rules) -> Cluster:
    """Two candidates are there; one runs, the other not yet."""
    model = Cluster(rules).started(full=4)
    model.offered("v2")
    model.offered("v3")
    model.capacity("v2", 4)
    model.capacity("v3", 0, 1)
    model.ticks(20)
    return model


def given_to(split) -> dict[str, int]:
    """The greatest share that each arm has in any of the split's weights."""
    each = (split.weights, split.mirror, *split.segments.values())
    return {arm: max(weights.get(arm, 0) for weights in each) for w in each for arm in w}


@settings(max_examples=40, deadline=None)
@given(POLICIES, HAPPENINGS)
def test_no_candidate_gets_more_traffic_than_it_is_ready_for(rules, happenings):
    """The oracle reads the log alone: what was ready for 10 s when a split rose."""
    model = begun(rules)
    for happening in happenings:
        happen(model, *happening)
    model.tick()
    ready: dict[str, list[tuple[float, int | None]]] = {arm: [] for arm in ARMS}
    told = logs.Told(initial(rules))
    for line in model.log.lines:
        before = told.state
        logs.fold(rules, told, [line])
        event = json.loads(line)
        if event["type"] == "capacity":
            seen = event["ready"] if event["state"] == "known" else None
            ready[event["arm"]].append((event["time"], seen))
        after = told.state
        if after.split.epoch == before.split.epoch or not after.is_judging:
            continue
        given_before = given_to(before.split)
        for arm, share in given_to(after.split).items():
            if arm == after.split.champion or share <= given_before.get(arm, 0):
                continue
            since = after.clock - 10.0
            course = [n for time, n in ready[arm] if time > since]
            course += [n for time, n in ready[arm] if time <= since][-1:]
            full = max(1, before.capacities[after.champion].replicas)
            assert course, f"{arm} was never seen"
            assert ready[arm][-1][1] is not None, "nothing is known of it"
            numbers = [n for n in course if n is not None]
            assert min(numbers) >= math.ceil(full * share / BASIS), (arm, share, course)


@settings(max_examples=30, deadline=None)
@given(POLICIES, HAPPENINGS, st.data())
def test_any_log_gives_the_same_decisions_and_effects_however_it_is_cut(rules, happenings, data):
    model = begun(rules)
    for happening in happenings:
        happen(model, *happening)
    model.tick()
    lines = model.log.lines
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=4))
    again = logs.run(rules, lines, cuts)
    assert again.documents == model.told.documents
    kept = [e for e in again.effects if type(e).__name__ != "KeepRejected"]
    assert kept == [e for e in model.told.effects if type(e).__name__ != "KeepRejected"]
