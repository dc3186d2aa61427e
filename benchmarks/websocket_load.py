"""
Load on WebSockets: a client that does next to nothing.

Frames are masked once, before the load, and answers are counted by their bytes:
anything more, and the client would be what is measured. Whether an answer is
right is seen by its length and its end.

``echo``: each connection sends a message and, when it has come back, the next one.
``broadcast``: one connection sends a message, which the application sends to all of
them; when all have it, the next one. ``idle``: they are opened and stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import time
from collections import Counter
from typing import cast

import uvloop

_CONNECT_TIMEOUT = 30.0
# So many handshakes at once; more would overflow the queues of listeners.
_HANDSHAKES = 100
_BINARY = 0x82


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
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

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
            broadcast = self._load.mode == "broadcast"
            self.data_received = (  # type: ignore[method-assign]
                self._load.received if broadcast else self._received
            )
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
        self.mode: str = options.mode
        self._clients: list[Client] = []
        self._waiting = 0
        self._left_bytes = 0
        self._messages = 0
        self._latencies: list[float] = []
        self._stopping = False
        self._stopped = self.loop.create_future()
        payload = (b"0123456789abcdef" * (options.size // 16 + 1))[: options.size]
        self.frame = masked_frame(payload)
        self.answer = _frame(payload)
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
        return self._figures(seconds)

    async def _open_all(self) -> None:
        for _ in range(0, self._options.connections, _HANDSHAKES):
            missing = self._options.connections - len(self._clients)
            pairs = await asyncio.gather(
                *(
                    self.loop.create_connection(
                        lambda: Client(self), "127.0.0.1", self._options.port
                    )
                    for _ in range(min(_HANDSHAKES, missing))
                )
            )
            clients = [client for _, client in pairs]
            opened = asyncio.gather(*(client.opened for client in clients))
            await asyncio.wait_for(opened, _CONNECT_TIMEOUT)
            self._clients += clients

    async def _load(self) -> float:
        start = time.perf_counter()
        self.loop.call_later(self._options.seconds, self._stop)
        if self.mode == "broadcast":
            self._publish()
        else:
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

    def _publish(self) -> None:
        self._left_bytes = self.answer_bytes * len(self._clients)
        self._clients[0].send()

    def received(self, data: bytes) -> None:
        """Count what comes on any connection; when all have it, publish again."""
        self._left_bytes -= len(data)
        if self._left_bytes > 0:
            return
        if self._left_bytes or data[-64:] != self.answer[-64:]:
            self.errors["answer"] += 1
        self._latencies.append(time.perf_counter() - self._clients[0].sent_at)
        self._messages += len(self._clients)
        if self._stopping:
            self._stopped.set_result(None)
        else:
            self._publish()

    def _figures(self, seconds: float) -> dict[str, object]:
        latencies = sorted(self._latencies) or [0.0]
        count = self._messages

        def at(share: float) -> float:
            return latencies[min(int(share * len(latencies)), len(latencies) - 1)] * 1e3

        return {
            "requests": count,
            "seconds": seconds,
            "bytes": count * self.answer_bytes,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1.0),
            "errors": dict(self.errors),
        }


def masked_frame(payload: bytes, first: int = _BINARY) -> bytes:
    """Encode a frame as clients have to, masked; ``first`` is its first octet."""
    return _frame(payload, mask=os.urandom(4), first=first)


def _frame(payload: bytes, mask: bytes = b"", first: int = _BINARY) -> bytes:
    """Encode a frame, a binary message by default (RFC 6455 section 5.2)."""
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return head + mask + payload


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

    uvloop.run(run())


if __name__ == "__main__":
    main()
