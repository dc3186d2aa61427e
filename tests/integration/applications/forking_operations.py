"""
What a supervisor does with the operations listener: serves, forks, and goes on.

Each SIGUSR1 makes a child, which gives up what is the parent's, tells which sockets
with a name it has left, and waits until standard input ends; the first child ends at
once. SIGUSR2 does the same, but first the loop stands still until SIGUSR1 comes: who
connects meanwhile is accepted in the very turn before the fork. SIGTERM ends the parent.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daphne_like.operations.listener import OperationsListener
from daphne_like.settings import OperationsSettings


class Operated:
    """Nothing that would be worth operating."""

    phase = "ready"

    async def status(self) -> Mapping[str, Any]:
        """Tell the process."""
        return {"pid": os.getpid()}

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Tell nothing."""
        return []

    connections = tasks = workers
    metrics = status

    def reload(self) -> None:
        """Do nothing."""

    def scale(self, workers: int) -> None:
        """Do nothing."""

    drain = reload


def say(*words: object) -> None:
    """Print a line at once."""
    os.write(1, " ".join(map(str, (*words, "\n"))).encode())


def named_sockets() -> list[object]:
    """List the addresses of all sockets of this process which have one."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # no socket
        with copy:
            if copy.getsockname():
                found.append(copy.getsockname())
    return found


def main() -> None:
    """Serve."""
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    settings = OperationsSettings(control_socket=sys.argv[1], metrics="0")
    listener = OperationsListener(Operated(), settings)
    wanted: list[str] = []

    def stop(what: str) -> None:
        wanted.append(what)
        loop.stop()

    def stand_still() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        say("standing still")
        signal.sigwait({signal.SIGUSR1})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        loop.call_soon(stop, "fork")

    loop.add_signal_handler(signal.SIGUSR1, stop, "fork")
    loop.add_signal_handler(signal.SIGUSR2, stand_still)
    loop.add_signal_handler(signal.SIGTERM, stop, "end")
    loop.run_until_complete(listener.start())
    say("listening", *listener.urls)
    children = 0
    while True:
        loop.run_forever()
        if wanted.pop(0) == "end":
            break
        children += 1
        if os.fork():
            continue
        signal.set_wakeup_fd(-1)
        listener.close_in_child()
        say("child", children, named_sockets())
        if children > 1:
            sys.stdin.read()
        say("child ends")
        return
    loop.run_until_complete(listener.stop())
    loop.close()
    say("ended", "twisted.internet.reactor" in sys.modules)


if __name__ == "__main__":
    main()
