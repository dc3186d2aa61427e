"""Tests of ``daphne_like.listeners.transports``."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from event_loops import LOOPS, run_on
from holding_outbox import HoldingOutbox
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from daphne_like.listeners import transports
from daphne_like.listeners.outbox import Outbox
from daphne_like.listeners.transports import LoopTransport, twisted_address


class FakeSocket:
    """What is asked of the socket below a loop's transport."""

    family = socket.AF_INET

    def setsockopt(self, *option: object) -> None:
        """Take any option."""


class FakeLoopTransport:
    """The event loop's side: tells what it was asked to do."""

    def __init__(self, peer: object = ("192.0.2.1", 1234)) -> None:
        self.calls: list[str] = []
        self.written = b""
        self.closing = False
        self.can_write_eof = lambda: True
        self._extra = {
            "socket": FakeSocket(),
            "peername": peer,
            "sockname": ("192.0.2.2", 80),
        }

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)

    def get_extra_info(self, name: str) -> object:
        """Tell the addresses."""
        return self._extra[name]

    def write(self, data: bytes) -> None:
        """Keep what is written."""
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        """Keep what is written."""
        self.written += b"".join(pieces)

    def is_closing(self) -> bool:
        """Tell what the test says."""
        return self.closing

    def get_write_buffer_size(self) -> int:
        """Tell a size which is recognized."""
        return 7


class Recorder:
    """A Twisted protocol, its factory and a producer: tells what it was told."""

    def __init__(self) -> None:
        self.peer: Any = None
        self.received = b""
        self.lost: Failure | None = None
        self.calls: list[str] = []
        self.refusing = False
        self.at_end: Callable[[], object] = lambda: None

    def buildProtocol(self, address: Any) -> Recorder | None:
        """Make a protocol, namely this, unless the test says no."""
        self.peer = address
        return None if self.refusing else self

    def makeConnection(self, transport: Any) -> None:
        """Be connected."""

    def dataReceived(self, data: bytes) -> None:
        """Keep what is received."""
        self.received += data

    def connectionLost(self, reason: Failure) -> None:
        """Keep the reason."""
        self.at_end()
        self.lost = reason

    def pauseProducing(self) -> None:
        """Note the call."""
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        """Note the call."""
        self.calls.append("resume")


def outbox() -> Outbox:
    """Return one in which nothing waits."""
    return Outbox(cast("Any", None))


@pytest.fixture
def protocol() -> Recorder:
    """Record what a protocol sees."""
    return Recorder()


@pytest.fixture
def loop_side() -> FakeLoopTransport:
    """Record what the loop's transport is asked for."""
    return FakeLoopTransport()


@pytest.fixture
def transport(protocol: Recorder, loop_side: FakeLoopTransport) -> LoopTransport:
    """Connect both."""
    transport = LoopTransport(cast("Any", protocol), outbox())
    transport.connection_made(cast("Any", loop_side))
    loop_side.calls.clear()
    return transport


# -- The connection --------------------------------------------------------------


def test_it_is_a_transport_of_twisted(transport: LoopTransport) -> None:
    """Protocols written for Twisted find all they may ask for."""
    for interface in (ITCPTransport, IConsumer, IPushProducer):
        assert verifyObject(interface, transport)


def test_no_frame_of_python_stands_in_the_way_of_bytes(
    transport: LoopTransport, protocol: Recorder, loop_side: FakeLoopTransport
) -> None:
    """The loop calls the protocol, and the protocol the loop, directly."""
    assert protocol.dataReceived == transport.data_received
    assert loop_side.write == transport.write

    transport.data_received(b"up")
    transport.write(b"down")
    transport.writeSequence([b", ", b"down"])

    assert b"up" == protocol.received
    assert b"down, down" == loop_side.written


def test_the_factory_is_told_who_connects(
    transport: LoopTransport, protocol: Recorder
) -> None:
    """It can refuse a connection by its address; the transport tells it later."""
    assert IPv4Address("TCP", "192.0.2.1", 1234) == protocol.peer
    assert protocol.peer == transport.getPeer()
    assert IPv4Address("TCP", "192.0.2.2", 80) == transport.getHost()


