"""Tests of ``daphne_like.process``."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from event_loops import LOOPS, run_on
from notify_socket import NotifySocket
from recorded_log import RecordedLog
from twisted.internet import process as twisted_process
from twisted.internet.error import ReactorNotRunning

from daphne_like import process
from daphne_like.errors import ListenError, SettingsError
from daphne_like.process import (
    _end_leftovers,
    _Process,
    join_reactor,
    run_until_stopped,
)
from daphne_like.reactor import new_event_loop


class FakeServer:
    """A server which does as the test says."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failure: Exception | None = None
        self.can_reload = False
        self.urls = ["http://127.0.0.1:80", "unix:/run/app"]
        self.connections = {1, 2, 3}
        self.longest_start = 60.0
        self.longest_stop = 66.0

    async def startup(self) -> None:
        """Start, or fail."""
        self.events.append("startup")
        if self.failure is not None:
            raise self.failure

    async def shutdown(self) -> None:
        """Stop."""
        self.events.append("shutdown")

    def force(self) -> None:
        """Lose patience."""
        self.events.append("force")

    def reload(self) -> None:
        """Read again what may have changed."""
        self.events.append("reload")


class FakeReactor:
    """A reactor over a real event loop, as far as a process needs one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stopped = False
        self.handlers: bool | None = None
        self.started: list[Callable[[], None]] = []
        self.triggers: list[Callable[[], Any]] = []
        self.script: Callable[[], None] = lambda: None

    def callWhenRunning(self, call: Any, *arguments: Any) -> None:
        """Call at the start."""
        self.started.append(lambda: call(*arguments))

    def callLater(self, delay: float, call: Any, *arguments: Any) -> None:
        """Call in a later turn."""
        self.loop.call_later(delay, call, *arguments)

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        """Call in the next turn."""
        self.loop.call_soon_threadsafe(call, *arguments)

    def addSystemEventTrigger(self, phase: str, event: str, call: Any) -> None:
        """Call before the end."""
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(call)

    def run(self, **options: bool) -> None:
        """Run until somebody stops it."""
        self.handlers = options.pop("installSignalHandlers")
        assert not options
        if self.handlers:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for call in self.started:
            call()
        self.loop.call_later(0.0, self.script)
        self.loop.run_forever()

    def stop(self) -> None:
        """Call the triggers and end."""
        if self.stopped:
            raise ReactorNotRunning
        self.stopped = True
        for call in self.triggers:
            call().addBoth(lambda _: self.loop.stop())


@pytest.fixture(params=LOOPS)
def reactor(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, log: RecordedLog
) -> Iterator[FakeReactor]:
    """Run processes on this reactor; leave signals and limits of this one alone."""
    loop = new_event_loop(request.param)
    fake = FakeReactor(loop)
    monkeypatch.setattr(process, "install", lambda kind: fake)
    monkeypatch.setattr(process, "bridge_twisted_logging", lambda: None)
    monkeypatch.setattr(process, "raise_descriptor_limit", lambda: None)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield fake
    for number, handler in before.items():
        signal.signal(number, handler)
    loop.close()


@pytest.fixture
def server() -> FakeServer:
    """Make a server."""
    return FakeServer()


def _when_started(reactor: FakeReactor, call: Callable[[], None]) -> Callable[[], None]:
    def script() -> None:
        # The last step of a start: time alone says nothing on a busy machine.
        if gc.get_freeze_count():
            call()
        else:
            reactor.callLater(0, script)

    return script


# -- The run -----------------------------------------------------------------------------


def test_it_runs_until_the_reactor_stops(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """The server starts when the loop runs, and stops before the reactor ends."""
    reactor.script = reactor.stop

    run_until_stopped(server)

    assert ["startup", "shutdown"] == server.events
    assert reactor.handlers


def test_garbage_is_not_looked_for_in_what_has_been_imported(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """A big project isn't stopped again and again for a look at all of its objects."""
    frozen = []

    def look() -> None:
        frozen.append(gc.get_freeze_count())
        reactor.stop()

    reactor.script = _when_started(reactor, look)

    run_until_stopped(server)

    assert frozen[0] > 1000
    # And whoever goes on after that has a collector as before.
    assert gc.get_freeze_count() == 0


