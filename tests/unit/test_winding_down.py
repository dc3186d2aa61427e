"""Tests of ``daphne_like.winding_down``; those of the server test how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from event_loops import run_on

from daphne_like.winding_down import Connections, EverySecond


def test_a_late_connection_hears_the_last_call() -> None:
    """Who connects at the last moment, too, is told that one answer is all there is."""

    class Connection:
        called = 0

        def last_call(self) -> None:
            self.called += 1

    async def scenario() -> None:
        connections: Any = Connections()
        early, late = Connection(), Connection()
        connections.add(early)
        connections.last_call()
        connections.add(late)
        await asyncio.sleep(0)

        assert (1, 1) == (early.called, late.called)

    run_on("asyncio", scenario())


def test_a_late_connection_drains() -> None:
    """Whatever joins the connections after they were drained is drained, too."""

    class Connection:
        drained = 0

        def drain(self) -> None:
            self.drained += 1

    async def scenario() -> None:
        connections: Any = Connections()
        early, late = Connection(), Connection()
        connections.add(early)
        connections.drain()
        connections.add(late)
        assert (1, 0) == (early.drained, late.drained)
        await asyncio.sleep(0)
        assert (1, 1) == (early.drained, late.drained)

        empty = [asyncio.ensure_future(connections.emptied()) for _ in range(2)]
        await asyncio.sleep(0)
        connections.discard(early)
        connections.discard(early)
        await asyncio.sleep(0)
        assert not empty[0].done()
        connections.discard(late)
        await asyncio.gather(*empty)
        await connections.emptied()

    run_on("asyncio", scenario())


class FakeLoop:
    """A loop which calls back when the test says so."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.later: Callable[[], None] = lambda: None
        self.soon: list[Callable[[], None]] = []
        self.cancelled = False

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeLoop:
        """Note what is to be called."""
        self.delays.append(delay)
        self.later = callback
        return self

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Note what is to be called."""
        self.soon.append(callback)

    def cancel(self) -> None:
        """Note that the timer is cancelled."""
        self.cancelled = True


def test_duties_are_done_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after the second begins; one by one, so that none can stop the others."""
    loop, done = FakeLoop(), []
    monkeypatch.setattr("time.time", lambda: 100.25)
    duties = [lambda: done.append("first"), lambda: done.append("second")]

    with EverySecond(loop, duties):  # type: ignore[arg-type]
        assert [0.75] == loop.delays
        loop.later()
        assert [0.75, 0.75] == loop.delays
        assert duties == loop.soon
        assert [] == done

    assert loop.cancelled
    assert ["first", "second"] == done
