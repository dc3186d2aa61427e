"""
What is in flight, and how it comes to an end.

A server, and a resource in a tree of ``twisted.web``, have connections and running
applications. When they stop they tell the application, take nothing new, let what is
in flight end in time, cancel what doesn't, and cut the rest.

Tests: ``tests/unit/test_winding_down.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast

from daphne_like.listeners.pending import LAST_TIMEOUT
from daphne_like.protocols.interfaces import LiveConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from daphne_like.asgi.applications import ApplicationManager
    from daphne_like.asgi.drain_notice import DrainNotice
    from daphne_like.settings import LifecycleSettings, Settings

__all__ = [
    "CANCEL_TIMEOUT",
    "FLUSH_TIMEOUT",
    "Connections",
    "EverySecond",
    "StoppedListener",
    "give_notice",
    "longest_stop",
    "take_last_requests",
    "wind_down",
]

_logger = logging.getLogger("daphne_like.server")

# A shorter wait needs no explanation.
_NOTICED_WAIT = 0.5

CANCEL_TIMEOUT = 6.0
"""
How long cancelled applications get to end, in seconds. The manager gives each of
them up a little earlier, with a line in the log.
"""

FLUSH_TIMEOUT = 1.0
"""How long connections get to write their last bytes, in seconds."""

# How long the requests of the last connections may be under way.
_LAST_REQUESTS_TIMEOUT = 0.1
# Until what asyncio has accepted is a connection.
_TURNS_TO_CONNECT = 4
# Until a task has heard of the notice by a task of its own, and has said something.
_TURNS_TO_HEAR = 4


class StoppedListener(Protocol):
    """A listener which accepts no more: :class:`daphne_like.listeners.ports.LoopPort`."""

    async def begun(self) -> None:
        """Wait until those which were accepted have begun, or won't ever."""

    def cut(self) -> None:
        """Give up those which haven't begun."""


class Connections(set[LiveConnection]):
    """The live connections: can be drained, and tell when they are all gone."""

    def __init__(self) -> None:
        super().__init__()
        self._draining = False
        self._last_call = False
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, connection: LiveConnection) -> None:
        """Take in a connection; one that was accepted at the last moment drains."""
        super().add(connection)
        if self._draining:
            asyncio.get_running_loop().call_soon(connection.drain)
        elif self._last_call:
            asyncio.get_running_loop().call_soon(connection.last_call)

    def discard(self, connection: object) -> None:
        """Remove a connection that is lost."""
        super().discard(cast("LiveConnection", connection))
        if not self:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def last_call(self) -> None:
        """Let each answer one more request, and close then."""
        self._last_call = True
        for connection in list(self):
            connection.last_call()

    def drain(self) -> None:
        """Let each answer what it has received, and close."""
        self._draining = True
        for connection in list(self):
            connection.drain()

    async def emptied(self) -> None:
        """Wait until there is none."""
        if self:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


class EverySecond:
    """Does what is due once a second, just after the second has begun; and at the end."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, duties: Sequence[Callable[[], object]]
    ) -> None:
        self._loop = loop
        self._duties = duties

    def __enter__(self) -> None:
        self._schedule()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        for duty in self._duties:
            duty()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(1 - time.time() % 1, self._tick)

    def _tick(self) -> None:
        self._schedule()
        for duty in self._duties:
            # One by one, so that none suffers when another one raises.
            self._loop.call_soon(duty)


def longest_stop(settings: Settings) -> float:
    """Tell how many seconds a server may take to stop."""
    return (
        LAST_TIMEOUT
        + settings.lifecycle.timeout_graceful_shutdown
        + CANCEL_TIMEOUT
        + 2 * FLUSH_TIMEOUT
        + (settings.app.timeout_shutdown or inf)
    )


async def give_notice(notice: DrainNotice) -> None:
    """Tell the application that the end begins; when this returns, it has heard."""
    notice.give()
    for _ in range(_TURNS_TO_HEAR):
        await asyncio.sleep(0)


async def take_last_requests(
    connections: Connections,
    listeners: Sequence[StoppedListener],
    timeout: float,
    impatience: asyncio.Event,
) -> None:
    """
    Let those who connected at the last moment send what they have come for.

    Nobody else answers them, although a successor may already wait for the
    next client on the same socket. Those who ask again and again on one connection
    hear that it will be closed, and don't find it closed when they ask.

    Args:
        connections: The live ones; no socket listens any more.
        listeners: May have others, which haven't begun: with TLS, that takes the
            round trips of a handshake.
        timeout: Seconds which they may take at most.
        impatience: Set when nobody wants to wait any longer.
    """
    connections.last_call()
    for _ in range(_TURNS_TO_CONNECT):
        await asyncio.sleep(0)

    async def all_begun() -> None:
        for listener in listeners:
            await listener.begun()

    await _unless(impatience, min(LAST_TIMEOUT, timeout), all_begun())
    for listener in listeners:
        listener.cut()
    patience = min(_LAST_REQUESTS_TIMEOUT, timeout)
    if connections and patience:
        await _within(patience, impatience.wait())


async def wind_down(
    connections: Connections,
    manager: ApplicationManager,
    notice: DrainNotice,
    settings: LifecycleSettings,
    impatience: asyncio.Event,
) -> None:
    """
    Let what is in flight end in time, and cut the rest.

    Args:
        connections: No new ones are accepted any more.
        manager: Runs their applications.
        notice: What those wait for which want to say goodbye; has been given.
        settings: How long they may go on.
        impatience: Set when nobody wants to wait any longer.
    """

    def end_goodbyes() -> None:
        notice.lose_patience()
        connections.drain()

    if not settings.drain_notice_timeout:
        notice.lose_patience()
    connections.drain()
    goodbyes = asyncio.get_running_loop().call_later(
        settings.drain_notice_timeout, end_goodbyes
    )
    timeout = settings.timeout_graceful_shutdown
    await _wait_patiently(connections, manager, timeout, impatience)
    goodbyes.cancel()
    notice.lose_patience()
    if manager.running:
        manager.cancel_all()
        await _within(CANCEL_TIMEOUT, manager.ended())
    await _within(FLUSH_TIMEOUT, connections.emptied())
    if connections:
        _logger.warning("Connections that are cut: %d", len(connections))
    for connection in list(connections):
        connection.stop()
    await _within(FLUSH_TIMEOUT, connections.emptied())


async def _wait_patiently(
    connections: Connections,
    manager: ApplicationManager,
    timeout: float,
    impatience: asyncio.Event,
) -> None:
    """Wait until nothing is in flight, time is up, or patience is lost."""

    async def all_quiet() -> None:
        await connections.emptied()
        await manager.ended()

    def explain() -> None:
        _logger.info(
            "Waiting for %d connections and %d requests to end",
            len(connections),
            len(manager.running),
        )

    # Not for what ends by itself in an instant.
    explaining = asyncio.get_running_loop().call_later(_NOTICED_WAIT, explain)
    await _unless(impatience, timeout, all_quiet())
    explaining.cancel()


async def _unless(
    impatience: asyncio.Event, timeout: float, awaitable: Coroutine[Any, Any, object]
) -> None:
    """Wait for something, but not too long, and no longer than one has patience."""
    waits = [
        asyncio.ensure_future(awaitable),
        asyncio.ensure_future(impatience.wait()),
    ]
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _within(timeout: float, awaitable: Coroutine[Any, Any, object]) -> None:
    """Wait for something, but not too long."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(awaitable, timeout)
