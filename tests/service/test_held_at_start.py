"""A model that cannot be folded when the controller starts holds nobody but itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress

from tests.processes import until
from tests.service.conftest import Serve, policy_text


def answers(serve: Serve) -> bool:
    with suppress(OSError):
        return bool(serve.get("/v1/models/m/arms"))
    return False


def test_a_model_whose_log_was_lost_is_held_and_the_other_goes_on(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    other = policy_text(models[1]).replace("name: m", "name: n").replace("/m/", "/n/")
    serve = make_serve(m=policy_text(models[0]), n=other).start()
    serve.stop()
    with closing(sqlite3.connect(serve.state / "events.db", isolation_level=None)) as log:
        log.execute("DELETE FROM block WHERE model = 'n'")
    serve.spawn()
    until("the API answers", lambda: answers(serve), 30)
    assert [each["model"] for each in serve.get("/v1/models")["models"]] == ["m"]
    assert "restore both from one backup" in serve.get("/v1/models")["held"]["n"]
    status, problem = serve.call("GET", "/v1/models/n/arms")
    assert (status, problem["type"]) == (503, "urn:understudy:problem:held")
    assert "the log is older than the ledger" in problem["detail"]
    assert serve.cli("pause", "m", "--reason", "it can be steered").code == 0
    said = serve.cli("status")
    assert said.code == 0
    assert "m: paused" in said.out
    assert "n: HOLDING: Permanent: the log of n ends at event 0" in said.out
    for model in "mn":  # its split stays
        until(f"{model} is routed", lambda: serve.ask(f"/{model}/x")[0] == 200, 10)  # noqa: B023
    assert serve.call("GET", "/readyz")[0] == 503
