"""Both stores fail over under traffic: nothing is lost, nothing counts twice, and it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.processes import until
from tests.service.conftest import CANARY, Serve, Users, policy_text
from tests.service.test_kill import assert_exact, counted
from tests.stores.postgres_pair import Pair
from tests.stores.redis_sentinel import Watched


def test_a_redis_primary_and_then_a_postgresql_primary_are_killed_under_traffic(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    with Pair() as ledger, Watched(replicas=2) as stream:
        policy = policy_text(models[0], window="4s", stages=CANARY.format(min_duration="60s"))
        serve = make_serve(m=policy)
        serve.stores = {
            "UNDERSTUDY_LEDGER": ledger.database(),
            "UNDERSTUDY_STREAM": stream.address(replicas=1),  # goes on before the other is back
        }
        serve.start()
        serve.offer("v2", models[1])
        until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 10)
        with Users(serve, rate_hz=120, reward_chance=0.3) as users:
            time.sleep(1)
            stream.primary().kill()
            _goes_on(serve)
            ledger.primary.kill()
            time.sleep(1)
            ledger.standby.promote()
            _goes_on(serve)
        assert len(users.acknowledged) > 50
        assert_exact(serve, users)


def _goes_on(serve: Serve) -> None:
    """Wait until requests that are made from now on are counted."""
    before = counted(serve).total()
    until("requests are counted again", lambda: counted(serve).total() > before + 200, 30)
