"""One model's state, in step with its log and its ledger. Synchronous: runs in a thread.

Exactly once: a turn reads the log, steps the engine, and commits decisions, intended effects, dead
letters and (now and then) a snapshot in one transaction of the ledger. A turn that fails anywhere
is forgotten whole: the next one starts from the last snapshot and folds the log again, which
derives the same decisions, and the ledger knows them already.

The ledger also says which policy applied from which offset on, so an edit of the policy file does
not change what `--verify` derives for the time before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from controller.core.state import IMAGE, State, image, initial, revived
from controller.errors import InvariantError, Permanent
from controller.ledger import AdoptedPolicy, Ledger
from controller.ledger.codec import decode as decode_image
from controller.ledger.codec import encode as encode_image
from controller.stream import Block, Stream, codec

SNAPSHOT_EVENTS = 20_000
"""A snapshot at least every so many events, so that a recovery folds no more."""

SNAPSHOT_S = 10.0
"""A snapshot at least every so many seconds of event time in which something happened."""

SNAPSHOT_IDLE_S = 600.0
"""The same where there were only ticks, which are quickly folded again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A policy and the document that it was read from."""

    policy: Policy
    document: str


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn brought: new decisions, and where the model stands now."""

    decisions: tuple[Decision, ...]
    report: Report
    policy: Policy
    state: State


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
        self._is_idle = False
        self._may_be_open = True

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
        if state is None:
            state = self._recovered()
        state, decisions = self._folded(self.policy, state)
        self._close_effects(state)
        self._state = state
        return Turned(decisions, report(self.policy, state), self.policy, state)

    def last_known(self) -> LastKnown | None:
        """What routers need to go on as they are, where the log cannot be folded.

        The split that the ledger says was wanted last, and the endpoints that the policy and the
        versions in the log name. None before the first split.
        """
        split = self._ledger.last_split(self.model)
        if split is None:
            return None
        champion = self.policy.spec.champion
        endpoints = {champion.version: champion.endpoints}
        for block in _blocks(self._stream, self.model, 0, None):
            lines = [line for line in block.lines if b'"version"' in line]
            for event in codec.decode(self.model, block.start, lines, others="skip").control:
                if isinstance(event, VersionEvent) and event.endpoints:
                    endpoints[event.version] = event.endpoints
        return LastKnown(split, endpoints)

    def snapshot(self) -> None:
        """Write a snapshot now, so that the next start has nothing to fold."""
        if self._state is not None:
            self._ledger.commit(
                self.model, decisions=(), dead_letters=(), snapshot=self._image(self._state)
            )

    def _recovered(self) -> State:
        """The state at the end of the log, under the policies that applied; then adopt ours."""
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
        """The newest snapshot that can be read; those that cannot are dropped.

        A snapshot is a shortcut. One of an older version, or one that is damaged, costs time: the
        log is folded from the one before it, or from its beginning.
        """
        before = None
        while (kept := self._ledger.snapshot(self.model, before=before)) is not None:
            offset, blob = kept
            try:
                state = state_of(blob)
            except Permanent as exc:
                log.warning("snapshot passed over", model=self.model, offset=offset, why=str(exc))
                before = offset
                continue
            break
        else:
            offset, state = 0, None
        if before is not None:
            self._ledger.drop_snapshots(self.model, since=before)
        self._snapshot_at = (offset, float("-inf"))
        return state

    def _folded(
        self, policy: Policy, state: State, end: int | None = None
    ) -> tuple[State, tuple[Decision, ...]]:
        """Fold the log from the state's offset to `end`, committing each block's results."""
        made: list[Decision] = []
        for block in _blocks(self._stream, self.model, state.offset, end):
            batch = codec.decode(self.model, block.start, block.lines, others="reject")
            state, decisions, effects = engine.step(policy, state, batch)
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
        is_due = bool(decisions) or self._is_snapshot_due(state)
        if not (decisions or rejected or is_due):
            return
        written = [
            (d, [e for e in effects if not isinstance(e, KeepRejected) and e.decision == d.number])
            for d in decisions
        ]
        self._may_be_open |= bool(decisions)
        self._ledger.commit(
            self.model,
            decisions=written,
            dead_letters=list(self._with_lines(rejected, block)),
            snapshot=self._image(state) if is_due else None,
        )

    def _is_snapshot_due(self, state: State) -> bool:
        offset, time = self._snapshot_at
        longest_s = SNAPSHOT_IDLE_S if self._is_idle else SNAPSHOT_S
        return state.offset - offset >= SNAPSHOT_EVENTS or state.clock - time >= longest_s

    def _image(self, state: State) -> tuple[int, bytes]:
        offset = state.waiting[0].start if state.waiting else state.offset
        self._snapshot_at = (offset, state.clock)
        self._is_idle = True
        return offset, encode_image(image(state), compress=True)

    def _with_lines(
        self, rejected: Sequence[Rejected], block: Block
    ) -> Iterator[tuple[Rejected, bytes]]:
        """Each rejected event with its line, which an earlier block may hold."""
        for event in sorted(rejected, key=lambda r: r.offset):
            if not block.start <= event.offset < block.start + len(block.lines):
                found = next(self._stream.read(self.model, event.offset, limit=1), None)
                if found is None:
                    raise InvariantError(f"event {event.offset} of {self.model} is not in the log")
                block = found
            yield event, block.lines[event.offset - block.start]

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


def _is_idle(state: State, batch: EventBatch) -> bool:
    """Whether nothing but the clock moved, and nobody waits for that."""
    has_events = batch.count > sum(isinstance(event, Tick) for event in batch.control)
    is_waiting = any(table.pending.any() for table in state.joins)
    return not has_events and not is_waiting and state.rollout is None


def state_of(blob: bytes) -> State:
    """The state that a snapshot is of; raises `Permanent` when it is of another shape."""
    found = decode_image(IMAGE, blob, copy=True)
    try:
        return revived(found)
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise Permanent(f"the snapshot's tables are of another shape: {exc!r}") from exc


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
    """Every decision of a model, derived again from its log under the policies that applied."""
    reigns = _reigns(ledger.policies(model))
    state = initial(reigns[0].policy) if reigns else None
    for reign in reigns:
        assert state is not None
        for block in _blocks(stream, model, state.offset, reign.end):
            batch = codec.decode(model, block.start, block.lines, others="reject")
            state, decisions, _ = engine.step(reign.policy, state, batch)
            yield from decisions


def _blocks(stream: Stream, model: str, start: int, end: int | None) -> Iterator[Block]:
    """The log from `start` up to `end`, or to where it ends now."""
    while end is None or start < end:
        progress = start
        for block in stream.read(model, start):
            lines = block.lines if end is None else block.lines[: max(0, end - block.start)]
            if not lines:
                return
            yield Block(block.start, lines)
            start = block.start + len(lines)
        if start == progress:
            return
