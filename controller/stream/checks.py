"""What `understudy doctor` looks at in an event log: one list of checks per kind of store.

A store that is added has its checks in a module of its own, named here by its scheme. It has two
functions, from an address and a clock to findings, which leave nothing behind in the store:

    log     whether it can keep the event log
    source  whether events can be read from it that others write, where there is such a thing
"""

from __future__ import annotations

import sqlite3
import time  # noqa: TID251 - how long a write takes is measured, nothing is decided by it
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Final, TypeAlias
from uuid import uuid4

from controller.core.model.checks import Finding, failed, fine, of_error, speed
from controller.errors import UnderstudyError
from controller.stream.sqlite import SqliteStream

Check: TypeAlias = Callable[[str, Callable[[], float]], Iterator[Finding]]

CHECKS: Final = {
    "sqlite": "controller.stream.checks",
    "redis": "controller.stream.redis_checks",
    "rediss": "controller.stream.redis_checks",
    "redis+sentinel": "controller.stream.redis_checks",
    "rediss+sentinel": "controller.stream.redis_checks",
    "redis+cluster": "controller.stream.redis_checks",
    "rediss+cluster": "controller.stream.redis_checks",
    "kafka": "controller.stream.kafka_checks",
    "kafkas": "controller.stream.kafka_checks",
}
"""Scheme of an address -> module."""

_OLDEST: Final = (3, 37)
"""The first SQLite with STRICT tables."""

_WRITES: Final = 5


def check_stream(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """Everything that can be seen of the event log at `url`; `clock` gives epoch seconds."""
    return _checked("event log", "log", url, clock)


def check_source(url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    """The same of what others write and policies read."""
    return _checked("source", "source", url, clock)


def _checked(what: str, function: str, url: str, clock: Callable[[], float]) -> Iterator[Finding]:
    scheme = url.partition("://")[0]
    if scheme not in CHECKS:
        found = f"an address with the scheme {scheme.partition(':')[0]!r}"
        yield failed(what, found, f"give one of {', '.join(CHECKS)}")
        return
    try:
        check: Check = getattr(import_module(CHECKS[scheme]), function)
    except ImportError as exc:
        yield failed(what, f"no driver ({exc})", "install understudy[cluster]")
        return
    except AttributeError:
        yield failed(what, f"nothing can be read from {scheme}", "give Kafka or Redis")
        return
    yield from check(url, clock)


def log(url: str, clock: Callable[[], float]) -> Iterator[Finding]:  # noqa: ARG001 - no clock
    """A file: whether it is ours, and whether its folder takes another, how quickly."""
    file = Path(url.partition(":///")[2])
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _OLDEST:
        yield failed("event log: version", found, "use a Python whose SQLite is 3.37 or newer")
    else:
        yield fine("event log: version", found)
    if file.exists():
        yield _opened(file)
    else:
        yield fine("event log", f"{file} is not there yet; serve makes it")
    yield scratch(file.parent)


def scratch(folder: Path) -> Finding:
    """Append to a log beside the real one, which is removed again."""
    check = "event log: append"
    nearest = next(each for each in (folder, *folder.parents) if each.is_dir())
    file = nearest / f".doctor-{uuid4().hex}.db"
    try:
        with closing(SqliteStream(file, busy_timeout_s=1.0)) as other:
            began = time.perf_counter()
            for number in range(_WRITES):
                other.append({"doctor": [b'{"n":%d}' % number]})
            took = (time.perf_counter() - began) / _WRITES
    except UnderstudyError as exc:
        return of_error(check, exc, f"see to the disk of {nearest}")
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                file.with_name(file.name + suffix).unlink()
    return speed(check, took, of="an append")


def _opened(file: Path) -> Finding:
    """Whether the file is an event log; it is never made.

    Not opened read-only: that would leave the files of its WAL behind.
    """
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=1.0)) as opened:
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_schema")}
            size = opened.execute("PRAGMA page_count").fetchone()[0]
    except sqlite3.Error as exc:
        return failed("event log", f"{file}: {exc}", "restore it from a backup, or move it away")
    if not {"block", "mark"} <= tables:
        return failed("event log", f"{file} is another program's", "name another file")
    return fine("event log", f"{file}, {size} pages")
