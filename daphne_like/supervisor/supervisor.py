"""
The process which watches over those that serve.

It binds the addresses and keeps them, so that no client is refused while workers come
and go. It starts workers, hears from them, and does what
:class:`~daphne_like.supervisor.workforce.Workforce` decides. It serves nobody itself and
has no reactor: it runs an asyncio loop whose selector keeps nothing in the system, and
forks only while that loop rests, so that a worker has nothing to share with it.

Tests: ``tests/unit/supervisor/test_supervisor.py``,
``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from daphne_like import __version__, process
from daphne_like.errors import SettingsError, StartError
from daphne_like.listeners.bound import BoundEndpoints
from daphne_like.observability.logs import reopen_log_files
from daphne_like.operations.listener import OperationsListener
from daphne_like.process_setup import become_user, import_late_modules, set_title
from daphne_like.supervisor import starting, worker
from daphne_like.supervisor.channel import Channel, Message
from daphne_like.supervisor.orders import (
    Action,
    Cut,
    Kill,
    Leave,
    Phase,
    Start,
    Stop,
)
from daphne_like.supervisor.processes import WorkerProcess, describe_end
from daphne_like.supervisor.terminal import Terminal
from daphne_like.supervisor.totals import Totals
from daphne_like.supervisor.worker import Assignment, Program
from daphne_like.supervisor.workforce import Workforce
from daphne_like.winding_down import longest_stop

if TYPE_CHECKING:
    import subprocess

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.settings import Settings
    from daphne_like.supervisor.reload import Watcher

__all__ = ["Supervisor", "run"]

_logger = logging.getLogger("daphne_like.supervisor")

# How often it looks whether something is due.
_LOOK_INTERVAL = 1.0

_LARGEST_FORCE = 1024  # as of the setting


def run(settings: Settings, program: Program) -> int:
    """
    Serve with workers until a signal comes.

    In each worker, too, this returns in the end.

    Returns:
        The exit status.

    Raises:
        StartError: It can't be done.
    """
    outcome = Supervisor(settings, program).run()
    if isinstance(outcome, Assignment):
        worker.serve(outcome, program)
        return 0
    return outcome


class Supervisor:
    """
    Watches over workers, and obeys the operator.

    An :class:`~daphne_like.operations.interfaces.Operated`.

    Args:
        settings: All settings.
        program: Makes the server in each worker.

    Raises:
        SettingsError: A setting is wrong, or can't be had with workers.
    """

    def __init__(self, settings: Settings, program: Program) -> None:
        if sys.platform == "win32":
            raise SettingsError("workers need a POSIX system: this one serves alone")
        self._forks = starting.can_fork(settings.workers.worker_start)
        if not self._forks:
            starting.check_spawning(program)
        self._settings = settings
        self._program = program
        self._watcher: Watcher | None = None
        if settings.workers.reload:
            from daphne_like.supervisor.reload import Watcher

            self._watcher = Watcher(settings.workers, settings.app.app_dir)
        self._notifier = process.notifier_of_systemd()
        self._application: ASGIApplication | None = None
        self._bound: BoundEndpoints | None = None
        self._totals = Totals(settings.operations)
        self._operations = OperationsListener(
            self, settings.operations, self._totals.render
        )
        # What each slot listens on: by slot, by endpoint.
        self._sockets: dict[int, list[list[socket.socket]]] = {}
        self._selector = selectors.PollSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._workforce = Workforce(
            settings.workers,
            self._loop.time,
            longest_stop(settings),
            replaced=self._totals.replaced,
        )
        self._workers: dict[int, WorkerProcess] = {}
        self._to_start: deque[int] = deque()
        self._status: int | None = None
        self._looks_soon = False
        self._stop_signals = 0
        self._announced = False
        self._reloading = False
        self._renewing = False
        self._urls: Sequence[str] = ()
        self._began = time.monotonic()
        self._terminal = Terminal(self._loop.time)
        self._signals: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGINT: lambda: self._asked_to_stop("SIGINT"),
            signal.SIGTERM: lambda: self._asked_to_stop("SIGTERM"),
            signal.SIGQUIT: self._asked_to_quit,
            signal.SIGHUP: self._hung_up,
            signal.SIGTTIN: lambda: self._scale_by(1),
            signal.SIGTTOU: lambda: self._scale_by(-1),
            signal.SIGUSR1: self.reopen_logs,
            signal.SIGUSR2: self._inspect_all,
        }

    # -- The process ---------------------------------------------------------------

    def run(self) -> int | Assignment:
        """
        Supervise until all is over.

        Returns:
            The exit status; or, in a process which this one has forked, what that is
            to do.

        Raises:
            StartError: An address can't be bound, or the application not loaded.
        """
        try:
            self._prepare()
            self._loop.run_until_complete(self._operations.start())
        except StartError as error:
            self._close()
            if self._notifier is not None:
                self._notifier.failed(error)
            raise
        for number, obey in self._signals.items():
            self._loop.add_signal_handler(number, obey)
        self._loop.call_soon(self._look_again)
        if self._watcher is not None:
            self._watcher.start(self._loop, self._files_changed)
        if self._notifier is not None:
            self._notifier.starting(
                self._loop, self._settings.app.timeout_startup or inf
            )
        while self._status is None:
            self._loop.run_forever()
            # Now the loop rests.
            while self._to_start:
                assignment = self._start(self._to_start.popleft())
                if assignment is not None:
                    return assignment
        self._loop.run_until_complete(self._operations.stop())
        self._totals.close()
        if self._notifier is not None:
            self._notifier.close()
        self._close()
        return self._status

    def _prepare(self) -> None:
        """Bind what all workers listen on; load the application, if so wished."""
        # Each worker takes two descriptors here, or more of them (--reuse-port).
        process.raise_descriptor_limit()
        self._settings = process.with_sockets_of_systemd(self._settings)
        settings = self._settings
        if not self._forks:
            starting.check_sockets()
        self._bound = bound = BoundEndpoints(
            settings, reuse_port=settings.workers.reuse_port
        )
        for text, endpoint in (*bound.endpoints, *bound.redirects):
            if endpoint is None:
                raise SettingsError(
                    f"endpoint {text!r}: workers can't share one of Twisted's; it "
                    "needs a server of one process"
                )
        self._import_for_forks()
        # From here on nothing needs root: neither this process nor any worker.
        become_user(settings.process)
        set_title(settings.process, "supervisor")
        if settings.workers.preload:
            self._application = self._program.load_application(settings)
            if "twisted.internet.reactor" in sys.modules:
                raise SettingsError(
                    "preload: the application imports Twisted's reactor, which can't "
                    "be shared by processes"
                )

    def _import_for_forks(self) -> None:
        """Import what workers will need, so that they share it; but no reactor."""
        if not self._forks:
            return
        import_late_modules()
        importlib.import_module("twisted.internet.asyncioreactor")
        if self._settings.lifecycle.loop != "asyncio":
            with contextlib.suppress(ImportError):
                importlib.import_module("uvloop")

    def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        if self._bound is not None:
            self._bound.close()
        self._loop.close()

    def _sockets_of(self, slot: int) -> list[list[socket.socket]]:
        """Return what the worker in a slot listens on, by endpoint."""
        assert self._bound is not None
        if slot not in self._sockets:
            self._sockets[slot] = [
                list(endpoint.bind()) if slot == 0 else endpoint.siblings()
                for endpoint in self._bound.own
            ]
        return self._sockets[slot]

    # -- Starting --------------------------------------------------------------------

    def _start(self, slot: int) -> Assignment | None:
        """Start a worker; return its assignment in its own process, if that is a fork."""
        record = self._workforce.started(slot)
        with contextlib.ExitStack() as undoing:
            try:
                inspection = starting.nameless_file()
                undoing.callback(os.close, inspection)
                ours, theirs = socket.socketpair()
                undoing.callback(ours.close)
                undoing.callback(theirs.close)
                assignment = Assignment(
                    record.number,
                    self._settings,
                    Channel(theirs),
                    self._sockets_of(slot),
                    inspection,
                    self._application,
                )
                pid, child = self._make_process(assignment, slot, ours)
            except (OSError, StartError) as error:
                self._workforce.start_failed(record, str(error))
                self._look_soon()
                return None
            undoing.pop_all()
        if pid == 0:
            return assignment
        assignment.channel.close()
        channel = Channel(ours)
        made = WorkerProcess(self._loop, record, pid, channel, inspection, child=child)
        self._workers[record.number] = made
        made.listen(self._heard)
        _logger.debug("%s: started", made.name)
        return None

    def _make_process(
        self, assignment: Assignment, slot: int, ours: socket.socket
    ) -> tuple[int, subprocess.Popen[bytes] | None]:
        """Return the process id, 0 in a fork, and what else there is to know."""
        if not self._forks:
            child = starting.spawn(assignment, self._program)
            return child.pid, child

        def leave() -> None:
            ours.close()
            self._operations.close_in_child()
            self._totals.abandon()
            for other in self._workers.values():
                other.abandon()
            self._close_sockets(self._sockets.keys() - {slot}, kept=slot)
            if self._watcher is not None:
                self._watcher.abandon()

        return starting.fork(self._loop, self._selector, self._signals, leave), None

    def _close_sockets(self, slots: Iterable[int], kept: int) -> None:
        """
        Close what some slots listen on, but for what another one has, too.

        As long as such a socket is open, in whichever process, the system gives it
        connections.
        """
        shared = {id(sock) for bound in self._sockets[kept] for sock in bound}
        for slot in slots:
            for bound in self._sockets.pop(slot):
                for sock in bound:
                    if id(sock) not in shared:
                        sock.close()

    # -- What is to be done ------------------------------------------------------------

    def _look_again(self) -> None:
        self._loop.call_later(_LOOK_INTERVAL, self._look_again)
        self._terminal.look()
        self._look()
        self._totals.send()

    def _look_soon(self) -> None:
        if not self._looks_soon:
            self._looks_soon = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Do what is due."""
        self._looks_soon = False
        if self._to_start:
            return
        for action in self._workforce.due():
            self._do(action)
        given_up = [slot for slot in self._sockets if slot >= self._workforce.target]
        if given_up:
            self._close_sockets(given_up, kept=0)
        self._tell_news()

    def _do(self, action: Action) -> None:
        if isinstance(action, Start):
            self._to_start.append(action.slot)
            self._loop.stop()
        elif isinstance(action, Leave):
            self._status = action.status
            self._loop.stop()
        elif isinstance(action, Stop):
            self._workers[action.worker.number].stop(restarting=action.restarting)
        elif isinstance(action, Cut):
            self._workers[action.worker.number].tell("force")
        elif isinstance(action, Kill):
            made = self._workers[action.worker.number]
            made.kill(action.reason, inspect=action.inspect)

    def _tell_news(self) -> None:
        workforce = self._workforce
        if workforce.is_complete and not self._announced:
            self._announced = True
            for url in self._urls:
                _logger.info("Listening on %s (%d workers)", url, workforce.target)
            if self._notifier is not None:
                self._notifier.ready(self._listening())
        if self._renewing and workforce.is_renewed:
            self._renewing = False
            _logger.info("Serving what has changed")
        if self._reloading and workforce.is_complete and not workforce.is_rolling:
            self._reloading = False
            _logger.info("The reload is over")
            if self._notifier is not None:
                self._notifier.reloaded(self._listening())

    def _listening(self) -> str:
        return f"Listening on {', '.join(self._urls)}, workers: {len(self._workers)}"

    # -- What workers tell ---------------------------------------------------------------

    def _heard(self, made: WorkerProcess, message: Message) -> None:
        record, workforce = made.record, self._workforce
        kind = message.get("message")
        if kind == "beat":
            workforce.beat(record, message["requests"], message["rss"])
            self._totals.told(record.number, message["metrics"])
            return  # what follows from that has time until the next look
        if kind == "starting":
            workforce.starting(record, message["longest"])
        elif kind == "ready":
            self._urls = message["urls"]
            workforce.became_ready(record)
            _logger.debug("%s: ready", made.name)
        elif kind == "leaving":
            workforce.leaves(record)
        elif kind == "closing":
            workforce.fell_silent(record)
            self._totals.told(record.number, message["metrics"])
        self._look_soon()

    def _reap(self) -> None:
        """Find out whose process has ended."""
        for made in list(self._workers.values()):
            try:
                pid, status = os.waitpid(made.pid, os.WNOHANG)
            except ChildProcessError:
                # A library of a preloaded application waits for whatever ends.
                pid, status = made.pid, 1 << 8
            if pid:
                self._ended(made, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Wait for those of the application, which in a container are ours."""
        workers = {made.pid: made for made in self._workers.values()}
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in workers:  # it has ended just now
                    self._ended(workers[pid], os.waitstatus_to_exitcode(status))

    def _ended(self, made: WorkerProcess, status: int) -> None:
        # What it has said at last: that it leaves, what it has counted.
        made.hear_the_rest()
        del self._workers[made.record.number]
        made.ended(status)
        self._totals.ended(made.record.number)
        _logger.debug("%s: %s", made.name, describe_end(status))
        self._workforce.ended(made.record, status, describe_end(status))
        self._look_soon()

    def _files_changed(self, paths: list[str]) -> None:
        """Let no worker go on with old code."""
        self._workforce.restart()
        self._renewing = True
        self._look_soon()

    # -- What operators ask for ------------------------------------------------------------

    def _asked_to_stop(self, name: str) -> None:
        self._stop_signals += 1
        if self._stop_signals == 1:
            _logger.info("%s: stopping", name)
            self._drain()
        elif self._stop_signals == 2:
            _logger.info("%s: not waiting any more", name)
            self._workforce.cut()
        else:
            _logger.warning("%s: leaving at once", name)
            self._workforce.kill()
            self._workforce.fail(1)
        self._look_soon()

    def _asked_to_quit(self) -> None:
        _logger.info("SIGQUIT: leaving at once")
        self._workforce.kill()
        self._look_soon()

    def _hung_up(self) -> None:
        # A terminal that is closed sends the same signal as an operator.
        if self._terminal.has_hung_up():
            _logger.info("SIGHUP: the terminal is gone, stopping")
            self._drain()
        else:
            self.reload()

    def _scale_by(self, more: int) -> None:
        self.scale(min(max(1, self._workforce.target + more), _LARGEST_FORCE))

    def reopen_logs(self) -> None:
        """Open log files anew, here and in all workers."""
        _logger.info("Log files are opened anew")
        reopen_log_files()
        for made in self._workers.values():
            made.tell("reopen_logs")

    def _inspect_all(self) -> None:
        for made in self._workers.values():
            made.inspect(partial(_logger.info, "%s:\n%s", made.name))

    # -- Operated --------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, or ``draining`` until it has ended."""
        workforce = self._workforce
        if workforce.draining:
            return "draining"
        return "ready" if workforce.is_complete and workforce.ready else "starting"

    async def status(self) -> Mapping[str, Any]:
        """Tell version, phase, process id, age, addresses and totals."""
        workforce = self._workforce
        return {
            "version": __version__,
            "phase": self.phase,
            "pid": os.getpid(),
            "age": time.monotonic() - self._began,
            "workers": workforce.target,
            "generation": workforce.generation,
            "reloading": workforce.is_rolling,
            "connections": self._sum("connections"),
            "in_flight": self._sum("in_flight"),
            "restarts": workforce.restarts,
            "addresses": list(self._urls),
        }

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each worker: number, process id, phase, age, load and memory."""
        now = self._loop.time()
        return [
            {
                "worker": made.record.number,
                "pid": made.pid,
                "phase": made.record.phase.value,
                "age": now - made.record.started,
                "generation": made.record.generation,
                "connections": made.load.get("connections", 0),
                "in_flight": made.load.get("in_flight", 0),
                "requests": made.record.requests,
                "rss_bytes": made.record.rss,
            }
            for made in self._workers.values()
        ]

    async def connections(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each connection of each worker which answers."""
        return await self._ask_all("connections")

    async def tasks(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each task and thread of each worker which answers."""
        return await self._ask_all("tasks")

    async def metrics(self) -> Mapping[str, Any]:
        """Return the merged snapshot of all counters."""
        return self._totals.snapshot()

    def reload(self) -> None:
        """Replace all workers, one after the other."""
        if self._workforce.draining:
            return
        _logger.info("Reloading: all workers are replaced, one after the other")
        self._workforce.reload()
        self._reloading = True
        if self._notifier is not None:
            self._notifier.reloading()
        self._look_soon()

    def scale(self, workers: int) -> None:
        """
        Change the number of workers.

        Raises:
            ValueError: There is no such number.
        """
        if not 1 <= workers <= _LARGEST_FORCE:
            raise ValueError(f"workers must be from 1 to {_LARGEST_FORCE}")
        _logger.info("Workers: %d", workers)
        self._workforce.scale(workers)
        self._look_soon()

    def drain(self) -> None:
        """End in good order."""
        if not self._workforce.draining:
            _logger.info("Asked to drain: stopping")
        self._drain()

    def _drain(self) -> None:
        if self._notifier is not None:
            self._notifier.stopping(
                lambda: f"Stopping, workers which are left: {len(self._workers)}",
                longest_stop(self._settings),
            )
        self._workforce.drain()
        self._look_soon()

    def _sum(self, name: str) -> int:
        return sum(int(made.load.get(name, 0)) for made in self._workers.values())

    async def _ask_all(self, command: str) -> list[Mapping[str, Any]]:
        asked = [
            made.ask(command)
            for made in self._workers.values()
            if made.record.phase in (Phase.READY, Phase.DRAINING)
        ]
        return [row for rows in await asyncio.gather(*asked) for row in rows or ()]
