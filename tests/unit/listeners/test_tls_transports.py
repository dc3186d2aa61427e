"""Tests of ``daphne_like.listeners.tls_transports``."""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Authority, Issued
from event_loops import LOOPS, run_on
from holding_outbox import HoldingOutbox
from tls_in_memory import trusting
from twisted.internet.interfaces import INegotiated
from zope.interface.verify import verifyObject

from daphne_like.listeners import pending
from daphne_like.listeners.outbox import Outbox
from daphne_like.listeners.tls import CertificateFiles, ServerTLS, TLSPolicy
from daphne_like.listeners.tls_transports import Handshakes, LoopTLSTransport
from daphne_like.protocols.connections import (
    close_writing,
    shared_descriptor,
    unsent_bytes,
)

ON_LOOPS = pytest.mark.parametrize("loop", LOOPS)


class Echo:
    """A protocol which answers with what it gets, and its factory."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = b""
        self.ends: list[Any] = []
        self.refusing = False

    def buildProtocol(self, address: object) -> Echo | None:
        """Make a protocol, namely this, unless the test says no."""
        return None if self.refusing else self

    def makeConnection(self, transport: Any) -> None:
        """Be connected."""
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        """Answer."""
        self.received += data
        self.transport.write(data)

    def connectionLost(self, reason: Any) -> None:
        """Keep the reason."""
        self.ends.append(reason)


# -- The transport, over one in the hands of the test ------------------------------------


class Raw:
    """The event loop's transport, with a client at its other end."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.calls: list[str] = []
        self.unsent = 0
        self._to_client, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(
            self._to_client, self._to_server, server_hostname="localhost"
        )
        self.server: Any = None

    def write(self, data: bytes) -> None:
        """Take what the server sends."""
        assert data
        self._to_client.write(data)

    def deliver(self, *, byte_by_byte: bool = False) -> None:
        """Let the server have what the client has sent."""
        data = self._to_server.read()
        for piece in (
            [data[at : at + 1] for at in range(len(data))] if (byte_by_byte) else [data]
        ):
            if piece:
                self.server.data_received(piece)

    def shake_hands(self, *, byte_by_byte: bool = False) -> None:
        """Do what both sides have to do."""
        for _ in range(5):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.deliver(byte_by_byte=byte_by_byte)

    def say(self, data: bytes) -> None:
        """Let the client write, without delivering it."""
        self.client.write(data)

    def heard(self) -> bytes:
        """Let the client read all there is."""
        heard = b""
        try:
            while piece := self.client.read():
                heard += piece
        except ssl.SSLWantReadError:
            pass
        return heard

    def garble(self) -> None:
        """Change what the client has sent."""
        data = bytearray(self._to_server.read())
        data[-1] ^= 1
        self.server.data_received(bytes(data))

    def get_extra_info(self, name: str) -> object:
        """Tell what is asked for."""
        return {
            "socket": type("Socket", (), {"family": socket.AF_INET}),
            "peername": ("192.0.2.1", 1234),
        }[name]

    def get_write_buffer_size(self) -> int:
        """Tell what the test says."""
        return self.unsent

    def can_write_eof(self) -> bool:
        """Tell that it can."""
        return True

    def is_closing(self) -> bool:
        """Tell whether it is."""
        return "close" in self.calls or "abort" in self.calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)


class Pair:
    """A transport of the server's and its client."""

    def __init__(self, server: ServerTLS, client: ssl.SSLContext) -> None:
        self.protocol = Echo()
        self.handshakes = Handshakes(server)
        self.raw = Raw(client)
        self.outbox = HoldingOutbox()
        self.outbox.holding = False
        self.transport = LoopTLSTransport(
            cast("Any", self.protocol), self.outbox, self.handshakes
        )
        self.raw.server = self.transport
        self.transport.connection_made(cast("Any", self.raw))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def pair(
    request: pytest.FixtureRequest,
    authority: Authority,
    certificate: Issued,
    tmp_path: Path,
) -> Pair:
    """Connect a client of either version."""
    path = str(certificate.write(tmp_path / "server.pem"))
    policy = TLSPolicy(handshake_timeout=0)
    server = ServerTLS([CertificateFiles(path, path)], policy)
    client = trusting(authority.pem, maximum_version=ssl.TLSVersion[request.param])
    return Pair(server, client)


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_bytes_come_however_they_are_cut(pair: Pair, byte_by_byte: bool) -> None:
    """Records in pieces and several records in one read make no difference."""
    pair.raw.shake_hands(byte_by_byte=byte_by_byte)
    data = bytes(range(256)) * 200
    pair.raw.say(b"first")
    pair.raw.say(data)
    pair.raw.say(b"last")
    pair.raw.deliver(byte_by_byte=byte_by_byte)

    assert b"first" + data + b"last" == pair.protocol.received == pair.raw.heard()
    assert not pair.handshakes.pending


