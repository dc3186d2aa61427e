"""
A process that does nothing but serve: its start, its reactor, its signals, its limits.

SIGHUP reads again what may have changed, where there is such a thing; else it ends
the process, as it does when a terminal is closed. The first SIGINT or SIGTERM stops
the reactor, whose shutdown lets the server drain. The second one makes the server
wait no longer. The third one ends the process at once, even when the application
blocks the event loop.

systemd is told of all this where it has asked for that (:mod:`daphne_like.systemd`).
It sends SIGHUP on purpose, so that never ends a process which it listens to.

Tests: ``tests/unit/test_process.py``, ``tests/integration/test_lifecycle.py``;
``tests/unit/test_server.py`` for the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

from daphne_like.errors import SettingsError, StartError
from daphne_like.observability.logs import bridge_twisted_logging
from daphne_like.process_setup import become_user, refuse, will_become_user
from daphne_like.reactor import install, reap_children
from daphne_like.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence, Sized

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.listeners.bound import BoundEndpoints
    from daphne_like.settings import Settings
    from daphne_like.systemd import Notifier

__all__ = [
    "Runnable",
    "Superior",
    "join_reactor",
    "make_server",
    "notifier_of_systemd",
    "raise_descriptor_limit",
    "run_until_stopped",
    "with_sockets_of_systemd",
]

_logger = logging.getLogger("daphne_like.server")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# How long what an application has left behind gets to end.
_LEFTOVERS_TIMEOUT = 1.0

# setrlimit(2) of macOS: the hard limit is mostly infinite there, and a soft one must
# nevertheless not be above this.
_OPEN_MAX = 10240

# How often it is told that no descriptor is left.
_WARNING_INTERVAL = 60.0


_Server = TypeVar("_Server")


class Runnable(Protocol):
    """What a process runs: :class:`daphne_like.server.Server`."""

    @property
    def can_reload(self) -> bool:
        """Whether there is something to be read again."""

    def reload(self) -> None:
        """Read again what may have changed while it serves."""

    @property
    def urls(self) -> Sequence[str]:
        """Where it listens."""

    @property
    def connections(self) -> Sized:
        """Those which are open."""

    @property
    def longest_start(self) -> float:
        """The seconds after which it gives up starting."""

    @property
    def longest_stop(self) -> float:
        """The seconds after which a shutdown is over, come what may."""

    def startup(self) -> Coroutine[Any, Any, None]:
        """Start; returns when it serves, raises when it can't."""

    def shutdown(self) -> Coroutine[Any, Any, None]:
        """Drain and stop, also in the middle of starting."""

    def force(self) -> None:
        """Make a shutdown wait no longer for what is in flight."""


class Superior(Protocol):
    """Whoever wants to hear how the process is: systemd, or a supervisor."""

    def starting(self, loop: asyncio.AbstractEventLoop, longest: float) -> None:
        """Hear that the application starts, and within how many seconds."""

    def ready(self, status: str) -> None:
        """Hear that clients are served, and how."""

    def reloading(self) -> None:
        """Hear that files are read again."""

    def reloaded(self, status: str) -> None:
        """Hear that this is done, and how clients are served."""

    def stopping(self, status: Callable[[], str], longest: float) -> None:
        """Hear that the process ends: what it waits for, and how many seconds."""

    def failed(self, error: BaseException) -> None:
        """Hear why it can't start, or go on."""

    def close(self) -> None:
        """Hear that all is over."""


def make_server(
    settings: Settings,
    load_application: Callable[[], ASGIApplication] | None,
    make: Callable[[ASGIApplication, Settings, BoundEndpoints | None], _Server],
) -> _Server:
    """
    Make the server of this process, with all that has to come before.

    Args:
        settings: All settings.
        load_application: Returns the application, instead of that of the settings.
            It is called when the reactor is installed, since applications may
            import that.
        make: Returns the server for an application and settings. It gets the
            endpoints, too, if they had to be bound early.

    Raises:
        SystemExit: Somebody has interrupted it.
        StartError: It can't be done; systemd has been told.
        SettingsError: As well.
    """
    from daphne_like.asgi import loading

    install(settings.lifecycle.loop)
    # Before the application is loaded, which may log through Twisted.
    bridge_twisted_logging()
    bound: BoundEndpoints | None = None
    try:
        # And before it can start children.
        settings = with_sockets_of_systemd(settings)
        refuse(
            replace(settings.process, user=None, group=None),
            "needs the program daphne-like",
        )
        if will_become_user(settings.process):
            from daphne_like.listeners.bound import BoundEndpoints

            # What belongs to the application is no business of root's.
            bound = BoundEndpoints(settings)
            become_user(settings.process)
        settings = replace(settings, process=ProcessSettings())
        if load_application is None:
            application = loading.load_application(settings.app)
        else:
            application = load_application()
        server = make(application, settings, bound)
        bound = None
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except StartError as error:
        if (notifier := notifier_of_systemd()) is not None:
            notifier.failed(error)
        raise
    finally:
        if bound is not None:
            bound.close()
    return server


