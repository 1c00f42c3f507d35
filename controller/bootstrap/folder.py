"""What a folder has: policies, and the stores of a controller, running or not."""

from __future__ import annotations

import time  # noqa: TID251 - the wall clock is taken here and handed to the ledger
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.core.model import Decision, Json
from controller.core.policy import Owners, parse
from controller.core.record import canonical, decision_document
from controller.errors import Permanent, PolicyError, Problem
from controller.ledger import Ledger, open_ledger
from controller.loop.fold import PolicySource, derive
from controller.loop.origin import first_kept, oldest
from controller.settings import StoreUrls, policy_text
from controller.stream import Stream, open_stream

_LISTED = 100_000


def read_policies(folder: Path) -> list[PolicySource]:
    """Every policy of a folder, in the order of file names.

    Raises:
        PolicyError: with every fault of the first file that has some; also when two files are of
            one model or have one prefix, or none is there.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        fault = Problem("", "no policy", "a folder with at least one *.yaml policy")
        raise PolicyError(str(folder), (fault,))
    found, owners = [], Owners()
    for file in files:
        text = policy_text(file)
        policy = parse(text, str(file))
        if twins := owners.twins(policy, text, str(file)):
            raise PolicyError(str(file), twins)
        found.append(PolicySource(policy, text))
    return found


@contextmanager
def opened(urls: StoreUrls) -> Iterator[tuple[Stream, Ledger]]:
    """The stores of a controller, running or not.

    Raises:
        Permanent: a file of theirs is not there: looking must not make one.
    """
    for kind, url in (("ledger", urls.ledger), ("event log", urls.stream)):
        file = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and not file.is_file():
            where = file.parent
            raise Permanent(f"{where}: found no {kind}, expected the --state folder of `serve`")
    with (
        closing(open_stream(urls.stream)) as stream,
        closing(open_ledger(urls.ledger, clock=time.time)) as ledger,
    ):
        yield stream, ledger


def ledger_rows(urls: StoreUrls, model: str) -> list[dict[str, Json]]:
    """Every decision of a model as it was written down."""
    with opened(urls) as (_, ledger):
        _require(ledger, model)
        return [decision_document(decision) for decision in _all_decisions(ledger, model)]


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of looking at a model's ledger.

    faults   what is wrong, in sentences
    derived  how many decisions the log leads to, just as they were written
    before   how many lie before the beginning of the log, and have their chain of hashes only
    dropped  how many are kept no more
    """

    faults: tuple[str, ...]
    derived: int
    before: int
    dropped: int


def verify(urls: StoreUrls, model: str) -> Verified:
    """Look at a model's ledger.

    The chain of hashes shows rows that were changed; deriving every decision again from the log
    shows decisions that the log does not lead to.
    """
    with opened(urls) as (stream, ledger):
        _require(ledger, model)
        faults = []
        broken = ledger.verify_chain(model)
        if broken is not None:
            faults.append(f"{model}: the chain of hashes is broken at decision {broken}")
        base = oldest(ledger, model)
        written = {decision.number: decision for decision in _all_decisions(ledger, model)}
        derived = {decision.number: decision for decision in derive(ledger, stream, model)}
        before = [n for n in written if base is not None and n <= base.decisions]
        faults += [
            f"{model}: decision {number} is not what the log leads to"
            for number in sorted(written.keys() & derived.keys())
            if _differ(written[number], derived[number])
        ]
        if extra := len(written.keys() - derived.keys()) - len(before):
            faults.append(f"{model}: {extra} decisions are written that the log does not lead to")
        dropped = ledger.beginning(model).decision - 1
        return Verified(tuple(faults), len(written) - len(before), len(before), dropped)


def log_lines(urls: StoreUrls, model: str) -> Iterator[tuple[bytes, ...]]:
    """The lines of a model's log, or of a partition's (`MODEL/0`), from the oldest that is kept."""
    with opened(urls) as (stream, ledger):
        _require(ledger, model.partition("/")[0])
        start = first_kept(stream, model)
        while True:
            blocks = list(stream.read(model, start))
            if not blocks:
                return
            for block in blocks:
                yield block.lines
                start = block.start + len(block.lines)


def rejected_rows(urls: StoreUrls, model: str) -> list[dict[str, Json]]:
    """Events that could not be used: the model's, its partitions', then those without a model."""
    with opened(urls) as (_, ledger):
        _require(ledger, model)
        rows: list[dict[str, Json]] = [
            {"offset": e.offset, "reason": e.reason, "detail": e.detail, "event": e.event}
            for e in ledger.dead_letters(model, limit=_LISTED)
        ]
        rows += [
            {
                "log": log,
                "offset": e.offset,
                "reason": e.reason,
                "detail": e.detail,
                "event": e.event,
            }
            for log in ledger.logs_with_dead_letters(model)
            for e in ledger.dead_letters(log, limit=_LISTED)
        ]
        rows += [
            {"source": e.source, "reason": e.reason, "detail": e.detail, "event": e.event}
            for e in ledger.rejections(limit=_LISTED)
        ]
        return rows


def dropped_count(urls: StoreUrls, model: str) -> int:
    """How many more events could not be used, and are not kept any more."""
    with opened(urls) as (_, ledger):
        gone = (ledger.count_dropped(model), ledger.count_dropped())
        return sum(sum(counts.values()) for counts in gone)


def _require(ledger: Ledger, model: str) -> None:
    if not ledger.policies(model):
        raise Permanent(f"the ledger knows no model {model!r}")


def _differ(one: Decision, other: Decision) -> bool:
    return canonical(decision_document(one)) != canonical(decision_document(other))


def _all_decisions(ledger: Ledger, model: str) -> Iterator[Decision]:
    last = 0
    while page := ledger.decisions(model, after=last):
        yield from page
        last = page[-1].number