def test_what_comes_with_the_handshake_is_not_lost(pair: Pair) -> None:
    """A request in the same packet as the handshake's end reaches the protocol."""
    raw = pair.raw
    while True:
        try:
            raw.client.do_handshake()
            break
        except ssl.SSLWantReadError:
            if raw.client.version() == "TLSv1.2" and raw._to_client.pending:
                continue
            raw.deliver()
    raw.say(b"early")
    raw.deliver()

    assert b"early" == pair.protocol.received


def test_nobody_writes_past_the_encryption(pair: Pair) -> None:
    """Neither a WebSocket nor the kernel finds a way."""
    pair.raw.shake_hands()
    transport = pair.protocol.transport

    assert shared_descriptor(transport) is None
    assert transport.send_file is None


def test_the_farewell_of_the_client_comes_behind_its_bytes(pair: Pair) -> None:
    """What it said before is passed on; then the connection is closed."""
    pair.raw.shake_hands()
    pair.raw.say(b"x" * 20_000)
    with suppress(ssl.SSLError):
        pair.raw.client.unwrap()

    async def scenario() -> None:
        pair.raw.deliver()
        await asyncio.sleep(0)

    run_on("asyncio", scenario())
    assert b"x" * 20_000 == pair.protocol.received
    assert "close" in pair.raw.calls


def test_a_farewell_alone(pair: Pair) -> None:
    """It ends the connection, and is answered."""
    pair.raw.shake_hands()
    with suppress(ssl.SSLError):
        pair.raw.client.unwrap()
    pair.raw.deliver()

    assert "close" in pair.raw.calls
    # Without the exception that says that there is more to come.
    pair.raw.client.unwrap()


def test_a_broken_record_ends_the_connection(pair: Pair) -> None:
    """With an alert, and nothing of it reaches the protocol."""
    pair.raw.shake_hands()
    pair.raw.say(b"secret")
    pair.raw.garble()

    assert b"" == pair.protocol.received
    assert "close" in pair.raw.calls
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        pair.raw.heard()


@pytest.mark.parametrize("how", ["loseConnection", "loseWriteConnection"])
def test_nothing_follows_the_farewell(pair: Pair, how: str) -> None:
    """What was written before arrives; what is written later doesn't, and harms nobody."""
    pair.raw.shake_hands()
    transport = pair.protocol.transport
    transport.write(b"before")
    getattr(transport, how)()
    transport.write(b"after")
    getattr(transport, how)()
    pair.raw.say(b"too late")
    pair.raw.deliver()

    assert b"before" == pair.raw.heard()
    pair.raw.client.unwrap()
    assert b"" == pair.protocol.received
    expected = "close" if how == "loseConnection" else "write_eof"
    assert expected in pair.raw.calls


@pytest.mark.parametrize("how", ["loseConnection", "loseWriteConnection"])
def test_what_is_held_back_comes_before_the_farewell(pair: Pair, how: str) -> None:
    """It is encrypted when it is written, so it must be before the end is."""
    pair.raw.shake_hands()
    pair.outbox.holding = True
    pair.protocol.transport.write_soon(b"held")
    assert b"" == pair.raw.heard()

    getattr(pair.protocol.transport, how)()

    assert b"held" == pair.raw.heard()


def test_unsent_bytes_are_those_below(pair: Pair) -> None:
    """What is written is encrypted at once; what isn't sent is known."""
    pair.raw.shake_hands()
    pair.raw.unsent = 12

    assert 12 == unsent_bytes(pair.transport)


