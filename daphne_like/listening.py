"""
The endpoints of one server, from their settings to the ports which listen.

:class:`Listening` first binds all, so that an address in use is found before anything
is started, and later listens on each. It needs the loop that runs; the reactor only
where an endpoint is one of Twisted's.

Tests: ``tests/unit/test_listening.py``, ``tests/integration/test_listening.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from daphne_like.errors import ListenError, SettingsError
from daphne_like.listeners.endpoints import (
    configured_endpoints,
    redirect_endpoints,
    scheme_of,
    twisted_endpoint,
)
from daphne_like.listeners.ports import LoopPort, bind_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from twisted.internet.interfaces import (
        IListeningPort,
        IProtocolFactory,
        IStreamServerEndpoint,
    )

    from daphne_like.listeners.bound import BoundEndpoints
    from daphne_like.listeners.ports import SocketEndpoint
    from daphne_like.listeners.tls import ServerTLS
    from daphne_like.settings import Settings

__all__ = ["Listening", "listen", "url_of"]

_logger = logging.getLogger("daphne_like.server")

# What is spoken, by the setting.
_VERSIONS = {"auto": "HTTP/1.1 and 2", "1.1": "HTTP/1.1", "2": "HTTP/2"}


class Listening:
    """
    All that a server listens on.

    Args:
        settings: All settings.

    Attributes:
        endpoints: Strings and endpoints of what is served; None in place of those
            which are Twisted's.
        ports: What listens, first those of ``endpoints`` in their order.
        beside: Further endpoints, which are bound and given up with the others and on
            which somebody else listens.

    Raises:
        SettingsError: An endpoint string is wrong, or there is nowhere to redirect to.
    """

    def __init__(self, settings: Settings) -> None:
        bind, tls, proxy = settings.bind, settings.tls, settings.proxy
        self._versions = _VERSIONS[settings.http2.http]
        self.endpoints = configured_endpoints(bind, tls, proxy)
        self._redirects = redirect_endpoints(tls.redirect_https, bind, proxy)
        if self._redirects and not any(
            scheme_of(*item) == "https" for item in self.endpoints
        ):
            raise SettingsError("redirect_https needs a listener with TLS")
        self._twisted: list[IStreamServerEndpoint] = []
        self.ports: list[IListeningPort] = []
        self.beside: Sequence[SocketEndpoint] = ()

    @property
    def own(self) -> list[SocketEndpoint]:
        """Those which are no other package's, and those ``beside``."""
        pairs = (*self.endpoints, *self._redirects)
        own = [endpoint for _, endpoint in pairs if endpoint is not None]
        return [*own, *self.beside]

    @property
    def certificates(self) -> list[ServerTLS]:
        """Those which are shown to clients, each once."""
        found = (endpoint.tls for _, endpoint in self.endpoints if endpoint is not None)
        return list(dict.fromkeys(tls for tls in found if tls is not None))

    # -- Binding ---------------------------------------------------------------

    def bind(self) -> None:
        """
        Claim the addresses, as far as they aren't.

        Raises:
            ListenError: One can't be bound; nothing stays bound then.
        """
        try:
            bind_all(self.own)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up what is bound."""
        for endpoint in self.own:
            endpoint.close()

    def adopt(self, sockets: Sequence[Sequence[socket.socket]]) -> None:
        """
        Listen on sockets which another process has bound.

        Args:
            sockets: For each endpoint of ours and for each that redirects, in the
                order of the settings.
        """
        for endpoint, bound in zip(self.own, sockets, strict=True):
            endpoint.adopt(bound)

    def take_over(self, bound: BoundEndpoints) -> None:
        """Listen on endpoints of the same settings which were bound before."""
        self.endpoints, self._redirects = bound.endpoints, bound.redirects

    # -- Listening -------------------------------------------------------------

    def make_twisted_endpoints(self, reactor: Callable[[], object]) -> None:
        """
        Make those endpoints which are Twisted's, before each :meth:`listen`.

        Args:
            reactor: Returns it; is called for none but them.

        Raises:
            SettingsError: A string is malformed or names an unknown kind.
        """
        self._twisted = [
            twisted_endpoint(text, reactor())
            for text, own in self.endpoints
            if own is None
        ]

    async def listen(
        self,
        factory: Callable[[str], IProtocolFactory],
        redirecting: Callable[[int], IProtocolFactory],
    ) -> None:
        """
        Listen on all of them, one by one.

        Args:
            factory: Makes what serves connections of a scheme.
            redirecting: Makes what sends those who come without TLS to a port.

        Raises:
            ListenError: That can't be done; :meth:`stop` ends what has begun.
        """
        twisted = iter(self._twisted)
        for text, own in self.endpoints:
            endpoint = next(twisted) if own is None else own
            made = factory(scheme_of(text, endpoint))
            self.ports.append(await listen(text, endpoint, made))
        if self._redirects:
            made = redirecting(self._port_with_tls())
            for text, own in self._redirects:
                assert own is not None
                self.ports.append(await listen(text, own, made))

    def _port_with_tls(self) -> int:
        """Tell the first one; that of HTTPS where there are Unix sockets alone."""
        for item, port in zip(self.endpoints, self.ports, strict=True):
            if scheme_of(*item) == "https":
                for address in _addresses(port):
                    if hasattr(address, "port"):
                        return int(address.port)
        return 443

    async def stop(self) -> Sequence[LoopPort]:
        """Accept no more; return what may have connections which haven't begun."""
        ports, self.ports = self.ports, []
        for port in ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped.asFuture(asyncio.get_running_loop())
        return [port for port in ports if isinstance(port, LoopPort)]

    # -- Addresses -------------------------------------------------------------

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP listener."""
        return [
            (address.host, address.port)
            for port in self.ports
            for address in _addresses(port)
            if hasattr(address, "port")
        ]

    @property
    def urls(self) -> list[str]:
        """Where it listens; ``unix:`` and a path for Unix sockets."""
        return [url for _, url in self._items_and_urls()]

    def announce(self, loop: asyncio.AbstractEventLoop, level: int) -> None:
        """Log where it listens, what is spoken there, and on which kind of loop."""
        kind = type(loop).__module__.partition(".")[0]
        for item, url in self._items_and_urls():
            what = "to https" if item in self._redirects else self._versions
            _logger.log(level, "Listening on %s (%s, %s)", url, what, kind)

    def _items_and_urls(self) -> Iterator[tuple[tuple[str, object], str]]:
        items = (*self.endpoints, *self._redirects)
        # When it stops, there are fewer ports than endpoints.
        for item, port in zip(items, self.ports, strict=False):
            for address in _addresses(port):
                yield item, url_of(scheme_of(*item), address)


async def listen(
    text: str, endpoint: IStreamServerEndpoint, factory: IProtocolFactory
) -> IListeningPort:
    """
    Listen on an endpoint.

    Args:
        text: Names it in messages.
        endpoint: Ours, or one of Twisted's.
        factory: Makes the protocols of its connections.

    Raises:
        ListenError: It can't be done.
    """
    try:
        listening: Deferred[IListeningPort] = endpoint.listen(factory)
        return await listening.asFuture(asyncio.get_running_loop())
    except CannotListenError as error:
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        number = getattr(error.socketError, "errno", None)
        raise ListenError(f"Listen failure: {text}: {reason}", number) from None


def url_of(scheme: str, address: Any) -> str:
    """
    Write an address of Twisted's as a URL; ``unix:`` and a path for a Unix socket.

    Args:
        scheme: ``http`` or ``https``.
        address: Of a listener.
    """
    if not hasattr(address, "port"):
        return f"unix:{os.fsdecode(address.name or b'')}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{address.port}"


def _addresses(port: IListeningPort) -> Iterable[Any]:
    """Tell the addresses of a listener; their classes differ."""
    return port.addresses() if isinstance(port, LoopPort) else [port.getHost()]
