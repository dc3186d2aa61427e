"""
What is going on in this process, as rows which can become JSON.

:class:`WatchedConnections` are the live connections of a server whose operator may
want to see them: it remembers since when each is there. What the kernel knows of them
is asked only when somebody looks. :func:`task_rows` tells where each asyncio task and
each thread is; those which are at the same place share a row.

Tests: ``tests/unit/operations/test_tables.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from daphne_like.protocols.connections import (
    addresses,
    has_tls,
    socket_of,
    unsent_bytes,
)
from daphne_like.winding_down import Connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from daphne_like.protocols.interfaces import ConnectionReport, LiveConnection

__all__ = ["WatchedConnections", "awaited_frames", "resident_bytes", "task_rows"]

# What is looked at before others get their turn.
_A_TURN = 200

# Attack: thousands of requests with long paths make an answer too long to be told.
_MOST_PATH_BYTES = 200

# Of Linux's struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received.
_TCP_INFO_BYTES = 136
_TCP_BYTES = struct.Struct("=QQ")
_TCP_BYTES_AT = 120


class WatchedConnections(Connections):
    """
    Live connections, and since when each speaks its protocol.

    Args:
        clock: Seconds of a clock which never steps back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since: dict[LiveConnection, float] = {}

    def add(self, connection: LiveConnection) -> None:
        """Take in a connection."""
        self._since[connection] = self._clock()
        super().add(connection)

    def discard(self, connection: Any) -> None:
        """Remove a connection that is lost."""
        self._since.pop(connection, None)
        super().discard(connection)

    async def rows(self, worker: int) -> list[dict[str, Any]]:
        """
        Tell of each connection, the oldest first.

        Args:
            worker: Number of this process among those which serve.
        """
        now, rows = self._clock(), []
        for count, (connection, since) in enumerate(list(self._since.items()), 1):
            # It may have gone while others had their turn.
            if connection in self:
                report = connection.report()
                rows.append({"worker": worker, "age": now - since, **_row(report)})
            if not count % _A_TURN:
                await asyncio.sleep(0)
        return rows


def _row(report: ConnectionReport) -> dict[str, Any]:
    transport, head = report.transport, report.oldest
    client, server = addresses(transport)
    received, sent = _carried_bytes(transport)
    doing = ""
    if head is not None:
        path = head.target.partition(b"?")[0]
        doing = f"{head.method} {path[:_MOST_PATH_BYTES].decode('ascii', 'backslashreplace')}"
        if len(path) > _MOST_PATH_BYTES:
            doing += "…"
    return {
        "client": _address(client),
        "server": _address(server),
        "protocol": report.protocol,
        "tls": has_tls(transport),
        "in_flight": report.requests,
        "doing": doing,
        "received_bytes": received,
        "sent_bytes": sent,
        "unsent_bytes": unsent_bytes(transport),
    }


def _address(pair: tuple[str, int | None] | None) -> str:
    """Write an address; clients on Unix sockets have none."""
    if pair is None:
        return "unix"
    host, port = pair
    if port is None:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _carried_bytes(transport: Any) -> tuple[int | None, int | None]:
    """Ask the kernel how much it has received and sent; it counts anyway."""
    sock = socket_of(transport)
    if sys.platform != "linux" or sock is None or sock.family == socket.AF_UNIX:
        return None, None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        sent, received = _TCP_BYTES.unpack_from(info, _TCP_BYTES_AT)
    except (OSError, struct.error):  # an old kernel, or an emulated one
        return None, None
    return received, sent


def resident_bytes() -> int | None:
    """Tell how much memory this process has; None where the system doesn't say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - once a second
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


# -- Tasks and threads -------------------------------------------------------

_Place = tuple[Any, ...]


async def task_rows(worker: int) -> list[dict[str, Any]]:
    """
    Tell where each task of the running loop is, and then each thread.

    Those at the same place share a row, which has the name of the first of them and
    their count: a thousand idle WebSockets are one row.

    Args:
        worker: Number of this process among those which serve.
    """
    groups: dict[_Place, dict[str, Any]] = {}
    for count, task in enumerate(asyncio.all_tasks(), 1):
        # Where the one that asks is, everybody knows.
        if not task.done() and task is not asyncio.current_task():
            frames = list(awaited_frames(task.get_coro()))
            _count_in(groups, worker, "task", task.get_name(), frames)
        if not count % _A_TURN:
            await asyncio.sleep(0)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, top in sys._current_frames().items():
        stack = [(frame, line) for frame, line in traceback.walk_stack(top)]
        name = names.get(number, f"thread {number}")
        _count_in(groups, worker, "thread", name, stack[::-1])
    return sorted(groups.values(), key=lambda row: (row["kind"], -row["count"]))


def _count_in(
    groups: dict[_Place, dict[str, Any]],
    worker: int,
    kind: str,
    name: str,
    frames: list[tuple[FrameType, int]],
) -> None:
    place = (kind, *((frame.f_code, line) for frame, line in frames))
    if place in groups:
        groups[place]["count"] += 1
        return
    stack = traceback.StackSummary.extract(iter(frames))
    groups[place] = {
        "worker": worker,
        "kind": kind,
        "name": name,
        "count": 1,
        "stack": "".join(stack.format()),
    }


def awaited_frames(awaitable: Any) -> Iterator[tuple[FrameType, int]]:
    """Walk from a task's coroutine to what it waits for in the end."""
    while awaitable is not None:
        for kind, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaitable, f"{kind}_frame", None)
            if frame is not None:
                yield frame, frame.f_lineno
                awaitable = getattr(awaitable, f"{kind}_{inner}")
                break
        else:
            return
