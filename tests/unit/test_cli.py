"""Tests of ``daphne_like.cli``."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import daphne_like
from daphne_like.cli import CommandLineInterface
from daphne_like.errors import (
    ApplicationLoadError,
    LifespanFailed,
    ListenError,
    SettingsError,
)
from daphne_like.observability import logs
from daphne_like.settings import KNOWN_SETTINGS, LogSettings, Settings


class FakeServer(ModuleType):
    """Stands for ``daphne_like.server``; tells what it was asked to run."""

    def __init__(self) -> None:
        super().__init__("daphne_like.server")
        self.events: list[str] = []
        self.settings = Settings()
        self.outcome: Callable[[], int] = lambda: 0

    def configure_logging(self, settings: LogSettings) -> None:
        """Note the call, and leave logging alone."""
        self.events.append("logging configured")

    def run(
        self,
        settings: Settings,
        load_application: Callable[[], Any],
        make_server: Callable[[Any, Settings], Any],
    ) -> None:
        """Note the call, and do what the test has arranged."""
        self.settings = settings
        self.load_application = load_application
        self.make_server = make_server
        self.events.append("server run")
        if status := self.outcome():
            sys.exit(status)


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Nothing here starts a server, or sees this machine's environment."""
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, "daphne_like.server", fake)
    monkeypatch.setattr(daphne_like, "server", fake, raising=False)
    monkeypatch.setattr(logs, "configure_logging", fake.configure_logging)
    for definition in KNOWN_SETTINGS.values():
        monkeypatch.delenv(definition.environment_variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return fake


def run(*arguments: str) -> int:
    """Run the program, and return its exit status."""
    try:
        return CommandLineInterface().run(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def test_options_become_settings(server: FakeServer) -> None:
    """A command line with all kinds of options means what it says."""
    status = run(
        *("-b", "::1", "--host", "127.0.0.1", "-p", "0", "-u", "/run/x.sock"),
        *("--fd", "3", "-e", "tcp:1", "-e", "tcp:2", "--uds-permissions", "600"),
        *("-t", "30", "--timeout-send", "500ms", "-v", "2", "--header", "a: b"),
        *("--proxy-headers", "--proxy-headers-host", "X-Real-IP"),
        *("--forwarded-allow-ips", "10.0.0.0/8,unix", "--no-date-header"),
        *("--no-server-name", "--no-access-log", "--lifespan", "OFF", "main:app"),
    )

    assert status == 0
    assert server.settings == Settings.of(
        bind=("::1", "127.0.0.1"),
        port=0,
        unix_socket="/run/x.sock",
        fd=3,
        endpoint=("tcp:1", "tcp:2"),
        uds_permissions=0o600,
        http_timeout=30,
        timeout_send=0.5,
        verbosity=2,
        header="a:b",
        proxy_headers=True,
        proxy_headers_host="X-Real-IP",
        forwarded_allow_ips=("10.0.0.0/8", "unix"),
        date_header=False,
        server_name="",
        access_log="",
        lifespan="off",
        application="main:app",
    )


def test_without_arguments_the_defaults_are_served(server: FakeServer) -> None:
    """``daphne-like`` alone runs, and logging is configured before."""
    assert run() == 0
    assert server.settings == Settings()
    assert ["logging configured", "server run"] == server.events


@pytest.mark.parametrize(
    "arguments",
    [("main:app", "-p", "1"), ("-p", "1", "main:app"), ("-p", "1", "--", "main:app")],
)
def test_the_application_may_stand_anywhere(
    server: FakeServer, arguments: tuple[str, ...]
) -> None:
    """The application may come before or after the options."""
    assert run(*arguments) == 0
    assert server.settings == Settings.of(application="main:app", port=1)


def test_the_command_line_wins_over_environment_and_file(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source overrides the farther one, also with the opposite of a flag."""
    file = tmp_path / "x.toml"
    file.write_text("port = 3\nbacklog = 3\nverbosity = 3\nfactory = true\n", "utf-8")
    monkeypatch.setenv("DAPHNE_LIKE_PORT", "2")
    monkeypatch.setenv("DAPHNE_LIKE_BACKLOG", "2")

    assert run("--config", str(file), "-p", "1", "--no-factory") == 0
    assert server.settings == Settings.of(port=1, backlog=2, verbosity=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "80"], "unrecognized argument --prot; did you mean --port?"),
        (["--prot=80"], "unrecognized argument --prot=80; did you mean --port?"),
        (["--http_timeout", "5"], "--http_timeout; did you mean --http-timeout?"),
        (["--no-date"], "unrecognized argument --no-date; did you mean"),
        (["--time", "5"], "unrecognized argument --time"),
        (["--confg", "x"], "unrecognized argument --confg; did you mean --config?"),
        (["--prot", "80", "main:app"], "unrecognized argument --prot; did you mean"),
        (["main:app", "more"], "unrecognized argument more"),
        (["-v", "7"], "argument -v/--verbosity: must be from 0 to 3, not 7"),
        (["-v", "x"], "argument -v/--verbosity: must be a whole number, not 'x'"),
        (["-v"], "argument -v/--verbosity: expected one argument"),
        (["-p", "70000"], "argument -p/--port: must be from 0 to 65535, not 70000"),
        (["-t", "-1"], "must be from 0 to 1000000000 seconds, not -1"),
        (["--loop", "uvlop"], "not 'uvlop'; did you mean uvloop?"),
        (["--header", "x"], "argument --header: must be NAME:VALUE, not 'x'"),
        (["--config", "/no/such.toml"], "/no/such.toml: No such file or directory"),
        (
            ["--proxy-headers-host", "X-Real-IP"],
            "--proxy-headers-host has no effect without --proxy-headers",
        ),
        (
            ["--proxy-headers-port", "X-Forwarded-Port"],
            "--proxy-headers-port has no effect without --proxy-headers",
        ),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Nothing is started; one line says what is wrong, the exit status is 2."""
    assert run(*arguments) == 2
    assert server.events == []
    out, err = capsys.readouterr()
    usage, error = err.splitlines()
    assert out == ""
    assert usage == "usage: daphne-like [option ...] [module:attribute]"
    assert error.startswith("daphne-like: error: ")
    assert message in error


def test_a_wrong_environment_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt variable is not silently ignored."""
    monkeypatch.setenv("DAPHNE_LIKE_PROT", "80")

    assert run() == 2
    assert "did you mean DAPHNE_LIKE_PORT?" in capsys.readouterr().err


def test_shown_settings_can_be_used_as_a_file(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--show-config > x.toml`` and ``--config x.toml`` serve the same, once."""
    options = ["-p", "81", "--proxy-headers", "--log-fmt", '%(message)s "\t"']
    assert run(*options, "--show-config") == 0
    assert server.events == []
    shown = capsys.readouterr().out
    file = tmp_path / "x.toml"
    file.write_text(shown, "utf-8")

    assert re.search(r"^port = 81 +# command line$", shown, re.MULTILINE)
    assert run("--config", str(file)) == 0
    again = server.settings
    assert run(*options) == 0
    assert again == server.settings


def test_the_help_tells_each_option_and_its_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every setting can be found in ``--help``, in lines that fit the terminal."""
    assert run("--help") == 0
    shown = capsys.readouterr().out
    words = shown.split()

    for definition in KNOWN_SETTINGS.values():
        for option in definition.options:
            assert option in words or f"{option}," in words
        assert f"{definition.environment_variable}]" in words or (
            f"[{definition.environment_variable}]" in words
        )
    assert "  -p, --port PORT " in shown
    assert "[default: 2048; DAPHNE_LIKE_BACKLOG]" in shown
    assert "%(asctime)-15s" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("versions", "loop"),
    [
        ({"Twisted": "26.10.0", "uvloop": "0.23.0"}, "uvloop 0.23.0"),
        ({"Twisted": "26.10.0"}, "asyncio"),
    ],
)
def test_the_version_names_what_matters(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str],
    loop: str,
) -> None:
    """A bug report can begin with the output of ``--version``."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)

    assert run("--version") == 0
    assert capsys.readouterr().out == (
        f"daphne-like {daphne_like.__version__} "
        f"({platform.python_implementation()} {platform.python_version()}, "
        f"Twisted 26.10.0, loop {loop})\n"
    )


@pytest.mark.parametrize("status", [0, 1])
def test_the_exit_status_is_the_servers(server: FakeServer, status: int) -> None:
    """What the server ends with is what the process ends with."""
    server.outcome = lambda: status

    assert status == run()


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (ListenError("Listen failure: in use"), 1, ["Listen failure: in use"]),
        (LifespanFailed("no database"), 3, ["no database"]),
    ],
)
def test_a_failed_start_is_one_critical_line(
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    lines: list[str],
) -> None:
    """The line says what happened; the exit status tells the service manager."""

    def fail() -> int:
        raise error

    server.outcome = fail

    assert status == run()
    assert lines == [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "CRITICAL"
    ]


def test_a_wrong_endpoint_string_is_a_usage_error(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What only the server finds wrong in the settings ends with status 2 as well."""

    def fail() -> int:
        raise SettingsError("endpoint 'x' is unknown")

    server.outcome = fail

    assert run("-e", "x") == 2
    assert "daphne-like: error: endpoint 'x' is unknown\n" in capsys.readouterr().err


def test_an_error_of_the_application_is_shown(
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user sees a traceback of the application's code only, and status 1."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_application.py").write_text("1 / 0\n", "utf-8")

    def load() -> int:
        server.load_application()
        return 0

    server.outcome = load

    assert run("broken_application:app", "--app-dir", str(tmp_path)) == 1
    shown = capsys.readouterr().err
    assert "broken_application.py" in shown
    assert "daphne_like" not in shown
    assert "importlib" not in shown
    assert shown.endswith(
        "ZeroDivisionError was raised while importing broken_application:app\n"
    )


def test_a_frozen_program_can_load_its_application(server: FakeServer) -> None:
    """A subclass finds the application where only it knows."""

    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    class Frozen(CommandLineInterface):
        def load_asgi_app(self, asgi_app_path: str) -> object:
            assert asgi_app_path == "inside:app"
            return application

    assert Frozen().run(["inside:app"]) == 0
    assert server.load_application() is application


def test_a_subclass_can_bring_its_own_server(server: FakeServer) -> None:
    """As with Daphne, another class serves, and the instance can be reached."""

    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    class OwnServer:
        def __init__(self, application: object, *, settings: Settings) -> None:
            self.application = application
            self.settings = settings

    class Extended(CommandLineInterface):
        server_class: Any = OwnServer

        def load_asgi_app(self, asgi_app_path: str) -> object:
            server.events.append("application loaded")
            return application

    def make() -> int:
        server.make_server(server.load_application(), server.settings)
        return 0

    server.outcome = make
    program = Extended()

    assert program.run(["x:y", "-p", "1"]) == 0
    assert server.events == [
        "logging configured",
        "server run",
        "application loaded",
    ]
    made: Any = program.server
    assert isinstance(made, OwnServer)
    assert made.application is application
    assert made.settings.bind.port == 1


def test_a_server_of_daphnes_kind_gets_daphnes_keywords(server: FakeServer) -> None:
    """With --daphne-compat its class is called as Daphne calls it."""
    given: dict[str, Any] = {}

    class DaphnesServer:
        def __init__(self, **keywords: Any) -> None:
            given.update(keywords)

    class Extended(CommandLineInterface):
        server_class: Any = DaphnesServer
        setting_defaults: ClassVar[dict[str, object]] = {"daphne_compat": True}

        def load_asgi_app(self, asgi_app_path: str) -> object:
            return "no application at all"

    def make() -> int:
        server.make_server(server.load_application(), server.settings)
        return 0

    server.outcome = make
    program = Extended()

    assert program.run(["x:y", "-p", "0", "-e", "tcp:1", "-t", "9"]) == 0
    assert ["tcp:1", "tcp:port=0:interface=127.0.0.1"] == given["endpoints"]
    assert 9.0 == given["http_timeout"]
    assert callable(given["application"])
    assert isinstance(program.server, DaphnesServer)


def test_a_server_of_daphnes_kind_gets_settings_with_certificates(
    server: FakeServer,
) -> None:
    """There are no keywords of Daphne's for them."""
    given: list[Any] = []

    class Extended(CommandLineInterface):
        server_class: Any = lambda self, application, settings: given.append(settings)

        def load_asgi_app(self, asgi_app_path: str) -> object:
            return application

    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    def make() -> int:
        server.make_server(server.load_application(), server.settings)
        return 0

    server.outcome = make
    assert Extended().run(["x:y", "--daphne-compat", "--ssl-certfile", "x"]) == 0
    assert [server.settings] == given


def test_imports_that_fail_are_raised_as_they_are_with_daphne(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs around Daphne's command line catch what imports raise."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "failing_application.py").write_text("1 / 0\n", "utf-8")

    def load() -> int:
        server.load_application()
        return 0

    server.outcome = load
    arguments = ["failing_application:app", "--app-dir", str(tmp_path)]
    with pytest.raises(ZeroDivisionError):
        run(*arguments, "--daphne-compat")
    assert run(*arguments) == 1
    assert run("no_such_module:app", "--daphne-compat") == 1


@pytest.mark.parametrize("option", ["--proxy-headers-host", "--proxy-headers-port"])
def test_a_header_without_a_proxy_is_daphnes_error(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """With --daphne-compat argparse's own error is raised, which names the option."""
    with pytest.raises(argparse.ArgumentError) as raised:
        run("x:y", "--daphne-compat", option, "X-Other")
    assert option == raised.value.argument_name

    monkeypatch.setenv("DAPHNE_LIKE_PROXY_HEADERS", "true")
    assert run("x:y", "--daphne-compat", option, "X-Other") == 0
    assert "X-Other" in (
        server.settings.proxy.proxy_headers_host,
        server.settings.proxy.proxy_headers_port,
    )


def test_defaults_can_be_set_by_daphnes_names(server: FakeServer) -> None:
    """A program that extends the parser knows where Daphne's keeps its options."""
    program = CommandLineInterface()
    program.parser.set_defaults(
        host="::1", port=9, file_descriptor=4, socket_strings=["tcp:1"]
    )

    assert program.run(["-u", "/x"]) == 0
    assert server.settings == Settings.of(
        bind="::1", port=9, fd=4, endpoint="tcp:1", unix_socket="/x"
    )


def test_a_subclass_can_have_other_defaults(server: FakeServer) -> None:
    """They count only where nothing else is said."""

    class Extended(CommandLineInterface):
        setting_defaults: ClassVar[dict[str, object]] = {"port": 1, "backlog": 2}

    assert Extended().run(["-p", "3"]) == 0
    assert server.settings == Settings.of(port=3, backlog=2)


def test_the_hook_returns_what_the_path_names() -> None:
    """A program may call the hook itself, for any object."""
    found = CommandLineInterface().load_asgi_app("daphne_like:__version__")

    assert daphne_like.__version__ == found


def test_a_subclass_can_add_options_of_its_own(server: FakeServer) -> None:
    """Daphne's attributes are there for those who extend the program."""

    class Extended(CommandLineInterface):
        def __init__(self) -> None:
            super().__init__()
            self.parser.add_argument("--flavor")

    program = Extended()

    assert program.server is None
    assert program.arg_proxy_host.option_strings == ["--proxy-headers-host"]
    assert program.arg_proxy_port.option_strings == ["--proxy-headers-port"]
    assert program.run(["--flavor", "sweet", "-p", "1"]) == 0
    assert server.settings == Settings.of(port=1)


def test_the_program_ends_with_the_exit_status(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console script passes the arguments on, and the status back."""
    monkeypatch.setattr(sys, "argv", ["daphne-like", "-p", "5"])
    server.outcome = lambda: 3

    with pytest.raises(SystemExit) as raised:
        CommandLineInterface.entrypoint()

    assert raised.value.code == 3
    assert server.settings.bind.port == 5


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (None, 0), ("no", 1)])
def test_threads_do_not_keep_the_program(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: object,
    status: int,
) -> None:
    """A thread of the application that doesn't end is named, and left behind."""
    left: list[int] = []
    timers: list[threading.Timer] = []
    monkeypatch.setattr(os, "_exit", left.append)

    def start(timer: threading.Timer) -> None:
        timers.append(timer)

    monkeypatch.setattr(threading.Timer, "start", start)
    monkeypatch.setattr(sys, "argv", ["daphne-like"])
    release = threading.Event()
    worker = threading.Thread(target=release.wait, name="slow-view")

    def exit_with_a_thread() -> int:
        worker.start()
        raise SystemExit(code)

    server.outcome = exit_with_a_thread
    try:
        with pytest.raises(SystemExit):
            CommandLineInterface.entrypoint()
        [timer] = timers
        timer.function()
    finally:
        release.set()
        worker.join()
    assert timer.daemon
    assert [status] == left
    assert capsys.readouterr().err.endswith("threads don't end: slow-view\n")

    timer.function()
    assert [status] == left


def test_errors_of_loading_have_their_status(server: FakeServer) -> None:
    """An application that can't be found ends with the status of its error."""

    def fail() -> int:
        raise ApplicationLoadError("module 'x' not found")

    server.outcome = fail

    assert run("x:y") == ApplicationLoadError.exit_status


def test_the_command_line_starts_fast() -> None:
    """Usage errors and help don't wait for Twisted, an event loop or TOML."""
    heavy = ("asgiref", "asyncio", "difflib", "email", "logging", "socket", "tomli")
    script = (
        "import sys; before = set(sys.modules); import daphne_like.cli;"
        "print(*set(sys.modules) - before)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        cwd=Path(daphne_like.__file__).parents[1],
        text=True,
    )

    loaded = finished.stdout.split()
    assert "daphne_like.settings" in loaded
    assert [] == [
        name for name in loaded if name.startswith((*heavy, "twisted", "uvloop"))
    ]


def test_the_package_can_be_run_as_a_module() -> None:
    """``python -m daphne_like`` is the same program."""
    finished = subprocess.run(
        [sys.executable, "-m", "daphne_like", "--no-such-option"],
        capture_output=True,
        check=False,
        cwd=Path(daphne_like.__file__).parents[1],
        text=True,
    )

    assert finished.returncode == 2
    assert "unrecognized argument --no-such-option" in finished.stderr
