"""Addresses for pods: a network namespace, joined to this machine's by a veth pair.

The API server refuses loopback addresses in endpoints, and a pod's address should go away with the
namespace, not with a reboot. One process holds one number N at a time (a lock that the kernel drops
when the process ends): 10.231.N.1 is this machine's end, 10.231.N.128/25 are the pods'. Whatever a
killed run has left is removed by the next one, which finds its lock free.

Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2.
"""

from __future__ import annotations

import fcntl
import itertools
import subprocess
import sys
from pathlib import Path
from typing import IO, Self

_LOCKS = Path("/tmp/understudy-networks")
_NUMBERS = range(200)


class Network:
    """One namespace; `with Network() as network:`."""

    def __init__(self) -> None:
        self._lock: IO[bytes] | None = None
        self._number = -1
        self._next = itertools.count()

    def __enter__(self) -> Self:
        assert sys.platform == "linux", "network namespaces are Linux' own"
        _LOCKS.mkdir(exist_ok=True)
        for number in _NUMBERS:
            if lock := _locked(number):
                if self._lock is None:
                    self._lock, self._number = lock, number
                    _remove(number)
                else:
                    # Nobody's: a leftover of a killed run, if anything.
                    if _namespace_file(number).exists():
                        _remove(number)
                    lock.close()
        assert self._lock is not None, f"all {len(_NUMBERS)} networks are taken"
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            _remove(self._number)
            self._lock.close()
            self._lock = None

    @property
    def gateway(self) -> str:
        """This machine's address, as pods see it."""
        return f"10.231.{self._number}.1"

    @property
    def inside(self) -> tuple[str, ...]:
        """The beginning of a command that is to run among the pods."""
        return "nsenter", f"--net={_namespace_file(self._number)}", "--"

    def address(self) -> str:
        """An address for a pod; the range is used in turn."""
        return f"10.231.{self._number}.{128 + next(self._next) % 126}"

    def _make(self) -> None:
        number, space, link = self._number, _namespace(self._number), _link(self._number)
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("address", "add", f"10.231.{number}.1/24", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "address", "add", f"10.231.{number}.2/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        # All addresses of the pods at once: none has to be added when a pod comes.
        _ip("-n", space, "route", "add", "local", f"10.231.{number}.128/25", "dev", "lo")


def _namespace(number: int) -> str:
    return f"understudy-{number}"


def _namespace_file(number: int) -> Path:
    return Path("/run/netns") / _namespace(number)


def _link(number: int) -> str:
    return f"understudy{number}"


def _locked(number: int) -> IO[bytes] | None:
    lock = (_LOCKS / str(number)).open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _remove(number: int) -> None:
    # The pair lives as long as either end, and a namespace as long as a process is in it.
    for command in (("link", "delete", _link(number)), ("netns", "delete", _namespace(number))):
        subprocess.run(["ip", *command], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr} (needs root)"
