"""A worker's side: what it tells its supervisor, and what it does for it."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from event_loops import run_on

from daphne_like import server
from daphne_like.errors import LifespanFailed, SettingsError
from daphne_like.server import Server
from daphne_like.settings import Settings
from daphne_like.supervisor import worker
from daphne_like.supervisor.channel import Channel
from daphne_like.supervisor.worker import Assignment, Link, describe_tasks, serve


class FakeServer:
    """Notes what it is asked for."""

    urls = ("http://127.0.0.1:8000",)
    requests = 7
    requests_in_flight = 1
    connections: Any = ()
    metrics = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, *, restarting: bool = False) -> None:
        """Drain."""
        self.asked.append("restart" if restarting else "stop")

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.asked.append(name)


class Scene:
    """A link, and the supervisor's end of its channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.supervisor = Channel(ours)
        self.heard: list[Any] = []
        self.assignment = Assignment(3, Settings(), Channel(theirs), [], 0)
        self.link = Link(self.assignment)
        self.server = FakeServer()
        self.link.server = self.server  # type: ignore[assignment]

    def listen(self) -> None:
        """Hear what the worker says."""
        loop = asyncio.get_running_loop()
        self.supervisor.attach(loop, self.heard.append, lambda: None)
        self.link.starting(loop, 60)

    async def hear(self, message: str) -> Any:
        """Wait for a message."""
        while True:
            for heard in self.heard:
                if heard["message"] == message:
                    return heard
            await asyncio.sleep(0)

    def close(self) -> None:
        """Give the channel up."""
        self.link.close()
        self.supervisor.close()
        self.assignment.channel.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Make a scene."""
    scene = Scene()
    yield scene
    scene.close()


def play(script: Any) -> None:
    """Run a script, which has its time."""
    run_on("asyncio", asyncio.wait_for(script, 20))


def test_it_tells_how_it_is(scene: Scene) -> None:
    """From its first step to its last; that it lives from when it is ready on."""

    async def script() -> None:
        scene.link.begins()
        scene.listen()
        scene.link.ready("Listening")
        beat = await scene.hear("beat")
        scene.link.stopping(lambda: "", 30.0)
        scene.link.reloading()
        scene.link.reloaded("")
        scene.link.failed(LifespanFailed("no database"))
        scene.link.close()
        await scene.hear("closing")

        assert (7, 1, 0) == tuple(
            beat[name] for name in ("requests", "in_flight", "connections")
        )
        assert beat["rss"] > 2**20
        assert ["http://127.0.0.1:8000"] == (await scene.hear("ready"))["urls"]
        assert "no database" == (await scene.hear("failed"))["reason"]
        assert ["begins", "starting", "ready", "beat", "leaving"] == [
            heard["message"] for heard in scene.heard[:5]
        ]

    play(script())


def test_it_beats_while_it_drains(scene: Scene) -> None:
    """Also when it was never ready; a start without limit is told as such."""

    async def script() -> None:
        scene.listen()
        scene.link.starting(asyncio.get_running_loop(), float("inf"))
        scene.link.stopping(lambda: "", 30.0)
        await scene.hear("beat")

        assert 0 == scene.heard[1]["longest"]

    play(script())


def test_it_obeys(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Orders of the supervisor; it answers where that wants it."""

    async def script() -> None:
        scene.listen()
        tell = scene.supervisor.send
        tell(do="drain", restarting=True)
        tell(do="force")
        tell(do="reopen_logs")
        tell(do="reload_certificates")
        tell(do="connections", id=1)
        tell(do="dance")
        tell(do="tasks", id=2)
        while sum(heard["message"] == "answer" for heard in scene.heard) < 2:
            await asyncio.sleep(0)
        answers = {h["id"]: h["answer"] for h in scene.heard if "id" in h}

        assert ["restart", "force", "reopen_logs", "reload"] == scene.server.asked
        assert [] == answers[1]
        assert "thread" in {row["kind"] for row in answers[2]}
        assert "what isn't known" in caplog.text

    play(script())


def test_it_answers_although_something_fails(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The supervisor isn't kept waiting."""
    scene.link.server = None

    async def script() -> None:
        scene.listen()
        scene.supervisor.send(do="connections", id=1)

        assert (await scene.hear("answer"))["answer"] is None
        assert "can't be done" in caplog.text

    play(script())


def test_it_ends_without_its_supervisor(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever became of that one."""

    async def script() -> None:
        scene.listen()
        scene.supervisor.close()
        while not scene.server.asked:
            await asyncio.sleep(0)

        assert ["stop"] == scene.server.asked
        assert "the supervisor has gone" in caplog.text

    play(script())


def test_tasks_are_described() -> None:
    """Each with where it waits, down to the last await."""

    async def nap() -> None:
        await asyncio.sleep(3600)

    async def script() -> None:
        napping = asyncio.create_task(nap(), name="napping")
        await asyncio.sleep(0)
        text = describe_tasks(asyncio.get_running_loop())
        napping.cancel()

        assert "napping (most recent call last)" in text
        assert "in nap" in text

    play(script())

    assert "no event loop" in describe_tasks(None)


class Program:
    """Makes what the test says."""

    made: Any = None

    def load_application(self, settings: Settings) -> Any:
        """Return an application."""
        return "loaded"

    def make_server(self, application: Any, settings: Settings) -> Any:
        """Return a server."""
        return self.made


@pytest.fixture
def assignment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Assignment]:
    """Make what a worker gets; what it changes in the process is undone."""
    names = (*worker._IGNORED_SIGNALS, "SIGTERM", "SIGUSR2")
    before = {getattr(signal, n): signal.getsignal(getattr(signal, n)) for n in names}
    monkeypatch.setattr(os, "register_at_fork", lambda **functions: None)
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as inspection:
        yield Assignment(1, Settings(), Channel(theirs), [], inspection.fileno())
        inspection.seek(0)
        theirs.close()
    faulthandler.unregister(signal.SIGUSR2)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="needs POSIX signals")
def test_serving(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It leaves signals to the supervisor, and shows on demand what it does."""
    loaded: list[Any] = []

    def run(settings: Any, load: Any, make_server: Any, prepare: Any) -> None:
        loaded.append(load())
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGUSR2)
        prepare(make_server("app", Settings.of(unix_socket=str(tmp_path / "socket"))))

    monkeypatch.setattr(server, "run", run)
    program = Program()
    program.made = Server(program.load_application, fd=())  # type: ignore[arg-type]
    joined: list[Any] = []
    monkeypatch.setattr(
        Server, "join_supervisor", lambda self, *arguments: joined.append(arguments)
    )
    serve(assignment, program)
    os.lseek(assignment.inspection, 0, os.SEEK_SET)
    text = os.read(assignment.inspection, 65536)

    assert ["loaded"] == loaded
    assert 1 == len(joined)
    assert b"most recent call first" in text
    assert b"no event loop" in text


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="needs POSIX signals")
def test_a_server_of_another_kind(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It couldn't be watched over."""
    monkeypatch.setattr(
        server, "run", lambda settings, load, make_server, prepare: make_server(1, 2)
    )
    with pytest.raises(SettingsError, match="which is daphne_like's; NoneType"):
        serve(assignment, Program())
