"""The event log: one ordered, durable log per model. The log is the truth.

A `Stream` keeps events as the lines of contract 4.2 (canonical JSON Lines: `time` in epoch
seconds), in blocks: one block per flush. It numbers the events of each model from 0; that number
is the event's offset for ever, also when older ones were trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from controller.errors import Permanent


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive events of one model: `lines` are JSON documents without line ends."""

    start: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source of events has been read: stored with the events that it gave.

    source    names the source, such as `access_log`
    position  opaque to the stream; whatever the source needs to go on from there
    """

    source: str
    position: str


class Stream(Protocol):
    """An ordered, durable log per model."""

    def append(
        self,
        lines: Mapping[str, Sequence[bytes]],
        *,
        mark: Mark | None = None,
        trim: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Append events to each model's log, all or nothing, durably when it returns.

        The `mark` is stored in the same transaction. (In a cluster of Redis each model is one of
        its own, and the mark the last: what fails may be there for some models.) Gives the offset
        of the first appended event of each model. Raises `Retryable` when the store is out of
        reach.

        trim  model -> offset of the oldest event that is still needed. The store may drop blocks
              that lie before it as a whole, now or at a later trim; never one that holds it or a
              later event. Offsets do not change: an append to a log that was emptied goes on at
              its end. One beyond the end asks for no more than the end.
        """
        ...

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks of `model` from offset `start` on, in order, to the end of the log as it is now.

        The first block is cut so that it begins at `start`. `limit` is about how many events are
        read. Raises `Trimmed`, here or at a block, when the log begins after `start` by now.
        """
        ...

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...


def open_stream(url: str) -> Stream:
    """The event log that `url` names.

    `sqlite:///state/events.db` is a file beside the process, `sqlite:////var/lib/events.db` one
    from the root; `redis://HOST:PORT/DATABASE` (`rediss://` with TLS) is a Redis, and
    `redis+sentinel://` or `redis+cluster://` several of them, as `controller.stream.redis_address`
    tells; their options `controller.stream.redis` explains.
    `kafka://HOST:PORT,HOST:PORT/PREFIX` (`kafkas://` with TLS) is a Kafka, for which see
    `controller.stream.kafka`.

    Raises:
        Permanent: when the scheme is unknown (nothing is opened in its place), or the store is
            unusable.
        Retryable: when the store is out of reach.
    """
    scheme, _, _ = url.partition("://")
    if scheme not in _OPENERS:
        # The rest of the address stays out of the message: it may hold a password.
        raise Permanent(
            f"event log: found an address with the scheme {scheme.partition(':')[0]!r}, expected "
            f"one of {', '.join(_OPENERS)}, such as sqlite:///state/events.db"
        )
    return _OPENERS[scheme](url)


def _open_sqlite(url: str) -> Stream:
    from controller.stream.sqlite import SqliteStream  # noqa: PLC0415 - pay for one backend only

    rest = url.partition("://")[2]
    if not rest.startswith("/") or rest == "/":
        raise Permanent(
            f"event log: found sqlite://{rest}, expected a file such as sqlite:///state/events.db"
        )
    return SqliteStream(rest.removeprefix("/"))


def _open_redis(url: str) -> Stream:
    try:
        from controller.stream.redis import RedisStream  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise Permanent(
            f"event log: no driver for redis ({exc}): install understudy[cluster]"
        ) from exc
    return RedisStream(url)


def _open_kafka(url: str) -> Stream:
    try:
        from controller.stream.kafka import KafkaStream  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise Permanent(
            f"event log: no driver for kafka ({exc}): install understudy[cluster]"
        ) from exc
    return KafkaStream(url)


_OPENERS: Final[dict[str, Callable[[str], Stream]]] = {
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "rediss": _open_redis,
    "kafka": _open_kafka,
    "kafkas": _open_kafka,
    "redis+sentinel": _open_redis,
    "rediss+sentinel": _open_redis,
    "redis+cluster": _open_redis,
    "rediss+cluster": _open_redis,
}
