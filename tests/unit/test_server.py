"""Tests of ``daphne_like.server``."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from event_loops import LOOPS, run_on
from recorded_log import RecordedLog
from twisted.application.service import IService
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from daphne_like import process, reactor, server
from daphne_like.errors import LifespanFailed, ListenError, SettingsError
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
    assert [True, True] == ready
    assert ["started", "answered", "stopped"] * 2 == site.events
    assert None is made.failure
    assert f"INFO Listening on unix:{path} (HTTP/1.1 and 2, {loop})" in log.take(
        logging.INFO
    )


def test_addresses_of_all_kinds_are_announced(
    site: Site, log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has a URL for each address; the attribute has those of TCP only."""
    addresses: list[list[Any]] = [
        [IPv4Address("TCP", "127.0.0.1", 80), IPv6Address("TCP", "::1", 80)],
        [UNIXAddress(b"/run/x")],
    ]
    monkeypatch.setattr(server, "_addresses", lambda port: addresses[port])
    made = Server(site, ["haproxy:ssl:1", "unix:/run/x"])
    made.listeners = [0, 1]  # type: ignore[list-item]
    loop = asyncio.new_event_loop()
    made._announce(loop)
    loop.close()

    assert [
        "INFO Listening on https://127.0.0.1:80 (HTTP/1.1 and 2, asyncio)",
        "INFO Listening on https://[::1]:80 (HTTP/1.1 and 2, asyncio)",
        "INFO Listening on unix:/run/x (HTTP/1.1 and 2, asyncio)",
    ] == log.take(logging.INFO)
    assert [("127.0.0.1", 80), ("::1", 80)] == made.listening_addresses


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
        endpoint = made._endpoints[1][1]
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
    monkeypatch.setattr(reactor, "install", events.append)
    monkeypatch.setattr(
        server, "bridge_twisted_logging", lambda: events.append("bridged")
    )
    return events


def test_running_a_server(site: Site, runs: list[Any]) -> None:
    """`Server.run()` returns in the end; the settings say how it runs."""
    made = Server(site, loop="asyncio", verbosity=3, signal_handlers=False)
    made.run()

    options = {"debug": True, "signal_handlers": False}
    assert [(made, "asyncio", options)] == runs


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
    assert ["asyncio", "bridged", "loaded"] == before
    assert made.settings is settings


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


def test_an_interrupted_import_is_no_traceback(runs: list[Any]) -> None:
    """Ctrl-C while the application is imported ends with the shell's status."""

    def load() -> Site:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as raised:
        run(None, load)
    assert 130 == raised.value.code


# -- TLS ----------------------------------------------------------------------------------


def test_a_redirect_needs_somewhere_to_lead(site: Site) -> None:
    """Without a listener with TLS, `redirect_https` is a mistake."""
    with pytest.raises(SettingsError, match="redirect_https needs a listener with TLS"):
        Server(site, redirect_https="0")


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
