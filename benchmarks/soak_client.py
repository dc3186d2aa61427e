"""
The client of the soak: raw asyncio protocols on uvloop, in a process of their own.

One phase per process: ``python -m benchmarks.soak_client PHASE --count N --port P``.
It writes lines of JSON, one when each tenth is done, the last with the result, and is
killed by the kernel when its time is over. It talks to the loopback address only.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import re
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

import uvloop

from benchmarks.applications import SMALL_BODY
from benchmarks.http2_client import (
    Exchange,
    HTTP2Connection,
    Request,
    client_context,
    requests,
)
from benchmarks.processes import HOST

_REQUEST = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_UPLOAD = (
    b"POST /echo HTTP/1.1\r\n"
    b"host: 127.0.0.1\r\n"
    b"content-type: text/plain\r\n"
    b"content-length: 1000000\r\n"
    b"\r\n"
) + b"u" * 20_000
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

# One address has 28,000 ports, and a closed connection keeps its port for a minute.
_SOURCES = [f"127.0.0.{number}" for number in range(2, 34)]
_PROBES = 1000

_P = TypeVar("_P", bound=asyncio.Protocol)


class Count:
    """How much of a phase is left, done and failed."""

    def __init__(self, total: int, *, tells: bool = True) -> None:
        self.total = total
        self.tells = tells
        self.remaining = total
        self.done = 0
        self.failed = 0

    def take(self) -> bool:
        """Reserve one; False when none is left."""
        if self.remaining == 0:
            return False
        self.remaining -= 1
        return True

    def finish(self, good: bool) -> None:
        """Count one as done or failed; tell when another tenth is done."""
        self.done += 1
        if not good:
            self.failed += 1
        if self.tells and self.done * 10 % self.total < 10 and self.remaining:
            tell(done=self.done, failed=self.failed)


class Requests(asyncio.Protocol):
    """A keep-alive connection: one request after the other, every answer checked."""

    def __init__(self, count: Count, limit: int | None) -> None:
        """
        Prepare the connection.

        Args:
            count: Where requests are taken from and counted.
            limit: After how many requests the connection is closed; None = never.
        """
        self.closed = asyncio.get_running_loop().create_future()
        self._count = count
        self._left = -1 if limit is None else limit
        self._waiting = False
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        if self._left == 0 or not self._count.take():
            self._transport.close()
            return
        self._left -= 1
        self._waiting = True
        self._transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        """Check an answer once it is complete, and ask again."""
        answer = self._buffer + data if self._buffer else data
        head, found, body = answer.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head + b"\r\n") if found else None
        if length is None or len(body) < int(length[1]):
            self._buffer = answer
            return
        self._buffer = b""
        self._waiting = False
        self._count.finish(head.startswith(b"HTTP/1.1 200") and body == SMALL_BODY)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request whose answer never came as failed."""
        if self._waiting:
            self._count.finish(False)
        self.closed.set_result(None)


