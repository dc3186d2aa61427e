"""A `daphne-like` command in a process of its own, for integration tests."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

APPLICATIONS = Path(__file__).parent.parent / "integration"
"""Where applications for these tests are imported from."""

LOOPS = [
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None,
            reason="uvloop is not installed",
        ),
    ),
    "asyncio",
]
"""Event loops, as parameters of a test or fixture."""

_LISTENING = re.compile(r"Listening on (\S+)")
# Interpreters with coverage or in development mode start slowly.
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 30.0


class ServerProcess:
    """
    A `daphne-like` command under test.

    Attributes:
        urls: What it says it listens on, e.g. ``http://127.0.0.1:45678``.
        process: The process.
    """

    def __init__(self, arguments: tuple[str, ...], **options: Any) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.update(options.pop("environment", {}))
        program = options.pop("program", ("-m", "daphne_like"))
        options.setdefault("cwd", APPLICATIONS)
        options.setdefault("stdin", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            **options,
        )
        self.urls: list[str] = []
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self.urls += _LISTENING.findall(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """Everything it has written, on both streams."""
        with self._changed:
            return "".join(self._lines)

    @property
    def url(self) -> str:
        """The first address it listens on."""
        return self.urls[0]

    @property
    def port(self) -> int:
        """The port of the first address."""
        return int(self.url.rpartition(":")[2])

    @property
    def socket_path(self) -> str:
        """The path of its Unix socket."""
        (url,) = (url for url in self.urls if url.startswith("unix:"))
        return url.removeprefix("unix:")

    def wait_for_log(self, pattern: str, timeout: float = _START_TIMEOUT) -> str:
        """Wait until what it has written matches, and return the match."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                text = "".join(self._lines)
                if found := re.search(pattern, text):
                    return found.group()
                remaining = deadline - time.monotonic()
                ended = not self._reader.is_alive()
                if remaining <= 0 or ended:
                    pytest.fail(f"no {pattern!r} in the log:\n{text}")
                self._changed.wait(min(remaining, 0.5))

    def close_stdin(self) -> None:
        """End its standard input, which the test has made a pipe."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = _STOP_TIMEOUT) -> int:
        """Wait for its end; return the exit status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def stop(self) -> int:
        """End it as a supervisor would; return the exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it, come what may."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(_STOP_TIMEOUT)


Serve = Callable[..., ServerProcess]


@contextmanager
def launching() -> Iterator[Serve]:
    """Start servers without waiting for anything; at the end, kill them."""
    started: list[ServerProcess] = []

    def launch(*arguments: str, **options: Any) -> ServerProcess:
        server = ServerProcess(arguments, **options)
        started.append(server)
        return server

    try:
        yield launch
    finally:
        for server in started:
            server.kill()


def serving(launch: Serve) -> Serve:
    """Make ``launch`` choose a free port, and wait until the server listens."""

    def serve(application: str, *options: str, **keywords: Any) -> ServerProcess:
        bound = {"-u", "--uds", "-e", "-p", "-b", "--fd"} & set(options)
        where = () if bound else ("-p", "0")
        server = launch(application, *where, *options, **keywords)
        server.wait_for_log("Listening on")
        return server

    return serve


@contextmanager
def serving_until_done() -> Iterator[Serve]:
    """
    Start servers that several tests share, and stop them in good order.

    Whatever the tests did, in the end each server must stop by itself: no
    application instance may be left over for which it would wait.
    """
    with launching() as launch:
        started: list[ServerProcess] = []
        start = serving(launch)

        def serve(application: str, *options: str, **keywords: Any) -> ServerProcess:
            server = start(application, *options, **keywords)
            started.append(server)
            return server

        yield serve
        for server in started:
            assert 0 == server.stop(), server.log
