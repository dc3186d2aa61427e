"""Development with --reload: files change, and what is served changes with them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from clients import get
from raw_http import connect, read_to_end
from server_process import Serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

from daphne_like.settings import WorkerSettings
from daphne_like.supervisor.reload import Watcher

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="supervisors need what Unix has"
)

# An event that must come, comes within this. Seconds.
_TIMEOUT = 30.0

WAYS = [
    pytest.param(
        "watchfiles",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("watchfiles") is None,
            reason="watchfiles is not installed",
        ),
    ),
    "polling",
]
"""How changes are noticed, as parameters of a test or fixture."""


def without_watchfiles(folder: Path) -> str:
    """Return a search path on which importing watchfiles fails."""
    (folder / "watchfiles.py").write_text("raise ImportError\n", "utf-8")
    return str(folder)


# -- The watcher alone ----------------------------------------------------------


class Watching:
    """A watcher with its process, and a loop which runs while a test waits."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder = folder
        self.loop = loop
        self.groups: list[list[str]] = []
        settings = WorkerSettings(
            reload=True, reload_dir=(str(folder),), reload_delay=0.1
        )
        self.watcher = Watcher(settings, ".")
        self.watcher.start(loop, self.groups.append)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process which watches."""
        assert self.watcher._process is not None
        return self.watcher._process

    def until(self, text: str, caplog: pytest.LogCaptureFixture) -> None:
        """Run the loop until a text is in the log."""
        deadline = time.monotonic() + _TIMEOUT
        while not re.search(text, caplog.text):
            assert time.monotonic() < deadline, caplog.text
            self.loop.run_until_complete(asyncio.sleep(0.02))


@pytest.fixture(params=WAYS)
def watching(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Watching]:
    """Watch a directory, from before the test on."""
    caplog.set_level("INFO")
    if request.param == "polling":
        (tmp_path / "path").mkdir()
        monkeypatch.syspath_prepend(without_watchfiles(tmp_path / "path"))
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    with closing(asyncio.new_event_loop()) as loop:
        watching = Watching(folder, loop)
        watching.until(
            "Watching" if request.param == "watchfiles" else "Looking twice", caplog
        )
        yield watching
        watching.watcher.stop()


def test_a_saved_file_is_noticed(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """By the system's own events, and by looking at files where there are none."""
    path = watching.folder / "package" / "views.py"
    (watching.folder / "notes.txt").write_text("irrelevant", "utf-8")
    path.write_text("x = 1", "utf-8")
    watching.until("Changed:", caplog)

    assert [[str(path)]] == watching.groups


