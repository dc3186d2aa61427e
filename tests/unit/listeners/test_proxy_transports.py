"""Tests of ``daphne_like.listeners.proxy_transports``."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Authority
from event_loops import LOOPS, run_on
from proxy_headers import CLIENT_AND_SERVER, LOCAL, TCP4, UNIX, tls_tlv, tlv, v2
from recorded_log import RecordedLog
from twisted.internet.address import IPv4Address, UNIXAddress

from daphne_like.listeners import pending
from daphne_like.listeners.endpoints import endpoint_from_string
from daphne_like.listeners.outbox import Outbox
from daphne_like.listeners.proxy_protocol import Announced, read_header
from daphne_like.listeners.proxy_transports import ProxyHeaders, ProxyPolicy
from daphne_like.listeners.transports import LoopTransport
from daphne_like.protocols.connections import describe
from daphne_like.settings import ProxySettings, TLSSettings

HEADER = v2(TCP4, tlvs=tlv(5, b"an id"))
CLIENT = IPv4Address("TCP", "192.0.2.1", 4711)
SERVER = IPv4Address("TCP", "203.0.113.5", 443)
PROXY = ("10.0.0.2", 40000)


def read_announced(header: bytes) -> Announced:
    """Read a header which announces a client."""
    found = read_header(header)
    assert found is not None
    assert found[0] is not None
    return found[0]


class Echo:
    """A protocol which answers with what it hears, and its factory."""

    def __init__(self) -> None:
        self.received = b""
        self.connected: Any = None
        self.lost = False

    def buildProtocol(self, address: Any) -> Echo:
        """Make a protocol, namely this."""
        self.connected = address
        return self

    def doStart(self) -> None:
        """Do nothing."""

    def doStop(self) -> None:
        """Do nothing."""

    def makeConnection(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        self.received += data
        self.transport.write(data)

    def connectionLost(self, reason: object) -> None:
        """Take note."""
        self.lost = True


class Wire:
    """The event loop's side of a connection, in memory."""

    def __init__(self, peer: tuple[str, int] | None, family: int) -> None:
        self._extra = {
            "peername": peer,
            "sockname": ("10.0.0.5", 8000),
            "socket": type("Socket", (), {"family": family}),
        }
        self.protocol: Any = None
        self.sent = b""
        self.ended = False

    def connect(self, protocol: asyncio.Protocol) -> None:
        """Let the server accept the connection."""
        self.protocol = protocol
        protocol.connection_made(cast("Any", self))

    def deliver(self, data: bytes) -> None:
        """Let the server read something, unless the connection is over."""
        if not self.ended:
            self.protocol.data_received(data)

    def get_extra_info(self, name: str) -> object:
        """Tell the addresses."""
        return self._extra[name]

    def set_protocol(self, protocol: Any) -> None:
        """Let another protocol have what comes."""
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    def is_closing(self) -> bool:
        """Tell whether it is over."""
        return self.ended

    def abort(self) -> None:
        """End it."""
        self.ended = True

    def pause_reading(self) -> None:
        """Do nothing."""


class Listener:
    """A listener with the PROXY protocol, in memory."""

    def __init__(self, *trusted: str, timeout: float = 0) -> None:
        settings = ProxySettings(
            forwarded_allow_ips=trusted or ("10.0.0.0/8", "unix"),
            timeout_proxy_protocol=timeout,
        )
        self.echo = Echo()
        self.headers = ProxyHeaders(
            ProxyPolicy.from_settings(settings),
            lambda: LoopTransport(cast("Any", self.echo), Outbox(cast("Any", None))),
        )

    def accept(
        self,
        peer: tuple[str, int] | None = PROXY,
        family: int = socket.AF_INET,
    ) -> Wire:
        """Accept a connection."""
        wire = Wire(peer, family)
        wire.connect(self.headers.make_reader())
        return wire


