"""Tests of ``daphne_like.server``."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Authority
from event_loops import LOOPS, run_on
from notify_socket import NotifySocket
from recorded_log import RecordedLog
from twisted.application.service import IService
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

import daphne_like
from daphne_like import process, reactor, server, systemd, winding_down
from daphne_like.errors import (
    ApplicationLoadError,
    LifespanFailed,
    ListenError,
    SettingsError,
)
from daphne_like.server import Server, run
from daphne_like.settings import Settings

ON_LOOPS = pytest.mark.parametrize("loop", LOOPS)

REQUEST = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n"


class Site:
    """
    An application which a test holds in its hands.

    Attributes:
        events: What happened to it.
        started: Set when a request has come.
        gate: What a request waits for.
        startup: What its lifespan waits for; set from the start.
        answer: What it says to ``lifespan.startup``.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.startup = asyncio.Event()
        self.startup.set()
        self.answer: dict[str, str] = {"type": "lifespan.startup.complete"}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Tell the events, and answer when the gate is open."""
        if scope["type"] == "lifespan":
            await receive()
            try:
                await self.startup.wait()
            except asyncio.CancelledError:
                self.events.append("start cancelled")
                raise
            self.events.append("started")
            await send(self.answer)
            await receive()
            self.events.append("stopped")
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.started.set()
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})
        self.events.append("answered")


@pytest.fixture
def site() -> Site:
    """Make an application."""
    return Site()


@pytest.fixture
def path() -> Iterator[Path]:
    """Find a path that is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="dl") as folder:
        yield Path(folder) / "s"


Make = Callable[..., Server]


@pytest.fixture
def make(site: Site, path: Path, log: RecordedLog) -> Make:
    """Make servers of that application on that path, which log where it is seen."""

    def make(**overrides: Any) -> Server:
        overrides.setdefault("endpoints", [f"unix:{path}"])
        return Server(site, **{"access_log": "", **overrides})

    return make


async def connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a Unix socket."""
    return await asyncio.open_unix_connection(str(path))


# -- What a server is made of --------------------------------------------------------


def test_settings_are_keywords(site: Site) -> None:
    """`Server(app, port=0)` names settings as they are named everywhere."""
    made = Server(site, ["tcp:1", "tcp:2"], timeout_send="5s", endpoint="tcp:3")

    assert 5.0 == made.settings.http.timeout_send
    assert ("tcp:3", "tcp:1", "tcp:2") == made.settings.bind.endpoint


def test_endpoints_come_on_top_of_the_settings(site: Site) -> None:
    """Endpoint strings don't replace those of given settings; one may be alone."""
    settings = Settings.of(endpoint="tcp:1", timeout_send=5)
    made = Server(site, "tcp:2", settings=settings)

    assert ("tcp:1", "tcp:2") == made.settings.bind.endpoint
    assert settings.http is made.settings.http


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prot": 80}, "prot is no setting; did you mean port?"),
        ({"port": "http"}, "port "),
        ({"port": 80, "settings": Settings()}, "port: give settings or keywords"),
        ({"endpoints": ["tcp:http"]}, "the port must be a number"),
        ({"endpoints": ["", "tcp:1"]}, "endpoint "),
    ],
)
def test_wrong_arguments_are_explained(
    site: Site, arguments: dict[str, Any], reason: str
) -> None:
    """What is wrong is found when the server is made, and said in one line."""
    with pytest.raises(SettingsError) as raised:
        Server(site, **arguments)

    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"endpoints": []},
        {"endpoints": (), "daphne_compat": True},
        {"daphne_compat": True},
        {"endpoints": [], "settings": Settings()},
    ],
)
def test_a_server_without_endpoints_is_a_mistake(
    site: Site, log: RecordedLog, arguments: dict[str, Any]
) -> None:
    """Who gives an empty list, or as with Daphne none at all, gets no port 8000."""
    with pytest.raises(SystemExit) as raised:
        Server(site, **arguments)

    assert 1 == raised.value.code
    assert ["ERROR There are no endpoints: this server has nothing to listen on"] == (
        log.take()
    )


