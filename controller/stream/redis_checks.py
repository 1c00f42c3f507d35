"""What `understudy doctor` looks at in a Redis that keeps the event log.

Scratch keys have the log's own prefix, because a user may be allowed no others, and are removed.
"""

from __future__ import annotations

import time  # noqa: TID251 - how long a write takes is measured, nothing is decided by it
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

from controller.core.model.checks import Finding, failed, fine, of_error, skew, speed, warning
from controller.errors import BackendError
from controller.stream.redis import RedisStream
from controller.stream.redis_address import address_of
from controller.stream.redis_nodes import mapped, nodes_of

_OLDEST: Final = (6, 2)
"""The first Redis that trims a stream by identifiers."""

_FULL: Final = 0.8
_WRITES: Final = 5
_SCRIPT: Final = "return redis.call('XADD', KEYS[1], ARGV[1], 'n', '1')"
_FULL_REMEDY: Final = "raise maxmemory: the log lives in memory"
_UNREACHABLE: Final = "see that it runs, and that address, user and password are right"


def source(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """Reachable, and its clock; nothing is written."""
    try:
        yield _clock("source", url, clock)
    except BackendError as exc:
        yield of_error("source", exc, _UNREACHABLE)
        return
    yield fine("source", f"{_shown(url)} answers")


def log(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """Reachable, fit to keep a log, of a version and with the rights that the log needs."""
    try:
        yield _clock("event log", url, clock)
    except BackendError as exc:
        yield of_error("event log", exc, _UNREACHABLE)
        return
    try:
        with closing(RedisStream(url)):
            pass
        yield fine("event log", f"{_shown(url)} keeps events durably")
    except BackendError as exc:
        is_full = "OOM" in str(exc)
        yield of_error("event log", exc, _FULL_REMEDY if is_full else _UNREACHABLE)
    try:
        # Unfit is found above; here is what else there is to see.
        with closing(RedisStream(_unchecked(url))) as opened:
            yield from _looked_at(opened)
    except BackendError:
        return  # the same fault as above


def _looked_at(opened: RedisStream) -> Iterator[Finding]:
    yield from _server(opened)
    yield from _rights(opened)
    if not _ask(opened, "EXISTS", opened._key("", "ends")):  # noqa: SLF001 - of our own room
        _ask(opened, "DEL", opened._key("", "format"))  # noqa: SLF001 - opening has made it


def _server(opened: RedisStream) -> Iterator[Finding]:
    try:
        info = _info(_ask(opened, "INFO"))
    except BackendError as exc:
        yield warning("event log: version", str(exc), "let the user read INFO, or look yourself")
        return
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        yield failed("event log: version", f"Redis {version}", "use Redis 6.2 or newer")
    else:
        yield fine("event log: version", f"Redis {version}")
    if info.get("role") == "slave":
        remedy = "give the address of the primary"
        yield failed("event log: role", "it is a replica, which takes no appends", remedy)
    if info.get("aof_enabled") == "1" and info.get("aof_last_write_status") == "err":
        yield failed("event log: disk", "its last write to disk failed", "make room on its disk")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    found = f"{used >> 20} of {limit >> 20} MiB of memory are used"
    if limit and used > _FULL * limit:
        yield warning("event log: memory", found, _FULL_REMEDY)
    elif limit:
        yield fine("event log: memory", found)


def _rights(opened: RedisStream) -> Iterator[Finding]:
    """Do with scratch keys what the log does with its own."""
    key = opened._key("", f"doctor:{uuid4().hex}")  # noqa: SLF001 - of our own room
    steps = (
        ("append", ("EVAL", _SCRIPT, 1, key, "1-0")),
        ("read", ("XRANGE", key, "-", "+")),
        ("trim", ("XTRIM", key, "MINID", "2")),
        ("delete", ("DEL", key)),
        ("keep marks", ("HSET", key, "source", "position")),
    )
    refused = []
    for name, command in steps:
        try:
            _ask(opened, *command)
        except BackendError as exc:
            refused.append(f"{name} ({str(exc).partition(': ')[2]})")
    check = "event log: rights"
    if refused:
        yield failed(check, f"it may not {', '.join(refused)}", "give the user these commands")
        return
    yield fine(check, "it may append, read, trim and delete")
    began = time.perf_counter()
    for number in range(_WRITES):
        _ask(opened, "HSET", key, "source", number)
    yield speed("event log: append", (time.perf_counter() - began) / _WRITES, of="a write")
    _ask(opened, "DEL", key)


def _clock(what: str, url: str, clock: Callable[[], float]) -> Finding:
    address, before = address_of(url), clock()
    with (
        mapped(address.text, is_cluster=address.kind == "cluster"),
        closing(nodes_of(address)) as nodes,
    ):
        seconds, microseconds = nodes.all()[0].time()
    theirs = int(seconds) + int(microseconds) / 1e6
    return skew(f"{what}: clock", theirs=theirs, ours=(before + clock()) / 2, whose="Redis")


def _ask(opened: RedisStream, *command: str | int) -> Any:
    """The answer of the node that has the scratch keys."""
    return opened._tried(opened._key("", "doctor"), command)[0]  # noqa: SLF001 - of our own room


def _info(answer: Any) -> dict[str, str]:
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def _unchecked(url: str) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | {"durability": "unchecked"}
    return urlunsplit(parts._replace(query=urlencode(query)))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
