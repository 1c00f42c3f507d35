"""Where log and ledger can live. A kind of store is a function in one of the two tables.

Each gives the store's address, as the controller sees it, and the services that keep it. Their data
stand on disks of their own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from tests.chaos.hosts import Disk, Host
from tests.chaos.services import Service
from tests.processes import until
from tests.stores.postgres import program

DISK_MIB = 1024
_REDIS, _POSTGRES = 6379, 5432


@dataclass
class Store:
    """An address, the services behind it, and how to wait until they answer."""

    url: str
    services: list[Service] = field(default_factory=list)
    wait: Callable[[], object] = lambda: None


def sqlite_stream(_folder: Path, state: Path) -> Store:
    """A file beside the controller, on the controller's disk."""
    return Store(f"sqlite:///{state / 'events.db'}")


def sqlite_ledger(_folder: Path, state: Path) -> Store:
    """A file beside the controller, on the controller's disk."""
    return Store(f"sqlite:///{state / 'ledger.db'}")


def redis_stream(folder: Path, _state: Path) -> Store:
    """A Redis that has everything on its disk before it says so."""
    host = Host("redis", folder)
    program = shutil.which("redis-server")
    assert program, "Redis is not installed: run `make services`"
    disk = Disk(folder / "redis", DISK_MIB)
    options = {
        "port": _REDIS,
        "bind": host.address,
        "protected-mode": "no",
        "dir": disk.folder,
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    service = Service("redis", host, folder, lambda: (program, *given))
    service.disk = disk
    return Store(
        f"redis://{host.address}:{_REDIS}/0",
        [service],
        lambda: until("Redis answers", lambda: _redis_answers(host)),
    )


def postgresql_ledger(folder: Path, _state: Path) -> Store:
    """A PostgreSQL. It does not sync: processes are killed here, never the machine.

    It forgets what there is to vacuum whenever it is killed, and each snapshot of a state takes the
    place of another: so it looks often, and has room.
    """
    host = Host("postgresql", folder)
    disk = Disk(folder / "postgresql", 4 * DISK_MIB)
    data, as_user = disk.folder / "data", tuple[str, ...]()
    if os.geteuid() == 0:  # as which PostgreSQL refuses to run
        account = pwd.getpwnam("postgres")
        os.chown(disk.folder, account.pw_uid, account.pw_gid)
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    made = (program("initdb"), "-D", data, "-U", "understudy", "-E", "UTF8", "--locale=C", "-N")
    subprocess.run([*as_user, *map(str, made), "-A", "trust"], check=True, capture_output=True)
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.0.0.0/8 trust\n")
    options = {
        "port": _POSTGRES,
        "listen_addresses": host.address,
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "32MB",
        "min_wal_size": "32MB",
        "max_wal_size": "64MB",
        "autovacuum_naptime": "5s",
        "autovacuum_vacuum_cost_delay": 0,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    command = (program("postgres"), "-D", data, *given)
    service = Service("postgresql", host, folder, lambda: command, as_user=as_user)
    service.disk = disk
    return Store(
        f"postgresql+psycopg://understudy:none@{host.address}:{_POSTGRES}/postgres",
        [service],
        lambda: until("PostgreSQL answers", lambda: _postgres_answers(host)),
    )


def kafka_stream(folder: Path, state: Path) -> Store:
    """See `tests.chaos.kafka`, which needs this module."""
    from tests.chaos.kafka import kafka_stream as made  # noqa: PLC0415 - a circle else

    return made(folder, state)


STREAMS: dict[str, Callable[[Path, Path], Store]] = {
    "sqlite": sqlite_stream,
    "redis": redis_stream,
    "kafka": kafka_stream,
}
LEDGERS: dict[str, Callable[[Path, Path], Store]] = {
    "sqlite": sqlite_ledger,
    "postgresql": postgresql_ledger,
}


def _redis_answers(host: Host) -> bool:
    with redis.Redis(host=host.address, port=_REDIS) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def _postgres_answers(host: Host) -> bool:
    where = f"host={host.address} port={_POSTGRES} user=understudy dbname=postgres"
    try:
        psycopg.connect(where, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
