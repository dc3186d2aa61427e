"""Tests of ``daphne_like.protocols.http1_tunnel``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from stepped_loop import SteppedLoop
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from daphne_like.protocols.http1_tunnel import HTTP1Tunnel
from daphne_like.protocols.interfaces import LiveConnection, RequestHead


class User:
    """Who speaks inside of the tunnel: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def opened(self, tunnel: object) -> None:
        """Note the call."""
        self.told.append("opened")

    def data_received(self, data: bytes) -> None:
        """Note the bytes."""
        self.told.append(data)

    def congestion_changed(self, congested: bool) -> None:
        """Note the change."""
        self.told.append(congested)

    def connection_lost(self) -> None:
        """Note the call."""
        self.told.append("lost")

    def drain(self) -> None:
        """Note the call."""
        self.told.append("drain")


_Base: Any = StringTransport


class Transport(_Base):  # type: ignore[misc]
    """A transport that notes what happens to it, in its order."""

    protocol: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        # Of the protocol before.
        self.registerProducer(object(), True)

    def unregisterProducer(self) -> None:
        """Note the call."""
        super().unregisterProducer()
        self.calls.append("unregister")

    def loseConnection(self) -> None:
        """Note the call."""
        self.calls.append("lose")

    def abortConnection(self) -> None:
        """Note the call."""
        self.calls.append("abort")


class HalfCloseable(Transport):
    """One whose sides can be closed one by one."""

    def loseWriteConnection(self) -> None:
        """Note the call."""
        assert self.producer is None, "Twisted half-closes without a producer only"
        self.calls.append("lose write")


class Scene:
    """A tunnel with its ends."""

    def __init__(self, loop: SteppedLoop, transport: Transport | None = None) -> None:
        self.loop = loop
        self.user = User()
        self.transport = transport or Transport()
        self.connections: set[LiveConnection] = set()
        self.tunnel = HTTP1Tunnel(
            self.transport,
            RequestHead(b"/chat"),
            self.user,
            self.connections,
            loop,
        )
        self.transport.calls.clear()

    def waits(self, *waiting: Awaitable[None]) -> bool:
        """Tell whether those who wait for room still do."""
        self.loop.settle()
        states = {asyncio.ensure_future(each).done() for each in waiting}
        assert 1 == len(states)
        return not states.pop()


@pytest.fixture
def scene(loop: SteppedLoop) -> Scene:
    """A tunnel in use."""
    return Scene(loop)


def test_it_takes_the_place_of_the_protocol_before(scene: Scene) -> None:
    """From the acceptance on, the transport deals with the tunnel alone."""
    assert verifyObject(IProtocol, scene.tunnel)
    assert verifyObject(IPushProducer, scene.tunnel)
    assert scene.tunnel is scene.transport.protocol
    assert scene.tunnel is scene.transport.producer
    assert scene.transport.streaming
    assert {scene.tunnel} == scene.connections


def test_bytes_go_through_both_ways(scene: Scene) -> None:
    """What the client sends reaches the user, and what it writes the client."""
    scene.transport.protocol.dataReceived(b"in")
    scene.tunnel.write(b"out")

    assert [b"in"] == scene.user.told
    assert b"out" == scene.transport.value()


class Sharing(Transport):
    """One past which bytes may be written, while it holds none."""

    held_bytes = 0

    def share_descriptor(self) -> int:
        """Have a number which is recognized."""
        return 777

    def write_buffer_bytes(self) -> int:
        """Tell what the test says."""
        return self.held_bytes


def test_bytes_may_go_past_a_transport_that_holds_none(loop: SteppedLoop) -> None:
    """One that was full before the tunnel was is no news to it, but to the user."""
    empty, full, told = (Scene(loop, Sharing()) for _ in range(3))
    full.transport.held_bytes = told.transport.held_bytes = 1
    told.tunnel.pauseProducing()

    scenes = (empty, full, told)
    assert {777} == {scene.tunnel.share_descriptor() for scene in scenes}
    assert [[], [True], [True]] == [scene.user.told for scene in scenes]
    assert [False, True, True] == [scene.tunnel.congested for scene in scenes]


def test_most_transports_let_no_bytes_past(scene: Scene) -> None:
    """Then nothing changes."""
    assert scene.tunnel.share_descriptor() is None
    assert [] == scene.user.told


def test_senders_wait_while_the_client_does_not_read(scene: Scene) -> None:
    """All who send go on when there is room, and nobody waits without need."""
    assert not scene.waits(scene.tunnel.drained())

    scene.tunnel.pauseProducing()
    first, second, cancelled = (scene.tunnel.drained() for _ in range(3))
    asyncio.ensure_future(cancelled).cancel()

    assert scene.tunnel.congested
    assert scene.waits(first, second)

    scene.tunnel.resumeProducing()

    assert not scene.waits(first, second, scene.tunnel.drained())
    assert [True, False] == scene.user.told


def test_reading_pauses_and_goes_on(scene: Scene) -> None:
    """The user decides when the client has to wait."""
    scene.tunnel.pause_reading()

    assert "paused" == scene.transport.producerState

    scene.tunnel.resume_reading()

    assert "producing" == scene.transport.producerState


def test_senders_wake_when_the_connection_is_lost(scene: Scene) -> None:
    """Nobody waits for a client that has gone."""
    scene.tunnel.pauseProducing()
    waiting = scene.tunnel.drained()
    scene.tunnel.stopProducing()
    scene.tunnel.connectionLost(Failure(ConnectionDone()))

    assert not scene.waits(waiting, scene.tunnel.drained())
    assert [True, "lost"] == scene.user.told
    assert set() == scene.connections


@pytest.mark.parametrize(
    ("transport", "call"), [(HalfCloseable, "lose write"), (Transport, "lose")]
)
def test_the_end_lets_the_client_read_what_was_written(
    loop: SteppedLoop, transport: type[Transport], call: str
) -> None:
    """Our side is closed first, where that is possible; nobody waits any more."""
    scene = Scene(loop, transport())
    scene.tunnel.pauseProducing()
    waiting = scene.tunnel.drained()
    scene.tunnel.end()

    assert ["unregister", call] == scene.transport.calls
    assert not scene.waits(waiting)


def test_it_is_cut_or_drained_by_the_server(scene: Scene) -> None:
    """When the server stops, the user may finish, until its time is up."""
    scene.tunnel.drain()

    assert ["drain"] == scene.user.told
    assert [] == scene.transport.calls

    scene.tunnel.stop()
    scene.tunnel.abort()

    assert ["abort", "abort"] == scene.transport.calls


def test_what_the_client_has_not_taken_is_counted(scene: Scene) -> None:
    """The user can tell a slow client from one that takes nothing."""
    scene.transport.write_buffer_bytes = lambda: 7

    assert 7 == scene.tunnel.unsent_bytes()
