"""
An asyncio transport presented as a Twisted one.

Under uvloop the loop's own transports carry several times the requests that
Twisted's carry. :class:`LoopTransport` is both halves at once: the asyncio
protocol which the loop calls, and the Twisted transport which our protocols
write to. Its ``data_received`` *is* the Twisted protocol's ``dataReceived`` and
its ``write`` *is* the loop transport's, so that no Python frame of ours stands
in the way of the bytes. Answers may take the one through an
:class:`~daphne_like.listeners.outbox.Outbox`, which is worth it under load.

Tests: ``tests/unit/listeners/test_transports.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import (
        IAddress,
        IProducer,
        IProtocol,
        IProtocolFactory,
    )

    from daphne_like.listeners.outbox import Outbox
    from daphne_like.listeners.proxy_protocol import Announced

__all__ = ["LoopTransport", "twisted_address"]

_DONE = Failure(ConnectionDone())

# For SO_LINGER: on, for no time; the kernel forgets unsent bytes and resets.
_RESET = struct.pack("ii", 1, 0)

# The most of a file that goes to the kernel at once, so that others get their turn.
_SENDFILE_BYTES = 1024 * 1024
# What is read of a file when the kernel can't take it by itself.
_FILE_BYTES = 64 * 1024


@implementer(ITCPTransport, IConsumer, IPushProducer)
class LoopTransport(asyncio.Protocol):
    """
    One accepted connection, between the event loop and a Twisted protocol.

    Flow control: the loop calls :meth:`pause_writing` and
    :meth:`resume_writing` at its marks; both go on to the registered producer.

    Args:
        factory: Makes the protocol.
        outbox: What may wait goes through it.

    Attributes:
        data_received: The protocol's ``dataReceived``.
        write: The loop transport's ``write``.
        write_soon: The same for what may wait until the end of the loop's turn.
            Who calls both calls :meth:`settle` in between.
        announced: What a proxy has said of the connection by the PROXY protocol;
            its addresses count then.
    """

    __slots__ = (
        "_factory",
        "_file_bytes",
        "_flushing",
        "_lost",
        "_outbox",
        "_producer",
        "_protocol",
        "_shared",
        "_transport",
        "announced",
        "data_received",
        "write",
        "write_soon",
    )

    disconnecting = False

    data_received: Callable[[bytes], None]  # type: ignore[assignment]
    write: Callable[[bytes], None]
    write_soon: Callable[[bytes], None]

    def __init__(self, factory: IProtocolFactory, outbox: Outbox) -> None:
        self._factory = factory
        self._outbox = outbox
        self.write_soon = partial(outbox.write, self)
        self._producer: IPushProducer | None = None
        self._protocol: IProtocol | None = None
        self._lost = False
        # Others have the descriptor.
        self._shared = False
        # A file being sent: bytes left, and its wait for what was written before.
        self._file_bytes = 0
        self._flushing: asyncio.Future[None] | None = None
        self.announced: Announced | None = None
        self.data_received = _ignore

    # -- Called by the loop --------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the Twisted protocol and connect it."""
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write
        self._begin()

    def _begin(self) -> None:
        protocol = None
        if not self._has_gone():
            protocol = self._build_protocol()
        if protocol is None:
            self._transport.abort()
            return
        self.switch_protocol(protocol)
        protocol.makeConnection(self)

    def _build_protocol(self) -> IProtocol | None:
        """Let the factory make the protocol."""
        return self._factory.buildProtocol(self.getPeer())

    def _has_gone(self) -> bool:
        """Whether the peer left before it was accepted: then it has no address."""
        sock = self._transport.get_extra_info("socket")
        return sock.family in (
            socket.AF_INET,
            socket.AF_INET6,
        ) and not self._transport.get_extra_info("peername")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol; free what refers to it."""
        self.settle()  # now the loop drops it, later it would raise
        self._lost = True
        self._flushed()
        protocol, self._protocol = self._protocol, None
        self.data_received = self.write_soon = _ignore
        self._producer = None
        if protocol is not None:
            reason = _DONE if exc is None else Failure(ConnectionLost(str(exc)))
            protocol.connectionLost(reason)

    def eof_received(self) -> None:
        """Let the loop close, as it does by itself, but not before all is written."""
        self.settle()
        self._end_sharing()

    def _end_sharing(self) -> None:
        """
        Let nobody write past us: the loop drops what is written from now on.

        What went past it would come behind a hole.
        """
        if self._shared and not self._lost:
            self.pause_writing()

    def pause_writing(self) -> None:
        """Pause the producer: the buffer is above its high-water mark."""
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume_writing(self) -> None:
        """Resume the producer: the buffer is below its low-water mark."""
        if self._flushing is not None:
            self._flushed()
        elif self._producer is not None and not (
            self._shared and self._transport.is_closing()
        ):
            self._producer.resumeProducing()

    # -- Called by the protocol ----------------------------------------------

    def switch_protocol(self, protocol: IProtocol) -> None:
        """Let ``protocol`` have what arrives from now on."""
        self._protocol = protocol
        self.data_received = protocol.dataReceived
        # uvloop looks data_received up once, so let it look again.
        self._transport.set_protocol(self)

    def settle(self) -> None:
        """Write what :attr:`write_soon` has held back."""
        self._outbox.flush()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Write several pieces."""
        self.settle()
        self._transport.writelines(list(data))

    def loseConnection(self) -> None:
        """Close when everything is written."""
        self.settle()
        self._transport.close()

    def loseWriteConnection(self) -> None:
        """Close our side when everything is written, where that can be told."""
        self.settle()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the peer has gone
                self._transport.abort()
        else:
            self._transport.close()

    def abortConnection(self) -> None:
        """
        Close at once and forget what isn't written.

        A TCP peer sees a reset, which it can't take for a regular end.
        """
        self.settle()
        self._end_sharing()
        if not self._lost:
            sock = self._transport.get_extra_info("socket")
            with suppress(OSError):  # Unix sockets need no reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take the push producer that is to be paused and resumed."""
        if not streaming:
            raise NotImplementedError("only push producers are supported")
        self._producer = cast("IPushProducer", producer)

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Stop reading from the peer."""
        if not self._lost:
            self._transport.pause_reading()

    def resumeProducing(self) -> None:
        """Read from the peer again."""
        if not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def stopProducing(self) -> None:
        """Close: nobody wants what the peer sends."""
        self.loseConnection()

    def write_buffer_bytes(self) -> int:
        """Count the bytes which the peer hasn't taken yet."""
        # A transport that gets full while all is written asks for this, too.
        if not self._outbox.flushing:
            self.settle()
        return self._transport.get_write_buffer_size() + self._file_bytes

    def share_descriptor(self) -> int | None:
        """
        Return the descriptor of the socket, for others who write to it.

        From now on the producer is paused as soon as the loop holds anything back: then
        only :attr:`write` keeps the order. It is paused for good when the end begins.
        The descriptor is valid as long as the protocol is connected.
        """
        if os.name != "posix":
            return None  # there sockets aren't files
        self.settle()
        self._shared = True
        self._transport.set_write_buffer_limits(0)
        return self.get_socket().fileno()

    def get_socket(self) -> socket.socket:
        """Return the socket, as far as the loop lets others have it."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def getPeer(self) -> IAddress:  # type: ignore[override]
        """Tell the address of the other end."""
        if self.announced is not None:
            return self.announced.source
        return self.true_peer()

    def true_peer(self) -> IAddress:
        """Tell the address of who has connected, be it the client or a proxy."""
        return twisted_address(
            self._transport.get_extra_info("socket"),
            self._transport.get_extra_info("peername"),
        )

    def getHost(self) -> IAddress:  # type: ignore[override]
        """Tell the address of this end."""
        if self.announced is not None:
            return self.announced.destination
        return twisted_address(
            self._transport.get_extra_info("socket"),
            self._transport.get_extra_info("sockname"),
        )

    def getTcpNoDelay(self) -> bool:
        """Tell whether small writes go out at once; the loop sees to it."""
        sock = self._transport.get_extra_info("socket")
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Choose whether small writes go out at once."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        """Tell whether the kernel probes a silent peer."""
        sock = self._transport.get_extra_info("socket")
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Choose whether the kernel probes a silent peer."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    # -- Files ---------------------------------------------------------------

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """
        Let the kernel copy bytes of a file to the socket.

        The transport's own buffer is empty meanwhile, so that the order is kept.
        When the socket is full, or the kernel can't copy from such a file, the
        next piece goes through that buffer, whose emptying is told by the loop.

        The producer is paused, so that its stall deadline runs. When the
        connection is lost, the rest isn't sent.

        Args:
            file: An open descriptor, which stays the caller's.
            offset: Where to begin.
            count: How many bytes.

        Raises:
            EOFError: The file ended early.
        """
        self.settle()
        self._file_bytes = count
        producer = self._producer
        if producer is not None:
            producer.pauseProducing()
        try:
            await self._flush()
            while self._file_bytes and not self._lost:
                sent = self._send_piece(file, offset)
                if not sent:
                    raise EOFError("the file ended early")
                offset += sent
                self._file_bytes -= sent
                await asyncio.sleep(0)
                await self._flush()
        finally:
            self._file_bytes = 0
            if producer is not None and not self._lost:
                producer.resumeProducing()

    def _send_piece(self, file: int, offset: int) -> int:
        """Send the next piece of a file; return its size, 0 at the file's end."""
        count = min(self._file_bytes, _SENDFILE_BYTES)
        out = self._transport.get_extra_info("socket").fileno()
        try:
            return os.sendfile(out, file, offset, count)
        except OSError:
            data = os.pread(file, min(count, _FILE_BYTES), offset)
            self.write(data)  # and when the peer has gone, the loop finds out here
            return len(data)

    async def _flush(self) -> None:
        """Wait until the loop has written its buffer to the last byte."""
        transport = self._transport
        if self._lost or not transport.get_write_buffer_size():
            return
        self._flushing = asyncio.get_running_loop().create_future()
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(0)
        try:
            await self._flushing
        finally:
            self._flushing = None
            if not self._lost:
                transport.set_write_buffer_limits(high, low)

    def _flushed(self) -> None:
        if self._flushing is not None and not self._flushing.done():
            self._flushing.set_result(None)


def twisted_address(sock: socket.socket, name: object) -> IAddress:
    """
    Turn a socket's name into the address class which Twisted users know.

    Args:
        sock: Tells the family.
        name: What ``getsockname`` or ``getpeername`` gave; ``None`` or empty
            when there is none.
    """
    if sock.family == socket.AF_INET and isinstance(name, tuple):
        return IPv4Address("TCP", name[0], name[1])
    if sock.family == socket.AF_INET6 and isinstance(name, tuple):
        return IPv6Address("TCP", *name)
    path = name if isinstance(name, (str, bytes)) else None
    return UNIXAddress(os.fsencode(path) if path else None)


def _ignore(data: bytes) -> None:
    """Drop what arrives before or after the protocol's time."""
