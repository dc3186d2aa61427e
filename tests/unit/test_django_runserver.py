"""Tests of ``daphne_like.management.commands.runserver``."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import django
import pytest
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.contrib.staticfiles.management.commands import runserver as static
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.management.commands import runserver as core
from django.core.servers.basehttp import WSGIServer
from django.utils import autoreload
from django_configured import django_with

import daphne_like
from daphne_like import reactor, server
from daphne_like.errors import LifespanFailed, ListenError, SettingsError

STATICFILES = "django.contrib.staticfiles"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing."""


class FakeServer:
    """
    A server that ends as soon as it serves.

    Attributes:
        made: The latest one.
        failure: What keeps it from starting.
    """

    made: FakeServer
    failure: Exception | None = None

    def __init__(self, application: Any, **keywords: Any) -> None:
        self.application = application
        self.keywords = keywords
        self.settings = keywords["settings"]
        self.listening_addresses = [("127.0.0.1", 12345)]
        FakeServer.made = self

    def run(self) -> None:
        """Serve for an instant."""
        if self.failure is not None:
            raise SystemExit(7)
        self.keywords["ready_callable"]()


Runserver = Callable[..., str]


def command_class() -> Any:
    """Import the command as Django does when exactly the present apps are there."""
    from daphne_like.management.commands import runserver

    return importlib.reload(runserver).Command


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make the module which ASGI_APPLICATION names."""
    module = ModuleType("a_project")
    module.application = application  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_project", module)
    return module


@pytest.fixture
def runserver(
    project: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runserver]:
    """Run the command, by default without reloader; return what it writes."""
    monkeypatch.setattr(reactor, "install", lambda loop: None)
    with django_with("daphne_like", STATICFILES):

        class Faked(command_class()):  # type: ignore[misc]
            server_cls = FakeServer

        def run(*arguments: str, options: Any = None, **settings: Any) -> str:
            settings.setdefault("ASGI_APPLICATION", "a_project.application")
            settings.setdefault("DEBUG", True)
            settings.setdefault("SETTINGS_MODULE", "a_project.settings")
            settings.setdefault("STATIC_URL", "static/")
            output = StringIO()
            with django_with("daphne_like", STATICFILES, **settings):
                given = {"use_reloader": False, **(options or {})}
                call_command(Faked(stdout=output), *arguments, **given)
            return output.getvalue()

        yield run
    monkeypatch.undo()
    FakeServer.failure = None


# -- What is served ------------------------------------------------------------------


def test_banner(runserver: Runserver) -> None:
    """It appears when the server listens, with the port that it really has."""
    shown = runserver("0", options={"skip_checks": False})

    assert shown.startswith(
        "Performing system checks...\n\n"
        "System check identified no issues (0 silenced).\n"
    )
    assert "system check" not in runserver("0").lower()
    assert f"Django version {django.get_version()}, using settings" in shown
    assert (
        f"Starting ASGI/Daphne version {daphne_like.__version__} (daphne_like) "
        "development server at http://127.0.0.1:12345/\n"
    ) in shown
    assert shown.endswith("Quit the server with CONTROL-C.\n")


def test_application_is_that_of_the_project(runserver: Runserver) -> None:
    """Static files are served in front of it, unless it is told otherwise."""
    runserver()
    assert application is FakeServer.made.application.application
    runserver("--nostatic")
    assert application is FakeServer.made.application
    runserver(DEBUG=False, ALLOWED_HOSTS=["*"])
    assert application is FakeServer.made.application
    runserver("--insecure", DEBUG=False, ALLOWED_HOSTS=["*"])
    assert application is FakeServer.made.application.application


def test_older_applications(runserver: Runserver, project: ModuleType) -> None:
    """An ASGI 2 application, which is called twice, works as well."""

    class Older:
        def __init__(self, scope: Any) -> None: ...
        async def __call__(self, receive: Any, send: Any) -> None: ...

    project.application = Older  # type: ignore[attr-defined]
    runserver("--nostatic")

    assert Older is not FakeServer.made.application


@pytest.mark.parametrize("missing", [None, ""])
def test_no_application(runserver: Runserver, missing: str | None) -> None:
    """The message names the setting."""
    with pytest.raises(CommandError, match="ASGI_APPLICATION is missing"):
        runserver(ASGI_APPLICATION=missing)


@pytest.mark.parametrize(
    "path", ["a_project", "a_project.misspelt", "no_such_project.application"]
)
def test_wrong_application(runserver: Runserver, path: str) -> None:
    """The message names the path and the reason."""
    with pytest.raises(ImproperlyConfigured, match=f"{path}' can't be imported: "):
        runserver(ASGI_APPLICATION=path)


def test_default_application_is_an_interface(project: ModuleType) -> None:
    """`get_default_application()` serves other programs, too."""
    from daphne_like.management.commands.runserver import get_default_application

    with django_with(ASGI_APPLICATION="a_project.application"):
        assert application is get_default_application()
    with (
        django_with(ASGI_APPLICATION=None),
        pytest.raises(ImproperlyConfigured, match="not set"),
    ):
        get_default_application()


def test_shutdown_message(runserver: Runserver) -> None:
    """Programs which run the command can say goodbye."""
    shown = runserver(options={"shutdown_message": "Goodbye"})

    assert shown.endswith("Goodbye\n")


# -- Settings ------------------------------------------------------------------------


def value(name: str) -> Any:
    """Return a setting of the server that ran."""
    return FakeServer.made.settings.value(name)


@pytest.mark.parametrize(
    ("arguments", "hosts", "port"),
    [
        ([], ("127.0.0.1",), 8000),
        (["7000"], ("127.0.0.1",), 7000),
        (["1.2.3.4:7000"], ("1.2.3.4",), 7000),
        (["0:7000"], ("0.0.0.0",), 7000),
        (["-6"], ("::1",), 8000),
        (["[::]:7000"], ("::",), 7000),
        (["example.org:7000"], ("example.org",), 7000),
    ],
)
def test_addresses(
    runserver: Runserver, arguments: list[str], hosts: tuple[str, ...], port: int
) -> None:
    """They are Django's, with Django's defaults."""
    runserver(*arguments)

    assert (hosts, port) == (value("bind"), value("port"))


def test_host_names_in_ipv6(
    runserver: Runserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -6 a host name stands for its IPv6 address only."""

    def getaddrinfo(host: str, port: None, family: int) -> list[Any]:
        if host != "example.org":
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        assert socket.AF_INET6 == family
        return [(family, 0, 0, "", ("2001:db8::1", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    shown = runserver("-6", "example.org:0")

    assert ("2001:db8::1",) == value("bind")
    assert "http://example.org:12345/" in shown
    with pytest.raises(CommandError, match=r"example\.com: not known"):
        runserver("-6", "example.com:7000")


def test_defaults_are_daphnes(runserver: Runserver) -> None:
    """What is not set is as in Daphne; a server for development ends quickly."""
    runserver()

    assert value("http_timeout") is None
    assert 5.0 == value("websocket_connect_timeout")
    assert 1048576 == value("websocket_max_message_size")
    assert 1048576 == value("websocket_max_frame_size")
    assert "" == value("root_path")
    assert value("timeout_graceful_shutdown") < 1


@pytest.mark.parametrize(
    ("name", "option", "django_setting"),
    [
        ("http_timeout", "--http_timeout", None),
        ("http_timeout", "--http-timeout", None),
        ("websocket_connect_timeout", "--websocket_handshake_timeout", None),
        (
            "websocket_max_message_size",
            "--websocket-max-message-size",
            "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE",
        ),
        (
            "websocket_max_frame_size",
            "--websocket-max-frame-size",
            "DAPHNE_WEBSOCKET_MAX_FRAME_SIZE",
        ),
    ],
)
def test_option_beats_setting_beats_default(
    runserver: Runserver, name: str, option: str, django_setting: str | None
) -> None:
    """Daphne's settings, ours over them, and options over both."""
    settings: dict[str, Any] = {}
    if django_setting is not None:
        settings[django_setting] = 11
        runserver(**settings)
        assert 11 == value(name)
    settings["DAPHNE_LIKE"] = {name: 12}
    runserver(**settings)
    assert 12 == value(name)
    runserver(option, "13", **settings)
    assert 13 == value(name)


def test_options_as_keywords(runserver: Runserver) -> None:
    """`call_command` gives them as values, under Daphne's names."""
    runserver(options={"http_timeout": 30, "websocket_handshake_timeout": 3})

    assert (30.0, 3.0) == (value("http_timeout"), value("websocket_connect_timeout"))


def test_script_name(runserver: Runserver) -> None:
    """FORCE_SCRIPT_NAME is the root path, unless our own setting says otherwise."""
    runserver(FORCE_SCRIPT_NAME="/a")
    assert "/a" == value("root_path")
    runserver(FORCE_SCRIPT_NAME="/a/b/")
    assert "/a/b" == value("root_path")
    runserver(FORCE_SCRIPT_NAME="/a", DAPHNE_LIKE={"root_path": "/b"})
    assert "/b" == value("root_path")


def test_certificates(runserver: Runserver) -> None:
    """With them, the banner says https."""
    shown = runserver("0", "--ssl-certfile", "a.pem", "--ssl-keyfile", "a.key")
    assert ("a.pem",) == value("ssl_certfile")
    assert ("a.key",) == value("ssl_keyfile")
    assert "https://127.0.0.1:12345/" in shown

    assert "https://" in runserver("--ssl-dev")
    assert value("ssl_dev")
    assert "http://" in runserver()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"http_timout": 3}, "http_timout is no setting; did you mean http_timeout"),
        ({"http_timeout": "soon"}, "Django's settings: http_timeout"),
        ({"port": 9000}, "port has no effect with runserver.*the argument"),
        ({"application": "a:b"}, "ASGI_APPLICATION"),
        ({"log_level": "info"}, "LOGGING"),
        ({"workers": 2}, "workers has no effect with runserver.*one process"),
        ({"reload_dir": ["."]}, "reload_dir has no effect.*its autoreloader"),
        ({"user": "nobody"}, "user has no effect with runserver.*whoever starts it"),
    ],
)
def test_wrong_settings(
    runserver: Runserver, settings: dict[str, Any], message: str
) -> None:
    """A misspelt name, a wrong value or a setting without effect is an error."""
    with pytest.raises(CommandError, match=message):
        runserver(DAPHNE_LIKE=settings)


