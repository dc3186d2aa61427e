"""
Sockets to connections: endpoints which listen through the event loop.

An endpoint first binds and later listens, and by then connections have their
transport (:mod:`~daphne_like.listeners.transports` tells why it is ours), TLS and the
PROXY protocol under them.

Tests: ``tests/unit/listeners/test_endpoints.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from daphne_like.listeners.outbox import Outbox
from daphne_like.listeners.sockets import AF_UNIX, SocketSource, listen_error
from daphne_like.listeners.transports import LoopTransport, twisted_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.interfaces import IAddress, IProtocolFactory

    from daphne_like.listeners.pending import PendingConnections
    from daphne_like.listeners.proxy_transports import ProxyPolicy
    from daphne_like.listeners.tls import ServerTLS

__all__ = ["LoopPort", "SocketEndpoint", "bind_all"]

# asyncio accepts as many connections in one turn of the loop as it is told the
# backlog is, and after the first failure tries all the others in vain.
_ACCEPTS_PER_TURN = 32

# Of a socket, for one beside it at the same address.
_TCP_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)),
]
_COPIED_OPTIONS = {
    socket.AF_INET: _TCP_OPTIONS,
    socket.AF_INET6: [*_TCP_OPTIONS, (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)],
}


def bind_all(endpoints: Iterable[SocketEndpoint], *, reuse_port: bool = False) -> None:
    """
    Bind the endpoints of one server.

    Args:
        endpoints: All of them.
        reuse_port: Whether others may bind the same TCP ports, see
            :meth:`SocketEndpoint.siblings`.

    Raises:
        ListenError: An address can't be bound. The caller closes all endpoints.
    """
    bound: list[socket.socket] = []
    # "::" comes last: it has to know who takes IPv4.
    for endpoint in sorted(endpoints, key=lambda item: item.takes_both_families):
        bound += endpoint.bind(bound, reuse_port=reuse_port)


@implementer(IStreamServerEndpoint)
class SocketEndpoint:
    """
    Listens through the running event loop.

    Attributes:
        tls: The certificates; ``None`` for no TLS.
        proxy: Who may send the PROXY protocol's header, which must come; ``None``
            where none is expected.
    """

    def __init__(self, source: SocketSource, backlog: int) -> None:
        self.tls: ServerTLS | None = None
        self.proxy: ProxyPolicy | None = None
        self._source = source
        self._backlog = backlog
        self._sockets: list[socket.socket] = []
        self._file: tuple[int, int] | None = None
        self._keeps_file = True

    @property
    def takes_both_families(self) -> bool:
        """Whether it takes IPv4 connections on an IPv6 socket."""
        return self._source.takes_both_families

    @property
    def said_by_name(self) -> str:
        """``http``, ``https`` or ``redirect`` where the socket is named so, else empty."""
        return self._source.said_by_name

    def bind(
        self, beside: Sequence[socket.socket] = (), *, reuse_port: bool = False
    ) -> Sequence[socket.socket]:
        """
        Claim the addresses without listening, which :meth:`listen` does.

        What is bound already stays so.

        Args:
            beside: The sockets which this server has bound already.
            reuse_port: Whether others may bind the same TCP port.

        Raises:
            ListenError: An address can't be bound.
        """
        if self._sockets:
            return self._sockets
        try:
            self._sockets = self._source.open(beside, reuse_port=reuse_port)
        except OSError as error:
            raise listen_error(self._source.where, error) from None
        self._file = self._identify_file()
        return self._sockets

    def siblings(self) -> list[socket.socket]:
        """
        Bind further TCP sockets to the same addresses, beside those which may be.

        The system deals connections out among them. What can't have a sibling is
        shared: the same sockets are returned once more.

        Raises:
            ListenError: That can't be done.
        """
        return [self._sibling(sock) for sock in self._sockets]

    def _sibling(self, sock: socket.socket) -> socket.socket:
        if sock.family == AF_UNIX or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEPORT
        ):
            return sock
        sibling = socket.socket(sock.family, sock.type, sock.proto)
        try:
            for level, option in _COPIED_OPTIONS[sock.family]:
                sibling.setsockopt(level, option, sock.getsockopt(level, option))
            sibling.bind(sock.getsockname())
        except OSError as error:
            sibling.close()
            raise listen_error(self._source.where, error) from None
        return sibling

    def adopt(self, sockets: Sequence[socket.socket]) -> None:
        """
        Listen on sockets which another process has bound, and which keeps them.

        Args:
            sockets: What :meth:`bind` or :meth:`siblings` returned there.
        """
        self._sockets = list(sockets)
        self._file = self._identify_file()
        self._keeps_file = False

    def close(self) -> None:
        """Give up what is bound; remove the socket file unless a successor has it."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        path, file = self._source.path, self._file
        self._file = None
        if path is None or file is None or not self._keeps_file:
            return
        if file == self._identify_file():
            with contextlib.suppress(OSError):
                Path(path).unlink()

    @property
    def bound(self) -> Sequence[socket.socket]:
        """The sockets, as far as they are bound."""
        return tuple(self._sockets)

    def abandon(self) -> None:
        """Close what is bound in a forked child; a socket file is the parent's."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        self._file = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen at once.

        Returns:
            Fires with the port, or fails with :class:`ListenError`.
        """
        return Deferred.fromFuture(asyncio.ensure_future(self._listen(factory)))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if not self._sockets:
            self.bind()
        servers: list[_Acceptor] = []
        try:
            if self._file != self._identify_file():
                # Bound and not yet listening, it looked stale to another server.
                raise listen_error(self._source.where, "another server took it over")
            for sock in self._sockets:
                server = await self._start(sock, factory)
                servers.append(server)
            return LoopPort(self, factory, servers, self._sockets)
        except BaseException as error:
            for server in servers:
                server.close()
            self.close()
            if isinstance(error, OSError):
                raise listen_error(self._source.where, error) from None
            raise

    async def _start(self, sock: socket.socket, factory: IProtocolFactory) -> _Acceptor:
        sock.setblocking(False)
        # uvloop says nothing when it can't listen; so that is done here.
        sock.listen(self._backlog)
        loop = asyncio.get_running_loop()
        outbox = Outbox(loop)
        make_transport: Callable[[], LoopTransport]
        make_transport = partial(LoopTransport, factory, outbox)
        pending: list[PendingConnections] = []
        if self.tls is not None:
            from daphne_like.listeners import tls_transports

            if IProtocolNegotiationFactory.providedBy(factory):
                self.tls.offer(factory.acceptableProtocols())
            handshakes = tls_transports.Handshakes(self.tls)
            pending.append(handshakes)
            make_transport = partial(
                tls_transports.LoopTLSTransport, factory, outbox, handshakes
            )
        make_protocol: Callable[[], asyncio.Protocol] = make_transport
        if self.proxy is not None:
            from daphne_like.listeners.proxy_transports import ProxyHeaders

            # Before TLS (section 2 of the PROXY protocol).
            headers = ProxyHeaders(self.proxy, make_transport)
            pending.insert(0, headers)
            make_protocol = headers.make_reader
        options: dict[str, Any] = {"sock": sock, "backlog": _ACCEPTS_PER_TURN}
        listen: Callable[..., Any] = loop.create_server
        if sock.family == AF_UNIX:
            listen = loop.create_unix_server
            if sys.version_info >= (3, 13):
                # The file may be systemd's; when it is ours, we remove it.
                options["cleanup_socket"] = False
        server: asyncio.AbstractServer = await listen(make_protocol, **options)
        # Once more, in place of what the loop took for the backlog.
        sock.listen(self._backlog)
        return _Acceptor(server, pending)

    def _identify_file(self) -> tuple[int, int] | None:
        """Tell one socket file from another at the same path."""
        if self._source.path is None:
            return None
        try:
            status = os.lstat(self._source.path)
        except PermissionError:
            return self._file  # root has bound it, and we are root no more
        except OSError:
            return None
        return status.st_dev, status.st_ino