def test_the_connection_is_the_clients() -> None:
    """Behind the header, a protocol finds the addresses which the proxy has told."""
    listener = Listener()
    wire = listener.accept()
    wire.deliver(HEADER + b"hello")

    echo = listener.echo
    assert b"hello" == echo.received == wire.sent
    assert CLIENT == echo.connected == echo.transport.getPeer()
    assert SERVER == echo.transport.getHost()
    assert IPv4Address("TCP", *PROXY) == echo.transport.true_peer()
    connection = describe(echo.transport, "http")
    assert ("192.0.2.1", 4711) == connection.client
    assert ("203.0.113.5", 443) == connection.server
    assert connection.proxy is not None
    assert (PROXY, b"an id") == (
        connection.proxy["proxy"],
        connection.proxy["unique_id"],
    )


def test_nothing_stands_in_the_way_of_bytes_behind_the_header() -> None:
    """The loop calls the protocol directly, as on other listeners."""
    listener = Listener()
    wire = listener.accept()
    wire.deliver(HEADER)

    assert isinstance(wire.protocol, LoopTransport)
    assert listener.echo.dataReceived == wire.protocol.data_received
    assert not listener.headers.pending


@pytest.mark.parametrize(
    "header", [HEADER, b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\r\n"]
)
def test_any_segmentation(header: bytes) -> None:
    """Byte by byte, and at every cut, the connection is the same."""
    data = header + b"hello"
    cuts = [[data[:size], data[size:]] for size in range(1, len(data))]
    for pieces in [*cuts, [data[at : at + 1] for at in range(len(data))]]:
        listener = Listener()
        wire = listener.accept()
        for piece in pieces:
            wire.deliver(piece)
        assert b"hello" == listener.echo.received
        assert CLIENT == listener.echo.connected


@pytest.mark.parametrize("header", [v2(TCP4, command=LOCAL), b"PROXY UNKNOWN\r\n"])
def test_a_proxy_that_speaks_for_itself(header: bytes) -> None:
    """Its health checks come from its own address."""
    listener = Listener()
    wire = listener.accept()
    wire.deliver(header + b"hello")

    assert b"hello" == listener.echo.received
    connection = describe(listener.echo.transport, "http")
    assert (PROXY, None) == (connection.client, connection.proxy)


def test_a_client_on_a_unix_socket_of_the_proxys() -> None:
    """It has no address; where it connected to is a path."""
    listener = Listener()
    paths = b"/run/client".ljust(108, b"\0") + b"/run/proxy".ljust(108, b"\0")
    wire = listener.accept(None, socket.AF_UNIX)
    wire.deliver(v2(UNIX, paths))

    assert UNIXAddress(b"/run/client") == listener.echo.connected
    connection = describe(listener.echo.transport, "http")
    assert (None, ("/run/proxy", None)) == (connection.client, connection.server)
    assert connection.proxy is not None
    assert connection.proxy["proxy"] is None


def test_tls_of_the_connection_itself_comes_first() -> None:
    """The proxy's view of it is in its own extension; the scheme is the client's."""

    class Secure:
        announced = read_announced(v2(TCP4, tlvs=tls_tlv(1, {0x21: b"TLSv1.2"})))

        def getHandle(self) -> Any:
            """Be a connection of pyOpenSSL."""
            return type(
                "Handle",
                (),
                {
                    "get_cipher_name": lambda _: None,
                    "get_certificate": lambda _: None,
                    "get_verified_chain": lambda _: None,
                    "get_protocol_version_name": lambda _: "TLSv1.3",
                },
            )()

        def getPeer(self) -> Any:
            """Tell the client."""
            return self.announced.source

        def getHost(self) -> Any:
            """Tell the server."""
            return self.announced.destination

        def true_peer(self) -> Any:
            """Tell the proxy."""
            return IPv4Address("TCP", *PROXY)

    connection = describe(cast("Any", Secure()), "https")

    assert connection.tls is not None
    assert connection.proxy is not None
    assert 0x0304 == connection.tls["tls_version"]
    assert "TLSv1.2" == connection.proxy["ssl_version"]


def test_a_proxy_that_encrypts_what_came_in_the_clear() -> None:
    """The scheme is http: what the client sees."""
    listener = Listener()
    wire = listener.accept()
    wire.deliver(v2(TCP4, tlvs=tls_tlv(0, {})))

    assert "http" == describe(listener.echo.transport, "https").scheme


# Whom to believe


@pytest.mark.parametrize(
    ("trusted", "peer", "family", "name"),
    [
        ("10.0.0.2", ("203.0.113.66", 1), socket.AF_INET, "203.0.113.66"),
        ("10.0.0.2", ("2001:db8::1", 1, 0, 0), socket.AF_INET6, "2001:db8::1"),
        ("10.0.0.2", None, socket.AF_UNIX, "a Unix socket"),
        ("unix", ("10.0.0.2", 1), socket.AF_INET, "10.0.0.2"),
    ],
)
def test_a_stranger_is_not_listened_to(
    trusted: str, peer: Any, family: int, name: str, log: RecordedLog
) -> None:
    """Its connection is closed before it has sent anything, and the log says why."""
    listener = Listener(trusted)
    wire = listener.accept(peer, family)

    assert wire.ended
    assert listener.echo.connected is None
    assert not listener.headers.pending
    (line,) = log.take()
    assert line.startswith(f"WARNING Closing a connection of {name} to a listener ")
    assert line.endswith(": it isn't in forwarded_allow_ips")


def test_trusting_everyone_is_warned_of(log: RecordedLog) -> None:
    """Any client may choose its address then."""
    Listener("*")

    (line,) = log.take()
    assert line.startswith("WARNING forwarded_allow_ips holds *: whoever can connect")


def test_a_peer_that_left_before_it_was_accepted() -> None:
    """It has no address, and is not taken for one on a Unix socket."""
    listener = Listener("unix")
    wire = listener.accept(None)

    assert wire.ended
    assert not listener.headers.pending


# What is no header


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\0", HEADER.replace(b"QUIT", b"EXIT")]
)
def test_what_is_no_header_ends_the_connection(data: bytes, log: RecordedLog) -> None:
    """The protocol must come; a client that connects past the proxy gets nothing."""
    listener = Listener()
    wire = listener.accept()
    wire.deliver(data)

    assert wire.ended
    assert b"" == wire.sent
    assert listener.echo.connected is None
    assert not listener.headers.pending
    (line,) = log.take()
    assert "no valid header: it begins with something else" in line


