"""Gunicorn's configuration in our words, and what a worker does when told to."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stepped_loop import SteppedLoop

pytest.importorskip("gunicorn", reason="Gunicorn is not installed")

import gunicorn.config
import gunicorn.workers.base

import daphne_like.gunicorn
from daphne_like import reactor
from daphne_like.errors import LifespanFailed, SettingsError
from daphne_like.gunicorn import Worker, settings_of
from daphne_like.settings import Settings


def configured(**given: Any) -> Any:
    """Make a configuration of Gunicorn's."""
    cfg = gunicorn.config.Config()
    if not given.keys() <= cfg.settings.keys():
        pytest.skip("this version of Gunicorn has no such setting")
    for name, value in given.items():
        cfg.set(name, value)
    return cfg


def translated(environ: dict[str, str] | None = None, **given: Any) -> Settings:
    """Translate a configuration of Gunicorn's."""
    return settings_of(configured(**given), environ or {})


# -- Settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"asgi_disconnect_grace_period": 7}, "application_close_timeout", 7.0),
        ({"asgi_lifespan": "on"}, "lifespan", "on"),
        ({"asgi_loop": "asyncio"}, "loop", "asyncio"),
        ({"backlog": 64}, "backlog", 64),
        ({"certfile": "c.pem"}, "ssl_certfile", ("c.pem",)),
        ({"ciphers": "ECDHE"}, "ssl_ciphers", "ECDHE"),
        ({"header_map": "refuse"}, "header_underscores", "reject"),
        ({"header_map": "dangerous"}, "header_underscores", "keep"),
        ({"http2_initial_window_size": 100000}, "http2_stream_window", 100000),
        ({"http_protocols": "h2"}, "http", "2"),
        ({"http_protocols": "h2,h1"}, "http", "auto"),
        ({"keepalive": 75}, "timeout_keep_alive", 75.0),
        ({"keepalive": 0}, "timeout_keep_alive", 0.001),
        ({"limit_request_field_size": 100}, "limit_request_header", 65536),
        ({"limit_request_field_size": 100000}, "limit_request_header", 100000),
        ({"limit_request_field_size": 0}, "limit_request_header", 0),
        ({"limit_request_fields": 50}, "limit_request_fields", 50),
        ({"limit_request_line": 1000}, "limit_request_line", 1000),
        ({"proxy_protocol": True}, "proxy_protocol", True),
        ({"root_path": "/app"}, "root_path", "/app"),
        ({"websocket_max_message_size": 5}, "websocket_max_message_size", 5),
        ({"websocket_max_message_size": 5}, "websocket_max_frame_size", 5),
        ({"graceful_timeout": 100}, "timeout_graceful_shutdown", 97.0),
        ({"graceful_timeout": 10}, "timeout_graceful_shutdown", 9.0),
        ({"accesslog": "-"}, "access_log", "logger"),
        ({"syslog": True}, "access_log", "logger"),
        ({"forwarded_allow_ips": "*"}, "forwarded_allow_ips", ("*", "unix")),
        ({"access_log_format": "%(h)s %({x}e)s"}, "access_log_format", "%(h)s -"),
    ],
)
def test_what_gunicorn_was_told_holds(
    given: dict[str, Any], name: str, value: object
) -> None:
    """Each setting with a counterpart is taken over, in our units."""
    assert value == translated(**given).value(name)


def test_what_it_was_not_told_is_as_everywhere() -> None:
    """Our defaults hold, but for what holds in Gunicorn without being given."""
    settings, usual = translated(), Settings()

    assert usual.http == settings.http
    assert usual.tls == settings.tls
    assert settings.proxy.proxy_headers
    assert ("127.0.0.1", "::1", "unix") == settings.proxy.forwarded_allow_ips
    assert "" == settings.log.access_log
    assert 27.0 == settings.lifecycle.timeout_graceful_shutdown


