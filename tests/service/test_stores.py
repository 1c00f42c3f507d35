"""The same stories where the ledger is in PostgreSQL and the event log in Redis.

Stories are those of other modules, told here with a `serve` of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import until
from tests.service.conftest import Serve, policy_text
from tests.service.test_commands import (  # noqa: F401 - a story told again
    test_a_rollout_by_hand_from_offer_to_replay,
)
from tests.service.test_kill import (  # noqa: F401 - a story told again
    test_twenty_sigkills_lose_and_double_nothing,
)
from tests.stores.postgres import Postgres
from tests.stores.redis import Redis


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[], dict[str, str]]]:
    """Gives the variables of a new log and a new ledger on servers."""
    with Postgres() as postgres, Redis() as redis:
        yield lambda: {
            "UNDERSTUDY_LEDGER": postgres.database(),
            "UNDERSTUDY_STREAM": redis.address(),
        }


@pytest.fixture
def make_serve(
    tmp_path: Path, servers: Callable[[], dict[str, str]]
) -> Iterator[Callable[..., Serve]]:
    made: list[Serve] = []

    def make(**policies: str) -> Serve:
        folder = tmp_path / f"s{len(made)}"
        folder.mkdir()
        made.append(Serve(folder, policies))
        made[-1].stores = servers()
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def live(make_serve: Callable[..., Serve], models: list[int]) -> Serve:
    policy = policy_text(models[0]).replace("  stages:", "  gates: {cooldown: 0s}\n  stages:")
    return make_serve(m=policy).start()


def test_nothing_is_kept_in_the_state_folder_and_two_serves_depose_one_another(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    first = make_serve(m=policy_text(models[0])).start()
    assert not list(first.state.glob("*.db"))
    second = make_serve(m=policy_text(models[0]))
    second.stores = first.stores
    second.start()
    assert first.process is not None
    until("the first has ended", lambda: first.process.poll() is not None, 20)
    assert first.process.returncode != 0
    assert "leads since term 2 began" in first.tail()
    assert "Traceback" not in first.err.read_text()
    assert second.arms()["phase"] == "idle"
    assert second.cli("ledger", "m", "--verify").code == 0


def test_an_address_of_no_known_kind_is_refused_without_showing_it(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=policy_text(models[0]))
    serve.stores = {"UNDERSTUDY_STREAM": "nats://ana:hunter2@host/0"}
    process = serve.spawn()
    assert process.wait(20) == 1
    assert "expected one of sqlite, redis, rediss" in serve.tail()
    assert "hunter2" not in serve.tail()


def test_a_serve_waits_for_stores_that_are_away_when_it_starts(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    with Redis() as redis, Postgres() as postgres:
        serve = make_serve(m=policy_text(models[0]))
        serve.stores = {
            "UNDERSTUDY_LEDGER": postgres.database(),
            "UNDERSTUDY_STREAM": redis.address(),
        }
        redis.kill()
        postgres.stop()
        process = serve.spawn()
        until("it waits for the log", lambda: "waiting" in serve.tail(), 20)
        redis.start()
        until("it waits for the ledger", lambda: "ledger: connection" in serve.tail(), 20)
        postgres.start()
        until("it is ready", lambda: serve.out.read_bytes().endswith(b"\n"), 20)
        assert serve.stop() < 10
        redis.kill()
        process = serve.spawn()
        until("it waits for the log again", lambda: serve.tail().count("waiting") == 3, 20)
        process.terminate()
        assert process.wait(10) == 1
