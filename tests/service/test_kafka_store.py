"""A rollout whose event log is in Kafka and whose ledger is in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.processes import until
from tests.service.conftest import CANARY, Serve, Users, policy_text
from tests.service.test_kill import counted, logged
from tests.stores.kafka import Kafka
from tests.stores.postgres import Postgres


@pytest.mark.timeout(150)
def test_a_rollout_survives_kills_of_controller_and_broker_with_every_event_counted_once(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    policy = policy_text(models[0], window="5s", stages=CANARY.format(min_duration="60s"))
    with Postgres() as postgres, Kafka() as kafka:
        serve = make_serve(m=policy)
        serve.stores = {
            "UNDERSTUDY_LEDGER": postgres.database(),
            "UNDERSTUDY_STREAM": kafka.address(),
        }
        serve.start()
        assert not list(serve.state.glob("*.db"))
        serve.offer("v2", models[1])
        until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 20)
        with Users(serve, rate_hz=150, reward_chance=0.3) as users:
            until("exposures arrive", lambda: counted(serve).total() > 50, 20)
            kafka.kill()
            kafka.start()
            serve.kill()
            kafka.kill()
            kafka.start()
            serve.start()
            until("rewards are taken again", lambda: users.acknowledged, 20)
        assert users.lost == []
        assert {status for _, _, status in users.answers} == {200}
        seen = Counter(arm for _, arm, _ in users.answers)
        assert set(seen) == {"v1", "v2"}
        until("all exposures are in the log", lambda: counted(serve).total() >= seen.total(), 20)
        assert serve.cli("promote", "m", "--reason", "we know it").code == 0
        until("v2 is the champion", lambda: serve.get("/v1/models/m")["champion"] == "v2", 30)
        rows = serve.cli("ledger", "m", "-o", "json").json
        assert any("we know it" in str(row) for row in rows)
        assert counted(serve) == seen == logged(serve)
        report = serve.arms()
        assert sum(arm["rewards"] for arm in report["arms"]) == len(users.acknowledged) > 100
        assert {k for k, v in report["rejected"].items() if v} <= {"duplicate"}
        verified = serve.cli("ledger", "m", "--verify")
        assert (verified.code, "all equal" in verified.out) == (0, True)