def test_client_certificates() -> None:
    """The authority counts only where certificates are asked for."""
    asked = translated(certfile="c.pem", ca_certs="ca.pem", cert_reqs=2).tls
    unasked = translated(certfile="c.pem", ca_certs="ca.pem").tls

    assert ("required", "ca.pem") == (asked.ssl_cert_reqs, asked.ssl_ca_certs)
    assert ("none", None) == (unasked.ssl_cert_reqs, unasked.ssl_ca_certs)


def test_the_environment_wins() -> None:
    """What Gunicorn knows nothing of can be set, and anything else there, too."""
    settings = translated(
        {
            "DAPHNE_LIKE_PING_INTERVAL": "7",
            "DAPHNE_LIKE_TIMEOUT_KEEP_ALIVE": "9",
            "DAPHNE_LIKE_ACCESS_LOG": "-",
        },
        keepalive=3,
    )

    assert 7.0 == settings.websocket.ping_interval
    assert 9.0 == settings.http.timeout_keep_alive
    assert "-" == settings.log.access_log


def test_processes_and_addresses_are_gunicorns() -> None:
    """What platforms set for all servers starts no workers in a worker."""
    settings = translated(
        {"WEB_CONCURRENCY": "4", "DAPHNE_LIKE_USER": "www", "DAPHNE_LIKE_PORT": "80"}
    )

    assert Settings().workers == settings.workers
    assert Settings().process == settings.process
    assert Settings().bind == settings.bind


@pytest.mark.parametrize(
    ("given", "environ", "error"),
    [
        (
            {"proxy_protocol": True, "proxy_allow_ips": "10.0.0.1"},
            {},
            "forwarded_allow_ips and proxy_allow_ips must be the same",
        ),
        ({"protocol": "uwsgi"}, {}, "protocol must be http, not uwsgi"),
        ({"ssl_context": lambda cfg, make: make()}, {}, "ssl_context can't be"),
        ({"keyfile": "k.pem"}, {}, "ssl_keyfile must be given as often"),
        ({}, {"DAPHNE_LIKE_METRICS": "9100"}, "can't share an address"),
        ({}, {"DAPHNE_LIKE_CONTROL_SOCKET": "c"}, "can't share an address"),
    ],
)
def test_what_can_not_be_obeyed_is_refused(
    given: dict[str, Any], environ: dict[str, str], error: str
) -> None:
    """Gunicorn stops with the reason instead of serving otherwise than it was told."""
    cfg = configured(**given)
    with pytest.raises(SettingsError, match=error):
        settings_of(cfg, environ)


def test_gunicorn_prints_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so with errors of this kind, before any worker starts."""
    monkeypatch.setenv("DAPHNE_LIKE_METRICS", "9100")
    with pytest.raises(RuntimeError, match="can't share an address"):
        Worker.check_config(configured(), logging.getLogger("test"))


def test_what_has_no_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Only what somebody has given is worth a line."""
    cfg = configured(threads=4, pre_request=lambda worker, request: None)
    Worker.check_config(cfg, logging.getLogger("test"))

    assert [
        "pre_request has no effect with the worker daphne_like",
        "threads has no effect with the worker daphne_like",
    ] == caplog.messages


def test_variables_for_what_gunicorn_does_are_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else somebody relies on them; what platforms set for all is no wish."""
    for name in ("LIMIT_MAX_REQUESTS", "USER", "PORT", "PING_INTERVAL"):
        monkeypatch.setenv(f"DAPHNE_LIKE_{name}", "9")
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    Worker.check_config(configured(), logging.getLogger("test"))

    assert {
        f"DAPHNE_LIKE_{name} has no effect: that is Gunicorn's to do"
        for name in ("LIMIT_MAX_REQUESTS", "USER", "PORT")
    } == set(caplog.messages)


def test_older_versions_have_lists_as_text() -> None:
    """The trusted addresses may be text with commas."""
    cfg = SimpleNamespace(
        **{name: setting.get() for name, setting in configured().settings.items()},
        settings=configured().settings,
    )
    cfg.forwarded_allow_ips = "10.0.0.1,10.0.0.2"

    trusted = settings_of(cfg, {}).proxy.forwarded_allow_ips
    assert ("10.0.0.1", "10.0.0.2", "unix") == trusted


# -- The worker -------------------------------------------------------------------


class FakeServer:
    """Records what it is told."""

    failure: BaseException | None = None

    def __init__(self) -> None:
        self.told: list[str] = []

    def stop(self, *, restarting: bool = False) -> None:
        """Stop."""
        self.told.append("restart" if restarting else "stop")

    def force(self) -> None:
        """Wait no more."""
        self.told.append("force")


class FakeReactor:
    """Does at once what is for later, except for timers, which it keeps."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[..., Any]]] = []

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:
        """Call."""
        call(*args)

    def callWhenRunning(self, call: Callable[..., Any], *args: Any) -> None:
        """Call."""
        call(*args)

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> None:
        """Keep a timer."""
        self.timers.append((delay, call))


