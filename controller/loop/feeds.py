"""Topics of others, as the wheel reads them: each topic once, whoever asks for it.

Invariant: what the log has of a topic is what the position beside it says, because the two are
stored in one append. What is read and not stored is read again; rewards that are stored twice all
the same (an append that was answered too late) have one id, their place in the topic, and count
once. The counts of records stand in the position, too: they are those of the log.

A topic has a thread of its own, in which one batch is read and mapped while the wheel stores the
one before, so no broker that is slow or away ever delays a turn. Its *horizon* is the time up to
which all of its records are in the log: known when a read has taken everything that the topic had
at that time. No model's clock passes the horizon of a topic that it reads (see `wheel`), so no
attribution window closes while the rewards that belong into it are still on their way: missing data
is never evidence.

Rejected: going on without a topic that is away for long (every outcome of that time would be one
without a reward, for good); a consumer per model (ten models of a shop read one topic of clicks).
"""

from __future__ import annotations

import time  # noqa: TID251 - between attempts only; what is decided by is the wheel's clock
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Final

import msgspec
import structlog

from controller.core.model import Json
from controller.core.policy import Policy, Source
from controller.errors import Retryable
from controller.loop.sieve import Sieve, Tally
from controller.stream import Mark, Stream
from controller.stream.mapping import Route, route
from controller.stream.records import SKEW_S, Position, Reader, Taken
from controller.stream.topics import Start, open_reader
from controller.stream.wire import Canonical

RETRY_S: Final = 5.0
"""Between attempts where something must be mended first."""

BEHIND_WAIT_S: Final = 0.3
"""How long a turn waits for the next batch of a topic that has more."""

OLD_S: Final = 30.0
"""A horizon that is older than this is told to people."""

STANDS: Final = "until then its clock stands, and no attribution window closes"
"""What becomes of a model whose topic is away or behind, for people."""

log = structlog.get_logger()


class Progress(msgspec.Struct):
    """How far a topic has been read, and what came of it: what a mark says.

    since  when a policy named the topic first; `latest` begins there, however long the first look
           takes to succeed: our requests went on meanwhile, and so did their rewards
    lost   records that the topic gave up before they were read
    anew   how often it was deleted and made again
    """

    at: Position | None = None
    since: float | None = None
    read: int = 0
    lost: int = 0
    anew: int = 0
    models: dict[str, Tally] = {}


class Batch(msgspec.Struct, frozen=True):
    """What one read has brought, ready for the log.

    refused  place, reason, detail and text of each record that cannot be used
    until    up to this time all records are in the log with this; None: more were waiting
    behind   records that wait
    """

    events: Sequence[Canonical]
    refused: Sequence[tuple[str, str, str, bytes]]
    progress: Progress
    until: float | None
    behind: int


