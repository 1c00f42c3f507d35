"""The event log in one SQLite file: what a laptop and a single controller need.

Invariant: per model the blocks are gapless and never change,

    blocks in order b1, b2, …:  start(b1) = first  and  start(b(i+1)) = start(bi) + count(bi)

where `first` is 0 until the log is trimmed: then it stands in a row, which also says where an
emptied log goes on. An append, of any number of models, with its mark, is one transaction. When
`append` returns, its events are on the disk (WAL with `synchronous=FULL`: one fsync per append);
before, they are there whole or not at all. Readers see committed blocks only, and never make the
writer wait.

One row per block, not per event: SQLite takes 75 000 to 240 000 rows a second, the log has to take
several times that in events. How lines become a block, `packing` says.

One connection writes and one reads, each behind a lock, because API, tailer and loop call from
threads of their own. A reader holds its lock for one block at a time and no transaction in between:
blocks never change, so a long read needs no snapshot, and the WAL can be checkpointed meanwhile.
Rejected: a connection per thread (worker threads come and go, and every one would keep a file
handle until collected), a counter of the next offset in memory (two processes would disagree).

Trimming deletes rows; SQLite uses their pages again, so the file stays as large as the log ever was
between two trims, and no larger. Rejected: a file per hour, dropped as a whole (an append over
several files is not one transaction), giving the pages back to the disk (`auto_vacuum` moves a page
for each one freed, and they are needed again a moment later).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from controller.errors import BackendError, InvariantError, Permanent, Retryable, Trimmed
from controller.stream import Block, Mark
from controller.stream.packing import Packed, chunks, packed, unpacked
from controller.stream.recent import Recent

_SCHEMA_VERSION: Final = 2
_TRIMMED: Final = "CREATE TABLE trimmed (model TEXT PRIMARY KEY, first INTEGER NOT NULL) STRICT"
_SCHEMA: Final = (
    """CREATE TABLE block (
        id    INTEGER PRIMARY KEY,
        model TEXT    NOT NULL,
        start INTEGER NOT NULL,
        count INTEGER NOT NULL CHECK (count > 0),
        body  BLOB    NOT NULL,
        UNIQUE (model, start)
    ) STRICT""",
    "CREATE TABLE mark (source TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT",
    _TRIMMED,
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_UPGRADES: Final = {
    0: _SCHEMA,
    # An Understudy that does not know of trimming would number an emptied log from 0 again.
    1: (_TRIMMED, f"PRAGMA user_version = {_SCHEMA_VERSION}"),
}

_TRIM_BLOCKS: Final = 20_000
_TRIM_BYTES: Final = 1 << 26
"""No more than this is deleted at once, so that an append is never kept waiting for long."""

_FIRST = "SELECT first FROM trimmed WHERE model = ?"
_END = "SELECT start + count FROM block WHERE model = ? ORDER BY start DESC LIMIT 1"
_OLD = """SELECT start + count, length(body) FROM block
          WHERE model = ?1 AND start < ?2 AND start + count <= ?2 ORDER BY start LIMIT ?3"""
_DROP = "DELETE FROM block WHERE model = ? AND start < ?"
_SET_FIRST = """INSERT INTO trimmed (model, first) VALUES (?, ?)
                ON CONFLICT (model) DO UPDATE SET first = excluded.first"""
_AT = """SELECT start, count, body FROM block WHERE model = ? AND start <= ?
         ORDER BY start DESC LIMIT 1"""
_INSERT = "INSERT INTO block (model, start, count, body) VALUES (?, ?, ?, ?)"
_SET_MARK = """INSERT INTO mark (source, position) VALUES (?, ?)
               ON CONFLICT (source) DO UPDATE SET position = excluded.position"""


class SqliteStream:
    """A `Stream` in the SQLite file `path`, made if absent. Calls may come from any thread.

    busy_timeout_s  how long an append waits for another process that writes

    Raises:
        Permanent: when the file is something else, damaged, or of a newer Understudy.
        Retryable: when the disk is full or another process holds the lock for too long.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = 5.0) -> None:
        self._path = Path(path)
        self._write_lock, self._read_lock = Lock(), Lock()
        self._recent = Recent()
        with self._mapped():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect(busy_timeout_s)
            try:
                self._prepare()
                self._reader = self._connect(busy_timeout_s)
            except BaseException:
                self._writer.close()
                raise

    def append(
        self,
        lines: Mapping[str, Sequence[bytes]],
        *,
        mark: Mark | None = None,
        trim: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Append events to each model's log, all or nothing, durably when it returns."""
        blocks = {model: packed(ls) for model, ls in lines.items()}
        with self._write_lock, self._mapped(), _transaction(self._writer):
            starts = {model: self._append(model, own) for model, own in blocks.items()}
            if mark is not None:
                self._writer.execute(_SET_MARK, (mark.source, mark.position))
            for model, offset in (trim or {}).items():
                self._trim(model, offset)
        for model, start in starts.items():
            self._remember(model, start, lines[model])
        return starts

    def read(self, model: str, start: int, *, limit: int = 100_000) -> Iterator[Block]:
        """Blocks from `start` to the end of the log as it is at this call, about `limit` events."""
        if start < 0:
            raise InvariantError(f"read from offset {start}: offsets count from 0")
        if start < (first := self.first(model)):
            raise Trimmed(model, first)
        # Not itself a generator: one would look for the end at its first `next` only.
        return self._blocks(model, start, min(self.end(model), start + limit))

    def mark(self, source: str) -> str | None:
        """The position last stored for `source`, None when there is none."""
        row = self._one("SELECT position FROM mark WHERE source = ?", source)
        return None if row is None else str(row[0])

    def first(self, model: str) -> int:
        """The offset of the oldest event of `model` that is kept."""
        row = self._one(_FIRST, model)
        return 0 if row is None else int(row[0])

    def end(self, model: str) -> int:
        """The offset that the next event of `model` will have."""
        row = self._one(_END, model) or self._one(_FIRST, model)
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        with self._write_lock, self._read_lock, self._mapped():
            self._reader.close()
            self._writer.close()

    def _append(self, model: str, blocks: Sequence[Packed]) -> int:
        first = next_ = self._next(model)
        for count, body in blocks:
            self._writer.execute(_INSERT, (model, next_, count, body))
            next_ += count
        return first

    def _next(self, model: str) -> int:
        for query in (_END, _FIRST):
            if (row := self._writer.execute(query, (model,)).fetchone()) is not None:
                return int(row[0])
        return 0

    def _trim(self, model: str, offset: int) -> None:
        first, size = 0, 0
        for end, length in self._writer.execute(_OLD, (model, offset, _TRIM_BLOCKS)):
            first, size = int(end), size + length
            if size >= _TRIM_BYTES:
                break
        if first:
            self._writer.execute(_DROP, (model, first))
            self._writer.execute(_SET_FIRST, (model, first))

    def _remember(self, model: str, start: int, lines: Sequence[bytes]) -> None:
        for chunk in chunks(lines):
            self._recent.keep(model, start, chunk)
            start += len(chunk)

    def _blocks(self, model: str, start: int, stop: int) -> Iterator[Block]:
        while start < stop:
            lines = self._lines(model, start)
            yield Block(start, lines)
            start += len(lines)

    def _lines(self, model: str, offset: int) -> tuple[bytes, ...]:
        """The lines from `offset` to the end of the block in which it lies."""
        if (recent := self._recent.take(model, offset)) is not None:
            return recent
        row = self._one(_AT, model, offset)
        if row is None or row[0] + row[1] <= offset:
            if offset < (first := self.first(model)):
                raise Trimmed(model, first)  # while it was read
            raise self._damaged(f"offset {offset} of {model} is missing")
        start, count, body = row
        try:
            return unpacked(count, body)[offset - start :]
        except ValueError as exc:
            raise self._damaged(f"block {start} of {model}: {exc}") from exc

    def _one(self, query: str, *parameters: str | int) -> tuple[int, int, bytes] | None:
        with self._read_lock, self._mapped():
            row: tuple[int, int, bytes] | None = self._reader.execute(query, parameters).fetchone()
        return row

    def _connect(self, busy_timeout_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _prepare(self) -> None:
        """Make the schema in a new file; refuse a file that is not ours."""
        if self._writer.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            self._refuse_unless(self._found_version() in {*_UPGRADES, _SCHEMA_VERSION})
            self._writer.execute("PRAGMA journal_mode = WAL")
        with _transaction(
            self._writer
        ):  # two processes may start at once: the second finds it made
            for statement in _UPGRADES.get(self._found_version(), ()):
                self._writer.execute(statement)
            self._refuse_unless(self._found_version() == _SCHEMA_VERSION)

    def _found_version(self) -> int:
        """The file's schema version: 0 for an empty file, -1 for another program's."""
        version = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in self._writer.execute("SELECT name FROM sqlite_schema")}
        if not tables and version == 0:
            return 0
        return version if {"block", "mark"} <= tables else -1

    def _refuse_unless(self, is_known: bool) -> None:  # noqa: FBT001 - the word is the sentence
        if is_known:
            return
        version = self._found_version()
        found = "another program's database" if version < 0 else f"schema version {version}"
        raise Permanent(
            f"event log {self._path}: found {found}, expected an event log of schema version "
            f"{_SCHEMA_VERSION}: name another file, or use the Understudy that made this one"
        )

    def _damaged(self, what: str) -> Permanent:
        return Permanent(
            f"event log {self._path} is damaged: {what}: stop the controller, move the file away "
            "and restore it from a backup"
        )

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Foreign errors become ours."""
        try:
            yield
        except sqlite3.Error as exc:
            raise self._ours(exc) from exc
        except OSError as exc:
            raise Permanent(
                f"event log {self._path} can not be made: {exc}: name a folder that can be written"
            ) from exc

    def _ours(self, exc: sqlite3.Error) -> BackendError:
        # The low byte is the primary result code: https://sqlite.org/rescode.html
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
        message = f"event log {self._path}: {exc}"
        if code in _RETRYABLE:
            return Retryable(f"{message}: {_RETRYABLE[code]}", after_s=1.0)
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return self._damaged(str(exc))
        return Permanent(f"{message}: {_PERMANENT.get(code, 'this needs a person')}")


_RETRYABLE: Final = {
    sqlite3.SQLITE_BUSY: "another process is writing; it is tried again",
    sqlite3.SQLITE_LOCKED: "another process is writing; it is tried again",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "look after the disk",
    sqlite3.SQLITE_NOMEM: "memory is short",
    sqlite3.SQLITE_PROTOCOL: "another process is opening it; it is tried again",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted; it is tried again",
}
_PERMANENT: Final = {
    sqlite3.SQLITE_CANTOPEN: "see that the folder exists and can be written",
    sqlite3.SQLITE_READONLY: "give the controller the right to write the file and its folder",
    sqlite3.SQLITE_PERM: "give the controller the right to write the file and its folder",
    sqlite3.SQLITE_MISUSE: "it was closed",
}


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        raise