def test_a_mistake_is_a_warning_once(log: RecordedLog) -> None:
    """A proxy which was configured wrongly doesn't fill the log."""
    listener = Listener()
    for _ in range(3):
        listener.accept().deliver(b"GET / HTTP/1.1\r\n")
    listener.accept(("203.0.113.66", 1))

    first, second = log.take()
    assert "no valid header" in first
    assert "203.0.113.66" in second


def test_warnings_have_a_limit(log: RecordedLog) -> None:
    """Not even a peer that finds always new mistakes fills the log."""
    listener = Listener()
    for command in range(0x30, 0x70):
        listener.accept().deliver(v2(TCP4, command=command))

    assert 20 == len(log.take())


@pytest.mark.parametrize("beginning", [b"", HEADER[:-1]])
def test_a_header_has_a_deadline(beginning: bytes, log: RecordedLog) -> None:
    """Whoever is silent, or slow, is cut."""

    async def wait() -> None:
        listener = Listener(timeout=0.01)
        wire = listener.accept()
        if beginning:
            wire.deliver(beginning)
        while not wire.ended:
            await asyncio.sleep(0.005)
        assert not listener.headers.pending

    asyncio.run(asyncio.wait_for(wait(), 20))
    (line,) = log.take()
    assert line.endswith("no complete header came in time")


def test_the_deadline_ends_with_the_header() -> None:
    """What is behind it has deadlines of its own."""

    async def wait() -> None:
        listener = Listener(timeout=0.01)
        wire = listener.accept()
        wire.deliver(HEADER)
        await asyncio.sleep(0.03)
        assert not wire.ended

    asyncio.run(wait())


def test_a_peer_that_leaves_is_forgotten() -> None:
    """Health checks often just connect."""
    listener = Listener()
    wire = listener.accept()
    assert listener.headers.pending
    wire.protocol.connection_lost(None)

    assert not listener.headers.pending


