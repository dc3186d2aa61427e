"""The examples of docs/draining.md, in a real server that is told to stop."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import websockets
from raw_http import connect, read_to_end, read_until
from server_process import LOOPS, Serve, ServerProcess
from websockets.exceptions import ConnectionClosed

APPLICATION = "goodbye:application"
IN_DOCS = ("--app-dir", str(Path(__file__).parents[2] / "docs" / "draining"))


async def hear_goodbye(server: ServerProcess, number: signal.Signals) -> None:
    """Talk to a WebSocket, and hear what it says when the server gets a signal."""
    url = server.url.replace("http:", "ws:")
    async with websockets.connect(url, proxy=None) as client:
        await client.send("hello")
        assert "hello" == await client.recv()
        server.signal(number)
        assert "back in a moment" == await client.recv()
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        close = closed.value.rcvd
        assert close is not None
        assert (1012, "restart") == (close.code, close.reason)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_websocket_says_goodbye(serve: Serve, loop: str) -> None:
    """Its client is told in the application's words, and the server ends."""
    _stop(serve(APPLICATION, *IN_DOCS, "--loop", loop))


@pytest.mark.parametrize("module", ["in_fastapi", "in_channels"])
def test_frameworks_say_goodbye(serve: Serve, module: str) -> None:
    """What they start in the background hears of the end, too."""
    _stop(serve(f"{module}:application", *IN_DOCS))


def _stop(server: ServerProcess) -> None:
    asyncio.run(asyncio.wait_for(hear_goodbye(server, signal.SIGTERM), 20))
    assert 0 == server.wait()
    assert "ERROR" not in server.log


def test_a_worker_that_is_replaced_says_goodbye(serve: Serve) -> None:
    """A reload gives WebSockets the same time; the next client gets the successor."""
    server = serve(APPLICATION, *IN_DOCS, "--workers", "1")

    for _ in range(2):
        asyncio.run(asyncio.wait_for(hear_goodbye(server, signal.SIGHUP), 20))
    assert 0 == server.stop()
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
