"""
Development: start anew when source files change, and show what keeps it from that.

:class:`Watcher` calls the supervisor when files have changed; a process of its own
looks for that (:mod:`.changes`). :func:`load_or_explain` is for the worker: an
application that can't be loaded, or refuses to start, becomes a page that tells why,
until the next change.

Tests: ``tests/unit/supervisor/test_reload.py``, ``tests/integration/test_reload.py``.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from html import escape
from typing import TYPE_CHECKING, Any

from daphne_like.asgi.loading import explain
from daphne_like.errors import ApplicationLoadError, SettingsError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send
    from daphne_like.settings import WorkerSettings

__all__ = ["Watcher", "load_or_explain"]

_logger = logging.getLogger("daphne_like.server")

# The same search path, whatever the supervisor was started with; and until it is there
# not the current directory, where the application may have a module "json".
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from daphne_like.supervisor.changes import main; main(sys.argv[1:])"
)

_CHUNK_BYTES = 65536


class Watcher:
    """
    Tells the supervisor which source files have changed.

    Args:
        settings: Which files, and how long it must be quiet after a change.
        app_dir: Where the application is; watched beside the current directory
            where the settings name none.

    Raises:
        SettingsError: What is to be watched is no directory.
    """

    def __init__(self, settings: WorkerSettings, app_dir: str) -> None:
        self._directories = _directories(settings.reload_dir, app_dir)
        self._settings = json.dumps(
            {
                "directories": self._directories,
                "include": settings.reload_include,
                "exclude": settings.reload_exclude,
                "delay": settings.reload_delay,
            }
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def start(
        self, loop: asyncio.AbstractEventLoop, changed: Callable[[list[str]], None]
    ) -> None:
        """
        Watch from now on.

        Args:
            loop: Calls ``changed`` while it runs.
            changed: Called with paths that have changed, some of them where there
                are many.
        """
        self._loop = loop
        self._changed = changed
        self._rest = b""
        self._process = process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), self._settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What a terminal sends to all is for the supervisor to obey.
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        loop.add_reader(process.stdout.fileno(), self._read)

    def stop(self) -> None:
        """Watch no more."""
        process = self._process
        if process is None:
            return
        self._close(process)
        process.kill()
        process.wait()

    def abandon(self) -> None:
        """Close what a forked process has of it, without a change to the original."""
        process = self._process
        if process is None:
            return
        self._close(process)
        # It is no child of this process, so nobody is to wait for its end.
        process.returncode = 0

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        self._loop.remove_reader(process.stdout.fileno())
        process.stdin.close()
        process.stdout.close()

    def _read(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdout is not None
        try:
            data = os.read(process.stdout.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(process)
            _logger.error(
                "Changes of files go unnoticed: the process that watches has ended "
                "with status %s",
                process.wait(),
            )
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        if "watching" in message:
            where = ", ".join(self._directories)
            if message["watching"] == "watchfiles":
                _logger.info("Watching %s for changes", where)
            else:
                _logger.info(
                    "Looking twice a second for changes in %s; sooner and cheaper %s",
                    where,
                    message["because"],
                )
            return
        names = [_short(path) for path in message["changed"]]
        more = f" and {message['more']} more" if message["more"] else ""
        _logger.info("Changed: %s%s", ", ".join(names), more)
        self._changed(message["changed"])


def load_or_explain(
    load: Callable[[], ASGIApplication], lifespan: str = "auto"
) -> ASGIApplication:
    """
    Return the application, or one which tells why there is none.

    Args:
        load: Loads it; called once.
        lifespan: The setting: ``on`` makes what a lifespan raises a failure, too.

    Returns:
        What answers with the reason, too, when the application loads, but its
        lifespan fails.
    """
    try:
        return _Explained(load(), lifespan == "on")
    except ApplicationLoadError as error:
        reason = explain(error)
    except SystemExit as end:
        reason = f"The application has ended the program: exit status {end.code}"
    except Exception as error:  # noqa: BLE001
        # With daphne_compat it comes as the application has raised it.
        reason = "".join(traceback.format_exception(error)).rstrip("\n")
    _logger.error("%s", reason)
    return _page(reason)


class _Explained:
    """An application, until it says that it can't start: then the reason."""

    def __init__(self, application: ASGIApplication, lifespan_needed: bool) -> None:
        self._application = application
        self._lifespan_needed = lifespan_needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "lifespan.startup.failed":
                reason = str(message.get("message", "")) or "no reason given"
                self._explain(reason)
                message = {"type": "lifespan.startup.complete"}
            await send(message)

        try:
            await self._application(scope, receive, sent)
        except Exception as error:
            if started or not self._lifespan_needed:
                raise
            self._explain("".join(traceback.format_exception(error)).rstrip("\n"))
            await send({"type": "lifespan.startup.complete"})

    def _explain(self, reason: str) -> None:
        reason = f"Application startup failed: {reason}"
        _logger.error("%s", reason)
        self._application = _page(reason)


def _page(reason: str) -> ASGIApplication:
    """Return an application that answers everything with a reason."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # With lifespan = on nothing would serve the page.
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        accepted = b",".join(v for k, v in scope["headers"] if k == b"accept")
        if b"text/html" in accepted:
            kind, body = b"text/html; charset=utf-8", _html(reason)
        else:
            kind, body = b"text/plain; charset=utf-8", f"{reason}\n"
        headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        # Half a pair of surrogates is possible in a traceback.
        text = body.encode("utf-8", "backslashreplace")
        await send({"type": "http.response.body", "body": text})

    return application


def _html(reason: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        "<title>The application doesn't start</title>"
        "<style>:root{color-scheme:light dark}body{font-family:sans-serif;margin:2em}"
        "pre{white-space:pre-wrap}</style></head>\n"
        f"<body><h1>The application doesn't start</h1><pre>{escape(reason)}</pre>"
        "<p>It is tried again when a file changes.</p></body>\n</html>\n"
    )


def _directories(named: tuple[str, ...], app_dir: str) -> list[str]:
    """Return absolute paths of what is to be watched."""
    here = os.getcwd()  # noqa: PTH109 - pathlib is slow to import
    paths = [os.path.abspath(name) for name in named or (here, app_dir)]  # noqa: PTH100
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112
            name = "reload_dir" if named else "app_dir"
            raise SettingsError(f"{name} {path} is no directory")
    if not named and paths[1].startswith(f"{here}{os.sep}"):
        del paths[1]
    return list(dict.fromkeys(paths))


def _short(path: str) -> str:
    """Return a path as the user would write it."""
    here = f"{os.getcwd()}{os.sep}"  # noqa: PTH109
    return path.removeprefix(here)
