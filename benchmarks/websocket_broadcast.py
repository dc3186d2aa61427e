"""
Load by broadcasts: one connection sends a message, which the application sends to all.

When all have it, the next one follows. There is no event loop: what reads a message
in one takes as much time as a good server does to write it, and would be measured too.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import Counter

from benchmarks.websocket_bytes import (
    HANDSHAKES_AT_ONCE,
    frame,
    handshake,
    masked_frame,
)

_TIMEOUT = 30.0
_HEAD_BYTES = 4096
_PING = 0x89


class Broadcast:
    """
    The connections of one load.

    Attributes:
        messages: How many have come, on all connections.
        latencies: Seconds from a message to its arrival on the last connection.
        errors: Connections that were lost, and wrong answers, by kind.
    """

    def __init__(self, port: int, path: str, connections: int, payload: bytes) -> None:
        """Open the connections; at most a hundred handshakes are under way."""
        self.messages = 0
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self._message, self._answer = masked_frame(payload), frame(payload)
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        # Of messages which came in pieces, by descriptor.
        self._pieces: dict[int, bytes] = {}
        for first in range(0, connections, HANDSHAKES_AT_ONCE):
            self._open(port, path, min(HANDSHAKES_AT_ONCE, connections - first))

    def _open(self, port: int, path: str, count: int) -> None:
        opened = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(handshake(path))
            opened.append(connection)
        for connection in opened:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = connection.recv(_HEAD_BYTES)
                if not piece:
                    break
                head += piece
            if head.startswith(b"HTTP/1.1 101 "):
                self._sockets.append(connection)
                self._poll.register(connection, select.EPOLLIN)
            else:
                self.errors["handshake"] += 1

    def run(self, seconds: float) -> float:
        """Publish until ``seconds`` are over; return how long it took."""
        start = time.perf_counter()
        now, end = start, start + seconds
        try:
            while now < end and not self.errors:
                self._sockets[0].sendall(self._message)
                self._receive()
                self.latencies.append(time.perf_counter() - now)
                now = time.perf_counter()
        except OSError:
            self.errors["lost"] += 1
            now = time.perf_counter()
        for connection in self._sockets:
            connection.close()
        return now - start

    def _receive(self) -> None:
        """Read the message on each connection."""
        answer, read, poll = self._answer, os.read, self._poll.poll
        most = len(answer) + 1
        left = count = len(self._sockets)
        while left > 0 and not self.errors:
            ready = poll(_TIMEOUT, count)
            for descriptor, _ in ready:
                data = read(descriptor, most)
                if data == answer or self._completed(descriptor, data):
                    left -= 1
            if not ready:
                self.errors["timeout"] += 1
        self.messages += count - left

    def _completed(self, descriptor: int, data: bytes) -> bool:
        """Put the pieces of a message together; tell whether all are there."""
        whole = self._pieces.pop(descriptor, b"") + data
        while len(whole) > 1 and whole[0] == _PING:
            # No load goes on until the lack of a Pong matters.
            whole = whole[2 + whole[1] :]
        if whole == self._answer:
            return True
        if not data:
            self.errors["lost"] += 1
        elif self._answer.startswith(whole) or whole[0] == _PING:
            self._pieces[descriptor] = whole
        else:
            self.errors["answer"] += 1
        return False
