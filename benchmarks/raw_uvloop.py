"""
The limit: a uvloop protocol that parses nothing and writes one fixed answer.

No server on this event loop can be faster than this program, so a server's distance
from it is the server's own cost. It answers each read once, which is right only for
clients that send a request in one piece and wait for its answer.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

from benchmarks.applications import SMALL_BODY

_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s"
) % (len(SMALL_BODY), SMALL_BODY)


class FixedAnswerProtocol(asyncio.Protocol):
    """Write the answer for each read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take any read for a whole request."""
        self._transport.write(_ANSWER)


async def serve(host: str, port: int) -> None:
    """Serve until the process is stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(FixedAnswerProtocol, host, port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.host, arguments.port))
