"""Tests of ``daphne_like.twistd``."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import IService
from twisted.python.usage import UsageError
from zope.interface.verify import verifyObject

from daphne_like import process, reactor, twistd
from daphne_like.errors import LifespanFailed, SettingsError
from daphne_like.observability.logs import TwistedHandler
from daphne_like.server import Server
from daphne_like.settings import Settings
from daphne_like.twistd import Options, makeService

APPLICATION = "daphne_like.demo:application"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Install no reactor; note which one it would have been."""
    loops: list[str] = []
    monkeypatch.setattr(reactor, "install", loops.append)
    return loops


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configure no logging; note who would have got the records."""
    handlers: list[Any] = []
    monkeypatch.setattr(
        twistd, "configure_logging", lambda settings, handler: handlers.append(handler)
    )
    return handlers


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let applications put their folder on the path for this test only."""
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", before)
    return iter(())


def options(*arguments: str, **of_twistd: object) -> Options:
    """Parse arguments behind ``twistd daphne-like``."""
    parsed = Options()
    parsed.parent = of_twistd  # type: ignore[assignment]
    parsed.parseOptions(arguments)
    return parsed


Make = Callable[..., Any]


@pytest.fixture
def make(configured: list[Any], path: object) -> Iterator[Make]:
    """Make services; at the end, close what they have bound."""
    made = []

    def make(*arguments: str, **of_twistd: object) -> Any:
        service: Any = makeService(options(*arguments, **of_twistd))
        made.append(service)
        return service

    yield make
    for service in made:
        service._server.stopService()


# -- Options -----------------------------------------------------------------


def test_the_options_are_those_of_the_command_line(installed: list[str]) -> None:
    """Each of `daphne-like`, by the same definition; the reactor follows at once."""
    settings = options("-p", "8001", "--loop", "asyncio", "main:app").settings

    assert 8001 == settings.bind.port
    assert "main:app" == settings.app.application
    assert ["asyncio"] == installed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-p", "x"], "argument -p/--port: must be a whole number, not 'x'"),
        (["--prot", "1"], "unrecognized argument --prot; did you mean --port?"),
        (["--proxy-headers-host", "x"], "has no effect without --proxy-headers"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: No such file"),
    ],
)
def test_wrong_options_are_usage_errors(
    arguments: list[str], text: str, installed: list[str]
) -> None:
    """They are shown as errors in twistd's own are, with our usage before."""
    with pytest.raises(UsageError) as raised:
        options(*arguments)

    assert text in str(raised.value)
    assert [] == installed
    usage = Options().getUsage()
    assert "usage: twistd daphne-like [option ...] [module:attribute]\n" == usage


def test_workers_are_usage_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twistd is one process; a number for all programs of a platform is ignored."""
    with pytest.raises(UsageError, match="twistd serves in one process"):
        options("--workers", "2")
    monkeypatch.setenv("WEB_CONCURRENCY", "4")

    assert not options(APPLICATION).settings.workers.supervised


def test_another_reactor_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes as twistd shows them."""

    def install(loop: str) -> None:
        raise SettingsError("the reactor EPollReactor is installed already")

    monkeypatch.setattr(reactor, "install", install)
    with pytest.raises(UsageError, match="EPollReactor is installed"):
        options()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--help", "--websocket_connect_timeout"),
        ("--version", "twistd daphne-like "),
        ("--show-config", 'access_log_format = "daphne"'),
    ],
)
def test_questions_are_answered(
    option: str, text: str, capsys: pytest.CaptureFixture[str], installed: list[str]
) -> None:
    """Help, version and settings are shown as by `daphne-like`, and all is over."""
    with pytest.raises(SystemExit) as raised:
        options(option)

    assert not raised.value.code
    assert text in capsys.readouterr().out
    assert [] == installed


# -- The service -------------------------------------------------------------