def test_a_factory_may_refuse(protocol: Recorder, loop_side: FakeLoopTransport) -> None:
    """A connection for which there is no protocol is closed."""
    protocol.refusing = True
    transport = LoopTransport(cast("Any", protocol), outbox())
    transport.connection_made(cast("Any", loop_side))
    transport.data_received(b"nobody wants it")
    transport.connection_lost(None)

    assert ["abort"] == loop_side.calls
    assert protocol.lost is None


def test_a_client_that_left_before_it_was_accepted(protocol: Recorder) -> None:
    """
    A TCP peer without an address gets no protocol: it would look like one on a
    Unix socket, which may be trusted more.
    """
    loop_side = FakeLoopTransport(peer=None)
    LoopTransport(cast("Any", protocol), outbox()).connection_made(
        cast("Any", loop_side)
    )

    assert ["abort"] == loop_side.calls
    assert protocol.peer is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, ConnectionDone), (ConnectionResetError("reset"), ConnectionLost)],
)
def test_the_end_of_the_connection(
    transport: LoopTransport, protocol: Recorder, error: Any, reason: Any
) -> None:
    """The protocol learns whether it ended in good order, and gets nothing more."""
    transport.connection_lost(error)
    transport.data_received(b"late")
    transport.pause_writing()

    assert protocol.lost is not None
    assert protocol.lost.check(reason)
    assert b"" == protocol.received
    assert [] == protocol.calls


def test_producing_goes_with_the_loops_buffer(
    transport: LoopTransport, protocol: Recorder
) -> None:
    """Above the loop's mark the producer is paused, below the other one resumed."""
    transport.pause_writing()
    transport.resume_writing()
    assert [] == protocol.calls

    transport.registerProducer(cast("Any", protocol), True)
    transport.pause_writing()
    transport.resume_writing()
    assert ["pause", "resume"] == protocol.calls

    transport.unregisterProducer()
    transport.pause_writing()
    assert ["pause", "resume"] == protocol.calls
    assert 7 == transport.write_buffer_bytes()


def test_pull_producers_are_refused(
    transport: LoopTransport, protocol: Recorder
) -> None:
    """A producer that wants to be asked for each piece gets an error at once."""
    with pytest.raises(NotImplementedError, match="push producers"):
        transport.registerProducer(cast("Any", protocol), False)


def test_reading_can_be_paused(
    transport: LoopTransport, loop_side: FakeLoopTransport
) -> None:
    """Also when it is too late, which has no effect then."""
    transport.pauseProducing()
    transport.resumeProducing()
    assert ["pause_reading", "resume_reading"] == loop_side.calls

    loop_side.closing = True
    transport.resumeProducing()
    transport.connection_lost(None)
    transport.pauseProducing()
    transport.resumeProducing()
    assert ["pause_reading", "resume_reading"] == loop_side.calls


def test_closing(transport: LoopTransport, loop_side: FakeLoopTransport) -> None:
    """`loseConnection` and `stopProducing` close when everything is written."""
    transport.loseConnection()
    transport.stopProducing()

    assert ["close", "close"] == loop_side.calls


def test_half_closing(transport: LoopTransport, loop_side: FakeLoopTransport) -> None:
    """Only our side is closed, where that is possible; else both."""
    transport.loseWriteConnection()
    assert ["write_eof"] == loop_side.calls

    loop_side.can_write_eof = lambda: False
    transport.loseWriteConnection()
    assert ["write_eof", "close"] == loop_side.calls


def test_half_closing_towards_a_client_that_has_gone(
    transport: LoopTransport, loop_side: FakeLoopTransport
) -> None:
    """The system's error says that the connection is over, and over it is."""

    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "not connected")

    loop_side.write_eof = write_eof  # type: ignore[attr-defined]
    transport.loseWriteConnection()

    assert ["abort"] == loop_side.calls


