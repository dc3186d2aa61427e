"""Tests of ``daphne_like.asgi.drain_notice``, and of who gets time by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context, copy_context
from typing import Any

import pytest
from event_loops import LOOPS, run_on
from http_drivers import Streams
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from websocket_drivers import ServedWebSocket

import daphne_like
from daphne_like.asgi.drain_notice import DrainNotice
from daphne_like.settings import LifecycleSettings
from daphne_like.winding_down import Connections, give_notice, wind_down

ON_LOOPS = pytest.mark.parametrize("loop", LOOPS)

ACCEPT = {"type": "websocket.accept"}


def text(content: str) -> dict[str, Any]:
    """Make a message of text."""
    return {"type": "websocket.send", "text": content}


async def turn() -> None:
    """Let others go on until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


@ON_LOOPS
def test_whoever_waits_is_told(loop: str) -> None:
    """Tasks of tasks hear of it; who comes late is told at once."""

    async def application() -> str:
        async def background() -> str:
            await daphne_like.draining()
            return "told"

        return await asyncio.create_task(background())

    async def scenario() -> None:
        with DrainNotice() as notice:
            waiting = [asyncio.create_task(application()) for _ in range(2)]
            await turn()
            assert not any(task.done() for task in waiting)
            assert {"begun": False} == notice.state

            notice.give()
            assert {"begun": True} == notice.state
            assert ["told", "told"] == await asyncio.gather(*waiting)
            await daphne_like.draining()

    run_on(loop, scenario())


def test_who_stops_waiting_spoils_nothing() -> None:
    """An application may wait for several things, and give up as often as it likes."""

    async def scenario() -> None:
        with DrainNotice() as notice:
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(daphne_like.draining(), 0)
            waiting = asyncio.create_task(daphne_like.draining())
            await turn()
            notice.give()
            await waiting

    run_on("asyncio", scenario())


def test_each_server_has_a_notice_of_its_own() -> None:
    """Of two servers in a process the one is meant which runs the task."""

    async def scenario() -> None:
        async def serve() -> None:
            with DrainNotice() as notice:
                notices.append(notice)
                waiting.append(asyncio.create_task(daphne_like.draining()))
                await asyncio.wait(waiting[-1:])

        notices: list[DrainNotice] = []
        waiting: list[asyncio.Task[None]] = []
        servers = []
        for _ in range(2):
            servers.append(asyncio.create_task(serve()))
            await turn()
        stranger = asyncio.create_task(daphne_like.draining())
        await turn()

        notices[0].give()
        await servers[0]
        assert not waiting[1].done()
        assert not stranger.done(), "it waits for the server which was started last"

        notices[1].give()
        await asyncio.gather(*servers, *waiting, stranger)

    run_on("asyncio", scenario())


def test_a_server_that_has_ended_drains_for_ever() -> None:
    """A task which outlives its server isn't kept waiting, not by another one either."""

    async def scenario() -> None:
        with DrainNotice():
            context = copy_context()
        with DrainNotice():
            await context.run(asyncio.create_task, daphne_like.draining())

    run_on("asyncio", scenario())


def test_without_a_server_nobody_waits_for_ever() -> None:
    """Neither where another server runs the application, nor in a thread's own loop."""

    async def wait() -> None:
        with pytest.raises(RuntimeError, match="no server of daphne_like runs"):
            await daphne_like.draining()

    def in_own_loop() -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(wait())
        finally:
            loop.close()

    async def scenario() -> None:
        await wait()
        with DrainNotice():
            await asyncio.to_thread(in_own_loop)

    Context().run(run_on, "asyncio", scenario())


# -- WebSockets which say goodbye ----------------------------------------------


class Site:
    """
    One WebSocket, and its server which is to stop.

    Attributes:
        websocket: Its client's side.
        told: Events which the application has got.
        impatience: Set when nobody wants to wait any longer.
    """

    def __init__(
        self, loop: SteppedLoop, farewell: Callable[[Any, Any], Awaitable[None]]
    ) -> None:
        self._loop, self._farewell = loop, farewell
        self._connections = Connections()
        self.impatience = asyncio.Event()
        self.told: list[dict[str, Any]] = []
        self.notice, streams = loop.do(self._start())
        self.websocket = ServedWebSocket(
            loop, streams=streams, connections=self._connections
        )
        self._manager = streams.manager

    async def _start(self) -> tuple[DrainNotice, Streams]:
        # As a server does it: what is made here knows the notice.
        return DrainNotice().__enter__(), Streams(self._loop, self._application)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        """Tell what comes until the end, and bid farewell meanwhile."""
        self.told.append(await receive())
        await send(ACCEPT)
        goodbye = asyncio.create_task(self._bid_farewell(send))
        while self.told[-1]["type"] != "websocket.disconnect":
            self.told.append(await receive())
        await goodbye

    async def _bid_farewell(self, send: Any) -> None:
        await self._farewell(send, self.notice)

    def stop(self, **settings: Any) -> asyncio.Task[None]:
        """Begin to stop."""

        async def stop() -> None:
            await give_notice(self.notice)
            await wind_down(
                self._connections,
                self._manager,
                self.notice,
                LifecycleSettings(**settings),
                self.impatience,
            )

        stopping = self._loop.create_task(stop())
        self._loop.settle()
        return stopping

    def leave(self, code: int) -> None:
        """Let the client answer a close, and go."""
        assert (code, "") == self.websocket.closed
        self.websocket.close(code)
        self.websocket.transport.leave()
        self._loop.settle()


