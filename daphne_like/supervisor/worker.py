"""
The process which serves, and is watched over.

It tells its supervisor how it is, and does what that asks for. It ends when that
is gone, whatever became of it: the channel's end of file tells.

Tests: ``tests/unit/supervisor/test_worker.py``,
``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from daphne_like import server
from daphne_like.errors import SettingsError, StartError
from daphne_like.operations.tables import (
    WatchedConnections,
    awaited_frames,
    resident_bytes,
    task_rows,
)
from daphne_like.process_setup import set_title
from daphne_like.server import Server
from daphne_like.settings import ProcessSettings
from daphne_like.supervisor.channel import Channel, Message
from daphne_like.supervisor.orders import BEAT_INTERVAL
from daphne_like.supervisor.orphan import LastResort

if TYPE_CHECKING:
    import socket

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.settings import Settings

__all__ = [
    "INSPECTION_SIGNAL",
    "Assignment",
    "Link",
    "Program",
    "put_nothing_behind",
    "serve",
]

_logger = logging.getLogger("daphne_like.server")

# How long the rows of an answer may take to be collected.
_ANSWER_TIMEOUT = 10.0

# How many tasks it writes down; most of many are at the same place.
_MOST_TASKS = 100

INSPECTION_SIGNAL = getattr(signal, "SIGUSR2", None)
"""Makes a worker write down what its threads and tasks are doing."""

# The supervisor obeys these; a terminal sends some to all processes.
_IGNORED_SIGNALS = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")


class Program(Protocol):
    """What makes a server of settings: the command line."""

    def load_application(self, settings: Settings) -> ASGIApplication:
        """Return the application."""

    def make_server(self, application: ASGIApplication, settings: Settings) -> Server:
        """Return what serves it."""


@dataclass(frozen=True)
class Assignment:
    """
    What a worker gets from its supervisor.

    Attributes:
        number: Its own, among all that the supervisor has ever started.
        settings: All settings.
        channel: Its end.
        sockets: What it listens on, by endpoint.
        inspection: Descriptor of a file in which it writes what it is doing.
        application: It was loaded before the fork.
    """

    number: int
    settings: Settings
    channel: Channel
    sockets: Sequence[Sequence[socket.socket]]
    inspection: int
    application: ASGIApplication | None = None


def serve(assignment: Assignment, program: Program) -> None:
    """
    Be a worker until told otherwise.

    Raises:
        SystemExit: It couldn't start.
        StartError: As well.
    """
    link = Link(assignment)
    link.last_resort = LastResort(assignment.settings)
    set_title(assignment.settings.process, f"worker {assignment.number}")
    _obey_signals(link, assignment.inspection)
    _let_forks_go(assignment)
    link.begins()

    def load() -> ASGIApplication:
        if assignment.application is not None:
            return assignment.application
        if assignment.settings.workers.reload:
            from daphne_like.supervisor.reload import load_or_explain

            lifespan = assignment.settings.app.lifespan
            return load_or_explain(load_anew, lifespan)
        return load_anew()

    def load_anew() -> ASGIApplication:
        return program.load_application(assignment.settings)

    def make_server(application: ASGIApplication, settings: Settings) -> Server:
        made = program.make_server(application, settings)
        if not isinstance(made, Server):
            raise SettingsError(
                f"workers need a server which is daphne_like's; {type(made).__name__} "
                "isn't"
            )
        return made

    def prepare(made: Server) -> None:
        link.server = made
        made.join_supervisor(link, assignment.sockets)

    try:
        # The supervisor has seen to the process, and this one is made of it.
        settings = replace(assignment.settings, process=ProcessSettings())
        server.run(settings, load, make_server, prepare)
    except StartError as error:
        link.failed(error)
        raise
    finally:
        # It is about to leave; whoever signals the whole group has asked twice.
        signal.signal(signal.SIGTERM, _ignore)
        link.close()


# -- The link to the supervisor --------------------------------------------------


class Link:
    """
    A worker's side (:class:`daphne_like.process.Superior`).

    Attributes:
        server: What serves, as soon as there is one.
        loop: Its event loop, as soon as that runs.
        last_resort: Ends the process in time when the supervisor has died.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._channel = assignment.channel
        self._number = assignment.number
        self.server: Server | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.last_resort: LastResort | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._over = False

    # -- What the process tells ------------------------------------------------

    def begins(self) -> None:
        """Tell that this process is a worker, which can be inspected."""
        self._channel.send(message="begins")

    def starting(self, loop: asyncio.AbstractEventLoop, longest: float) -> None:
        """Tell that the application is loaded, and starts."""
        self.loop = loop
        longest = longest if longest < 1e9 else 0
        self._channel.send(message="starting", longest=longest)
        self._channel.attach(loop, self._received, self._supervisor_lost)

    def ready(self, status: str) -> None:
        """Tell that this process serves, and from then on that it lives."""
        assert self.server is not None
        self._channel.send(message="ready", urls=self.server.urls)
        self._beat()

    def reloading(self) -> None:
        """Nothing is reloaded in a worker but its certificates, in no time."""

    def reloaded(self, status: str) -> None:
        """See :meth:`reloading`."""

    def stopping(self, status: Callable[[], str], longest: float) -> None:
        """Tell that this process drains, whoever has asked for it."""
        self._stopping = True
        self._channel.send(message="leaving")
        if self._beat_timer is None:
            self._beat()

    def failed(self, error: BaseException) -> None:
        """Tell why it can't start."""
        self._channel.send(message="failed", reason=str(error) or repr(error))

    def close(self) -> None:
        """Tell that the event loop turns no more."""
        if self._over:
            return
        self._over = True
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        if self.last_resort is not None:
            self.last_resort.loop_ended()
        self._channel.send(message="closing", metrics=self._metrics())

    def _beat(self) -> None:
        """Show that the event loop turns, and how this process is."""
        assert self.loop is not None
        self._beat_timer = self.loop.call_later(BEAT_INTERVAL, self._beat)
        if self.last_resort is not None:
            self.last_resort.beat()
        self._channel.send(message="beat", **self._load())

    def _load(self) -> Mapping[str, object]:
        assert self.server is not None
        return {
            "requests": self.server.requests,
            "in_flight": self.server.requests_in_flight,
            "connections": len(self.server.connections),
            "rss": resident_bytes() or 0,
            "metrics": self._metrics(),
        }

    def _metrics(self) -> Mapping[str, Any] | None:
        metrics = None if self.server is None else self.server.metrics
        return None if metrics is None else metrics.snapshot()

    # -- What the supervisor asks for --------------------------------------------

    def _received(self, message: Message) -> None:
        command = _COMMANDS.get(str(message.get("do")))
        if command is None:
            _logger.error("The supervisor asks for what isn't known: %s", message)
            return
        assert self.loop is not None
        task = self.loop.create_task(self._obey(command, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, command: _Command, message: Message) -> None:
        answer: Any = None
        try:
            answer = await asyncio.wait_for(command(self, message), _ANSWER_TIMEOUT)
        except Exception:
            _logger.exception("What the supervisor asks for can't be done: %s", message)
        if "id" not in message:
            return
        number = message["id"]
        if not self._channel.send(message="answer", id=number, answer=answer):
            self._channel.send(message="answer", id=number, answer=None)

    async def _drain(self, message: Message) -> None:
        assert self.server is not None
        _logger.debug("Worker %d: draining", self._number)
        self.server.stop(restarting=bool(message.get("restarting")))

    async def _force(self, message: Message) -> None:
        assert self.server is not None
        self.server.force()

    async def _reopen_logs(self, message: Message) -> None:
        assert self.server is not None
        self.server.reopen_logs()

    async def _reload_certificates(self, message: Message) -> None:
        assert self.server is not None
        self.server.reload()

    async def _connections(self, message: Message) -> Any:
        assert self.server is not None
        connections = self.server.connections
        if not isinstance(connections, WatchedConnections):
            return []
        return await connections.rows(self._number)

    async def _tasks_of_loop(self, message: Message) -> Any:
        return await task_rows(self._number)

    def _supervisor_lost(self) -> None:
        if not self._stopping:
            _logger.critical(
                "Worker %d: the supervisor has gone, stopping", self._number
            )
        if self.last_resort is not None:
            self.last_resort.begin()
        if self.server is not None:
            self.server.stop()


_Command = Callable[[Link, Message], Awaitable[Any]]

_COMMANDS: Mapping[str, _Command] = {
    "drain": Link._drain,
    "force": Link._force,
    "reopen_logs": Link._reopen_logs,
    "reload_certificates": Link._reload_certificates,
    "connections": Link._connections,
    "tasks": Link._tasks_of_loop,
}


# -- The process -------------------------------------------------------------------


def _obey_signals(link: Link, inspection: int) -> None:
    """
    Leave the operator's signals to the supervisor, and show on demand what goes on.

    A terminal sends Ctrl-C to this process, too; the supervisor tells what it means.
    """
    for name in _IGNORED_SIGNALS:
        if hasattr(signal, name):
            # SIG_IGN would hold for programs which the application starts, too.
            signal.signal(getattr(signal, name), _ignore)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if INSPECTION_SIGNAL is None:
        return

    def write_tasks(number: int, frame: object) -> None:
        # It also comes from the system: see signal_of_orphans().
        if link.last_resort is not None and link.last_resort.is_orphan:
            link.last_resort.begin()
            return
        os.write(inspection, describe_tasks(link.loop).encode("utf-8", "replace"))

    signal.signal(INSPECTION_SIGNAL, write_tasks)
    # Written in C, at once: also while the event loop is blocked, and while something
    # else holds the interpreter. Then comes the one above, when Python may run.
    faulthandler.register(INSPECTION_SIGNAL, file=inspection, chain=True)


def _ignore(number: int, frame: object) -> None:
    """Do nothing about a signal."""


def describe_tasks(loop: asyncio.AbstractEventLoop | None) -> str:
    """Write down where the tasks of a loop are, each with what it awaits."""
    if loop is None:
        return "There is no event loop yet.\n"
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    lines = [f"\nTasks: {len(tasks)}\n"]
    for task in tasks[:_MOST_TASKS]:
        lines.append(f"{task.get_name()} (most recent call last):\n")
        frames = awaited_frames(task.get_coro())
        lines += traceback.StackSummary.extract(frames).format()
    return "".join(lines)


def _let_forks_go(assignment: Assignment) -> None:
    """
    Keep what the application forks from holding the channel and the addresses.

    The descriptors stay taken, by nothing, since objects in the fork know them.
    """
    if not hasattr(os, "register_at_fork"):
        return
    owned: list[Channel | socket.socket] = [assignment.channel]
    owned += [sock for bound in assignment.sockets for sock in bound]

    def let_go() -> None:
        numbers = [item.fileno() for item in owned]
        put_nothing_behind(number for number in numbers if number >= 0)

    os.register_at_fork(after_in_child=let_go)


def put_nothing_behind(descriptors: Iterable[int]) -> None:
    """
    Give up in a forked child what these stand for.

    They stay open, on nothing: objects which know the numbers may close them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in descriptors:
        os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