def test_aborting_twice(transport: LoopTransport, loop_side: FakeLoopTransport) -> None:
    """What is lost can't be aborted."""
    transport.abortConnection()
    transport.connection_lost(None)
    transport.abortConnection()

    assert ["abort"] == loop_side.calls


# -- What may wait ---------------------------------------------------------------


@pytest.mark.parametrize(
    "do",
    [
        LoopTransport.loseConnection,
        LoopTransport.stopProducing,
        LoopTransport.loseWriteConnection,
        LoopTransport.abortConnection,
        LoopTransport.write_buffer_bytes,
        LoopTransport.settle,
        LoopTransport.eof_received,
        lambda transport: transport.connection_lost(None),
        lambda transport: transport.writeSequence([b"", b""]),
    ],
)
def test_nothing_overtakes_what_is_held_back(
    protocol: Recorder,
    loop_side: FakeLoopTransport,
    do: Callable[[LoopTransport], object],
) -> None:
    """Neither is it forgotten when the connection is closed."""
    transport = LoopTransport(cast("Any", protocol), HoldingOutbox())
    transport.connection_made(cast("Any", loop_side))
    transport.write_soon(b"held")
    assert b"" == loop_side.written

    do(transport)

    assert b"held" == loop_side.written


# -- Addresses -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name", "address"),
    [
        (socket.AF_INET, ("192.0.2.1", 80), IPv4Address("TCP", "192.0.2.1", 80)),
        (
            socket.AF_INET6,
            ("fe80::1", 80, 5, 2),
            IPv6Address("TCP", "fe80::1", 80, 5, 2),
        ),
        (socket.AF_UNIX, "/run/x", UNIXAddress(b"/run/x")),
        (socket.AF_UNIX, b"\0hidden", UNIXAddress(b"\0hidden")),
        (socket.AF_UNIX, "", UNIXAddress(None)),
        (socket.AF_UNIX, None, UNIXAddress(None)),
    ],
)
def test_addresses_are_twisteds(
    family: socket.AddressFamily, name: object, address: object
) -> None:
    """Programs that know Twisted's address classes get them."""
    with socket.socket(family) as sock:
        assert address == twisted_address(sock, name)


# -- On real sockets and loops -----------------------------------------------------


class Peer:
    """The client's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def read(self, count: int) -> bytes:
        """Read so many bytes."""
        loop = asyncio.get_running_loop()
        received = b""
        while len(received) < count:
            piece = await loop.sock_recv(self.sock, count - len(received))
            if not piece:
                break
            received += piece
        return received


def socket_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Connect two sockets."""
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@asynccontextmanager
async def connected(
    protocol: Recorder, kind: str = "tcp", outbox: Outbox | None = None
) -> AsyncIterator[tuple[LoopTransport, Peer]]:
    """Put a transport on the running loop."""
    ours, theirs = socket_pair(kind)
    theirs.setblocking(False)
    outbox = outbox or Outbox(asyncio.get_running_loop())
    transport = LoopTransport(cast("Any", protocol), outbox)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, ours)
    transport.registerProducer(cast("Any", protocol), True)
    try:
        yield transport, Peer(theirs)
    finally:
        theirs.close()
        transport.abortConnection()
        await turns_until(lambda: protocol.lost is not None)
        # One more, in which the loop closes the socket.
        await asyncio.sleep(0)


