"""Events that are lost on their way are no evidence against the arm that lost them."""

from __future__ import annotations

import numpy as np
import pytest

from controller.core.model import Verdict
from tests.core.logs import CANARY, Log, fold, policy, run

STAGE = {"canary": CANARY["canary"] | {"min_outcomes": 1_000_000, "min_duration": "1h"}}


@pytest.mark.parametrize("arm", ["v1", "v2"])
@pytest.mark.parametrize("share", ["50%", "10%"])
@pytest.mark.parametrize("lost", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("fails", [0.0, 0.02])
def test_an_arm_whose_exposures_are_lost_is_held_and_neither_rolled_back_nor_promoted(
    arm, share, lost, fails
):
    # Both arms answer alike; of one of them a part never reaches the log, nor do its rewards.
    used = policy({"canary": STAGE["canary"] | {"steps": [share]}})
    rng = np.random.default_rng(int(100 * lost) + int(1_000 * fails))
    log = Log()
    log.tick(0)
    log.version(1)
    log.tick(2)
    told = run(used, log.lines)
    candidate = told.state.split.weights["v2"] / 1e4
    for now in np.arange(5.0, 400.0, 5.0):
        begin = len(log.lines)
        times = np.sort(rng.uniform(now, now + 5, 200))
        clicks = []
        for time in times.tolist():
            drawn = "v2" if rng.random() < candidate else "v1"
            status = 500 if rng.random() < fails else 200
            clicked = rng.random() < 0.3
            if now >= 60 and drawn == arm and rng.random() < lost:
                continue
            request = log.exposure(time, drawn, epoch=2, status=status)
            if clicked:
                clicks.append((min(time + 1, now + 5), request))
        for time, request in clicks:
            log.reward(time, request)
        log.tick(float(now + 5))
        fold(used, told, log.lines[begin:])
        if told.state.phase == "holding":
            break
    assert {d.verdict for d in told.decisions} <= {Verdict.ADVANCE, Verdict.HOLD}
    assert told.state.split.weights["v2"] / 1e4 == candidate
    if lost > 0.1 and share == "50%":
        assert told.state.said.cause == "sample_ratio"
