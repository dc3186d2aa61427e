"""What a supervisor and a worker tell each other, over a pair of sockets in memory."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from event_loops import run_on

from daphne_like.supervisor import channel
from daphne_like.supervisor.channel import Channel


class Side:
    """One end, and what came there."""

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock)
        self.received: list[Any] = []
        self.lost = 0

    def attach(self) -> None:
        """Read from now on."""
        loop = asyncio.get_running_loop()
        self.channel.attach(loop, self.received.append, self._lost)

    def _lost(self) -> None:
        self.lost += 1


def talk(scenario: Callable[[Side, Side], Any]) -> None:
    """Let two sides talk."""

    async def run() -> None:
        one, other = map(Side, socket.socketpair())
        try:
            await asyncio.wait_for(scenario(one, other), 20)
        finally:
            one.channel.close()
            other.channel.close()

    run_on("asyncio", run())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something holds."""
    while not condition():
        await asyncio.sleep(0)


def test_messages_arrive_in_order() -> None:
    """Both ways; also what was said before anybody listened."""

    async def scenario(one: Side, other: Side) -> None:
        assert one.channel.send(message="begins")
        other.attach()
        one.attach()
        for number in range(100):
            one.channel.send(message="beat", number=number)
        other.channel.send(do="drain")
        await until(lambda: len(other.received) == 101 and one.received)

        assert {"message": "begins"} == other.received[0]
        assert list(range(100)) == [m["number"] for m in other.received[1:]]
        assert [{"do": "drain"}] == one.received

    talk(scenario)


def test_the_end_of_the_other_side() -> None:
    """What it had said by then comes first; later messages are not taken."""

    async def scenario(one: Side, other: Side) -> None:
        one.channel.send(message="closing")
        one.channel.close()
        one.channel.close()
        other.attach()
        other.channel.send(do="drain")
        await until(lambda: other.lost)

        assert [{"message": "closing"}] == other.received
        assert not other.channel.send(do="drain")
        assert 1 == other.lost
        assert -1 == other.channel.fileno()

    talk(scenario)


def test_long_messages() -> None:
    """They are written as far as the other side reads."""

    async def scenario(one: Side, other: Side) -> None:
        text = "x" * 3_000_000
        one.attach()
        one.channel.send(message="answer", rows=text)
        one.channel.send(message="beat")
        other.attach()
        await until(lambda: len(other.received) == 2)

        assert text == other.received[0]["rows"]

    talk(scenario)


def test_a_side_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses messages; the other side's memory has a bound."""
    monkeypatch.setattr(channel, "_LONGEST_LINE_BYTES", 100_000)

    async def scenario(one: Side, other: Side) -> None:
        one.attach()
        taken = [one.channel.send(rows="x" * 50_000) for _ in range(100)]

        assert taken[0]
        assert not taken[-1]

    talk(scenario)


@pytest.mark.parametrize("garbage", [b"{]\n", b"[1]\n", b"\xff\n", b"x" * 200_000])
def test_garbage_ends_the_channel(
    garbage: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else has written to the descriptor."""
    monkeypatch.setattr(channel, "_LONGEST_LINE_BYTES", 100_000)

    async def scenario(one: Side, other: Side) -> None:
        other.attach()
        raw = socket.socket(fileno=os.dup(one.channel.fileno()))
        with raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            # The other side may hang up before it has read all.
            with suppress(OSError):
                await loop.sock_sendall(raw, garbage + b'{"message": "beat"}\n')
            await until(lambda: other.lost)

        assert [] == other.received
        assert "garbled" in caplog.text

    talk(scenario)


def test_a_message_that_is_too_long_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other side would close the channel, by which a worker ends: 80,000 rows."""
    monkeypatch.setattr(channel, "_LONGEST_LINE_BYTES", 1000)

    async def scenario(one: Side, other: Side) -> None:
        other.attach()
        assert not one.channel.send(answer="x" * 1000)
        assert one.channel.send(answer=None)
        await until(lambda: other.received)

        assert [{"answer": None}] == other.received
        assert 0 == other.lost
        assert "too many for one message" in caplog.text

    talk(scenario)


def test_what_was_said_at_last_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process may be known before anybody has read its last words."""
    monkeypatch.setattr(channel, "_READ_BYTES", 10)

    async def scenario(one: Side, other: Side) -> None:
        other.attach()
        one.channel.send(message="leaving")
        one.channel.send(message="closing")
        one.channel.close()
        other.channel.read_rest()

        assert ["leaving", "closing"] == [m["message"] for m in other.received]

    async def of_one_that_lives(one: Side, other: Side) -> None:
        other.attach()
        one.channel.send(message="beat")
        other.channel.read_rest()  # it doesn't wait for more

        assert [{"message": "beat"}] == other.received

    talk(scenario)
    talk(of_one_that_lives)