Bid = Callable[[Callable[[Any, Any], Awaitable[None]]], Site]


@pytest.fixture
def bid(loop: SteppedLoop) -> Iterator[Bid]:
    """Serve applications by how they bid farewell."""
    sites: list[Site] = []

    def bid(farewell: Callable[[Any, Any], Awaitable[None]]) -> Site:
        sites.append(Site(loop, farewell))
        return sites[-1]

    yield bid
    for site in sites:
        site.websocket.end()
        loop.settle()
        site.notice.__exit__()


async def close_in_a_second(send: Any, notice: DrainNotice) -> None:
    """Say goodbye, and close a little later."""
    await daphne_like.draining()
    await send(text("goodbye"))
    await asyncio.sleep(1)
    await send({"type": "websocket.close", "code": 4000})


async def never_close(send: Any, notice: DrainNotice) -> None:
    """Wait for the notice, and do nothing."""
    await daphne_like.draining()


async def never_wait(send: Any, notice: DrainNotice) -> None:
    """Let the server close."""


def test_a_websocket_may_say_goodbye(bid: Bid, loop: SteppedLoop) -> None:
    """Its application, told by a task of its own, closes with a code of its own."""
    site = bid(close_in_a_second)
    stopping = site.stop()
    assert ["goodbye"] == site.websocket.said
    assert None is site.websocket.closed

    loop.advance(1)
    site.leave(4000)
    assert stopping.done()


def test_a_message_is_still_answered(bid: Bid, loop: SteppedLoop) -> None:
    """Until it has closed, the application gets what the client sends."""
    site = bid(close_in_a_second)
    site.stop()
    site.websocket.say("wait!")

    assert {"type": "websocket.receive", "text": "wait!"} == site.told[-1]


def test_a_websocket_has_no_more_than_its_share(bid: Bid, loop: SteppedLoop) -> None:
    """Then it is closed as all others, long before everything is cut."""
    site = bid(never_close)
    stopping = site.stop(drain_notice_timeout=5.0)
    loop.advance(4)
    assert None is site.websocket.closed

    loop.advance(1)
    site.leave(1001)
    assert {"type": "websocket.disconnect", "code": 1001, "reason": ""} == site.told[-1]
    assert stopping.done()


def test_a_websocket_that_does_not_wait_is_closed_at_once(bid: Bid) -> None:
    """The notice costs those nothing who don't ask for it."""
    site = bid(never_wait)
    stopping = site.stop()

    site.leave(1001)
    assert stopping.done()


def test_without_a_share_nobody_gets_time(bid: Bid) -> None:
    """The notice comes, and then the end at once, if the setting is 0."""
    site = bid(close_in_a_second)
    site.stop(drain_notice_timeout=0.0)

    assert ["goodbye"] == site.websocket.said
    assert (1001, "") == site.websocket.closed


def test_the_share_is_a_part_of_the_whole(
    bid: Bid, loop: SteppedLoop, log: RecordedLog
) -> None:
    """No application goes on for longer than all may."""
    site = bid(never_close)
    stopping = site.stop(timeout_graceful_shutdown=3.0, drain_notice_timeout=5.0)
    loop.advance(3)
    assert (1001, "") == site.websocket.closed
    [cancelled] = [line for line in log.take() if line.startswith("WARNING")]
    assert "Cancelling the application: WebSocket /chat" in cancelled

    site.leave(1001)
    assert stopping.done()


def test_impatience_ends_goodbyes(bid: Bid, log: RecordedLog) -> None:
    """A second signal to the server means now."""
    site = bid(never_close)
    stopping = site.stop()
    site.impatience.set()
    site.websocket.loop.settle()
    assert 1 == len(log.take())

    site.leave(1001)
    assert stopping.done()
