"""
Load on WebSockets: a client that does next to nothing.

Frames are masked once, before the load, and answers are counted by their bytes:
anything more, and the client would be what is measured. Whether an answer is
right is seen by its length and its end.

``echo``: each connection sends a message and, when it has come back, the next one.
``idle``: they are opened and stay open. ``broadcast``: see ``websocket_broadcast``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from typing import cast

import uvloop

from benchmarks.websocket_broadcast import Broadcast
from benchmarks.websocket_bytes import (
    HANDSHAKES_AT_ONCE,
    frame,
    handshake,
    masked_frame,
)

_CONNECT_TIMEOUT = 30.0


class Client(asyncio.Protocol):
    """One connection: the handshake, then messages of one size."""

    def __init__(self, load: WebSocketLoad) -> None:
        self._load = load
        self._head = b""
        self._left_bytes = 0
        self.opened: asyncio.Future[None] = load.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake (asyncio.Protocol)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(handshake(self._load.path))

    def data_received(self, data: bytes) -> None:
        """Read the answer to the handshake (asyncio.Protocol)."""
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        if not self._head.startswith(b"HTTP/1.1 101 "):
            self._load.errors["handshake"] += 1
            self._transport.abort()
        else:
            # The loop looks the method up once, so that it has to be told.
            self.data_received = self._received  # type: ignore[method-assign]
            self._transport.set_protocol(self)
            self.opened.set_result(None)

    def _received(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes <= 0:
            load = self._load
            if self._left_bytes or not load.answer.endswith(data[-64:]):
                load.errors["answer"] += 1
            load.answered(self)

    def send(self) -> None:
        """Send the message."""
        self._left_bytes = self._load.answer_bytes
        self.sent_at = time.perf_counter()
        self._transport.write(self._load.frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was lost (asyncio.Protocol)."""
        if not self._load.over:
            self._load.errors["lost"] += 1
            if not self.opened.done():
                self.opened.set_result(None)

    def close(self) -> None:
        """Leave without a word."""
        self._transport.abort()


class WebSocketLoad:
    """Connections, and what they have counted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.loop = asyncio.get_running_loop()
        self.path: str = options.path
        self.errors: Counter[str] = Counter()
        self.over = False
        self._options = options
        self._clients: list[Client] = []
        self._waiting = 0
        self._messages = 0
        self._latencies: list[float] = []
        self._stopping = False
        self._stopped = self.loop.create_future()
        payload = _payload(options.size)
        self.frame = masked_frame(payload)
        self.answer = frame(payload)
        self.answer_bytes = len(self.answer)

    async def run(self) -> dict[str, object]:
        """Open the connections, load them, and tell what came of it."""
        await self._open_all()
        if self._options.mode == "idle":
            print(json.dumps({"opened": len(self._clients), **self.errors}), flush=True)
            await self.loop.run_in_executor(None, input)
            sys.exit()
        else:
            seconds = await self._load()
        self.over = True
        for client in self._clients:
            client.close()
        return _figures(
            self._messages, seconds, self.answer_bytes, self._latencies, self.errors
        )

    async def _open_all(self) -> None:
        for _ in range(0, self._options.connections, HANDSHAKES_AT_ONCE):
            missing = self._options.connections - len(self._clients)
            pairs = await asyncio.gather(
                *(
                    self.loop.create_connection(
                        lambda: Client(self), "127.0.0.1", self._options.port
                    )
                    for _ in range(min(HANDSHAKES_AT_ONCE, missing))
                )
            )
            clients = [client for _, client in pairs]
            opened = asyncio.gather(*(client.opened for client in clients))
            await asyncio.wait_for(opened, _CONNECT_TIMEOUT)
            self._clients += clients

    async def _load(self) -> float:
        start = time.perf_counter()
        self.loop.call_later(self._options.seconds, self._stop)
        self._waiting = len(self._clients)
        for client in self._clients:
            client.send()
        await asyncio.wait_for(self._stopped, self._options.seconds + 10)
        return time.perf_counter() - start

    def _stop(self) -> None:
        self._stopping = True

    def answered(self, client: Client) -> None:
        """Count an echo, and let its connection go on."""
        self._latencies.append(time.perf_counter() - client.sent_at)
        self._messages += 1
        if not self._stopping:
            client.send()
            return
        self._waiting -= 1
        if not self._waiting:
            self._stopped.set_result(None)


def _payload(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def _broadcast(options: argparse.Namespace) -> dict[str, object]:
    payload = _payload(options.size)
    load = Broadcast(options.port, options.path, options.connections, payload)
    seconds = load.run(options.seconds)
    answer_bytes = len(frame(payload))
    return _figures(load.messages, seconds, answer_bytes, load.latencies, load.errors)


def _figures(
    messages: int,
    seconds: float,
    answer_bytes: int,
    latencies: list[float],
    errors: Counter[str],
) -> dict[str, object]:
    ordered = sorted(latencies) or [0.0]

    def at(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3

    return {
        "requests": messages,
        "seconds": seconds,
        "bytes": messages * answer_bytes,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
        "errors": dict(errors),
    }


def main() -> None:
    """Load a server and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.websocket_load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/echo")
    parser.add_argument("--mode", choices=("echo", "broadcast", "idle"), default="echo")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()

    async def run() -> None:
        print(json.dumps(await WebSocketLoad(options).run()))

    if options.mode == "broadcast":
        print(json.dumps(_broadcast(options)))
    else:
        uvloop.run(run())


if __name__ == "__main__":
    main()
