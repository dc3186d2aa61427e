"""
Connections which can't begin yet: what comes before HTTP isn't complete.

That is a handshake of TLS, or a header of the PROXY protocol. Each has a deadline,
and there are only so many of them.

Tests: ``tests/unit/listeners/test_tls_transports.py``, ``test_proxy_transports.py``.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Pending", "PendingConnections"]

# They take memory, and mostly cause work. When there are so many, those which don't
# even begin give way to new ones.
_MOST_PENDING = 1024


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

    def begin(self, connection: Pending, timeout: float) -> bool:
        """Limit the time of a new connection; tell whether there is room for it."""
        if len(self.pending) >= _MOST_PENDING and not self._make_room():
            return False
        self.limit(connection, timeout)
        return True

    def limit(self, connection: Pending, timeout: float) -> None:
        """Give a connection up after so many seconds; 0 for no limit."""
        self.end(connection)
        timer = None
        if timeout:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout, connection.give_up)
        self.pending[connection] = timer

    def end(self, connection: Pending) -> None:
        """Forget a connection which has begun, or never will."""
        timer = self.pending.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Give them all up: the listener has been closed."""
        for connection in [*self.pending]:
            connection.give_up()

    def _make_room(self) -> bool:
        """Give up the oldest of those which haven't sent a byte, if there is one."""
        for connection in self.pending:
            if connection.is_idle:
                self.end(connection)
                connection.give_up()
                return True
        return False