def test_the_service_has_its_address_from_the_beginning(
    make: Make, configured: list[Any]
) -> None:
    """Bound while there is a terminal and the privilege, it doesn't listen yet."""
    service = make("-u", "s")

    assert verifyObject(IService, service)
    assert Path("s").is_socket()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect("s")
    [handler] = configured
    assert isinstance(handler, TwistedHandler)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["nowhere:app"], 1, "module 'nowhere' not found\n"),
        (["-u", "taken", APPLICATION], 1, "Listen failure: "),
        (["-e", "tcp:x", APPLICATION], 2, "daphne-like: endpoint 'tcp:x'"),
        (["--user", "web"], 2, "user: twistd does that; use twistd --uid\n"),
        (["--group", "web"], 2, "group: twistd does that; use twistd --gid\n"),
        (["--umask", "077"], 2, "umask: twistd does that; use twistd --umask\n"),
        (["--chdir", "/"], 2, "chdir: twistd does that; use twistd --rundir\n"),
        (["--pid-file", "p"], 2, "pid_file: twistd does that; use twistd --pidfile\n"),
    ],
)
def test_what_prevents_the_start_is_one_line(
    arguments: list[str],
    status: int,
    text: str,
    make: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr, with an exit status, before twistd becomes a daemon."""
    Path("taken").write_text("no socket", "utf-8")
    with pytest.raises(SystemExit) as raised:
        make(*arguments)

    assert status == raised.value.code
    error = capsys.readouterr().err
    assert text in error
    assert 1 == error.count("\n")


def test_no_daemon_where_event_loops_do_not_survive_a_fork(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On macOS and BSD that is one clear line, and `-n` works."""
    monkeypatch.setattr(select, "kqueue", object, raising=False)
    with pytest.raises(SystemExit):
        make("-u", "s", APPLICATION, nodaemon=0)
    assert "use twistd -n\n" in capsys.readouterr().err

    make("-u", "s", APPLICATION, nodaemon=1)
    make("-u", "t", APPLICATION)
    monkeypatch.delattr(select, "kqueue")
    make("-u", "u", APPLICATION, nodaemon=0)


def test_paths_mean_what_they_mean_at_the_start(make: Make, tmp_path: Path) -> None:
    """The directory may be another one when files are opened."""
    settings = make(
        *("-u", "s", "--access-log", "access.log"),
        *("--root-path", "here", "--control-socket", "c"),
        APPLICATION,
    )._server.settings

    assert (str(tmp_path / "s"),) == settings.bind.unix_socket
    assert str(tmp_path / "access.log") == settings.log.access_log
    assert str(tmp_path / "c") == settings.operations.control_socket
    assert "here" == settings.app.root_path


def test_paths_in_another_root_are_left_alone(make: Make) -> None:
    """With `--chroot` nobody knows yet what they will mean."""
    settings = make(
        "-u", "s", "--access-log", "a.log", APPLICATION, chroot="/srv"
    )._server.settings

    assert not Path("s").exists()
    assert (("s",), "a.log") == (settings.bind.unix_socket, settings.log.access_log)


def test_in_another_root_addresses_are_bound_later(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """When twistd has changed the root, and not given up privileges yet."""
    service = make("-u", "s", APPLICATION, chroot="/srv")
    service.privilegedStartService()
    assert Path("s").is_socket()

    Path("taken").write_text("no socket", "utf-8")
    service = make("-u", "taken", APPLICATION, chroot="/srv")
    with pytest.raises(SystemExit) as raised:
        service.privilegedStartService()
    assert 1 == raised.value.code
    assert "Listen failure: taken" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["-", "logger", ""])
def test_targets_which_are_no_files(target: str, make: Make) -> None:
    """Standard output stays that."""
    settings = make("-u", "s", "--access-log", target, APPLICATION)._server.settings

    assert target == settings.log.access_log


def test_certificates_have_absolute_paths(tmp_path: Path) -> None:
    """They are read again when they change."""
    settings = Settings.of(
        ssl_certfile="cert.pem",
        ssl_keyfile="key.pem",
        ssl_ca_certs="/ca.pem",
        ssl_cert_reqs="required",
    )
    tls = twistd._with_absolute_paths(settings).tls

    here = Path.cwd()
    assert (str(here / "cert.pem"),) == tls.ssl_certfile
    assert (str(here / "key.pem"),) == tls.ssl_keyfile
    assert "/ca.pem" == tls.ssl_ca_certs


@pytest.mark.parametrize("option", ["chroot", "uid", "gid"])
def test_late_imports_come_early_where_they_would_fail(
    option: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another root, or as another user, modules may be out of reach."""
    imported: list[str] = []
    import_module = importlib.import_module

    def note(name: str) -> Any:
        imported.append(name)
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", note)
    make("-u", "s", APPLICATION)
    assert "daphne_like.protocols.http2" not in imported

    make("-u", "t", APPLICATION, **{option: 0})
    assert "daphne_like.protocols.http2" in imported


def test_the_service_joins_the_reactor(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts and ends with that, and sees to the exit status."""
    joined: list[Any] = []
    registered: list[Callable[[], None]] = []
    monkeypatch.setattr(
        process,
        "join_reactor",
        lambda *arguments, **more: joined.append((arguments, more)),
    )
    monkeypatch.setattr(atexit, "register", registered.append)
    service = make("-u", "s", "--loop", "asyncio", "-v", "3", APPLICATION)

    service.startService()

    [((server, loop), more)] = joined
    assert isinstance(server, Server)
    assert ("asyncio", {"debug": True}) == (loop, more)
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    [leave] = registered
    leave()
    assert [] == left
    server.failure = LifespanFailed("no database")
    leave()
    server.failure = ZeroDivisionError()
    leave()
    assert [3, 1] == left
