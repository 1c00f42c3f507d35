"""Rollouts of several candidates, segments and guardrails, through the real router."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self
from urllib.request import urlopen

import pytest

from tests.processes import until
from tests.service.conftest import Serve, policy_text, run

AB = """
    - ab:
        share: 60%
        min_effect: 20%
        min_duration: 1h
        max_duration: 2h
"""
THOMPSON = """
    - thompson:
        floor: 2%
        update_every: 1s
        half_life: 1h
        min_outcomes: 100000
        segments: {header: x-country, max: 2}
"""
ERRORS = "[{metric: error_rate, max_increase: 1%}]"
CANARY = """
    - canary: {steps: [50%], min_duration: 1h, min_outcomes: 50, margin: 10%, max_duration: 2h}
"""


def text(
    models: list[int], stages: str, *, on_new: str = "queue", guardrails: str = "", **other: str
) -> str:
    given = {"window": "3s"} | other
    spec = f"  candidates: {{on_new: {on_new}}}\n  gates: {{cooldown: 0s}}\n"
    spec += f"  guardrails: {guardrails}\n" if guardrails else ""
    written = policy_text(models[0], stages=stages, **given)
    return written.replace("    event: ok\n", "    event: ok\n    grace: 1s\n").replace(
        "  stages:", spec + "  stages:"
    )


@dataclass
class Visitors:
    """Traffic whose rewards depend on arm and segment; each visitor comes once.

    chances  (segment, arm) -> event -> probability
    """

    serve: Serve
    chances: Callable[[str, str], Mapping[str, float]]
    segments: tuple[str, ...] = ("",)
    rate_hz: float = 150.0
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ending = threading.Event()
        self._numbers = count()
        self._threads = [threading.Thread(target=self._go, args=(n,), daemon=True) for n in (0, 1)]
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for each in self._threads:
            each.join(20)
        assert self.faults == []

    def _go(self, seed: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.serve.router_port, timeout=10)
        with closing(connection):
            self._visit(connection, seed)

    def _visit(self, connection: http.client.HTTPConnection, seed: int) -> None:
        rng = random.Random(seed)
        owed: list[dict[str, Any]] = []
        due = time.monotonic()
        while not self._ending.is_set():
            due += 2 / self.rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            segment = rng.choice(self.segments)
            headers = {"x-user-id": f"{seed}-{next(self._numbers)}"}
            headers |= {"x-country": segment} if segment else {}
            try:
                connection.request("GET", "/m/x", headers=headers)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as exc:
                self.faults.append(repr(exc))
                return
            request, arm = answer.headers["x-request-id"], answer.headers["x-understudy-arm"]
            self.seen[segment, arm] += 1
            for name, chance in self.chances(segment, arm).items():
                if rng.random() < chance:
                    owed.append(
                        {"type": "reward", "time": time.time(), "model": "m", "name": name,
                         "id": f"{name}-{request}", "request_id": request, "value": 1}
                    )  # fmt: skip
            if len(owed) >= 20 and self._posted(owed):
                owed = []

    def _posted(self, owed: list[dict[str, Any]]) -> bool:
        try:
            return post(self.serve, *owed)
        except (OSError, http.client.HTTPException):
            return False  # serve is away: the router is not, and rewards are sent again


def post(serve: Serve, *events: dict[str, Any]) -> bool:
    body = "\n".join(json.dumps(each) for each in events).encode()
    status, answer = serve.call("POST", "/v1/events", body, "application/x-ndjson")
    return status == 202 and answer == {"accepted": len(events), "rejected": []}


def always(**chances: float) -> Callable[[str, str], Mapping[str, float]]:
    return lambda _segment, _arm: chances


def weights(serve: Serve) -> dict[str, int]:
    return {arm["arm"]: arm["weight"] for arm in serve.arms()["arms"] if arm["weight"]}


def is_in_force(serve: Serve) -> bool:
    return all(arm["weight"] == arm["weight_in_force"] for arm in serve.arms()["arms"])


def is_true(serve: Serve) -> None:
    """The ledger is what the log leads to, and a replay of the exported log decides the same."""
    verified = serve.cli("ledger", "m", "--verify")
    assert (verified.code, "all equal" in verified.out) == (0, True), verified.out
    log = serve.folder / "log.jsonl"
    log.write_text(serve.cli("events", "m").out)
    told = run("replay", serve.policies / "m.yaml", "--events", log, "-o", "json").out
    replayed = [json.loads(line) for line in told.splitlines()]
    assert replayed[-1]["final"] is True
    written = serve.cli("ledger", "m", "-o", "json").json
    assert written[: len(replayed) - 1] == replayed[:-1]
    assert len(replayed) > 3


def decisions(serve: Serve) -> list[dict[str, Any]]:
    return list(serve.get("/v1/models/m/decisions")["decisions"])


def rolled_back(serve: Serve) -> dict[str, Any]:
    return next(row for row in decisions(serve) if row["verdict"] == "roll_back")


def metrics(serve: Serve) -> str:
    with urlopen(f"http://127.0.0.1:{serve.api_port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples(page: str, name: str) -> dict[str, float]:
    """Labels -> value of one metric."""
    found = [line.rpartition(" ") for line in page.splitlines() if line.startswith(f"{name}{{")]
    return {labels.removeprefix(name): float(value) for labels, _, value in found}


@pytest.mark.timeout(120)
def test_two_candidates_share_a_test_and_leave_it_one_by_one(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=text(models, AB, on_new="join")).start()
    idle = serve.cli("explain", "m")
    assert (idle.code, "v1 serves everything; no candidate" in idle.out) == (0, True)
    assert serve.get("/v1/models/m/explain")["conditions"] == []
    serve.offer("v2", models[1])
    until("v2 is tested", lambda: weights(serve) == {"v1": 4000, "v2": 6000}, 10)
    serve.offer("v3", models[2])
    until("v3 has joined", lambda: weights(serve) == {"v1": 4000, "v2": 3000, "v3": 3000}, 10)
    until("the split of three", lambda: is_in_force(serve), 10)
    with Visitors(serve, always(ok=0.5)) as visitors:
        until("traffic", lambda: len(visitors.seen) == 3 and visitors.seen.total() > 800, 30)
        until("outcomes of all three", lambda: all(arm["mean"] for arm in serve.arms()["arms"]), 20)
        table = serve.cli("status", "m")
        assert table.code == 0
        assert all(name in table.out for name in ("v1", "v2", "v3"))
        assert serve.get("/v1/models/m")["candidates"] == ["v2", "v3"]

        explained = serve.cli("explain", "m", "-o", "json").json
        assert {one["arm"] for one in explained["candidates"]} == {"v2", "v3"}
        claims = {
            row["candidate"]: row for row in explained["conditions"] if row["name"] == "better"
        }
        # Of two candidates one is picked: each claim needs twice the evidence. STATS.md: K / alpha.
        assert {name: row["threshold"] for name, row in claims.items()} == {"v2": 40, "v3": 40}
        shown = serve.cli("explain", "m").out
        assert all(f"{name}  " in shown for name in ("v1", "v2", "v3"))
        assert max(map(len, shown.splitlines())) <= 80
        page = metrics(serve)
        assert len(samples(page, "understudy_lift")) >= 2, page
        assert samples(page, "understudy_evidence_surplus"), page

        unclear = serve.cli("promote", "m", "--reason", "hurry")
        assert unclear.code == 1
        assert "which of v2, v3" in unclear.err
        nobody = serve.cli("rollback", "m", "--candidate", "v9", "--reason", "typo")
        assert (nobody.code, "v9" in nobody.err) == (1, True)
        assert serve.cli("rollback", "m", "--candidate", "v3", "--reason", "no").code == 0
        assert weights(serve) == {"v1": 4000, "v2": 6000}
        assert serve.arms()["phase"] == "testing"
        until("the split without v3", lambda: is_in_force(serve), 10)
        visitors.seen.clear()
        until("traffic without v3", lambda: visitors.seen.total() > 150, 20)
        assert {arm for _, arm in visitors.seen} == {"v1", "v2"}
    assert serve.cli("promote", "m", "--candidate", "v2", "--reason", "yes").code == 0
    until("v2 is the champion", lambda: serve.get("/v1/models/m")["champion"] == "v2", 15)
    joined = next(row for row in decisions(serve) if row["cause"] == "joined")["number"]
    for number, word in ((joined, "v3 joins v2 at 30 %"), (1, "v1 serves everything")):
        one = serve.cli("explain", "m", "--decision", number)
        assert word in one.out, one.out
        assert (
            serve.cli("explain", "m", "--decision", number, "-o", "json").json["number"] == number
        )
    is_true(serve)


@pytest.mark.timeout(150)
def test_segments_have_their_own_split_and_a_stranger_has_the_pooled_one(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    serve = make_serve(m=text(models, THOMPSON)).start()
    serve.offer("v2", models[1])
    until("the bandit", lambda: serve.arms()["phase"] == "exploring", 10)
    # Less than half of all: where rewards are the rule, those of open windows do not count yet.
    liked = {("de", "v2"): 0.4, ("fr", "v1"): 0.4}

    def chances(segment: str, arm: str) -> Mapping[str, float]:
        return {"ok": liked.get((segment, arm), 0.03)}

    with Visitors(serve, chances, segments=("de", "fr"), rate_hz=200) as visitors:

        def learnt() -> bool:
            own = serve.arms()["segments"]
            de, fr = own.get("de", {}), own.get("fr", {})
            return bool(de.get("v2", 0) >= 9500 and fr.get("v1", 0) >= 9500)

        until(f"each country has its own split: {serve.arms()}", learnt, 60)
        until("it is in force", lambda: is_in_force(serve), 10)
        visitors.seen.clear()
        until("traffic by segment", lambda: visitors.seen.total() > 800, 30)
        seen = visitors.seen
        for segment, arm in (("de", "v2"), ("fr", "v1")):
            share = seen[segment, arm] / sum(n for (s, _), n in seen.items() if s == segment)
            assert share > 0.9, seen  # 5 % of 400 are other arms; one in ten is 4.6 sigma away
        page = metrics(serve)
        assert samples(page, "understudy_p_best"), page
        assert any(row["p_best"] for row in serve.get("/v1/models/m/explain")["candidates"])
    # Whatever the two countries think: somebody from elsewhere is routed by the pooled weights.
    units = [f"x{i}" for i in range(100)]

    def routed() -> bool:
        """Whether router and API give strangers the same arms, under one split."""
        before = serve.arms()["epoch"] if is_in_force(serve) else None
        status, answer = serve.call(
            "POST", "/v1/models/m/assignments", {"units": units, "segment": "xx"}
        )
        assert status == 200
        rows, pooled = answer["assignments"], weights(serve)
        arms = [serve.ask(x_user_id=u, x_country="xx")[1]["x-understudy-arm"] for u in units]
        if {before, serve.arms()["epoch"]} != {row["epoch"] for row in rows}:
            return False
        assert arms == [row["arm"] for row in rows]
        assert all(row["propensity"] == pytest.approx(pooled[row["arm"]] / 1e4) for row in rows)
        return set(arms) == set(pooled)

    until("strangers are routed by the pooled split", routed, 30)
    assert set(serve.arms()["segments"]) == {"de", "fr"}
    lines = [json.loads(line) for line in serve.cli("events", "m").out.splitlines()]
    last = [line for line in lines if line["type"] == "split"][-1]
    assert set(last["segments"]) == {"de", "fr"}
    assert last["segments"]["de"]["v2"] > 9000 > last["segments"]["fr"]["v2"]
    named = Counter(line.get("segment") for line in lines if line["type"] == "exposure")
    assert set(named) >= {"de", "fr", "xx"}
    is_true(serve)


@pytest.mark.timeout(120)
def test_a_slow_candidate_is_rolled_back_by_the_quantile_that_moved(
    make_serve: Callable[..., Serve], models: list[int], tell: Callable[[int, int, float], None]
) -> None:
    slow = "[{metric: latency, quantile: 0.9, max_increase: 50%}]"
    serve = make_serve(m=text(models, CANARY, guardrails=slow)).start()
    tell(models[3], 200, 0.02)
    with Visitors(serve, always(ok=0.5), rate_hz=200):
        time.sleep(2)
        serve.offer("v2", models[3])
        until("v2 is too slow", lambda: serve.arms()["phase"] == "rolled_back", 60)
    end = rolled_back(serve)
    assert end["cause"] == "latency"
    assert "p50" in end["reason"] or "p75" in end["reason"] or "p90" in end["reason"]
    shown = serve.cli("explain", "m", "--decision", end["number"])
    assert "latency p" in shown.out
    assert " ms" in shown.out
    is_true(serve)


@pytest.mark.timeout(150)
def test_a_second_reward_rolls_back_and_evidence_lives_through_a_sigkill(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    refunds = "[{metric: error_rate, max_increase: 1%}, "
    refunds += "{metric: reward, event: refund, max_increase: 5%, window: 2s}]"
    serve = make_serve(m=text(models, CANARY, guardrails=refunds)).start()
    known = [
        {"type": "covariate", "time": time.time(), "model": "m", "unit": f"{seed}-{i}",
         "value": (i % 7) / 2}
        for seed in (0, 1) for i in range(4000)
    ]  # fmt: skip
    assert all(post(serve, *known[i : i + 1000]) for i in range(0, len(known), 1000))

    def chances(_: str, arm: str) -> Mapping[str, float]:
        return {"ok": 0.6, "refund": 0.1 if arm == "v1" else 0.15 + bad}

    bad = 0.0
    with Visitors(serve, chances) as visitors:
        serve.offer("v2", models[1])
        until("both arms have traffic", lambda: len(visitors.seen) == 2, 15)

        def judged() -> int:
            found = serve.get("/v1/models/m/explain")["candidates"]
            return int(found[0]["n"]) if found else 0

        until("outcomes of v2", lambda: judged() > 100, 30)
        serve.kill()
        serve.start()
        assert judged() > 100  # from the snapshot and the log: nothing begins anew
        rejected = serve.arms()["rejected"]
        assert not {name: n for name, n in rejected.items() if n and name != "duplicate"}
        guards = {row["metric"]: row for row in serve.get("/v1/models/m/explain")["guardrails"]}
        assert guards["reward"]["detail"] == "refund"
        bad = 0.6
        until("v2 is sent back too often", lambda: serve.arms()["phase"] == "rolled_back", 60)
    end = rolled_back(serve)
    assert (end["cause"], "refund" in end["reason"]) == ("reward_guardrail", True)
    assert serve.arms()["health"]["sample_ratio"] == "ok"
    is_true(serve)


@pytest.mark.timeout(90)
def test_a_guardrail_that_comes_or_goes_between_two_starts_holds_the_rollout(
    make_serve: Callable[..., Serve], models: list[int]
) -> None:
    refund = "[{metric: reward, event: refund, max_increase: 5%, window: 2s}]"
    with_one, without = text(models, CANARY, guardrails=refund), text(models, CANARY)
    serve = make_serve(m=without).start()
    serve.offer("v2", models[1])
    with Visitors(serve, always(ok=0.5, refund=0.1)):
        for policy, phase in (
            (without, "ramping"),
            (with_one, "holding"),
            (without, "ramping"),
        ):
            serve.kill()  # Envoy lives on, and is found again
            (serve.policies / "m.yaml").write_text(policy)
            serve.start()
            assert serve.cli("status", "m", "--wait", phase, "--timeout", "10s").code == 0
            time.sleep(2)
            assert "trouble" not in serve.arms()["health"], serve.arms()["health"]
            if phase == "holding":
                shown = serve.cli("explain", "m").out
                assert "the guardrails of the policy were edited" in " ".join(shown.split())
    assert serve.cli("rollback", "m", "--reason", "enough").code == 0
    verified = serve.cli("ledger", "m", "--verify")
    assert verified.code == 0, verified.out
    status = serve.cli("status", "m", "-o", "json").json
    assert status["phase"] in {"rolling_back", "rolled_back"}


@pytest.mark.timeout(60)
def test_a_shadow_stage_explains_what_it_saw(
    make_serve: Callable[..., Serve], models: list[int], tell: Callable[[int, int, float], None]
) -> None:
    stages = "\n    - shadow: {duration: 1h, percent: 100%}" + AB
    serve = make_serve(m=text(models, stages, guardrails=ERRORS)).start()
    serve.offer("v2", models[4])
    until("the shadow", lambda: serve.arms()["phase"] == "shadowing", 10)
    before = serve.get("/v1/models/m/explain")
    assert [row["cause"] for row in before["conditions"]] == ["shadow_errors"]
    tell(models[4], 500, 0.0)
    with Visitors(serve, always(ok=0.5)) as visitors:
        until("copies fail", lambda: serve.arms()["phase"] == "rolled_back", 40)
    assert {arm for _, arm in visitors.seen} == {"v1"}
    end = rolled_back(serve)
    assert end["cause"] == "shadow_errors"
    shown = serve.cli("explain", "m", "--decision", end["number"])
    assert "errors mirrored requests" in shown.out
    is_true(serve)
