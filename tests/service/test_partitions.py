"""A hot model's partitions, folded by processes that are killed: all is counted, once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import until
from tests.service.conftest import Serve, Users, policy_text
from tests.service.test_kill import counted, is_at_work, logged
from tests.stores.postgres import Postgres
from tests.stores.redis import Redis

KILLS = 4
STAGES = """
    - canary: {steps: [50%], min_duration: 3s, min_outcomes: 20, margin: 20%, budget: 100%}
"""


@pytest.fixture(scope="module", params=["sqlite", "servers"])
def stores(request: pytest.FixtureRequest) -> Iterator[Callable[[], dict[str, str]]]:
    """Gives the variables of a new log and a new ledger: files, or on servers."""
    if request.param == "sqlite":
        yield dict
        return
    with Postgres() as postgres, Redis() as redis:
        yield lambda: {
            "UNDERSTUDY_LEDGER": postgres.database(),
            "UNDERSTUDY_STREAM": redis.address(),
        }


def policy(port: int) -> str:
    text = policy_text(port, unit="", window="6s", stages=STAGES)
    text = text.replace("    window: 6s", "    window: 6s\n    grace: 10s")
    return text.replace("spec:\n", "spec:\n  partitions: 3\n")


def workers_of(serve: Serve) -> list[int]:
    """The processes that fold partitions."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = each.read_bytes().split(b"\0")
            if b"worker" in words and str(serve.state).encode() in words:
                found.append(int(each.parent.name))
    return found


def killed(serve: Serve, rng: random.Random) -> None:
    """SIGKILL to a worker, or to the controller, which takes its workers along."""
    pids = workers_of(serve)
    if pids and rng.random() < 0.7:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
        return
    serve.kill()
    serve.spawn()


def rows(serve: Serve) -> list[dict[str, object]]:
    return serve.arms()["health"].get("partitions", [])


def rewards(serve: Serve) -> int:
    return sum(arm["rewards"] for arm in serve.arms()["arms"])


@pytest.mark.timeout(170)
def test_killed_workers_and_leaders_lose_and_double_nothing_and_the_better_one_is_promoted(
    make_serve: Callable[..., Serve], models: list[int], stores: Callable[[], dict[str, str]]
) -> None:
    serve = make_serve(m=policy(models[0]))
    serve.stores = stores() | {"UNDERSTUDY_WORKERS": "2"}
    serve.start()
    until("all are folded", lambda: all(row["holder"] for row in rows(serve)) and rows(serve), 40)
    assert len({row["holder"] for row in rows(serve)}) <= 2
    serve.offer("v2", models[1])
    until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 10)
    rng = random.Random(7)
    with Users(serve, rate_hz=220, header=None, reward_chance=0.5) as users:
        for _ in range(KILLS):
            until("serve is at work", lambda: is_at_work(serve), 40)
            time.sleep(rng.uniform(0.3, 1.5))
            killed(serve, rng)
        until("serve is at work", lambda: is_at_work(serve), 40)
        serve.kill()
        serve.start()
        try:
            until("v2 is promoted", lambda: serve.arms()["phase"] == "promoted", 60)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {serve.arms()}\n{serve.tail()}") from exc
    assert users.lost == []
    seen = Counter(arm for _, arm, _ in users.answers)
    assert set(seen) == {"v1", "v2"}
    until("all exposures are counted", lambda: counted(serve).total() >= seen.total(), 30)
    until("all rewards are counted", lambda: rewards(serve) >= len(users.acknowledged), 30)
    time.sleep(1.5)  # what would be counted twice now has its chance to
    assert counted(serve) == seen == logged(serve)
    assert rewards(serve) == len(users.acknowledged) > 500
    report = serve.arms()
    aside = {"duplicate", "repeated"}  # sent again, told again: neither counts
    assert {k: v for k, v in report["rejected"].items() if v and k not in aside} == {}
    assert len(workers_of(serve)) == 2
    verified = serve.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out
    serve.stop()
    until("the workers have ended", lambda: workers_of(serve) == [], 5)
