"""
What can be asked of a running server, and what it can be told to do.

One process that serves implements :class:`Operated`, and so does a supervisor for
all of its workers; health checks, metrics and the control socket need to know no
more. What it returns can become JSON as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Operated"]


class Operated(Protocol):
    """A server as its operator sees it."""

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, or ``draining`` until it has ended."""

    async def status(self) -> Mapping[str, Any]:
        """Tell version, phase, process id, age, addresses and totals."""

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each worker: number, process id, phase, age, load and memory."""

    async def connections(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each connection: worker, client, protocol, age, requests."""

    async def tasks(self) -> Sequence[Mapping[str, Any]]:
        """Tell of each task and thread: worker, name and stack."""

    async def metrics(self) -> Mapping[str, Any]:
        """Return the merged snapshot of all counters."""

    def reload(self) -> None:
        """
        Do what SIGHUP does.

        Raises:
            ValueError: There is nothing to reload; the text is for the user.
        """

    def scale(self, workers: int) -> None:
        """
        Change the number of workers.

        Raises:
            ValueError: There is no such number, or there are no workers.
        """

    def drain(self) -> None:
        """Do what SIGTERM does."""