def test_some_endpoint_is_enough(site: Site) -> None:
    """It may come from a setting; without Daphne's manners there is a default."""
    one = Server(site, daphne_compat=True, port=0)
    two = Server(site, [], unix_socket="/x")
    default = Server(site, settings=Settings.of(daphne_compat=True))

    assert [1, 1, 1] == [len(made._listening.own) for made in (one, two, default)]


def test_keywords_of_daphne_are_settings(site: Site) -> None:
    """A program that makes Daphne's server makes ours with the same words."""
    made = Server(
        application=site,
        endpoints=["tcp:0"],
        http_timeout=None,
        proxy_forwarded_address_header="X-Forwarded-For",
        proxy_forwarded_port_header="X-Forwarded-Port",
        proxy_forwarded_proto_header="X-Forwarded-Proto",
        request_buffer_size=100,
        root_path="/x",
        server_name="daphne",
        websocket_connect_timeout=20,
        websocket_handshake_timeout=5,
        websocket_timeout=86400,
    )

    assert made.settings == Settings.of(
        endpoint="tcp:0",
        proxy_headers=True,
        request_buffer_size=100,
        root_path="/x",
        server_name="daphne",
    )


# -- Its life --------------------------------------------------------------------------


@ON_LOOPS
def test_it_starts_and_stops(
    make: Make, site: Site, path: Path, loop: str, log: RecordedLog
) -> None:
    """The lifespan encloses all; afterwards nothing is left, and it can start again."""
    ready: list[bool] = []
    made = make(ready_callable=lambda: ready.append(path.exists()))

    async def scenario() -> None:
        for _ in range(2):
            await made.startup()
            assert [f"unix:{path}"] == made.urls
            assert [UNIXAddress(str(path).encode())] == [
                port.getHost() for port in made.listeners
            ]
            site.gate.set()
            reader, writer = await connect(path)
            writer.write(REQUEST)
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert 1 == len(made.connections)

            await made.shutdown()
            assert b"" == await reader.read()
            writer.close()
            assert not made.connections
            assert not made.listeners
            assert not path.exists()

    run_on(loop, scenario())
    assert [] == made.urls
    assert [True, True] == ready
    assert ["started", "answered", "stopped"] * 2 == site.events
    assert None is made.failure
    assert f"INFO Listening on unix:{path} (HTTP/1.1 and 2, {loop})" in log.take(
        logging.INFO
    )


@pytest.mark.parametrize("access_log", [None, "-"])
def test_an_action_logger_takes_the_place_of_the_access_log(
    site: Site,
    path: Path,
    access_log: str | None,
    capsys: pytest.CaptureFixture[str],
    log: RecordedLog,
) -> None:
    """It hears of requests as Daphne's does; who wants both names the access log."""
    heard: list[Any] = []
    made = Server(
        site,
        [f"unix:{path}"],
        access_log=access_log,
        action_logger=lambda *arguments: heard.append(arguments),
    )

    async def scenario() -> None:
        await made.startup()
        site.gate.set()
        reader, writer = await connect(path)
        writer.write(REQUEST)
        await reader.readuntil(b"hello")
        writer.close()
        await made.shutdown()

    run_on("asyncio", scenario())
    ((protocol, action, details),) = heard
    assert ("http", "complete", 200) == (protocol, action, details["status"])
    lines = capsys.readouterr().out.splitlines()
    assert (0 if access_log is None else 1) == len(lines)


