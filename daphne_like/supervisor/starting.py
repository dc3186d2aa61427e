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
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daphne_like.errors import SettingsError
from daphne_like.process_setup import set_up
from daphne_like.supervisor.channel import Channel
from daphne_like.supervisor.worker import Assignment, Program, put_nothing_behind

if TYPE_CHECKING:
    from selectors import BaseSelector

    from daphne_like.settings import Settings

__all__ = ["can_fork", "check_sockets", "check_spawning", "fork", "main", "spawn"]


def can_fork(worker_start: str) -> bool:
    """Tell what a setting means on this system."""
    return worker_start != "spawn" and hasattr(os, "fork")


# -- By a fork ---------------------------------------------------------------------


def fork(
    loop: asyncio.AbstractEventLoop,
    selector: BaseSelector,
    signals: Iterable[signal.Signals],
) -> int:
    """
    Fork, while the supervisor's event loop rests.

    In the child what belongs to the supervisor is given up: all that its loop
    watches, its tasks and its signals. The selector must keep no state in the
    system, which both would share.

    Returns:
        The process id; 0 in the child.
    """
    # What exists is no garbage, and looking at it would copy the memory.
    gc.collect()
    gc.freeze()
    # A signal is for the one or the other, never for the child in the middle.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
            _forget(loop, selector)
        else:
            gc.unfreeze()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


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
        assignment.number,
        assignment.settings,
        assignment.channel.fileno(),
        [[sock.fileno() for sock in bound] for bound in assignment.sockets],
        assignment.inspection,
    )
    with tempfile.TemporaryFile() as file:
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
