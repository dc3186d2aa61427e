"""
A server which is one process, as its operator sees it.

Tests: ``tests/unit/operations/test_one_process.py``.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from daphne_like import __version__
from daphne_like.operations.listener import OperationsListener
from daphne_like.operations.tables import (
    WatchedConnections,
    resident_bytes,
    task_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from daphne_like.server import Server

__all__ = ["OneProcess", "listener_of"]

_logger = logging.getLogger("daphne_like.server")

# Its number among those which serve.
_NUMBER = 1


class OneProcess:
    """
    Lets a server be operated (:class:`~daphne_like.operations.interfaces.Operated`).

    Args:
        server: Runs in this process.
        snapshot: Returns all counters; None where nothing is counted.
    """

    def __init__(
        self, server: Server, snapshot: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self._server = server
        self._snapshot = snapshot
        self._started = time.monotonic()

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, or ``draining`` until it has ended."""
        return self._server.phase

    @property
    def _age(self) -> float:
        return time.monotonic() - self._started

    async def status(self) -> Mapping[str, Any]:
        """Tell version, phase, process id, age, addresses and load."""
        return {
            "version": __version__,
            "phase": self.phase,
            "pid": os.getpid(),
            "age": self._age,
            "workers": 1,
            "connections": len(self._server.connections),
            "in_flight": self._server.requests_in_flight,
            "addresses": self._server.urls,
        }

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Tell of this process, which is the only one."""
        return [
            {
                "worker": _NUMBER,
                "pid": os.getpid(),
                "phase": self.phase,
                "age": self._age,
                "connections": len(self._server.connections),
                "in_flight": self._server.requests_in_flight,
                "rss_bytes": resident_bytes(),
            }
        ]

    async def connections(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each connection; of none where nobody was to ask for them."""
        connections = self._server.connections
        if not isinstance(connections, WatchedConnections):
            return []
        return await connections.rows(_NUMBER)

    async def tasks(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each task and thread."""
        return await task_rows(_NUMBER)

    async def metrics(self) -> Mapping[str, Any]:
        """Return the snapshot of all counters."""
        return {} if self._snapshot is None else self._snapshot()

    def reload(self) -> None:
        """
        Read certificates again, as on SIGHUP.

        Raises:
            ValueError: There are none.
        """
        if not self._server.can_reload:
            raise ValueError(
                "there is nothing to reload: one process without certificates serves; "
                "workers can be replaced, see --workers"
            )
        self._server.reload()

    def scale(self, workers: int) -> None:
        """
        Refuse: one process stays one.

        Raises:
            ValueError: Always.
        """
        raise ValueError("one process serves; a server with --workers can be scaled")

    def drain(self) -> None:
        """Let what is in flight end, and stop."""
        if self.phase != "draining":
            _logger.info("Asked to drain: stopping")
        self._server.stop()


def listener_of(server: Server) -> OperationsListener:
    """
    Make what answers the operators of a server, on the addresses of its settings.

    Raises:
        SettingsError: A package is missing, or an address can't be understood.
    """
    settings, metrics = server.settings.operations, server.metrics
    if metrics is None:
        return OperationsListener(OneProcess(server), settings)
    from daphne_like.observability.metrics import exposition, require_prometheus_client

    if settings.metrics is not None:
        require_prometheus_client()
    operated = OneProcess(server, metrics.snapshot)
    return OperationsListener(operated, settings, exposition)
