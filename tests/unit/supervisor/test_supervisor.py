"""The supervisor with workers that are no processes: what it tells, asks and obeys."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from daphne_like import process
from daphne_like.errors import SettingsError
from daphne_like.settings import Settings
from daphne_like.supervisor import processes, starting, supervisor
from daphne_like.supervisor.channel import Channel, Message
from daphne_like.supervisor.supervisor import Supervisor
from daphne_like.supervisor.worker import Assignment

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="workers need a POSIX system"
)


class FakeWorker:
    """
    A worker which isn't there.

    Attributes:
        pid: Its number.
        told: What it was told.
        status: How it has ended.
    """

    def __init__(self, system: System, assignment: Assignment, pid: int) -> None:
        self.pid = pid
        self.told: list[str] = []
        self.status: int | None = None
        self.answers: dict[str, Any] = {"connections": [{"worker": pid}]}
        self._system = system
        self.channel = Channel(SocketOf(assignment.channel))
        self.inspection = assignment.inspection
        self.channel.attach(system.loop, self._received, lambda: None)
        self.say("begins")
        self.say("starting", longest=60)
        if system.workers_start:
            self.say("ready", urls=["http://127.0.0.1:8000"])
            self.beat()

    def say(self, message: str, **details: object) -> None:
        """Tell the supervisor something."""
        self.channel.send(message=message, **details)

    def beat(self) -> None:
        """Show that it lives."""
        load = {"connections": 2, "in_flight": 1, "requests": 9, "rss": 2**25}
        self.say("beat", metrics=None, **load)

    def end(self, status: int) -> None:
        """Let its process end."""
        self.channel.close()
        self.status = status
        self._system.loop.call_soon(self._system.supervisor._reap)

    def _received(self, message: Message) -> None:
        self.told.append(message["do"])
        if message["do"] == "drain":
            self.say("leaving")
            self.say("closing", metrics=None)
            self.end(0)
        elif message["do"] in self.answers:
            answer = self.answers[message["do"]]
            self.say("answer", id=message["id"], answer=answer)

    def signalled(self, number: int) -> None:
        """Obey a signal."""
        self.told.append(signal.Signals(number).name)
        if number == signal.SIGUSR2:
            os.write(self.inspection, b"in the middle of something")
        else:
            self.end(-number)


def SocketOf(channel: Channel) -> Any:  # noqa: N802 - reads as the class it makes
    """Return the socket of the other end, which the supervisor closes."""
    return channel._socket.dup()


class System:
    """Processes and signals, as far as the supervisor sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[FakeWorker] = []
        self.workers_start = True
        self.failures = 0
        monkeypatch.setattr(starting, "spawn", self.spawn)
        monkeypatch.setattr(os, "kill", self.kill)
        monkeypatch.setattr(processes, "_INSPECTION_TIMEOUT", 0.0)
        monkeypatch.setattr(processes, "_ANSWER_TIMEOUT", 0.2)
        monkeypatch.setattr(supervisor, "_LOOK_INTERVAL", 0.05)
        monkeypatch.setattr(os, "waitpid", self.waitpid)

    def spawn(self, assignment: Assignment, program: object) -> Any:
        """Start a worker."""
        if self.failures:
            self.failures -= 1
            raise OSError(11, "Resource temporarily unavailable")
        pid = 100_000 + assignment.number
        self.workers.append(FakeWorker(self, assignment, pid))
        return SimpleNamespace(pid=pid, returncode=None)

    def kill(self, pid: int, number: int) -> None:
        """Send a signal."""
        [worker] = (worker for worker in self.workers if worker.pid == pid)
        worker.signalled(number)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        """Tell whether a process has ended."""
        [worker] = (worker for worker in self.workers if worker.pid == pid)
        if worker.status is None:
            return 0, 0
        status = worker.status
        return pid, status << 8 if status >= 0 else -status

    def run(
        self, script: Callable[[Supervisor], Awaitable[None]], **overrides: Any
    ) -> int | Assignment:
        """Run a supervisor with a script beside it; return the exit status."""
        overrides = {"workers": 2, "worker_start": "spawn", "port": 0, **overrides}
        self.supervisor = made = Supervisor(Settings.of(**overrides), Program())
        self.loop = made._loop
        failures: list[BaseException] = []

        async def play() -> None:
            try:
                await asyncio.wait_for(script(made), 20)
            except BaseException as error:
                failures.append(error)
                made._workforce.kill()
                made._look_soon()

        task = self.loop.create_task(play())
        status = made.run()
        assert task.done()
        if failures:
            raise failures[0]
        return status

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds."""
        while not condition():
            await asyncio.sleep(0.005)


class Program:
    """Serves nothing."""

    def load_application(self, settings: Settings) -> Any:
        """Return no application."""

    def make_server(self, application: object, settings: Settings) -> Any:
        """Return no server."""


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    """Fake processes."""
    return System(monkeypatch)


class Notifier:
    """What systemd hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def hear(*arguments: Any) -> None:
            self.heard.append(name)
            if name == "stopping":
                self.heard.append(arguments[0]())

        return hear


