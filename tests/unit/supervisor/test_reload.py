"""Development: who is told of changes, and what is shown while nothing starts."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stepped_loop import SteppedLoop

from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.errors import ApplicationLoadError, SettingsError
from daphne_like.settings import WorkerSettings
from daphne_like.supervisor.orders import Cut, Kill, Leave, Start, Stop
from daphne_like.supervisor.reload import Watcher, load_or_explain
from daphne_like.supervisor.workforce import Workforce

# -- The watcher ----------------------------------------------------------------


class FakeProcess:
    """The process that watches, as far as its pipes go."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.settings = json.loads(command[-1])
        self.returncode: int | None = None
        self.killed = False
        reading, self._writing = os.pipe()
        self.stdout = os.fdopen(reading, "rb", 0)
        self.stdin = io.BytesIO()

    def write(self, data: bytes) -> None:
        """Write to standard output."""
        os.write(self._writing, data)

    def tell(self, **message: object) -> None:
        """Write a message to standard output."""
        self.write(json.dumps(message).encode() + b"\n")

    def end(self) -> None:
        """End by itself."""
        os.close(self._writing)

    def kill(self) -> None:
        """End."""
        self.killed = True
        self.end()

    def wait(self) -> int:
        """Tell the exit status."""
        self.returncode = 1
        return self.returncode


class Watched:
    """A watcher over a fake process, and what it has called."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, loop: SteppedLoop, **settings: Any
    ) -> None:
        self.loop = loop
        self.changed: list[list[str]] = []
        started: list[FakeProcess] = []

        def start(command: list[str], **options: Any) -> FakeProcess:
            started.append(FakeProcess(command, **options))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", start)
        self.watcher = Watcher(WorkerSettings(reload=True, **settings), ".")
        self.watcher.start(loop, self.changed.append)
        [self.process] = started


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    """Make a loop for the supervisor."""
    loop = SteppedLoop()
    yield loop
    loop.finish()


@pytest.fixture
def watched(
    monkeypatch: pytest.MonkeyPatch, loop: SteppedLoop, tmp_path: Path
) -> Iterator[Watched]:
    """Watch a directory, and stop in the end."""
    monkeypatch.chdir(tmp_path)
    watched = Watched(monkeypatch, loop)
    yield watched
    watched.watcher.stop()


def test_the_supervisor_is_called_with_what_has_changed(
    watched: Watched, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Each group of changes is one call, and one line which names the files."""
    caplog.set_level(logging.INFO)
    watched.process.tell(changed=[f"{tmp_path}/main.py", "/else/where.py"], more=0)
    watched.process.tell(changed=[f"{tmp_path}/a.py"], more=12)
    watched.loop.settle()

    assert [
        [f"{tmp_path}/main.py", "/else/where.py"],
        [f"{tmp_path}/a.py"],
    ] == watched.changed
    assert [
        "Changed: main.py, /else/where.py",
        "Changed: a.py and 12 more",
    ] == caplog.messages


def test_what_comes_in_pieces_is_put_together(watched: Watched) -> None:
    """A pipe may be read in the middle of a line."""
    line = json.dumps({"changed": ["/a.py"], "more": 0}).encode() + b"\n"
    for byte in line:
        assert [] == watched.changed
        watched.process.write(bytes([byte]))
        watched.loop.settle()

    assert [["/a.py"]] == watched.changed


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"watching": "watchfiles"}, "Watching {here} for changes"),
        (
            {"watching": "polling", "because": "so"},
            "Looking twice a second for changes in {here}; sooner and cheaper so",
        ),
    ],
)
def test_it_is_logged_how_files_are_watched(
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    message: dict[str, str],
    line: str,
) -> None:
    """Who wonders why changes come late finds the way to make it better."""
    caplog.set_level(logging.INFO)
    watched.process.tell(**message)
    watched.loop.settle()

    assert [line.format(here=tmp_path)] == caplog.messages


def test_a_stopped_watcher_calls_no_more(watched: Watched) -> None:
    """What had changed before is not told after the end."""
    watched.process.tell(changed=["/a.py"], more=0)
    watched.watcher.stop()
    watched.watcher.stop()
    watched.loop.settle()

    assert [] == watched.changed
    assert watched.process.killed
    assert watched.process.stdin.closed


