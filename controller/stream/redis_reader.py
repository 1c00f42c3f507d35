"""A stream of somebody's Redis, read entry by entry.

One read is one transaction of `XINFO STREAM` and `XREAD`, so that the two are of one moment. Redis
counts the entries that were ever added (`entries-added`); with that count at our position we know
to the entry how many are ahead, and, once all that is there was read, how many were trimmed or
deleted before we came. A Redis before 7.0 does not count; then neither do we.

Ids that went back mean that a Redis came back, or another took over, without the last entries:
reading goes on at the end that there is.

Where the stream is (one Redis, the primary that Sentinels name, a node of a cluster) is looked up
when a reader begins; whoever uses it makes another when a read has failed (`loop.feeds` does).

No consumer group: the position is stored with the events that were read (see `loop.feeds`), and
what a group would acknowledge is a second truth.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from redis import exceptions as faults

from controller.errors import Retryable
from controller.stream.records import Position, Record, Taken
from controller.stream.redis_address import address_of
from controller.stream.redis_nodes import Nodes, mapped, nodes_of

BATCH: Final = 5_000
"""Entries of one read, at most; fewer where they are large, of which Redis would send them all."""

BATCH_BYTES: Final = 8 << 20
"""About how much one read brings."""

PAUSE_S: Final = 0.25
"""Between looks at a stream that has nothing new."""

_TIMEOUT_S: Final = 3.0
_NOTHING: Final = "0-0"


class RedisReader:
    """The stream `key` of the Redis at `url`, from `position` on.

    start     where to begin without a position; a number is a time, in epoch seconds
    position  what an earlier reader gave; `added`, the entries that were ever added up to there, is
              left out where Redis does not count them
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        start: Literal["latest", "earliest"] | float,
        position: Position | None,
    ) -> None:
        self._key = key
        self._start = start
        self._position = position
        self._closing = threading.Event()
        self._is_idle = False
        self._count = 100  # until it is known how large entries are
        self._address = address_of(url)
        self._name = self._address.text
        self._nodes: Nodes | None = None

    def read(self) -> Taken:
        """The next entries; waits a moment when the last read has left none."""
        if self._is_idle:
            self._closing.wait(PAUSE_S)
        if self._position is None:
            return self._begun()
        since = str(self._position["at"])
        info, found = self._asked(since)
        if info is None:
            raise self._missing()
        return self._taken(since, info, found)

    def close(self) -> None:
        """Let go of the connections."""
        self._closing.set()
        if self._nodes is not None:
            with suppress(faults.RedisError):
                self._nodes.close()

    def _begun(self) -> Taken:
        """A first look, which fixes where all later ones go on."""
        info, _ = self._asked(_NOTHING)
        added = 0 if info is None else _number(info, b"entries-added")
        first: Position = {"at": _NOTHING}
        if info is not None and isinstance(self._start, float):
            since, last = f"{max(0, int(self._start * 1_000))}-0", _text(info[b"last-generated-id"])
            first["at"] = min(since, last, key=_key)
            added = added if first["at"] == last else None  # how many came before is not told
        elif info is not None and self._start == "latest":
            first["at"] = _text(info[b"last-generated-id"])
        elif info is not None and added is not None:
            added -= int(info[b"length"])  # those that were trimmed by now are not missed
        if added is not None:
            first["added"] = added
        self._position = first
        return Taken((), first, is_complete=False)

    def _taken(self, since: str, info: dict[bytes, Any], found: Sequence[Any]) -> Taken:
        assert self._position is not None
        last = _text(info[b"last-generated-id"])
        if _key(last) < _key(since):
            self._position = {"at": last, "added": _number(info, b"entries-added") or 0}
            return Taken((), self._position, is_complete=False, began_anew=True)
        is_complete = len(found) < self._count
        position: Position = {"at": _text(found[-1][0]) if found else since}
        added, before = _number(info, b"entries-added"), self._position.get("added")
        lost = behind = 0
        if added is not None:
            seen = int(added if before is None else before) + len(found)
            if is_complete:
                lost, seen = max(0, added - seen), added
            behind = max(0, added - seen)
            position["added"] = seen
        self._position = position
        self._is_idle = is_complete
        records = [_record(identifier, fields) for identifier, fields in found]
        if records:
            mean = sum(map(_size, records)) / len(records)
            self._count = max(10, min(BATCH, int(BATCH_BYTES / max(mean, 1.0))))
        return Taken(records, position, is_complete, behind=behind, lost=lost)

    def _asked(self, since: str) -> tuple[dict[bytes, Any] | None, Sequence[Any]]:
        """What the stream is, None where there is none, and its entries after `since`."""
        with mapped(self._name, is_cluster=self._address.kind == "cluster"):
            self._nodes = self._nodes or nodes_of(self._address, answer_s=_TIMEOUT_S, tries=1)
            pipeline: Any = self._nodes.of(self._key).pipeline(transaction=True)
            pipeline.response_callbacks = {}
            pipeline.execute_command("XINFO", "STREAM", self._key)
            pipeline.execute_command("XREAD", "COUNT", self._count, "STREAMS", self._key, since)
            info, found = pipeline.execute(raise_on_error=False)
            if isinstance(info, faults.ResponseError) and "no such key" in str(info):
                return None, ()
            for answer in (info, found):
                if isinstance(answer, faults.RedisError):
                    raise answer
        streams = list(found.items()) if isinstance(found, dict) else found
        return _pairs(info), streams[0][1] if streams else ()

    def _missing(self) -> Retryable:
        return Retryable(
            f"{self._name} has no stream {self._key!r} (yet): it is read once there is one; if "
            "there should be, correct spec.sources",
            after_s=2.0,
        )


def _record(identifier: bytes, fields: Sequence[bytes] | dict[bytes, bytes]) -> Record:
    place = _text(identifier)
    body = {
        name.decode("utf-8", "backslashreplace"): value for name, value in _pairs(fields).items()
    }
    return Record(f"@{place}", int(place.partition("-")[0]) / 1_000, body)


def _size(record: Record) -> int:
    return sum(map(len, record.body.values())) if isinstance(record.body, dict) else 0


def _pairs(answer: Any) -> dict[bytes, Any]:
    """A map in RESP 3, a list of names and values in RESP 2."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _number(info: dict[bytes, Any], name: bytes) -> int | None:
    return int(info[name]) if name in info else None


def _text(value: bytes) -> str:
    return value.decode("ascii")


def _key(identifier: str) -> tuple[int, int]:
    """Entries are in the order of their ids: milliseconds, then a number."""
    time, _, number = identifier.partition("-")
    return int(time), int(number)
