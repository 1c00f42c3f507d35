"""`serve` killed with SIGKILL at any moment loses and doubles nothing."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.processes import until
from tests.service.conftest import CANARY, Serve, Users, policy_text

KILLS = 20


def logged(serve: Serve) -> Counter[str]:
    """Exposures by arm in the raw access log, read without any of our code."""
    found: Counter[str] = Counter()
    for file in (serve.state / "router").glob("access.log*"):
        for line in file.read_bytes().splitlines():
            fields = line.split(b"\x1f")
            if fields[1] == b"exposure" and fields[2]:
                found[fields[3].decode().rpartition("/")[2]] += 1
    return found


def counted(serve: Serve) -> Counter[str]:
    return Counter({arm["arm"]: arm["exposures"] for arm in serve.arms()["arms"]})


def assert_exact(serve: Serve, users: Users) -> None:
    """Each answer and each reward that was acknowledged counts once, and the ledger verifies."""
    assert users.lost == []
    seen = Counter(arm for _, arm, _ in users.answers)
    until("all exposures are in the log", lambda: counted(serve).total() >= seen.total(), 20)
    time.sleep(1.5)  # what would be counted twice now has its chance to
    assert counted(serve) == seen == logged(serve)
    report = serve.arms()
    assert {k: v for k, v in report["rejected"].items() if v and k != "duplicate"} == {}
    assert sum(arm["rewards"] for arm in report["arms"]) == len(users.acknowledged)
    verified = serve.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out


def is_at_work(serve: Serve) -> bool:
    """Whether serve has taken the control plane's address: it is past its imports."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", serve.xds_port)) == 0


@pytest.mark.timeout(150)
def test_twenty_sigkills_lose_and_double_nothing(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    policy = policy_text(models[0], window="12s", stages=CANARY.format(min_duration="8s"))
    serve = make_serve(m=policy).start()
    serve.offer("v2", models[1])
    until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 10)
    envoy = serve.envoy_pid
    rng = random.Random(20)
    with Users(serve, rate_hz=220, reward_chance=0.3) as users:
        for _ in range(KILLS):
            until("serve is at work", lambda: is_at_work(serve) or rng.random() < 0.02, 20)
            time.sleep(rng.uniform(0, 1.0))
            serve.kill()
            serve.spawn()
        serve.kill()
        serve.start()
    assert serve.envoy_pid == envoy
    assert {status for _, _, status in users.answers} == {200}
    assert {arm for _, arm, _ in users.answers} == {"v1", "v2"}
    assert len(users.acknowledged) > 1000
    assert_exact(serve, users)
