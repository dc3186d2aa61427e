"""
The command line: arguments to settings, settings to a running server.

The options are made from :mod:`daphne_like.settings`. The class has the interface of
Daphne's, which is subclassed in the wild: frozen programs, for instance, override
:meth:`CommandLineInterface.load_asgi_app`.

Exit status: 0 after a signal, 1 when an address can't be bound or the application
can't be imported, 2 for wrong settings, 3 when the application refuses to start.

Tests: ``tests/unit/test_cli.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from daphne_like.errors import ApplicationLoadError, SettingsError, StartError
from daphne_like.setting_kinds import Flag, Several, did_you_mean
from daphne_like.settings import (
    KNOWN_SETTINGS,
    SECTION_TITLES,
    ProcessSettings,
    Setting,
    Settings,
    read_toml,
)

if TYPE_CHECKING:
    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.server import Server
    from daphne_like.supervisor.worker import Assignment

__all__ = ["CommandLineInterface", "limit_threads"]

# Where Daphne's parser keeps options whose names are others here: programs which
# extend it set defaults by these.
_DAPHNES_DESTS = {
    "bind": "host",
    "endpoint": "socket_strings",
    "fd": "file_descriptor",
}

# How long threads of the application may go on when the server has ended.
_THREADS_TIMEOUT = 3.0


class CommandLineInterface:
    """
    The ``daphne-like`` program.

    Attributes:
        server_class: A subclass may name a server of its own, which is called as
            ``server_class(application, settings=settings)`` and then run. With
            ``--daphne-compat`` it is called with Daphne's keywords, see
            :func:`~daphne_like.daphne_keywords.keywords_of_settings`.
        setting_defaults: A subclass may have other defaults, by the settings' names.
        parser_class: Makes the parser.
        server: The instance of that class.
        parser: The argument parser; a subclass may add its own arguments.
        arg_proxy_host: The option ``--proxy-headers-host``.
        arg_proxy_port: The option ``--proxy-headers-port``.
    """

    description = "Serve an ASGI application over HTTP, on Twisted."

    server_class: type[Server] | None = None

    setting_defaults: ClassVar[Mapping[str, object]] = {}

    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser

    def __init__(self) -> None:
        self.server: Server | None = None
        self.parser = self.parser_class(
            prog="daphne-like",
            usage="%(prog)s [option ...] [module:attribute]",
            description=self.description,
            epilog=(
                "Durations are seconds, or have a unit: 500ms, 30s, 5m, 1h, 1d. "
                "In square brackets stands the environment variable for the same "
                "setting. The command line wins over the environment, and that over "
                "the file. A running server is asked and ordered by "
                "%(prog)s ctl --help."
            ),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._option_strings: list[str] = []
        actions: dict[str, argparse.Action] = {}
        groups: dict[str, argparse._ArgumentGroup] = {}
        for section, title in SECTION_TITLES.items():
            groups[section] = self.parser.add_argument_group(*title.split(": "))
        for name, definition in KNOWN_SETTINGS.items():
            actions[name] = self._add_setting(groups[definition.section], definition)
        self.arg_proxy_host = actions["proxy_headers_host"]
        self.arg_proxy_port = actions["proxy_headers_port"]
        self._add_commands(self.parser.add_argument_group("Command line"))

    @classmethod
    def entrypoint(cls) -> NoReturn:
        """Run with the arguments of the process, and end it."""
        cls._end_process(lambda: cls().run(sys.argv[1:]))

    @staticmethod
    def _end_process(run: Callable[[], int]) -> NoReturn:
        try:
            sys.exit(run())
        except SystemExit as end:
            limit_threads(end)
            raise

    def run(self, args: Sequence[str]) -> int:
        """
        Serve as the arguments say until the server is stopped.

        Returns:
            The exit status.

        Raises:
            SystemExit: The arguments are wrong (2), or asked for help or version.
        """
        if args[:1] == ["ctl"]:
            # Without Twisted, for people who wait at a terminal.
            from daphne_like.operations import ctl

            return ctl.main(args[1:])

        def serve() -> int:
            settings = self.read_settings(args)
            return 0 if settings is None else self._serve(settings)

        return self._report_errors(serve)

    def _report_errors(self, serve: Callable[[], int]) -> int:
        """Show what kept the server from starting; return the exit status."""
        try:
            return serve()
        except SettingsError as error:
            self.parser.error(str(error))
        except ApplicationLoadError as error:
            from daphne_like.asgi.loading import explain

            print(explain(error), file=sys.stderr)
            return error.exit_status
        except StartError as error:
            import logging

            logging.getLogger("daphne_like.server").critical("%s", error)
            return error.exit_status

    def read_settings(self, args: Sequence[str]) -> Settings | None:
        """
        Merge the arguments with the other sources of settings.

        Returns:
            None when they asked for no more than to see the settings.

        Raises:
            SettingsError: A setting is wrong.
            SystemExit: As :meth:`run`.
        """
        options, unknown = self.parser.parse_known_args(args)
        if unknown:
            self._refuse(unknown)
        settings = self._settings(vars(options))
        if options.show_config:
            print(settings.to_toml(), end="")
            return None
        return settings

    def load_asgi_app(self, asgi_app_path: str) -> object:
        """
        Return the object named on the command line; a subclass may find it elsewhere.

        Args:
            asgi_app_path: ``module:attribute.attribute``.

        Raises:
            ApplicationLoadError: There is no such object.
        """
        from daphne_like.asgi.loading import import_by_path

        return import_by_path(asgi_app_path)

    def _serve(self, settings: Settings) -> int:
        from daphne_like.observability.logs import configure_logging
        from daphne_like.process_setup import PidFile, set_up

        settings = set_up(settings)
        configure_logging(settings.log)
        with PidFile(settings.process.pid_file):
            if settings.workers.supervised:
                from daphne_like.supervisor import supervisor

                return supervisor.run(settings, self)

            from daphne_like import server

            load = partial(self.load_application, settings)
            # All the rest is done.
            user, group = settings.process.user, settings.process.group
            left = replace(settings, process=ProcessSettings(user=user, group=group))
            server.run(left, load, self.make_server)
            return 0

    def run_as_worker(self, assignment: Assignment) -> NoReturn:
        """Serve in a process which a supervisor has started, and end it."""
        from daphne_like.supervisor import worker

        def serve() -> int:
            worker.serve(assignment, self)
            return 0

        self._end_process(lambda: self._report_errors(serve))

    def load_application(self, settings: Settings) -> ASGIApplication:
        """
        Return the application of the settings, ready to be served.

        Raises:
            ApplicationLoadError: There is none.
        """
        from daphne_like.asgi.loading import load_application

        try:
            return load_application(settings.app, self.load_asgi_app)
        except ApplicationLoadError as error:
            if settings.app.daphne_compat and error.__cause__ is not None:
                # As it is: Daphne's callers catch what imports raise.
                raise error.__cause__ from None
            raise

    def make_server(self, application: ASGIApplication, settings: Settings) -> Server:
        """Return the server; see ``server_class``."""
        from daphne_like import server

        if self.server_class is None:
            self.server = server.Server(application, settings=settings)
        elif settings.app.daphne_compat and not settings.tls.secures_listeners:
            from daphne_like.daphne_keywords import keywords_of_settings

            keywords = keywords_of_settings(settings)
            self.server = self.server_class(application=application, **keywords)
        else:
            self.server = self.server_class(application, settings=settings)
        return self.server

    def _settings(self, options: dict[str, Any]) -> Settings:
        """Merge what was given on the command line with the other sources."""
        given = {
            name: options[dest]
            for name in KNOWN_SETTINGS
            if (dest := _DAPHNES_DESTS.get(name, name)) in options
        }
        path = options["config"]
        file = {**self.setting_defaults, **({} if path is None else read_toml(path))}

        def settings(given: Mapping[str, object]) -> Settings:
            source = "settings file" if path is None else path
            return Settings.from_sources(given, os.environ, file, source)

        # The settings refuse only other names than the default ones; who names a
        # header on the command line believes that it will be looked at.
        headers = [
            action
            for action in (self.arg_proxy_host, self.arg_proxy_port)
            if given.get(action.dest)
        ]
        names = {action.dest for action in headers}
        others = settings({k: v for k, v in given.items() if k not in names})
        if not headers:
            return others
        if not others.proxy.proxy_headers:
            action = headers[0]
            if others.app.daphne_compat:
                raise argparse.ArgumentError(action, "needs --proxy-headers")
            raise SettingsError(
                f"{action.option_strings[-1]} has no effect without --proxy-headers"
            )
        return settings(given)

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Exit with a usage error which names the first argument that is unknown."""
        # The value of a misspelt option may have been taken for the application, and
        # then the application is unknown too: the option is the mistake.
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        hint = did_you_mean(word.partition("=")[0], self._option_strings)
        self.parser.error(f"unrecognized argument {word}{hint}")

    def _add_setting(
        self, group: argparse._ArgumentGroup, definition: Setting
    ) -> argparse.Action:
        kind = definition.kind
        arguments: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": _help_text(definition),
            "metavar": kind.metavar,
        }
        if not definition.options:
            return group.add_argument(
                definition.name,
                nargs="?",
                type=_argument_type(kind.read),
                **{**arguments, "metavar": "module:attribute"},
            )
        options = list(definition.options)
        arguments["dest"] = _DAPHNES_DESTS.get(definition.name, definition.name)
        if isinstance(kind, Flag):
            options += ["--no-" + option.removeprefix("--") for option in options]
            action = group.add_argument(*options, action=_FlagAction, **arguments)
        elif isinstance(kind, Several) and not kind.separated:
            action = group.add_argument(
                *options,
                action="append",
                type=_argument_type(kind.item.read),
                **arguments,
            )
        else:
            action = group.add_argument(
                *options, type=_argument_type(kind.read), **arguments
            )
        if definition.off_option is not None:
            group.add_argument(
                definition.off_option,
                action="store_const",
                const="",
                dest=arguments["dest"],
                default=argparse.SUPPRESS,
                help=f'the same as {definition.options[-1]} ""',
            )
            options.append(definition.off_option)
        self._option_strings += options
        return action

    def _add_commands(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--config", metavar="FILE", help="TOML file with settings by name"
        )
        group.add_argument(
            "--show-config",
            action="store_true",
            help="print all settings and their sources as such a file, and exit",
        )
        group.add_argument(
            "--version",
            action=_VersionAction,
            help="print the versions of the server and what it runs on, and exit",
        )
        group.add_argument(
            "-h", "--help", action="help", help="print this help, and exit"
        )
        self._option_strings += ["--config", "--show-config", "--version", "--help"]


