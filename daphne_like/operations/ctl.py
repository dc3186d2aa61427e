"""
``daphne-like ctl``: asks a running server, and orders it, through its control socket.

It is a program of its own which starts quickly: neither Twisted nor the server is
imported, and ``rich`` only for a table that keeps up to date.

Tests: ``tests/unit/operations/test_ctl.py``,
``tests/integration/test_operations.py``.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daphne_like.errors import SettingsError
from daphne_like.operations.display import lines_of, printable, stacks_of, table_of
from daphne_like.setting_kinds import Seconds
from daphne_like.settings import KNOWN_SETTINGS, Settings, read_toml

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["REFUSED", "UNREACHABLE", "main"]

REFUSED = 1
"""Exit status: the server can't do what it is ordered."""

UNREACHABLE = 3
"""Exit status: there is no server at that socket, or it doesn't answer."""

# Longer than the server lets its workers think.
_ANSWER_TIMEOUT = 15.0

# A thousand workers with as many connections as one can tell of have less.
_MOST_ANSWER_BYTES = 256 * 2**20

# How often it is looked whether the server has ended.
_POLL_INTERVAL = 0.1

_SOCKET = KNOWN_SETTINGS["control_socket"]

_QUESTIONS = {
    "status": "how the server is, and its workers",
    "workers": "each worker: phase, age, load and memory",
    "connections": "each connection: client, protocol, age, requests in flight",
    "tasks": "where each asyncio task and thread is, for one that hangs",
}
_ORDERS = {
    "reload": "do what SIGHUP does: replace workers one by one, or read "
    "certificates again",
    "scale": "change the number of workers",
    "drain": "do what SIGTERM does: let what is in flight end, and stop",
}


class _Failed(Exception):
    """The command has failed; the text is one line for the user."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.

    Args:
        arguments: Those after ``ctl``.

    Returns:
        The exit status.

    Raises:
        SystemExit: The arguments are wrong (2), or ask for help.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Paths and names may have letters which this terminal hasn't.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(
        arguments, argparse.Namespace(control_socket=None, config=None, json=False)
    )
    try:
        server = _Server(_socket_path(options))
        if options.command in _ORDERS:
            _order(server, options)
        elif options.watch is not None:
            _watch(server, options)
        else:
            print(_answer(server, options), flush=True)
    except SettingsError as error:
        parser.error(str(error))
    except _Failed as failure:
        print(f"daphne-like ctl: {failure}", file=sys.stderr)
        return failure.exit_status
    except KeyboardInterrupt:
        return 0 if options.watch is not None else 130
    except BrokenPipeError:
        # Whoever reads, "head" for one, has seen enough; flushing would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# -- Arguments ---------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    # Before the command or behind it: neither may undo what the other one has read.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "--control-socket",
        metavar="PATH",
        help=f"the server's control socket [{_SOCKET.environment_variable}]",
    )
    common.add_argument(
        "--config", metavar="FILE", help="the server's settings file, which may name it"
    )
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
    )
    parser = argparse.ArgumentParser(
        prog="daphne-like ctl",
        description="Ask a running server, or order it, through its control socket.",
        epilog="Exit status: 0 = done, 1 = refused, 2 = wrong arguments, 3 = no server.",
        parents=[common],
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, text in {**_QUESTIONS, **_ORDERS}.items():
        command = commands.add_parser(
            name, help=text, description=text, parents=[common], allow_abbrev=False
        )
        command.set_defaults(watch=None, wait=None)
        if name in _QUESTIONS:
            command.add_argument(
                "-w",
                "--watch",
                metavar="INTERVAL",
                nargs="?",
                const=1.0,
                type=_seconds,
                help="keep up to date, each second by default, until Ctrl-C",
            )
        if name == "scale":
            command.add_argument("workers", metavar="N", type=_change_or_count)
        if name == "drain":
            command.add_argument(
                "--wait",
                metavar="TIMEOUT",
                nargs="?",
                const=float("inf"),
                type=_seconds,
                help="return when the server has ended",
            )
    return parser


def _seconds(text: str) -> float:
    try:
        return Seconds().read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _change_or_count(text: str) -> str:
    """Take ``4``, ``+1`` or ``-1``."""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"must be N, +N or -N, not {text!r}")
    return text


def _socket_path(options: argparse.Namespace) -> str:
    """Find the socket as the server found its own: option, environment, file."""
    given = {}
    if options.control_socket is not None:
        given["control_socket"] = options.control_socket
    environ = {
        name: value
        for name, value in os.environ.items()
        if name == _SOCKET.environment_variable
    }
    file = {} if options.config is None else read_toml(options.config)
    settings = Settings.from_sources(given, environ, file, options.config or "")
    path = settings.operations.control_socket
    if path is None:
        raise SettingsError(
            f"which server? Give --control-socket PATH, or {_SOCKET.environment_variable}"
        )
    return path


# -- The server --------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def cut(self) -> None:
        """End, from another thread, what still goes on."""
        with suppress(OSError, AttributeError):  # it has ended
            self.sock.shutdown(socket.SHUT_RDWR)


class _Server:
    """The server behind a control socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask_facts(self, path: str) -> dict[str, Any]:
        """Return what the server tells, names with their values."""
        answer = self._request("GET", path)
        if not isinstance(answer, dict):
            raise self._stranger
        return answer

    def ask_rows(self, path: str) -> list[dict[str, Any]]:
        """Return what the server tells, a list of the same."""
        answer = self._request("GET", path)
        if not isinstance(answer, list):
            raise self._stranger
        if not all(isinstance(row, dict) for row in answer):
            raise self._stranger
        return answer

    def count_workers(self) -> int:
        """Return how many there are to be."""
        count = self.ask_facts("/status").get("workers")
        if type(count) is not int:
            raise self._stranger
        return count

    def order(self, path: str, **arguments: object) -> None:
        """Have the server do something; it does that when this has returned."""
        self._request("POST", path, json.dumps(arguments))

    def is_there(self) -> bool:
        """Whether somebody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self._path)
            except BlockingIOError:
                return True  # one that hangs, and has accepted nobody for long
            except OSError:
                return False
        return True

    def _request(self, method: str, path: str, body: str | None = None) -> Any:
        connection = _Connection(self._path)
        # What comes byte by byte is in time for the socket's timeout, for ever.
        limit = threading.Timer(2 * _ANSWER_TIMEOUT, connection.cut)
        limit.daemon = True
        limit.start()
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            status, text = response.status, response.read(_MOST_ANSWER_BYTES)
            answer = json.loads(text)
        except OSError as error:
            raise _Failed(self._explain(error), UNREACHABLE) from None
        except (http.client.HTTPException, ValueError, RecursionError):
            raise self._stranger from None
        finally:
            limit.cancel()
            connection.close()
        if status >= 400:
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise _Failed(printable(str(reason or f"status {status}")), REFUSED)
        return answer

    @property
    def _stranger(self) -> _Failed:
        """Say that this is somebody else's socket."""
        return _Failed(f"{self._path}: what answers is no daphne-like", UNREACHABLE)

    def _explain(self, error: OSError) -> str:
        if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
            return f"no server listens on {self._path}"
        if isinstance(error, TimeoutError):
            return f"the server on {self._path} doesn't answer; is its loop blocked?"
        # Only http.client raises one without a number: no answer came.
        return f"{self._path}: {error.strerror or 'the server has hung up'}"


