"""
Load during a reload, in which each request that fails is counted.

Four kinds of clients speak HTTP/1.1 and one speaks WebSocket:

=============  ===================================================================
``busy``       the next request as soon as the last one is answered
``paused``     a pause by chance before each request, on a connection that is kept
``new``        a new connection for each request
``slow``       requests that take a while, on a connection that is kept
``websocket``  a message, its echo, a pause, and so on
=============  ===================================================================

Before a request a client looks whether the server has closed the connection, as far
as it knows by then; that is no failure, and a new connection is made. Nothing is sent
twice: what a browser would hide by a second try counts as failed here.

Failures are ``refused`` (no connection), ``unanswered`` (a request, and then the end of
the connection), ``cut`` (a part of an answer), ``timeout``, ``status`` (another one than
200), ``body`` (not the right one). Of WebSockets: ``refused`` and ``handshake``, ``lost``
(the connection ended without a close frame), ``timeout``, and ``echo`` (a wrong one).
A server may close WebSockets when it stops: codes are counted, and apart from them
the messages which had no echo yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.applications import SMALL_BODY
from benchmarks.websocket_bytes import masked_frame

_HOST = "127.0.0.1"
_TIMEOUT = 20.0
_LONGEST_PAUSE = 0.05
_RETRY_PAUSE = 0.02

_TEXT = b"0123456789abcdef"
_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A


class _Failure(Exception):
    """A request or a WebSocket failed; the argument is the kind."""


class _Closed(Exception):
    """The server closed a WebSocket in order; the arguments are code and unanswered."""


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ReloadClient:
    """All clients, and what they have counted."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = False
        self._done: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._closes: Counter[int] = Counter()
        self._without_echo = 0

    async def run(self, counts: dict[str, int]) -> dict[str, object]:
        """Load until standard input ends, and tell what came of it."""
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "busy": lambda: self._requests("busy", "/", kept=True),
            "paused": lambda: self._requests("paused", "/", kept=True),
            "new": lambda: self._requests("new", "/", kept=False),
            "slow": lambda: self._requests("slow", "/slow", kept=True),
            "websocket": self._websockets,
        }
        clients = [
            asyncio.ensure_future(ways[kind]())
            for kind, count in counts.items()
            for _ in range(count)
        ]
        print(json.dumps({"clients": len(clients)}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self._over = True
        await asyncio.gather(*clients)
        return {
            "done": self._done,
            "failures": self._failures,
            "closes": self._closes,
            "without_echo": self._without_echo,
        }

    def _count(self, kind: str, failure: _Failure) -> None:
        self._failures[f"{kind}: {failure}"] += 1

    async def _connect(self) -> Streams:
        connecting = asyncio.open_connection(_HOST, self._port)
        try:
            return await asyncio.wait_for(connecting, _TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            raise _Failure("refused") from None

    # -- HTTP/1.1 --------------------------------------------------------------------

    async def _requests(self, kind: str, path: str, *, kept: bool) -> None:
        close = "" if kept else "Connection: close\r\n"
        request = f"GET {path} HTTP/1.1\r\nHost: {_HOST}\r\n{close}\r\n".encode()
        streams: Streams | None = None
        while not self._over:
            if kind == "paused":
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))
            try:
                if streams is None or streams[0].at_eof():
                    _drop(streams)
                    streams = None
                    streams = await self._connect()
                stays = await asyncio.wait_for(_exchange(streams, request), _TIMEOUT)
                self._done[kind] += 1
            except (_Failure, asyncio.TimeoutError) as error:
                failure = error if isinstance(error, _Failure) else _Failure("timeout")
                self._count(kind, failure)
                stays = False
                # A server that is away would be asked a million times.
                await asyncio.sleep(_RETRY_PAUSE)
            if not stays:
                _drop(streams)
                streams = None
        _drop(streams)

    # -- WebSockets ------------------------------------------------------------------

    async def _websockets(self) -> None:
        while not self._over:
            streams = None
            try:
                streams = await self._connect()
                await asyncio.wait_for(_shake_hands(streams), _TIMEOUT)
                await self._talk(streams)
            except _Failure as failure:
                self._count("websocket", failure)
                await asyncio.sleep(_RETRY_PAUSE)
            except asyncio.TimeoutError:
                self._count("websocket", _Failure("timeout"))
            except _Closed as closed:
                code, unanswered = closed.args
                self._closes[code] += 1
                self._without_echo += unanswered
            finally:
                _drop(streams)

    async def _talk(self, streams: Streams) -> None:
        """
        Send and receive until the end of the load.

        Raises:
            _Closed: The server closed the WebSocket.
            _Failure: The connection is lost, or an echo is wrong.
        """
        reader, writer = streams
        frame, pending = masked_frame(_TEXT), False
        event = asyncio.ensure_future(_next_message(reader, writer))
        try:
            while not self._over:
                writer.write(frame)
                pending = True
                done, _ = await asyncio.wait({event}, timeout=_TIMEOUT)
                if not done:
                    raise _Failure("timeout")
                if event.result() != _TEXT:
                    raise _Failure("echo")
                pending = False
                self._done["websocket"] += 1
                event = asyncio.ensure_future(_next_message(reader, writer))
                pause = random.uniform(0, 2 * _LONGEST_PAUSE)
                done, _ = await asyncio.wait({event}, timeout=pause)
                if done:
                    event.result()
                    raise _Failure("echo")
        except _Closed as closed:
            raise _Closed(*closed.args, int(pending)) from None
        finally:
            event.cancel()


async def _exchange(streams: Streams, request: bytes) -> bool:
    """
    Make one request; return whether the connection can be used for the next one.

    Raises:
        _Failure: There is no whole and right answer.
    """
    reader, writer = streams
    begun = False
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        begun = True
        if not head.startswith(b"HTTP/1.1 200 "):
            raise _Failure("status")
        fields = head.lower()
        # The answers of all servers say how long they are, since the application does.
        _, _, rest = fields.partition(b"\r\ncontent-length:")
        body = await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    except asyncio.IncompleteReadError as error:
        raise _Failure("cut" if begun or error.partial else "unanswered") from None
    except (OSError, RuntimeError):
        # uvloop refuses to write to a connection that has ended by a RuntimeError.
        raise _Failure("cut" if begun else "unanswered") from None
    if body != SMALL_BODY:
        raise _Failure("body")
    return b"\r\nconnection: close" not in fields


async def _shake_hands(streams: Streams) -> None:
    reader, writer = streams
    writer.write(
        f"GET /echo HTTP/1.1\r\nHost: {_HOST}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
    )
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        raise _Failure("handshake") from None
    if not head.startswith(b"HTTP/1.1 101 "):
        raise _Failure("handshake")


async def _next_message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """
    Read the next message, and answer pings before it.

    Raises:
        _Closed, _Failure: As in ``_talk``.
    """
    while True:
        try:
            first, length = await reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2), "big")
            payload = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            raise _Failure("lost") from None
        if first == _BINARY:
            return payload
        if first == _PING:
            writer.write(masked_frame(payload, _PONG))
        elif first == _CLOSE:
            writer.write(masked_frame(payload, _CLOSE))
            raise _Closed(int.from_bytes(payload[:2], "big") or 1005)


def _drop(streams: Streams | None) -> None:
    """Close what was opened; the server isn't waited for."""
    if streams is not None:
        streams[1].close()


def main() -> None:
    """Load a server until standard input ends; print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload_client")
    parser.add_argument("--port", type=int, required=True)
    for kind, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count)
    options = parser.parse_args()
    counts = {kind: getattr(options, kind) for kind in DEFAULT_COUNTS}

    async def run() -> None:
        print(json.dumps(await ReloadClient(options.port).run(counts)))

    uvloop.run(run())


DEFAULT_COUNTS = {"busy": 16, "paused": 64, "new": 8, "slow": 16, "websocket": 100}
"""How many clients there are of each kind."""


if __name__ == "__main__":
    main()
