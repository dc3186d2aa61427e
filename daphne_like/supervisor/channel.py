"""
What a supervisor and a worker tell each other: a line of JSON each, both ways.

The channel is one pair of Unix sockets. Its end of file means that the other process
is gone: each side has only its own end open, and neither programs which the
application starts nor its forks keep one.

A worker says ``starting``, ``ready``, ``beat`` once a second, ``leaving``, ``closing``,
and answers; the supervisor sends ``do`` with a command, and an ``id`` where it wants an
answer. A reader which doesn't read loses messages instead of the writer's time.

Tests: ``tests/unit/supervisor/test_channel.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Channel", "Message"]

_logger = logging.getLogger("daphne_like.supervisor")

Message = Mapping[str, Any]

# A list of ten thousand connections has about 2 MB.
_LONGEST_LINE_BYTES = 16 * 2**20

_READ_BYTES = 256 * 1024


class Channel:
    """
    One end.

    Args:
        sock: A connected stream socket, which the channel owns from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._received: Callable[[Message], None] = lambda _: None
        self._lost: Callable[[], None] = lambda: None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._writing = False
        self._is_open = True

    def fileno(self) -> int:
        """Return the descriptor; -1 when it is closed."""
        return self._socket.fileno()

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[Message], None],
        lost: Callable[[], None],
    ) -> None:
        """
        Read from now on.

        Args:
            loop: Tells when there is something.
            received: Called with each message.
            lost: Called once when the other side is gone, or talks nonsense.
        """
        self._loop = loop
        self._received = received
        self._lost = lost
        loop.add_reader(self._socket, self._read)

    def send(self, **message: object) -> bool:
        """
        Send a message.

        Returns:
            Whether it was taken; not so when the other side is gone, or has not
            read for long, or when it is too long.
        """
        if not self._is_open or len(self._outgoing) > _LONGEST_LINE_BYTES:
            return False
        line = json.dumps(message, default=str).encode() + b"\n"
        if len(line) > _LONGEST_LINE_BYTES:
            # The other side would take it for nonsense, and this one for dead.
            _logger.error("%d bytes are too many for one message", len(line))
            return False
        self._outgoing += line
        self._write()
        return self._is_open

    def read_rest(self) -> None:
        """Read what is there, before it is closed: the other side has ended."""
        while self._is_open and self._read():
            pass

    def close(self) -> None:
        """Close this end; the other one is told so."""
        if not self._is_open:
            return
        self._is_open = False
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            if self._writing:
                self._loop.remove_writer(self._socket)
        self._socket.close()

    def _write(self) -> None:
        try:
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]
        except BlockingIOError:
            if not self._writing and self._loop is not None:
                self._writing = True
                self._loop.add_writer(self._socket, self._write)
            return
        except OSError:
            # What the other side still had to say comes first; then reading tells.
            self._outgoing.clear()
        if self._writing and self._loop is not None:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _read(self) -> bool:
        """Read once; tell whether there was something."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        start = len(self._incoming)
        self._incoming += data
        if b"\n" not in data:
            if start + len(data) > _LONGEST_LINE_BYTES:
                self._garbled("a line without end")
            return
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming[:] = rest
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError as error:
                self._garbled(str(error))
                return
            if not isinstance(message, dict):
                self._garbled("no object")
                return
            self._received(message)
            if not self._is_open:
                return

    def _garbled(self, reason: str) -> None:
        _logger.error("The channel to another process is garbled: %s", reason)
        self._end()

    def _end(self) -> None:
        self.close()
        self._lost()
