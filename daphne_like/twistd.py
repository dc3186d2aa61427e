"""
The server as a program of ``twistd``: ``twistd -n daphne-like main:app``.

twistd parses the options, makes the service, then opens its log, becomes a daemon,
gives up privileges and runs the reactor. What goes wrong should be told while there
is a terminal, and an exit status to be seen. So the reactor is installed with the
options, before twistd would take its default; the application is imported and the
addresses are bound when the service is made.

Nothing is imported from here before ``twistd`` is told to run this program: see
``twisted/plugins/daphne_like_plugin.py``.

Tests: ``tests/unit/test_twistd.py``, ``tests/integration/test_twistd.py``.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import select
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from twisted.application.service import Service
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from daphne_like import process, reactor
from daphne_like.asgi.loading import explain, load_application
from daphne_like.cli import CommandLineInterface
from daphne_like.errors import ApplicationLoadError, SettingsError, StartError
from daphne_like.observability.logs import TwistedHandler, configure_logging
from daphne_like.process_setup import import_late_modules, set_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daphne_like.server import Server
    from daphne_like.settings import ProcessSettings, Settings

__all__ = ["Options", "makeService"]

# Settings of the process, and how twistd is told the same.
_TWISTD_OPTIONS = {
    "chdir": "--rundir",
    "group": "--gid",
    "pid_file": "--pidfile",
    "umask": "--umask",
    "user": "--uid",
}


class _Parser(argparse.ArgumentParser):
    """Leaves it to twistd what becomes of wrong arguments."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _CommandLine(CommandLineInterface):
    parser_class = _Parser


class Options(TwistedOptions):
    """
    The options behind ``twistd daphne-like``: those of ``daphne-like``.

    Attributes:
        command_line: Knows and reads them.
        settings: What was read.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.command_line = _CommandLine()
        self.command_line.parser.prog = "twistd daphne-like"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read the arguments, and install the reactor which the server needs.

        Raises:
            UsageError: An argument is wrong, or there is another reactor.
            SystemExit: They only asked for help, version or settings.
        """
        try:
            settings = self.command_line.read_settings(options or ())
            if settings is None:
                raise SystemExit(0)
            settings = _as_one_process(settings)
            # Now, as twistd takes Twisted's default as soon as this has returned.
            reactor.install(settings.lifecycle.loop)
        except SettingsError as error:
            raise UsageError(str(error)) from None
        self.settings = settings

    def getUsage(self, width: int | None = None) -> str:
        """Return what twistd shows before an error."""
        return self.command_line.parser.format_usage()


def makeService(options: Options) -> Service:
    """
    Import the application, bind the addresses, and return what serves.

    Raises:
        SystemExit: That was not possible; the reason is on stderr.
    """
    twistd_options: Mapping[str, object] = options.parent or {}
    settings, stays = options.settings, not twistd_options.get("chroot")
    if stays:
        settings = _with_absolute_paths(settings)
    command_line = options.command_line
    try:
        _check_process(settings.process)
        _check_daemon(twistd_options)
        settings = set_up(settings)
        configure_logging(settings.log, TwistedHandler())
        settings = process.with_sockets_of_systemd(settings)
        application = load_application(settings.app, command_line.load_asgi_app)
        server = command_line.make_server(application, settings)
        if stays:
            # Else where the paths lead, see _Program.
            server.privilegedStartService()
    except ApplicationLoadError as error:
        sys.stderr.write(f"{explain(error)}\n")
        sys.exit(error.exit_status)
    except StartError as error:
        _leave(error)
    if any(twistd_options.get(name) is not None for name in ("chroot", "uid", "gid")):
        import_late_modules()
    return _Program(server)


def _as_one_process(settings: Settings) -> Settings:
    """
    Refuse workers; a number which the platform has set for all programs is no wish.

    Raises:
        SettingsError: They are wished for.
    """
    workers = settings.workers
    if settings.sources.get("workers") == "environment WEB_CONCURRENCY":
        workers = replace(workers, workers=None)
    if workers.supervised:
        raise SettingsError(
            "twistd serves in one process: workers, reload, and limits which replace "
            "workers need the program daphne-like"
        )
    return replace(settings, workers=workers)


def _check_daemon(twistd_options: Mapping[str, object]) -> None:
    """
    Refuse to become a daemon where that would end in silence.

    kqueue(2): "The queue is not inherited by a child created with fork(2)." The
    event loop is one, and it is there before twistd forks.
    """
    # The newer runner, "twist", has no such option and never forks.
    if hasattr(select, "kqueue") and not twistd_options.get("nodaemon", True):
        raise SettingsError("no daemons on this system: use twistd -n")


def _check_process(settings: ProcessSettings) -> None:
    """Refuse what is twistd's to do, by its own options."""
    for name, option in _TWISTD_OPTIONS.items():
        if getattr(settings, name) is not None:
            raise SettingsError(f"{name}: twistd does that; use twistd {option}")


def _leave(error: StartError) -> NoReturn:
    sys.stderr.write(f"daphne-like: {error}\n")
    sys.exit(error.exit_status)


def _with_absolute_paths(settings: Settings) -> Settings:
    """Let paths mean what they mean now: twistd may change the directory."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute())

    bind, tls, log = settings.bind, settings.tls, settings.log
    operations, control_socket = settings.operations, settings.operations.control_socket
    ca_certs, access_log = tls.ssl_ca_certs, log.access_log
    return replace(
        settings,
        bind=replace(bind, unix_socket=tuple(map(absolute, bind.unix_socket))),
        tls=replace(
            tls,
            ssl_certfile=tuple(map(absolute, tls.ssl_certfile)),
            ssl_keyfile=tuple(map(absolute, tls.ssl_keyfile)),
            ssl_ca_certs=None if ca_certs is None else absolute(ca_certs),
        ),
        log=replace(
            log,
            access_log=access_log
            if access_log in (None, "", "-", "logger")
            else absolute(access_log),
        ),
        operations=operations
        if control_socket is None
        else replace(operations, control_socket=absolute(control_socket)),
    )


class _Program(Service):
    """A server which is all that its process does."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def privilegedStartService(self) -> None:
        """
        Bind the addresses, where that had to wait for another root.

        Raises:
            SystemExit: That was not possible; the reason is in twistd's log.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        try:
            self._server.privilegedStartService()
        except StartError as error:
            _leave(error)

    def startService(self) -> None:
        """Serve as soon as the reactor runs, and stop when it stops."""
        super().startService()  # type: ignore[no-untyped-call]
        settings = self._server.settings
        process.join_reactor(
            self._server,
            settings.lifecycle.loop,
            debug=settings.log.verbosity >= 3,
        )
        # twistd ends with 0 whatever happened.
        atexit.register(self._exit_with_status)

    def _exit_with_status(self) -> None:
        failure = self._server.failure
        if failure is not None:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(getattr(failure, "exit_status", 1))
