"""The event log in a Redis, for controllers on several nodes: one Redis stream per model.

    entry of a block    id = END-0, fields n (count) and b (body); it holds [END - n, END)
    PREFIX:ends         hash: model -> END of its last block
    PREFIX:firsts       hash: model -> offset of its oldest event, for logs that were trimmed
    PREFIX:marks        hash: source -> position
    PREFIX:done:TOKEN   the answer to an append, for two minutes

So the block that holds offset s is the first with an id of s + 1 or above: one range look-up. An
append, of any number of models, with its mark, is one Lua script, which looks before it writes;
nothing else runs in Redis meanwhile.

A cluster of Redis runs a script where its keys are. There, each model's keys have a hash tag of
their own, so that the logs (which live in memory) spread over the nodes, and an append is a script
per model, then one for the mark:

    the mark is stored  =>  the events of every model that came with it are

A crash in between leaves the events of some models, and their source sends them once more. That is
no loss of exactness, because what an event is depends on it alone: exposures count once by their
request id, rewards by their id or, without one, by all that they say (`codec`), splits by epoch.

A connection can break after Redis has done its work and before it said so. Each append carries a
token, and one that is sent again is answered as before, so that it is in the log once. Where a
replica may take over (Sentinel, cluster) it is sent again for `_FAILOVER_S`; the token is part of
what was replicated. Only an append that failed for good, a `Retryable` for its caller, may be in
the log all the same.

What durable means is set in Redis, and looked at when the log is opened (`durability` in the
address):

    always      the default: on the disk when `append` returns; needs appendfsync always
    everysec    a power cut may take the last second of events with it, acknowledged ones too
    unchecked   nobody looks, for services that do not tell; then it is yours to know

`replicas=N` makes an append wait until N replicas have it. Where a replica may take over, that is
all of them unless the address says less. One of two is not enough: a primary that was stopped or
cut off, and goes on when the other replica has taken its place, finds this one still with it, and
what they agree on is thrown away when they hear of the new primary. (Seen with SIGSTOP and
Sentinels: 31 appends.) All of them is enough, as the one that took over no longer follows.

A Redis that may evict our keys when its memory is full is refused: the log is not a cache. It lives
in memory as a whole: about 45 bytes per exposure.

Trimming is part of the same script. A stream whose last entry was trimmed stays, empty, and `ends`
says where it goes on; an Understudy that knows nothing of trimming is right about that, so the
format is the same.

Rejected: an entry per event (ten times the memory), ids made by Redis (offsets must be dense),
MULTI (the offsets must be known before what is written is). In a cluster: one hash tag for all keys
(every log in the memory of one node, and the others idle), a mark beside each model (a source reads
one position, and N of them that differ after a crash would have to be told apart). On one Redis: a
hash tag per model (nothing is won, and an append over several models could be torn).
"""

from __future__ import annotations

import time  # noqa: TID251 - how long to wait for a failover, never the time of an event
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from controller.errors import InvariantError, Permanent, Retryable, Trimmed
from controller.stream import Block, Mark
from controller.stream.packing import Packed, packed, unpacked
from controller.stream.redis_address import address_of
from controller.stream.redis_nodes import Moved, damaged, mapped, nodes_of
from controller.stream.redis_script import Part, Script, script

_FORMAT: Final = b"1"

_SETTINGS: Final = ("appendonly", "appendfsync", "maxmemory-policy")

_REPLICAS_MS: Final = 3_000
_FAILOVER_S: Final = 15.0
"""For how long an append is sent again where a replica may take over."""
_LOOK_S: Final = 2.0
"""The same of everything else."""
_PAUSE_S: Final = 0.1
_BLOCKS: Final = 32
"""Blocks per look-up of a read."""