class FakeListener:
    """A listening socket of Gunicorn's."""

    def __init__(self) -> None:
        self.sock = SimpleNamespace(detach=lambda: 42)


class Harness:
    """A worker which has been started, without a process and a reactor."""

    def __init__(self, app: Any = None, **given: Any) -> None:
        self.hooks: list[str] = []
        cfg = configured(
            **given,
            worker_int=lambda worker: self.hooks.append("worker_int"),
            worker_abort=lambda worker: self.hooks.append("worker_abort"),
        )
        wsgi = SimpleNamespace(wsgi=app)
        log = logging.getLogger("test")
        listeners, half = [FakeListener()], cfg.timeout / 2
        # Any, since what it holds here is no server.
        self.worker = cast(
            "Any", Worker(1, os.getppid(), listeners, wsgi, half, cfg, log)
        )
        self.server = FakeServer()
        self.reactor = FakeReactor()
        self.worker._server = self.server
        self.worker._reactor = self.reactor
        self.worker._settings = settings_of(cfg, {})


@pytest.fixture
def make() -> Iterator[Callable[..., Harness]]:
    """Make workers, and close their files in the end."""
    made: list[Harness] = []

    def make(app: Any = None, **given: Any) -> Harness:
        made.append(Harness(app, **given))
        return made[-1]

    yield make
    for harness in made:
        harness.worker.tmp.close()


Make = Callable[..., Harness]


def test_a_term_lets_requests_end(make: Make) -> None:
    """Once; what Gunicorn sends again changes nothing."""
    harness = make()
    harness.worker.handle_exit(signal.SIGTERM, None)
    harness.worker.handle_exit(signal.SIGTERM, None)

    assert ["stop"] == harness.server.told
    assert not harness.worker.alive


def test_a_quit_waits_for_nothing(make: Make) -> None:
    """Also after a TERM; Gunicorn's hook is called once."""
    harness = make()
    harness.worker.handle_quit(signal.SIGINT, None)
    harness.worker.handle_quit(signal.SIGQUIT, None)

    assert ["force", "stop", "force"] == harness.server.told
    assert ["worker_int"] == harness.hooks


