"""
The server: start, serve, drain, stop.

:class:`Server` is a Twisted service over a running asyncio reactor;
:func:`run` is the whole life of a process that does nothing else.

The order of starting is: bind the addresses, so that one in use is found at
once; start the application's lifespan; listen. The order of stopping is the
reverse: accept no more, let what is in flight end, close the connections, end
the lifespan.

Tests: ``tests/unit/test_server.py``, ``tests/integration/test_lifecycle.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from daphne_like.asgi.applications import ApplicationManager
from daphne_like.asgi.forwarded import ForwardedPolicy
from daphne_like.asgi.http_stream import HTTPStream, HTTPStreamContext
from daphne_like.asgi.lifespan import Lifespan
from daphne_like.asgi.response_headers import FieldReader
from daphne_like.errors import ListenError, StartError
from daphne_like.listeners.endpoints import (
    endpoint_from_string,
    endpoint_strings,
    twisted_endpoint,
)
from daphne_like.observability.access_log import AccessLog
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.default_headers import DefaultHeaders
from daphne_like.protocols.http1 import HTTP1Context, HTTP1Factory, HTTP1Protocol
from daphne_like.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from twisted.internet.interfaces import IListeningPort

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.listeners.endpoints import SocketEndpoint
    from daphne_like.protocols.interfaces import Header

__all__ = ["Server", "run"]

_logger = logging.getLogger("daphne_like.server")

# How long cancelled applications, and then connections, get to end.
_FORCED_TIMEOUT = 6.0


class _Phase(Enum):
    """Where the server is in its life."""

    NEW = "not started"
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Server(Service):
    """
    Serves one application on any number of endpoints.

    Inside a Twisted program, add it to a service collection; the reactor must
    be the asyncio one. :meth:`run` makes a whole program of it.

    Args:
        application: An ASGI 3 application.
        endpoints: Endpoint strings to listen on, besides those of ``settings``.
        settings: All settings.
        ready_callable: Called when all endpoints listen.
        overrides: Settings by their flat names, instead of ``settings``.

    Raises:
        SettingsError: A setting or an endpoint string is wrong.

    Attributes:
        connections: The live ones.
        listeners: The listening ports.
        failure: What kept the server from starting.
    """

    def __init__(
        self,
        application: ASGIApplication,
        endpoints: Iterable[str] | None = None,
        *,
        settings: Settings | None = None,
        signal_handlers: bool = True,
        ready_callable: Callable[[], object] | None = None,
        **overrides: object,
    ) -> None:
        if endpoints is not None:
            overrides["endpoint"] = tuple(endpoints)
        self.settings = Settings.of(**overrides) if settings is None else settings
        bind = self.settings.bind
        self._endpoints = [
            (text, endpoint_from_string(text, bind.backlog))
            for text in endpoint_strings(bind)
        ]
        self._application = application
        self._signal_handlers = signal_handlers
        self._ready_callable = ready_callable
        self.connections: _Connections = _Connections()
        self.listeners: list[IListeningPort] = []
        self.failure: BaseException | None = None
        self._phase = _Phase.NEW
        self._starting: asyncio.Task[None] | None = None
        self._forced = False

    # -- The life of the service ---------------------------------------------

    def startService(self) -> None:
        """Start as soon as the reactor runs (IService)."""
        from twisted.internet import reactor

        super().startService()  # type: ignore[no-untyped-call]
        reactor.callWhenRunning(reactor.callLater, 0, self._begin)

    def stopService(self) -> Deferred[None]:
        """
        Drain and stop (IService).

        Returns:
            Fires when the application's lifespan is over.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromFuture(asyncio.ensure_future(self.shutdown()))

    def _begin(self) -> None:
        self._starting = asyncio.ensure_future(self.startup())
        self._starting.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error
            _log_failure(error)

    async def startup(self) -> None:
        """
        Bind, start the application, listen.

        Raises:
            ListenError: An address can't be had.
            LifespanFailed: The application refused to start.
        """
        self._phase = _Phase.STARTING
        loop = asyncio.get_running_loop()
        app = self.settings.app
        self._lifespan = Lifespan(
            self._application, app.lifespan, app.timeout_startup, app.timeout_shutdown
        )
        self._manager = ApplicationManager(self._application, loop)
        self._wheel = DeadlineWheel(loop.time)
        self._access_log = self._open_access_log()
        ours = [endpoint for _, endpoint in self._endpoints if endpoint is not None]
        try:
            for endpoint in ours:
                endpoint.bind()
            await self._lifespan.startup()
            factory = HTTP1Factory(self._protocol_context(loop))
            for text, own in self._endpoints:
                self.listeners.append(await _listen(text, own, factory))
        except BaseException:
            for endpoint in ours:
                endpoint.close()
            await self._end()
            raise
        self._phase = _Phase.SERVING
        self._tick()
        self._announce()
        if self._ready_callable is not None:
            self._ready_callable()

    async def shutdown(self) -> None:
        """Accept no more, let exchanges end in time, end the lifespan."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._phase is not _Phase.SERVING:
            return
        self._phase = _Phase.STOPPING
        await self._stop_listening()
        for connection in list(self.connections):
            connection.drain()
        if self.connections or self._manager.running:
            _logger.info(
                "Waiting for %d connections and %d requests to end",
                len(self.connections),
                len(self._manager.running),
            )
        timeout = self.settings.lifecycle.timeout_graceful_shutdown or None
        self._draining = asyncio.ensure_future(self._drained())
        if self._forced:
            self._draining.cancel()
        await asyncio.wait([self._draining], timeout=timeout)
        if self._manager.running:
            self._manager.cancel_all()
            await asyncio.wait(
                [asyncio.ensure_future(self._manager.ended())], timeout=_FORCED_TIMEOUT
            )
        for connection in list(self.connections):
            connection.stop()
        await asyncio.wait(
            [asyncio.ensure_future(self.connections.emptied())], timeout=_FORCED_TIMEOUT
        )
        await self._end()

    async def _drained(self) -> None:
        await self.connections.emptied()
        await self._manager.ended()

    def force(self) -> None:
        """Wait for nothing more: cancel what a shutdown is waiting for."""
        self._forced = True
        draining = getattr(self, "_draining", None)
        if draining is not None:
            draining.cancel()

    async def _end(self) -> None:
        await self._stop_listening()
        await self._lifespan.shutdown()
        self._phase = _Phase.STOPPED
        if self._access_log is not None:
            self._access_log.close()

    async def _stop_listening(self) -> None:
        listeners, self.listeners = self.listeners, []
        for port in listeners:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped.asFuture(asyncio.get_running_loop())

    # -- The parts -----------------------------------------------------------

    def _protocol_context(self, loop: asyncio.AbstractEventLoop) -> HTTP1Context:
        settings = self.settings
        extras: list[Header] = list(settings.http.encoded_headers)
        if settings.http.server_name:
            extras.append((b"server", settings.http.server_name.encode("latin-1")))
        self._default_headers = DefaultHeaders(
            extras, date=settings.http.date_header, wall_clock=time.time
        )
        streams = HTTPStreamContext(
            manager=self._manager,
            field_reader=FieldReader(self._default_headers.names),
            wheel=self._wheel,
            application_close_timeout=settings.app.application_close_timeout,
            limit_concurrency=settings.http.limit_concurrency,
            root_path=settings.app.root_path,
            state=self._lifespan.state,
            forwarded=ForwardedPolicy.from_settings(settings.proxy),
            access_log=self._access_log,
        )
        return HTTP1Context(
            open_stream=partial(HTTPStream, streams),
            settings=settings.http,
            default_headers=self._default_headers,
            wheel=self._wheel,
            loop=loop,
            connections=self.connections,
        )

    def _open_access_log(self) -> AccessLog | None:
        target = self.settings.log.access_log_target
        if target is None:
            return None
        return AccessLog(target, self.settings.log.access_log_format)

    def _tick(self) -> None:
        """Do what is due once a second, just after the second has begun."""
        if self._phase is _Phase.STOPPED:
            return
        self._wheel.tick()
        self._default_headers.refresh()
        if self._access_log is not None:
            self._access_log.flush()
        asyncio.get_running_loop().call_later(1 - time.time() % 1, self._tick)

    @property
    def listening_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP listener."""
        return [
            (address.host, address.port)
            for address in self._addresses()
            if hasattr(address, "port")
        ]

    def _addresses(self) -> Iterable[Any]:
        """Tell the addresses of all listeners; their classes differ."""
        for port in self.listeners:
            several = getattr(port, "addresses", None)
            yield from several() if several is not None else (port.getHost(),)

    def _announce(self) -> None:
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        for address in self._addresses():
            if hasattr(address, "port"):
                host = f"[{address.host}]" if ":" in address.host else address.host
                where = f"http://{host}:{address.port}"
            else:
                where = f"unix:{os.fsdecode(address.name or b'')}"
            _logger.info("Listening on %s (HTTP/1.1, %s)", where, loop)

    # -- A program of its own ------------------------------------------------

    def run(self) -> None:
        """
        Install a reactor if there is none, serve until stopped, and return.

        Raises:
            SystemExit: The server could not start; with the exit status.
        """
        status = _serve(self, self.settings)
        if status:
            sys.exit(status)

    def stop(self) -> None:
        """Drain and stop; from any thread (the counterpart of :meth:`run`)."""
        from twisted.internet import reactor

        core: Any = reactor
        core.callFromThread(core.stop)


