"""
Connections which can't begin yet: what comes before HTTP isn't complete.

That is a handshake of TLS, or a header of the PROXY protocol. Each has a deadline,
and there are only so many of them.

Tests: ``tests/unit/listeners/test_tls_transports.py``, ``test_proxy_transports.py``.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["LAST_TIMEOUT", "Pending", "PendingConnections"]

# They take memory, and mostly cause work. When there are so many, the oldest give
# way to new ones: first of those which don't even begin.
_MOST_PENDING = 1024

LAST_TIMEOUT = 1.0
"""
How long those get to begin who have connected before the listener was closed, in
seconds: more than the round trips of a handshake take.
"""

# Those who haven't sent a byte get less: what they have come for is mostly here
# as soon as they are.
_LAST_IDLE_TIMEOUT = 0.1


class Pending(Protocol):
    """
    A connection which can't begin yet.

    Attributes:
        is_idle: No byte has come yet.
    """

    is_idle: bool

    def give_up(self) -> None:
        """Close."""


class PendingConnections:
    """The connections of a listener which can't begin yet."""

    def __init__(self) -> None:
        self.pending: dict[Pending, asyncio.TimerHandle | None] = {}
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []

    def begin(self, connection: Pending, timeout: float) -> None:
        """Limit the time of a new connection; where there are too many, one goes."""
        if len(self.pending) >= _MOST_PENDING:
            self._make_room()
        # It may come from a wait for something before this, such as a header.
        self.limit(connection, LAST_TIMEOUT if self._closed else timeout)

    def limit(self, connection: Pending, timeout: float) -> None:
        """Give a connection up after so many seconds; 0 for no limit."""
        self._forget(connection)
        timer = None
        if timeout:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout, connection.give_up)
        self.pending[connection] = timer

    def end(self, connection: Pending) -> None:
        """Forget a connection which has begun, or never will."""
        self._forget(connection)
        if self._waiters and not self.pending:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def close(self) -> None:
        """
        Leave them a moment: the listener has been closed.

        They were accepted, so that nobody else answers them: not a successor on the
        same socket either.
        """
        self._closed = True
        for connection in [*self.pending]:
            self.limit(connection, LAST_TIMEOUT)
            if connection.is_idle:
                asyncio.get_running_loop().call_later(
                    _LAST_IDLE_TIMEOUT, self._give_up_idle, connection
                )

    async def emptied(self) -> None:
        """Wait until there is none."""
        if self.pending:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def cut(self) -> None:
        """Give them all up, now."""
        for connection in [*self.pending]:
            connection.give_up()

    def _forget(self, connection: Pending) -> None:
        timer = self.pending.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _give_up_idle(self, connection: Pending) -> None:
        if connection.is_idle and connection in self.pending:
            connection.give_up()

    def _make_room(self) -> None:
        """
        Give up the oldest of those which haven't sent a byte, or else of all.

        It needs many more than it had time to, mostly. Would a new one be turned away
        instead, a client could keep all others out by one byte on each of so many
        connections, as long as their deadline.
        """
        idle = (connection for connection in self.pending if connection.is_idle)
        connection = next(idle, None) or next(iter(self.pending))
        self.end(connection)
        connection.give_up()
