"""The state: names, strata and snapshots."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from controller.core import strata
from controller.core.model import BASIS, Phase
from controller.core.state import (
    IMAGE,
    KNOWN_S,
    KnownSplit,
    State,
    image,
    initial,
    revived,
    with_arms,
    with_split,
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


def known(epoch, since=0.0, **weights):
    return KnownSplit(epoch, since, weights)


def test_an_epoch_that_is_named_again_means_its_latest_weights():
    state = with_split(initial(POLICY), known(7, v1=9_000, v2=1_000), grace_s=5.0)
    assert state.known[7].weights == {"v1": 9_000, "v2": 1_000}
    other = with_split(state, known(7, v1=5_000, v2=5_000), grace_s=5.0)
    assert other.known[7].weights == {"v1": 5_000, "v2": 5_000}
    assert other.last_epoch == 7


def test_splits_that_no_exposure_can_name_any_more_are_forgotten():
    state = initial(POLICY)
    for epoch in range(1, 51):
        state = replace(state, clock=100.0 * epoch)
        state = with_split(state, known(epoch, 100.0 * epoch, v1=BASIS), grace_s=5.0)
    # The one that was in force KNOWN_S + grace ago is the oldest that still may be named.
    oldest = 5_000.0 - 5.0 - KNOWN_S
    assert min(state.known) == int(oldest // 100)
    assert max(state.known) == state.last_epoch == 50


def row(placed, **changes):
    values = {"epoch": 3, "segment": -1, "level": 0, "shares": np.array([0.9, 0.1])} | changes
    return strata.placed(placed, **values)


def test_the_same_stratum_is_kept_once():
    rows, first = row(strata.none(2))
    again, second = row(rows)
    assert first == second
    assert again is rows
    others = [{"epoch": 4}, {"segment": 0}, {"level": 50}, {"shares": np.array([0.8, 0.2])}]
    for n, change in enumerate(others, 1):
        rows, place = row(rows, **change)
        assert place == n
    assert len(rows) == 1 + len(others)


def test_a_stratum_compares_only_arms_that_had_a_chance():
    rows, _ = strata.placed(
        strata.none(3), epoch=1, segment=-1, level=0, shares=np.array([0.6, 0.2, 0.0])
    )
    pi = strata.pis(rows, np.array([0]))
    assert pi[0, 0] == pytest.approx(0.25)
    assert np.isnan(pi[0, 1])
    arms = np.array([0, 1, 2, -1])
    found = strata.comparing(rows, np.zeros(4, np.int64), arms)
    assert found.tolist() == [True, True, False, False]
    assert not strata.comparing(rows, np.array([-1]), np.array([0])).any()


def test_a_unit_that_was_the_champions_is_drawn_anew_among_the_places_that_are_left():
    # Of the 95 % that the champion had at 5 %, 20 of 95 places go to the candidate at 25 %.
    shares = strata.conditional(np.array([0.75, 0.25]), 500)
    assert shares[1] / shares.sum() == pytest.approx(0.20 / 0.95)
    # A share that has not grown draws nobody.
    assert strata.conditional(np.array([0.95, 0.05]), 500)[1] == pytest.approx(0.0)


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
    mine, theirs = again.estimators.reward.game.wealth, state.estimators.reward.game.wealth
    assert np.array_equal(mine.log_wealth, theirs.log_wealth)
