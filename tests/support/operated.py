"""A server for operators, in the hands of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["FakeOperated"]


class FakeOperated:
    """
    Tells what the test has arranged, and notes what it is ordered.

    Attributes:
        phase: Its phase.
        rows: What it tells of workers, connections and tasks.
        orders: What it was ordered.
        refusal: Why it obeys nobody, if so.
        failure: What happens when it is asked, if so.
        asked: Set when somebody has asked its workers.
        gate: They answer when this is set.
        end: What ends the server, if something does.
        drains: Whether it ends when it is ordered to.
    """

    def __init__(self) -> None:
        self.phase = "ready"
        self.rows: list[dict[str, Any]] = []
        self.orders: list[object] = []
        self.refusal: str | None = None
        self.failure: Exception | None = None
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.end: Callable[[], None] = lambda: None
        self.drains = False

    async def _told(self) -> list[dict[str, Any]]:
        self.asked.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.rows

    async def status(self) -> Mapping[str, Any]:
        """Tell the phase and the number of workers."""
        await self._told()
        return {"phase": self.phase, "pid": 77, "workers": 2}

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Tell the rows."""
        return await self._told()

    async def connections(self) -> Sequence[Mapping[str, Any]]:
        """Tell the rows."""
        return await self._told()

    async def tasks(self) -> Sequence[Mapping[str, Any]]:
        """Tell the rows."""
        return await self._told()

    async def metrics(self) -> Mapping[str, Any]:
        """Tell a snapshot."""
        await self._told()
        return {"requests": 3}

    def _obey(self, order: object) -> None:
        if self.refusal is not None:
            raise ValueError(self.refusal)
        self.orders.append(order)

    def reload(self) -> None:
        """Note it."""
        self._obey("reload")

    def scale(self, workers: int) -> None:
        """Note it."""
        self._obey(("scale", workers))

    def drain(self) -> None:
        """Note it, and end."""
        self._obey("drain")
        if self.drains:
            self.end()
