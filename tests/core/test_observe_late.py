"""Late is what came too late, not what waited for its tick."""

from __future__ import annotations

import pytest

from tests.core.logs import Log, policy, run

POLICY = policy()  # window 10 s, grace 5 s


@pytest.mark.parametrize("pace_s", [1.0, 5.0, 20.0, 600.0])
def test_nothing_is_lost_however_long_a_controller_was_away_between_two_ticks(pace_s):
    # Exposures and rewards lay in the access log and the queue meanwhile; both are in order.
    log = Log()
    log.tick(0)
    events = []
    for i in range(60):
        at = (i + 0.5) * pace_s / 60
        events += [(at, i, None), (at + 3, i, f"r{i + 1}")]
    for at, _, request in sorted(events, key=lambda event: event[0]):
        if request is None:
            log.exposure(at, "v1", epoch=1)
        else:
            log.reward(at, request)
    log.tick(pace_s + 3)
    log.tick(pace_s + 30)
    told = run(POLICY, log.lines)
    assert told.state.rejected == {}
    assert told.state.totals.exposures.tolist() == [60]
    assert told.state.sums[0].outcomes.tolist() == [60]
    assert told.state.sums[0].value.tolist() == [60.0]


def test_what_comes_behind_the_last_ticks_watermark_is_late():
    log = Log()
    log.tick(0)
    log.tick(100)
    log.exposure(94.9, "v1", epoch=1)
    log.exposure(95.1, "v1", epoch=1)
    log.tick(105)
    told = run(POLICY, log.lines)
    assert told.state.rejected == {"late": 1}
    assert told.state.totals.exposures.tolist() == [1]