class RedisStream:
    """A `Stream` in the Redis at `url`, of which `controller.stream.redis_address` tells the forms.

    Options are `prefix` (default `understudy`), `durability` and `replicas`; see the module. Calls
    may come from any thread.

    Raises:
        Permanent: the address is wrong, the Redis is not fit to keep a log, or refuses us.
        Retryable: it is out of reach.
    """

    def __init__(self, url: str) -> None:
        address = address_of(url)
        self._name = f"event log {address.text}"
        self._durability = address.durability
        self._replicas = address.replicas
        self._prefix = address.prefix
        self._is_spread = address.kind == "cluster"
        self._can_fail_over = address.kind != "one"
        self._is_closed = False
        with self._mapped():
            self._nodes = nodes_of(address)
        self._prepare()

    def append(
        self,
        lines: Mapping[str, Sequence[bytes]],
        *,
        mark: Mark | None = None,
        trim: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Append events to each model's log, durably when it returns; all or nothing, see above."""
        given = {model: packed(own) for model, own in lines.items()}
        trim = trim or {}
        token = uuid4().hex
        if not self._is_spread:
            return self._run([self._script("", token, given, mark, trim)])
        scripts = [
            self._script(
                model,
                token,
                {model: given[model]} if model in given else {},
                None,
                {model: trim[model]} if model in trim else {},
            )
            for model in dict.fromkeys((*given, *trim))
        ]
        starts = self._run(scripts)
        if mark is not None:
            self._run([self._script("", token, {}, mark, {})])
        return {model: starts[model] for model in lines}

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks from `start` to the end of the log as it is at this call, about `limit` events."""
        if start < 0:
            raise InvariantError(f"read from offset {start}: offsets count from 0")
        ends, firsts = self._key(model, "ends"), self._key(model, "firsts")
        found = self._tried(ends, ("HGET", ends, model), ("HGET", firsts, model))
        end, first = (int(n or 0) for n in found)
        if start < first:
            raise Trimmed(model, first)
        # Not itself a generator: one would look for the end at its first `next` only.
        return self._blocks(model, start, min(end, start + limit))

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        found = self._ask("HGET", self._key("", "marks"), source)
        return None if found is None else str(found, "utf-8")

    def first(self, model: str) -> int:
        """The offset of the oldest event of `model` that is kept."""
        return int(self._ask("HGET", self._key(model, "firsts"), model) or 0)

    def end(self, model: str) -> int:
        """The offset that the next event of `model` will have."""
        return int(self._ask("HGET", self._key(model, "ends"), model) or 0)

    def close(self) -> None:
        """Release the connections. Closing twice is fine."""
        self._is_closed = True
        self._nodes.close()

    def _key(self, model: str, name: str) -> str:
        """A key of a model's; of none, where the model is empty."""
        tag = f"{self._prefix}/{model}" if model and self._is_spread else self._prefix
        return f"{{{tag}}}:{name}"

    def _log(self, model: str) -> str:
        return self._key(model, f"log:{model}")

    def _script(
        self,
        tag: str,
        token: str,
        given: Mapping[str, Sequence[Packed]],
        mark: Mark | None,
        trim: Mapping[str, int],
    ) -> Script:
        keys = [self._key(tag, name) for name in (f"done:{token}", "ends", "marks", "firsts")]
        return script(keys, self._log, given, mark, trim)

    def _run(self, scripts: Sequence[Script]) -> dict[str, int]:
        """Append; gives the first offsets. One node after the other, all it has in one go."""
        starts: dict[str, int] = {}
        todo = list(scripts)
        patience = _Patience(_FAILOVER_S if self._can_fail_over else 0.0)
        while todo:
            try:
                with self._mapped():
                    done = self._run_some(todo)
            except Moved as exc:
                self._renewed(exc, patience)
                continue
            for finished, found in done:
                starts |= dict(zip(finished.models, map(int, found), strict=True))
                todo.remove(finished)
        return starts

    def _run_some(self, scripts: Sequence[Script]) -> list[tuple[Script, list[int]]]:
        """Run those whose keys are where those of the first are; with replicas, wait for them."""
        node = self._nodes.of(scripts[0].keys[0])
        some = [script for script in scripts if self._nodes.of(script.keys[0]) is node]
        commands = [script.command for script in some]
        replicas = self._replicas
        if replicas is None:
            replicas = max(self._nodes.replicas(script.keys[0]) for script in some)
        if replicas:
            commands.append(("WAIT", replicas, _REPLICAS_MS))
        answers = _sent(node, commands)
        reached = answers.pop() if replicas else 0
        if reached < replicas:
            kind = Moved if self._can_fail_over else Retryable
            raise kind(
                f"{self._name}: {reached} of {replicas} replicas have the events: see that they run"
            )
        return list(zip(some, answers, strict=True))

    def _blocks(self, model: str, start: int, stop: int) -> Iterator[Block]:
        while start < stop:
            found = self._ask(
                "XRANGE", self._log(model), f"{start + 1}", f"{stop}", "COUNT", _BLOCKS
            )
            # The last one may end beyond `stop`, and then it is not in this range.
            found = found or self._ask("XRANGE", self._log(model), f"{start + 1}", "+", "COUNT", 1)
            if not found:
                raise self._missing(model, start)
            for identifier, fields in found:
                lines = self._lines(model, start, identifier, fields)
                yield Block(start, lines)
                start += len(lines)

    def _lines(
        self, model: str, offset: int, identifier: bytes, fields: list[bytes]
    ) -> tuple[bytes, ...]:
        """The lines of a block from `offset` to its end."""
        end = int(identifier.partition(b"-")[0])
        _, count, _, body = fields
        first = end - int(count)
        if first > offset:
            raise self._missing(model, offset)
        try:
            return unpacked(int(count), body)[offset - first :]
        except ValueError as exc:
            raise self._damaged(f"block {first} of {model}: {exc}") from exc

    def _ask(self, name: str, key: str, *rest: Part) -> Any:
        """The answer to a command on one key."""
        return self._tried(key, (name, key, *rest))[0]

    def _tried(self, key: str, *commands: tuple[Part, ...]) -> list[Any]:
        patience = _Patience(_LOOK_S if self._can_fail_over else 0.0)
        while True:
            try:
                with self._mapped():
                    return _sent(self._nodes.of(key), commands)
            except Moved as exc:
                self._renewed(exc, patience)

    def _renewed(self, fault: Moved, patience: _Patience) -> None:
        """Look again who has the keys, unless that took too long already."""
        if patience.is_over:
            raise fault
        time.sleep(_PAUSE_S)
        with suppress(Retryable), self._mapped():
            self._nodes.renew()

    def _prepare(self) -> None:
        """Refuse a Redis that is not fit to keep a log, or has one of a newer Understudy."""
        if self._durability != "unchecked":
            with self._mapped():
                nodes = self._nodes.all()
            for node in nodes:
                self._check_durability(self._settings(node))
        key = self._key("", "format")
        self._ask("SET", key, _FORMAT, "NX")
        if (found := self._ask("GET", key)) != _FORMAT:
            raise Permanent(
                f"{self._name}: found format {found!r}, expected {_FORMAT!r}: give "
                "another prefix, or use the Understudy that made this one"
            )

    def _settings(self, node: Any) -> dict[str, str]:
        try:
            return {name: self._setting(node, name) for name in _SETTINGS}
        except Permanent as exc:
            raise Permanent(
                f"{exc}: whether events are safe there cannot be seen; if you know that they are, "
                "add ?durability=unchecked to the address"
            ) from exc

    def _setting(self, node: Any, name: str) -> str:
        with self._mapped():
            (found,) = _sent(node, [("CONFIG", "GET", name)])  # a map in RESP 3, a list in RESP 2
        values = list(found.values()) if isinstance(found, dict) else found[1:]
        return str(values[0], "utf-8") if values else ""

    def _check_durability(self, settings: dict[str, str]) -> None:
        policy = settings["maxmemory-policy"]
        if policy.startswith("allkeys"):
            raise Permanent(
                f"{self._name}: maxmemory-policy is {policy}, which may throw events "
                "away: set it to noeviction"
            )
        is_kept, synced = settings["appendonly"], settings["appendfsync"]
        if is_kept == "yes" and synced in {"always", self._durability}:
            return
        raise Permanent(
            f"{self._name}: found appendonly {is_kept} and appendfsync {synced}, "
            f"expected yes and {self._durability}: set them in Redis, or say what is enough with "
            "?durability=everysec (or unchecked) in the address"
        )

    def _missing(self, model: str, offset: int) -> Permanent:
        """What is wrong where an event is not: it may have been trimmed while it was read."""
        if offset < (first := self.first(model)):
            return Trimmed(model, first)
        return self._damaged(f"offset {offset} of {model} is missing")

    def _damaged(self, what: str) -> Permanent:
        return damaged(self._name, what)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Foreign errors become ours."""
        if self._is_closed:
            raise Permanent(f"{self._name}: it was closed")
        with mapped(self._name, is_cluster=self._is_spread):
            yield


class _Patience:
    """For how long something is tried."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end


def _sent(node: Any, commands: Sequence[tuple[Part, ...]]) -> list[Any]:
    """The answers of a node to commands that go over one connection, as Redis gives them.

    Sent again when the connection breaks. Plain commands, because what `Redis.xrange` and the like
    make of an answer changes with the version of the client.
    """
    pipeline: Any = node.pipeline(transaction=False)
    pipeline.response_callbacks = {}
    for command in commands:
        pipeline.execute_command(*command)
    # Raised here: redis-py would put a sentence before the word that says what is wrong.
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
