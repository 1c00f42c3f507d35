"""Webhooks on a real HTTP server: told once on entering a phase, again until they answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from controller import notify
from controller.core.model import Decision, Phase, Verdict
from controller.core.policy import parse
from controller.notify import Notifier, idempotency_key
from tests.core.policy_texts import document, written


class Hook:
    """A webhook; answers as `answers` say, one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], dict]] = []
        self.answers: list[int] = [204]
        self.headers: dict[str, str] = {}
        self.delay_s = 0.0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.path, dict(self.headers), json.loads(body)))
                time.sleep(hook.delay_s)
                code = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
                self.send_response(code)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=secret"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


def policy(*webhooks: str, on=("promoted", "rolled_back", "holding")):
    rows = [{"webhook": each, "on": list(on)} for each in webhooks]
    return parse(written(document(notify=rows)), "file.yaml")


def decision(number=2, phase=Phase.PROMOTED, **changes) -> Decision:
    made = Decision(
        number=number,
        time=time.time(),
        offset=40 + number,
        model="digits",
        rollout="digits-1",
        candidate="v2",
        stage="canary",
        step=1,
        phase=phase,
        verdict=Verdict.PROMOTE,
        cause="not_worse",
        reason="v2 is not worse than v1",
        epoch=18,
        weights={"v2": 10_000},
        evidence={"lift": float("nan")},
        evidence_digest="",
        policy_digest="",
        seed=1,
    )
    return replace(made, **changes)


