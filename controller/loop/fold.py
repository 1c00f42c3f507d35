"""One model's state, in step with its log and its ledger. Synchronous: runs in a thread.

Exactly once: a turn reads the log, steps the engine, and commits decisions, intended effects, dead
letters and (now and then) a snapshot in one transaction of the ledger. A turn that fails anywhere
is forgotten whole: the next one starts from the last snapshot and folds the log again, which
derives the same decisions, and the ledger knows them already.

The ledger also says which policy applied from which offset on, so an edit of the policy file does
not change what `--verify` derives for the time before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import structlog

from controller.core import engine
from controller.core.model import (
    Decision,
    Effect,
    EventBatch,
    KeepRejected,
    Rejected,
    Report,
    SetSplit,
    Split,
    Tick,
    VersionEvent,
)
from controller.core.policy import Policy, digest, parse
from controller.core.report import report
from controller.core.state import State, image, initial
from controller.errors import InvariantError
from controller.ledger import AdoptedPolicy, Ledger
from controller.ledger.codec import encode as encode_image
from controller.ledger.parts import Cut
from controller.loop import origin
from controller.loop.allowance import Allowance
from controller.loop.origin import blocks, first_kept, place, require_same_log
from controller.loop.strays import Stray, strays
from controller.stream import Block, Stream, codec

SNAPSHOT_EVENTS = 500_000
"""A snapshot at least every so many events, so that a recovery folds no more: a second or two."""

SNAPSHOT_S = 10.0
"""Where the log has come to its end, a snapshot every so many seconds of event time in which
something happened: a standby shows it. In a backlog time flies, and folding on is worth more."""

SNAPSHOT_SHARE = 0.05
"""But not before so many events, as a share of the rows that the joiners keep: looking for what has
changed costs 8 ns a row, and is to stay a small part of the cost of the events."""

SNAPSHOT_IDLE_S = 600.0
"""A snapshot at the latest after so many seconds, also where there were only ticks."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A policy and the document that it was read from."""

    policy: Policy
    document: str


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn brought: new decisions, and where the model stands now.

    oldest  the earliest time of an exposure that this turn read; infinite without any
    strays  arm -> the last request that it answered and should not have been sent, of this turn
    """

    decisions: tuple[Decision, ...]
    report: Report
    policy: Policy
    state: State
    oldest: float = math.inf
    strays: Mapping[str, Stray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LastKnown:
    """A split, and where its arms answer."""

    split: Split
    endpoints: dict[str, tuple[str, ...]]


class Fold:
    """The fold over one model's log."""

    def __init__(self, source: PolicySource, stream: Stream, ledger: Ledger) -> None:
        self.policy = source.policy
        self.model = source.policy.model
        self._document = source.document
        self._stream = stream
        self._ledger = ledger
        self._state: State | None = None
        self._snapshot_at = (0, float("-inf"))
        self._parts: AbstractSet[bytes] = frozenset()
        self._is_idle = False
        self._may_be_open = True
        self._dropped: dict[str, int] = {}
        self._oldest = math.inf
        self._strays: dict[str, Stray] = {}
        self.dead_letters = Allowance()

    def adopt(self, source: PolicySource) -> None:
        """Another policy of the same model applies from where the log ends at the next turn."""
        if digest(source.policy) == digest(self.policy):
            return
        self.policy, self._document = source.policy, source.document
        self._state = None  # recovering adopts what is new

    def turn(self) -> Turned:
        """Fold what the log has now. After an error the next turn recovers first."""
        state = self._state
        self._state = None  # until this turn has succeeded there is no state to trust
        self._oldest, self._strays = math.inf, {}
        if state is None:
            state = self._recovered()
        state, decisions = self._folded(self.policy, state)
        if self._is_snapshot_old(state):
            self._keep(state)
        self._close_effects(state)
        self._state = state
        told = replace(report(self.policy, state), dropped=self._dropped)
        return Turned(decisions, told, self.policy, state, self._oldest, self._strays)

    def recover(self) -> float:
        """Fold what the log has, without looking at what follows; its clock, -inf before a tick."""
        if self._state is None:
            self._state = self._recovered()
        return self._state.clock

    def last_known(self) -> LastKnown | None:
        """What routers need to go on as they are, where the log cannot be folded.

        The split that the ledger says was wanted last, and the endpoints that the policy, the last
        snapshot and the versions in the log after it name. None before the first split.
        """
        split = self._ledger.last_split(self.model)
        if split is None:
            return None
        champion = self.policy.spec.champion
        endpoints = {champion.version: champion.endpoints}
        _, state, _ = origin.readable(self._ledger, self.model, origin.state_of)
        if state is not None:
            endpoints |= {v.name: v.endpoints for v in state.versions.values() if v.endpoints}
        start = first_kept(self._stream, self.model) if state is None else state.offset
        for block in blocks(self._stream, self.model, start, None):
            lines = [line for line in block.lines if b'"version"' in line]
            for event in codec.decode(self.model, block.start, lines, others="skip").control:
                if isinstance(event, VersionEvent) and event.endpoints:
                    endpoints[event.version] = event.endpoints
        return LastKnown(split, endpoints)

    def snapshot(self) -> None:
        """Write a snapshot now, so that the next start has nothing to fold."""
        if self._state is not None:
            self._keep(self._state)

    def _recovered(self) -> State:
        """The state at the end of the log, under the policies that applied; then adopt ours."""
        require_same_log(self._stream, self._ledger, self.model)
        self._dropped = self._ledger.count_dropped(self.model)
        adopted = self._ledger.policies(self.model)
        ours = digest(self.policy)
        if not adopted:
            self._ledger.adopt_policy(self.model, 0, ours, self._document)
            return initial(self.policy)
        reigns = _reigns(adopted)
        state = self._last_snapshot() or initial(reigns[0].policy)
        for reign in reigns:
            state, _ = self._folded(reign.policy, state, reign.end)
        if adopted[-1].digest != ours:
            self._ledger.adopt_policy(self.model, state.offset, ours, self._document)
        return state

    def _last_snapshot(self) -> State | None:
        """The newest snapshot that can be read."""
        state, self._parts = origin.newest(self._ledger, self.model, origin.state_of)
        self._snapshot_at = (0 if state is None else state.offset, float("-inf"))
        return state

    def _folded(
        self, policy: Policy, state: State, end: int | None = None
    ) -> tuple[State, tuple[Decision, ...]]:
        """Fold the log from the state's offset to `end`, committing each block's results."""
        made: list[Decision] = []
        for block in blocks(self._stream, self.model, state.offset, end):
            batch = codec.decode(self.model, block.start, block.lines, others="reject")
            self._oldest = min(self._oldest, float(batch.exposures.time.min(initial=math.inf)))
            state, decisions, effects = engine.step(policy, state, batch)
            self._strays |= strays(state, batch)
            self._is_idle &= _is_idle(state, batch)
            self._commit(state, decisions, effects, block)
            made += decisions
        return state, tuple(made)

    def _commit(
        self,
        state: State,
        decisions: Sequence[Decision],
        effects: Sequence[Effect],
        block: Block,
    ) -> None:
        rejected = [r for e in effects if isinstance(e, KeepRejected) for r in e.rejected]
        rejected = rejected[: self.dead_letters.take(len(rejected), at=state.clock)]
        # Events after the last tick no snapshot can spare a recovery.
        is_due = bool(decisions) or _resumed(state) - self._snapshot_at[0] >= SNAPSHOT_EVENTS
        if not (decisions or rejected or is_due):
            return
        written = [
            (d, [e for e in effects if not isinstance(e, KeepRejected) and e.decision == d.number])
            for d in decisions
        ]
        self._may_be_open |= bool(decisions)
        letters = list(with_lines(self._stream, self.model, rejected, block))
        self._keep(state, block, written, letters, is_due=is_due)
        if rejected:
            self._dropped = self._ledger.count_dropped(self.model)

    def _keep(
        self,
        state: State,
        block: Block | None = None,
        decisions: Sequence[tuple[Decision, Sequence[Effect]]] = (),
        dead_letters: Sequence[tuple[Rejected, bytes]] = (),
        *,
        is_due: bool = True,
    ) -> None:
        """Commit what follows from `block`; with a snapshot of the state, where one is due."""
        if not is_due:
            self._ledger.commit(
                self.model, decisions=decisions, dead_letters=dead_letters, folded=state.offset
            )
            return
        cut = Cut(self._parts)
        blob = encode_image(image(state), compress=True, cut=cut)
        offset = _resumed(state)
        parts = cut.parts()
        self._ledger.commit(
            self.model,
            decisions=decisions,
            dead_letters=dead_letters,
            folded=state.offset,
            snapshot=(offset, blob),
            place=place(self._stream, state, block),
            parts=parts,
        )
        self._parts = parts.named
        self._snapshot_at = (offset, state.clock)
        self._is_idle = True

    def _is_snapshot_old(self, state: State) -> bool:
        offset, time = self._snapshot_at
        age_s = state.clock - time
        if age_s < SNAPSHOT_S or age_s >= SNAPSHOT_IDLE_S:
            return age_s >= SNAPSHOT_IDLE_S
        rows = sum(table.rows for table in state.joins)
        return not self._is_idle and _resumed(state) - offset >= SNAPSHOT_SHARE * rows

    def _close_effects(self, state: State) -> None:
        """Effects whose split is in force (or was overtaken by one that is) are done."""
        if not self._may_be_open:
            return
        is_open = False
        for effect in self._ledger.pending_effects(self.model):
            wanted = effect.effect
            if isinstance(wanted, SetSplit) and wanted.split.epoch <= state.in_force_epoch:
                self._ledger.effect_done(self.model, effect.number, effect.ordinal)
            else:
                is_open |= isinstance(wanted, SetSplit)
        self._may_be_open = is_open


