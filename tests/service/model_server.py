"""Model servers of one process: each port answers as it was last told.

`python model_server.py N` listens on N free ports and prints them as one JSON array.
`GET /tell/STATUS/DELAY` on a port sets what its later answers are.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

ports: list[int] = []
told: dict[int, tuple[int, float]] = {}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port: Any = writer.get_extra_info("sockname")[1]
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ", 2)[1].decode()
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            if path.startswith("/tell/"):
                _, _, status, delay = path.split("/")
                told[port] = int(status), float(delay)
                reply = 200
            else:
                reply, delay_s = told.get(port, (200, 0.0))
                await asyncio.sleep(delay_s)
            body = str(port).encode()
            line = f"HTTP/1.1 {reply} X\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            writer.write(line + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(count: int) -> None:
    servers = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(count)]
    print(json.dumps([s.sockets[0].getsockname()[1] for s in servers]), flush=True)
    await asyncio.gather(*(s.serve_forever() for s in servers))


asyncio.run(main(int(sys.argv[1])))