def test_what_the_kernel_can_not_do(pair: Pair) -> None:
    """It would send files without encryption; one side can be closed."""
    pair.raw.shake_hands()

    assert pair.transport.send_file is None
    assert close_writing(pair.transport) == pair.transport.loseWriteConnection


def test_a_client_is_told_why_it_is_refused(
    authority: Authority, certificate: Issued, tmp_path: Path
) -> None:
    """A handshake that fails ends with an alert (RFC 8446 section 6.2)."""
    path = str(certificate.write(tmp_path / "server.pem"))
    policy = TLSPolicy(minimum_version=ssl.TLSVersion.TLSv1_3, handshake_timeout=0)
    server = ServerTLS([CertificateFiles(path, path)], policy)
    old = trusting(authority.pem, maximum_version=ssl.TLSVersion.TLSv1_2)

    async def scenario() -> None:
        pair = Pair(server, old)
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            pair.raw.shake_hands()
        assert "write_eof" in pair.raw.calls
        # What still comes is dropped until the client closes, or time is up.
        pair.transport.data_received(b"x")
        assert [pair.transport] == [*pair.handshakes.pending]
        pair.transport.connection_lost(None)
        assert not pair.handshakes.pending

    run_on("asyncio", scenario())


def test_a_connection_lost_in_the_handshake(pair: Pair) -> None:
    """The protocol never hears of it."""
    with suppress(ssl.SSLWantReadError):
        pair.raw.client.do_handshake()
    pair.raw.deliver()
    assert [pair.transport] == [*pair.handshakes.pending]
    pair.transport.connection_lost(None)

    assert pair.protocol.transport is None
    assert [] == pair.protocol.ends
    assert not pair.handshakes.pending


def test_another_protocol_takes_over(pair: Pair) -> None:
    """As with an accepted WebSocket."""
    pair.raw.shake_hands()
    other = Echo()
    other.transport = pair.transport
    pair.transport.switch_protocol(cast("Any", other))
    pair.raw.say(b"x")
    pair.raw.deliver()

    assert (b"", b"x") == (pair.protocol.received, other.received)


def test_nothing_is_left_when_a_connection_is_lost(pair: Pair) -> None:
    """Transport and protocol are freed without the garbage collector."""
    pair.raw.shake_hands()
    pair.transport.connection_lost(None)
    gone = weakref.ref(pair.transport.ssl_object)
    assert 1 == len(pair.protocol.ends)
    pair.raw.server = pair.protocol.transport = None
    del pair.transport

    assert gone() is None


# -- Connections over a real event loop ----------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Sign the certificate."""
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Issued:
    """Make the certificate."""
    return authority.issue("localhost", "127.0.0.1")


class Listening:
    """
    A listener, and clients for it.

    Attributes:
        factory: Makes the protocols.
        sock: Listens.
        handshakes: Those which aren't done.
    """

    def __init__(self, authority: Authority, certificate: Issued, folder: Path) -> None:
        self._authority = authority
        path = str(certificate.write(folder / "server.pem"))
        self._source = CertificateFiles(path, path)
        self.factory = Echo()

    @asynccontextmanager
    async def on(self, timeout: float = 10.0) -> AsyncIterator[None]:
        """Listen."""
        tls = ServerTLS([self._source], TLSPolicy(handshake_timeout=timeout))
        tls.offer([b"http/1.1"])
        # Told its protocol, asyncio switches Nagle's algorithm off.
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        with socket.socket(*kind) as self.sock:
            self.sock.bind(("127.0.0.1", 0))
            self.sock.listen()
            self.sock.setblocking(False)
            loop = asyncio.get_running_loop()
            self.handshakes = Handshakes(tls)
            server = await loop.create_server(
                lambda: LoopTLSTransport(
                    cast("Any", self.factory), Outbox(loop), self.handshakes
                ),
                sock=self.sock,
            )
            try:
                yield
            finally:
                server.close()
                self.handshakes.cut()
                await turns()

    def trusting(self, **attributes: Any) -> ssl.SSLContext:
        """Make the context of a client."""
        return trusting(self._authority.pem, **attributes)

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect without TLS."""
        return await asyncio.open_connection(*self.sock.getsockname())

    async def secure(
        self, **attributes: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect with TLS."""
        context = self.trusting(**attributes)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return await asyncio.open_connection(*self.sock.getsockname(), ssl=context)

    async def until_begun(self) -> None:
        """Wait until all that are pending have sent something."""
        while any(transport.is_idle for transport in self.handshakes.pending):
            await asyncio.sleep(0.001)

    async def until_pending(self, count: int) -> None:
        """Wait until so many connections wait for their handshake."""
        while len(self.handshakes.pending) != count:
            await asyncio.sleep(0.001)


