"""Where a fold begins, and whether the log is the one that the ledger knows.

A fold begins at the newest snapshot that can be read, and `--verify` at the oldest: at the
beginning of the log, or at its base where the log was trimmed (see `ledger.limits`). So a snapshot
is a shortcut while the log is whole, and the truth before its base afterwards.

Ledger and log are kept apart, and restored from backups apart. What then must not be:

    log older than the ledger      events that were decided on are gone, and their offsets would be
                                   given to others: decisions would follow from no log. It is held
    another log                    the same
    ledger older than the log      the fold goes on from where the ledger stands: nothing is wrong
    ledger older than what is      there is no way from the one to the other. It is held
    left of the log

To know, a snapshot notes what event stood before it. The end of the log alone would not tell: new
events may have come since it was restored, and a log of other events can be as long.

Rejected: an id of the log in both (a backup has it, too), a digest of every event (it would have to
be known by every appender).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, Final, TypeAlias, TypeVar

import structlog

from controller.core.state import IMAGE, State, oldest_needed, revived, shown
from controller.errors import Permanent, Trimmed
from controller.ledger import Ledger, Place
from controller.ledger.codec import decode as decode_image
from controller.ledger.parts import Gaps
from controller.stream import Block, Stream

REMEDY: Final = (
    "Nothing is decided until they fit: restore both from one backup, the ledger not later than "
    "the log, or begin anew with an empty log and an empty ledger"
)

Kept = TypeVar("Kept")
Reading: TypeAlias = Callable[[Ledger, str, bytes], tuple[Kept, AbstractSet[bytes]]]
"""From a snapshot of a log to what it is of, and the parts that it names."""

log = structlog.get_logger()


def opened(
    ledger: Ledger, log_name: str, blob: bytes, kind: type[Any], revive: Callable[[Any], Kept]
) -> tuple[Kept, AbstractSet[bytes]]:
    """What a snapshot of some kind of image is of, and the parts that it names.

    Raises `Permanent` when it is damaged, or of another shape.
    """
    gaps = Gaps()
    found = decode_image(kind, blob, copy=True, gaps=gaps)
    named = gaps.digests
    gaps.fill(ledger.parts(log_name, named))
    return _in_shape(revive, found), named


def state_of(ledger: Ledger, model: str, blob: bytes) -> tuple[State, AbstractSet[bytes]]:
    """The state that a snapshot is of, and the parts that it names; raises as `opened`."""
    return opened(ledger, model, blob, IMAGE, revived)


def shown_of(ledger: Ledger, model: str, blob: bytes) -> State:
    """The same state for reports: without what is pending, which may be hundreds of megabytes."""
    gaps = Gaps()
    found = decode_image(IMAGE, blob, copy=True, gaps=gaps)
    gaps.leave(array for table in (*found.joins, found.covariates) for array in table.values())
    gaps.fill(ledger.parts(model, gaps.digests))
    return _in_shape(shown, found)


def _in_shape(revive: Callable[[Any], Kept], found: Any) -> Kept:
    try:
        return revive(found)
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise Permanent(f"the snapshot's tables are of another shape: {exc!r}") from exc


def readable(
    ledger: Ledger, log_name: str, read: Reading[Kept]
) -> tuple[int | None, Kept | None, AbstractSet[bytes]]:
    """The newest snapshot that can be read, and the parts that it names.

    Before them the offset from which on none can be read.
    """
    broken: int | None = None
    while (kept := ledger.snapshot(log_name, before=broken)) is not None:
        offset, blob = kept
        try:
            return broken, *read(ledger, log_name, blob)
        except Permanent as exc:
            log.warning("snapshot passed over", model=log_name, offset=offset, why=str(exc))
            broken = offset
    return broken, None, frozenset()


def newest(
    ledger: Ledger, log_name: str, read: Reading[Kept]
) -> tuple[Kept | None, AbstractSet[bytes]]:
    """The newest snapshot that can be read, and the parts that it names.

    Those that cannot be read are dropped where none of them is needed.

    One of an older version, or one that is damaged, costs time: the log is folded from the one
    before it, or from its beginning.

    Raises:
        Permanent: none can be read, and the log was trimmed.
    """
    broken, found, parts = readable(ledger, log_name, read)
    if found is None:
        _require_whole(ledger, log_name)
    if broken is not None:
        ledger.drop_snapshots(log_name, since=broken)
    return found, parts


def oldest(ledger: Ledger, model: str) -> State | None:
    """The snapshot at which `--verify` begins; None: at the beginning of the log.

    Raises:
        Permanent: it cannot be read.
    """
    base = ledger.beginning(model).base
    if not base:
        return None
    kept = ledger.snapshot(model, before=base + 1)
    if kept is None or kept[0] != base:
        raise Permanent(
            f"the ledger has lost the snapshot of {model} at event {base}, at which its log begins"
        )
    return state_of(ledger, model, kept[1])[0]


def _require_whole(ledger: Ledger, model: str) -> None:
    needs = ledger.beginning(model).needs
    if needs:
        raise Permanent(
            f"no snapshot of {model} can be read by this version, and its log was trimmed up to "
            f"event {needs}: run the version of Understudy that wrote them"
        )


# --- the log and the ledger ---------------------------------------------------------------------


def place(stream: Stream, state: State, block: Block | None = None) -> Place | None:
    """What a snapshot of the state notes of the log; None before the first tick.

    block  events that were read just now, so that the log need not be asked
    """
    offset = state.waiting[0].start if state.waiting else state.offset
    return place_in(stream, state.model, (offset, state.clock, oldest_needed(state)), block)


def place_in(
    stream: Stream, log_name: str, known: tuple[int, float, int], block: Block | None = None
) -> Place | None:
    """The same of any fold of a log.

    known  the first event that is not folded in, the event time there, the oldest that is needed
    """
    offset, clock, needs = known
    if not math.isfinite(clock):
        return None
    line = _line(stream, log_name, offset - 1, block)
    return Place(clock, needs, "" if line is None else _digest(line))


def require_same_log(stream: Stream, ledger: Ledger, model: str) -> None:
    """Make sure that the log holds what the ledger has decided on.

    Raises:
        Permanent: it does not: it is older, or another one.
    """
    folded = ledger.folded_until(model)
    end = stream.append({model: ()})[model]
    if end < folded:
        raise Permanent(
            f"the log of {model} ends at event {end}, and the ledger has decided on those up to "
            f"{folded}: the log is older than the ledger, or another one. {REMEDY}"
        )
    offset, digest = ledger.snapshot_digest(model) or (0, None)
    if not digest:
        return
    try:
        line = _line(stream, model, offset - 1)
    except Trimmed as exc:
        raise Permanent(
            f"the ledger knows the log of {model} up to event {offset}, and the log begins at "
            f"event {exc.first}: the ledger is older than what is left of the log. {REMEDY}"
        ) from exc
    if line is None or _digest(line) != digest:
        raise Permanent(
            f"event {offset - 1} in the log of {model} is not the one that the ledger has decided "
            f"on: the log was replaced by an older one, or by another. {REMEDY}"
        )


def first_kept(stream: Stream, model: str) -> int:
    """The offset at which the log begins."""
    try:
        next(iter(stream.read(model, 0, limit=1)), None)
    except Trimmed as exc:
        return exc.first
    return 0


def blocks(stream: Stream, model: str, start: int, end: int | None) -> Iterator[Block]:
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


def _line(stream: Stream, model: str, offset: int, block: Block | None = None) -> bytes | None:
    if offset < 0:
        return None
    if block is None or not block.start <= offset < block.start + len(block.lines):
        block = next(iter(stream.read(model, offset, limit=1)), None)
    return None if block is None else block.lines[offset - block.start]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
