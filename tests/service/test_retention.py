"""A `serve` whose log forgets: it goes on, and says what it can still derive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.processes import until
from tests.service.conftest import CANARY, Serve, Users, policy_text


def test_a_log_is_trimmed_and_verify_says_what_lies_before_it(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    policy = policy_text(models[0], window="1s", stages=CANARY.format(min_duration="60s"))
    serve = make_serve(m=policy)
    serve.stores = {"UNDERSTUDY_RETAIN": "2s", "UNDERSTUDY_KEEP_REJECTED": "20"}
    serve.start()
    serve.offer("v2", models[1])
    until("the rollout begins", lambda: serve.arms()["phase"] == "ramping", 10)
    nobody = [
        {"type": "reward", "time": time.time(), "model": "m", "request_id": f"no-{i}",
         "name": "ok", "value": 7, "id": f"no-{i}"}
        for i in range(50)
    ]  # fmt: skip
    with Users(serve, rate_hz=100):
        assert serve.call("POST", "/v1/events", nobody)[1]["accepted"] == 50
        until("they are refused", lambda: serve.arms()["rejected"].get("out_of_range") == 50, 10)
        for command in ("pause", "resume", "pause", "resume"):
            assert serve.cli(command, "m", "--reason", "a snapshot").code == 0
            time.sleep(1.5)
    exposures = sum(arm["exposures"] for arm in serve.arms()["arms"])
    dropped = serve.arms()["dropped"]
    assert 28 <= dropped["out_of_range"] <= 30
    serve.stop()
    whole = serve.cli("events", "m").out.splitlines()
    serve.start()  # the first turn trims
    until("it is trimmed", lambda: len(serve.cli("events", "m").out.splitlines()) < len(whole), 10)
    assert sum(arm["exposures"] for arm in serve.arms()["arms"]) >= exposures
    kept = serve.cli("events", "m").out.splitlines()
    assert json.loads(kept[0])["time"] > json.loads(whole[0])["time"]
    verified = serve.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out
    assert "lie before the beginning of the log" in verified.out
    letters = serve.cli("events", "m", "--rejected")
    assert len(letters.out.splitlines()) == 50 - dropped["out_of_range"]
    assert "older ones are kept no more" in letters.err
    serve.offer("v3", models[2])
    until("it goes on", lambda: "v3" in serve.arms()["queue"], 10)