async def turns() -> None:
    """Let the loop do what it has to do."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def listening(authority: Authority, certificate: Issued, tmp_path: Path) -> Listening:
    """Make a listener."""
    return Listening(authority, certificate, tmp_path)


@ON_LOOPS
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_bytes_both_ways(listening: Listening, loop: str, version: str) -> None:
    """They are encrypted, go out at once, and the transport tells of the handshake."""

    async def scenario() -> None:
        async with listening.on():
            number = ssl.TLSVersion[version]
            reader, writer = await listening.secure(maximum_version=number)
            body = bytes(range(256)) * 4096
            writer.write(body)
            assert body == await reader.readexactly(len(body))
            transport = listening.factory.transport
            assert b"http/1.1" == transport.negotiatedProtocol
            assert transport.getPeerCertificate() is None
            assert transport.getTcpNoDelay()
            assert writer.get_extra_info("sockname")[1] == transport.getPeer().port
            assert verifyObject(INegotiated, transport)
            assert not listening.handshakes.pending
            writer.close()
            await writer.wait_closed()
            while not listening.factory.ends:
                await asyncio.sleep(0.001)

    run_on(loop, scenario())


@ON_LOOPS
def test_a_close_reaches_the_client_with_all_before_it(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However much there is, it arrives before TLS's farewell; the server waits for
    no answer to that.
    """
    size = 8 * 1024 * 1024

    def farewell(data: bytes) -> None:
        listening.factory.transport.write(bytes(size))
        listening.factory.transport.loseConnection()

    def ask() -> bytes:
        # Not the event loop's client: uvloop's drops what it hasn't delivered when
        # the end of the connection comes behind it.
        with (
            socket.create_connection(listening.sock.getsockname()) as sock,
            listening.trusting().wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as secure,
        ):
            secure.sendall(b"x")
            return b"".join(iter(lambda: secure.recv(1 << 16), b""))

    monkeypatch.setattr(listening.factory, "dataReceived", farewell)

    async def scenario() -> None:
        async with listening.on():
            assert bytes(size) == await asyncio.to_thread(ask)
            while not listening.factory.ends:
                await asyncio.sleep(0.001)

    run_on(loop, scenario())