def test_files_of_a_new_directory_are_noticed(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """What is watched grows with the project."""
    new = watching.folder / "new"
    new.mkdir()
    (new / "__init__.py").write_text("", "utf-8")
    watching.until("Changed:", caplog)
    watching.groups.clear()
    caplog.clear()
    (new / "models.py").write_text("", "utf-8")
    watching.until("models.py", caplog)

    assert [str(new / "models.py")] in watching.groups


def test_nothing_watches_when_the_supervisor_is_gone(watching: Watching) -> None:
    """The process ends with its standard input, whatever has closed that."""
    process = watching.process
    assert process.stdin is not None
    process.stdin.close()

    assert 0 == process.wait(_TIMEOUT)


def test_modules_of_the_application_are_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python runs programs like the watcher with the current directory in front."""
    caplog.set_level("INFO")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')", "utf-8")
    monkeypatch.chdir(tmp_path)
    with closing(asyncio.new_event_loop()) as loop:
        watching = Watching(tmp_path, loop)
        try:
            watching.until("Watching|Looking twice", caplog)
        finally:
            watching.watcher.stop()


def test_a_killed_watcher_is_told_of(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, and nothing else happens."""
    os.kill(watching.process.pid, signal.SIGKILL)
    watching.until("Changes of files go unnoticed", caplog)

    assert [] == watching.groups


# -- The server -------------------------------------------------------------------

_SITE = """
import asyncio, os, time

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
    else:
        if scope["path"] == "/slow":
            print("waiting", flush=True)
            await asyncio.sleep(3600)
        if scope["path"] == "/block":
            print("blocking", flush=True)
            time.sleep(3600)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": TEXT})

TEXT = b"@TEXT@"
"""

_FAILING_LIFESPAN = """
async def application(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


class Site:
    """
    A module with an application, and the server which watches it.

    Attributes:
        folder: Where the module is.
        server: The process.
    """

    def __init__(
        self, folder: Path, serve: Serve, *options: str, **environment: str
    ) -> None:
        self.folder = folder
        self._module = folder / "site_of_test.py"
        self.write("first")
        self.server = serve(
            *("site_of_test:application", "--reload", "--reload-delay", "0.1"),
            *options,
            cwd=folder,
            # As for most people: what Python keeps of modules mustn't be in the way.
            environment={"PYTHONDONTWRITEBYTECODE": "", **environment},
        )
        self.server.wait_for_log("Watching|Looking twice")

    def write(self, text: str, above: str = "") -> None:
        """Write the module, so that it answers with a text."""
        self._module.write_text(above + _SITE.replace("@TEXT@", text), "utf-8")

    def write_source(self, source: str) -> None:
        """Write something else instead."""
        self._module.write_text(source, "utf-8")

    def get(self, **headers: str) -> httpx.Response:
        """Ask once; whoever connects is served, now or a little later."""
        return get(f"{self.server.url}/", headers=headers, timeout=_TIMEOUT)

    def wait_for(self, text: str) -> httpx.Response:
        """Ask until an answer has a text in it."""
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            # Only what the old worker had accepted may be cut.
            with suppress(httpx.ReadError, httpx.RemoteProtocolError):
                if text in (answer := self.get()).text:
                    return answer
            time.sleep(0.02)
        pytest.fail(f"no {text!r} in {self.server.log}")


@pytest.fixture
def site(tmp_path: Path, serve: Serve) -> Site:
    """Serve a site with --reload."""
    return Site(tmp_path, serve)


@pytest.mark.parametrize("way", WAYS)
def test_a_change_is_served(tmp_path: Path, serve: Serve, way: str) -> None:
    """Save, and the next request is answered by the new code; none is refused."""
    environment = {}
    if way == "polling":
        (tmp_path / "path").mkdir()
        added = without_watchfiles(tmp_path / "path")
        paths = [added, os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    site = Site(tmp_path, serve, **environment)
    assert "first" == site.get().text

    site.write("second")
    site.wait_for("second")

    assert ("watchfiles: pip install" in site.server.log) == (way == "polling")
    assert "Changed: site_of_test.py" in site.server.log
    assert 0 == site.server.stop()


@pytest.mark.parametrize(
    ("mistake", "shown"),
    [
        ("def", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise SystemExit(7)", "has ended the program: exit status 7"),
        (_FAILING_LIFESPAN, "Application startup failed: no database"),
    ],
)
def test_a_mistake_is_shown_and_the_next_save_mends_it(
    site: Site, mistake: str, shown: str
) -> None:
    """Browser and log say what is wrong, and the server waits for the next save."""
    site.write_source(f"{mistake}\n")
    answer = site.wait_for(shown)

    assert 500 == answer.status_code
    assert "<h1>" in site.get(accept="text/html").text
    site.server.wait_for_log(re.escape(shown))
    site.write("better")
    site.wait_for("better")
    assert 0 == site.server.stop()


def test_a_page_is_shown_where_a_lifespan_is_required(
    tmp_path: Path, serve: Serve
) -> None:
    """With --lifespan on, too, mistakes are shown instead of connections that wait."""
    site = Site(tmp_path, serve, "--lifespan", "on")
    site.write_source("def")
    site.wait_for("SyntaxError")
    site.write_source("async def application(scope, receive, send): 1 / 0\n")
    site.wait_for("ZeroDivisionError")
    site.write("better")
    site.wait_for("better")
    assert 0 == site.server.stop()


def test_two_saves_in_a_second_are_two(site: Site) -> None:
    """Python would take the older one for the newer: same second, same size."""
    second = int(time.time())
    for text in ("aaaaa", "bbbbb", "ccccc"):
        site.write(text)
        os.utime(site.folder / "site_of_test.py", (second, second))
        site.wait_for(text)
    assert 0 == site.server.stop()


def test_a_mistake_may_be_there_from_the_beginning(
    tmp_path: Path, serve: Serve
) -> None:
    """The server starts with what is there, and gets better with it."""
    (tmp_path / "other.py").write_text("def", "utf-8")
    server = serve("other:application", "--reload", cwd=tmp_path)

    assert "SyntaxError" in get(server.url).text
    assert 0 == server.stop()


def test_what_is_under_way_fails_fast(site: Site) -> None:
    """Nobody waits for answers of old code; WebSockets are asked to come back."""
    url = site.server.url
    with connect(url) as sock, connect_websocket(url.replace("http", "ws")) as socket:
        sock.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        site.server.wait_for_log("waiting")
        site.write("second")

        read_to_end(sock)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(_TIMEOUT)
    assert closed.value.rcvd is not None
    assert 1012 == closed.value.rcvd.code


def test_blocked_code_is_replaced_all_the_same(site: Site) -> None:
    """A request that blocks the old code doesn't keep the new code from serving."""
    with connect(site.server.url) as sock:
        sock.sendall(b"GET /block HTTP/1.1\r\nhost: x\r\n\r\n")
        site.server.wait_for_log("blocking")
        site.write("second")
        site.wait_for("second")
    site.server.signal(signal.SIGQUIT)

    assert 0 == site.server.wait()


def test_an_application_that_can_not_even_fail_waits_for_a_change(
    tmp_path: Path, serve: Serve
) -> None:
    """A start that takes too long is told, and the next save mends it."""
    site = Site(tmp_path, serve, "--timeout-startup", "0.2")
    site.write_source(
        "import asyncio\nasync def application(*_): await asyncio.sleep(3600)\n"
    )
    site.server.wait_for_log("couldn't start")
    site.write("better")

    site.wait_for("better")


def test_other_files_count_where_they_are_included(
    tmp_path: Path, serve: Serve
) -> None:
    """Templates which an application reads at its start, for instance."""
    site = Site(
        tmp_path, serve, "--reload-include", "*.html", "--reload-exclude", "build"
    )
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "made.html").write_text("", "utf-8")
    (tmp_path / "page.html").write_text("", "utf-8")
    site.server.wait_for_log(r"Changed: page\.html\n")
    site.server.wait_for_log("Serving what has changed")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--reload-dir", "nowhere"], r"reload_dir \S+/nowhere is no directory"),
        (["--access-log-format", "%(nothing)s"], "unknown atom"),
    ],
)
def test_a_wrong_setting_ends_the_start(
    launch: Serve, options: list[str], error: str
) -> None:
    """Only the application's own mistakes are waited for."""
    server = launch(
        "applications.lifecycle:application", "-p", "0", "--reload", *options
    )

    assert 2 == server.wait()
    assert re.search(error, server.log)


def test_nothing_is_left_of_a_killed_supervisor(site: Site) -> None:
    """Worker and watcher notice, and end: nobody holds the log any more."""
    site.server.kill()

    assert "the supervisor has gone, stopping" in site.server.log
    assert not site.server._reader.is_alive()
