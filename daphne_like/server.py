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
import sys
import threading
from contextlib import AsyncExitStack, suppress
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
from daphne_like.daphne_keywords import settings_of_arguments
from daphne_like.errors import SettingsError, StartError
from daphne_like.listening import Listening
from daphne_like.observability.access_log import AccessLog
from daphne_like.observability.action_log import ActionLog
from daphne_like.observability.logs import reopen_log_files
from daphne_like.process_setup import refuse
from daphne_like.serving import Serving
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
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.interfaces import IListeningPort

    from daphne_like.asgi.applications import ApplicationManager
    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.listeners.bound import BoundEndpoints
    from daphne_like.observability.action_log import ActionLogger
    from daphne_like.observability.log_formats import ExchangeLog
    from daphne_like.observability.metrics import Metrics
    from daphne_like.observability.observation import Observation
    from daphne_like.operations.listener import OperationsListener
    from daphne_like.process import Superior

__all__ = ["Server", "run"]

_logger = logging.getLogger("daphne_like.server")


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
        settings = settings_of_arguments(settings, endpoints, overrides)
        self.settings = settings
        self._listening = Listening(settings)
        self._observation = self._new_observation()
        self._operations = self._operations_listener()
        if self._operations is not None:
            self._listening.beside = self._operations.endpoints
        self._application = application
        self._signal_handlers = signal_handlers
        self.ready_callable = ready_callable
        self._action_logger = action_logger
        self.connections = self._no_connections()
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
        self._listening.bind()

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
        self._listening.adopt(sockets)

    def startService(self) -> None:
        """
        Start as soon as the reactor runs (IService).

        Raises:
            SettingsError: The reactor isn't the asyncio one, or a setting is about
                the whole process, or about several.
        """
        self._refuse_what_takes_more()
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
            self._listening.close()
            return succeed(None)
        return Deferred.fromFuture(asyncio.ensure_future(self.shutdown()))

    # -- For operators -------------------------------------------------------

    def _operations_listener(self) -> OperationsListener | None:
        """Make what answers operators, unless a supervisor does, or nobody asks."""
        settings = self.settings.operations
        asked = settings.metrics is not None or settings.control_socket is not None
        if self.settings.workers.supervised or not asked:
            return None
        from daphne_like.operations.one_process import listener_of

        return listener_of(self)

    def _new_observation(self) -> Observation | None:
        """Make what counts, traces and numbers requests, where that is wanted."""
        settings = self.settings.operations
        if not settings.observes:
            return None
        from daphne_like.observability.observation import Observation

        return Observation(settings, sends=not self.settings.workers.supervised)

    @property
    def metrics(self) -> Metrics | None:
        """What is counted; None where nothing is."""
        return None if self._observation is None else self._observation.metrics

    def _no_connections(self) -> Connections:
        """Begin to keep the live connections."""
        if self.settings.operations.control_socket is None:
            return Connections()
        from daphne_like.operations.tables import WatchedConnections

        return WatchedConnections()

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, or ``draining`` until it has ended."""
        if self._stop_asked.is_set():
            return "draining"
        return "ready" if self._serving.is_set() else "starting"

    @property
    def requests_in_flight(self) -> int:
        """How many applications are running."""
        return 0 if self._manager is None else len(self._manager.running)

    @property
    def listeners(self) -> list[IListeningPort]:
        """The listening ports."""
        return self._listening.ports

    @property
    def listening_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP listener."""
        return self._listening.addresses

    @property
    def urls(self) -> list[str]:
        """Where it listens; ``unix:`` and a path for Unix sockets."""
        return self._listening.urls

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
            self._listening.close()
            return
        if not self._serving.is_set() and not self._stop_asked.is_set():
            life.cancel()
        self._stop_asked.set()
        await asyncio.wait([life])

    @property
    def can_reload(self) -> bool:
        """Whether there is something that :meth:`reload` would read again."""
        # A server for development ends with its terminal.
        return bool(self._listening.certificates) and not self.settings.tls.ssl_dev

    def reload(self) -> None:
        """Read certificates again; connections keep those they began with."""
        for certificates in self._listening.certificates:
            certificates.reload()

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
    def longest_stop(self) -> float:
        """The seconds which :meth:`shutdown` may take."""
        return longest_stop(self.settings)

    def force(self) -> None:
        """Make :meth:`shutdown` wait no longer for what is in flight."""
        self._patience_lost.set()

    def _start_life(self) -> asyncio.Task[None]:
        if self._life is not None and not self._life.done():
            raise RuntimeError("the server has been started already")
        self.failure = None
        self.connections = self._no_connections()
        self._manager = None
        for event in (self._serving, self._stop_asked, self._patience_lost):
            event.clear()
        self._life = asyncio.ensure_future(self._live())
        self._life.add_done_callback(self._life_ended)
        return self._life

    def _life_ended(self, life: asyncio.Task[None]) -> None:
        # Here, since what is cancelled before its first step undoes nothing itself.
        self._listening.close()
        if life.cancelled():
            return
        failure = life.exception()
        if failure is not None:
            self._report(failure)

    def _report(self, failure: BaseException) -> None:
        self.failure = failure
        if isinstance(failure, StartError):
            _logger.critical("%s", failure)
        else:
            _logger.critical("The server failed", exc_info=failure)

    async def _live(self) -> None:
        """Start, serve until asked to stop, and undo all in the reverse order."""
        settings = self.settings
        async with AsyncExitStack() as ending:
            notice = ending.enter_context(DrainNotice())
            self._access_log = access_log = self._open_access_log()
            if access_log is not None:
                ending.callback(access_log.close)
            self._listening.make_twisted_endpoints(_current_reactor)
            self._listening.bind()
            if self._operations is not None:
                ending.push_async_callback(self._operations.stop)
                await self._operations.start()

            lifespan = Lifespan(
                self._application,
                settings.app.lifespan,
                settings.app.timeout_startup,
                settings.app.timeout_shutdown,
            )
            ending.push_async_callback(lifespan.shutdown)
            await lifespan.startup()

            loop = asyncio.get_running_loop()
            serving = Serving(
                self._observed(loop, ending),
                settings,
                exchange_log=self._exchange_log(access_log),
                state=lifespan.state,
                connections=self.connections,
                leaving_code=lambda: 1012 if self.restarting else 1001,
                drain_notice=notice,
                observation=self._observation,
            )
            self._manager = serving.manager
            duties = [*serving.duties]
            if self._observation is not None:
                duties.append(self._observation.tick)
            duties += [
                certificates.look for certificates in self._listening.certificates
            ]
            if access_log is not None:
                duties.append(access_log.flush)
            ending.enter_context(EverySecond(loop, duties))
            ending.push_async_callback(self._drain, serving.manager, notice)
            await self._listening.listen(
                serving.factory,
                lambda port: serving.factory_of(redirect_to_https(port)),
            )

            # With workers the supervisor tells it, once.
            level = logging.INFO if self._supervisor is None else logging.DEBUG
            self._listening.announce(loop, level)
            if self.ready_callable is not None and not self._ready_early:
                self.ready_callable()
            self._serving.set()
            await self._stop_asked.wait()

    def _open_access_log(self) -> AccessLog | None:
        log, replaced = self.settings.log, self._action_logger is not None
        target = log.access_log_target
        if target is None or (replaced and log.access_log is None):
            return None
        header = self.settings.operations.request_id_header or "X-Request-ID"
        return AccessLog(target, log.access_log_format, request_id_header=header)

    def _exchange_log(self, access_log: AccessLog | None) -> ExchangeLog | None:
        """Return what hears of each exchange."""
        log: ExchangeLog | None = access_log
        if self._action_logger is not None:
            log = ActionLog(self._action_logger, access_log)
        return log if self._observation is None else self._observation.log(log)

    def _observed(
        self, loop: asyncio.AbstractEventLoop, ending: AsyncExitStack
    ) -> ASGIApplication:
        """Return the application, and watch over it where that is wanted."""
        if self._observation is None:
            return self._application
        gauges: dict[str, Callable[[], float]] = {
            "connections_open": lambda: len(self.connections),
            "requests_in_flight": lambda: self.requests_in_flight,
            "workers": lambda: 1,
        }
        return self._observation.begin(self._application, loop, gauges, ending)

    async def _drain(self, manager: ApplicationManager, notice: DrainNotice) -> None:
        """Accept no more, let what is in flight end in time, and cut the rest."""
        if not self._serving.is_set():
            self.force()  # the start has failed
        await give_notice(notice)
        stopped = await self._listening.stop()
        settings, impatience = self.settings.lifecycle, self._patience_lost
        patience = settings.timeout_graceful_shutdown
        await take_last_requests(self.connections, stopped, patience, impatience)
        await wind_down(self.connections, manager, notice, settings, impatience)

    # -- A process of its own --------------------------------------------------

    def run(self) -> None:
        """
        Install a reactor if there is none, serve until stopped, and return.

        It returns at once when :meth:`stop` was called before.

        Raises:
            SettingsError: The settings want workers, and this isn't one; or they
                want what has to be done before there is a server.
            SystemExit: The server could not start; with the exit status.
        """
        self._refuse_what_takes_more()
        core = reactor.install(self.settings.lifecycle.loop)
        with self._running_lock:
            if self.abort_start:
                return
            self._running_reactor = core
        if self._ready_early:
            self._get_ready()
        process.run_until_stopped(
            self,
            self.settings.lifecycle.loop,
            debug=self.settings.log.verbosity >= 3,
            signal_handlers=self._signal_handlers,
            supervisor=self._supervisor,
        )
        self._exit_if_failed()

    def _refuse_what_takes_more(self) -> None:
        if self._supervisor is None and self.settings.workers.supervised:
            raise SettingsError(
                "workers, and limits which replace them, need the program daphne-like: "
                "this server is one process"
            )
        refuse(
            self.settings.process,
            "is about the process, not a server in it: it needs the program "
            "daphne-like, or daphne_like.run()",
        )

    @property
    def _ready_early(self) -> bool:
        """Whether ``ready_callable`` belongs before the reactor, as Daphne calls it."""
        return self.settings.app.daphne_compat and self._running_reactor is not None

    def _get_ready(self) -> None:
        if self.ready_callable is None:
            return
        try:
            # An address in use must be found before somebody is told.
            self._listening.bind()
            self.ready_callable()
        except BaseException as error:
            self._listening.close()
            if not isinstance(error, StartError):
                raise
            self._report(error)
            self._exit_if_failed()

    def _exit_if_failed(self) -> None:
        if self.failure is not None:
            self.abort_start = True
            sys.exit(getattr(self.failure, "exit_status", 1))

    def stop(self, *, restarting: bool = False) -> None:
        """
        Drain and stop; from any thread (the counterpart of :meth:`run`).

        Before :meth:`run` it keeps that from beginning, and sets ``abort_start``.

        Args:
            restarting: See the attribute.
        """
        with self._running_lock:
            core = self._running_reactor
            if core is None and self._life is None:
                self.abort_start = True
                return
        if core is None:
            # It serves as a service, in a reactor which somebody else runs.
            core = _current_reactor()

        def stop() -> None:
            self.restarting = restarting
            with suppress(ReactorNotRunning):
                core.stop()

        core.callFromThread(stop)


def run(
    settings: Settings | None = None,
    load_application: Callable[[], ASGIApplication] | None = None,
    make_server: Callable[[ASGIApplication, Settings], Server] | None = None,
    prepare: Callable[[Server], object] | None = None,
) -> None:
    """
    Serve in a process of its own until a signal comes.

    Args:
        settings: All settings.
        load_application: Returns the application, instead of that of the settings.
            It is called when the reactor is installed, since applications may
            import that.
        make_server: Returns the server, where another class is to be used.
        prepare: Gets the server before it runs.

    Raises:
        SystemExit: The server could not start; with the exit status.
        ApplicationLoadError: There is no such application.
        SettingsError: A setting is wrong.
    """

    def make(
        application: ASGIApplication, settings: Settings, bound: BoundEndpoints | None
    ) -> Server:
        if make_server is None:
            server = Server(application, settings=settings)
        else:
            server = make_server(application, settings)
        if prepare is not None:
            prepare(server)
        if bound is not None:
            server._listening.take_over(bound)
        return server

    settings = Settings() if settings is None else settings
    process.make_server(settings, load_application, make).run()


def _current_reactor() -> Any:
    """Return the reactor which runs, whoever has installed it."""
    from twisted.internet import reactor

    return reactor
