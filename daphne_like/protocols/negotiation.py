"""
Which version of HTTP a connection speaks.

In TLS the client has chosen it in the handshake (ALPN, RFC 7301). In cleartext it
shows with the first bytes: HTTP/2 begins with a preface that is no request of
HTTP/1 (RFC 9113 section 3.3). A connection therefore begins as HTTP/1, whose parser
finds the preface without being asked, and is handed over.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IProtocolFactory, IProtocolNegotiationFactory
from zope.interface import implementer

from daphne_like.protocols.connections import http2_protocol
from daphne_like.protocols.http1 import HTTP1Protocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IProtocol

    from daphne_like.observability.metrics import Metrics
    from daphne_like.protocols.connections import HTTPContext

__all__ = ["CountingHTTPFactory", "HTTPFactory", "http1_protocol_class"]

_ALPN = {"auto": [b"h2", b"http/1.1"], "1.1": [b"http/1.1"], "2": [b"h2"]}


def http1_protocol_class(context: HTTPContext) -> type[HTTP1Protocol]:
    """Choose the class of the connections which speak HTTP/1."""
    if context.daphne_compat:
        from daphne_like.protocols.http1_lenient import LenientHTTP1Protocol

        return LenientHTTP1Protocol
    return HTTP1Protocol


@implementer(IProtocolFactory, IProtocolNegotiationFactory)
class HTTPFactory:
    """Makes the protocol of each connection of a listener."""

    def __init__(self, context: HTTPContext) -> None:
        self._context = context
        self._versions = context.http2.http
        self._http1 = http1_protocol_class(context)

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """Make the protocol of a connection that has chosen none (IProtocolFactory)."""
        if self._versions == "2":
            return http2_protocol(self._context)
        protocol: IProtocol = self._http1(self._context)
        return protocol

    def acceptableProtocols(self) -> list[bytes]:
        """Tell the names for ALPN, best first (IProtocolNegotiationFactory)."""
        if self._versions != "1.1":
            # Most clients of a TLS listener will choose it: the first is not to wait.
            import daphne_like.protocols.http2  # noqa: F401
        return _ALPN[self._versions]

    def build_negotiated(self, addr: IAddress, name: bytes | None) -> IProtocol:
        """Make the protocol that was chosen with ALPN, if any was."""
        if name == b"h2" and self._versions != "1.1":
            return http2_protocol(self._context)
        return self.buildProtocol(addr)

    def doStart(self) -> None:
        """Do nothing when a listener starts (IProtocolFactory)."""

    def doStop(self) -> None:
        """Do nothing when a listener stops (IProtocolFactory)."""


class CountingHTTPFactory(HTTPFactory):
    """Counts the connections of a listener, too."""

    def __init__(self, metrics: Metrics, context: HTTPContext) -> None:
        super().__init__(context)
        self._metrics = metrics

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """Make and count the protocol of a connection (IProtocolFactory)."""
        self._metrics.connections += 1
        return super().buildProtocol(addr)

    def build_negotiated(self, addr: IAddress, name: bytes | None) -> IProtocol:
        """Make and count the protocol that was chosen with ALPN, if any was."""
        if name == b"h2":
            # What it is not chosen for comes by buildProtocol. Nobody can choose
            # it where it isn't spoken.
            self._metrics.connections += 1
        return super().build_negotiated(addr, name)