def test_signals_while_the_application_is_imported(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TERM ends the worker as soon as it serves, a QUIT at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    harness = make()
    harness.worker._server = None
    harness.worker.handle_exit(signal.SIGTERM, None)
    assert not harness.worker.alive
    with pytest.raises(SystemExit):
        harness.worker.handle_quit(signal.SIGQUIT, None)

    harness.worker._server = harness.server
    harness.worker._beat()
    assert ["stop"] == harness.server.told


def test_a_blocked_worker_tells_where(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the stack, and the process ends whatever the application catches."""
    harness = make()
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    harness.worker.handle_abort(signal.SIGABRT, sys._getframe())

    assert [1] == statuses
    assert ["worker_abort"] == harness.hooks
    assert "test_a_blocked_worker_tells_where" in caplog.text


def test_a_beat_shows_gunicorn_that_the_loop_runs(make: Make) -> None:
    """Each second, or more often where Gunicorn has less patience."""
    harness = make(timeout=30)
    harness.worker._beat()
    short = make(timeout=1)
    short.worker._beat()
    never = make(timeout=0)
    never.worker._beat()

    assert [1.0] == [delay for delay, _ in harness.reactor.timers]
    assert [0.25] == [delay for delay, _ in short.reactor.timers]
    assert [1.0] == [delay for delay, _ in never.reactor.timers]
    assert [] == harness.server.told


def test_an_orphan_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Gunicorn was killed, its workers notice."""
    harness = make()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    harness.worker._beat()

    assert ["stop"] == harness.server.told


def test_a_changed_file_ends_the_worker(make: Make) -> None:
    """Gunicorn's reloader says so from a thread, by a byte in the pipe."""
    harness = make(reload=True)
    reading, writing = os.pipe()
    harness.worker.PIPE = [reading, writing]
    os.set_blocking(reading, False)
    harness.worker._woken()
    assert [] == harness.server.told

    harness.worker.alive = False
    os.write(writing, b"1")
    harness.worker._woken()
    os.close(reading)
    os.close(writing)

    assert ["force", "restart"] == harness.server.told


def test_requests_are_counted(make: Make) -> None:
    """The last one lets the worker end; those in flight don't do so again."""
    harness = make(max_requests=2)
    for _ in range(3):
        harness.worker.request_ended()

    assert ["restart"] == harness.server.told
    assert 3 == harness.worker.nr


def test_exchanges_and_websockets_count(make: Make) -> None:
    """A WebSocket counts when it begins, since it may last for days."""
    heard: list[str] = []

    class Log:
        def exchange_ended(self, exchange: Any) -> None:
            heard.append("exchange")

        def websocket_changed(self, exchange: Any, event: str) -> None:
            heard.append(event)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    harness = make(max_requests=100)
    server = daphne_like.gunicorn._Server(
        harness.worker, application, harness.worker._settings
    )
    exchange: Any = object()
    for log in (
        server._exchange_log(None),
        daphne_like.gunicorn._CountedExchanges(Log(), harness.worker.request_ended),
    ):
        assert log is not None
        log.exchange_ended(exchange)
        log.websocket_changed(exchange, "CONNECTING")
        log.websocket_changed(exchange, "DISCONNECT")

    assert 4 == harness.worker.nr
    assert ["exchange", "CONNECTING", "DISCONNECT"] == heard
    without = make()
    server = daphne_like.gunicorn._Server(
        without.worker, application, without.worker._settings
    )
    assert server._exchange_log(None) is None


# -- Its start ----------------------------------------------------------------------


def test_nothing_is_loaded_before_the_reactor(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applications may import it, and then it must be the right one."""
    order: list[str] = []
    monkeypatch.setattr(reactor, "install", order.append)
    monkeypatch.setattr(daphne_like.gunicorn, "_join_loggers", lambda: None)
    monkeypatch.setattr(
        gunicorn.workers.base.Worker, "init_process", lambda _: order.append("loaded")
    )
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    make(asgi_loop="asyncio").worker.init_process()

    assert ["asyncio", "loaded"] == order
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_worker_that_can_not_start_is_not_started_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Gunicorn stops at this exit status."""
    monkeypatch.setattr(daphne_like.gunicorn, "_join_loggers", lambda: None)
    monkeypatch.setenv("DAPHNE_LIKE_METRICS", "9100")
    with pytest.raises(SystemExit) as end:
        make().worker.init_process()

    assert 3 == end.value.code
    assert "can't share an address" in caplog.text


def test_a_reactor_from_before_the_fork_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers would take each other's events."""
    monkeypatch.setattr(daphne_like.gunicorn, "_join_loggers", lambda: None)
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", SimpleNamespace())
    with pytest.raises(SystemExit) as end:
        make(preload_app=True).worker.init_process()

    assert 3 == end.value.code
    assert "imports Twisted's reactor" in caplog.text


@pytest.mark.parametrize(
    ("failure", "status"), [(LifespanFailed("no database"), 3), (OSError("odd"), 1)]
)
def test_how_the_server_ends_is_how_the_worker_ends(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    status: int,
) -> None:
    """What would fail again stops Gunicorn; after what is odd it tries again."""
    served: list[Settings] = []

    class Failing(FakeServer):
        def __init__(self, worker: Any, app: Any, settings: Settings) -> None:
            super().__init__()
            served.append(settings)
            self.failure = failure

        def run(self) -> None:
            raise SystemExit(1)

    monkeypatch.setattr(daphne_like.gunicorn, "_Server", Failing)
    harness = make()
    harness.worker._application = None
    with pytest.raises(SystemExit) as end:
        harness.worker.run()

    assert status == end.value.code
    assert (42,) == served[0].bind.fd
    assert [0] == [delay for delay, _ in harness.reactor.timers]


def test_a_server_that_is_refused_ends_gunicorn(make: Make, tmp_path: Path) -> None:
    """A certificate which can't be read, for example."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate", "utf-8")
    harness = make(certfile=str(broken))
    harness.worker._application = None
    with pytest.raises(SystemExit) as end:
        harness.worker.run()

    assert 3 == end.value.code


def test_the_worker_begins_when_the_loop_runs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on it beats, and reads Gunicorn's pipe."""
    monkeypatch.setattr(reactor, "reap_children", lambda core: None)
    harness = make(reload=True)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    harness.worker.PIPE = [reading, writing]
    loop = SteppedLoop()
    loop.call_soon(harness.worker._begin)
    loop.settle()
    harness.worker.alive = False
    os.write(writing, b"1")
    loop.settle()
    loop.remove_reader(reading)
    loop.finish()
    os.close(reading)
    os.close(writing)

    assert [1.0] == [delay for delay, _ in harness.reactor.timers]
    assert ["force", "restart"] == harness.server.told


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})


def asked(application: Any) -> list[Any]:
    """Return what an application sends."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    loop = SteppedLoop()
    loop.do(application({"type": "http", "headers": []}, None, send))
    loop.finish()
    return sent


def test_the_application_is_loaded_by_gunicorn(make: Make) -> None:
    """It knows factories with arguments, and more; older ASGI works, too."""
    worker = make(lambda: hello).worker
    worker.load_wsgi()
    assert 200 == asked(worker._application)[0]["status"]

    older = make(
        lambda: lambda scope: lambda receive, send: hello(scope, receive, send)
    )
    older.worker.load_wsgi()
    assert 200 == asked(older.worker._application)[0]["status"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(3), SyntaxError()])
def test_in_development_an_error_is_shown(
    make: Make, error: BaseException, tmp_path: Path
) -> None:
    """And the files where it was made are watched, though they weren't imported."""
    if isinstance(error, SyntaxError):
        error.filename = str(tmp_path / "module.py")
        Path(error.filename).write_text("def", "utf-8")
    watched: list[str] = []

    def load() -> Any:
        raise error

    worker = make(load, reload=True).worker
    worker.reloader = SimpleNamespace(add_extra_file=watched.append)
    worker.load_wsgi()

    assert 500 == asked(worker._application)[0]["status"]
    assert __file__ in watched
    assert (getattr(error, "filename", None) or __file__) in watched


def test_in_development_an_application_is_served_too(make: Make) -> None:
    """Gunicorn's --reload changes nothing while all is well."""
    worker = make(lambda: hello, reload=True).worker
    worker.load_wsgi()

    assert 200 == asked(worker._application)[0]["status"]


def test_without_reload_an_error_is_gunicorns_to_tell(make: Make) -> None:
    """It ends with a traceback and a status of its own."""

    def load() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(load).worker.load_wsgi()


def test_gunicorns_log_is_the_log() -> None:
    """Handlers and levels of Gunicorn's two loggers hold for ours."""
    names = ("daphne_like", "daphne_like.access", "twisted")
    before = {
        name: (logging.getLogger(name).parent, logging.getLogger(name).level)
        for name in names
    }
    try:
        daphne_like.gunicorn._join_loggers()

        found = {name: logging.getLogger(name).parent for name in names}
    finally:
        for name, (parent, level) in before.items():
            logging.getLogger(name).parent = parent
            logging.getLogger(name).setLevel(level)
    assert [
        logging.getLogger("gunicorn.error"),
        logging.getLogger("gunicorn.access"),
        logging.getLogger("gunicorn.error"),
    ] == list(found.values())
