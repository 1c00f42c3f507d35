"""The state: names, strata and snapshots."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from controller.core.model import BASIS, Phase
from controller.core.state import (
    IMAGE,
    State,
    Stratum,
    image,
    initial,
    revived,
    with_arms,
    with_split,
    with_stratum,
)
from controller.ledger import codec as ledger_codec
from tests.core.logs import Log, policy, run

POLICY = policy()


def test_the_first_state_gives_everything_to_the_policys_champion():
    state = initial(POLICY)
    assert state.phase is Phase.IDLE
    assert state.split.weights == {"v1": BASIS}
    assert state.clock == float("-inf")
    assert not state.is_judging


def test_a_new_arm_gets_an_index_and_room_in_every_count():
    state = with_arms(with_arms(initial(POLICY), ("v1", "v2")), ("v2", "v3", "v3"))
    assert state.arms == ("v1", "v2", "v3")
    for f in fields(state.totals):
        assert getattr(state.totals, f.name).shape == (3,)


def test_an_epoch_that_is_named_again_means_its_latest_weights():
    state = with_split(initial(POLICY), 7, {"v1": 9_000, "v2": 1_000})
    first = state.by_epoch[7]
    assert state.strata[first] == Stratum(7, {"v1": 0.9, "v2": 0.1})
    again = with_split(state, 7, {"v1": 9_000, "v2": 1_000})
    assert again.by_epoch[7] == first
    assert again.strata == state.strata
    other = with_split(state, 7, {"v1": 5_000, "v2": 5_000})
    assert other.strata[other.by_epoch[7]].shares == {"v1": 0.5, "v2": 0.5}
    assert other.strata[first] == state.strata[first]  # exposures of before keep their split
    assert other.last_epoch == 7


def test_the_same_stratum_is_kept_once():
    state, first = with_stratum(initial(POLICY), -1, {"v1": 0.9, "v2": 0.1})
    state, second = with_stratum(state, -1, {"v1": 0.9, "v2": 0.1})
    assert first == second
    assert len(state.strata) == 1


def test_a_snapshot_has_every_field_but_what_waits():
    names = {f.name for f in fields(State)}
    assert {f.name for f in fields(IMAGE)} == names - {"waiting"}


def test_a_snapshot_taken_between_ticks_begins_where_the_waiting_events_begin():
    log = Log()
    log.tick(0)
    log.version(1)
    log.exposure(2, "v1", epoch=1)
    told = run(POLICY, log.lines, cuts=[1, 2])
    assert told.state.offset == 3
    assert image(told.state).offset == 1


def test_a_revived_state_is_the_same_to_the_last_bit():
    log = Log()
    log.tick(0)
    log.version(1)
    for i in range(50):
        request = log.exposure(2 + i / 10, "v1", epoch=1, unit=f"u{i % 7}")
        log.reward(3 + i / 10, request)
    log.ticks(10, 40)
    state = run(POLICY, log.lines).state
    blob = ledger_codec.encode(image(state))
    again = revived(ledger_codec.decode(IMAGE, blob, copy=True))
    assert ledger_codec.encode(image(again)) == blob
    assert again.totals.exposures.tolist() == state.totals.exposures.tolist()
    assert again.split == state.split
    assert np.array_equal(again.estimators.harm.log_wealth, state.estimators.harm.log_wealth)
