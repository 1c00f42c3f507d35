"""Follows the access log over rotations and restarts, from a position that its reader commits.

The log is a chain of files, oldest first: `access.log.1`, `access.log.2`, …, `access.log`. A
position is `inode:offset:head`, `head` being the first bytes of the file (the time of its first
line): the inode survives the renaming, and the head tells a file from another that was given the
inode of a deleted one.

Invariant: the lines of all reads, in order, are the lines of the chain, each once, provided that
each read goes on from a position that an earlier read gave. So a reader that stores the position
in one transaction with what it made of the lines reads exactly once, also over SIGKILL.

Why a successor means that its predecessor is complete: a router is only restarted after its
predecessor's process ended, and a router that is asked to reopen its log writes every later line
to the new file. The chain is listed before the old file is read to its end. A last line without
its end in a file that has a successor is what a killed router left: it is given as it is, and
becomes a dead letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HEAD = 17


@dataclass(frozen=True, slots=True)
class _Position:
    inode: int
    offset: int
    head: str

    def __str__(self) -> str:
        return f"{self.inode}:{self.offset}:{self.head}"


def _parse(position: str) -> _Position:
    inode, offset, head = position.split(":", 2)
    return _Position(int(inode), int(offset), head)


def rotated(path: Path) -> list[Path]:
    """The rotated files of a log, oldest first."""
    numbered = [
        (int(each.name.rpartition(".")[2]), each)
        for each in path.parent.glob(f"{path.name}.*")
        if each.name.rpartition(".")[2].isdigit()
    ]
    return [each for _number, each in sorted(numbered)]


def rotation_target(path: Path) -> Path:
    """The name that the present log gets when it is rotated away."""
    before = rotated(path)
    number = int(before[-1].name.rpartition(".")[2]) + 1 if before else 1
    return path.with_name(f"{path.name}.{number}")


class Tail:
    """Reads the chain of files of one log."""

    def __init__(self, path: Path, position: str | None = None) -> None:
        self._path = path
        self._at = _parse(position) if position else None

    @property
    def position(self) -> str | None:
        """Where the next read goes on; None as long as there has never been a log."""
        return str(self._at) if self._at else None

    def read(self, limit_bytes: int = 1 << 20) -> tuple[list[bytes], str | None]:
        """The next whole lines, about `limit_bytes` of them, and the position after them.

        The position is None as long as there has never been a log.
        """
        while True:
            chain = self._chain()
            index, at = self._locate(chain)
            if at is None:
                return [], self.position
            is_last = index == len(chain) - 1
            lines, self._at = _read(chain[index], at, limit_bytes, is_complete=not is_last)
            if lines or is_last:
                return lines, str(self._at)
            following = chain[index + 1]
            self._at = _Position(following.stat().st_ino, 0, "")

    def forget(self, position: str) -> tuple[Path, ...]:
        """Delete the files before the one that `position` stands in, and say which.

        To be called once the position has been committed.
        """
        at = _parse(position)
        chain = self._chain()
        found = [i for i, each in enumerate(chain) if _is_at(each, at)]
        gone = tuple(chain[: found[0]]) if found else ()
        for each in gone:
            each.unlink()
        return gone

    def _chain(self) -> list[Path]:
        """The files as they are now; a renaming between two looks is looked at again."""
        current = [self._path] if self._path.exists() else []
        older = rotated(self._path)
        inodes = {each.stat().st_ino for each in older}
        return older + [each for each in current if _inode(each) not in inodes | {None}]

    def _locate(self, chain: list[Path]) -> tuple[int, _Position | None]:
        """Where to go on: in the file of the position, else in the first that is newer than it."""
        for index, each in enumerate(chain):
            if self._at is not None and _is_at(each, self._at):
                return index, self._at
        for index, each in enumerate(chain):
            if self._at is None or _head(each) > self._at.head or _inode(each) == self._at.inode:
                return index, _Position(each.stat().st_ino, 0, "")
        return 0, None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEAD).decode("latin-1")


def _is_at(path: Path, at: _Position) -> bool:
    """Whether this file is the one of the position, and holds it."""
    stat = path.stat()
    if stat.st_ino != at.inode or stat.st_size < at.offset:
        return False
    return at.offset == 0 or _head(path) == at.head


def _read(
    path: Path, at: _Position, limit_bytes: int, *, is_complete: bool
) -> tuple[list[bytes], _Position]:
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("latin-1")
        file.seek(at.offset)
        chunk = file.read(limit_bytes)
        while chunk and b"\n" not in chunk and (more := file.read(limit_bytes)):
            chunk += more
        at_end = not file.read(1)
    end = chunk.rfind(b"\n") + 1
    lines = chunk[:end].split(b"\n")[:-1]
    if is_complete and at_end and end < len(chunk):
        lines.append(chunk[end:])
        end = len(chunk)
    return lines, _Position(at.inode, at.offset + end, head if at.offset + end else "")