def test_a_watcher_that_fails_is_one_line(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes on, and says that it doesn't see changes."""
    watched.process.end()
    watched.loop.settle()

    [line] = caplog.messages
    assert "Changes of files go unnoticed" in line
    assert line.endswith("ended with status 1")


def test_a_worker_leaves_the_watcher_to_the_supervisor(watched: Watched) -> None:
    """A forked worker closes its pipes, and the watcher lives on."""
    watched.watcher.abandon()
    watched.watcher.abandon()

    assert not watched.process.killed
    assert watched.process.stdin.closed
    assert 0 == watched.process.returncode
    watched.process.end()


def test_the_current_directory_is_watched_by_default(
    monkeypatch: pytest.MonkeyPatch, loop: SteppedLoop, tmp_path: Path
) -> None:
    """And that of the application, where it is elsewhere."""
    (tmp_path / "here" / "src").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def directories(app_dir: str, *named: str) -> list[str]:
        settings = WorkerSettings(reload=True, reload_dir=named)
        return Watcher(settings, app_dir)._directories

    here = str(tmp_path / "here")
    assert [here] == directories(".")
    assert [here] == directories("src")
    assert [here, str(tmp_path / "there")] == directories("../there")
    assert [f"{here}/src"] == directories(".", "src", "./src")


@pytest.mark.parametrize(
    ("settings", "app_dir", "error"),
    [
        ({"reload_dir": ("nowhere",)}, ".", r"reload_dir .*/nowhere is no directory"),
        ({}, "nowhere", r"app_dir .*/nowhere is no directory"),
    ],
)
def test_a_directory_that_is_missing_is_refused(
    settings: dict[str, Any], app_dir: str, error: str
) -> None:
    """A misspelt directory would never show a change."""
    with pytest.raises(SettingsError, match=error):
        Watcher(WorkerSettings(reload=True, **settings), app_dir)


def test_the_watcher_is_told_what_counts(
    monkeypatch: pytest.MonkeyPatch, loop: SteppedLoop, tmp_path: Path
) -> None:
    """Patterns and delay reach the process that watches."""
    watched = Watched(
        monkeypatch,
        loop,
        reload_dir=str(tmp_path),
        reload_include=("*.html",),
        reload_exclude=("build",),
        reload_delay=2,
    )
    watched.watcher.stop()

    assert {
        "directories": [str(tmp_path)],
        "include": ["*.html"],
        "exclude": ["build"],
        "delay": 2.0,
    } == watched.process.settings


# -- Who is replaced --------------------------------------------------------------


@pytest.fixture
def workforce() -> Workforce:
    """Have one worker which serves, in development."""
    workforce = Workforce(WorkerSettings(reload=True), lambda: 100.0)
    assert [Start(0)] == workforce.due()
    workforce.became_ready(workforce.started(0))
    assert [] == workforce.due()
    return workforce


def test_a_change_replaces_all_at_once(workforce: Workforce) -> None:
    """The new worker doesn't wait for the old one, which waits for nothing."""
    [old] = workforce.ready
    workforce.restart()

    assert [Stop(old, restarting=True), Cut(old), Start(0)] == workforce.due()
    new = workforce.started(0)
    assert not workforce.is_renewed
    workforce.became_ready(new)
    assert workforce.is_renewed


def test_nothing_is_started_before_the_next_change(workforce: Workforce) -> None:
    """What couldn't start will not be able to in a second either."""
    [old] = workforce.ready
    workforce.restart()
    workforce.due()
    workforce.ended(old, 0, "exit status 0")
    workforce.ended(workforce.started(0), 1, "exit status 1")
    assert [] == workforce.due()

    workforce.restart()
    assert [Start(0)] == workforce.due()


def test_a_start_that_hangs_is_ended_and_waits_for_a_change() -> None:
    """Nobody starts once more what blocks, until somebody has saved a file."""
    now = [100.0]
    workforce = Workforce(WorkerSettings(reload=True), lambda: now[0])
    workforce.due()
    worker = workforce.started(0)
    workforce.starting(worker, 60.0)
    now[0] += 100.0

    [kill] = workforce.due()
    assert isinstance(kill, Kill)
    workforce.ended(worker, -9, "killed by SIGKILL")
    assert [] == workforce.due()
    workforce.restart()
    assert [Start(0)] == workforce.due()


@pytest.mark.parametrize(
    ("status", "action"), [(3, []), (2, [Leave(2)]), (1, [Leave(1)])]
)
def test_only_the_application_is_waited_for(status: int, action: list[Leave]) -> None:
    """A wrong setting, or an address in use, ends the first start."""
    workforce = Workforce(WorkerSettings(reload=True), lambda: 100.0)
    workforce.due()
    workforce.ended(workforce.started(0), status, f"exit status {status}")

    assert action == workforce.due()


# -- What is shown --------------------------------------------------------------


class Asked:
    """One exchange with an application."""

    def __init__(self, loop: SteppedLoop, application: Any) -> None:
        self._loop = loop
        self._application = application

    def __call__(self, kind: str, *headers: tuple[bytes, bytes]) -> list[Message]:
        """Return what the application sends."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": f"{kind}.startup"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": kind, "headers": list(headers)}
        self._loop.do(self._application(scope, receive, send))
        return sent


def refuse() -> Any:
    """Load an application which has an error."""
    try:
        exec("1 / 0", {})
    except ZeroDivisionError as error:
        raise ApplicationLoadError("raised while importing main:app") from error


def test_a_broken_application_is_a_page_with_its_traceback(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser shows what the log has: the user's traceback, and nothing of it runs."""
    ask = Asked(loop, load_or_explain(refuse))
    start, body = ask("http", (b"accept", b"text/html,*/*"))

    assert 500 == start["status"]
    assert (b"content-type", b"text/html; charset=utf-8") in start["headers"]
    assert b"ZeroDivisionError: division by zero" in body["body"]
    assert b"File &quot;&lt;string&gt;&quot;, line 1" in body["body"]
    assert "ZeroDivisionError: division by zero" in caplog.text


def test_other_clients_get_plain_text(loop: SteppedLoop) -> None:
    """A script, or curl, has no use for HTML."""
    start, body = Asked(loop, load_or_explain(refuse))("http")

    assert 500 == start["status"]
    assert (b"content-type", b"text/plain; charset=utf-8") in start["headers"]
    assert body["body"].endswith(b"raised while importing main:app\n")


def test_a_broken_application_denies_websockets(loop: SteppedLoop) -> None:
    """A client of WebSockets fails at once, and may try again."""
    sent = Asked(loop, load_or_explain(refuse))("websocket")

    assert [{"type": "websocket.close"}] == sent


def test_a_broken_application_starts(loop: SteppedLoop) -> None:
    """Else nobody would show the page with lifespan = on."""
    complete = {"type": "lifespan.startup.complete"}

    assert [complete] == Asked(loop, load_or_explain(refuse))("lifespan")


@pytest.mark.parametrize("lifespan", ["on", "auto"])
def test_a_lifespan_that_raises_is_shown_where_it_is_required(
    loop: SteppedLoop, lifespan: str
) -> None:
    """Elsewhere it says that the application takes no part."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("no database")

    ask = Asked(loop, load_or_explain(lambda: application, lifespan))

    if lifespan == "auto":
        with pytest.raises(ValueError, match="no database"):
            ask("lifespan")
        return
    assert [{"type": "lifespan.startup.complete"}] == ask("lifespan")
    _, body = ask("http")
    assert body["body"].startswith(b"Application startup failed: Traceback")
    assert body["body"].endswith(b"ValueError: no database\n")


def test_a_lifespan_that_ends_badly_later_is_no_failed_start(
    loop: SteppedLoop,
) -> None:
    """The application has started; its requests are its own."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        Asked(loop, load_or_explain(lambda: application, "on"))("lifespan")


def test_an_application_that_exits_is_a_page_too(loop: SteppedLoop) -> None:
    """A missing setting, for instance, which the next save may bring."""

    def load() -> Any:
        raise SystemExit("no database")

    _, body = Asked(loop, load_or_explain(load))("http")

    assert b"has ended the program: exit status no database" in body["body"]


def test_a_failed_startup_is_shown_instead_of_the_application(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """The server starts, and each request is answered with the reason."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert "lifespan" == scope["type"]
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    ask = Asked(loop, load_or_explain(lambda: application))

    assert [{"type": "lifespan.startup.complete"}] == ask("lifespan")
    _, body = ask("http")
    assert b"Application startup failed: no database\n" == body["body"]
    assert ["Application startup failed: no database"] == caplog.messages


def test_an_application_that_starts_is_served_as_it_is(loop: SteppedLoop) -> None:
    """In development nothing but a failure is different."""
    seen: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await send({"type": f"{scope['type']}.startup.complete"})

    ask = Asked(loop, load_or_explain(lambda: application))

    assert [{"type": "lifespan.startup.complete"}] == ask("lifespan")
    assert [{"type": "http.startup.complete"}] == ask("http")
    assert ["lifespan", "http"] == seen
