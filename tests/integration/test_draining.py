"""The examples of docs/draining.md, in a real server that is told to stop."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import websockets
from raw_http import connect, read_to_end, read_until
from server_process import LOOPS, Serve
from websockets.exceptions import ConnectionClosed

APPLICATION = "goodbye:application"
IN_DOCS = ("--app-dir", str(Path(__file__).parents[2] / "docs" / "draining"))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_websocket_says_goodbye(serve: Serve, loop: str) -> None:
    """Its client is told in the application's words, and the server ends."""
    server = serve(APPLICATION, *IN_DOCS, "--loop", loop)

    async def talk() -> None:
        url = server.url.replace("http:", "ws:")
        async with websockets.connect(url, proxy=None) as client:
            await client.send("hello")
            assert "hello" == await client.recv()
            server.signal(signal.SIGTERM)
            assert "back in a moment" == await client.recv()
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (1012, "restart") == (
                closed.value.rcvd.code,
                closed.value.rcvd.reason,
            )

    asyncio.run(asyncio.wait_for(talk(), 20))
    assert 0 == server.wait()
    assert "ERROR" not in server.log


def test_a_stream_of_events_ends_in_order(serve: Serve) -> None:
    """The response is complete, and nobody waits for the end of the timeout."""
    server = serve(APPLICATION, *IN_DOCS)
    with connect(server.url) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n")
        read_until(sock, b"data: tick\n\n")
        server.signal(signal.SIGTERM)
        rest = read_to_end(sock)

    # RFC 9112 section 7.1: the last chunk says that nothing is missing.
    assert rest.endswith(b"retry: 100\n\n\r\n0\r\n\r\n")
    assert 0 == server.wait()
    assert "ERROR" not in server.log