def test_a_request_at_the_last_moment(
    make: Make, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was accepted before the stop and asks just after it gets an answer."""
    # The test decides when the moment is over.
    monkeypatch.setattr(winding_down, "_LAST_REQUESTS_TIMEOUT", 3600.0)
    made = make(timeout_graceful_shutdown=3600)

    async def scenario() -> None:
        await made.startup()
        reader, writer = await connect(path)
        while not made.connections:
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(made.shutdown())
        while made.listeners:
            await asyncio.sleep(0)
        site.gate.set()
        writer.write(REQUEST)
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
        made.force()
        await stopping
        assert b"" == await reader.read()
        writer.close()

    run_on("asyncio", scenario())


@pytest.mark.parametrize(
    ("overrides", "start", "stop"),
    [
        ({}, 60.0, 1 + 30.0 + 8 + 30.0),
        ({"timeout_startup": 0}, inf, 69.0),
        ({"timeout_shutdown": 0}, 60.0, inf),
        ({"timeout_graceful_shutdown": 300}, 60.0, 339.0),
    ],
)
def test_how_long_start_and_stop_may_take(
    site: Site, overrides: dict[str, Any], start: float, stop: float
) -> None:
    """The settings bound both, so that systemd can be asked for enough time."""
    made = Server(site, **overrides)

    assert (start, stop) == (made.longest_start, made.longest_stop)


def test_a_port_is_told(site: Site, log: RecordedLog) -> None:
    """Who asks for port 0 can learn which one it is."""
    made = Server(site, ["tcp:0:interface=127.0.0.1"], access_log="")

    async def scenario() -> None:
        await made.startup()
        [(host, port)] = made.listening_addresses
        assert "127.0.0.1" == host
        assert port > 0
        await made.shutdown()

    run_on("asyncio", scenario())


def test_an_address_in_use_is_found_before_the_application_starts(
    site: Site, log: RecordedLog
) -> None:
    """The error is raised, logged as one line, and kept."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        made = Server(site, port=taken.getsockname()[1], access_log="")
        with pytest.raises(ListenError):
            run_on("asyncio", made.startup())

    assert isinstance(made.failure, ListenError)
    assert [f"CRITICAL {made.failure}"] == log.take()
    assert [] == site.events


def test_an_application_that_refuses_to_start(
    make: Make, site: Site, path: Path, log: RecordedLog
) -> None:
    """Its reason is raised and logged; nothing stays bound."""
    site.answer = {"type": "lifespan.startup.failed", "message": "no database"}
    made = make()

    with pytest.raises(LifespanFailed, match="no database"):
        run_on("asyncio", made.startup())
    assert ["CRITICAL Application startup failed: no database"] == log.take()
    assert not path.exists()


def test_a_ready_callable_that_raises(
    make: Make, site: Site, path: Path, log: RecordedLog
) -> None:
    """It is a failure to start, with a traceback; all is undone."""
    error = ZeroDivisionError()

    def ready() -> None:
        raise error

    made = make(ready_callable=ready)
    with pytest.raises(ZeroDivisionError):
        run_on("asyncio", made.startup())
    assert error is made.failure
    assert [error] == log.take_errors()
    assert ["started", "stopped"] == site.events
    assert not path.exists()


def test_a_request_that_comes_before_a_failure(
    make: Make, site: Site, path: Path, log: RecordedLog
) -> None:
    """When the start fails after all, what has begun meanwhile is cut first."""

    async def scenario() -> None:
        endpoint = made._listening.endpoints[1][1]
        assert endpoint is not None

        async def fail() -> Any:
            _, writer = await connect(path)
            writers.append(writer)
            writer.write(REQUEST)
            await site.started.wait()
            raise ListenError("in use")

        def listen_late(factory: Any) -> Any:
            return Deferred.fromFuture(asyncio.ensure_future(fail()))

        endpoint.listen = listen_late  # type: ignore[method-assign]
        with pytest.raises(ListenError):
            await made.startup()
        assert not made.connections
        for writer in writers:
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    made = make(endpoints=[f"unix:{path}", f"unix:{path}2"])
    run_on("asyncio", scenario())
    cancelled, failed = log.take()
    assert cancelled.startswith("WARNING Cancelling the application: GET /, ")
    assert "CRITICAL in use" == failed
    assert ["started", "stopped"] == site.events


def test_an_access_log_that_cannot_be_opened(make: Make, site: Site) -> None:
    """That is found before anything is started."""
    made = make(access_log="/no/such/folder/log")

    with pytest.raises(SettingsError, match="/no/such/folder/log"):
        run_on("asyncio", made.startup())
    assert [] == site.events


@pytest.fixture(autouse=True)
def _failures_are_logged(log: RecordedLog) -> Iterator[None]:
    yield
    for line in log.take():
        assert line.startswith("CRITICAL ")


@ON_LOOPS
def test_stopping_in_the_middle_of_the_start(
    make: Make, site: Site, path: Path, loop: str, log: RecordedLog
) -> None:
    """The application's startup is cancelled; who waits for the start is told."""
    site.startup.clear()
    made = make()

    async def scenario() -> None:
        before = asyncio.all_tasks()
        starting = asyncio.ensure_future(made.startup())
        while not path.exists():
            await asyncio.sleep(0)
        await asyncio.gather(made.shutdown(), made.shutdown())
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert before == asyncio.all_tasks()

    run_on(loop, scenario())
    assert ["start cancelled"] == site.events
    assert None is made.failure
    assert not path.exists()


def test_stopping_what_was_never_started(make: Make) -> None:
    """There is nothing to do, and no error."""
    run_on("asyncio", make().shutdown())


def test_starting_twice_is_an_error(make: Make, path: Path) -> None:
    """A running server can't be started; it goes on."""
    made = make()

    async def scenario() -> None:
        await made.startup()
        with pytest.raises(RuntimeError, match="started already"):
            await made.startup()
        assert path.exists()
        await made.shutdown()

    run_on("asyncio", scenario())


@ON_LOOPS
def test_what_is_in_flight_is_awaited(
    make: Make, site: Site, path: Path, loop: str
) -> None:
    """Shutdown lasts until the request is answered, for all who wait for it."""
    made = make()

    async def scenario() -> None:
        await made.startup()
        reader, writer = await connect(path)
        writer.write(REQUEST)
        await site.started.wait()

        stopping = [asyncio.ensure_future(made.shutdown()) for _ in range(2)]
        while path.exists():
            await asyncio.sleep(0)
        assert not any(task.done() for task in stopping)
        site.gate.set()
        assert (await reader.read()).endswith(b"hello")
        await asyncio.gather(*stopping)
        writer.close()

    run_on(loop, scenario())
    assert ["started", "answered", "stopped"] == site.events


@ON_LOOPS
def test_force_ends_the_wait(
    make: Make, site: Site, path: Path, loop: str, log: RecordedLog
) -> None:
    """
    What is in flight is cancelled, and the client told so, whether the shutdown
    has begun or not.
    """

    async def scenario(early: bool) -> None:
        made = make()
        await made.startup()
        reader, writer = await connect(path)
        writer.write(REQUEST)
        await site.started.wait()

        if early:
            made.force()
        stopping = asyncio.ensure_future(made.shutdown())
        if not early:
            while path.exists():
                await asyncio.sleep(0)
            made.force()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        await stopping
        writer.close()
        [line] = log.take()
        assert line.startswith("WARNING Cancelling the application: GET /, ")

    for early in (True, False):
        site.started = asyncio.Event()
        site.gate = asyncio.Event()
        run_on(loop, scenario(early))
    assert ["started", "stopped"] * 2 == site.events


@ON_LOOPS
def test_a_connection_accepted_at_the_last_moment(
    make: Make, site: Site, path: Path, loop: str
) -> None:
    """It doesn't keep the server: without a request it is closed at once."""
    made = make()

    async def scenario() -> None:
        await made.startup()
        _, first = await connect(path)
        first.write(REQUEST)
        await site.started.wait()
        late = asyncio.ensure_future(connect(path))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(made.shutdown())
        reader, writer = await late
        try:
            assert b"" == await reader.read()
        except ConnectionResetError:
            pass  # it wasn't accepted at all
        site.gate.set()
        await stopping
        first.close()
        writer.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_the_application_is_told_before_anything_is_closed(
    path: Path, loop: str, log: RecordedLog
) -> None:
    """Both its streams and what it does in the background; its scopes tell it, too."""
    events: list[str] = []
    scopes: list[Any] = []

    async def look_after() -> None:
        await daphne_like.draining()
        assert path.exists(), "nobody is told when it is too late"
        events.append("background")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            background = asyncio.create_task(look_after())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await background
            await send({"type": "lifespan.shutdown.complete"})
            return
        scopes.append(scope["extensions"]["daphne_like.draining"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await daphne_like.draining()
        events.append("stream")
        await send({"type": "http.response.body", "body": b"goodbye"})

    async def scenario() -> None:
        made = Server(application, [f"unix:{path}"], access_log="")
        await made.startup()
        reader, writer = await connect(path)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        await reader.readuntil(b"one ")
        assert [{"begun": False}] == scopes

        await asyncio.gather(made.shutdown(), daphne_like.draining())
        assert b"goodbye" in await reader.read()
        assert [{"begun": True}] == scopes
        writer.close()

    run_on(loop, scenario())
    assert ["background", "stream"] == sorted(events)


def test_trusting_everybody_is_told_once(make: Make, log: RecordedLog) -> None:
    """A trust list with `*` is a warning at the start; other lists are none."""

    async def scenario() -> None:
        for trusted in ("*", "unix"):
            made = make(proxy_headers=True, forwarded_allow_ips=trusted)
            await made.startup()
            await made.shutdown()

    run_on("asyncio", scenario())
    [line] = log.take()
    assert line.startswith("WARNING forwarded_allow_ips holds *")


# -- A Twisted service, and a process of its own ---------------------------------------


class FakeReactor:
    """A reactor which begins when the test says so."""

    def __init__(self) -> None:
        self.begin: Callable[[], None] = lambda: None
        self.delays: list[float] = []

    def callWhenRunning(self, call: Any, *arguments: Any) -> None:
        """Note what is to be called."""
        self.begin = lambda: call(*arguments)

    def callLater(self, delay: float, call: Any) -> None:
        """Call in the next turn."""
        self.delays.append(delay)
        asyncio.get_running_loop().call_soon(call)


def test_a_service_starts_when_the_reactor_runs(
    make: Make, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like each service of Twisted it can be started before."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    made = make()
    assert verifyObject(IService, made)

    made.startService()
    assert [] == site.events

    async def scenario() -> None:
        fake.begin()
        while not made.listeners:
            await asyncio.sleep(0)
        await made.stopService().asFuture(asyncio.get_running_loop())

    run_on("asyncio", scenario())
    assert ["started", "stopped"] == site.events
    assert [0] == fake.delays


def test_a_service_may_be_stopped_before_it_started(
    make: Make, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doesn't start then, and the Deferred fires at once."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    made = make()
    made.startService()

    assert made.stopService().called

    async def scenario() -> None:
        fake.begin()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run_on("asyncio", scenario())
    assert [] == site.events


async def stopped(made: Server) -> None:
    """Stop a service."""
    await made.stopService().asFuture(asyncio.get_running_loop())


def test_addresses_are_bound_before_privileges_are_given_up(
    make: Make, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody can connect before the application has started."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    made = make()

    made.privilegedStartService()
    made.privilegedStartService()

    bound = path.stat().st_ino
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    made.startService()

    async def scenario() -> None:
        fake.begin()
        while not made.listeners:
            await asyncio.sleep(0)
        assert bound == path.stat().st_ino
        _, writer = await connect(path)
        writer.close()
        await stopped(made)
        assert not path.exists()

    run_on("asyncio", scenario())


def test_an_address_in_use_is_told_before_privileges_are_given_up(
    make: Make, path: Path
) -> None:
    """What was bound before it is given up."""
    other = path.parent / "taken"
    other.write_text("", "utf-8")
    made = make(endpoints=[f"unix:{path}", f"unix:{other}"])

    with pytest.raises(ListenError, match="taken"):
        made.privilegedStartService()

    assert not path.exists()


def test_what_was_bound_is_given_up_without_a_start(make: Make, path: Path) -> None:
    """Stopping a service that never started leaves no socket behind."""
    made = make()
    made.privilegedStartService()
    assert path.exists()

    assert made.stopService().called
    assert not path.exists()


@ON_LOOPS
def test_what_was_bound_is_given_up_when_the_start_has_hardly_begun(
    make: Make, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """Also when the service had a life before, and at whatever moment it is stopped."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    site.startup.clear()
    made = make()

    async def scenario() -> None:
        for turns in (2, 1, 0):
            made.privilegedStartService()
            made.startService()
            fake.begin()
            for _ in range(turns):
                await asyncio.sleep(0)
            assert path.exists()
            await stopped(made)
            assert not path.exists()

        made.privilegedStartService()
        await asyncio.gather(made.startup(), made.shutdown(), return_exceptions=True)
        assert not path.exists()

    run_on(loop, scenario())
    assert "started" not in site.events


def test_a_service_may_start_again_while_it_stops(
    make: Make, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so when all that came before is over."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    made = make()
    site.gate.set()

    async def scenario() -> None:
        made.startService()
        fake.begin()
        while not made.listeners:
            await asyncio.sleep(0)
        stopping = made.stopService()
        made.privilegedStartService()
        made.startService()
        fake.begin()
        await stopping.asFuture(asyncio.get_running_loop())
        while not made.listeners:
            await asyncio.sleep(0)
        _, writer = await connect(path)
        writer.close()
        await stopped(made)

    run_on("asyncio", scenario())
    assert ["started", "stopped"] * 2 == site.events


def test_a_service_may_start_again(
    make: Make, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same addresses, with a lifespan of its own."""
    fake = FakeReactor()
    monkeypatch.setattr(reactor, "install", lambda loop: fake)
    made = make()
    site.gate.set()

    async def scenario() -> None:
        for _ in range(2):
            made.privilegedStartService()
            made.startService()
            fake.begin()
            while not made.listeners:
                await asyncio.sleep(0)
            reader, writer = await connect(path)
            writer.write(REQUEST)
            assert (await reader.readline()).endswith(b" 200 OK\r\n")
            writer.close()
            await stopped(made)

    run_on("asyncio", scenario())
    assert ["started", "answered", "stopped"] * 2 == site.events


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note what is to be run, instead of running it."""
    events: list[Any] = []

    def run_until_stopped(made: Server, loop: str, **options: bool) -> None:
        events.append((made, loop, options))

    monkeypatch.setattr(process, "run_until_stopped", run_until_stopped)

    def install(loop: str) -> object:
        events.append(loop)
        return object()

    monkeypatch.setattr(reactor, "install", install)
    monkeypatch.setattr(process, "install", install)
    monkeypatch.setattr(
        process, "bridge_twisted_logging", lambda: events.append("bridged")
    )
    return events


def test_one_server_is_no_workers() -> None:
    """Who asks for several processes learns how to get them."""
    made = Server(cast("Any", None), workers=2, port=0)

    with pytest.raises(SettingsError, match="need the program daphne-like"):
        made.run()


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"workers": 2}, "workers, and limits which replace them, need the program"),
        ({"limit_max_requests": 9}, "workers, and limits which replace them, need"),
        ({"user": "nobody"}, "user is about the process, not a server in it"),
        ({"pid_file": "a.pid"}, "pid_file is about the process"),
        ({"umask": "077"}, "umask is about the process"),
        ({"core_dumps": False}, "core_dumps is about the process"),
    ],
)
def test_a_server_is_no_process(setting: dict[str, Any], error: str) -> None:
    """Who believes to have become nobody, or many, isn't served as root, or as one."""
    made = Server(cast("Any", None), port=0, **setting)

    with pytest.raises(SettingsError, match=error):
        made.run()
    with pytest.raises(SettingsError, match=error):
        made.startService()
    assert not made.running


def test_run_refuses_what_the_program_does_before() -> None:
    """`daphne_like.run()` can change the user, and nothing of all the rest."""
    with pytest.raises(SettingsError, match="pid_file needs the program daphne-like"):
        server.run(Settings.of(pid_file="a.pid"))


def test_running_a_server(site: Site, runs: list[Any]) -> None:
    """`Server.run()` returns in the end; the settings say how it runs."""
    made = Server(site, loop="asyncio", verbosity=3, signal_handlers=False)
    made.run()

    options = {"debug": True, "signal_handlers": False, "supervisor": None}
    assert ["asyncio", (made, "asyncio", options)] == runs


@pytest.mark.parametrize(
    ("failure", "status"),
    [(ListenError("in use"), 1), (LifespanFailed("no"), 3), (ZeroDivisionError(), 1)],
)
def test_running_a_server_in_vain(
    site: Site, runs: list[Any], failure: BaseException, status: int
) -> None:
    """`Server.run()` exits with the status of what kept it from starting."""
    made = Server(site)
    made.failure = failure

    with pytest.raises(SystemExit) as raised:
        made.run()
    assert status == raised.value.code


def test_a_server_stopped_before_it_runs(site: Site, runs: list[Any]) -> None:
    """`stop()` may come first, from another thread, for instance; it never runs."""
    made = Server(site, loop="asyncio")
    made.stop()
    made.run()

    assert made.abort_start
    assert ["asyncio"] == runs


def test_daphnes_callers_are_told_before_the_reactor_runs(
    site: Site, runs: list[Any], path: Path, log: RecordedLog
) -> None:
    """With Daphne's manners `ready_callable()` comes first; the address is bound."""
    made = Server(
        site,
        [f"unix:{path}"],
        daphne_compat=True,
        loop="asyncio",
        ready_callable=lambda: runs.append(path.exists()),
    )
    made.run()
    made._listening.close()

    assert ["asyncio", True] == runs[:2]
    assert made is runs[2][0]


def test_daphnes_callers_are_not_told_of_an_address_in_use(
    site: Site, runs: list[Any], log: RecordedLog
) -> None:
    """Then there is one line, and the exit status 1; nothing stays bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = Server(
            site,
            [f"tcp:{port}:interface=127.0.0.1"],
            daphne_compat=True,
            ready_callable=lambda: runs.append("ready"),
        )
        with pytest.raises(SystemExit) as raised:
            made.run()

    assert 1 == raised.value.code
    assert "ready" not in runs
    assert made.abort_start
    [line] = log.take()
    assert line.startswith(f"CRITICAL Listen failure: 127.0.0.1:{port}: ")


def test_a_caller_that_fails_leaves_nothing_bound(
    site: Site, runs: list[Any], path: Path, log: RecordedLog
) -> None:
    """What `ready_callable()` raises there comes out of `run()`."""

    def fail() -> None:
        raise ZeroDivisionError

    made = Server(site, [f"unix:{path}"], daphne_compat=True, ready_callable=fail)
    with pytest.raises(ZeroDivisionError):
        made.run()

    assert not path.exists()


def test_a_process_installs_the_reactor_before_it_loads_the_application(
    site: Site, runs: list[Any]
) -> None:
    """An application may import the reactor, and log through Twisted, on import."""

    def load() -> Site:
        runs.append("loaded")
        return site

    settings = Settings.of(loop="asyncio")
    run(settings, load)

    *before, (made, _, _) = runs
    assert ["asyncio", "bridged", "loaded", "asyncio"] == before
    assert settings == made.settings


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, path: Path, runs: list[Any]) -> None:
    """Note when the privileges of root are given up, and what is bound then."""

    def become(settings: Any) -> None:
        runs.append(("bound", path.exists(), "user", settings.user))

    monkeypatch.setattr(process, "will_become_user", lambda settings: True)
    monkeypatch.setattr(process, "become_user", become)


@pytest.mark.usefixtures("root")
def test_the_application_is_imported_without_privileges(
    site: Site, runs: list[Any], path: Path
) -> None:
    """Addresses are bound as root, and what comes then as the user."""

    def load() -> Site:
        runs.append("loaded")
        return site

    run(Settings.of(unix_socket=(str(path),), user="web", loop="asyncio"), load)

    (made, _, _), *_ = runs[-1:]
    become = ("bound", True, "user", "web")
    assert ["asyncio", "bridged", become, "loaded", "asyncio"] == runs[:-1]
    # The server has what was bound, and gives it up with the rest.
    assert path.exists()
    made._listening.bind()
    made._listening.close()
    assert not path.exists()


@pytest.mark.usefixtures("root")
def test_without_an_application_nothing_stays_bound(
    site: Site, runs: list[Any], path: Path
) -> None:
    """Neither when it can't be imported, nor when another address is in use."""

    def load() -> Site:
        raise ApplicationLoadError("none")

    one = Settings.of(unix_socket=(str(path),), user="web")
    twice = Settings.of(unix_socket=(str(path), str(path)), user="web")
    for settings, error in ((one, ApplicationLoadError), (twice, ListenError)):
        with pytest.raises(error):
            run(settings, load)
        assert not path.exists()


def test_another_class_of_server_may_run(site: Site, runs: list[Any]) -> None:
    """`run()` takes what makes the server."""

    class Other(Server):
        pass

    run(None, lambda: site, lambda application, settings: Other(application))

    assert isinstance(runs[-1][0], Other)


def test_without_an_application_the_demo_runs(runs: list[Any]) -> None:
    """`daphne_like.run()` alone shows something."""
    from daphne_like.demo import application

    run()

    assert application is runs[-1][0]._application


def test_the_sockets_of_systemd_are_listened_on(
    site: Site, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are taken before the application is loaded, whose children get nothing."""
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", 50_003)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")

    def load() -> Site:
        assert "LISTEN_FDS" not in os.environ
        return site

    systemd.passed_sockets.cache_clear()
    run(None, load)
    systemd.passed_sockets.cache_clear()

    assert (50_003, 50_004) == runs[-1][0].settings.bind.fd


def test_systemd_is_told_why_there_is_nothing_to_serve(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl status` shows what is wrong with the application or a setting."""

    def load() -> Site:
        raise ApplicationLoadError("no module named site")

    with (
        tempfile.TemporaryDirectory(prefix="dl") as folder,
        closing(NotifySocket(f"{folder}/notify")) as notified,
    ):
        monkeypatch.setenv("NOTIFY_SOCKET", notified.address)
        with pytest.raises(ApplicationLoadError):
            run(None, load)

        expected = {"STOPPING": "1", "STATUS": "no module named site"}
        assert [expected] == notified.take()


def test_an_interrupted_import_is_no_traceback(runs: list[Any]) -> None:
    """Ctrl-C while the application is imported ends with the shell's status."""

    def load() -> Site:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as raised:
        run(None, load)
    assert 130 == raised.value.code


# -- TLS ----------------------------------------------------------------------------------


def test_certificates_are_what_can_be_reloaded(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: RecordedLog
) -> None:
    """
    Those of files: SIGHUP reads them again. A server without any, or with the one
    for development, ends by it.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = str(Authority().issue("localhost").write(tmp_path / "server.pem"))
    secure = Server(site, ssl_certfile=path)
    secure.reload()

    assert f"INFO Certificates read again: {path}" in log.take(logging.INFO)
    assert secure.can_reload
    assert Server(site, endpoints=[f"ssl:0:privateKey={path}"]).can_reload
    assert not Server(site).can_reload
    assert not Server(site, ssl_dev=True).can_reload