class _Acceptor:
    """Accepts the connections of one socket."""

    def __init__(
        self, server: asyncio.AbstractServer, pending: Sequence[PendingConnections]
    ) -> None:
        self._server = server
        self._pending = pending

    def close(self) -> None:
        """Accept no more; those which haven't begun have a moment to do so."""
        self._server.close()
        for connections in self._pending:
            connections.close()

    async def begun(self) -> None:
        """Wait until none is left of those which haven't begun."""
        # In the order in which a connection goes through them.
        for connections in self._pending:
            await connections.emptied()

    def cut(self) -> None:
        """Give up those which haven't begun."""
        for connections in self._pending:
            connections.cut()


@implementer(IListeningPort)
class LoopPort:
    """The listening sockets of one endpoint."""

    def __init__(
        self,
        endpoint: SocketEndpoint,
        factory: IProtocolFactory,
        servers: Sequence[_Acceptor],
        sockets: Sequence[socket.socket],
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._servers = servers
        self._sockets = sockets
        self._stopped = False
        self._addresses = [
            twisted_address(sock, sock.getsockname()) for sock in sockets
        ]
        factory.doStart()

    def startListening(self) -> None:
        """Do nothing: it listens from the start (IListeningPort)."""

    def stopListening(self) -> Deferred[None]:
        """
        Accept no more; connections go on (IListeningPort).

        Those which haven't begun, with their handshake for instance, have a moment
        for it; :meth:`begun` waits for them.
        """
        return Deferred.fromFuture(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        servers = self._servers
        if self._stopped:
            return
        self._stopped = True
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        # What asyncio has accepted in this turn it connects in the next one, but
        # forgets when the server is closed meanwhile.
        await asyncio.sleep(0)
        for server in servers:
            server.close()
        self._endpoint.close()
        self._factory.doStop()

    async def begun(self) -> None:
        """Wait until those which were accepted have begun, or won't ever."""
        for server in self._servers:
            await server.begun()

    def cut(self) -> None:
        """Give up those which haven't begun."""
        for server in self._servers:
            server.cut()

    def getHost(self) -> IAddress:
        """Tell the first address (IListeningPort)."""
        return self._addresses[0]

    def addresses(self) -> list[IAddress]:
        """Tell all addresses, as a host name may have several."""
        return list(self._addresses)