class _Connections(set[HTTP1Protocol]):
    """The live connections, which tells when it is empty."""

    _empty: asyncio.Future[None] | None = None

    def discard(self, connection: object) -> None:
        """Remove a connection that is lost."""
        super().discard(cast("HTTP1Protocol", connection))
        if not self and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def emptied(self) -> None:
        """Wait until there is none."""
        if self:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty


async def _listen(
    text: str, own: SocketEndpoint | None, factory: HTTP1Factory
) -> IListeningPort:
    """Listen on an endpoint: one of ours, or else one of Twisted's."""
    from twisted.internet import reactor
    from twisted.internet.error import CannotListenError

    endpoint = twisted_endpoint(text, reactor) if own is None else own
    try:
        listening: Deferred[IListeningPort] = endpoint.listen(factory)
        return await listening.asFuture(asyncio.get_running_loop())
    except CannotListenError as error:
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        raise ListenError(f"Listen failure: {text}: {reason}") from None


# -- The process -------------------------------------------------------------


def run(
    settings: Settings | None = None,
    load_application: Callable[[], ASGIApplication] | None = None,
) -> int:
    """
    Serve in a process of its own until a signal comes.

    Args:
        settings: All settings.
        load_application: Called when the reactor is installed, since
            applications may import it.

    Returns:
        The exit status: 0 after a signal, else that of the failure.
    """
    from daphne_like import reactor
    from daphne_like.asgi import loading

    settings = Settings() if settings is None else settings
    reactor.install(settings.lifecycle.loop)
    if load_application is None:
        application = loading.load_application(settings.app)
    else:
        application = load_application()
    return _serve(Server(application, settings=settings), settings)


