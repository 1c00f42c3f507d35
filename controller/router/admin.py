"""The admin interface of an Envoy beside us, over TCP on loopback."""

from __future__ import annotations

import httpx

from controller.errors import Retryable

_TIMEOUT_S = 2.0


class Admin:
    """What whoever ships the log asks of the router; `close` it in the end.

    One client asks all, since to make one takes 40 ms of CPU, for certificates. It keeps no
    connection: one that a router closed as it ended would not say that it is gone.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, limits=limits)

    async def close(self) -> None:
        """Let go of what it holds."""
        await self._client.aclose()

    async def reopen_logs(self) -> None:
        """Have the access log reopened by its name; raises Retryable."""
        await self._ask("POST", "/reopen_logs")

    async def failed_writes(self) -> int:
        """How often the router could not write to its log since it was started, as on a full disk.

        What it would have written is lost. Raises Retryable.
        """
        said = await self._ask("GET", "/stats?filter=^filesystem.write_failed$")
        return int(said.rpartition(":")[2] or 0)

    async def drain(self) -> None:
        """Be unready, and ask clients to connect elsewhere; all are answered meanwhile.

        Raises Retryable.
        """
        await self._ask("POST", "/healthcheck/fail")

    async def is_gone(self) -> bool:
        """Whether nothing answers there: the router has ended."""
        try:
            await self._ask("GET", "/server_info")
        except Retryable as exc:
            return isinstance(exc.__cause__, httpx.ConnectError)
        return False

    async def _ask(self, method: str, path: str) -> str:
        try:
            answer = await self._client.request(method, self._url + path)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise Retryable(f"{self._url}{path} does not answer: {exc}") from exc
        if answer.status_code != 200:
            raise Retryable(f"{self._url}{path} answered {answer.status_code}")
        return answer.text