def test_a_failure_to_start_ends_the_run(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """The server has told why; nobody has to stop the process."""
    server.failure = ListenError("in use")

    run_until_stopped(server)

    assert ["startup", "shutdown"] == server.events


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_forces(
    reactor: FakeReactor,
    server: FakeServer,
    log: RecordedLog,
    number: signal.Signals,
) -> None:
    """A user who has said it twice doesn't want to wait."""

    async def shutdown() -> None:
        server.events.append("shutdown")
        signal.raise_signal(number)
        while "force" not in server.events:
            await asyncio.sleep(0)

    server.shutdown = shutdown  # type: ignore[method-assign]
    reactor.script = lambda: signal.raise_signal(number)

    run_until_stopped(server)

    assert ["startup", "shutdown", "force"] == server.events
    assert [
        f"INFO {number.name}: stopping",
        f"INFO {number.name}: not waiting any more",
    ] == log.take(logging.INFO)


def test_a_signal_forces_when_the_application_has_stopped_the_reactor(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """The first signal comes too late to stop anything."""

    async def shutdown() -> None:
        signal.raise_signal(signal.SIGTERM)
        while "force" not in server.events:
            await asyncio.sleep(0)

    server.shutdown = shutdown  # type: ignore[method-assign]
    reactor.script = reactor.stop

    run_until_stopped(server)

    assert ["startup", "force"] == server.events


def test_the_third_signal_leaves_at_once(
    reactor: FakeReactor,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It needs no event loop, which the application may block."""
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)

    def script() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)

    reactor.script = script
    run_until_stopped(server)

    assert [1] == left
    assert "daphne-like: third signal, leaving at once\n" == capfd.readouterr().err


def test_signal_handlers_are_given_back(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """The program around the server has its own again."""

    def handler(number: int, frame: object) -> None: ...

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    for number in numbers:
        signal.signal(number, handler)
    reactor.script = reactor.stop

    run_until_stopped(server)

    for number in numbers:
        assert handler is signal.getsignal(number)


def test_signals_can_be_left_alone(reactor: FakeReactor, server: FakeServer) -> None:
    """Outside of the main thread nobody may handle them."""
    handlers: list[Any] = []

    def script() -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        reactor.stop()

    reactor.script = script
    before = signal.getsignal(signal.SIGTERM)

    run_until_stopped(server, signal_handlers=False)

    assert [before] == handlers
    assert False is reactor.handlers


def test_children_are_reaped(
    reactor: FakeReactor, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a process ends, Twisted looks which one of its own it was."""
    reaped: list[str] = []

    def reap() -> None:
        reaped.append("reaped")
        if len(reaped) == 2:
            reactor.stop()

    monkeypatch.setattr(twisted_process, "reapAllProcesses", reap)
    reactor.script = lambda: signal.raise_signal(signal.SIGCHLD)

    run_until_stopped(server)

    # Once at the start, and then at the signal; not after a second.
    assert ["reaped", "reaped"] == reaped


@pytest.mark.parametrize("debug", [True, False])
def test_debugging_is_asyncios(
    reactor: FakeReactor, server: FakeServer, debug: bool
) -> None:
    """The loop then tells of callbacks that take long."""
    modes: list[bool] = []

    def script() -> None:
        modes.append(reactor.loop.get_debug())
        reactor.loop.set_debug(False)
        reactor.stop()

    reactor.script = script
    reactor.loop.set_debug(False)
    run_until_stopped(server, debug=debug)

    assert [debug] == modes


def _hang_up(reactor: FakeReactor) -> Callable[[], None]:
    def script() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        # In a turn after the one in which the signal is obeyed.
        reactor.callFromThread(reactor.callLater, 0, reactor.stop)

    return script


def test_sighup_reads_again_what_may_have_changed(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """Certificates are renewed, and the process goes on."""
    server.can_reload = True
    reactor.script = _when_started(reactor, _hang_up(reactor))

    run_until_stopped(server)

    assert ["startup", "reload", "shutdown"] == server.events


def test_sighup_is_left_alone_where_there_is_nothing_to_read(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """Without certificates, whoever has set a handler keeps it."""
    heard: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    reactor.script = _hang_up(reactor)

    run_until_stopped(server)

    assert ["startup", "shutdown"] == server.events
    assert [signal.SIGHUP] == heard


# -- systemd -----------------------------------------------------------------------------


@pytest.fixture
def systemds(monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    """Listen as systemd does."""
    with (
        tempfile.TemporaryDirectory(prefix="dl") as folder,
        closing(NotifySocket(f"{folder}/notify")) as sock,
    ):
        monkeypatch.setenv("NOTIFY_SOCKET", sock.address)
        yield sock


LISTENING = "Listening on http://127.0.0.1:80, unix:/run/app"


def test_systemd_is_told_of_start_and_stop(
    reactor: FakeReactor, server: FakeServer, systemds: NotifySocket
) -> None:
    """The service is ready when it listens, and stops when the drain begins."""

    async def shutdown() -> None:
        server.events += [str(message) for message in systemds.take()]
        server.events.append("shutdown")

    async def startup() -> None:
        server.events += [str(message) for message in systemds.take()]
        server.events.append("startup")

    server.startup = startup  # type: ignore[method-assign]
    server.shutdown = shutdown  # type: ignore[method-assign]
    reactor.script = _when_started(reactor, reactor.stop)

    run_until_stopped(server)

    expected: list[Any] = [
        {"STATUS": "Starting the application"},
        "startup",
        {"READY": "1", "STATUS": LISTENING},
        {"STOPPING": "1", "STATUS": "Stopping, open connections: 3"},
        "shutdown",
    ]
    assert [str(event) for event in expected] == server.events
    assert "NOTIFY_SOCKET" not in os.environ


def test_systemd_is_told_of_a_failure(
    reactor: FakeReactor, server: FakeServer, systemds: NotifySocket
) -> None:
    """The line of the log, and the error number where the system gave one."""
    server.failure = ListenError("in use", errno.EADDRINUSE)

    run_until_stopped(server)

    number = str(errno.EADDRINUSE)
    assert {"STOPPING": "1", "STATUS": "in use", "ERRNO": number} == systemds.take()[-1]


@pytest.mark.parametrize("reloads", [True, False])
def test_systemd_is_told_of_a_reload(
    reactor: FakeReactor, server: FakeServer, systemds: NotifySocket, reloads: bool
) -> None:
    """Its SIGHUP never ends the process, even if there is nothing to read."""
    server.can_reload = reloads
    reactor.script = _when_started(reactor, _hang_up(reactor))

    run_until_stopped(server)

    events = ["startup", "reload", "shutdown"]
    assert (events if reloads else [events[0], events[2]]) == server.events
    _, _, reloading, ready, *_ = systemds.take()
    assert "1" == reloading["RELOADING"]
    assert {"READY": "1", "STATUS": LISTENING} == ready


def test_a_reload_that_fails_is_over_too(
    reactor: FakeReactor, server: FakeServer, systemds: NotifySocket
) -> None:
    """Nobody waits for its end in vain."""

    def reload() -> None:
        raise ZeroDivisionError

    errors: list[dict[str, Any]] = []
    reactor.loop.set_exception_handler(lambda _, context: errors.append(context))
    server.can_reload = True
    server.reload = reload  # type: ignore[method-assign]
    reactor.script = _when_started(reactor, _hang_up(reactor))

    run_until_stopped(server)

    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    assert "READY" in systemds.take()[3]


# -- In a reactor which another one runs ---------------------------------------------


def test_a_server_joins_a_reactor(reactor: FakeReactor, server: FakeServer) -> None:
    """It starts and ends with that, and ends what the application has left behind."""
    ended: list[str] = []

    async def leftover() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("leftover")

    async def script() -> None:
        while not server.events:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(leftover())
        task.add_done_callback(lambda _: ended.append("task"))
        await asyncio.sleep(0)
        reactor.stop()

    reactor.script = lambda: asyncio.ensure_future(script())  # type: ignore[assignment]
    join_reactor(server)
    assert [] == server.events
    reactor.run(installSignalHandlers=True)

    assert ["startup", "shutdown"] == server.events
    assert ["leftover", "task"] == ended


def test_a_failure_to_start_stops_the_reactor_of_another_one(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """There is nothing else to do."""
    server.failure = ListenError("in use")
    join_reactor(server)
    reactor.run(installSignalHandlers=True)

    assert reactor.stopped


def test_a_reactor_may_stop_before_the_server_has_begun(
    reactor: FakeReactor, server: FakeServer
) -> None:
    """Then there is nothing behind it to end."""
    join_reactor(server)
    reactor.started.clear()
    reactor.script = reactor.stop
    reactor.run(installSignalHandlers=True)

    assert ["shutdown"] == server.events


# -- What is left behind -------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_tasks_left_behind_are_cancelled(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can clean up, and generators too; one that won't end is left."""
    monkeypatch.setattr(process, "_LEFTOVERS_TIMEOUT", 0.01)
    events: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("tidy")

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            events.append("generator")

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(tidy()), asyncio.ensure_future(stubborn())]
        generator = generate()
        await generator.__anext__()
        await asyncio.sleep(0)
        # The task which waits for this one is no leftover, and must go on.
        outer = asyncio.all_tasks() - {asyncio.current_task(), *tasks}
        running = asyncio.get_running_loop()
        monkeypatch.setattr(
            asyncio, "all_tasks", lambda loop: {*tasks, asyncio.current_task()}
        )
        await _end_leftovers(running)
        assert all(not task.cancelled() for task in outer)
        assert ["tidy", "generator"] == events
        assert [True, False] == [task.done() for task in tasks]
        tasks[1].cancel()
        await asyncio.sleep(0)

    run_on(loop, scenario())


# -- Limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "٣", " "])
def test_a_wrong_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, text: str
) -> None:
    """It is found before anything is started."""
    monkeypatch.setenv("ASGI_THREADS", text)

    with pytest.raises(SettingsError, match="ASGI_THREADS must be a number above 0"):
        run_until_stopped(server)
    assert [] == server.events


@pytest.mark.parametrize(("text", "count"), [("", 0), ("1", 1), ("32", 32)])
def test_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    """Without a number the loop decides."""
    monkeypatch.setenv("ASGI_THREADS", text)
    assert count == process._thread_count()

    monkeypatch.delenv("ASGI_THREADS")
    assert 0 == process._thread_count()


def test_as_many_files_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit becomes the hard one, where the system lets it."""
    resource = pytest.importorskip("resource")
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    process.raise_descriptor_limit()
    process.raise_descriptor_limit()
    assert [(256, 4096), (4096, 4096)] == limits

    def refuse_most(_: int, both: tuple[int, int]) -> None:
        if not 0 <= both[0] <= 10240:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(both)

    # macOS: 256, as long as nobody asks for a number.
    limits[:] = [(256, -1)]
    monkeypatch.setattr(resource, "setrlimit", refuse_most)
    process.raise_descriptor_limit()
    assert [(256, -1), (10240, -1)] == limits

    def refuse(_: int, both: object) -> None:
        raise ValueError

    limits.append((256, -1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    process.raise_descriptor_limit()


@pytest.fixture
def exhausted(server: FakeServer, reactor: FakeReactor) -> _Process:
    """Make a process which is to run out of descriptors."""
    return _Process(server, reactor, 0, False)


def test_running_out_of_descriptors_is_told_once_a_minute(
    exhausted: _Process, monkeypatch: pytest.MonkeyPatch, log: RecordedLog
) -> None:
    """Without us asyncio would tell it with a traceback for each attempt to accept."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(process, "_descriptor_limit", lambda: 64)
    error = OSError(errno.EMFILE, "Too many open files")
    context = {"message": "socket.accept() ...", "exception": error, "socket": None}
    loop: Any = object()
    for _ in range(1000):
        exhausted._handle_exception(loop, context)
    line = (
        "ERROR New connections wait or are dropped: Too many open files "
        "(the limit is 64)"
    )
    assert [line] == log.take()

    now += 61
    exhausted._handle_exception(loop, context)
    assert [line] == log.take()


def test_other_errors_are_told_as_ever(exhausted: _Process) -> None:
    """Whatever else goes wrong in a callback has its traceback."""
    told: list[dict[str, Any]] = []

    class Loop:
        def default_exception_handler(self, context: dict[str, Any]) -> None:
            told.append(context)

    contexts: list[dict[str, Any]] = [
        {"message": "callback failed", "exception": ZeroDivisionError()},
        {"message": "task failed", "exception": OSError(errno.EMFILE, "x")},
        {"message": "no exception"},
    ]
    loop: Any = Loop()
    for context in contexts:
        exhausted._handle_exception(loop, context)

    assert contexts == told


def test_a_lack_of_descriptors_is_looked_for(
    exhausted: _Process, monkeypatch: pytest.MonkeyPatch, log: RecordedLog
) -> None:
    """Since uvloop says nothing of it, a descriptor is tried each second."""
    calls: list[Any] = []

    class Loop:
        def call_later(self, delay: float, call: Any, loop: Any) -> None:
            calls.append((delay, call, loop))

    loop: Any = Loop()
    exhausted._look_after(loop)
    assert [] == log.take()

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    exhausted._look_after(loop)
    assert 1 == len(log.take())
    assert [(1.0, exhausted._look_after, loop)] * 2 == calls
