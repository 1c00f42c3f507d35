from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.router.access_log import Decoded, exposure_lines
from controller.router.envoy import LocalEnvoy
from controller.router.server import ControlPlane
from controller.router.snapshot import RoutedModel, snapshot
from controller.router.tail import Tail

_FORGED = "x-understudy-arm: forged\r\n"


class _Answer(asyncio.Protocol):
    """A server that says its name, and that it is another arm, twice."""

    def __init__(self, name: str, delay_s: float) -> None:
        self.body, self.delay_s, self.buffer = name.encode(), delay_s, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            _request, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            asyncio.get_running_loop().call_later(self.delay_s, self.answer)

    def answer(self) -> None:
        length = f"content-length: {len(self.body)}\r\n"
        head = f"HTTP/1.1 200 OK\r\n{2 * _FORGED}{length}\r\n".encode()
        self.transport.write(head + self.body)


class Rig:
    """A control plane, one Envoy and some HTTP servers, on an event loop in a thread."""

    def __init__(self, state: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.servers: dict[str, str] = {}
        self.listening: list[asyncio.Server] = []
        self.envoy = self.run(self._make(state))
        self.plane = ControlPlane(forget_s=60.0, memory=self.envoy.memory_path)
        self.run(self.plane.start("127.0.0.1", 0, unix_path=self.envoy.xds_path))
        self.run(self.envoy.start())
        self.tail = Tail(self.envoy.log_path)

    async def _make(self, state: Path) -> LocalEnvoy:
        return LocalEnvoy(state, drain_s=2)

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = 30) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def upstream(self, name: str, delay_s: float = 0.0) -> str:
        if name not in self.servers:
            made = self.loop.create_server(lambda: _Answer(name, delay_s), "127.0.0.1", 0)
            self.listening.append(self.run(made))
            port = self.listening[-1].sockets[0].getsockname()[1]
            self.servers[name] = f"127.0.0.1:{port}"
        return self.servers[name]

    def publish(self, *models: RoutedModel) -> bool:
        built = snapshot(models, self.envoy.listener)
        self.run(self.plane.publish(built))
        return bool(self.run(self.plane.acked(built, 10)))

    def get(
        self, path: str, headers: Sequence[Mapping[str, str]]
    ) -> list[tuple[int, dict[str, str], str]]:
        """One request per element of `headers`, on one connection."""
        listener = self.envoy.listener
        connection = http.client.HTTPConnection(listener.host, listener.port, timeout=10)
        answers = []
        try:
            for each in headers:
                connection.request("GET", path, headers=dict(each))
                response = connection.getresponse()
                body = response.read().decode()
                names = {name.lower(): value for name, value in response.getheaders()}
                answers.append((response.status, names, body))
        finally:
            connection.close()
        return answers

    def raw(self, *header_lines: bytes) -> list[bytes]:
        """The head, line by line, of the answer to a request with these lines as they are."""
        listener = self.envoy.listener
        with socket.create_connection((listener.host, listener.port), timeout=10) as client:
            head = (b"GET /digits/x HTTP/1.1", b"host: a", b"connection: close", *header_lines)
            client.sendall(b"\r\n".join(head) + b"\r\n\r\n")
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return answer.partition(b"\r\n\r\n")[0].split(b"\r\n")

    def arms(self, path: str, headers: Sequence[Mapping[str, str]]) -> list[str]:
        return [names.get("x-understudy-arm", "") for _, names, _ in self.get(path, headers)]

    def log(self, wait_s: float = 0.5) -> Decoded:
        """What was logged since the last look."""
        time.sleep(wait_s)
        lines: list[bytes] = []
        while more := self.tail.read()[0]:
            lines += more
        return exposure_lines(lines)

    async def _hush(self) -> None:
        for each in self.listening:
            each.close()
        await asyncio.sleep(0.1)

    def close(self) -> None:
        self.run(self.envoy.stop())
        self.run(self.plane.stop())
        self.run(self._hush())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("state"))
    yield made
    made.close()
