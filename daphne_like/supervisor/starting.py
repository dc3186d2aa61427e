"""
How a process becomes a worker: as a fork of the supervisor, or by a program anew.

A fork shares the supervisor's memory, with all that it has imported. It must forget
that it was a supervisor: see :func:`fork`. Where a system's libraries can't stand
forks a new interpreter is started (:func:`spawn`), which gets its assignment from a
file; :func:`main` is what runs there.

Tests: ``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from daphne_like.errors import SettingsError
from daphne_like.process_setup import set_up
from daphne_like.supervisor.channel import Channel
from daphne_like.supervisor.orphan import signal_of_orphans
from daphne_like.supervisor.worker import (
    INSPECTION_SIGNAL,
    Assignment,
    Program,
    put_nothing_behind,
)

if TYPE_CHECKING:
    from selectors import BaseSelector

    from daphne_like.settings import Settings

__all__ = [
    "can_fork",
    "check_sockets",
    "check_spawning",
    "fork",
    "main",
    "nameless_file",
    "spawn",
]


_logger = logging.getLogger("daphne_like.supervisor")


def can_fork(worker_start: str) -> bool:
    """Tell what a setting means on this system."""
    return worker_start != "spawn" and hasattr(os, "fork")


def nameless_file() -> int:
    """
    Return the descriptor of a new file that goes when nobody has it open.

    In memory, where that is possible: there may be no place for it on any disk.

    Raises:
        OSError: It can't be made.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("daphne-like")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


# -- By a fork ---------------------------------------------------------------------


def fork(
    loop: asyncio.AbstractEventLoop,
    selector: BaseSelector,
    signals: Iterable[signal.Signals],
    leave: Callable[[], None],
) -> int:
    """
    Fork, while the supervisor's event loop rests.

    In the child what belongs to the supervisor is given up: all that its loop
    watches, its tasks and its signals. The selector must keep no state in the
    system, which both would share.

    Args:
        loop: The supervisor's.
        selector: That of the loop.
        signals: Those which the supervisor obeys.
        leave: Gives up in the child what else is the supervisor's.

    Returns:
        The process id; 0 in the child.

    Raises:
        OSError: No process can be made. In the child nothing is raised.
    """
    supervisor = os.getpid()
    _leave_memory_alone()
    # A signal is for the one or the other, never for the child in the middle.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for number in signals:
                    signal.signal(number, signal.SIG_DFL)
                _forget(loop, selector)
                leave()
            except BaseException:
                # What follows in the caller is for the supervisor alone.
                _logger.critical("A worker can't be one", exc_info=True)
                os._exit(1)
            _end_with(supervisor)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


@lru_cache(maxsize=1)
def _leave_memory_alone() -> None:
    """
    Never look for garbage in what exists: that would copy the memory which forks share.

    Once, since to look here, before the second fork, takes it from the first one.
    """
    gc.collect()
    gc.freeze()


def _end_with(supervisor: int) -> None:
    """End with the supervisor; until the worker knows better, at once."""
    number = INSPECTION_SIGNAL
    if number is not None and not signal_of_orphans(number, supervisor):
        os._exit(1)


def _forget(loop: asyncio.AbstractEventLoop, selector: BaseSelector) -> None:
    put_nothing_behind(
        key.fd for key in list((selector.get_map() or {}).values()) if key.fd >= 0
    )
    for task in asyncio.all_tasks(loop):
        # They go on in the supervisor; here nobody misses them.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    asyncio.set_event_loop(None)
    loop.close()


# -- By a program --------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """What is passed to a program that is to be a worker."""

    program: type[Any]
    supervisor: int
    number: int
    settings: Settings
    channel: int
    sockets: Sequence[Sequence[int]]
    inspection: int


def check_spawning(program: Program) -> None:
    """
    Tell early what a new interpreter couldn't do.

    Raises:
        SettingsError: It can't find the program.
    """
    kind = type(program)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise SettingsError(
            f"worker_start: {kind.__qualname__} must stand in a module, so that "
            "spawned workers can import it"
        )


def check_sockets() -> None:
    """
    Tell early what a new interpreter couldn't listen on.

    Raises:
        SettingsError: systemd has passed sockets, whose names only this process has.
    """
    systemd = sys.modules.get("daphne_like.systemd")
    if systemd is not None and systemd.passed_sockets():
        raise SettingsError(
            "worker_start: sockets of systemd need workers which are forked"
        )


def spawn(assignment: Assignment, program: Program) -> subprocess.Popen[bytes]:
    """
    Start an interpreter which serves.

    Args:
        assignment: Is for that; what it names stays open here.
        program: Its class is made anew there.
    """
    order = _Order(
        type(program),
        os.getpid(),
        assignment.number,
        assignment.settings,
        assignment.channel.fileno(),
        [[sock.fileno() for sock in bound] for bound in assignment.sockets],
        assignment.inspection,
    )
    with open(nameless_file(), "w+b") as file:
        pickle.dump(order, file)
        file.seek(0)
        numbers = {number for bound in order.sockets for number in bound}
        numbers |= {order.channel, order.inspection, file.fileno()}
        arguments = [f"-W{option}" for option in sys.warnoptions]
        return subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, *arguments, "-m", __name__, str(file.fileno())],
            pass_fds=sorted(numbers),
        )


def main() -> None:
    """Be the worker whose order stands in the file that is the only argument."""
    from daphne_like.observability.logs import configure_logging

    with open(int(sys.argv[1]), "rb") as file:  # noqa: PTH123 - it has no path
        order: _Order = pickle.load(file)  # noqa: S301 - the supervisor has written it
    _end_with(order.supervisor)
    numbers = [number for bound in order.sockets for number in bound]
    for number in (*numbers, order.channel, order.inspection):
        os.set_inheritable(number, False)
    made: dict[int, socket.socket] = {}
    for number in numbers:
        made.setdefault(number, socket.socket(fileno=number))
    program = order.program()
    # What doesn't outlive the start of a program.
    set_up(order.settings)
    configure_logging(order.settings.log)
    assignment = Assignment(
        order.number,
        order.settings,
        Channel(socket.socket(fileno=order.channel)),
        [[made[number] for number in bound] for bound in order.sockets],
        order.inspection,
    )
    program.run_as_worker(assignment)


if __name__ == "__main__":
    main()
