"""Where events go: a model's own log, or the log of the partition that its request id names.

Whoever takes events in asks here, the leader and those that stand by alike; only the leader changes
it. A tick in the model's log says over how many logs events are split; then the leader writes that
into the ledger, where all read it, and events go there. What was written into the model's own log
meanwhile, its leader joins itself.

Everything about a request stands in one log: exposure, mirrored copies, rewards. What names no
request (a command, a version, what is known of a unit) stands in the model's own log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from controller.core.arms import routed
from controller.core.merge import borne, wanted
from controller.core.partition import log_name, place
from controller.core.policy import Policy, digest
from controller.core.state import State
from controller.ledger import Ledger
from controller.stream import codec
from controller.stream.wire import WIRE, Canonical, Exposure, Reward

_OF_REQUESTS: Final = frozenset({"exposure", "shadow", "reward"})


def model_of(log: str) -> str:
    """The model whose log, or partition's log, this is."""
    return log.partition("/")[0]


def _request_of(line: bytes) -> str | None:
    """The request that an event is about; None where it is none of a request's events."""
    event = WIRE.decode(line)
    return event.request_id if isinstance(event, Exposure | Reward) else None


class Layout:
    """Over how many logs the events of each model are split, as far as this process knows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counts: dict[str, int] | None = None
        self._laid: dict[str, tuple[tuple[int, ...], int]] = {}
        self._digests: dict[str, tuple[Policy, str]] = {}
        self.holders: dict[str, str] = {}
        """Log -> the worker that folds it, "" for none, of all that are known."""

    def look(self) -> None:
        """Read what the ledger says."""
        self._counts = self._ledger.leases.layouts()
        self.holders = self._ledger.leases.holders() if self._counts or self._laid else {}

    def look_once(self) -> None:
        """Read what the ledger says, where that is not known yet."""
        if self._counts is None:
            self.look()

    def keep_up(self) -> None:
        """Read what the ledger says, where that may have changed."""
        if self._counts is None or self._laid:
            self.look()

    def count(self, model: str) -> int:
        """Over how many logs the model's events are split; 1: they stand in its own."""
        return (self._counts or {}).get(model, 1)

    def lines(self, events: Iterable[Canonical]) -> dict[str, list[bytes]]:
        """The lines of events, by the log to which they go."""
        self.look_once()
        found: dict[str, list[bytes]] = {}
        for event in events:
            if event.model is None:
                continue
            log, count = event.model, self.count(event.model)
            if count > 1 and event.type in _OF_REQUESTS:
                log = log_name(log, place(event.request_id, count))
            found.setdefault(log, []).append(event.line)
        return found

    def routed(
        self, lines: Mapping[str, Sequence[bytes]], requests: Mapping[str, Sequence[str]]
    ) -> dict[str, Sequence[bytes]]:
        """Events by model as events by log.

        requests  of models whose events are all about requests: which ones; others are looked at
        """
        found: dict[str, Sequence[bytes]] = {}
        for model, own in lines.items():
            count = self.count(model)
            if count == 1:
                found[model] = own
                continue
            named = requests.get(model)
            about = map(_request_of, own) if named is None else named
            logs: dict[str, list[bytes]] = {}
            for line, request_id in zip(own, about, strict=True):
                log = model if request_id is None else log_name(model, place(request_id, count))
                logs.setdefault(log, []).append(line)
            found |= logs
        return found

    def ticks(self, policy: Policy, state: State, now: float) -> dict[str, Sequence[bytes]]:
        """A tick for the model's log and for those of its partitions.

        The ledger follows the log: what it says where events go is what a tick has said before.

        policy  the one that was adopted last: the ledger knows it by its digest
        """
        known, count, model = state.partitions, wanted(policy, state), state.model
        if not self._is_laid(state):
            logs = {number: log_name(model, number) for number in known.open}
            self._ledger.lay_out(model, logs, known.count)
            self._laid[model] = (known.open, known.count)
            self._counts = None
        self.look_once()
        news = count if count != known.count else 0
        found: dict[str, Sequence[bytes]] = {model: [codec.tick_line(now, partitions=news)]}
        if known.open:
            own = [
                codec.tick_line(
                    now,
                    policy=self._digest(policy),
                    arms=routed(state),
                    epoch=max(state.split.epoch, state.last_epoch),
                    segments=state.segments,
                    increase=borne(state),
                )
            ]
            found |= {log_name(model, number): own for number in known.open}
        return found

    def is_settled(self, policy: Policy, state: State) -> bool:
        """Whether events go where policy and log say."""
        return wanted(policy, state) == state.partitions.count and self._is_laid(state)

    def _is_laid(self, state: State) -> bool:
        known, model = state.partitions, state.model
        laid = self._laid.get(model, ((), 1))
        return laid == (known.open, known.count) and self.count(model) == known.count

    def forget(self, model: str) -> None:
        """There is no such model any more: nobody needs to fold its partitions."""
        if self._laid.pop(model, None) is not None:
            self._ledger.lay_out(model, {}, 1)
            self._counts = None

    def _digest(self, policy: Policy) -> str:
        found = self._digests.get(policy.model)
        if found is None or found[0] is not policy:
            found = self._digests[policy.model] = policy, digest(policy)
        return found[1]