async def connect(make: Callable[[], _P], source: str, port: int) -> _P:
    """Return the protocol of a new connection from ``source``."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(make, HOST, port, local_addr=(source, 0))
    return protocol


async def ask(count: Count, limit: int | None, source: str, port: int) -> None:
    """
    Open a connection and send requests on it until it is closed.

    A connection that cannot be opened is a failed request.
    """
    try:
        protocol = await connect(lambda: Requests(count, limit), source, port)
    except OSError:
        if count.take():
            count.finish(False)
    else:
        await protocol.closed


async def workers(number: int, work: Callable[[str], Awaitable[None]]) -> None:
    """Run ``work`` that many times at once, each with a source address."""
    sources = (_SOURCES[index % len(_SOURCES)] for index in range(number))
    await asyncio.gather(*(work(source) for source in sources))


async def keep_alive(count: Count, port: int) -> None:
    """Send all requests on 64 connections; one the server closes is opened again."""

    async def work(source: str) -> None:
        while count.remaining:
            await ask(count, None, source, port)

    await workers(64, work)


async def connections(count: Count, port: int) -> None:
    """Open a connection for each request, 64 at a time."""

    async def work(source: str) -> None:
        while count.remaining:
            await ask(count, 1, source, port)

    await workers(64, work)


class Upload(asyncio.Protocol):
    """Sends a part of what its head announces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send head and part."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_UPLOAD)

    def give_up(self, reset: bool) -> None:
        """Close the connection, or reset it."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        else:
            self._transport.close()


async def aborted_uploads(count: Count, port: int) -> None:
    """
    Give uploads up in the middle: closed and reset in turn, at once or a little later.
    """

    async def work(source: str) -> None:
        while count.take():
            number = count.remaining
            protocol = await connect(Upload, source, port)
            # At once the server may see all in one read; later the application runs.
            await asyncio.sleep(0.01 if number & 2 else 0)
            protocol.give_up(reset=bool(number & 1))
            count.finish(True)

    await workers(32, work)


async def idle(count: Count, port: int) -> dict[str, Any]:
    """
    Hold connections that say nothing, and measure answers to somebody else.

    Half of them never send a byte, half are idle after one answered request.
    """
    held: list[asyncio.Transport] = []

    async def work(source: str) -> None:
        loop = asyncio.get_running_loop()
        while count.take():
            make = asyncio.Protocol
            transport, _ = await loop.create_connection(
                make, HOST, port, local_addr=(source, 0)
            )
            held.append(transport)
            if count.remaining & 1:
                transport.write(_REQUEST)
            count.finish(True)

    await workers(64, work)
    tell(open=sum(not transport.is_closing() for transport in held))
    result = await probe(port)
    result["open"] = sum(not transport.is_closing() for transport in held)
    for transport in held:
        transport.close()
    return result


class WebSocket(asyncio.Protocol):
    """A WebSocket which ends at one of the stages of its life."""

    STAGES = 6

    def __init__(self, stage: int) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.good = True
        self._stage = stage
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake, or a part of it."""
        self._transport = cast("asyncio.Transport", transport)
        whole = self._stage > 0
        self._transport.write(_HANDSHAKE if whole else _HANDSHAKE[:40])
        if self._stage < 2:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Go on until the stage at which it ends."""
        opened = b"\r\n\r\n" in self._received
        self._received += data
        head, found, frames = self._received.partition(b"\r\n\r\n")
        if not opened and found:
            self.good = head.startswith(b"HTTP/1.1 101 ")
            self._go_on()
        elif self._stage == _CLEAN and frames == _ECHO:
            self._transport.write(_CLOSE)
        elif self._stage == _CLEAN and len(frames) > len(_ECHO):
            self.good = self.good and frames == _ECHO + _CLOSE_ANSWER

    def _go_on(self) -> None:
        if self._stage == 2:
            self._transport.abort()
        elif self._stage == 3:
            self._transport.write(_MESSAGE[:9])
            self._transport.close()
        elif self._stage == 4:
            self._transport.write(_MESSAGE + _CLOSE)
            self._transport.abort()
        else:
            self._transport.write(_MESSAGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end; a clean one has got all that it waited for."""
        if self._stage == _CLEAN:
            self.good = self.good and self._received.endswith(_CLOSE_ANSWER)
        self.closed.set_result(None)


_CLEAN = WebSocket.STAGES - 1
_HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# Masked with zeros: "abcd" in a binary frame; Close with 1000.
_MESSAGE = b"\x82\x84\0\0\0\0abcd"
_ECHO = b"\x82\x04abcd"
_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
_CLOSE_ANSWER = b"\x88\x02\x03\xe8"


async def websockets(count: Count, port: int) -> None:
    """Open WebSockets, 64 at a time, and end each at the next stage of its life."""

    async def work(source: str) -> None:
        while count.take():
            stage = count.remaining % WebSocket.STAGES
            protocol = await connect(partial(WebSocket, stage), source, port)
            await protocol.closed
            count.finish(protocol.good)

    await workers(64, work)


