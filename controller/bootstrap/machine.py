"""What `understudy doctor` looks at on this machine: disk, files, ports, policies."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import time  # noqa: TID251 - how long a write takes is measured, nothing is decided by it
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from controller.bootstrap.folder import read_policies
from controller.core.model.checks import Finding, failed, fine, speed, warning
from controller.core.policy import warnings
from controller.errors import PolicyError
from controller.settings import Address

_LITTLE_BYTES: Final = 1 << 30
_NOTHING_BYTES: Final = 64 << 20
_FILES: Final = 4_096
_FEW_FILES: Final = 1_024
_WRITES: Final = 5
_BLOCK: Final = b"\0" * 4_096


def check_state(folder: Path) -> Iterator[Finding]:
    """The state folder: whether it can be written, its disk, and whether a `serve` uses it."""
    check = "state folder"
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    probe = nearest / f".doctor-{uuid4().hex}"
    try:
        with probe.open("wb", buffering=0) as file:
            began = time.perf_counter()
            for _ in range(_WRITES):
                file.write(_BLOCK)
                os.fsync(file.fileno())
            took = (time.perf_counter() - began) / _WRITES
    except OSError as exc:
        remedy = "make room, or give the right to write, or name another --state"
        yield failed(check, f"{nearest} cannot be written: {exc.strerror}", remedy)
    else:
        yield fine(check, f"{folder}{_used_by(folder)}")
        yield speed("state folder: fsync", took, of="an fsync")
    finally:
        with suppress(OSError):
            probe.unlink()
    yield _room(nearest)


def _room(folder: Path) -> Finding:
    check = "state folder: disk"
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB are free"
    if usage.free < _NOTHING_BYTES:
        return failed(check, found, "make room: intake would soon answer 503")
    if usage.free < _LITTLE_BYTES:
        return warning(check, found, "make room, or watch it")
    return fine(check, found)


def _used_by(folder: Path) -> str:
    """Whether another process holds the folder's lock; the lock is not made."""
    try:
        with (folder / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ", not used yet"
    except OSError:
        return ", used by a serve that runs"
    return ""


def check_files() -> Finding:
    """How many files and connections a process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    check = "open files"
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return fine(check, "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")
    found = f"up to {soft} (the hard limit is {hard})"
    remedy = f"ulimit -n {_FILES}: half of them are for connections to the API"
    if soft < _FEW_FILES:
        return failed(check, found, remedy)
    return warning(check, found, remedy)


def check_ports(addresses: Sequence[tuple[str, Address]]) -> Iterator[Finding]:
    """Whether `serve` could listen there; each address with the option that names it."""
    for option, address in addresses:
        check = f"port of {option}"
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address.host, address.port))
        except OSError as exc:
            remedy = f"fine if serve runs already; else end what uses it, or give another {option}"
            yield warning(check, f"{address}: {exc.strerror}", remedy)
        else:
            yield fine(check, f"{address} is free")


def check_policies(folder: Path) -> Iterator[Finding]:
    """Whether the policies can be used, and what the lint has to say."""
    check = "policies"
    try:
        sources = read_policies(folder)
    except PolicyError as exc:
        found = str(exc).replace("\n", "; ")
        yield failed(check, found, "understudy check FILE names every fault")
        return
    models = ", ".join(source.policy.model for source in sources)
    yield fine(check, f"{len(sources)} in {folder}: {models}")
    count = sum(len(list(warnings(source.policy))) for source in sources)
    if count:
        remedy = f"understudy check {folder}/*.yaml"
        yield warning(f"{check}: advice", f"{count} warnings", remedy)