class Run:
    """A notifier that knows a history, and what it slept."""

    def __init__(self, *before: Decision) -> None:
        self.before = {each.number: each for each in before}
        self.slept: list[float] = []
        self.notifier = Notifier(
            previous=lambda model, number: self.before.get(number),
            clock=time.time,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def tell(self, of, *decisions, grace_s=10.0):
        async def run() -> None:
            for each in decisions:
                self.notifier.told(of, [each])
                self.before[each.number] = each
            await self.notifier.stop(grace_s)

        asyncio.run(run())
        return self.notifier.status()


def test_webhook_is_told_of_the_decision_with_its_numbers(hook):
    status = Run().tell(policy(hook.url), decision())
    ((path, headers, body),) = hook.got
    assert path == "/hook?token=secret"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == idempotency_key(decision(), hook.url)
    assert headers["User-Agent"].startswith("understudy/")
    assert (body["model"], body["phase"], body["decision"]) == ("digits", "promoted", 2)
    assert body["sentence"] == "v2 is not worse than v1"
    assert body["weights"] == {"v2": 10_000}
    assert body["evidence"] == {"lift": None}
    assert status["sent"] == 1
    assert status["trouble"] is None


@pytest.mark.parametrize("phase", list(Phase))
def test_webhook_is_told_of_the_phases_that_it_asked_for(hook, phase):
    Run().tell(policy(hook.url, on=["rolled_back"]), decision(phase=phase))
    assert len(hook.got) == (phase is Phase.ROLLED_BACK)


def test_webhook_is_told_when_a_phase_is_entered_and_not_while_it_lasts(hook):
    holding = [decision(n, Phase.HOLDING, cause=f"c{n}") for n in (2, 3)]
    ramp = decision(4, Phase.RAMPING)
    Run(decision(1, Phase.RAMPING)).tell(
        policy(hook.url), *holding, ramp, decision(5, Phase.HOLDING)
    )
    assert [body["decision"] for *_, body in hook.got] == [2, 5]


def test_after_a_restart_the_ledger_says_whether_a_phase_was_entered(hook):
    Run(decision(1, Phase.PROMOTED)).tell(policy(hook.url), decision(2, Phase.PROMOTED))
    assert hook.got == []


def test_old_decision_is_not_told(hook):
    Run().tell(policy(hook.url), decision(time=time.time() - notify.FRESH_S - 5))
    assert hook.got == []


@pytest.mark.parametrize("code", [500, 502, 503, 429, 408])
def test_answer_that_may_pass_is_tried_again_later_and_later_under_the_same_key(hook, code):
    hook.answers = [code, code, code, 200]
    run = Run()
    status = run.tell(policy(hook.url), decision())
    assert len(hook.got) == 4
    assert len({headers["Idempotency-Key"] for _, headers, _ in hook.got}) == 1
    assert run.slept == [1.0, 2.0, 4.0]
    assert (status["sent"], status["failed"], status["trouble"]) == (1, 0, None)


def test_webhook_says_when_it_wants_the_next_attempt(hook):
    hook.answers, hook.headers = [429, 200], {"Retry-After": "7"}
    run = Run()
    run.tell(policy(hook.url), decision())
    assert run.slept == [7.0]


@pytest.mark.parametrize("code", [400, 404, 410, 301])
def test_answer_that_will_not_pass_ends_it_and_is_shown_without_the_secret(hook, code):
    hook.answers = [code]
    run = Run()
    status = run.tell(policy(hook.url), decision())
    assert len(hook.got) == 1
    assert status["failed"] == 1
    assert status["trouble"] == f"webhook at 127.0.0.1: it answers {code}"
    assert run.notifier.trouble("digits") == status["trouble"]
    assert run.notifier.trouble("other") is None


def test_nobody_there_is_given_up_in_the_end():
    run = Run()
    status = run.tell(policy("http://127.0.0.1:1/x"), decision())
    assert status["failed"] == 1
    assert "given up after 900 s" in status["trouble"]
    assert sum(run.slept) <= notify.GIVE_UP_S
    assert max(run.slept) == notify.LONGEST_PAUSE_S


def test_trouble_is_over_with_the_next_success(hook):
    hook.answers = [400, 200]
    run = Run()
    status = run.tell(policy(hook.url), decision(2), decision(3, Phase.ROLLED_BACK))
    assert (status["sent"], status["failed"], status["trouble"]) == (1, 1, None)


def test_slow_webhook_has_a_time_limit_and_blocks_nobody(hook, monkeypatch):
    monkeypatch.setattr(notify, "ATTEMPT_S", 0.2)
    other = Hook()
    try:
        hook.delay_s, hook.answers = 1.0, [200]
        run = Run()

        async def scene() -> None:
            began = time.monotonic()
            run.notifier.told(policy(hook.url, other.url), [decision()])
            assert time.monotonic() - began < 0.1
            while not other.got:  # noqa: ASYNC110 - it is filled by another thread
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 0.9
            await run.notifier.stop(0.5)

        asyncio.run(scene())
        assert "no answer within 0.2 s" in str(run.notifier.trouble("digits"))
    finally:
        other.close()


def test_decisions_of_a_model_arrive_in_order_though_the_first_must_be_repeated(hook):
    hook.answers = [503, 503, 200]
    Run().tell(policy(hook.url), decision(2), decision(3, Phase.ROLLED_BACK))
    assert [body["decision"] for *_, body in hook.got] == [2, 2, 2, 3]


def test_same_webhook_named_twice_is_told_once(hook):
    Run().tell(policy(hook.url, hook.url), decision())
    assert len(hook.got) == 1


def test_too_many_messages_are_dropped_and_counted(hook, monkeypatch):
    monkeypatch.setattr(notify, "MOST_WAITING", 3)
    phases = [Phase.PROMOTED, Phase.ROLLED_BACK]
    many = [decision(n, phases[n % 2]) for n in range(2, 12)]
    status = Run().tell(policy(hook.url), *many)
    assert (status["sent"], status["dropped"]) == (3, 7)


def test_stop_does_not_wait_for_a_webhook_that_is_away():
    run = Run()

    async def forever(_seconds: float) -> None:
        await asyncio.sleep(60)

    run.notifier._sleep = forever
    began = time.monotonic()
    status = run.tell(policy("http://127.0.0.1:1/x"), decision(), grace_s=0.2)
    assert time.monotonic() - began < 2.0
    assert status["sent"] == 0


def test_policy_without_webhooks_costs_nothing():
    Run().tell(parse(written(document()), "file.yaml"), decision())
