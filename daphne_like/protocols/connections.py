"""
What connections share, and what they ask of the transport under them.

Twisted's transports and those of :mod:`daphne_like.listeners.transports` have
the same methods, but for a few which Twisted's interfaces don't name. Those
few are told apart here, and nowhere else.

Tests: ``tests/unit/protocols/test_connections.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import ISSLTransport

from daphne_like.protocols.interfaces import Connection, ignore_limit
from daphne_like.protocols.tls_extension import tls_extension
from daphne_like.settings import HTTP2Settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from twisted.internet.interfaces import IProtocol, IPushProducer

    from daphne_like.protocols.deadlines import DeadlineWheel
    from daphne_like.protocols.default_headers import DefaultHeaders
    from daphne_like.protocols.interfaces import LimitHit, LiveConnection, OpenStream
    from daphne_like.settings import HTTPSettings

__all__ = [
    "HTTPContext",
    "Transport",
    "addresses",
    "close_writing",
    "describe",
    "has_tls",
    "http2_protocol",
    "settle",
    "shared_descriptor",
    "socket_of",
    "soon_writer",
    "switch_protocol",
    "unsent_bytes",
]


class Transport(Protocol):
    """What protocols ask of a Twisted transport."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...

    # Their addresses are of several classes, told apart by their attributes.
    def getPeer(self) -> Any: ...
    def getHost(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class HTTPContext:
    """
    What the connections of one listener share, whichever HTTP version they speak.

    Attributes:
        open_stream: Makes the stream for a request.
        open_websocket: Makes the stream for one that asks for a WebSocket.
        settings: Limits and timeouts.
        default_headers: Added to each response.
        wheel: Keeps the deadlines; its clock is the clock.
        loop: Makes the futures that ``send()`` waits for.
        connections: The live ones; each adds and removes itself.
        scheme: ``http`` or ``https``.
        http2: Which versions are spoken, and what concerns HTTP/2 alone.
        daphne_compat: HTTP/1 is read and written as leniently as Daphne does.
        limit_hit: Is told of each limit that holds.
    """

    open_stream: OpenStream
    open_websocket: OpenStream
    settings: HTTPSettings
    default_headers: DefaultHeaders
    wheel: DeadlineWheel
    loop: AbstractEventLoop
    connections: set[LiveConnection]
    scheme: str = "http"
    http2: HTTP2Settings = field(default_factory=HTTP2Settings)
    daphne_compat: bool = False
    limit_hit: LimitHit = ignore_limit


def describe(transport: Transport, scheme: str) -> Connection:
    """
    Read the addresses and the TLS of a transport; Unix sockets have no port.

    What a proxy has announced by the PROXY protocol counts before that, but for TLS:
    that of the connection itself comes first.

    Args:
        transport: On which the handshake, if there is one, is over.
        scheme: The listener's, which counts where the transport knows of no TLS.
    """
    client, server = addresses(transport)
    tls = tls_extension(transport)
    if tls is not None:
        scheme = "https"
    announced = getattr(transport, "announced", None)
    if announced is None:
        return Connection(client, server, scheme, tls)
    proxy = announced.extension(_host_and_port(transport.true_peer()))  # type: ignore[attr-defined]
    return Connection(
        client,
        server,
        announced.scheme or scheme,
        announced.tls_extension() if tls is None else tls,
        proxy,
    )


def _host_and_port(address: Any) -> tuple[str, int] | None:
    return (address.host, address.port) if hasattr(address, "port") else None


def addresses(
    transport: Transport,
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None]:
    """Read client and server as :class:`Connection` has them."""
    client, host = _host_and_port(transport.getPeer()), transport.getHost()
    if hasattr(host, "port"):
        return client, (host.host, host.port)
    name = getattr(host, "name", None)
    return client, (os.fsdecode(name), None) if name else None


def soon_writer(transport: Transport) -> Callable[[bytes], None]:
    """
    Return what writes at the end of the loop's turn, if the transport has that.

    Who then calls the transport's own ``write`` calls :func:`settle` before.
    """
    write: Callable[[bytes], None]
    write = getattr(transport, "write_soon", transport.write)
    return write


def settle(transport: Any) -> None:
    """Write what :func:`soon_writer`'s has held back."""
    if hasattr(transport, "settle"):
        transport.settle()


def shared_descriptor(transport: Any) -> int | None:
    """
    Return the descriptor of a transport for writes that go past it; None if none may.

    They may while the transport isn't full, which it is from now on as soon as it holds
    anything.
    """
    # Not an attribute of the instance: Twisted's TLS passes on those of what is below it.
    share = getattr(type(transport), "share_descriptor", None)
    descriptor: int | None = share(transport) if share is not None else None
    return descriptor


def unsent_bytes(transport: Any) -> int:
    """Count the bytes which the peer hasn't taken yet."""
    if hasattr(transport, "write_buffer_bytes"):
        return int(transport.write_buffer_bytes())
    # Twisted's own, which have no method for it: what is being sent, and what
    # will be put behind it.
    sending = len(getattr(transport, "dataBuffer", b""))
    sent: int = getattr(transport, "offset", 0)
    waiting: int = getattr(transport, "_tempDataLen", 0)
    return sending - sent + waiting


def has_tls(transport: Any) -> bool:
    """Whether what is written goes out encrypted."""
    return hasattr(transport, "ssl_object") or ISSLTransport.providedBy(transport)


def socket_of(transport: Any) -> Any:
    """Return the socket under a transport; None where it has none."""
    if hasattr(transport, "get_socket"):
        return transport.get_socket()
    return getattr(transport, "socket", None)


def close_writing(transport: Any) -> Callable[[], None] | None:
    """
    Return what closes our side and leaves the peer's open; None where it can't be.

    Twisted's TLS has no such method, but passes on that of TCP below it, which
    would end TLS without its own farewell (RFC 8446 section 6.1). Ours has one.
    """
    if ISSLTransport.providedBy(transport) and not hasattr(
        transport, "write_buffer_bytes"
    ):
        return None
    if not hasattr(type(transport), "loseWriteConnection"):
        return None
    close: Callable[[], None] = transport.loseWriteConnection
    return close


def switch_protocol(transport: Any, protocol: IProtocol) -> None:
    """Let another protocol have what arrives from now on."""
    if hasattr(transport, "switch_protocol"):
        transport.switch_protocol(protocol)
    elif hasattr(transport, "wrappedProtocol"):
        # Twisted's TLS, and other protocols which are transports for another one.
        transport.wrappedProtocol = protocol
    else:
        # Twisted's own look it up for every read.
        transport.protocol = protocol


def http2_protocol(context: HTTPContext) -> IProtocol:
    """Make the protocol of a connection which speaks HTTP/2."""
    # Imported with the first of them.
    from daphne_like.protocols.http2 import HTTP2Protocol

    protocol: IProtocol = HTTP2Protocol(context)
    return protocol