@ON_LOOPS
def test_an_abort_is_a_reset(listening: Listening, loop: str) -> None:
    """The client can't take it for a regular end."""

    async def scenario() -> None:
        async with listening.on():
            reader, writer = await listening.secure()
            writer.write(b"x")
            await reader.readexactly(1)
            listening.factory.transport.abortConnection()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_a_refused_connection_is_closed(listening: Listening, loop: str) -> None:
    """When the factory makes no protocol."""

    async def scenario() -> None:
        listening.factory.refusing = True
        async with listening.on():
            reader, writer = await listening.secure()
            with pytest.raises(ConnectionError):
                assert b"" == await reader.read()
                raise ConnectionResetError
            writer.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_http_is_answered_in_words(listening: Listening, loop: str) -> None:
    """The client is told to use https, and can read that to its end."""

    async def scenario() -> None:
        async with listening.on():
            reader, writer = await listening.plain()
            writer.write(b"GET / HTTP/1.1\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"use https://" in answer
            writer.write(bytes(100_000))
            await listening.until_pending(1)
            writer.close()
            await listening.until_pending(0)

    run_on(loop, scenario())


@ON_LOOPS
def test_who_says_nothing_is_cut(listening: Listening, loop: str) -> None:
    """At the deadline; and with it, whoever doesn't go on."""

    async def scenario() -> None:
        async with listening.on(timeout=0.05):
            silent, half = await listening.plain(), await listening.plain()
            half[1].write(b"\x16\x03\x01")
            for reader, writer in (silent, half):
                try:
                    assert b"" == await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()
            await listening.until_pending(0)
        assert listening.factory.transport is None

    run_on(loop, scenario())


@ON_LOOPS
def test_noise_is_cut(listening: Listening, loop: str) -> None:
    """At its first byte, before any deadline."""

    async def scenario() -> None:
        async with listening.on(timeout=0):
            for noise in (b"\x00", b"\x80\x2e", b" ", b"\xff"):
                reader, writer = await listening.plain()
                writer.write(noise)
                try:
                    assert b"" == await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()
            await listening.until_pending(0)

    run_on(loop, scenario())


@ON_LOOPS
def test_a_stopping_listener_waits_for_the_last_handshakes(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who is about to begin when a worker is replaced isn't turned away. Who isn't has no
    more than a moment, the silent less than those which have sent something.
    """
    monkeypatch.setattr(pending, "LAST_TIMEOUT", 0.3)

    async def scenario() -> None:
        async with listening.on(timeout=0):
            silent, half = await listening.plain(), await listening.plain()
            half[1].write(b"\x16\x03\x01")
            await listening.until_pending(2)
            while sum(item.is_idle for item in listening.handshakes.pending) != 1:
                await asyncio.sleep(0.001)
            listening.handshakes.close()
            emptied = asyncio.ensure_future(listening.handshakes.emptied())
            # Accepted before, and connected just now.
            reader, writer = await listening.secure()
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            writer.close()

            order = []
            for name, (reader, writer) in {"silent": silent, "half": half}.items():
                try:
                    assert b"" == await reader.read()
                except ConnectionResetError:
                    pass
                order.append((name, len(listening.handshakes.pending)))
                writer.close()
            assert [("silent", 1), ("half", 0)] == order
            await emptied

    run_on(loop, scenario())


@ON_LOOPS
def test_handshakes_are_cut_when_nobody_waits(listening: Listening, loop: str) -> None:
    """None of those which aren't done outlives the server."""

    async def scenario() -> None:
        async with listening.on(timeout=0):
            silent, half = await listening.plain(), await listening.plain()
            half[1].write(b"\x16\x03\x01")
            await listening.until_pending(2)
            listening.handshakes.close()
            listening.handshakes.cut()
            for reader, writer in (silent, half):
                try:
                    assert b"" == await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()
            await listening.handshakes.emptied()
            assert not listening.handshakes.pending

    run_on(loop, scenario())


@ON_LOOPS
def test_the_idle_give_way(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many waiting, those go which haven't begun; the oldest first."""
    monkeypatch.setattr(pending, "_MOST_PENDING", 2)

    async def scenario() -> None:
        async with listening.on(timeout=0):
            idle = [await listening.plain() for _ in range(2)]
            await listening.until_pending(2)
            reader, writer = await listening.secure()
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            assert b"" == await idle[0][0].read()
            assert 1 == len(listening.handshakes.pending)
            for _, closing in (*idle, (reader, writer)):
                closing.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_half_handshakes_keep_nobody_out(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte on each of so many connections doesn't make a listener unreachable."""
    monkeypatch.setattr(pending, "_MOST_PENDING", 2)

    async def scenario() -> None:
        async with listening.on(timeout=0):
            halves = []
            for count in (1, 2):
                halves.append(await listening.plain())
                halves[-1][1].write(b"\x16\x03\x01")
                await listening.until_pending(count)
                await listening.until_begun()
            reader, writer = await listening.secure()
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            # The oldest has gone.
            assert b"" == await halves[0][0].read()
            assert 1 == len(listening.handshakes.pending)
            for _, closing in (*halves, (reader, writer)):
                closing.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_a_protocol_that_fails_takes_its_connection_along(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is reported, and the client isn't left hanging."""
    told: list[dict[str, Any]] = []

    def fail(transport: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(listening.factory, "makeConnection", fail)

    async def scenario() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: told.append(context))
        async with listening.on():
            reader, writer = await listening.secure()
            try:
                assert b"" == await reader.read()
            except ConnectionResetError:
                pass
            writer.close()
        while not told:
            await asyncio.sleep(0.001)

    run_on(loop, scenario())
    assert isinstance(told[0]["exception"], RuntimeError)
