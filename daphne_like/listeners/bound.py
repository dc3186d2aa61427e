"""
Endpoints which are bound before there is a server.

Whoever gives up the rights of root needs them before that, and a supervisor for all of
its workers.

Tests: ``tests/unit/listeners/test_bound.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.listeners.endpoints import configured_endpoints, redirect_endpoints
from daphne_like.listeners.ports import bind_all

if TYPE_CHECKING:
    from daphne_like.listeners.ports import SocketEndpoint
    from daphne_like.settings import Settings

__all__ = ["BoundEndpoints"]


class BoundEndpoints:
    """
    The endpoints of the settings, bound; those of Twisted's own need its reactor.

    Args:
        settings: All of them.
        reuse_port: Whether others may bind the same TCP ports.

    Attributes:
        endpoints: What is served, as of
            :func:`~daphne_like.listeners.endpoints.configured_endpoints`.
        redirects: What only sends clients elsewhere.

    Raises:
        ListenError: An address can't be bound.
        SettingsError: A setting is wrong.
    """

    def __init__(self, settings: Settings, *, reuse_port: bool = False) -> None:
        bind, tls, proxy = settings.bind, settings.tls, settings.proxy
        self.endpoints = configured_endpoints(bind, tls, proxy)
        self.redirects = redirect_endpoints(tls.redirect_https, bind, proxy)
        try:
            bind_all(self.own, reuse_port=reuse_port)
        except BaseException:
            self.close()
            raise

    @property
    def own(self) -> list[SocketEndpoint]:
        """Those which are no other package's, first those of ``endpoints``."""
        pairs = (*self.endpoints, *self.redirects)
        return [endpoint for _, endpoint in pairs if endpoint is not None]

    def close(self) -> None:
        """Give up what is bound."""
        for endpoint in self.own:
            endpoint.close()
