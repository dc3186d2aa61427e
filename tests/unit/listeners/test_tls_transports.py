"""Tests of ``daphne_like.listeners.tls_transports``."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Authority, Issued
from event_loops import LOOPS, run_on
from tls_in_memory import trusting
from twisted.internet.interfaces import INegotiated
from zope.interface.verify import verifyObject

from daphne_like.listeners import tls_transports
from daphne_like.listeners.tls import CertificateFiles, ServerTLS, TLSPolicy
from daphne_like.listeners.tls_transports import LoopTLSTransport, TLSAcceptor
from daphne_like.protocols.connections import close_writing

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


# -- The transport, on transports in the hands of the test -------------------------------


class FakeTransport:
    """One of the loop's transports."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name = name
        self._calls = calls
        self.unsent = 0
        self.ssl_object: object = "a handshake"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self._calls.append(f"{self._name}.{name}")

    def get_extra_info(self, name: str) -> object:
        """Tell what is asked for."""
        return {
            "ssl_object": self.ssl_object,
            "socket": type("Socket", (), {"family": socket.AF_INET}),
            "peername": ("192.0.2.1", 1234),
        }[name]

    def get_write_buffer_size(self) -> int:
        """Tell what the test says."""
        return self.unsent

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Tell the marks."""
        return 10, 20


class Pair:
    """A transport over two fakes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.raw: Any = FakeTransport("raw", self.calls)
        self.secure: Any = FakeTransport("tls", self.calls)
        self.protocol = Echo()
        self.transport = LoopTLSTransport(cast("Any", self.protocol))

    def begin(self) -> None:
        """End the handshake."""
        self.transport.secured(self.raw, self.secure)
        self.calls.clear()


@pytest.fixture
def pair() -> Pair:
    """Make a transport."""
    return Pair()


def test_what_comes_with_the_handshake_is_not_lost(pair: Pair) -> None:
    """A request in the same packet reaches the protocol, once and in order."""
    pair.transport.data_received(b"GET ")
    pair.transport.data_received(b"/")
    pair.begin()
    pair.transport.data_received(b"x")

    assert b"GET /x" == pair.protocol.received


def test_a_connection_lost_in_the_handshake(pair: Pair) -> None:
    """The protocol never hears of it, whichever way it is lost."""
    pair.secure.ssl_object = None
    pair.begin()

    assert pair.protocol.transport is None

    pair.secure.ssl_object = "a handshake"
    pair.transport.connection_lost(None)
    pair.begin()

    assert pair.protocol.transport is None
    assert [] == pair.protocol.ends


def test_unsent_bytes_are_those_of_both(pair: Pair) -> None:
    """What is encrypted already isn't sent yet."""
    pair.begin()
    pair.raw.unsent, pair.secure.unsent = 5, 7

    assert 12 == pair.transport.write_buffer_bytes()


def test_what_tls_can_not_do(pair: Pair) -> None:
    """It has no half close and no sending by the kernel."""
    pair.begin()

    assert close_writing(pair.transport) is None
    assert pair.transport.send_file is None


def test_the_farewell_comes_after_all_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bytes in the buffers, closing waits for them; a second call is none."""
    monkeypatch.setattr(tls_transports, "_FLUSH_INTERVAL", 0)

    async def scenario() -> None:
        pair.begin()
        pair.raw.unsent, pair.secure.unsent = 11, 1
        pair.transport.loseConnection()
        pair.transport.loseConnection()
        for _ in range(3):
            await asyncio.sleep(0.001)
        assert [] == pair.calls

        pair.secure.unsent = 0
        await asyncio.sleep(0.001)
        assert [] == pair.calls

        pair.raw.unsent = 10  # the low-water mark: there is room for the farewell
        await asyncio.sleep(0.001)
        assert ["tls.close", "raw.close"] == pair.calls

    run_on("asyncio", scenario())


def test_waiting_for_the_end_ends_with_the_connection(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is lost first, nothing is closed any more."""
    monkeypatch.setattr(tls_transports, "_FLUSH_INTERVAL", 0)

    async def scenario() -> None:
        pair.begin()
        pair.secure.unsent = 1
        pair.transport.loseConnection()
        pair.transport.connection_lost(None)
        await asyncio.sleep(0.001)
        # The loop's own, which knows that it is lost, is closed for order's sake.
        assert ["tls.close"] == pair.calls

    run_on("asyncio", scenario())


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
        acceptor: Accepts.
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
        with socket.create_server(("127.0.0.1", 0)) as self.sock:
            self.sock.setblocking(False)
            self.acceptor = TLSAcceptor(self.sock, cast("Any", self.factory), tls)
            try:
                yield
            finally:
                self.acceptor.close()
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

    async def until_pending(self, count: int) -> None:
        """Wait until so many connections wait for their handshake."""
        while len(self.acceptor.pending) != count:
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
            assert not listening.acceptor.pending
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
def test_handshakes_are_cut_when_the_server_stops(
    listening: Listening, loop: str
) -> None:
    """None of those which aren't done outlives the listener."""

    async def scenario() -> None:
        async with listening.on(timeout=0):
            silent, half = await listening.plain(), await listening.plain()
            half[1].write(b"\x16\x03\x01")
            await listening.until_pending(2)
            await asyncio.sleep(0.01)
            listening.acceptor.close()
            for reader, writer in (silent, half):
                try:
                    assert b"" == await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()
            assert not listening.acceptor.pending

    run_on(loop, scenario())


@ON_LOOPS
def test_the_idle_give_way(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many waiting, those go which haven't begun; the oldest first."""
    monkeypatch.setattr(tls_transports, "_MOST_PENDING", 2)
    monkeypatch.setattr(tls_transports, "_PATIENCE_WHEN_FULL", 0)

    async def scenario() -> None:
        async with listening.on(timeout=0):
            idle = [await listening.plain() for _ in range(2)]
            await listening.until_pending(2)
            reader, writer = await listening.secure()
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            assert b"" == await idle[0][0].read()
            assert 1 == len(listening.acceptor.pending)
            for _, closing in (*idle, (reader, writer)):
                closing.close()

    run_on(loop, scenario())


@ON_LOOPS
def test_those_at_work_keep_others_waiting(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room, a connection waits in the kernel until there is some."""
    monkeypatch.setattr(tls_transports, "_MOST_PENDING", 1)
    monkeypatch.setattr(tls_transports, "_FLUSH_INTERVAL", 0.001)

    async def scenario() -> None:
        async with listening.on(timeout=0):
            _, half = await listening.plain()
            half.write(b"\x16\x03\x01")
            await listening.until_pending(1)
            joining = asyncio.ensure_future(listening.secure())
            await asyncio.sleep(0.02)
            assert not joining.done()
            half.close()
            reader, writer = await joining
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            writer.close()

    run_on(loop, scenario())


class Exhausted:
    """A listening socket of a process without a free descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures = 3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def accept(self) -> Any:
        """Fail for some times."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._sock.accept()


@ON_LOOPS
def test_without_descriptors_the_listener_rests(
    listening: Listening, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told each time, once in a rest, and it goes on when there are some."""
    monkeypatch.setattr(tls_transports, "_REST", 0.001)
    told: list[dict[str, Any]] = []

    async def scenario() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: told.append(context))
        async with listening.on():
            listening.acceptor._sock = cast("Any", Exhausted(listening.sock))
            reader, writer = await listening.secure()
            writer.write(b"x")
            assert b"x" == await reader.readexactly(1)
            writer.close()

    run_on(loop, scenario())
    assert 3 == len(told)
    assert all("socket" in context for context in told)
    assert errno.EMFILE == told[0]["exception"].errno


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
