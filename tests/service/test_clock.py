"""The controller's clock steps an hour, both ways, and is set right again: nothing is late.

`serve` runs under libfaketime, whose offset a file sets; requests and rewards carry the right time,
as those of routers and senders on other machines do.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.processes import until
from tests.service.conftest import Serve, policy_text
from tests.service.test_events import champion, exposure, post, reward

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
HOUR = 3_600


class Stepped(Serve):
    """A `serve` without a router, for Envoy does not start under libfaketime."""

    def command(self, **other: object) -> list[str]:
        return super().command(router="none", **other)

    def step(self, seconds: int) -> None:
        """Set its clock so far from ours."""
        (self.folder / "offset").write_text(f"{seconds:+d}\n")


@pytest.fixture
def stepped(tmp_path: Path, models: list[int]) -> Stepped:
    assert LIBRARY.exists(), "faketime is not installed: run `make services`"
    folder = tmp_path / "clock"
    folder.mkdir()
    text = policy_text(models[0], window="2s\n    grace: 8s")
    serve = Stepped(folder, {"m": text})
    serve.stores = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "offset"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    serve.step(0)
    return serve


def test_an_hour_ahead_and_an_hour_back_and_set_right_each_time(stepped: Stepped) -> None:
    try:
        _told(stepped)
    finally:
        stepped.end()


def _told(serve: Stepped) -> None:
    serve.start()
    sent = 0

    def users_go_on(seconds: float) -> None:
        nonlocal sent
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.time()
            post(serve, exposure(sent, time=now))
            time.sleep(0.1)
            post(serve, reward(sent, time=now + 0.1))
            sent += 1

    def clock() -> str | None:
        health = serve.arms()["health"]
        return health.get("clock")

    users_go_on(2)
    for offset, word in ((HOUR, "3600 s ahead"), (-HOUR, "back")):
        serve.step(offset)
        users_go_on(2)
        said = until("it says that the clock stepped", clock, 10)
        assert word in said
        serve.step(0)
        users_go_on(1)
        until("all is well again", lambda: clock() is None, 10)
    until("every reward is joined", lambda: champion(serve)["rewards"] == sent, 15)
    assert serve.arms()["rejected"].get("late", 0) == 0
    until("every window closes", lambda: champion(serve)["pending"] == 0, 40)
    assert champion(serve)["outcomes"] == sent
