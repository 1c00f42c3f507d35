"""The event log in a Redis, for controllers on several nodes: one Redis stream per model.

    entry of a block    id = END-0, fields n (count) and b (body); it holds [END - n, END)
    PREFIX:ends         hash: model -> END of its last block
    PREFIX:marks        hash: source -> position
    PREFIX:done:TOKEN   the answer to an append, for two minutes

So the block that holds offset s is the first with an id of s + 1 or above: one range look-up. An
append, of any number of models, with its mark, is one Lua script, which looks before it writes;
nothing else runs in Redis meanwhile. All keys share one hash tag: a cluster of Redis keeps them in
one slot, without which a script over several models could not be atomic.

A connection can break after Redis has done its work and before it said so. Each append carries a
token, and one that is sent again is answered as before, so that it is in the log once. Only an
append that failed for good, a `Retryable` for its caller, may be in the log all the same.

What durable means is set in Redis, and looked at when the log is opened (`durability` in the
address):

    always      the default: on the disk when `append` returns; needs appendfsync always
    everysec    a power cut may take the last second of events with it, acknowledged ones too
    unchecked   nobody looks, for services that do not tell; then it is yours to know

`replicas=N` makes an append wait until N replicas have it, so that it survives a failover. A Redis
that may evict our keys when its memory is full is refused: the log is not a cache. It lives in
memory as a whole: about 45 bytes per exposure.

Rejected: an entry per event (ten times the memory), ids made by Redis (offsets must be dense),
MULTI (the offsets must be known before what is written is), a key prefix per model as hash tag (see
above).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from uuid import uuid4

import redis
from redis import exceptions as faults
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from controller.errors import BackendError, InvariantError, Permanent, Retryable
from controller.stream import Block, Mark
from controller.stream.packing import packed, unpacked

_OPTIONS: Final = {"prefix": "understudy", "durability": "always", "replicas": "0"}
_DURABILITIES: Final = ("always", "everysec", "unchecked")
_FORMAT: Final = b"1"

_SETTINGS: Final = ("appendonly", "appendfsync", "maxmemory-policy")

_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 5.0
_IDLE_CHECK_S: Final = 15
_AGAIN: Final = 2
_TOKEN_S: Final = 120
_REPLICAS_MS: Final = 3_000
_BLOCKS: Final = 32
"""Blocks per look-up of a read."""

_APPEND: Final = """
local done = redis.call('GET', KEYS[1])
if done then return cjson.decode(done) end
local at, plans = 4, {}
for k = 4, #KEYS do
  local model, blocks = ARGV[at], tonumber(ARGV[at + 1])
  local last = redis.call('HGET', KEYS[2], model)
  local kind = redis.call('TYPE', KEYS[k])['ok']
  if kind ~= (last and 'stream' or 'none') then
    return redis.error_reply('DAMAGED ' .. model .. ': its log is a ' .. kind)
  end
  local first = tonumber(last or '0')
  if last and #redis.call('XRANGE', KEYS[k], first + 1, '+', 'COUNT', 1) > 0 then
    return redis.error_reply('DAMAGED ' .. model .. ': there are events after its end')
  end
  plans[#plans + 1] = {KEYS[k], model, first, at + 2, blocks}
  at = at + 2 + 2 * blocks
end
local starts = {}
for i, plan in ipairs(plans) do
  local key, model, last, from, blocks = unpack(plan)
  starts[i] = last
  for b = 0, blocks - 1 do
    last = last + tonumber(ARGV[from + 2 * b])
    redis.call('XADD', key, string.format('%.0f-0', last),
               'n', ARGV[from + 2 * b], 'b', ARGV[from + 2 * b + 1])
  end
  if blocks > 0 then redis.call('HSET', KEYS[2], model, string.format('%.0f', last)) end
end
if ARGV[1] == '1' then redis.call('HSET', KEYS[3], ARGV[2], ARGV[3]) end
redis.call('SET', KEYS[1], cjson.encode(starts), 'EX', TOKEN_S)
return starts
""".replace("TOKEN_S", str(_TOKEN_S))

_Part: TypeAlias = str | bytes | int


class RedisStream:
    """A `Stream` in the Redis at `url`: `redis://[USER:PASSWORD@]HOST:PORT/DATABASE[?OPTIONS]`.

    Options are `prefix` (default `understudy`), `durability` and `replicas`; see the module. Calls
    may come from any thread.

    Raises:
        Permanent: the address is wrong, the Redis is not fit to keep a log, or refuses us.
        Retryable: it is out of reach.
    """

    def __init__(self, url: str) -> None:
        address, options = _split(url)
        self._name = _without_password(address)
        self._durability = options["durability"]
        self._replicas = int(options["replicas"])
        self._prefix = f"{{{options['prefix']}}}"
        self._is_closed = False
        with self._mapped():
            try:
                self._client = redis.Redis.from_url(
                    address,
                    socket_connect_timeout=_CONNECT_S,
                    socket_timeout=_ANSWER_S,
                    socket_keepalive=True,
                    health_check_interval=_IDLE_CHECK_S,
                    retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), _AGAIN),
                )
            except ValueError as exc:
                raise Permanent(f"event log: {exc}; expected redis://HOST:PORT/DATABASE") from exc
            self._prepare()

    def append(
        self, lines: dict[str, Sequence[bytes]], *, mark: Mark | None = None
    ) -> dict[str, int]:
        """Append events to each model's log, all or nothing, durably when it returns."""
        keys: list[str] = [f"{self._prefix}:done:{uuid4().hex}", self._ends, self._marks]
        parts: list[_Part] = [0, "", ""] if mark is None else [1, mark.source, mark.position]
        for model, own in lines.items():
            blocks = packed(own)
            keys.append(self._log(model))
            parts += [model, len(blocks)]
            for count, body in blocks:
                parts += [count, body]
        with self._mapped():
            starts = self._run(keys, parts)
        return dict(zip(lines, starts, strict=True))

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks from `start` to the end of the log as it is at this call, about `limit` events."""
        if start < 0:
            raise InvariantError(f"read from offset {start}: offsets count from 0")
        # Not itself a generator: one would look for the end at its first `next` only.
        return self._blocks(model, start, min(self.end(model), start + limit))

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        found = self._ask("HGET", self._marks, source)
        return None if found is None else str(found, "utf-8")

    def end(self, model: str) -> int:
        """The offset that the next event of `model` will have."""
        return int(self._ask("HGET", self._ends, model) or 0)

    def close(self) -> None:
        """Release the connections. Closing twice is fine."""
        self._is_closed = True
        self._client.close()

    @property
    def _ends(self) -> str:
        return f"{self._prefix}:ends"

    @property
    def _marks(self) -> str:
        return f"{self._prefix}:marks"

    def _log(self, model: str) -> str:
        return f"{self._prefix}:log:{model}"

    def _run(self, keys: Sequence[str], parts: Sequence[_Part]) -> list[int]:
        """Append; with replicas, wait for them on the same connection."""
        commands: list[tuple[_Part, ...]] = [("EVAL", _APPEND, len(keys), *keys, *parts)]
        if self._replicas:
            commands.append(("WAIT", self._replicas, _REPLICAS_MS))
        starts, *reached = self._sent(*commands)
        if reached and reached[0] < self._replicas:
            raise Retryable(
                f"event log {self._name}: {reached[0]} of {self._replicas} replicas have the "
                "events: see that they run"
            )
        return [int(start) for start in starts]

    def _blocks(self, model: str, start: int, stop: int) -> Iterator[Block]:
        while start < stop:
            found = self._ask(
                "XRANGE", self._log(model), f"{start + 1}", f"{stop}", "COUNT", _BLOCKS
            )
            # The last one may end beyond `stop`, and then it is not in this range.
            found = found or self._ask("XRANGE", self._log(model), f"{start + 1}", "+", "COUNT", 1)
            if not found:
                raise self._damaged(f"offset {start} of {model} is missing")
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
            raise self._damaged(f"offset {offset} of {model} is missing")
        try:
            return unpacked(int(count), body)[offset - first :]
        except ValueError as exc:
            raise self._damaged(f"block {first} of {model}: {exc}") from exc

    def _ask(self, *command: _Part) -> Any:
        with self._mapped():
            return self._sent(command)[0]

    def _sent(self, *commands: Sequence[_Part]) -> list[Any]:
        """The answers to commands that go over one connection, as Redis gives them.

        Sent again when the connection breaks. Plain commands, because what `Redis.xrange` and the
        like make of an answer changes with the version of the client.
        """
        pipeline: Any = self._client.pipeline(transaction=False)
        pipeline.response_callbacks = {}
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute()
        return answers

    def _prepare(self) -> None:
        """Refuse a Redis that is not fit to keep a log, or has one of a newer Understudy."""
        if self._durability != "unchecked":
            self._check_durability(self._settings())
        key = f"{self._prefix}:format"
        self._ask("SET", key, _FORMAT, "NX")
        if (found := self._ask("GET", key)) != _FORMAT:
            raise Permanent(
                f"event log {self._name}: found format {found!r}, expected {_FORMAT!r}: give "
                "another prefix, or use the Understudy that made this one"
            )

    def _settings(self) -> dict[str, str]:
        try:
            return {name: self._setting(name) for name in _SETTINGS}
        except Permanent as exc:
            raise Permanent(
                f"{exc}: whether events are safe there cannot be seen; if you know that they are, "
                "add ?durability=unchecked to the address"
            ) from exc

    def _setting(self, name: str) -> str:
        found = self._ask("CONFIG", "GET", name)  # a map in RESP 3, a list in RESP 2
        values = list(found.values()) if isinstance(found, dict) else found[1:]
        return str(values[0], "utf-8") if values else ""

    def _check_durability(self, settings: dict[str, str]) -> None:
        policy = settings["maxmemory-policy"]
        if policy.startswith("allkeys"):
            raise Permanent(
                f"event log {self._name}: maxmemory-policy is {policy}, which may throw events "
                "away: set it to noeviction"
            )
        is_kept, synced = settings["appendonly"], settings["appendfsync"]
        if is_kept == "yes" and synced in {"always", self._durability}:
            return
        raise Permanent(
            f"event log {self._name}: found appendonly {is_kept} and appendfsync {synced}, "
            f"expected yes and {self._durability}: set them in Redis, or say what is enough with "
            "?durability=everysec (or unchecked) in the address"
        )

    def _damaged(self, what: str) -> Permanent:
        return Permanent(
            f"event log {self._name} is damaged: {what}: stop the controller and restore it from "
            "a backup"
        )

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Foreign errors become ours."""
        if self._is_closed:
            raise Permanent(f"event log {self._name}: it was closed")
        try:
            yield
        except faults.RedisError as exc:
            raise self._ours(exc) from exc

    def _ours(self, exc: faults.RedisError) -> BackendError:
        message = f"event log {self._name}: {exc}"
        word = str(exc).partition(" ")[0]
        if "DAMAGED" in str(exc):
            return self._damaged(str(exc).partition("DAMAGED ")[2])
        if isinstance(exc, _REFUSALS):
            return Permanent(f"{message}: see to the user, the password and what it may do")
        if isinstance(exc, _TRANSIENT) or word in _TRANSIENT_WORDS:
            return Retryable(f"{message}: it is tried again", after_s=1.0)
        return Permanent(message)


_REFUSALS: Final = (
    faults.AuthenticationError,
    faults.AuthorizationError,
    faults.NoPermissionError,
)
"""Looked at before the transient ones, of which some are a kind."""
_TRANSIENT: Final = (
    faults.ConnectionError,
    faults.TimeoutError,
    faults.OutOfMemoryError,
    faults.ReadOnlyError,
    faults.TryAgainError,
)
_TRANSIENT_WORDS: Final = frozenset(
    {"OOM", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "READONLY"}
)
"""First words of answers that time, or an operator with more room, can mend."""


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The address without our options, and these."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise Permanent(
            f"event log: found the option {unknown[0]!r} in the address, expected one of "
            f"{', '.join(_OPTIONS)}"
        )
    options = _OPTIONS | given
    if options["durability"] not in _DURABILITIES:
        raise Permanent(
            f"event log: found durability={options['durability']}, expected one of "
            f"{', '.join(_DURABILITIES)}"
        )
    if not options["replicas"].isdecimal():
        raise Permanent(f"event log: found replicas={options['replicas']}, expected a number")
    if not options["prefix"] or set(options["prefix"]) & set("{}"):
        raise Permanent(f"event log: found prefix={options['prefix']}, expected a name")
    return urlunsplit(parts._replace(query="")), options


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
