"""What turns in a controller that does not lead: it looks, and changes nothing.

`LoopBackend` asks it what it would ask the wheel, so that the API of a standby is that of a leader:
the same server, before and after it takes over, with its history and its open streams.

    reads        from the ledger: of each model the newest snapshot, under the newest policy, looked
                 for every `LOOK_S`; decisions come from the ledger as ever. A leader writes a
                 snapshot with each decision, and each 10 s while something happens, or
                 later where much is pending: see `fold`
    events       are accepted: the log is shared, appends of several processes keep their order, and
                 the leader folds what it finds. So a sender never has to know who leads
    commands     are refused (`Standby`, 503), and so are new candidates: they are checked against
    and offers   the state and answered with what came of them, which only the leader knows

Rejected: redirecting to the leader (its address inside the cluster means nothing to a client from
outside), passing requests on to it (a way around whatever guards its door, and one more thing that
fails when the leader does), folding the log here as well (twice the work, for reports that are a
few seconds newer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from controller.core.policy import Policy, parse
from controller.core.report import report
from controller.core.state import initial
from controller.errors import Standby, UnderstudyError
from controller.ledger import Ledger, Stamp
from controller.loop.commit import GroupCommit
from controller.loop.fold import PolicySource, Turned
from controller.loop.layout import Layout
from controller.loop.origin import shown_of
from controller.stream import Stream
from controller.stream.wire import Canonical

LOOK_S = 2.0
"""Between looks at the ledger."""

LEDGER = "the ledger"

log = structlog.get_logger()


class StandbyWheel:
    """All models, as the leader left them.

    models  the policies that this controller has now; asked at each look
    leader  who leads, for people; empty when nobody knows
    told    called with a model that looks different from before
    """

    def __init__(  # noqa: PLR0913 - it stands where the wheel does
        self,
        models: Callable[[], Sequence[PolicySource]],
        *,
        stream: Stream,
        ledger: Ledger,
        leader: Callable[[], str],
        told: Callable[[str, Turned], None],
        worried: Callable[[], None],
    ) -> None:
        self._models = models
        self._intake = GroupCommit(stream.append)
        self._ledger = ledger
        self._leader = leader
        self._told = told
        self._worried = worried
        self._seen: dict[str, tuple[Stamp | None, str]] = {}
        self._policies: dict[str, tuple[str, Policy]] = {}
        self._stopping = asyncio.Event()
        self.layout = Layout(ledger)
        self.troubles: dict[str, str] = {}
        self.is_settled = True
        """Nothing of its own waits for a router."""
        self.turn_s = 0.0
        """It has no turns."""

    @property
    def leader(self) -> str:
        """Who leads, as far as this controller knows."""
        return self._leader() or "nobody yet"

    def trouble(self, model: str) -> str | None:
        """Why what is shown of `model` may be old."""
        return self.troubles.get(model) or self.troubles.get(LEDGER)

    async def run(self) -> None:
        """Look until `stop`."""
        while not self._stopping.is_set():
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_S)

    def stop(self) -> None:
        """End after the present look."""
        self._stopping.set()

    async def look(self) -> None:
        """Tell what has changed in the ledger. What cannot be read stays as it was shown last."""
        try:
            stamps = await asyncio.to_thread(self._ledger.stamps)
            await asyncio.to_thread(self.layout.look)
        except UnderstudyError as exc:
            self._worry(LEDGER, exc)
            return
        self._calm(LEDGER)
        for source in self._models():
            await self._look_at(source, stamps.get(source.policy.model))

    def lag(self, model: str) -> int:  # noqa: ARG002 - as a wheel
        """None of its own: the leader folds."""
        return 0

    async def take_in(self, events: Sequence[Canonical]) -> None:
        """Write events into the logs to which they go."""
        await self._intake.append(await asyncio.to_thread(self.layout.lines, events))

    def withheld(self, model: str) -> int:  # noqa: ARG002 - as a wheel
        """None: the leader keeps them."""
        return 0

    async def append_and_turn(self, model: str, line: bytes) -> None:  # noqa: ARG002 - as a wheel
        """Refuse: what would come of it, only the leader knows."""
        self.refuse()

    def refuse(self) -> None:
        """Raise `Standby`."""
        raise Standby(f"this controller stands by; {self.leader} leads: ask again", self.leader)

    async def _look_at(self, source: PolicySource, stamp: Stamp | None) -> None:
        model = source.policy.model
        try:
            policy, digest = await asyncio.to_thread(self._policy, source)
            if self._seen.get(model) == (stamp, digest):
                return
            turned = await asyncio.to_thread(self._turned, policy)
        except UnderstudyError as exc:
            self._worry(model, exc)
            return
        self._seen[model] = (stamp, digest)
        self._told(model, turned)
        self._calm(model)

    def _policy(self, source: PolicySource) -> tuple[Policy, str]:
        """The policy that the leader has adopted last; ours before it has any."""
        model = source.policy.model
        newest = self._ledger.newest_policy(model)
        if newest is None:
            return source.policy, ""
        known = self._policies.get(model)
        if known is None or known[0] != newest.digest:
            known = newest.digest, parse(newest.document, "the ledger")
            self._policies[model] = known
        return known[1], known[0]

    def _turned(self, policy: Policy) -> Turned:
        kept = self._ledger.snapshot(policy.model)
        state = initial(policy) if kept is None else shown_of(self._ledger, policy.model, kept[1])
        dropped = self._ledger.count_dropped(policy.model)
        return Turned((), replace(report(policy, state), dropped=dropped), policy, state)

    def _worry(self, who: str, exc: UnderstudyError) -> None:
        sentence = f"{type(exc).__name__}: {exc}"
        if self.troubles.get(who) != sentence:
            log.warning("standing by", who=who, trouble=sentence)
            self.troubles[who] = sentence
            self._worried()

    def _calm(self, who: str) -> None:
        if self.troubles.pop(who, None) is not None:
            self._worried()