def test_a_life(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All workers are ready, all are replaced, all drain; and systemd hears of it."""
    caplog.set_level(logging.INFO)
    notifier: Any = Notifier()
    monkeypatch.setattr(process, "notifier_of_systemd", lambda: notifier)
    phases = []

    async def script(made: Supervisor) -> None:
        phases.append(made.phase)
        await system.until(lambda: made.phase == "ready")
        made.reload()
        await system.until(lambda: "The reload is over" in caplog.text)
        # The last one that was replaced may still be on its way.
        await system.until(lambda: len(made._workers) == 2)
        made.drain()
        phases.append(made.phase)
        made.reload()

    assert 0 == system.run(script)
    assert ["starting", "draining"] == phases
    assert 4 == len(system.workers)
    assert {("drain",)} == {tuple(worker.told) for worker in system.workers}
    assert caplog.text.count("Listening on http://127.0.0.1:8000 (2 workers)") == 1
    assert ["starting", "ready", "reloading", "reloaded", "stopping"] == (
        notifier.heard[:5]
    )
    assert "Stopping, workers which are left: 2" == notifier.heard[5]
    assert "close" == notifier.heard[-1]


def test_what_an_operator_can_ask(system: System) -> None:
    """Of all workers together, and of each; one that doesn't answer is left out."""

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        await system.until(
            lambda: all(w.load for w in made._workers.values()) and made._workers
        )
        status = await made.status()
        assert (2, 4, 2, 0) == tuple(
            status[name] for name in ("workers", "connections", "in_flight", "restarts")
        )
        first, second = await made.workers()
        assert ["ready", 9] == [first["phase"], second["requests"]]
        system.workers[0].answers.clear()
        assert [{"worker": 100_002}] == list(await made.connections())
        assert [] == list(await made.tasks())
        assert {} == await made.metrics()
        with pytest.raises(ValueError, match="from 1 to"):
            made.scale(0)
        made.scale(1)
        await system.until(lambda: len(made._workers) == 1)
        made.drain()

    assert 0 == system.run(script)


def test_signals(
    system: System, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each does what it says."""
    caplog.set_level(logging.INFO)

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        obey = made._signals
        obey[signal.SIGTTIN]()
        await system.until(lambda: len(made._workforce.ready) == 3)
        obey[signal.SIGTTOU]()
        await system.until(lambda: len(made._workers) == 2)
        obey[signal.SIGUSR1]()
        obey[signal.SIGUSR2]()
        await system.until(lambda: caplog.text.count("in the middle of something") == 2)
        monkeypatch.setattr(made._terminal, "has_hung_up", lambda: False)
        obey[signal.SIGHUP]()
        await system.until(lambda: "The reload is over" in caplog.text)
        for worker in system.workers:
            worker.answers["drain"] = None
            worker.channel._received = lambda message: None
        obey[signal.SIGTERM]()
        await asyncio.sleep(0)
        obey[signal.SIGTERM]()
        await asyncio.sleep(0)
        obey[signal.SIGTERM]()

    assert 1 == system.run(script)
    assert {"reopen_logs", "SIGUSR2"} <= set(system.workers[0].told)
    assert ["SIGKILL"] == system.workers[-1].told
    assert "SIGTERM: leaving at once" in caplog.text


def test_quitting(system: System) -> None:
    """Nobody is waited for, and that is no failure."""

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        made._signals[signal.SIGQUIT]()

    assert 0 == system.run(script)
    assert ["SIGKILL"] == system.workers[0].told


def test_a_closed_terminal(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the server, where an operator's signal would reload it."""

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        monkeypatch.setattr(made._terminal, "has_hung_up", lambda: True)
        made._signals[signal.SIGHUP]()

    assert 0 == system.run(script)


def test_one_that_starts_is_stopped_by_signal(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """It may not be able to listen yet, and serves nobody; the log tells who asked."""
    caplog.set_level(logging.INFO)
    system.workers_start = False

    async def script(made: Supervisor) -> None:
        await system.until(lambda: system.workers)
        made.drain()
        made.drain()

    assert 0 == system.run(script)
    assert 1 == caplog.text.count("Asked to drain: stopping")
    assert ["SIGTERM"] == system.workers[0].told


def test_a_stuck_worker_is_looked_into(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was doing stands in the log, with the reason of its end."""

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        made._workforce.workers[1].last_beat = -1000.0
        await system.until(lambda: len(system.workers) == 3)
        made.drain()

    assert 0 == system.run(script)
    assert ["SIGUSR2", "SIGKILL"] == system.workers[0].told
    assert "silent for 30 s\nin the middle of something" in caplog.text


def test_a_process_which_cannot_be_made(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again."""
    system.failures = 1

    async def script(made: Supervisor) -> None:
        await system.until(lambda: made.phase == "ready")
        made.drain()

    assert 0 == system.run(script)
    assert "A worker can't be started" in caplog.text


def test_settings_which_are_wrong(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found before anything is started; systemd hears why."""
    notifier: Any = Notifier()
    monkeypatch.setattr(process, "notifier_of_systemd", lambda: notifier)

    async def script(made: Supervisor) -> None:
        """Do nothing."""

    class Local(Program):
        """Can't be imported."""

    with pytest.raises(SettingsError, match="can't share one of Twisted's"):
        Supervisor(Settings.of(workers=2, endpoint="haproxy:tcp:0"), Program()).run()
    assert ["failed"] == notifier.heard
    with pytest.raises(SettingsError, match="must stand in a module"):
        Supervisor(Settings.of(workers=2, worker_start="spawn"), Local())
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", "win32")
        with pytest.raises(SettingsError, match="POSIX"):
            Supervisor(Settings.of(workers=2), Program())


def test_there_is_a_largest_number_of_workers(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """It is that of the setting, also for TTIN, which then does nothing."""

    async def script(made: Supervisor) -> None:
        made._workforce.scale(1024)
        made._scale_by(1)
        assert 1024 == made._workforce.target
        with pytest.raises(ValueError, match="from 1 to 1024"):
            made.scale(1025)
        made.scale(1024)
        made._workforce.kill()

    assert 0 == system.run(script)
