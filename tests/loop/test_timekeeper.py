"""Steps of the wall clock: what ticks say, and what becomes of what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from controller.core.model import Reason
from controller.loop.timekeeper import SETTLE_S, Timekeeper
from tests.core.logs import CANARY, Log, policy, run

HOUR = 3_600.0
POLICY = policy(CANARY)


class Clocks:
    """A wall clock that can be set, and a steady one that cannot."""

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.steady_s, self.offset_s = 500.0, at - 500.0

    def wall(self) -> float:
        return self.steady_s + self.offset_s

    def keeper(self, longest_s: float = 15.0) -> Timekeeper:
        return Timekeeper(self.wall, lambda: self.steady_s, longest_s=lambda: longest_s)

    def go(self, seconds: float, keeper: Timekeeper, each_s: float = 1.0) -> list[float]:
        seen = []
        for _ in range(round(seconds / each_s)):
            self.steady_s += each_s
            seen.append(keeper())
        return seen


def test_without_steps_it_is_the_wall_clock_with_its_drift() -> None:
    clocks = Clocks()
    keeper = clocks.keeper()
    for _ in range(1_000):
        clocks.steady_s += 1
        clocks.offset_s += 0.005  # half a per cent too quick, for a quarter of an hour
        assert keeper() == clocks.wall()
    assert keeper.trouble is None


def test_a_step_ahead_is_not_followed_until_nothing_from_before_is_open() -> None:
    for longest_s in (15.0, 2 * HOUR):
        clocks = Clocks(at=0.0)
        keeper = clocks.keeper(longest_s)
        clocks.go(10, keeper)
        clocks.offset_s += HOUR
        wait_s = max(SETTLE_S, longest_s)
        seen = clocks.go(wait_s, keeper)
        assert seen == [11.0 + i for i in range(round(wait_s))]
        assert "3600 s ahead" in str(keeper.trouble)
        assert clocks.go(2, keeper)[-1] == clocks.wall()
        assert keeper.trouble is None


def test_a_step_ahead_that_is_taken_back_was_none() -> None:
    clocks = Clocks(at=0.0)
    keeper = clocks.keeper()
    clocks.go(10, keeper)
    clocks.offset_s += HOUR
    seen = clocks.go(300, keeper)
    clocks.offset_s -= HOUR
    seen += clocks.go(300, keeper)
    assert seen == [11.0 + i for i in range(600)]
    assert keeper.trouble is None


def test_a_step_back_is_followed_and_taken_back_it_was_none() -> None:
    clocks = Clocks(at=10_000.0)
    keeper = clocks.keeper()
    clocks.go(10, keeper)
    clocks.offset_s -= HOUR
    assert clocks.go(1, keeper) == [10_011.0 - HOUR]
    assert "back" in str(keeper.trouble)
    clocks.go(100, keeper)
    clocks.offset_s += HOUR
    assert clocks.go(1, keeper) == [10_112.0]
    assert keeper.trouble is None


def test_the_latest_time_that_it_may_be_is_that_of_either_clock() -> None:
    clocks = Clocks(at=10_000.0)
    keeper = clocks.keeper()
    clocks.offset_s -= HOUR
    assert keeper.latest() == 10_000.0
    clocks.offset_s += 2 * HOUR
    assert keeper.latest() == 10_000.0 + HOUR


def test_every_further_step_begins_the_wait_anew() -> None:
    clocks = Clocks(at=0.0)
    keeper = clocks.keeper()
    clocks.offset_s += HOUR
    clocks.go(SETTLE_S - 10, keeper)
    clocks.offset_s += HOUR
    assert clocks.go(20, keeper)[-1] == SETTLE_S + 10
    assert "7200 s ahead" in str(keeper.trouble)


def told_of(step_at: float, back_at: float, is_kept: bool) -> Log:
    """Four minutes of requests, each rewarded after 4 s; the log's own machine steps an hour.

    Requests carry the stepped time while it is wrong, as those of a router on the machine do.
    """
    clocks = Clocks(at=0.0)
    keeper = clocks.keeper()
    log = Log()
    rng = np.random.default_rng(7)
    due: list[tuple[float, str]] = []
    for second in range(240):
        if second == step_at:
            clocks.offset_s += HOUR
        if second == back_at:
            clocks.offset_s -= HOUR
        clocks.steady_s += 1
        now = clocks.wall()
        while due and due[0][0] <= second:
            log.reward(now, due.pop(0)[1], value=1)
        for _ in range(5):
            request = log.exposure(now - float(rng.random()) / 2, "v1", epoch=1)
            due.append((second + 4, request))
        log.tick(keeper() if is_kept else now)
    return log


def rewarded(log: Log) -> tuple[int, int]:
    state = run(POLICY, log.lines).state
    (sums,) = state.sums[:1]
    return int(sums.value.sum()), state.rejected.get(Reason.LATE, 0)


@pytest.mark.parametrize("back_at", [90, 1_000])
def test_what_is_counted_hardly_changes_by_a_step_that_is_not_followed(back_at: float) -> None:
    steady = rewarded(told_of(1_000, 1_000, is_kept=True))
    assert steady[1] == 0
    kept = told_of(60, back_at, is_kept=True)
    followed = told_of(60, back_at, is_kept=False)
    # Rewards that are under way at a step carry the time of another clock than their requests.
    under_way = 2 * 5 * 5
    assert rewarded(kept)[1] <= under_way
    if back_at < 240:
        # Requests of the wrong half minute wait for the time that they carry.
        assert steady[0] - rewarded(kept)[0] <= 30 * 5 + under_way
        assert rewarded(followed)[1] > 10 * under_way, "all that came after it was late"


def test_a_replay_of_the_log_says_the_same(tmp_path) -> None:
    lines = told_of(60, 90, is_kept=True).lines
    whole = run(POLICY, lines)
    cut = run(POLICY, lines, cuts=(100, 411, 900))
    assert whole.documents == cut.documents
    assert whole.state.rejected == cut.state.rejected
