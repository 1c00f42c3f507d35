"""A disk that is full: nothing that was acknowledged is lost, and it goes on by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import until
from tests.service.conftest import Serve, Users, policy_text
from tests.service.test_events import champion, exposure, post, reward
from tests.service.test_pressure import metric
from tests.stores.disk import fill, small_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


@pytest.fixture
def cramped(tmp_path: Path, models: list[int]) -> Iterator[Serve]:
    """A `serve` whose state folder is a small disk of its own."""
    folder = tmp_path / "cramped"
    folder.mkdir()
    serve = Serve(folder, {"m": policy_text(models[0])})
    with small_disk(serve.state, 16 << 10):
        try:
            yield serve.start()
        finally:
            serve.end()


def test_intake_is_503_traffic_flows_and_all_goes_on_when_there_is_room(cramped: Serve) -> None:
    serve = cramped
    acknowledged = 0
    for number in range(20):
        post(serve, exposure(number), reward(number))
        acknowledged += 1
    split = serve.arms()["epoch"]
    with Users(serve, rate_hz=60) as users:
        ballast = fill(serve.state)
        seen = set()
        for number in range(20, 60):
            events = [exposure(number), reward(number), {"type": "nothing"}]
            status, answer = serve.call("POST", "/v1/events", events)
            seen.add(status)
            if status == 202:
                acknowledged += 1
            else:
                assert "disk" in answer["detail"]
            time.sleep(0.05)
            fill(serve.state)  # also what a checkpoint has freed
        assert seen - {202} == {503}
        assert serve.get("/healthz")["status"] == "alive"
        assert serve.call("GET", "/readyz")[0] == 503
        assert {status for _, _, status in users.answers[-60:]} == {200}, "traffic flows on"
        ballast.unlink()
        until("ready", lambda: serve.get("/healthz") and serve.call("GET", "/readyz")[0] == 200, 20)
        after = len(users.answers)
        until("users go on", lambda: len(users.answers) > after + 60, 10)
    assert users.lost == []
    post(serve, exposure(100), reward(100))
    acknowledged += 1
    until("what was acknowledged counts", lambda: champion(serve)["rewards"] == acknowledged, 20)
    assert serve.arms()["epoch"] == split
    # Requests whose line Envoy could not write have no exposure; no line counts twice.
    assert acknowledged < champion(serve)["exposures"] <= len(users.answers) + acknowledged
    assert metric(serve, "understudy_intake_unkept_total") == 0
    assert serve.cli("ledger", "m", "--verify").code == 0
