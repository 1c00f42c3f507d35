"""Tells webhooks of what was decided: a policy's `notify`.

A webhook is told when a model *enters* one of the phases that it asked for: the decision before
was of another phase. It is told at least once as long as this process lives, in the order of the
decisions of a model, and never of the same decision under another `Idempotency-Key`. Attempts have
a time limit and are repeated, later and later, until `GIVE_UP_S`. Nobody waits for any of it: what
does not arrive is logged and shown in health, and holds nothing.

Not written down, on purpose: the ledger says what happened, a webhook only that somebody may want
to look. A process that dies before it has told does so after its restart only if the decision is
derived again then, and it is not older than `FRESH_S`.

An address often holds a secret, so logs and health name its host only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

import httpx
import structlog

from controller.core.model import Decision, Json
from controller.core.policy import Policy
from controller.core.record import canonical, plain

ATTEMPT_S: Final = 5.0
"""How long a webhook may take to answer."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
GIVE_UP_S: Final = 900.0
FRESH_S: Final = 1_800.0
"""A decision that is older is not told: recoveries derive the past again."""

MOST_WAITING: Final = 1_000
"""Messages on their way; more are dropped, and counted."""

_LATER: Final = frozenset({408, 425, 429})
"""Refusals of a webhook that may pass."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Message:
    """One decision for one webhook."""

    model: str
    webhook: str
    key: str
    body: bytes

    @property
    def host(self) -> str:
        """What may be said of the address."""
        return httpx.URL(self.webhook).host


class _RefusedError(Exception):
    """The webhook will not take it; another attempt will not help."""


class Notifier:
    """Sends from the event loop that it is used in. Made by `serve`, told by the wheel.

    previous  a model's decision by number, from the ledger; None where there is none
    clock     wall clock, seconds
    sleep     waits; another one in tests
    """

    def __init__(
        self,
        *,
        previous: Callable[[str, int], Decision | None],
        clock: Callable[[], float],
        sleep: Callable[[float], Coroutine[None, None, None]] = asyncio.sleep,
    ) -> None:
        self._previous = previous
        self._clock = clock
        self._sleep = sleep
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._troubles: dict[tuple[str, str], str] = {}
        self._sent = 0
        self._failed = 0
        self._dropped = 0

    def told(self, policy: Policy, decisions: Sequence[Decision]) -> None:
        """These decisions were made: send what somebody asked for. Returns at once."""
        if not policy.spec.notify:
            return
        oldest = self._clock() - FRESH_S
        for decision in decisions:
            if decision.time >= oldest:
                self._tell(policy, decision)

    def trouble(self, model: str) -> str | None:
        """Which webhook of a model does not answer, and why."""
        return next((text for (of, _), text in self._troubles.items() if of == model), None)

    def status(self) -> dict[str, Json]:
        """For people."""
        return {
            "waiting": len(self._tasks),
            "sent": self._sent,
            "failed": self._failed,
            "dropped": self._dropped,
            "trouble": next(iter(self._troubles.values()), None),
        }

    async def stop(self, grace_s: float = ATTEMPT_S) -> None:
        """Let what is on its way arrive, for a while; then end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # --- inside ---------------------------------------------------------------------------------

    def _tell(self, policy: Policy, decision: Decision) -> None:
        phase = decision.phase.value
        asked = [each.webhook for each in policy.spec.notify if phase in each.on]
        if not asked or not self._is_entry(decision):
            return
        body = canonical(message(decision)).encode()
        for webhook in dict.fromkeys(asked):
            key = idempotency_key(decision, webhook)
            self._send(_Message(decision.model, webhook, key, body))

    def _is_entry(self, decision: Decision) -> bool:
        before = self._previous(decision.model, decision.number - 1)
        return before is None or before.phase is not decision.phase

    def _send(self, message: _Message) -> None:
        if len(self._tasks) >= MOST_WAITING:
            self._dropped += 1
            log.error("notification dropped", model=message.model, webhook=message.host)
            return
        task = asyncio.get_running_loop().create_task(self._deliver(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, message: _Message) -> None:
        """Attempts until one succeeds; one message of a model at a time to each webhook."""
        whose = (message.model, message.webhook)
        async with self._turns[whose]:
            try:
                await self._attempts(message)
            except _RefusedError as exc:
                self._failed += 1
                self._troubles[whose] = f"webhook at {message.host}: {exc}"
                log.warning("notification failed", model=message.model, reason=str(exc))
                return
        self._sent += 1
        self._troubles.pop(whose, None)

    async def _attempts(self, message: _Message) -> None:
        waited_s, pause_s = 0.0, FIRST_PAUSE_S
        while True:
            why, asked_s = await self._attempt(message)
            if why is None:
                return
            self._troubles[message.model, message.webhook] = f"webhook at {message.host}: {why}"
            pause_s = min(max(pause_s, asked_s), LONGEST_PAUSE_S)
            if waited_s + pause_s > GIVE_UP_S:
                raise _RefusedError(f"{why}; given up after {GIVE_UP_S:g} s")
            await self._sleep(pause_s)
            waited_s += pause_s
            pause_s *= 2

    async def _attempt(self, message: _Message) -> tuple[str | None, float]:
        """Why it did not arrive, and after how long the webhook wants the next attempt."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message.key,
            "User-Agent": f"understudy/{metadata.version('understudy')}",
        }
        try:
            # The whole attempt, not each read of it, has the limit; the answer's body is not read.
            async with (
                asyncio.timeout(ATTEMPT_S),
                self._http().stream(
                    "POST", message.webhook, content=message.body, headers=headers
                ) as answer,
            ):
                status, after = answer.status_code, answer.headers.get("Retry-After", "")
        except TimeoutError:
            return f"no answer within {ATTEMPT_S:g} s", 0.0
        except httpx.TransportError as exc:
            return f"{type(exc).__name__}: {exc}".rstrip(": "), 0.0
        except (httpx.InvalidURL, httpx.HTTPError) as exc:
            raise _RefusedError(str(exc)) from exc
        if 200 <= status <= 299:
            return None, 0.0
        if status >= 500 or status in _LATER:
            return f"it answers {status}", float(after) if after.isdecimal() else 0.0
        raise _RefusedError(f"it answers {status}")

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=ATTEMPT_S, follow_redirects=False)
        return self._client


def message(decision: Decision) -> dict[str, Json]:
    """What a webhook gets."""
    return {
        "model": decision.model,
        "phase": decision.phase.value,
        "decision": decision.number,
        "time": plain(decision.time),
        "verdict": decision.verdict.value,
        "cause": decision.cause,
        "sentence": decision.reason,
        "rollout": decision.rollout,
        "candidate": decision.candidate,
        "stage": decision.stage,
        "step": decision.step,
        "epoch": decision.epoch,
        "weights": plain(decision.weights),
        "evidence": plain(decision.evidence),
    }


def idempotency_key(decision: Decision, webhook: str) -> str:
    """The same for the same decision and webhook, in every process and for ever."""
    what = repr((decision.model, decision.number, decision.offset, decision.phase.value, webhook))
    return hashlib.sha256(what.encode(errors="replace")).hexdigest()[:32]
