"""
The PROXY protocol between the event loop's transport and what the listener speaks.

A connection begins with a :class:`_HeaderReader` as the loop's protocol. When the
header is complete, that gives its place to a
:class:`~daphne_like.listeners.transports.LoopTransport`, with TLS or without, and is
out of the way. So only the beginning of a connection is slower, and only on listeners
which expect the header.

Tests: ``tests/unit/listeners/test_proxy_transports.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from daphne_like.listeners.pending import PendingConnections
from daphne_like.listeners.proxy_protocol import MalformedHeader, read_header
from daphne_like.trusted_peers import TrustedPeers

if TYPE_CHECKING:
    from collections.abc import Callable

    from daphne_like.listeners.transports import LoopTransport
    from daphne_like.settings import ProxySettings

__all__ = ["ProxyHeaders", "ProxyPolicy"]

_logger = logging.getLogger("daphne_like.server")

_TOO_LATE = "no complete header came in time"
# Warned of by a listener; some hold a part of what came.
_MOST_REASONS = 20


@dataclass(frozen=True, slots=True)
class ProxyPolicy:
    """
    Who may announce clients, and in what time.

    Attributes:
        peers: The trust list.
        timeout: Seconds for the header to come; 0 for no limit.
    """

    peers: TrustedPeers
    timeout: float

    @classmethod
    def from_settings(cls, settings: ProxySettings) -> ProxyPolicy:
        """Make the policy of these settings."""
        peers = TrustedPeers(settings.forwarded_allow_ips)
        return cls(peers, settings.timeout_proxy_protocol)


class ProxyHeaders(PendingConnections):
    """
    The connections of a listener whose header isn't complete.

    Args:
        policy: Who may send one.
        make_transport: Makes what comes behind it.
    """

    def __init__(
        self, policy: ProxyPolicy, make_transport: Callable[[], LoopTransport]
    ) -> None:
        super().__init__()
        self.policy = policy
        self.make_transport = make_transport
        self._reported: set[str] = set()
        if policy.peers.everyone:
            _logger.warning(
                "forwarded_allow_ips holds *: whoever can connect to a listener with "
                "the PROXY protocol chooses the client address"
            )

    def make_reader(self) -> asyncio.Protocol:
        """Make what a new connection begins with."""
        return _HeaderReader(self)

    def report(self, peer: str | None, reason: str) -> None:
        """
        Say why a connection was closed.

        It mostly is one mistake in a configuration, which all connections have in
        common: it is a warning once, and details from then on.
        """
        level = logging.DEBUG
        if reason not in self._reported and len(self._reported) < _MOST_REASONS:
            self._reported.add(reason)
            level = logging.WARNING
        _logger.log(
            level,
            "Closing a connection of %s to a listener with the PROXY protocol: %s",
            peer or "a Unix socket",
            reason,
        )

    def close(self) -> None:
        """Leave them a moment."""
        self._reported.add(_TOO_LATE)  # it's no mistake now
        super().close()


class _HeaderReader(asyncio.Protocol):
    """
    Reads the header of one connection.

    Attributes:
        is_idle: No byte has come yet.
    """

    __slots__ = ("_headers", "_peer", "_received", "_transport", "is_idle")

    def __init__(self, headers: ProxyHeaders) -> None:
        self._headers = headers
        self._peer: tuple[str, int] | None = None
        self._received = b""
        self.is_idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the header, if the peer may send one."""
        self._transport = cast("asyncio.Transport", transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            name = transport.get_extra_info("peername")
            if not name:  # it has gone
                self._transport.abort()
                return
            self._peer = name[0], name[1]
        policy = self._headers.policy
        # Section 2: "The receiver MUST be configured to only receive the protocol
        # [...] and MUST NOT try to guess", and should know who may send it.
        if not policy.peers.trusts(self._host):
            self._refuse("it isn't in forwarded_allow_ips")
        else:
            self._headers.begin(self, policy.timeout)

    def data_received(self, data: bytes) -> None:
        """Go on with the header."""
        self.is_idle = False
        self._received += data
        try:
            found = read_header(self._received)
        except MalformedHeader as error:
            self._refuse(f"no valid header: {error}")
            return
        if found is None:
            return
        announced, size = found
        self._headers.end(self)
        transport, successor = self._transport, self._headers.make_transport()
        if announced is not None:
            successor.announced = announced
        transport.set_protocol(successor)
        successor.connection_made(transport)
        rest = self._received[size:]
        if rest and not transport.is_closing():
            successor.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it: the peer has left."""
        self._headers.end(self)

    def give_up(self) -> None:
        """Close: the header takes too long, or others need the room."""
        self._refuse(_TOO_LATE)

    @property
    def _host(self) -> str | None:
        return None if self._peer is None else self._peer[0]

    def _refuse(self, reason: str) -> None:
        self._headers.end(self)
        self._headers.report(self._host, reason)
        self._transport.abort()