def run_until_stopped(
    server: Runnable,
    loop: str = "auto",
    *,
    debug: bool = False,
    signal_handlers: bool = True,
    supervisor: Superior | None = None,
) -> None:
    """
    Run a server and the reactor until a signal, ``reactor.stop`` or a failure.

    Args:
        server: Reports its own failures; one of starting ends the run.
        loop: The event loop for the reactor, where none is installed yet.
        debug: Whether asyncio watches for slow callbacks and misuse.
        signal_handlers: Whether signals are obeyed; only possible in the main
            thread.
        supervisor: Watches over this process from another one, and obeys the
            signals in its stead, except for SIGTERM.

    Raises:
        SettingsError: ``ASGI_THREADS`` is no number, or a reactor that doesn't
            fit is installed already.
    """
    threads = _thread_count()
    reactor = install(loop)
    bridge_twisted_logging()
    raise_descriptor_limit()
    _Process(server, reactor, threads, debug, supervisor).run(signal_handlers)


def with_sockets_of_systemd(settings: Settings) -> Settings:
    """
    Listen on the sockets which systemd has passed, if no address is given.

    It takes them out of the environment, so best before anything else may start
    processes.

    Raises:
        SettingsError: The environment is garbled.
    """
    # Of the two Twisted may have taken the first one.
    if "LISTEN_FDS" not in os.environ and "LISTEN_FDNAMES" not in os.environ:
        return settings
    from daphne_like.systemd import with_passed_sockets

    return with_passed_sockets(settings)


