"""What arms become once their traffic has moved, what `undo` does, and what a crash leaves."""

from __future__ import annotations

import pytest

from controller.core.model import BASIS, Phase, SetSplit, Verdict
from controller.core.report import report
from controller.core.state import image, initial, revived
from controller.ledger.codec import decode, encode
from controller.ledger.rows import effect_of, effect_row
from controller.sim.replay import replay
from tests.core import logs
from tests.core.clusters import Cluster, policy, wanted
from tests.core.logs import Log, Told, fold


def promoted(traffic: bool = True) -> Cluster:
    """v2 was promoted by hand, and the routers have just confirmed it."""
    model = Cluster().ramping()
    model.capacity("v2", 6)
    model.ticks(15)
    model.command("promote")
    model.tick()
    assert model.state.phase is Phase.PROMOTING
    model.confirm()
    if traffic:
        model.exposed()
    return model


# --- settling ---------------------------------------------------------------------------------


def test_a_promotion_settles_when_routers_and_requests_have_the_split():
    model = promoted()
    settled, *_ = model.tick()
    assert (settled.cause, settled.phase) == ("settled", Phase.PROMOTED)
    assert settled.reason == "v2 is the champion: requests were answered under split 3"
    assert wanted(model.told, settled.number) == [
        ("role", "v2", "champion"),
        ("service", "v2"),
        ("role", "v1", "retained"),
    ]


def test_without_traffic_a_promotion_settles_after_ten_seconds():
    model = promoted(traffic=False)
    assert model.tick() == []
    settled, *_ = model.tick()
    assert settled.reason == ("v2 is the champion: nobody asked anything under split 3 for 10 s")


def test_requests_that_are_still_routed_the_old_way_keep_a_promotion_from_settling():
    model = promoted(traffic=False)
    for _ in range(20):
        model.exposed(arm="v1", epoch=2)
        model.tick()
    assert model.state.phase is Phase.PROMOTING
    model.exposed(epoch=None)  # a gateway of somebody else's names no split
    model.tick()
    model.tick()
    assert model.state.phase is Phase.PROMOTED


def test_a_promotion_that_no_router_confirms_does_not_settle():
    model = Cluster().ramping()
    model.capacity("v2", 6)
    model.ticks(15)
    model.command("promote")
    for _ in range(100):
        model.tick()
    assert model.state.phase is Phase.PROMOTING


# --- leaving ----------------------------------------------------------------------------------


def test_the_champion_before_is_retained_and_then_scaled_down():
    model = promoted()
    model.ticks(15)
    assert "v1 is scaled down in" in report(model.policy, model.state).health["waiting"]
    found = [d for d in model.ticks(310) if d.cause == "retired"]
    assert [d.reason for d in found] == [
        "v1, the champion before, was kept for 5 min and is scaled down"
    ]
    assert wanted(model.told, found[0].number) == [
        ("scale", "v1", 0),
        ("role", "v1", "retired"),
        ("scale", "v2", None),
    ]
    assert (model.state.asked, model.state.full, model.state.leaving) == ({}, 0, ())


def test_a_candidate_that_was_rolled_back_drains_before_it_is_scaled_down():
    model = Cluster().ramping()
    model.command("rollback")
    (decided,) = model.tick()
    assert wanted(model.told, decided.number) == [("split", {"v1": BASIS})]
    for _ in range(30):
        model.tick()  # no router confirms
    assert not [e for e in wanted(model.told) if e == ("scale", "v2", 0)]
    model.confirm()
    confirmed = model.now
    (retired,) = [d for d in model.ticks(100) if d.cause == "retired"]
    assert retired.time - confirmed >= 30.0
    assert wanted(model.told, retired.number) == [
        ("scale", "v2", 0),
        ("role", "v2", "rejected"),
        ("scale", "v1", None),
    ]


def test_the_champion_is_kept_as_large_while_the_next_rollout_is_on():
    rules = policy(gates={"cooldown": "0s"})
    model = Cluster(rules).ramping()
    model.offered("v3")
    model.capacity("v3", 1)
    model.ticks(20)
    model.command("rollback")
    model.ticks(120)
    assert model.state.rollout.candidates == ("v3",)
    effects = wanted(model.told)
    assert ("scale", "v2", 0) in effects
    assert ("scale", "v1", None) not in effects


def test_nothing_leaves_while_the_model_is_paused():
    model = promoted()
    model.ticks(15)
    model.command("pause")
    assert "retired" not in [d.cause for d in model.ticks(600)]
    model.command("resume")
    assert "retired" in [d.cause for d in model.ticks(10)]


# --- undo -------------------------------------------------------------------------------------


def test_undo_brings_the_champion_before_back_at_once_while_it_is_retained():
    model = promoted()
    model.ticks(15)
    model.command("undo", reason="complaints")
    (undone,) = model.tick()
    assert (undone.verdict, undone.cause) == (Verdict.ROLL_BACK, "undo")
    assert undone.reason == "undo by ana: complaints; v1 serves everything again"
    assert wanted(model.told, undone.number) == [("scale", "v1", 6), ("split", {"v1": BASIS})]
    settled, *_ = [d for d in model.ticks(25) if d.cause == "settled"]
    assert settled.phase is Phase.ROLLED_BACK
    assert wanted(model.told, settled.number) == [
        ("role", "v1", "champion"),
        ("service", "v1"),
        ("role", "v2", "retained"),
    ]
    (retired,) = [d for d in model.ticks(320) if d.cause == "retired"]
    assert wanted(model.told, retired.number) == [
        ("scale", "v2", 0),
        ("role", "v2", "retired"),
        ("scale", "v1", None),
    ]
    assert model.state.tried == ("v2",)