def limit_threads(end: SystemExit) -> None:
    """
    See to it that the process ends even if a thread of the application doesn't.

    Python waits for threads without limit, and a view that blocks in one would
    keep the process for as long as it likes.

    Args:
        end: What ends the program, with its exit status.
    """
    import threading

    def leave() -> None:
        names = [
            thread.name
            for thread in threading.enumerate()
            if not thread.daemon and thread is not threading.main_thread()
        ]
        if names:
            sys.stdout.flush()
            print(
                f"daphne-like: threads don't end: {', '.join(names)}", file=sys.stderr
            )
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else end.code is not None)

    if threading.active_count() > 1:
        timer = threading.Timer(_THREADS_TIMEOUT, leave)
        timer.daemon = True
        timer.start()


def _argument_type(read: Callable[[object], Any]) -> Callable[[str], Any]:
    """Turn the reader of a kind into one whose errors argparse shows."""

    def read_argument(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_argument


def _help_text(definition: Setting) -> str:
    notes = definition.environment_variable
    if definition.default_text and definition.default is not False:
        notes = f"default: {definition.default_text}; {notes}"
    return f"{definition.help}\n[{notes}]".replace("%", "%%")


class _HelpFormatter(argparse.HelpFormatter):
    """Shows an option's value once, and keeps the line ends of help texts."""

    def __init__(self, prog: str, **arguments: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30, **arguments})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        spellings = ", ".join(action.option_strings)
        takes_value = action.nargs != 0 and action.metavar is not None
        return f"{spellings} {action.metavar}" if takes_value else spellings

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [
            line
            for paragraph in text.splitlines()
            for line in super(_HelpFormatter, self)._split_lines(paragraph, width)
        ]


class _FlagAction(argparse.Action):
    """Stores False for the spelling with ``--no-`` and True for the other one."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, **arguments)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        given = option_string or ""
        setattr(namespace, self.dest, not given.startswith("--no-"))


class _VersionAction(argparse.Action):
    """Prints the versions a bug report needs; they are looked up only then."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, **arguments)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        from daphne_like import __version__

        try:
            loop = f"uvloop {version('uvloop')}"
        except PackageNotFoundError:
            loop = "asyncio"
        print(
            f"{parser.prog} {__version__} "
            f"({platform.python_implementation()} {platform.python_version()}, "
            f"Twisted {version('Twisted')}, loop {loop})"
        )
        parser.exit()
