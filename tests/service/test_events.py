"""Events over the live API: what is accepted is durable, what is not is kept with its reason."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from tests.processes import until
from tests.service.conftest import Serve, policy_text


def reward(number: int, **other: object) -> dict[str, Any]:
    base = {"type": "reward", "time": time.time(), "model": "m", "id": f"e{number}"}
    return base | {"request_id": f"q{number}", "name": "ok", "value": 1} | other


def exposure(number: int, **other: object) -> dict[str, Any]:
    base = {"type": "exposure", "time": time.time(), "model": "m", "request_id": f"q{number}"}
    return base | {"unit": f"u{number}", "arm": "v1", "epoch": 1, "status": 200} | other


def post(serve: Serve, *events: dict[str, Any]) -> dict[str, Any]:
    body = "\n".join(json.dumps(each) for each in events).encode()
    status, answer = serve.call("POST", "/v1/events", body, "application/x-ndjson")
    assert status == 202, answer
    return dict(answer)


def rows(serve: Serve, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{serve.state / 'ledger.db'}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def champion(serve: Serve) -> dict[str, Any]:
    return next(arm for arm in serve.arms()["arms"] if arm["role"] == "champion")


def test_accepted_events_survive_a_sigkill_right_after_the_answer(serve: Serve) -> None:
    events = [exposure(n) for n in range(50)] + [reward(n) for n in range(30)]
    assert post(serve, *events) == {"accepted": 80, "rejected": []}
    serve.kill()
    serve.start()
    until("rewards are joined", lambda: champion(serve)["rewards"] == 30, 10)
    assert champion(serve)["exposures"] == 50


def test_every_form_of_body_is_accepted(serve: Serve) -> None:
    for number in range(5):
        post(serve, exposure(number))
    data = reward(3)
    cloud = {"specversion": "1.0", "id": "c3", "source": "/t", "type": "dev.understudy.reward"}
    kinds = ("type", "id", "time")
    inner = {name: value for name, value in data.items() if name not in kinds}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    binary = {
        "ce-specversion": "1.0", "ce-id": "c4", "ce-source": "/t", "ce-time": stamp,
        "ce-type": "dev.understudy.reward",
    }  # fmt: skip
    sent: list[tuple[object, str, dict[str, str]]] = [
        (reward(0), "application/json", {}),
        ([reward(1)], "application/json", {}),
        (cloud | {"id": "c2", "time": stamp, "data": inner | {"request_id": "q2"}},
         "application/cloudevents+json", {}),
        ([cloud | {"time": stamp, "data": inner}], "application/cloudevents-batch+json", {}),
        (inner | {"request_id": "q4"}, "application/json", binary),
    ]  # fmt: skip
    for body, media_type, headers in sent:
        status, answer = serve.call("POST", "/v1/events", body, media_type, headers)
        assert (status, answer) == (202, {"accepted": 1, "rejected": []}), body
    until("rewards are joined", lambda: champion(serve)["rewards"] == 5, 10)


def test_what_is_not_for_the_log_is_refused_and_kept(serve: Serve) -> None:
    answer = post(
        serve,
        {"type": "tick", "time": time.time()},
        {"type": "command", "time": time.time(), "model": "m", "command": "promote", "by": "x"},
        exposure(1, time=time.time() + 3600),
        reward(2, model="nobody"),
        {"type": "reward", "model": "m"},
        exposure(3),
    )
    assert answer["accepted"] == 1
    errors = {each["index"]: each["error"] for each in answer["rejected"]}
    assert set(errors) == {0, 1, 2, 3, 4}
    assert "made by the controller" in errors[0]
    assert "POST /v1/models" in errors[1]
    assert "ahead of our clock" in errors[2]
    assert "'nobody', expected one of m" in errors[3]
    kept = rows(serve, "select detail, event from intake_rejections order by id")
    assert [detail for detail, _ in kept] == [errors[n] for n in range(5)]
    assert '"nobody"' in kept[3][1]


def test_unusable_events_are_counted_by_reason_and_kept_with_their_text(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    text = policy_text(models[0], window="1s").replace(
        "    window: 1s\n", "    window: 1s\n    grace: 1s\n"
    )
    serve = make_serve(m=text).start()
    post(serve, *(exposure(n) for n in range(4)), reward(0), reward(0), exposure(1))
    post(serve, reward(1, id="far", value=7), reward(99, id="stray"))
    until("the window closes", lambda: champion(serve)["outcomes"] == 4, 15)
    post(serve, reward(2, id="tardy", time=time.time() + 5))
    wanted = {"late", "orphan", "duplicate", "out_of_range"}
    until(str(wanted), lambda: wanted <= {k for k, v in serve.arms()["rejected"].items() if v}, 15)
    rejected = serve.arms()["rejected"]
    assert (rejected["duplicate"], rejected["out_of_range"], rejected["orphan"]) == (2, 1, 1)
    kept = dict(rows(serve, "select reason, event from dead_letters"))
    assert '"far"' in kept["out_of_range"]
    assert '"stray"' in kept["orphan"]
    assert '"tardy"' in kept["late"]


def test_several_models_behind_one_listener(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    texts = {
        "a": policy_text(models[0], name="a", prefix="/a/", unit="{header: x-user-id}"),
        "b": policy_text(models[2], name="b", prefix="/b/", unit="{header: x-device}"),
        "c": policy_text(models[4], name="c", prefix="/c/", unit=""),
    }
    serve = make_serve(**texts).start()
    for name, port in (("a", models[1]), ("b", models[3]), ("c", models[5])):
        serve.offer("v2", port, model=name)
    until("in force", lambda: all(serve.arms(n)["arms"][-1]["weight_in_force"] for n in "abc"), 15)
    for name, header in (("a", "x_user_id"), ("b", "x_device")):
        by_unit = [
            {serve.ask(f"/{name}/", **{header: f"u{n}"})[1]["x-understudy-arm"] for _ in range(2)}
            for n in range(60)
        ]
        assert all(len(arms) == 1 for arms in by_unit)
        assert {next(iter(arms)) for arms in by_unit} == {"v1", "v2"}
    same = [serve.ask("/c/", x_user_id="u1")[1]["x-understudy-arm"] for _ in range(120)]
    assert set(same) == {"v1", "v2"}  # P(missing one) at 20 %: 0.8^120 = 2e-12
    until("counted", lambda: sum(a["exposures"] for a in serve.arms("c")["arms"]) == 120, 10)
    assert sum(a["exposures"] for a in serve.arms("a")["arms"]) == 120
    status, _ = serve.ask("/nobody/")
    assert status == 404
