"""A model server that says who it is: `python model_server.py ADDRESS PORT NAME VERSION`.

Any path is answered with 200 and `{"name": ..., "version": ...}`. `GET /tell/STATUS/DELAY_S` sets
what later answers are, readiness (`/v2/health/ready`) included if STATUS is 503.
"""

from __future__ import annotations

import asyncio
import json
import sys


class Server:
    """Answers on one address."""

    def __init__(self, name: str, version: str) -> None:
        self._body = json.dumps({"name": name, "version": version}).encode()
        self._status, self._delay_s = 200, 0.0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after the other."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.split(b":")[1]))
                status = await self._status_of(head.split(b" ", 2)[1].decode())
                lines = f"HTTP/1.1 {status} X\r\ncontent-length: {len(self._body)}\r\n"
                kind = "content-type: application/json\r\n\r\n"
                writer.write((lines + kind).encode() + self._body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _status_of(self, path: str) -> int:
        if path.startswith("/tell/"):
            _, _, status, delay = path.split("/")
            self._status, self._delay_s = int(status), float(delay)
            return 200
        if path == "/v2/health/ready":
            return 503 if self._status == 503 else 200
        await asyncio.sleep(self._delay_s)
        return self._status


async def main(address: str, port: int, name: str, version: str) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Server(name, version).answer, address, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
