"""Hosts on one machine: each has an address and a clock of its own, and disks that can be filled.

The process that owns the scene is the hub between them. It was started in new namespaces of the
network, of mounts and of processes (`enclosed`), so nothing of it is seen outside, two scenes at
once do not meet, and the kernel ends all of it with that process.

A cut is a rule of the hub that drops what one host sends to another, both ways and without a word:
connections stay open, and whoever waits must notice by itself. Rejected: a proxy between the two,
whose kernel would acknowledge what the other host never got.

A clock is a library that is loaded before all others (`clock.c`), and a file that says how far it
is from the machine's. So a clock steps under whatever runs on its host, and under nothing else.

Needs root and Debian's iproute2, util-linux and gcc, as the tests of a cluster do.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ENCLOSED = (
    "setpriv", "--pdeathsig", "KILL", "--",
    "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"
)  # fmt: skip
_STEP_KIB = 64
_LIBRARY = "clock.so"
_numbers = itertools.count(1)


def enclosed(command: Sequence[object]) -> list[str]:
    """The command, to be run as the owner of a scene."""
    return [*_ENCLOSED, *map(str, command)]


def open_hub(folder: Path) -> None:
    """Let the hosts to come reach one another. To be called once, in a scene."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is not installed: run `make services`"
    made = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", folder / _LIBRARY)
    _run(compiler, *map(str, made), str(Path(__file__).with_name("clock.c")))
    _ip("link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Host:
    """A host: `inside` begins the command of whatever runs on it.

    folder     that of the scene
    is_ahead   whether what runs on it is served first, as if the others had not its processor
    """

    def __init__(self, name: str, folder: Path, *, is_ahead: bool = False) -> None:
        self.name, number = name, next(_numbers)
        self.address, gateway = f"10.0.{number}.2", f"10.0.{number}.1"
        holder = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(holder)
        space = f"/proc/{self._holder.pid}/ns/net"
        self.clock = Clock(folder / f"{name}.clock")
        given = (f"LD_PRELOAD={folder / _LIBRARY}", f"CHAOS_CLOCK={self.clock.file}")
        rank = ("nice", "-n", "-5") if is_ahead else ()
        self.inside = ("nsenter", f"--net={space}", "--", *rank, "env", *given)
        while not _is_apart(space):
            assert self._holder.poll() is None, "a namespace cannot be made (needs root)"
        link = f"h{number}"
        peer = ("peer", "name", "eth0", "netns", str(self._holder.pid))
        _ip("link", "add", link, "type", "veth", *peer)
        _ip("address", "add", f"{gateway}/24", "dev", link)
        _ip("link", "set", link, "up")
        for own in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", gateway),
        ):
            _run(*self.inside, "ip", *own)


class Clock:
    """The wall clock of a host. The steady clocks are those of the machine."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(bytes(8))

    def set_ahead(self, seconds: int) -> None:
        """Have it go so far ahead of the machine's; 0: right."""
        with self.file.open("r+b", buffering=0) as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a clock, which can be made and undone."""

    clock: Clock
    seconds: int

    def make(self) -> None:
        self.clock.set_ahead(self.seconds)

    def undo(self) -> None:
        self.clock.set_ahead(0)


def cut(one: Host, other: Host) -> None:
    """From now on nothing passes between the two."""
    for a, b in ((one, other), (other, one)):
        _ip("rule", "add", "from", a.address, "to", b.address, "blackhole")


def heal(one: Host, other: Host) -> None:
    """Undo a cut."""
    for a, b in ((one, other), (other, one)):
        _ip("rule", "delete", "from", a.address, "to", b.address, "blackhole")


class Disk:
    """A small disk of its own, mounted at `folder`."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder, self._kib = folder, mib << 10
        folder.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._kib}k", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no room: the disk becomes as small as what is on it.

        To fill it would take seconds of the processor, and its size of memory.
        """
        found = os.statvfs(self.folder)
        used_kib = (found.f_blocks - found.f_bfree) * found.f_frsize >> 10
        while not self._is_resized(used_kib):  # somebody wrote meanwhile
            used_kib += _STEP_KIB

    def clear(self) -> None:
        """Make room again."""
        assert self._is_resized(self._kib)

    def _is_resized(self, kib: int) -> bool:
        command = ("mount", "-o", f"remount,size={kib}k", str(self.folder))
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _is_apart(space: str) -> bool:
    try:
        return Path(space).readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr} (needs root)"