def notifier_of_systemd() -> Notifier | None:
    """
    Return what tells systemd how the service is, if it has asked for that.

    It does so once: the request is taken out of the environment.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from daphne_like.systemd import Notifier

    return Notifier.take(os.environ)


def join_reactor(server: Runnable, loop: str = "auto", *, debug: bool = False) -> None:
    """
    Do the same in a reactor which is somebody else's to run, such as ``twistd``'s.

    The server starts with the reactor, and a failure of that stops the reactor.
    Signals are obeyed as they are by :func:`run_until_stopped`.

    Args:
        server: See :func:`run_until_stopped`.
        loop: See :func:`run_until_stopped`.
        debug: See :func:`run_until_stopped`.

    Raises:
        SettingsError: As :func:`run_until_stopped`.
    """
    threads = _thread_count()
    reactor = install(loop)
    raise_descriptor_limit()
    process = _Process(server, reactor, threads, debug)
    process.join(signal_handlers=True, shut_down=process.shut_down_for_good)


class _Process:
    """The reactor with one server in it."""

    def __init__(
        self,
        server: Runnable,
        reactor: Any,
        threads: int,
        debug: bool,
        supervisor: Superior | None = None,
    ) -> None:
        self._server = server
        self._supervised = supervisor is not None
        self._notifier = supervisor or notifier_of_systemd()
        self._reactor = reactor
        self._threads = threads
        self._debug = debug
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_warning = -inf
        self._owns_process = False

    @property
    def _signals_used(self) -> tuple[signal.Signals, ...]:
        if self._supervised:
            return (signal.SIGTERM,)
        reloads = self._server.can_reload or self._notifier is not None
        if reloads and hasattr(signal, "SIGHUP"):
            return (*_STOP_SIGNALS, signal.SIGHUP)
        return _STOP_SIGNALS

    def run(self, signal_handlers: bool) -> None:
        reactor = self._reactor
        if signal_handlers:
            changed = [*self._signals_used]
            if hasattr(signal, "SIGCHLD"):
                changed.append(signal.SIGCHLD)
            before = {number: signal.getsignal(number) for number in changed}
        self.join(signal_handlers, self._shut_down)
        self._owns_process = True
        try:
            reactor.run(installSignalHandlers=signal_handlers)
        finally:
            gc.unfreeze()
        if self._loop is not None:
            self._loop.run_until_complete(_end_leftovers(self._loop))
        if self._notifier is not None:
            self._notifier.close()
        if signal_handlers:
            for number, handler in before.items():
                signal.signal(number, handler)

    def join(
        self, signal_handlers: bool, shut_down: Callable[[], Deferred[None]]
    ) -> None:
        """Start and end with the reactor."""
        reactor = self._reactor
        if signal_handlers:
            # When the reactor runs: it installs handlers of its own.
            reactor.callWhenRunning(self._install_signal_handlers)
        # One turn later, since then the loop runs.
        reactor.callWhenRunning(reactor.callLater, 0, self._begin)
        # Before the shutdown of everything else, while the loop still runs.
        reactor.addSystemEventTrigger("before", "shutdown", shut_down)

    def _begin(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        if self._debug:
            loop.set_debug(True)
        if self._threads:
            from concurrent.futures import ThreadPoolExecutor

            loop.set_default_executor(ThreadPoolExecutor(self._threads))
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(self._handle_exception)
        self._look_after(loop)
        if self._notifier is not None:
            self._notifier.starting(loop, self._server.longest_start)
        starting = loop.create_task(self._server.startup())
        starting.add_done_callback(self._started)

    def _started(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled():
            return
        failure = starting.exception()
        if self._notifier is not None:
            if failure is None:
                self._notifier.ready(self._listening())
            else:
                self._notifier.failed(failure)
        if failure is not None:
            with contextlib.suppress(ReactorNotRunning):
                self._reactor.stop()
        elif self._owns_process:
            # What has been imported stays. To look through it in vain for garbage
            # stops a Django project for 50 ms every second or two.
            gc.freeze()

    def _shut_down(self) -> Deferred[None]:
        if self._notifier is not None:
            self._notifier.stopping(self._remaining, self._server.longest_stop)
        return Deferred.fromFuture(asyncio.ensure_future(self._server.shutdown()))

    def _listening(self) -> str:
        return f"Listening on {', '.join(self._server.urls)}"

    def _remaining(self) -> str:
        return f"Stopping, open connections: {len(self._server.connections)}"

    def shut_down_for_good(self) -> Deferred[None]:
        """End what the application has left behind, too: the loop won't run again."""
        stopped = self._shut_down()
        if self._loop is not None:
            stopped.addCallback(
                lambda _: Deferred.fromFuture(
                    asyncio.ensure_future(_end_leftovers(asyncio.get_running_loop()))
                )
            )
        return stopped

    # -- Signals ---------------------------------------------------------------

    def _install_signal_handlers(self) -> None:
        for number in self._signals_used:
            stops = number in _STOP_SIGNALS
            signal.signal(number, self._signalled if stops else self._hung_up)
        reap_children(self._reactor)

    def _signalled(self, number: int, frame: object) -> None:
        if self._supervised and self._signals:
            return  # systemd and the supervisor may send one each
        self._signals += 1
        if self._signals > 2:
            os.write(2, b"daphne-like: third signal, leaving at once\n")
            os._exit(1)
        # It may have come in the middle of anything.
        self._reactor.callFromThread(self._obey, number, self._signals)

    def _hung_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        if self._notifier is None:
            self._server.reload()
            return
        self._notifier.reloading()
        try:
            if self._server.can_reload:
                self._server.reload()
        finally:
            self._notifier.reloaded(self._listening())

    def _obey(self, number: int, count: int) -> None:
        name = signal.Signals(number).name
        if count == 1:
            with contextlib.suppress(ReactorNotRunning):
                self._reactor.stop()
                _logger.info("%s: stopping", name)
                return
        # Once more, or the application has stopped the reactor already.
        _logger.info("%s: not waiting any more", name)
        self._server.force()

    # -- What no event tells -----------------------------------------------------

    def _look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        """Find out, once a second, what nobody reports."""
        loop.call_later(1.0, self._look_after, loop)
        # While asyncio has subprocesses, libuv has the handler of SIGCHLD.
        if hasattr(signal, "SIGCHLD"):
            from twisted.internet.process import reapAllProcesses

            reapAllProcesses()
        # Without a free descriptor libuv drops new connections in silence.
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except FileNotFoundError:
            pass  # after a chroot
        except OSError as error:
            self._descriptors_exhausted(error)

    def _handle_exception(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        """Say in one line what asyncio tells with a traceback for each attempt."""
        error = context.get("exception")
        if "socket" in context and isinstance(error, OSError):
            self._descriptors_exhausted(error)
        else:
            loop.default_exception_handler(context)

    def _descriptors_exhausted(self, error: OSError) -> None:
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARNING_INTERVAL
            _logger.error(
                "New connections wait or are dropped: %s (the limit is %s)",
                error.strerror,
                _descriptor_limit(),
            )


async def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks which the application has left behind, and wait a little."""
    leftovers = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in leftovers:
        task.cancel()
    if leftovers:
        await asyncio.wait(leftovers, timeout=_LEFTOVERS_TIMEOUT)
    await loop.shutdown_asyncgens()


# -- Limits --------------------------------------------------------------------


def _thread_count() -> int:
    """Read how many threads the loop's default pool is to have; 0 for any number."""
    text = os.environ.get("ASGI_THREADS", "")
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise SettingsError(f"ASGI_THREADS must be a number above 0, not {text!r}")
    return int(text or 0)


def _descriptor_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None  # Windows has no such limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    for limit in (hard, max(soft, _OPEN_MAX)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return
    _logger.debug("The limit of open files stays at %d", soft)