# -- The commands ------------------------------------------------------------


def _order(server: _Server, options: argparse.Namespace) -> None:
    if options.command == "scale":
        workers = int(options.workers)
        if options.workers[0] in "+-":
            workers += server.count_workers()
        if workers < 1:
            raise _Failed("at least one worker must stay", REFUSED)
        server.order("/scale", workers=workers)
        done = f"workers wanted: {workers}"
    else:
        server.order(f"/{options.command}")
        done = "draining" if options.command == "drain" else "reloading"
    if options.wait is not None:
        _wait_for_end(server, options.wait)
        done = "ended"
    print(json.dumps({"accepted": True}) if options.json else done)


def _wait_for_end(server: _Server, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while server.is_there():
        if time.monotonic() >= deadline:
            raise _Failed("the server has not ended yet", REFUSED)
        time.sleep(_POLL_INTERVAL)


def _ask(server: _Server, command: str) -> Any:
    if command == "status":
        processes = server.ask_rows("/workers")
        return {**server.ask_facts("/status"), "processes": processes}
    return server.ask_rows(f"/{command}")


def _answer(server: _Server, options: argparse.Namespace) -> str:
    """Write the answer to a question for a terminal, or as JSON."""
    answer = _ask(server, options.command)
    if options.json:
        return json.dumps(answer, indent=2)
    if options.command == "tasks":
        return stacks_of(answer)
    if options.command == "status":
        rows = answer.pop("processes")
        return f"{lines_of(answer)}\n\n{table_of(rows)}"
    return table_of(answer)


def _watch(server: _Server, options: argparse.Namespace) -> None:
    """Keep the answer up to date until the user has seen enough."""
    if options.json:
        while True:
            print(json.dumps(_ask(server, options.command)), flush=True)
            time.sleep(options.watch)
    try:
        from daphne_like.operations.live_display import LiveDisplay
    except ImportError:
        raise SettingsError(
            "--watch needs rich: pip install 'daphne-like[ctl]'"
        ) from None
    display = LiveDisplay()
    with display:
        while True:
            display.show(options.command, _ask(server, options.command))
            time.sleep(options.watch)
