"""The append to a Redis, as the script that Redis runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from controller.stream import Mark
from controller.stream.packing import Packed

_TOKEN_S: Final = 120
"""How long Redis remembers what it answered to an append."""

APPEND: Final = """
local done = redis.call('GET', KEYS[1])
if done then
  -- A write, so that the WAIT which follows waits for what this one came after.
  redis.call('EXPIRE', KEYS[1], TOKEN_S)
  return cjson.decode(done)
end
local at, plans, appended = 5, {}, 4 + tonumber(ARGV[4])
for k = 5, appended do
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
for k = appended + 1, #KEYS do
  local model, last = ARGV[at], redis.call('HGET', KEYS[2], ARGV[at])
  if last and redis.call('XTRIM', KEYS[k], 'MINID', ARGV[at + 1]) > 0 then
    local oldest = redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)[1]
    local first = tonumber(last)
    if oldest then first = tonumber(string.match(oldest[1], '^%d+')) - tonumber(oldest[2][2]) end
    redis.call('HSET', KEYS[4], model, string.format('%.0f', first))
  end
  at = at + 2
end
redis.call('SET', KEYS[1], cjson.encode(starts), 'EX', TOKEN_S)
return starts
""".replace("TOKEN_S", str(_TOKEN_S))

Part: TypeAlias = str | bytes | int


class Script(NamedTuple):
    """An append, or the part of one whose keys share a tag."""

    models: tuple[str, ...]
    keys: list[str]
    parts: list[Part]

    @property
    def command(self) -> tuple[Part, ...]:
        """What is sent to Redis."""
        return ("EVAL", APPEND, len(self.keys), *self.keys, *self.parts)


def script(
    keys: Sequence[str],
    log_of: Callable[[str], str],
    given: Mapping[str, Sequence[Packed]],
    mark: Mark | None,
    trim: Mapping[str, int],
) -> Script:
    """The append of these blocks.

    keys    of the answer, of the ends, the marks, and the firsts
    log_of  the key of a model's log
    """
    found = list(keys)
    parts: list[Part] = [0, "", ""] if mark is None else [1, mark.source, mark.position]
    parts.append(len(given))
    for model, blocks in given.items():
        found.append(log_of(model))
        parts += [model, len(blocks)]
        for count, body in blocks:
            parts += [count, body]
    for model, offset in trim.items():
        found.append(log_of(model))
        parts += [model, f"{offset + 1}-0"]
    return Script(tuple(given), found, parts)