class HTTP2Requests(HTTP2Connection):
    """A connection of HTTP/2 which takes requests from the count, many at a time."""

    STREAMS = 16

    def __init__(self, count: Count, limit: int | None, asked: list[Request]) -> None:
        """
        Prepare the connection.

        Args:
            count: Where requests are taken from and counted.
            limit: After how many requests the connection is closed; None = never.
            asked: The first request, and all others, which the first one's fields
                in the table make short.
        """
        super().__init__()
        self._count = count
        self._left = -1 if limit is None else limit
        self._request, self._later = asked

    def opened(self) -> None:
        """Ask as often as there are streams."""
        for _ in range(self.STREAMS):
            self._ask()
        self._close_if_idle()

    def _ask(self) -> None:
        if self._left != 0 and self._count.take():
            self._left -= 1
            self.ask(self._request)
            self._request = self._later

    def answered(self, exchange: Exchange, *, good: bool) -> None:
        """Count and go on; close when there is no more to do."""
        self._count.finish(good)
        self._ask()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self.exchanges:
            self.transport.close()

    def lost(self) -> None:
        """Count requests whose answers never came as failed."""
        for _ in self.exchanges:
            self._count.finish(False)


async def http2(
    count: Count, port: int, *, tls: bool, at_once: int, limit: int | None
) -> dict[str, Any]:
    """
    Send requests in HTTP/2, until all are sent; tell how many connections it took.

    Args:
        count: How many.
        port: Of the server.
        tls: Whether it is over TLS.
        at_once: How many connections there are at a time.
        limit: How many requests each is for; None = all that are left.
    """
    loop = asyncio.get_running_loop()
    context = client_context() if tls else None
    fields = (":path", "/"), ("user-agent", "soak"), ("accept", "*/*")
    asked = requests([fields, fields], "https" if tls else "http", reset=False)
    opened = 0

    async def work(source: str) -> None:
        nonlocal opened
        while count.remaining:
            try:
                _, connection = await loop.create_connection(
                    lambda: HTTP2Requests(count, limit, asked),
                    HOST,
                    port,
                    local_addr=(source, 0),
                    ssl=context,
                )
            except OSError:
                if count.take():
                    count.finish(False)
            else:
                opened += 1
                await connection.closed

    await workers(at_once, work)
    return {"connections": opened}


async def probe(port: int) -> dict[str, Any]:
    """Return the failures and the longest wait of requests asked one by one."""
    longest = 0.0
    count = Count(_PROBES, tells=False)
    while count.remaining:
        started = time.monotonic()
        protocol = await connect(lambda: Requests(count, limit=1), HOST, port)
        await protocol.closed
        longest = max(longest, time.monotonic() - started)
    return {"probes_failed": count.failed, "longest_probe_ms": longest * 1e3}


def tell(**event: Any) -> None:
    """Write one event for the process that started this one."""
    print(json.dumps(event), flush=True)


PHASES: dict[str, Callable[[Count, int], Awaitable[dict[str, Any] | None]]] = {
    "keep-alive": keep_alive,
    "connections": connections,
    "aborted-uploads": aborted_uploads,
    "idle": idle,
    "websockets": websockets,
    "h2c-requests": partial(http2, tls=False, at_once=1, limit=None),
    "h2c-connections": partial(http2, tls=False, at_once=64, limit=1),
    "h2-requests": partial(http2, tls=True, at_once=1, limit=None),
    "h2-connections": partial(http2, tls=True, at_once=64, limit=1),
}


async def run(phase: str, total: int, port: int) -> None:
    """Run one phase and tell its result."""
    count = Count(total)
    started = time.monotonic()
    result = await PHASES[phase](count, port)
    seconds = time.monotonic() - started
    tell(done=count.done, failed=count.failed, seconds=seconds, **(result or {}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeout", type=int, default=300)
    arguments = parser.parse_args()
    assert ipaddress.ip_address(HOST).is_loopback
    # The kernel ends the process then, whatever it is doing.
    signal.alarm(arguments.timeout)
    uvloop.run(run(arguments.phase, arguments.count, arguments.port))