def with_lines(
    stream: Stream, log_name: str, rejected: Sequence[Rejected], block: Block
) -> Iterator[tuple[Rejected, bytes]]:
    """Each rejected event of a log with its line, which an earlier block may hold."""
    for event in sorted(rejected, key=lambda r: r.offset):
        if not block.start <= event.offset < block.start + len(block.lines):
            found = next(stream.read(log_name, event.offset, limit=1), None)
            if found is None:
                raise InvariantError(f"event {event.offset} of {log_name} is not in the log")
            block = found
        yield event, block.lines[event.offset - block.start]


def _resumed(state: State) -> int:
    """The offset at which a recovery from a snapshot of this state would go on reading."""
    return state.waiting[0].start if state.waiting else state.offset


def _is_idle(state: State, batch: EventBatch) -> bool:
    """Whether nothing but the clock moved, and nobody waits for that."""
    has_events = batch.count > sum(isinstance(event, Tick) for event in batch.control)
    is_waiting = any(table.pending.any() for table in state.joins)
    return not has_events and not is_waiting and state.rollout is None


@dataclass(frozen=True, slots=True)
class _Reign:
    """A policy, and the offset at which the next one took over."""

    policy: Policy
    end: int | None


def _reigns(adopted: Sequence[AdoptedPolicy]) -> list[_Reign]:
    ends = [*(later.from_offset for later in adopted[1:]), None]
    return [
        _Reign(parse(each.document, "the ledger"), end)
        for each, end in zip(adopted, ends, strict=True)
    ]


def derive(ledger: Ledger, stream: Stream, model: str) -> Iterator[Decision]:
    """The decisions of a model, derived again from its log under the policies that applied.

    Where the log was trimmed, those that follow from its base: the first has the number after the
    last one that the base knows of.
    """
    reigns = _reigns(ledger.policies(model))
    if not reigns:
        return
    state = origin.oldest(ledger, model) or initial(reigns[0].policy)
    for reign in reigns:
        for block in blocks(stream, model, state.offset, reign.end):
            batch = codec.decode(model, block.start, block.lines, others="reject")
            state, decisions, _ = engine.step(reign.policy, state, batch)
            yield from decisions
