"""
What an HTTP/1.1 connection becomes when a WebSocket on it is accepted.

Tests: ``tests/unit/protocols/test_http1_tunnel.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface import implementer

from daphne_like.protocols.connections import (
    close_writing,
    shared_descriptor,
    switch_protocol,
    unsent_bytes,
)
from daphne_like.protocols.interfaces import ConnectionReport

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Awaitable

    from twisted.internet.interfaces import ITransport
    from twisted.python.failure import Failure

    from daphne_like.protocols.connections import Transport
    from daphne_like.protocols.interfaces import (
        LiveConnection,
        RequestHead,
        TunnelUser,
    )

__all__ = ["HTTP1Tunnel"]


@implementer(IProtocol, IPushProducer)
class HTTP1Tunnel:
    """
    The bytes of a connection after 101 (RFC 9110 section 7.8).

    No method of it stands in the way of the bytes: ``dataReceived`` is the
    user's, ``write`` the transport's.

    Args:
        transport: Of the connection, which speaks HTTP no more.
        head: The request which asked for it.
        user: Speaks the protocol inside.
        connections: The live ones, among which it is from now on.
        loop: Makes the futures that ``send()`` waits for.
    """

    __slots__ = (
        "_connections",
        "_head",
        "_loop",
        "_transport",
        "_user",
        "_waiters",
        "congested",
        "dataReceived",
        "write",
    )

    def __init__(
        self,
        transport: Transport,
        head: RequestHead,
        user: TunnelUser,
        connections: set[LiveConnection],
        loop: AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._head = head
        self._user = user
        self._connections = connections
        self._loop = loop
        self._waiters: list[Future[None]] | None = None
        self.congested = False
        self.dataReceived = user.data_received
        self.write = transport.write
        connections.add(self)
        transport.unregisterProducer()
        switch_protocol(transport, self)
        transport.registerProducer(self, True)

    # -- Called by the transport (IProtocol, IPushProducer) ------------------

    def makeConnection(self, transport: ITransport) -> None:
        """Do nothing: it began with its transport."""

    def connectionMade(self) -> None:
        """Do nothing: it began with its connection."""

    def connectionLost(self, reason: Failure) -> None:
        """Tell whoever waits that the connection is gone."""
        self._connections.discard(self)
        self._wake()
        user = self._user
        # The user refers to us: break the cycle, so that all is freed at once.
        del self._user, self.dataReceived
        user.connection_lost()

    def pauseProducing(self) -> None:
        """Learn that the transport's buffer is full."""
        self.congested = True
        self._user.congestion_changed(congested=True)

    def resumeProducing(self) -> None:
        """Learn that the transport's buffer has room."""
        self._wake()
        self._user.congestion_changed(congested=False)

    def stopProducing(self) -> None:
        """Learn that the transport is gone."""

    def _wake(self) -> None:
        self.congested = False
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- Called by the server (LiveConnection) -------------------------------

    def last_call(self) -> None:
        """Go on: nothing new begins in a tunnel (LiveConnection)."""

    def drain(self) -> None:
        """Let the user come to an end."""
        self._user.drain()

    def report(self) -> ConnectionReport:
        """Tell how it is: its only request goes on as long as it is open."""
        return ConnectionReport("WebSocket", self._transport, 1, self._head)

    def stop(self) -> None:
        """Close at once."""
        self._transport.abortConnection()

    # -- Called by the user (Tunnel) -----------------------------------------

    def share_descriptor(self) -> int | None:
        """Return where bytes may be written while it isn't congested, if anywhere."""
        descriptor = shared_descriptor(self._transport)
        if descriptor is not None and self.unsent_bytes() and not self.congested:
            # It was full before there was a tunnel to be told.
            self.pauseProducing()
        return descriptor

    def drained(self) -> Awaitable[None]:
        """Wait for room, or for the end of the connection."""
        waiter = self._loop.create_future()
        if self.congested:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    def unsent_bytes(self) -> int:
        """Count the bytes which the peer hasn't taken yet."""
        return unsent_bytes(self._transport)

    def pause_reading(self) -> None:
        """Let TCP tell the peer to wait."""
        self._transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resumeProducing()

    def end(self) -> None:
        """
        Close our side, so that the peer gets to reading what was written.

        A socket closed with unread bytes would be reset, and they be lost.
        """
        self._transport.unregisterProducer()
        self._wake()
        (close_writing(self._transport) or self._transport.loseConnection)()

    abort = stop