def test_undo_works_while_the_api_server_is_out_of_reach_if_the_arm_was_ready():
    model = promoted()
    model.ticks(15)
    model.lost("v1", "unknown")
    model.lost("v2", "unknown")
    model.command("undo")
    model.tick()
    assert model.state.split.weights == {"v1": BASIS}


def test_undo_of_a_champion_that_was_scaled_down_waits_for_its_replicas():
    model = promoted()
    model.ticks(330)
    model.capacity("v1", 0)
    model.tick()
    model.command("undo")
    (asked,) = model.tick()
    assert asked.cause == "capacity"
    assert wanted(model.told, asked.number) == [("scale", "v1", 6)]
    model.offered("v3")
    model.capacity("v3", 1)
    model.ticks(30)
    assert model.state.split.weights == {"v2": BASIS}, "nothing starts meanwhile"
    model.capacity("v1", 6)
    model.ticks(40)
    assert model.state.champion == "v1"


def test_undo_that_never_gets_its_replicas_is_given_up():
    model = promoted()
    model.ticks(330)
    model.capacity("v1", 0)
    model.tick()
    model.command("undo")
    model.ticks(130)
    assert "progress_deadline" in [d.cause for d in model.told.decisions]
    assert (model.state.champion, model.state.intent) == ("v2", None)
    model.ticks(400)
    assert wanted(model.told)[-2:] == [("scale", "v1", 0), ("role", "v1", "retired")]


def test_undo_works_without_a_cluster_and_once():
    log = Log()
    log.tick(0)
    log.version(1)
    log.ticks(5, 20)
    log.command(21, "promote", by="ana")
    log.ticks(25, 100)
    log.command(101, "undo", by="ana")
    log.ticks(105, 200)
    log.command(201, "undo", by="ana")
    log.tick(205)
    told = logs.run(logs.policy(), log.lines)
    assert told.splits[-1] == {"v1": BASIS}
    assert told.state.phase is Phase.ROLLED_BACK
    assert told.state.tried == ("v2",)
    assert told.decisions[-1].reason == (
        "undo by ana: ignored, because no champion before v1 is known"
    )
    assert all(isinstance(effect, SetSplit) for effect in told.effects)


def test_undo_of_a_champion_that_was_deleted_is_refused():
    model = promoted()
    model.ticks(15)
    model.lost("v1")
    model.command("undo")
    (refused,) = model.tick()
    assert refused.reason.endswith(
        "ignored, because v1, the champion before, is gone from the cluster"
    )


# --- crashes, replay, reports -----------------------------------------------------------------


def whole_story() -> Cluster:
    model = promoted()
    model.ticks(40)
    model.offered("v3")
    model.capacity("v3", 1)
    model.ticks(40)
    model.command("rollback")
    model.ticks(60)
    model.command("undo")
    model.ticks(400)
    return model


def test_every_prefix_of_a_log_derives_the_same_effects_again():
    """A crash forgets the state, or goes on from a snapshot: what was decided is decided again."""
    model = whole_story()
    lines, effects = model.log.lines, model.told.effects
    assert len(effects) > 20
    for cut in range(1, len(lines), 7):
        before = logs.run(model.policy, lines[:cut])
        state = revived(decode(type(image(before.state)), encode(image(before.state)), copy=True))
        told = Told(state, list(before.decisions), list(before.effects))
        fold(model.policy, told, lines[state.offset :])
        assert told.documents == model.told.documents
        assert told.effects == effects


def test_a_recorded_log_with_capacities_replays_to_the_same_decisions():
    model = whole_story()
    *decisions, final = replay(model.policy, [model.log.lines])
    assert [d["reason"] for d in decisions] == [d.reason for d in model.told.decisions]
    assert final["champion"] == "v1"


def test_every_effect_is_kept_by_the_ledger_as_it_was():
    for effect in whole_story().told.effects:
        assert effect_of(*effect_row(effect)) == effect


def test_a_report_says_what_runs_of_each_arm_where_that_is_known():
    model = Cluster().ramping()
    model.capacity("v2", 1, 3)
    model.lost("v1", "unknown")
    model.tick()
    rows = {arm.arm: (arm.ready, arm.replicas) for arm in report(model.policy, model.state).arms}
    assert rows == {"v1": (None, None), "v2": (1, 3)}
    local = logs.run(logs.policy(), [b'{"type":"tick","time":1}'])
    assert report(logs.policy(), local.state).arms[0].ready is None


@pytest.mark.parametrize("deploy", [None, {"kserve": {"service": "m"}}])
def test_a_log_with_capacities_can_be_folded_under_a_policy_without_deployments(deploy):
    rules = logs.policy(**({"deploy": deploy} if deploy else {}))
    model = Cluster(rules).ramping()
    assert initial(rules).capacities == {}
    model.command("rollback")
    model.ticks(400)
    assert ("scale", "v2", 0) in wanted(model.told)
