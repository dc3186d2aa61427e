"""
The server: start, serve, drain, stop.

:class:`Server` is a Twisted service over a running asyncio reactor;
:meth:`Server.run` and :func:`run` make a whole process of it
(:mod:`daphne_like.process`).

The server's life is one coroutine, :meth:`Server._live`. It binds the addresses,
so that one in use is found at once; starts the application's lifespan; listens.
It stops in the reverse order: it tells the application, accepts no more, lets what is
in flight end, closes the connections, ends the lifespan.

Tests: ``tests/unit/test_server.py``, ``tests/integration/test_lifecycle.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning

from daphne_like import process, reactor
from daphne_like.asgi.applications import CountingManager
from daphne_like.asgi.drain_notice import DrainNotice
from daphne_like.asgi.lifespan import Lifespan
from daphne_like.asgi.redirect import redirect_to_https
from daphne_like.daphne_keywords import settings_of_keywords
from daphne_like.errors import SettingsError, StartError
from daphne_like.listeners.endpoints import (
    LoopPort,
    bind_all,
    configured_endpoints,
    redirect_endpoints,
    scheme_of,
    twisted_endpoint,
)
from daphne_like.observability.access_log import AccessLog
from daphne_like.observability.action_log import ActionLog
from daphne_like.observability.logs import (
    bridge_twisted_logging,
    join_daphne_loggers,
    reopen_log_files,
)
from daphne_like.serving import Serving, listen
from daphne_like.settings import Settings
from daphne_like.winding_down import (
    Connections,
    EverySecond,
    give_notice,
    longest_stop,
    take_last_requests,
    wind_down,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

    from daphne_like.asgi.applications import ApplicationManager
    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.listeners.endpoints import SocketEndpoint
    from daphne_like.listeners.tls import ServerTLS
    from daphne_like.observability.action_log import ActionLogger
    from daphne_like.observability.log_formats import ExchangeLog
    from daphne_like.process import Superior
    from daphne_like.settings import BindSettings, LogSettings

__all__ = ["Server", "run"]

_logger = logging.getLogger("daphne_like.server")

# What is spoken, by the setting.
_VERSIONS = {"auto": "HTTP/1.1 and 2", "1.1": "HTTP/1.1", "2": "HTTP/2"}


class Server(Service):
    """
    Serves one application on any number of endpoints.

    Inside a Twisted program, add it to a service collection; the reactor must
    be the asyncio one. :meth:`run` makes a whole program of it.

    Args:
        application: An ASGI 3 application.
        endpoints: Endpoint strings to listen on, besides those of the settings.
        settings: All settings.
        signal_handlers: Whether :meth:`run` obeys signals, which is possible in
            the main thread only.
        ready_callable: Called when all endpoints listen. With ``daphne_compat``
            :meth:`run` calls it before the reactor runs; the addresses are bound.
        action_logger: Called with protocol, action and details of what happens, see
            :class:`~daphne_like.observability.action_log.ActionLog`. It takes the
            place of the access log, unless the settings name a target for that.
        overrides: Settings by their flat names, instead of ``settings``; or Daphne's
            keywords for them, see :mod:`daphne_like.daphne_keywords`.

    Raises:
        SettingsError: A setting or an endpoint string is wrong.
        SystemExit: There is nothing to listen on: ``endpoints`` is empty; or it is
            missing, with ``daphne_compat``.

    Attributes:
        settings: All settings.
        connections: The live ones.
        listeners: The listening ports.
        failure: What kept the server from starting.
        abort_start: It was stopped before it ran, or could not start.
        restarting: Another server takes over when this one stops: WebSockets are
            closed with 1012, which asks clients to come back, instead of 1001.
    """

    def __init__(
        self,
        application: ASGIApplication,
        endpoints: Iterable[str] | None = None,
        *,
        settings: Settings | None = None,
        signal_handlers: bool = True,
        ready_callable: Callable[[], object] | None = None,
        action_logger: ActionLogger | None = None,
        **overrides: object,
    ) -> None:
        if settings is None:
            settings = Settings.of(**settings_of_keywords(overrides))
            needs_endpoints = settings.app.daphne_compat or endpoints is not None
        elif overrides:
            raise SettingsError(
                f"{', '.join(overrides)}: give settings or keywords, not both"
            )
        else:
            needs_endpoints = endpoints is not None
        if endpoints is not None:
            settings = _with_endpoints(settings, endpoints)
        if settings.app.daphne_compat:
            join_daphne_loggers(settings.log.verbosity)
        if needs_endpoints and not _names_something(settings.bind):
            _logger.error(
                "There are no endpoints: this server has nothing to listen on"
            )
            sys.exit(1)
        self.settings = settings
        self._endpoints = configured_endpoints(settings.bind, settings.tls)
        self._redirects = redirect_endpoints(settings.tls.redirect_https, settings.bind)
        if self._redirects and not any(
            scheme_of(*item) == "https" for item in self._endpoints
        ):
            raise SettingsError("redirect_https needs a listener with TLS")
        self._application = application
        self._signal_handlers = signal_handlers
        self.ready_callable = ready_callable
        self._action_logger = action_logger
        self.connections = Connections()
        self.listeners: list[IListeningPort] = []
        self.failure: BaseException | None = None
        self.abort_start = False
        self.restarting = False
        self._supervisor: Superior | None = None
        # The reactor from run() on; stop() may come at any time, in any thread.
        self._running_reactor: Any = None
        self._running_lock = threading.Lock()
        # The server's life, and what it waits for.
        self._life: asyncio.Task[None] | None = None
        self._manager: ApplicationManager | None = None
        self._access_log: AccessLog | None = None
        self._serving = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._patience_lost = asyncio.Event()

    # -- The life of the service ---------------------------------------------

    def privilegedStartService(self) -> None:
        """
        Bind, since twistd gives up the privileges of root after this (IService).

        Nobody can connect yet. Endpoints which are Twisted's listen only when the
        application has started.

        Raises:
            ListenError: An address can't be bound.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._bind()

    def _bind(self) -> None:
        """Claim the addresses, as far as they aren't."""
        try:
            bind_all(self._own_endpoints)
        except BaseException:
            self._unbind()
            raise

    def _unbind(self) -> None:
        for endpoint in self._own_endpoints:
            endpoint.close()

    @property
    def _own_endpoints(self) -> list[SocketEndpoint]:
        pairs = (*self._endpoints, *self._redirects)
        return [endpoint for _, endpoint in pairs if endpoint is not None]

    def join_supervisor(
        self, supervisor: Superior, sockets: Sequence[Sequence[socket.socket]]
    ) -> None:
        """
        Serve as a worker, among others: before :meth:`run`.

        Args:
            supervisor: Watches over this process.
            sockets: What it has bound: for each endpoint, and for each that
                redirects, in the order of the settings.
        """
        self._supervisor = supervisor
        for endpoint, bound in zip(self._own_endpoints, sockets, strict=True):
            endpoint.adopt(bound)

    def startService(self) -> None:
        """
        Start as soon as the reactor runs (IService).

        Raises:
            SettingsError: The reactor isn't the asyncio one.
        """
        current = reactor.install(self.settings.lifecycle.loop)
        super().startService()  # type: ignore[no-untyped-call]
        # One turn later, since then the loop runs.
        current.callWhenRunning(current.callLater, 0, self._start_if_wanted)

    def _start_if_wanted(self) -> None:
        if not self.running:
            return
        if self._life is None or self._life.done():
            self._start_life()
        elif self._stop_asked.is_set():
            self._life.add_done_callback(lambda _: self._start_if_wanted())

    def stopService(self) -> Deferred[None]:
        """
        Drain and stop (IService).

        Returns:
            Fires when the application's lifespan is over.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._life is None or self._life.done():
            self._unbind()
            return succeed(None)
        return Deferred.fromFuture(asyncio.ensure_future(self.shutdown()))

    async def startup(self) -> None:
        """
        Bind, start the application, listen; return when all that is done.

        Raises:
            StartError: An address can't be had, the application refuses to start,
                or a setting is wrong. It has been logged, too.
        """
        life = self._start_life()
        serving = asyncio.ensure_future(self._serving.wait())
        await asyncio.wait([life, serving], return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        if life.done():
            life.result()

    async def shutdown(self) -> None:
        """
        Stop, whether it serves or is about to; return when all is over.

        Accepts no more, lets exchanges end in time, ends the lifespan.
        """
        life = self._life
        if life is None or life.done():
            self._unbind()
            return
        if not self._serving.is_set() and not self._stop_asked.is_set():
            life.cancel()
        self._stop_asked.set()
        await asyncio.wait([life])

    @property
    def can_reload(self) -> bool:
        """Whether there is something that :meth:`reload` would read again."""
        # A server for development ends with its terminal.
        return bool(self._certificates) and not self.settings.tls.ssl_dev

    def reload(self) -> None:
        """Read certificates again; connections keep those they began with."""
        for certificates in self._certificates:
            certificates.reload()

    @property
    def _certificates(self) -> list[ServerTLS]:
        found = (
            endpoint.tls for _, endpoint in self._endpoints if endpoint is not None
        )
        return list(dict.fromkeys(tls for tls in found if tls is not None))

    def reopen_logs(self) -> None:
        """Open files of logs anew, after a rotation has moved them."""
        reopen_log_files()
        if self._access_log is not None:
            self._access_log.reopen()

    @property
    def requests(self) -> int:
        """How many requests came; counted in workers only."""
        manager = self._manager
        return manager.started if isinstance(manager, CountingManager) else 0

    @property
    def longest_start(self) -> float:
        """The seconds after which :meth:`startup` gives up."""
        return self.settings.app.timeout_startup or inf

    @property
    # -- The parts -----------------------------------------------------------------


def _with_endpoints(settings: Settings, endpoints: Iterable[str]) -> Settings:
    more = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    bind = replace(settings.bind, endpoint=(*settings.bind.endpoint, *more))
    return replace(settings, bind=bind)


def _names_something(bind: BindSettings) -> bool:
    """Whether there is more to listen on than where it listens by default."""
    tcp = bind.bind or bind.port is not None
    return bool(tcp or bind.unix_socket or bind.fd or bind.endpoint)


def _open_access_log(
    settings: LogSettings, action_logger: ActionLogger | None
) -> AccessLog | None:
    target = settings.access_log_target
    if target is None or (action_logger is not None and settings.access_log is None):
        return None
    return AccessLog(target, settings.access_log_format)


def _addresses(port: IListeningPort) -> Iterable[Any]:
    """Tell the addresses of a listener; their classes differ."""
    return port.addresses() if isinstance(port, LoopPort) else [port.getHost()]