def _serve(server: Server, settings: Settings) -> int:
    from daphne_like.observability.logs import bridge_twisted_logging
    from daphne_like.reactor import install

    reactor = install(settings.lifecycle.loop)
    bridge_twisted_logging()
    _raise_descriptor_limit()
    _Process(server, reactor).run()
    return 0 if server.failure is None else _exit_status(server.failure)


def _exit_status(failure: BaseException) -> int:
    return failure.exit_status if isinstance(failure, StartError) else 1


class _Process:
    """Runs the reactor around a server, and obeys signals."""

    def __init__(self, server: Server, reactor: Any) -> None:
        self._server = server
        self._reactor = reactor
        self._signals = 0
        self._noticed = 0
        self._stopping = False

    def run(self) -> None:
        """Serve until a signal, or ``reactor.stop``, ends it."""
        reactor, server = self._reactor, self._server
        reactor.callWhenRunning(reactor.callLater, 0, self._begin)
        # Before the shutdown of everything else, while the loop still runs.
        reactor.addSystemEventTrigger("before", "shutdown", self._before_shutdown)
        reactor.run()
        if server._signal_handlers:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _begin(self) -> None:
        if self._server._signal_handlers:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._signalled)
        loop = asyncio.get_running_loop()
        threads = os.environ.get("ASGI_THREADS", "")
        if threads.isdigit() and int(threads):
            loop.set_default_executor(ThreadPoolExecutor(int(threads)))
        self._loop = loop
        task = asyncio.ensure_future(self._server.startup())
        self._server._starting = task
        task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._server.failure = error
            _log_failure(error)
            self._reactor.stop()

    def _before_shutdown(self) -> Deferred[None]:
        self._stopping = True
        return Deferred.fromFuture(asyncio.ensure_future(self._server.shutdown()))

    def _signalled(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > self._noticed + 2:
            # The application blocks the loop, which can't be asked any more.
            os.write(2, b"daphne-like: the application blocks; leaving at once\n")
            os._exit(1)
        self._loop.call_soon_threadsafe(self._notice, number)

    def _notice(self, number: int) -> None:
        self._noticed += 1
        if self._stopping or self._noticed > 1:
            _logger.info("%s again: not waiting", signal.Signals(number).name)
            self._server.force()
        else:
            _logger.info("%s: stopping", signal.Signals(number).name)
            self._reactor.stop()


def _log_failure(error: BaseException) -> None:
    if isinstance(error, StartError):
        _logger.critical("%s", error)
    else:
        _logger.critical("The server could not start", exc_info=error)


def _raise_descriptor_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            _logger.debug("The limit of open files stays at %d", soft)
