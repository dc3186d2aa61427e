"""
``manage.py runserver``: Django's command for development, on this server.

What belongs to Django stays Django's: the class below is a subclass of the
``runserver`` which would run without us, that of staticfiles for instance. It takes
its options, its parsing of addresses and its autoreloader, and ``--noasgi`` hands
over to it altogether. Ours is what runs in the end, :meth:`Command.inner_run`.

Under the autoreloader there are three places. The parent process only starts the
child again and again; in the child, the main thread watches files, and ends the
process with status 3 when one is saved; the server and its reactor run in a second
thread, without signal handlers. Before the child ends, its main thread stops the
server, so that browsers learn at once that a new one is to come.

Tests: ``tests/unit/test_django_runserver.py``,
``tests/integration/test_django_runserver.py``.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from asgiref.compatibility import guarantee_single_callable
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, find_commands
from django.core.management.commands import runserver as core
from django.db import connections
from django.utils import autoreload
from django.utils.module_loading import import_string

from daphne_like import __version__, reactor
from daphne_like.cli import limit_threads
from daphne_like.errors import ListenError, SettingsError
from daphne_like.settings import KNOWN_SETTINGS, Settings

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from daphne_like.server import Server

__all__ = ["Command", "get_default_application"]

_logger = logging.getLogger("django.channels.server")


class _Option(NamedTuple):
    """
    An option for a setting of the server.

    Attributes:
        setting: Its name.
        help: Its meaning.
        spellings: Daphne's comes first, and names the keyword of ``call_command``.
    """

    setting: str
    help: str
    spellings: tuple[str, ...]

    @property
    def keyword(self) -> str:
        """Where argparse stores the value."""
        return self.spellings[0].removeprefix("--").replace("-", "_")


_OPTIONS = (
    _Option(
        "http_timeout",
        "Longest request in seconds, then 503; without limit by default.",
        ("--http_timeout", "--http-timeout"),
    ),
    _Option(
        "websocket_connect_timeout",
        "Seconds to accept a WebSocket, then 403; 5 by default, -1 for no limit.",
        ("--websocket_handshake_timeout", "--websocket-handshake-timeout"),
    ),
    _Option(
        "websocket_max_message_size",
        "Bytes of a WebSocket message; 1 MiB by default, 0 for no limit.",
        ("--websocket-max-message-size",),
    ),
    _Option(
        "websocket_max_frame_size",
        "Bytes of a WebSocket frame; 1 MiB by default, 0 for no limit.",
        ("--websocket-max-frame-size",),
    ),
    _Option(
        "ssl_certfile",
        "Serves HTTPS with this certificate: a PEM file with its chain.",
        ("--ssl-certfile",),
    ),
    _Option(
        "ssl_keyfile",
        "The private key, where it is not in the file of the certificate.",
        ("--ssl-keyfile",),
    ),
    _Option(
        "ssl_dev",
        "Serves HTTPS with a certificate of its own making.",
        ("--ssl-dev",),
    ),
)
# Daphne's settings in Django's, for what is one of ours.
_DJANGO_SETTINGS = {
    "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE": "websocket_max_message_size",
    "DAPHNE_WEBSOCKET_MAX_FRAME_SIZE": "websocket_max_frame_size",
}
# Settings whose place is taken, and by what.
_TAKEN = {
    **dict.fromkeys(("bind", "port"), "the argument of runserver"),
    **dict.fromkeys(
        ("application", "factory", "app_dir", "interface"), "ASGI_APPLICATION"
    ),
    **dict.fromkeys(("verbosity", "log_level", "log_config", "log_fmt"), "LOGGING"),
    **{
        name: {
            "workers": "one process, and its autoreloader",
            "process": "whoever starts it",
        }[definition.section]
        for name, definition in KNOWN_SETTINGS.items()
        if definition.section in ("workers", "process")
    },
}

# The autoreloader ends a process so that is to be started again.
_RELOAD_STATUS = 3
# How long requests may go on when the server stops, unless the settings say more.
# Ctrl-C gives the process a quarter of a second before its parent kills it.
_GRACEFUL_TIMEOUT = 0.2
# How much longer than that the process may take to end: views which block in threads
# would keep it, as Django's own server does not let them.
_END_TIMEOUT = 1.0

# As Django words them.
_LISTEN_ERRORS = {
    errno.EACCES: "You don't have permission to access that port.",
    errno.EADDRINUSE: "That port is already in use.",
    errno.EADDRNOTAVAIL: "That IP address can't be assigned to.",
}


def get_default_application() -> Any:
    """
    Import what the setting ``ASGI_APPLICATION`` names.

    Raises:
        ImproperlyConfigured: There is no such setting, or no such object.
    """
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise ImproperlyConfigured("ASGI_APPLICATION is not set.")
    try:
        return import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"ASGI_APPLICATION {path!r} can't be imported: {error}"
        ) from error


def _next_command() -> Any:
    """Return the class of the ``runserver`` which would run without this app."""
    configs = list(apps.get_app_configs()) if apps.ready else []
    names = [config.name for config in configs]
    # Those before us have no runserver, or one which has found ours in this way.
    start = names.index("daphne_like") + 1 if "daphne_like" in names else 0
    for config in configs[start:]:
        # Daphne's own is what ours replaces.
        if config.name != "daphne" and "runserver" in find_commands(
            Path(config.path) / "management"
        ):
            return import_module(f"{config.name}.management.commands.runserver").Command
    return core.Command


class _ServerClass:
    """The attribute ``server_cls``: imports Twisted only when asked for."""

    def __get__(self, command: object, owner: type[Any]) -> type[Server]:
        from daphne_like.server import Server

        return Server


class Command(_next_command()):  # type: ignore[misc]
    """
    The command.

    Attributes:
        server_cls: A subclass may name a server of its own. It is called with the
            application and the keywords ``settings``, ``signal_handlers``,
            ``ready_callable`` and ``action_logger``.
        protocol: ``http`` or ``https``.
        server_settings: All settings of the server.
    """

    help = "Starts a web server for development: HTTP and WebSocket, for ASGI."

    server_cls: Any = _ServerClass()
    protocol = "http"

    # What serves at the moment, and what tells that it is over.
    _serving: Server | None = None
    _ended: threading.Event

    # -- Options ---------------------------------------------------------------

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options to those of the class above."""
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Serves WSGI, with the runserver that would run without daphne_like.",
        )
        for option in _OPTIONS:
            definition = KNOWN_SETTINGS[option.setting]
            action: dict[str, Any] = {"metavar": definition.kind.metavar}
            if isinstance(definition.default, bool):
                action = {"action": "store_const", "const": True}
            elif isinstance(definition.default, tuple):
                action["action"] = "append"
            parser.add_argument(
                *option.spellings, dest=option.keyword, help=option.help, **action
            )

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a program, which ends even if a view blocks in a thread."""
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            limit_threads(end)
            raise
        limit_threads(SystemExit(0))

    def handle(self, *args: Any, **options: Any) -> None:
        """
        Check what can be checked at once, and go on as Django does.

        Raises:
            CommandError: An option or setting is wrong.
        """
        if not options["use_asgi"]:
            self.server_cls = super().server_cls
        elif not getattr(settings, "ASGI_APPLICATION", None):
            raise CommandError(
                "The setting ASGI_APPLICATION is missing, for example "
                "'mysite.asgi.application'. --noasgi serves WSGI."
            )
        super().handle(*args, **options)

    def run(self, **options: Any) -> None:
        """Serve, under the autoreloader unless told otherwise; then tidy up."""
        if not options["use_asgi"]:
            super().run(**options)
            return
        self.server_settings = self._read_settings(options)
        if self.server_settings.tls.secures_listeners:
            self.protocol = "https"
        # Not in the parent of the process that serves.
        if not options["use_reloader"] or os.environ.get("RUN_MAIN") == "true":
            self._install_reactor()
        self._ended = threading.Event()
        status = 0
        try:
            super().run(**options)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            raise
        finally:
            if options["use_reloader"]:
                self._stop(status)

    def _install_reactor(self) -> None:
        """
        Have the reactor there before the views are imported, which may import it.

        Raises:
            CommandError: Something has installed another one.
        """
        try:
            reactor.install(self.server_settings.lifecycle.loop)
        except SettingsError as error:
            raise CommandError(str(error)) from None

    def _read_settings(self, options: Mapping[str, Any]) -> Settings:
        """
        Merge the options with Django's settings.

        Raises:
            CommandError: One is wrong.
        """
        own = dict(getattr(settings, "DAPHNE_LIKE", {}))
        for name in own.keys() & _TAKEN.keys():
            raise CommandError(
                f"DAPHNE_LIKE: {name} has no effect with runserver; "
                f"its place is taken by {_TAKEN[name]}."
            )
        defaults = {
            name: value
            for django_name, name in _DJANGO_SETTINGS.items()
            if (value := getattr(settings, django_name, None)) is not None
        }
        defaults["root_path"] = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
        defaults["timeout_graceful_shutdown"] = _GRACEFUL_TIMEOUT
        given = {
            option.setting: value
            for option in _OPTIONS
            if (value := options.get(option.keyword)) is not None
        }
        given |= {"bind": [self._address()], "port": self.port}
        try:
            return Settings.from_sources(
                given, file={**defaults, **own}, file_name="Django's settings"
            )
        except SettingsError as error:
            raise CommandError(str(error)) from None

    def _address(self) -> str:
        """Return the address to listen on, as the resolver understands it."""
        if self.addr == "0":
            return "0.0.0.0"  # noqa: S104 - as asked
        if self.use_ipv6 and not self._raw_ipv6:
            # A host name, of which only this family is wanted.
            try:
                found = socket.getaddrinfo(self.addr, None, socket.AF_INET6)
            except OSError as error:
                raise CommandError(f"{self.addr}: {error.strerror}") from None
            return str(found[0][4][0])
        return str(self.addr)

    # -- Serving ---------------------------------------------------------------

    def get_application(self, options: Mapping[str, Any]) -> Any:
        """
        Return the ASGI application: that of the project, behind static files.

        Raises:
            ImproperlyConfigured: See :func:`get_default_application`.
        """
        application = guarantee_single_callable(  # type: ignore[no-untyped-call]
            get_default_application()
        )
        # Without the app staticfiles there are no such options.
        if options.get("use_static_handler") and (
            settings.DEBUG or options.get("insecure_serving")
        ):
            from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

            return ASGIStaticFilesHandler(application)
        return application

    def inner_run(self, *args: Any, **options: Any) -> None:
        """
        Check the project and serve it; in the autoreloader's thread, if there is one.

        Raises:
            CommandError: The server can't listen, or a setting is wrong.
        """
        if not options["use_asgi"]:
            super().inner_run(*args, **options)
            return
        # What Django has caught while it loaded the project.
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        # Those of this thread, which the application will not use.
        connections.close_all()
        self._serve(self.get_application(options), options)
        if shutdown_message := options.get("shutdown_message"):
            self.stdout.write(shutdown_message)

    def _serve(self, application: Any, options: Mapping[str, Any]) -> None:
        server: Server | None = None

        def announce() -> None:
            assert server is not None
            self._serving = server
            self._announce(server)

        try:
            server = self.server_cls(
                application,
                settings=self.server_settings,
                # Only possible there.
                signal_handlers=threading.current_thread() is threading.main_thread(),
                ready_callable=announce,
                action_logger=self.log_action,
            )
            server.run()
        except SettingsError as error:
            self._give_up(str(error), options)
        except SystemExit:
            failure = None if server is None else server.failure
            if isinstance(failure, ListenError):
                self._give_up(_explain(failure), options)
            # It has been logged. Under the autoreloader only this thread ends, so
            # that the next save can put it right.
            raise
        finally:
            self._serving = None
            self._ended.set()

    def _give_up(self, reason: str, options: Mapping[str, Any]) -> NoReturn:
        """
        End the process, whose main thread may be the autoreloader's.

        Raises:
            CommandError: This is the main thread.
        """
        if not options["use_reloader"]:
            raise CommandError(reason)
        self.stderr.write(f"Error: {reason}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _stop(self, status: int) -> None:
        """
        Stop the server in the other thread, if it runs, before the process ends.

        Args:
            status: The exit status.
        """
        server = self._serving
        if server is None:
            return
        lifecycle = self.server_settings.lifecycle
        patience = lifecycle.timeout_graceful_shutdown + _END_TIMEOUT
        # Python would wait for the threads of pools without limit.
        leaving = threading.Timer(patience, os._exit, [status])
        leaving.daemon = True
        leaving.start()
        server.stop(restarting=status == _RELOAD_STATUS)
        self._ended.wait(patience)

    # -- What the user sees ------------------------------------------------------

    def _announce(self, server: Server) -> None:
        """Tell where the server listens, now that it does."""
        host = f"[{self.addr}]" if self._raw_ipv6 else self.addr
        host = "0.0.0.0" if host == "0" else host  # noqa: S104 - as asked
        port = int(self.port) or server.listening_addresses[0][1]
        now = datetime.now().strftime("%B %d, %Y - %X")  # noqa: DTZ005 - on this clock
        self.stdout.write(
            f"{now}\n"
            f"Django version {self.get_version()}, "
            f"using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting ASGI/Daphne version {__version__} (daphne_like) "
            f"development server at {self.protocol}://{host}:{port}/\n"
            f"Quit the server with "
            f"{'CTRL-BREAK' if sys.platform == 'win32' else 'CONTROL-C'}.\n"
        )
        self.stdout.flush()

    def log_action(
        self, protocol: str, action: str, details: Mapping[str, Any]
    ) -> None:
        """
        Write a line about a request or WebSocket to ``django.channels.server``.

        The message is text without arguments, which any handler can take.

        Args:
            protocol: ``http`` or ``websocket``.
            action: See :class:`~daphne_like.observability.action_log.ActionLog`.
            details: As there.
        """
        if protocol == "http" and action == "complete":
            text = (
                "HTTP {method} {path} {status} [{time_taken:.2f}, {client}]"
            ).format_map(details)
            level, style = _look_of(details["status"])
            _logger.log(level, getattr(self.style, style)(text))
        elif protocol == "websocket" and action in _WEBSOCKET_WORDS:
            word = _WEBSOCKET_WORDS[action]
            text = f"WebSocket {word} {details['path']} [{details['client']}]"
            _logger.info(text)


_WEBSOCKET_WORDS = {
    "connecting": "HANDSHAKING",
    "connected": "CONNECT",
    "rejected": "REJECT",
    "disconnected": "DISCONNECT",
}


def _look_of(status: int) -> tuple[int, str]:
    """Return the level for a status, and the style Django has for it."""
    if status < 200:
        return logging.INFO, "HTTP_INFO"
    if status < 300:
        return logging.INFO, "HTTP_SUCCESS"
    if status < 400:
        return logging.INFO, "HTTP_NOT_MODIFIED" if status == 304 else "HTTP_REDIRECT"
    if status < 500:
        style = "HTTP_NOT_FOUND" if status == 404 else "HTTP_BAD_REQUEST"
        return logging.WARNING, style
    return logging.ERROR, "HTTP_SERVER_ERROR"


def _explain(failure: ListenError) -> str:
    """Tell why a port can't be had in Django's words, where it has some."""
    cause = failure.__context__
    if isinstance(cause, OSError) and cause.errno in _LISTEN_ERRORS:
        return _LISTEN_ERRORS[cause.errno]
    return str(failure)