async def turns_until(happened: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened."""
    while not happened():
        await asyncio.sleep(0)


async def turns(count: int = 100) -> None:
    """Let the loop turn, more often than anything takes."""
    for _ in range(count):
        await asyncio.sleep(0)


KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
ON_LOOPS = pytest.mark.parametrize("loop", LOOPS)

# More than sockets and loops hold together.
LARGE = bytes(range(256)) * 64 * 1024


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Write a file which no buffer holds."""
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def opened(large_file: Path) -> Any:
    """Open that file."""
    with large_file.open("rb") as file:
        yield file.fileno()


def count_descriptors() -> int:
    """Count what this process has open."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


@ON_LOOPS
@KINDS
def test_others_may_write_to_the_socket(
    protocol: Recorder, kind: str, loop: str
) -> None:
    """They overtake nothing, as the producer is paused while the loop holds anything."""

    async def scenario() -> None:
        async with connected(protocol, kind) as (transport, peer):
            descriptor = transport.share_descriptor()
            assert descriptor is not None
            transport.write(b"1")
            os.write(descriptor, b"2")
            transport.write(b"3")
            assert b"123" == await peer.read(3)

            count = 0
            while not protocol.calls:
                transport.write(b"x" * 1000)
                count += 1
            assert 0 < transport.write_buffer_bytes() <= 1000
            with pytest.raises(BlockingIOError):
                os.write(descriptor, b"too early")

            assert count * 1000 == len(await peer.read(count * 1000))
            await turns_until(lambda: len(protocol.calls) > 1)
            assert ["pause", "resume"] == protocol.calls
            os.write(descriptor, b"last")
            assert b"last" == await peer.read(4)

    run_on(loop, scenario())


@ON_LOOPS
def test_the_socket_is_shared_while_bytes_are_held(
    protocol: Recorder, loop: str
) -> None:
    """The producer is paused, also if the loop holds too little for that otherwise."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            count = 0
            while not transport.write_buffer_bytes():
                transport.write(b"x" * 1000)
                count += 1
            assert [] == protocol.calls
            transport.share_descriptor()
            assert ["pause"] == protocol.calls

            await peer.read(count * 1000)
            await turns_until(lambda: len(protocol.calls) > 1)
            assert ["pause", "resume"] == protocol.calls

    run_on(loop, scenario())


@ON_LOOPS
@pytest.mark.parametrize("how", ["leave", "reset", "loseConnection", "abortConnection"])
def test_the_descriptor_is_valid_to_the_end(
    protocol: Recorder, how: str, loop: str
) -> None:
    """It isn't another connection's when the protocol learns of the end."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            descriptor = transport.share_descriptor()
            assert descriptor is not None
            inode = os.fstat(descriptor).st_ino
            found: list[int] = []
            protocol.at_end = lambda: found.append(os.fstat(descriptor).st_ino)
            if how == "leave":
                peer.sock.close()
            elif how == "reset":
                option = struct.pack("ii", 1, 0)
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                peer.sock.close()
            else:
                getattr(transport, how)()
            await turns_until(lambda: protocol.lost is not None)
            assert [inode] == found

    run_on(loop, scenario())


@ON_LOOPS
@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("how", ["half-close", "abortConnection"])
def test_nobody_writes_to_the_socket_once_the_end_has_begun(
    protocol: Recorder, how: str, holds: bool, loop: str
) -> None:
    """What the loop drops then would be missing before it."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            transport.share_descriptor()
            count = 0
            while holds and not protocol.calls:
                transport.write(b"x" * 1000)
                count += 1
            if how == "half-close":
                peer.sock.shutdown(socket.SHUT_WR)
                await turns_until(lambda: "pause" in protocol.calls)
                await peer.read(count * 1000)
            else:
                transport.abortConnection()
            await turns_until(lambda: protocol.lost is not None)
            assert {"pause"} == {*protocol.calls}

    run_on(loop, scenario())


def test_windows_has_no_descriptors_of_sockets(
    transport: LoopTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All goes through the transport there."""
    monkeypatch.setattr(transports, "os", SimpleNamespace(name="nt"))

    assert transport.share_descriptor() is None


@ON_LOOPS
@KINDS
def test_a_file_is_sent_between_what_is_written(
    protocol: Recorder, opened: int, kind: str, loop: str
) -> None:
    """What the protocol writes before and after a file comes before and after it."""

    async def scenario() -> None:
        async with connected(protocol, kind) as (transport, peer):
            transport.write(b"before" * 100_000)
            sending = asyncio.ensure_future(transport.send_file(opened, 10, 5_000_000))
            expected = b"before" * 100_000 + LARGE[10:5_000_010]
            assert expected == await peer.read(len(expected))
            await sending
            # Another one, and another one, which end as they should.
            transport.write(b"<")
            await transport.send_file(opened, 0, 3)
            await transport.send_file(opened, 3, 2)
            transport.write(b">")
            assert b"<\0\1\2\3\4>" == await peer.read(7)
            assert ["pause", "resume"] == protocol.calls[-2:]
            assert 0 == transport.write_buffer_bytes()

    run_on(loop, scenario())


@ON_LOOPS
def test_what_is_held_back_for_a_client_that_has_gone(
    protocol: Recorder, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is nobody's loss, and nothing for the log."""

    async def scenario() -> None:
        outbox = HoldingOutbox()
        async with connected(protocol, outbox=outbox) as (transport, peer):
            transport.write_soon(b"answer")
            peer.sock.close()
            await turns_until(lambda: protocol.lost is not None)
            outbox.flush()

    with caplog.at_level(logging.INFO):
        run_on(loop, scenario())
    assert not caplog.messages


@ON_LOOPS
def test_a_client_that_has_said_all_it_had_to_say(
    protocol: Recorder, loop: str
) -> None:
    """At its end of file the loop closes, but an answer that is held back goes first."""

    async def scenario() -> None:
        async with connected(protocol, outbox=HoldingOutbox()) as (transport, peer):
            transport.write_soon(b"answer")
            peer.sock.shutdown(socket.SHUT_WR)
            assert b"answer" == await peer.read(7)

    run_on(loop, scenario())


@ON_LOOPS
def test_transports_that_get_full_while_all_is_written(
    protocol: Recorder, loop: str
) -> None:
    """Who then asks how much is unsent gets an answer, and no recursion."""
    sizes: list[int] = []

    async def scenario() -> None:
        outbox = HoldingOutbox()
        async with connected(protocol, outbox=outbox) as (transport, peer):
            protocol.pauseProducing = lambda: sizes.append(  # type: ignore[method-assign]
                transport.write_buffer_bytes()
            )
            for _ in range(3):
                transport.write_soon(bytes(10_000_000))
            outbox.flush()
            assert 1 == len(sizes)
            assert 0 < sizes[0] < 10_000_000
            assert 30_000_000 == len(await peer.read(30_000_000))

    run_on(loop, scenario())


@ON_LOOPS
def test_a_file_comes_behind_what_is_held_back(
    protocol: Recorder, opened: int, loop: str
) -> None:
    """The head of a response with a file may wait, but not longer than the file."""

    async def scenario() -> None:
        async with connected(protocol, outbox=HoldingOutbox()) as (transport, peer):
            transport.write_soon(b"head")
            await transport.send_file(opened, 0, 3)
            assert b"head\0\1\2" == await peer.read(7)

    run_on(loop, scenario())


@ON_LOOPS
@KINDS
def test_most_of_a_file_is_copied_by_the_kernel(
    protocol: Recorder,
    opened: int,
    kind: str,
    loop: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Little of it is read into the process, however slowly the client reads."""
    real, copied = os.sendfile, 0

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        nonlocal copied
        sent = real(out, file, offset, count)
        copied += sent
        return sent

    monkeypatch.setattr(os, "sendfile", sendfile)

    async def scenario() -> None:
        async with connected(protocol, kind) as (transport, peer):
            sending = asyncio.ensure_future(transport.send_file(opened, 0, len(LARGE)))
            assert LARGE == await peer.read(len(LARGE))
            await sending
            assert copied > len(LARGE) / 2

    run_on(loop, scenario())


@ON_LOOPS
@KINDS
def test_a_file_waits_for_a_slow_client(
    protocol: Recorder, opened: int, kind: str, loop: str
) -> None:
    """The rest of the file counts as unsent, so that a stall can be told."""

    async def scenario() -> None:
        async with connected(protocol, kind) as (transport, peer):
            sending = asyncio.ensure_future(transport.send_file(opened, 0, len(LARGE)))
            await turns()
            assert not sending.done()
            waiting = transport.write_buffer_bytes()
            assert 1_000_000 < waiting < len(LARGE)
            assert "resume" not in protocol.calls

            assert LARGE[:8_000_000] == await peer.read(8_000_000)
            await turns()
            assert transport.write_buffer_bytes() < waiting
            assert LARGE[8_000_000:] == await peer.read(len(LARGE) - 8_000_000)
            await sending

    run_on(loop, scenario())


@ON_LOOPS
@KINDS
def test_a_file_for_a_client_that_goes(
    protocol: Recorder, opened: int, kind: str, loop: str
) -> None:
    """Sending ends with the connection, without an error, and leaves nothing open."""

    async def scenario() -> None:
        async with connected(Recorder(), kind):
            pass  # loops open more the first time
        before = count_descriptors()
        async with connected(protocol, kind) as (transport, peer):
            sending = asyncio.ensure_future(transport.send_file(opened, 0, len(LARGE)))
            await peer.read(1000)
            peer.sock.close()
            await sending
            await turns_until(lambda: protocol.lost is not None)
            await transport.send_file(opened, 0, len(LARGE))
        assert before == count_descriptors()

    run_on(loop, scenario())


@ON_LOOPS
@pytest.mark.parametrize("size", [0, 1000, 5_000_000])
def test_a_file_that_is_shorter_than_it_was(
    protocol: Recorder, large_file: Path, opened: int, size: int, loop: str
) -> None:
    """A file which is truncated meanwhile can't be sent as it was announced."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            os.truncate(large_file, size)
            sending = asyncio.ensure_future(transport.send_file(opened, 0, len(LARGE)))
            assert LARGE[:size] == await peer.read(size)
            with pytest.raises(EOFError, match="the file ended early"):
                await sending
            assert 0 == transport.write_buffer_bytes()

    run_on(loop, scenario())


@ON_LOOPS
@KINDS
def test_sending_a_file_can_be_cancelled(
    protocol: Recorder, opened: int, kind: str, loop: str
) -> None:
    """Flow control is as before then, and no descriptor stays open."""

    async def scenario() -> None:
        async with connected(Recorder(), kind):
            pass  # loops open more the first time
        before = count_descriptors()
        async with connected(protocol, kind) as (transport, peer):
            limits = transport._transport.get_write_buffer_limits()
            sending = asyncio.ensure_future(transport.send_file(opened, 0, len(LARGE)))
            await peer.read(1000)
            await turns()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert "resume" == protocol.calls[-1]
            assert limits == transport._transport.get_write_buffer_limits()
            assert transport.write_buffer_bytes() < 100_000
        assert before == count_descriptors()

    run_on(loop, scenario())


@ON_LOOPS
def test_a_file_which_the_kernel_cannot_send(
    protocol: Recorder, opened: int, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems can't; the file is read and written then."""

    def sendfile(*arguments: object) -> int:
        raise OSError(errno.EINVAL, "not for this file")

    monkeypatch.setattr(os, "sendfile", sendfile)

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            sending = asyncio.ensure_future(transport.send_file(opened, 5, 500_000))
            assert LARGE[5:500_005] == await peer.read(500_000)
            await sending

    run_on(loop, scenario())


@ON_LOOPS
def test_an_aborted_connection_is_reset(protocol: Recorder, loop: str) -> None:
    """The client can't take the end of a response that is cut for its proper end."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, peer):
            transport.write(bytes(10_000_000))
            transport.abortConnection()
            with pytest.raises(ConnectionResetError):
                while await peer.read(1_000_000):
                    pass

    run_on(loop, scenario())


@ON_LOOPS
def test_socket_options(protocol: Recorder, loop: str) -> None:
    """They can be asked and set, as on Twisted's transports."""

    async def scenario() -> None:
        async with connected(protocol) as (transport, _):
            for enabled in (True, False):
                transport.setTcpNoDelay(enabled)
                transport.setTcpKeepAlive(enabled)
                assert enabled is transport.getTcpNoDelay()
                assert enabled is transport.getTcpKeepAlive()

    run_on(loop, scenario())