def test_wrong_options(runserver: Runserver) -> None:
    """So is a wrong value of an option, a port too high, or two ways of TLS."""
    with pytest.raises(CommandError, match="http_timeout"):
        runserver("--http_timeout", "soon")
    with pytest.raises(CommandError, match="port"):
        runserver("127.0.0.1:70000")
    with pytest.raises(CommandError, match="exclude each other"):
        runserver("--ssl-dev", "--ssl-certfile", "a.pem")


# -- When it can't start -------------------------------------------------------------


def listen_error(number: int) -> ListenError:
    """Return what the server raises when the system refuses an address."""
    try:
        try:
            raise OSError(number, "refused")
        except OSError:
            raise ListenError("Listen failure: there: refused") from None
    except ListenError as error:
        return error


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (98, "That port is already in use."),
        (13, "You don't have permission to access that port."),
        (99, "That IP address can't be assigned to."),
        (5, "Listen failure: there: refused"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")
def test_address_that_cannot_be_had(
    runserver: Runserver, number: int, message: str
) -> None:
    """The reason is told in Django's words, or the system's."""
    FakeServer.failure = listen_error(number)

    with pytest.raises(CommandError, match=message):
        runserver()


def test_application_that_refuses_to_start(runserver: Runserver) -> None:
    """The server has logged it; the exit status tells it."""
    FakeServer.failure = LifespanFailed("no")

    with pytest.raises(SystemExit) as end:
        runserver()

    assert 7 == end.value.code


def test_a_reactor_that_does_not_fit(
    runserver: Runserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an app has installed already is an error before anything is served."""

    def install(loop: str) -> None:
        raise SettingsError(f"another reactor, not {loop}")

    monkeypatch.setattr(reactor, "install", install)
    with pytest.raises(CommandError, match="another reactor, not asyncio"):
        runserver(DAPHNE_LIKE={"loop": "asyncio"})


@pytest.mark.parametrize("child", [True, False])
def test_reactor_is_only_where_the_server_is(
    runserver: Runserver,
    reloaded: Reloaded,
    monkeypatch: pytest.MonkeyPatch,
    child: bool,
) -> None:
    """The parent of the autoreloader needs none, and starts quickly."""
    installed: list[str] = []
    monkeypatch.setattr(reactor, "install", installed.append)
    if child:
        monkeypatch.setenv("RUN_MAIN", "true")
    reloaded.status = None
    runserver(options={"use_reloader": True})

    assert (["auto"] if child else []) == installed


def test_server_that_cannot_be_made(
    runserver: Runserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that can't be read, for instance, is an error in one line."""

    def refuse(self: Any, *arguments: Any, **keywords: Any) -> None:
        raise SettingsError("ssl_certfile: there is none")

    monkeypatch.setattr(FakeServer, "__init__", refuse)

    with pytest.raises(CommandError, match="ssl_certfile: there is none"):
        runserver()


@pytest.mark.parametrize("status", [None, 7])
def test_threads_do_not_keep_the_program(
    monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """A view that blocks in one would; programs which call the command go on."""
    ends: list[object] = []

    def run(command: object, argv: list[str]) -> None:
        if status is not None:
            raise SystemExit(status)

    with django_with("daphne_like"):
        command = command_class()
    module = sys.modules[command.__module__]
    monkeypatch.setattr(module, "limit_threads", lambda end: ends.append(end.code))
    monkeypatch.setattr(command.__base__, "run_from_argv", run)
    with suppress(SystemExit) if status is None else pytest.raises(SystemExit):
        command().run_from_argv(["manage.py", "runserver"])

    assert [status or 0] == ends


# -- Under the autoreloader ----------------------------------------------------------


class Reloaded:
    """
    A process whose main thread is the autoreloader's.

    Attributes:
        status: With what the main thread ends.
        left: With what status the process ended at once.
        timers: What would end it later: after how long, and with what status.
        stops: With what keywords the server was stopped.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status: object = 3
        self.left: list[int] = []
        self.timers: list[tuple[float, object]] = []
        self.stops: list[dict[str, Any]] = []
        self._serving = threading.Event()
        self._stopped = threading.Event()
        monkeypatch.setattr(autoreload, "run_with_reloader", self._run)
        monkeypatch.setattr(os, "_exit", self._exit)
        monkeypatch.setattr(threading, "Timer", self._timer)
        monkeypatch.setattr(FakeServer, "run", self._serve)
        monkeypatch.setattr(FakeServer, "stop", self._stop, raising=False)

    def _run(self, function: Callable[..., None], **options: Any) -> None:
        def run() -> None:
            with suppress(SystemExit):
                function(None, **options)

        thread = threading.Thread(target=run)
        thread.start()
        if FakeServer.failure is not None:
            thread.join(10)
            return
        assert self._serving.wait(10)
        if self.status is not None:
            raise SystemExit(self.status)

    def _serve(self) -> None:
        if FakeServer.failure is not None:
            raise SystemExit(7)
        FakeServer.made.keywords["ready_callable"]()
        self._serving.set()
        assert self._stopped.wait(10)

    def _stop(self, **keywords: Any) -> None:
        self.stops.append(keywords)
        self._stopped.set()

    def _exit(self, status: int) -> None:
        self.left.append(status)
        raise SystemExit(status)

    def _timer(self, after: float, function: object, arguments: list[Any]) -> Any:
        assert function == os._exit
        self.timers.append((after, arguments[0]))
        return SimpleNamespace(start=lambda: None)


@pytest.fixture
def reloaded(monkeypatch: pytest.MonkeyPatch) -> Reloaded:
    """Replace the autoreloader, and what ends the process."""
    return Reloaded(monkeypatch)


@pytest.mark.parametrize(
    ("status", "restarting"), [(3, True), (0, False), ("an error", False)]
)
def test_server_stops_before_its_process(
    runserver: Runserver, reloaded: Reloaded, status: object, restarting: bool
) -> None:
    """WebSockets hear whether another process comes; nothing can hinder the end."""
    reloaded.status = status
    with pytest.raises(SystemExit) as end:
        runserver(options={"use_reloader": True})

    assert status == end.value.code
    assert [{"restarting": restarting}] == reloaded.stops
    assert not FakeServer.made.keywords["signal_handlers"]
    ((after, exit_status),) = reloaded.timers
    assert after < 3
    assert (status if isinstance(status, int) else 1) == exit_status


def test_ctrl_c_stops_the_server(runserver: Runserver, reloaded: Reloaded) -> None:
    """The autoreloader returns then, as if all were well."""
    reloaded.status = None
    runserver(options={"use_reloader": True})

    assert [{"restarting": False}] == reloaded.stops


def test_port_in_use_ends_the_process(
    runserver: Runserver, reloaded: Reloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread ends the whole process (daphne#577)."""
    errors = StringIO()
    FakeServer.failure = ListenError("Listen failure: there: refused")
    runserver(options={"use_reloader": True, "stderr": errors})

    assert [1] == reloaded.left
    assert "Error: Listen failure: there: refused\n" == errors.getvalue()
    assert [] == reloaded.stops


# -- The log -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "level", "style"),
    [
        (101, logging.INFO, "HTTP_INFO"),
        (200, logging.INFO, "HTTP_SUCCESS"),
        (302, logging.INFO, "HTTP_REDIRECT"),
        (304, logging.INFO, "HTTP_NOT_MODIFIED"),
        (400, logging.WARNING, "HTTP_BAD_REQUEST"),
        (404, logging.WARNING, "HTTP_NOT_FOUND"),
        (503, logging.ERROR, "HTTP_SERVER_ERROR"),
    ],
)
def test_requests(
    runserver: Runserver,
    caplog: pytest.LogCaptureFixture,
    status: int,
    level: int,
    style: str,
) -> None:
    """Level and color tell the class of the status; the text is Daphne's."""
    caplog.set_level(logging.INFO, "django.channels.server")
    runserver("--force-color")
    log_action = FakeServer.made.keywords["action_logger"]
    details = {
        "path": "/a?%s",
        "status": status,
        "method": "GET",
        "client": "127.0.0.1:50778",
        "time_taken": 0.0123,
        "size": 5,
    }
    log_action("http", "complete", details)

    (record,) = caplog.records
    text = f"HTTP GET /a?%s {status} [0.01, 127.0.0.1:50778]"
    assert getattr(log_action.__self__.style, style)(text) == record.getMessage()
    assert (level, ()) == (record.levelno, record.args)


def test_websockets(runserver: Runserver, caplog: pytest.LogCaptureFixture) -> None:
    """Each step is a line; what else may come is none."""
    caplog.set_level(logging.INFO, "django.channels.server")
    runserver()
    log_action = FakeServer.made.keywords["action_logger"]
    details = {"path": "/a", "client": "127.0.0.1:50778"}
    for action in (
        *("connecting", "connected", "rejected", "disconnected"),
        "something new",
    ):
        log_action("websocket", action, details)
    log_action("http", "something new", details)

    assert [
        f"WebSocket {word} /a [127.0.0.1:50778]"
        for word in ("HANDSHAKING", "CONNECT", "REJECT", "DISCONNECT")
    ] == [record.getMessage() for record in caplog.records]
    assert {logging.INFO} == {record.levelno for record in caplog.records}


# -- The classes below and above -----------------------------------------------------


def test_server_class_is_ours_and_comes_late() -> None:
    """It can be looked at, and replaced in a subclass."""
    with django_with("daphne_like"):
        command = command_class()

    assert server.Server is command.server_cls is command().server_cls
    assert "http" == command.protocol


@pytest.mark.parametrize(
    ("apps", "base"),
    [
        (["daphne_like"], core),
        (["daphne_like", "django.contrib.contenttypes"], core),
        (["daphne_like", "django.contrib.contenttypes", STATICFILES], static),
        # A project of tests, which doesn't name the app.
        (["django.contrib.contenttypes"], core),
    ],
)
def test_base_is_what_would_run_without_us(apps: list[str], base: ModuleType) -> None:
    """Its options are ours, too."""
    with django_with(*apps):
        assert base.Command is command_class().__base__


def test_another_daphne_is_no_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real one installed as well, ours takes its place."""
    commands = tmp_path / "daphne" / "management" / "commands"
    commands.mkdir(parents=True)
    (tmp_path / "daphne" / "__init__.py").touch()
    (commands / "runserver.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "daphne"]:
        monkeypatch.delitem(sys.modules, name)
    with django_with("daphne_like", "daphne", STATICFILES):
        assert static.Command is command_class().__base__
    del sys.modules["daphne"]


def test_noasgi_is_the_base(
    runserver: Runserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's own server gets the WSGI application behind static files."""
    runs: list[dict[str, Any]] = []

    def run(*arguments: Any, **keywords: Any) -> None:
        runs.append({"handler": arguments[2], **keywords})

    monkeypatch.setattr(core, "run", run)
    runserver(options={"use_asgi": False}, ASGI_APPLICATION=None, ROOT_URLCONF="")

    (given,) = runs
    assert WSGIServer is given["server_cls"]
    assert isinstance(given["handler"], StaticFilesHandler)
