"""
TLS under the event loop: arriving connections, their handshake, their transport.

A connection waits for its first byte outside of TLS, where it costs no more than
a socket. That byte tells a handshake from plain HTTP, which gets a readable answer.
The handshake is the event loop's, and so is the encryption:
:class:`LoopTLSTransport` is a :class:`~daphne_like.listeners.transports.LoopTransport`
over the loop's TLS transport.

The listening socket is read here and not by the loop's server, because that one
would take the first byte, and uvloop's drops connections when no descriptor is left.

Tests: ``tests/unit/listeners/test_tls_transports.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import INegotiated
from zope.interface import implementer

from daphne_like.listeners.tls import HANDSHAKE_SOCKET
from daphne_like.listeners.transports import LoopTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator

    from OpenSSL.crypto import X509
    from twisted.internet.interfaces import IProtocolFactory

    from daphne_like.listeners.tls import ServerTLS

__all__ = ["LoopTLSTransport", "TLSAcceptor"]

_logger = logging.getLogger("daphne_like.server")

# A turn of the loop accepts so many.
_ACCEPTS_PER_TURN = 32
# Handshakes are work and take memory. More connections than these wait in the
# kernel's queue, in order; those which don't even begin are cut for them.
_MOST_PENDING = 1024
_PATIENCE_WHEN_FULL = 1.0
# When the system has no descriptor left, the listener rests for so long.
_REST = 1.0
# How long a client may go on sending what nobody reads (as in protocols.http1).
_LINGER_TIMEOUT = 2.0
# How often it is looked whether the last bytes are written, before the farewell.
_FLUSH_INTERVAL = 0.05
# For the loop, which insists on a timeout; ours comes first.
_FOR_EVER = 86400.0 * 365
# Bytes which wait for the peer, beside those which are encrypted already; as
# without TLS.
_HIGH_WATER_BYTES = 64 * 1024

# RFC 8446 section 5.1: each record begins with its type.
_HANDSHAKE_RECORD = 0x16

_EXPLANATION = b"This port speaks HTTPS: use https:// instead of http://.\n"
_ANSWER_TO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n"
    b"\r\n%b" % (len(_EXPLANATION), _EXPLANATION)
)


@implementer(INegotiated)
class LoopTLSTransport(LoopTransport):  # type: ignore[override]
    """
    One connection whose handshake is done, between the loop and a Twisted protocol.

    Attributes:
        ssl_object: What tells of the handshake.
    """

    __slots__ = ("_closing", "_early", "_raw", "ssl_object")

    # What the kernel copies would not be encrypted, so nobody may find this.
    send_file = None  # type: ignore[assignment]

    def __init__(self, factory: IProtocolFactory) -> None:
        super().__init__(factory)
        self._closing = False
        self._early: list[bytes] = []
        # A request may arrive together with the end of the handshake.
        self.data_received = self._early.append

    def secured(self, raw: asyncio.Transport, transport: asyncio.Transport) -> None:
        """
        Begin, after the handshake.

        Args:
            raw: The loop's transport below TLS.
            transport: That above.
        """
        ssl_object = transport.get_extra_info("ssl_object")
        if self._lost or ssl_object is None:
            transport.close()
            return
        self._raw = raw
        self.ssl_object: ssl.SSLObject = ssl_object
        transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        self.connection_made(transport)
        early, self._early = self._early, []
        if early and not self._lost:
            self.data_received(b"".join(early))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol; let the loop know that nobody forgot to close."""
        begun = self._protocol is not None
        super().connection_lost(exc)
        if begun:
            self._transport.close()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """Tell what ALPN has agreed on (INegotiated)."""
        name = self.ssl_object.selected_alpn_protocol()
        return None if name is None else name.encode("ascii")

    def getPeerCertificate(self) -> X509 | None:
        """Return the client's certificate as pyOpenSSL has them (ISSLTransport)."""
        certificate = self.ssl_object.getpeercert(binary_form=True)
        if certificate is None:
            return None
        from OpenSSL.crypto import FILETYPE_ASN1, load_certificate

        return load_certificate(FILETYPE_ASN1, certificate)

    def write_buffer_bytes(self) -> int:
        """Count the bytes which the peer hasn't taken yet, encrypted or not."""
        return (
            self._transport.get_write_buffer_size() + self._raw.get_write_buffer_size()
        )

    def loseConnection(self) -> None:
        """
        Say farewell when everything is written, and close.

        The peer's farewell isn't waited for (RFC 8446 section 6.1), as loops do
        for half a minute: clients which keep a connection for later don't look.
        """
        if not self._closing:
            self._closing = True
            self._close_when_flushed(0)

    def loseWriteConnection(self) -> None:
        """Close: one direction alone (RFC 8446 section 6.1) can't be, in event loops."""
        self.loseConnection()

    def _close_when_flushed(self, wait: float) -> None:
        if self._lost:
            return
        low_water, _ = self._raw.get_write_buffer_limits()
        if (
            self._transport.get_write_buffer_size()
            # Above this mark, the farewell might not get through.
            or self._raw.get_write_buffer_size() > low_water
        ):
            # No event tells of this. Who doesn't read is cut by the protocol.
            asyncio.get_running_loop().call_later(
                wait, self._close_when_flushed, _FLUSH_INTERVAL
            )
            return
        self._transport.close()
        self._raw.close()