class Feed:
    """One topic. Everything but `_read` is called by the wheel, one call at a time.

    asked    when the wheel asked for records last
    horizon  up to when all records of the topic are in the log
    behind   records that wait in the topic
    """

    def __init__(
        self,
        name: str,
        urls: Mapping[str, str | None],
        *,
        stream: Stream,
    ) -> None:
        self.name = name
        self.asked = float("-inf")
        self.horizon = float("-inf")
        self.behind = 0
        self._kind, _, self._place = name.partition(":")
        self._urls = urls
        self._stream = stream
        self._routes: dict[str | None, tuple[Route, ...]] = {}
        self._start: Start = "latest"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._job: Future[Batch] | None = None
        self._not_before = float("-inf")
        self._failure: BaseException | None = None
        self._waiting: Batch | None = None
        self._is_closing = False
        self.progress = Progress()
        # Of the thread alone:
        self._reader: Reader | None = None
        self._reached: Progress | None = None
        self._is_fresh = True  # the first attempt ever: `latest` is now

    def follow(self, sources: Sequence[tuple[str, Source]]) -> None:
        """From the next read on these models take from it."""
        routes: dict[str | None, list[Route]] = {}
        for model, source in sources:
            field = source.redis.field if source.redis is not None else None
            routes.setdefault(field, []).append(route(model, source))
        self._routes = {field: tuple(found) for field, found in routes.items()}
        is_early = any(source.records.start == "earliest" for _, source in sources)
        self._start = "earliest" if is_early else "latest"

    def next(self, now: float) -> Batch | None:
        """The next batch to be stored; the same until `stored`. None when there is none now.

        now  by the wheel's clock, epoch seconds

        Raises:
            BackendError: the topic cannot be read, as long as that is so.
        """
        self.asked = now
        while self._waiting is None and (batch := self._taken()) is not None:
            is_same = batch.progress.at == self.progress.at
            if is_same and batch.progress.since == self.progress.since:
                self._note(batch)  # nothing new, and it is known until when
                return None
            self._waiting = batch
        if self._failure is not None and self._waiting is None:
            raise self._failure
        return self._waiting

    def refused(self) -> None:
        """What the batch that `next` gave cannot use is kept, however often the rest is tried."""
        assert self._waiting is not None
        self._waiting = msgspec.structs.replace(self._waiting, refused=())

    def stored(self) -> None:
        """The batch that `next` gave is in the log."""
        assert self._waiting is not None
        batch, self._waiting = self._waiting, None
        self.progress = batch.progress
        self._note(batch)

    def mark(self, batch: Batch) -> Mark:
        """What is to be stored with the batch."""
        return Mark(self.name, msgspec.json.encode(batch.progress).decode())

    def close(self) -> None:
        """Let the thread end, which may be in the middle of a question to the broker."""
        if self._is_closing:
            return
        self._is_closing = True
        self._thread.submit(self._let_go)
        self._thread.shutdown(wait=False)

    def _note(self, batch: Batch) -> None:
        self.behind = batch.behind
        if batch.until is not None:
            self.horizon = max(self.horizon, batch.until)

    def _taken(self) -> Batch | None:
        """What the thread has read; sets it to work again."""
        if self._job is None and not self._is_closing and time.monotonic() >= self._not_before:
            self._job = self._thread.submit(self._read, self.asked)
        if self._job is None:
            return None
        try:
            failure = self._job.exception(BEHIND_WAIT_S if self.behind else 0.0)
        except NotYet:
            return None
        job, self._job = self._job, None
        if failure is not None:
            self._failure = failure
            after_s = failure.after_s if isinstance(failure, Retryable) else RETRY_S
            self._not_before = time.monotonic() + after_s
            return None
        self._failure = None
        if not self._is_closing:
            self._job = self._thread.submit(self._read, self.asked)
        return job.result()

    # --- in the thread ------------------------------------------------------------------------

    def _read(self, begun: float) -> Batch:
        """What there is. `begun` is not later than when the topic is asked for it."""
        try:
            reached = self._reached_so_far()
            if reached.since is None:
                self._reached = msgspec.structs.replace(reached, since=begun)
                return Batch((), (), self._reached, None, 0)
            taken = self._opened(reached).read()
            return self._mapped(reached, taken, begun)
        except BaseException:
            # What was read and not given away is read again, by a reader that knows nothing of it.
            self._is_fresh = False
            self._let_go()
            raise

    def _reached_so_far(self) -> Progress:
        if self._reached is None:
            mark = self._stream.mark(self.name)
            self._is_fresh &= mark is None
            self._reached = Progress() if mark is None else msgspec.json.decode(mark, type=Progress)
        return self._reached

    def _opened(self, reached: Progress) -> Reader:
        if self._reader is None:
            start: Start | float = self._start
            if start == "latest" and reached.since is not None:
                start = reached.since - (0.0 if self._is_fresh else SKEW_S)
            self._reader = open_reader(
                self._urls, self._kind, self._place, start=start, position=reached.at
            )
        return self._reader

    def _let_go(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()

    def _mapped(self, before: Progress, taken: Taken, begun: float) -> Batch:
        anew = before.anew + taken.began_anew
        # Places in a topic that was made anew are those of its forerunner once more.
        origin = f"{self.name}~{anew}" if anew else self.name
        sieve = Sieve(origin, self._routes, before.models, now=begun)
        for record in taken.records:
            sieve.sift(record)
        if taken.lost or taken.began_anew:
            what = "made anew" if taken.began_anew else "trimmed before it was read"
            log.warning("records of a topic are lost", source=self.name, why=what, lost=taken.lost)
        self._reached = Progress(
            at=taken.position,
            since=before.since,
            read=before.read + len(taken.records),
            lost=before.lost + taken.lost,
            anew=anew,
            models=sieve.tallies,
        )
        return Batch(
            events=sieve.events,
            refused=sieve.refused,
            progress=self._reached,
            until=begun if taken.is_complete else None,
            behind=taken.behind,
        )


class Feeds:
    """All topics that policies name.

    urls  where the brokers of each kind are
    """

    def __init__(
        self,
        urls: Mapping[str, str | None],
        *,
        stream: Stream,
    ) -> None:
        self._urls = urls
        self._stream = stream
        self._feeds: dict[str, Feed] = {}
        self._of: dict[str, tuple[str, ...]] = {}

    @property
    def each(self) -> Sequence[Feed]:
        """The topics, in order."""
        return [self._feeds[name] for name in sorted(self._feeds)]

    def follow(self, policies: Mapping[str, Policy]) -> None:
        """These policies apply: open topics that are new, let go of those that nobody reads."""
        wanted: dict[str, list[tuple[str, Source]]] = {}
        for model, policy in policies.items():
            for source in policy.spec.sources:
                wanted.setdefault(source.name, []).append((model, source))
        for name in set(self._feeds) - set(wanted):
            self._feeds.pop(name).close()
        for name, sources in wanted.items():
            if name not in self._feeds:
                self._feeds[name] = Feed(name, self._urls, stream=self._stream)
            self._feeds[name].follow(sources)
        self._of = {
            model: tuple(sorted({source.name for source in policy.spec.sources}))
            for model, policy in policies.items()
        }

    def of(self, model: str) -> Sequence[Feed]:
        """The topics that a model reads."""
        return [self._feeds[name] for name in self._of.get(model, ())]

    def horizon(self, model: str) -> float:
        """Up to when all events of the model's topics are in the log; infinite without topics."""
        return min((feed.horizon for feed in self.of(model)), default=float("inf"))

    def report(self, model: str) -> dict[str, Json]:
        """What came of each topic of a model; see `Progress` and `Tally`."""
        return {feed.name: _report(feed, model) for feed in self.of(model)}

    def delay(self, model: str) -> str | None:
        """Which topic the model waits for, when it is for long."""
        late = [feed for feed in self.of(model) if feed.asked - feed.horizon > OLD_S]
        if not late:
            return None
        said = ", ".join(f"{feed.name} ({feed.behind} records)" for feed in late)
        return f"waits until {said} has been read: {STANDS}"

    def close(self) -> None:
        """End all threads."""
        for feed in self._feeds.values():
            feed.close()


def _report(feed: Feed, model: str) -> dict[str, Json]:
    progress = feed.progress
    tally = progress.models.get(model, Tally())
    return {
        "read": progress.read,
        "used": tally.used,
        "skipped": tally.skipped,
        "dead": tally.dead,
        "lost": progress.lost,
        "behind": feed.behind,
    }
