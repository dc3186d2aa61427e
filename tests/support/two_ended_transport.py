"""A connection whose client is the test; no socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stepped_loop import SteppedLoop
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IProducer,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["TwoEndedTransport"]

HIGH_WATER_BYTES = 64 * 1024
LOW_WATER_BYTES = 16 * 1024


@implementer(ITransport)
class TwoEndedTransport:
    """
    The server's end of a connection, and what the client does at the other end.

    Everything that a network causes happens in a turn of the loop, as it does
    with sockets: never inside a call of the protocol's.

    Args:
        loop: Whose turns these are.
        client: The client's address.
        notice: Called when the client has read something, or seen the end.

    Attributes:
        received: Bytes which the client has read.
        reads: Whether the client reads; else bytes pile up in the server.
        reading_paused: Whether the server has stopped reading.
        ended: Whether the client has seen the end of what the server sends.
        reset: Whether that end was a reset of the connection.
    """

    def __init__(
        self,
        loop: SteppedLoop,
        client: IAddress | None = None,
        notice: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._notice = notice
        self._client = client or IPv4Address("TCP", "192.0.2.7", 50123)
        self._server = IPv4Address("TCP", "192.0.2.1", 8000)
        self._unsent = bytearray()
        self._unread: list[bytes] = []
        self._producer: IPushProducer | None = None
        self._told_to_pause = False
        self._closing = False
        self._half_closing = False
        self._lost = False
        self.received = bytearray()
        self.reads = True
        self.reading_paused = False
        self.ended = False
        self.reset = False

    # -- The client ----------------------------------------------------------

    def connect(self, protocol: IProtocol) -> None:
        """Let the server accept the connection."""
        self._protocol = protocol
        self._later(protocol.makeConnection, self)

    def deliver(self, *pieces: bytes) -> None:
        """Send bytes to the server, a read each; they wait while it doesn't read."""
        self._unread += pieces
        self._later(self._deliver)

    def leave(self) -> None:
        """Break the connection from the client's side."""
        self._later(self._lose, ConnectionLost())

    def stop_reading(self) -> None:
        """Read no more of what the server sends, until :meth:`read_on`."""
        self.reads = False

    def read_on(self) -> None:
        """Read what has piled up, and whatever comes."""
        self.reads = True
        self._later(self._flush)

    # -- The server (ITransport) ---------------------------------------------

    def write(self, data: bytes) -> None:
        """Send to the client, at once while it reads."""
        if self._lost or self._closing:
            return
        assert not self._half_closing, "asyncio refuses a write after write_eof()"
        assert isinstance(data, (bytes, bytearray, memoryview))
        self._unsent += data
        self._flush()
        full = len(self._unsent) > HIGH_WATER_BYTES
        if full and self._producer is not None and not self._told_to_pause:
            self._told_to_pause = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when the client has read everything."""
        self._closing = True
        self._flush()

    def loseWriteConnection(self) -> None:
        """Close this side when the client has read everything."""
        assert self._producer is None, "Twisted half-closes without a producer only"
        self._half_closing = True
        self._flush()

    def abortConnection(self) -> None:
        """Reset the connection."""
        self.reset = True
        self._unsent.clear()
        self._loop.call_soon(self._lose, ConnectionLost())

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take who is to be paused while the client doesn't read."""
        assert streaming
        assert self._producer is None, "Twisted takes one producer at a time"
        assert IPushProducer.providedBy(producer)
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def switch_protocol(self, protocol: IProtocol) -> None:
        """Let another protocol have what arrives (see LoopTransport)."""
        self._protocol = protocol

    def pauseProducing(self) -> None:
        """Read no more from the client."""
        self.reading_paused = True

    def resumeProducing(self) -> None:
        """Read from the client again."""
        self.reading_paused = False
        self._loop.call_soon(self._deliver)

    def stopProducing(self) -> None:
        """Close (IPushProducer)."""
        self.loseConnection()

    def write_buffer_bytes(self) -> int:
        """Count what the client hasn't read yet."""
        return len(self._unsent)

    def getPeer(self) -> IAddress:
        """Tell the client's address."""
        return self._client

    def getHost(self) -> IAddress:
        """Tell the server's address."""
        return self._server

    # -- The network ---------------------------------------------------------

    def _later(self, call: Callable[..., object], *arguments: Any) -> None:
        self._loop.call_soon(call, *arguments)
        if not self._loop.is_running():  # as when the client answers by itself
            self._loop.settle()

    def _deliver(self) -> None:
        while self._unread and not self.reading_paused and not self._lost:
            self._protocol.dataReceived(self._unread.pop(0))

    def _flush(self) -> None:
        if not self.reads or self._lost:
            return
        self.received += self._unsent
        self._unsent.clear()
        self.ended = self._half_closing
        self._notice()
        if self._closing:
            self._loop.call_soon(self._lose, ConnectionDone())
        elif self._told_to_pause:
            self._told_to_pause = False
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._producer is not None and not self._told_to_pause:
            self._producer.resumeProducing()

    def _lose(self, reason: Exception) -> None:
        if not self._lost:
            self._lost = self.ended = True
            self._producer = None
            self._notice()
            self._protocol.connectionLost(Failure(reason))
