"""What carries the bytes of an HTTP/2 client: a real socket, or memory."""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable

from stepped_loop import SteppedLoop
from twisted.internet.interfaces import IProtocol
from two_ended_transport import TwoEndedTransport

__all__ = ["Link", "MemoryLink", "Silence", "SocketLink"]

# A server on a busy machine may take its time; none is silent for so long.
_SILENCE_TIMEOUT = 5.0
# For which a server may keep a connection it has given up, in steps of the clock.
_LINGER_SECONDS = 10
# Where bytes come one by one, so many of each piece do.
_SINGLE_BYTES = 64


class Silence(AssertionError):
    """The server sends nothing, though something was expected of it."""


class Link(ABC):
    """
    What carries the bytes of one connection.

    Attributes:
        scheme: ``http`` or ``https``.
        reset: The connection ended in a way that may have cost bytes on their way.
    """

    scheme = b"http"
    reset = False

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send bytes; what can't be sent any more is dropped."""

    @abstractmethod
    def receive(self) -> bytes:
        """
        Wait for bytes of the server; none means that it has closed.

        Raises:
            Silence: Nothing comes.
        """

    @abstractmethod
    def let_linger(self) -> None:
        """Let the time pass for which a server may keep a dead connection."""


class SocketLink(Link):
    """
    A connection over TCP.

    Args:
        sock: Connected, and with TLS if there is to be any.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        if isinstance(sock, ssl.SSLSocket):
            self.scheme = b"https"
        sock.settimeout(_SILENCE_TIMEOUT)
        # Frames are to arrive when they are sent.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send all of it, unless the server has closed; then reading will tell."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, ssl.SSLError):
            self.reset = True

    def receive(self) -> bytes:
        """Wait for some bytes."""
        try:
            return self._socket.recv(64 * 1024)
        except TimeoutError:
            raise Silence("nothing") from None
        except (ConnectionError, ssl.SSLError):
            self.reset = True
            return b""

    def let_linger(self) -> None:
        """Do nothing: there was time enough."""


class MemoryLink(Link):
    """
    A connection to a protocol in memory.

    What is sent waits until something is to be received, and then arrives in one
    read for each call of :meth:`send`.

    Args:
        loop: Runs the server.
        advance: Lets so many seconds pass.
        byte_by_byte: Let each byte arrive in a read of its own, but for the end of
            what is long.

    Attributes:
        client: The client's address.
        transport: What the server writes to.
    """

    def __init__(
        self,
        loop: SteppedLoop,
        advance: Callable[[int], None],
        *,
        byte_by_byte: bool = False,
    ) -> None:
        self.transport = TwoEndedTransport(loop)
        self.client = self.transport.getPeer()
        self._advance = advance
        self._byte_by_byte = byte_by_byte
        self._unsent: list[bytes] = []
        self._received_bytes = 0

    def connect(self, protocol: IProtocol) -> None:
        """Let the server accept the connection, with its end of the protocol."""
        self.transport.connect(protocol)

    def send(self, data: bytes) -> None:
        """Keep it for the next :meth:`receive`."""
        if self._byte_by_byte:
            count = min(len(data), _SINGLE_BYTES)
            self._unsent += [data[at : at + 1] for at in range(count)]
            data = data[count:]
        if data:
            self._unsent.append(data)

    def receive(self) -> bytes:
        """Let the server have what was sent, and return what came of it."""
        transport = self.transport
        if len(transport.received) == self._received_bytes:
            pieces, self._unsent = self._unsent, []
            transport.deliver(*pieces)
        received = bytes(transport.received[self._received_bytes :])
        self._received_bytes += len(received)
        if not received and not transport.ended:
            raise Silence("nothing")
        return received

    def let_linger(self) -> None:
        """Move the clock."""
        self._advance(_LINGER_SECONDS)

    def leave(self) -> None:
        """Break the connection."""
        self.transport.leave()