class TLSAcceptor:
    """
    Accepts the connections of one listening socket.

    Args:
        sock: Listens, without blocking; stays the caller's.
        factory: Makes the protocols.
        tls: The certificates.
    """

    def __init__(
        self, sock: socket.socket, factory: IProtocolFactory, tls: ServerTLS
    ) -> None:
        self.factory = factory
        self.tls = tls
        self.pending: dict[_Arrival, float] = {}
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._accepting = False
        self._resume()

    def close(self) -> None:
        """Accept no more; cut those whose handshake isn't done."""
        self._rest(None)
        for arrival in list(self.pending):
            arrival.give_up()

    def discard(self, arrival: _Arrival) -> None:
        """Forget one whose handshake is over, one way or the other."""
        self.pending.pop(arrival, None)

    def _resume(self) -> None:
        self._resting = None
        self._accepting = True
        self._loop.add_reader(self._sock, self._accept)

    def _rest(self, duration: float | None) -> None:
        """Accept nothing for a time, or for good."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock)
        if duration is not None:
            self._resting = self._loop.call_later(duration, self._resume)

    def _accept(self) -> None:
        """Accept what waits, as far as there is room."""
        for _ in range(_ACCEPTS_PER_TURN):
            idle: _Arrival | None = None
            if len(self.pending) >= _MOST_PENDING:
                idle = self._oldest_idle()
                if idle is None:
                    self._rest(_FLUSH_INTERVAL)
                    return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory; as asyncio's own servers tell it.
                self._loop.call_exception_handler(
                    {
                        "message": "socket.accept() out of system resource",
                        "exception": error,
                        "socket": self._sock,
                    }
                )
                self._rest(_REST)
                return
            if idle is not None:
                idle.give_up()
            self._take(sock)

    def _oldest_idle(self) -> _Arrival | None:
        """Find whom to cut for another: who has come first, and begun nothing."""
        longest = self._loop.time() - _PATIENCE_WHEN_FULL
        for arrival, since in self.pending.items():
            if since > longest:
                break
            if arrival.is_idle:
                return arrival
        return None

    def _take(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it has left already
            sock.close()
            return
        arrival = _Arrival(self, sock, self._loop)
        self.pending[arrival] = self._loop.time()
        arrival.begin()


class _Handshake(asyncio.Protocol):
    """
    The first protocol on a connection, which gives way to that of TLS at once.

    Args:
        transport: Stands between TLS and the protocol to come.
        tls: The certificates.
    """

    def __init__(self, transport: LoopTLSTransport, tls: ServerTLS) -> None:
        self._transport = transport
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Begin with TLS.

        When this returns, uvloop reads, and what it reads must come to TLS. That is
        why the first step of the coroutine is done here and now.
        """
        self._raw = cast("asyncio.Transport", transport)
        self._steps = (
            asyncio.get_running_loop()
            .start_tls(
                self._raw,
                self._transport,
                self._tls.context,
                server_side=True,
                ssl_handshake_timeout=self._tls.handshake_timeout or _FOR_EVER,
            )
            .__await__()
        )
        self._waiter = next(self._steps)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for the end of the handshake."""
        try:
            yield self._waiter
            secure = yield from self._steps
            # None when the connection has been lost meanwhile.
            if secure is not None:
                self._transport.secured(self._raw, secure)
        except BaseException:
            self._raw.abort()
            raise


class _Arrival:
    """A connection whose handshake isn't done."""

    __slots__ = ("_acceptor", "_loop", "_owned", "_reader", "_sock", "_task", "_timer")

    def __init__(
        self,
        acceptor: TLSAcceptor,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._acceptor = acceptor
        self._sock = sock
        self._loop = loop
        self._reader: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Whether the socket is the event loop's.
        self._owned = False

    @property
    def is_idle(self) -> bool:
        """Whether no handshake has begun."""
        return self._task is None

    def begin(self) -> None:
        """Wait for the first byte, and see what it is."""
        self._set_deadline(self._acceptor.tls.handshake_timeout)
        self._look()

    def give_up(self) -> None:
        """Cut it, whatever it is at."""
        if self._task is not None:
            self._task.cancel()
        self._ended()

    def _ended(self) -> None:
        """Wait for nothing any more."""
        self._set_deadline(0)
        self._read_by(None)
        self._acceptor.discard(self)
        if not self._owned:
            self._sock.close()

    def _set_deadline(self, timeout: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if timeout:
            self._timer = self._loop.call_later(timeout, self.give_up)

    def _read_by(self, reader: Callable[[], None] | None) -> None:
        if reader is None and self._reader is not None:
            self._loop.remove_reader(self._sock)
        elif reader is not None:
            self._loop.add_reader(self._sock, reader)
        self._reader = reader

    def _look(self) -> None:
        """Look at the first byte, and leave it where it is."""
        try:
            first = self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            if self._reader is None:
                self._read_by(self._look)
            return
        except OSError:
            first = b""
        if first and first[0] == _HANDSHAKE_RECORD:
            self._read_by(None)
            self._task = self._loop.create_task(self._shake_hands())
            self._task.add_done_callback(self._shaken)
        elif first.isalpha():
            self._explain()
        else:
            self.give_up()

    # -- TLS -----------------------------------------------------------------

    async def _shake_hands(self) -> None:
        acceptor = self._acceptor
        handshake = _Handshake(LoopTLSTransport(acceptor.factory), acceptor.tls)
        self._owned = True
        HANDSHAKE_SOCKET.set(self._sock)
        try:
            # In two steps: the transport below TLS is to be known.
            await self._loop.connect_accepted_socket(lambda: handshake, self._sock)
            await handshake
        except OSError as error:  # those of ssl are such, too
            _logger.debug("A TLS handshake has failed: %s", error)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        """Report what has failed of ours, at the end of the handshake."""
        self._ended()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler(
                {"message": "A connection could not be begun", "exception": error}
            )

    # -- HTTP without TLS ----------------------------------------------------

    def _explain(self) -> None:
        """Answer plain HTTP, and leave the client time to read that."""
        with suppress(OSError):
            self._sock.send(_ANSWER_TO_HTTP)
            self._sock.shutdown(socket.SHUT_WR)
        self._set_deadline(_LINGER_TIMEOUT)
        self._read_by(self._drop)

    def _drop(self) -> None:
        """Read what nobody wants, until the client has closed."""
        try:
            data = self._sock.recv(64 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.give_up()