def test_the_silent_give_way(monkeypatch: pytest.MonkeyPatch, log: RecordedLog) -> None:
    """
    When too many connections wait, the oldest silent one is closed for a new one; or
    the oldest one, since else some could keep all others out.
    """
    monkeypatch.setattr(pending, "_MOST_PENDING", 2)
    listener = Listener()
    slow, silent = listener.accept(), listener.accept()
    slow.deliver(HEADER[:5])
    new = listener.accept()
    assert (False, True, False) == (slow.ended, silent.ended, new.ended)
    new.deliver(HEADER[:5])
    newest = listener.accept()

    assert (True, False, False) == (slow.ended, new.ended, newest.ended)
    log.take()


def test_a_stopping_listener_waits_for_the_last_headers(log: RecordedLog) -> None:
    """
    A request which is on its way is served; who stays silent is closed soon, of which
    nobody need be warned.
    """

    async def stop() -> None:
        listener = Listener()
        prompt, silent = listener.accept(), listener.accept()
        listener.headers.close()
        assert not prompt.ended
        prompt.deliver(HEADER + b"hello")
        assert b"hello" == prompt.sent
        while not silent.ended:
            await asyncio.sleep(0.005)
        assert not prompt.ended

    asyncio.run(asyncio.wait_for(stop(), 20))
    assert [] == log.take()


def test_a_moment_is_all_there_is_after_the_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    What comes behind a header of the last moment has a handshake of its own, and the
    whole is over when that is.
    """
    monkeypatch.setattr(pending, "LAST_TIMEOUT", 0.05)

    async def stop() -> None:
        later = pending.PendingConnections()
        later.close()

        class Connection:
            is_idle = True
            ended = False

            def give_up(self) -> None:
                self.ended = True
                later.end(self)

        connection = Connection()
        later.begin(connection, 0)
        await later.emptied()
        assert connection.ended

    asyncio.run(asyncio.wait_for(stop(), 20))


# With real sockets and loops


Scenario = Callable[[socket.socket], None]


async def talk(string: str, scenario: Scenario, tls: TLSSettings | None = None) -> Echo:
    """Listen on an endpoint, and run a client in a thread."""
    endpoint = endpoint_from_string(string, 10, tls)
    assert endpoint is not None
    echo = Echo()
    port: Any = await endpoint.listen(cast("Any", echo)).asFuture(
        asyncio.get_running_loop()
    )
    address = port.getHost()

    def client() -> None:
        with socket.create_connection((address.host, address.port), 10) as sock:
            scenario(sock)

    await asyncio.to_thread(client)
    while not echo.lost:
        await asyncio.sleep(0.001)
    await port.stopListening().asFuture(asyncio.get_running_loop())
    return echo


def read(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes."""
    received = b""
    while len(received) < count:
        piece = sock.recv(count - len(received))
        assert piece
        received += piece
    return received


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("together", [True, False])
def test_a_connection(kind: str, *, together: bool) -> None:
    """The header and what follows, in one segment or in two."""

    def scenario(sock: socket.socket) -> None:
        if together:
            sock.sendall(HEADER + b"hello")
        else:
            sock.sendall(HEADER[:20])
            sock.sendall(HEADER[20:])
            sock.sendall(b"hello")
        assert b"hello" == read(sock, 5)
        sock.sendall(b" again")
        assert b" again" == read(sock, 6)

    async def run() -> None:
        echo = await talk("tcp:0:interface=127.0.0.1:proxyProtocol=yes", scenario)
        assert b"hello again" == echo.received
        assert CLIENT == echo.connected

    run_on(kind, run())


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("header", [HEADER, v2(TCP4, CLIENT_AND_SERVER, command=LOCAL)])
def test_the_header_comes_before_tls(kind: str, header: bytes, tmp_path: Path) -> None:
    """A proxy which passes TLS on can't write into it."""
    authority = Authority()
    file = authority.issue("127.0.0.1").write(tmp_path / "server.pem")
    trust = ssl.create_default_context(cadata=authority.pem)

    def scenario(sock: socket.socket) -> None:
        sock.sendall(header)
        with trust.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
            secure.sendall(b"hello")
            assert b"hello" == read(secure, 5)

    async def run() -> None:
        string = f"ssl:0:interface=127.0.0.1:privateKey={file}:proxyProtocol=yes"
        echo = await talk(string, scenario, TLSSettings())
        assert (CLIENT == echo.connected) == (header == HEADER)
        assert "https" == describe(echo.transport, "https").scheme

    run_on(kind, run())
