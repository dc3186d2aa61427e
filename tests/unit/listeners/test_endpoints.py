"""Tests of ``daphne_like.listeners.endpoints``."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from certificates import Authority
from event_loops import LOOPS, run_on
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory as TwistedFactory
from twisted.internet.testing import MemoryReactor
from twisted.protocols.policies import WrappingFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from daphne_like import systemd
from daphne_like.errors import ListenError, SettingsError
from daphne_like.listeners import sockets
from daphne_like.listeners.endpoints import (
    build_endpoint_description_strings,
    configured_endpoints,
    endpoint_from_string,
    endpoint_strings,
    redirect_endpoints,
    scheme_of,
    twisted_endpoint,
)
from daphne_like.listeners.ports import LoopPort, SocketEndpoint, bind_all
from daphne_like.settings import Settings
from daphne_like.systemd import PassedSocket

ON_LOOPS = pytest.mark.parametrize("loop", LOOPS)


class Factory:
    """A protocol factory whose protocols answer with what they are sent."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def doStart(self) -> None:
        """Note the call."""
        self.calls.append("start")

    def doStop(self) -> None:
        """Note the call."""
        self.calls.append("stop")

    def buildProtocol(self, address: object) -> Echo:
        """Make a protocol."""
        return Echo()


class Echo:
    """Sends back what it receives."""

    transport: Any

    def makeConnection(self, transport: Any) -> None:
        """Send there."""
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        """Send back."""
        self.transport.write(data)

    def connectionLost(self, reason: object) -> None:
        """Need nothing."""


def parse(description: str) -> SocketEndpoint:
    """Make an endpoint which is ours."""
    endpoint = endpoint_from_string(description, 50)
    assert endpoint is not None
    return endpoint


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder with a path that is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dl") as name:
        yield Path(name)


@pytest.fixture
def bound() -> Iterator[Callable[..., list[socket.socket]]]:
    """Bind what strings describe; close it in the end."""
    made: list[SocketEndpoint] = []

    def bind(*descriptions: str) -> list[socket.socket]:
        new = [parse(description) for description in descriptions]
        made.extend(new)
        bind_all(new)
        return [sock for endpoint in new for sock in endpoint._sockets]

    yield bind
    for endpoint in made:
        endpoint.close()


Bind = Callable[..., "list[socket.socket]"]


# -- What options and strings mean -------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, []),
        ({"host": "10.0.0.1", "port": 80}, ["tcp:port=80:interface=10.0.0.1"]),
        ({"host": "localhost", "port": 0}, ["tcp:port=0:interface=localhost"]),
        ({"host": "::1", "port": 80}, [r"tcp:port=80:interface=\:\:1"]),
        ({"host": "[::1]", "port": 80}, [r"tcp:port=80:interface=\:\:1"]),
        ({"unix_socket": "/run/x"}, ["unix:/run/x"]),
        ({"unix_socket": "a:b=c\\d"}, [r"unix:a\:b\=c\\d"]),
        ({"file_descriptor": 0}, ["fd:fileno=0"]),
        (
            {"host": "h", "port": 1, "unix_socket": "/x", "file_descriptor": 5},
            ["tcp:port=1:interface=h", "unix:/x", "fd:fileno=5"],
        ),
    ],
)
def test_daphnes_function(arguments: dict[str, Any], expected: list[str]) -> None:
    """`build_endpoint_description_strings` gives what Daphne's gives, escaped."""
    assert expected == build_endpoint_description_strings(**arguments)


@pytest.mark.parametrize("arguments", [{"host": "x"}, {"port": 1}, {"port": 0}])
def test_a_host_needs_a_port(arguments: dict[str, Any]) -> None:
    """As in Daphne, one without the other is an error."""
    with pytest.raises(ValueError, match="needs a port"):
        build_endpoint_description_strings(**arguments)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["tcp:port=8000:interface=127.0.0.1"]),
        ({"port": 0}, ["tcp:port=0:interface=127.0.0.1"]),
        ({"bind": "0.0.0.0"}, ["tcp:port=8000:interface=0.0.0.0"]),
        (
            {"bind": ("::", "127.0.0.1"), "port": 80},
            ["tcp:port=80:interface=127.0.0.1", r"tcp:port=80:interface=\:\:"],
        ),
        ({"unix_socket": "/x"}, ["unix:/x"]),
        ({"unix_socket": "/x", "uds_permissions": 0o600}, ["unix:/x:mode=600"]),
        ({"fd": (3, 4)}, ["fd:fileno=3", "fd:fileno=4"]),
        ({"endpoint": "ssl:443"}, ["ssl:443"]),
        (
            {"endpoint": "ssl:443", "port": 80, "unix_socket": ("/x", "/y"), "fd": 0},
            [
                "fd:fileno=0",
                "ssl:443",
                "tcp:port=80:interface=127.0.0.1",
                "unix:/x",
                "unix:/y",
            ],
        ),
    ],
)
def test_options_combine_as_in_daphne(
    options: dict[str, Any], expected: list[str]
) -> None:
    """Nothing means 127.0.0.1:8000; a socket alone means no TCP."""
    assert expected == endpoint_strings(Settings.of(**options).bind)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_any_path_survives_a_string(path: str) -> None:
    """Whatever a path holds, its endpoint string means that path, to Twisted too."""
    [string] = build_endpoint_description_strings(unix_socket=path)

    assert path == parse(string)._source.path
    reactor = MemoryReactor()
    endpoint: Any = serverFromString(reactor, string)
    endpoint.listen(Factory())
    assert path == reactor.unixServers[0][0]


@given(st.text(alphabet=":=\\atcp unixfd0", max_size=30))
def test_no_string_breaks_the_parser(string: str) -> None:
    """A string is an endpoint of ours, or is Twisted's, or is refused in one line."""
    with suppress(SettingsError):
        endpoint_from_string(string, 50)


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("tcp", "port is missing"),
        ("tcp:interface=x", "port is missing"),
        ("tcp:http", "the port must be a number from 0 to 65535, not 'http'"),
        ("tcp:65536", "the port must be a number"),
        ("tcp:-1", "the port must be a number"),
        ("tcp:٣", "the port must be a number"),
        ("tcp:80:port=80", "port is given twice"),
        ("tcp:80:x:50:more", "at most 3 arguments: port, interface, backlog"),
        ("tcp:80:interfce=x", "unknown argument 'interfce'; did you mean interface?"),
        ("tcp:80:backlog=many", "backlog must be a number"),
        ("unix", "address is missing"),
        ("unix:", "address must be the path of a file"),
        ("unix:/x\0", "address must be the path of a file"),
        ("unix:/x:mode=rw", "mode must be octal digits up to 777, not 'rw'"),
        ("unix:/x:mode=-7", "mode must be octal digits"),
        ("unix:/x:mode=1777", "mode must be octal digits"),
        ("fd:fileno=x", "fileno must be a number"),
        ("fd:", "fileno must be a number"),
        ("systemd:", "either an index or a name is needed"),
        ("systemd:INET:0:web", "either an index or a name is needed"),
        ("systemd:domain=INET:index=0", "systemd has passed no sockets to this"),
        ("systemd:nmae=web", "unknown argument 'nmae'; did you mean name?"),
    ],
)
def test_a_wrong_string_is_explained(string: str, reason: str) -> None:
    """The message holds the string and what is wrong with it."""
    with pytest.raises(SettingsError) as raised:
        endpoint_from_string(string, 50)

    assert f"endpoint {string!r}: {reason}" in str(raised.value)


@pytest.mark.parametrize(
    "string",
    [
        *("tcp:80", "tcp:80::50", "tcp:80:127.0.0.1:50", "tcp:port=80:backlog=50"),
        *("unix:/x", "unix:/x:660:1:50", "unix:address=/x:mode=660:lockfile=0"),
        *("fd:3", "fd:fileno=3:domain=INET"),
    ],
)
def test_twisteds_ways_to_write_a_string_are_ours(string: str) -> None:
    """Arguments come in Twisted's order, or by Twisted's names."""
    assert verifyObject(IStreamServerEndpoint, parse(string))


# -- TCP ---------------------------------------------------------------------------


def test_without_an_interface_all_ipv4_addresses_are_bound(bound: Bind) -> None:
    """As Twisted does it."""
    [sock] = bound("tcp:0")

    assert "0.0.0.0" == sock.getsockname()[0]
    assert sock.getsockname()[1] > 0


def test_nothing_listens_before_it_is_asked(bound: Bind) -> None:
    """A port that is bound is claimed, but nobody can connect."""
    [sock] = bound("tcp:0:interface=127.0.0.1")

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname())


def test_a_port_in_use(bound: Bind) -> None:
    """The error says where, and what the system says."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as raised:
            bound(f"tcp:{port}:interface=127.0.0.1")

    reason = f"127.0.0.1:{port}: Address already in use"
    assert f"Listen failure: {reason}" == str(raised.value)
    assert errno.EADDRINUSE == raised.value.errno


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-such-host.invalid", r"2001\:db8\:\:1", "a" * 70, "."]
)
def test_a_host_that_is_not_ours(bound: Bind, host: str) -> None:
    """Addresses of others, unknown and impossible names are listen failures."""
    with pytest.raises(ListenError) as raised:
        bound(f"tcp:0:interface={host}")

    text = str(raised.value)
    assert text.startswith("Listen failure: ")
    assert host.replace("\\", "") in text
    assert "\n" not in text


class FakeSystem:
    """A resolver and a kernel in which addresses are as the test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts = ["127.0.0.1", "127.0.0.2"]
        self.failures: list[int] = []
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)
        monkeypatch.setattr(sockets, "_bind_tcp", self.bind)

    def getaddrinfo(self, host: str, port: int, **options: object) -> list[Any]:
        """Give each address twice, as systems do for a second protocol."""
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in self.hosts
            for _ in range(2)
        ]

    def bind(
        self, family: int, address: tuple[str, int], beside: object, reuse_port: bool
    ) -> Any:
        """Bind, or fail as the test has said."""
        if self.failures and (number := self.failures.pop(0)):
            raise OSError(number, os.strerror(number))
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.bind(address)
        return sock


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    """Fake what the system says of a host."""
    return FakeSystem(monkeypatch)


def test_a_name_with_several_addresses_has_one_port(
    bound: Bind, system: FakeSystem
) -> None:
    """Port 0 is chosen once, for all addresses of the name."""
    first, second = bound("tcp:0:interface=both")

    assert ["127.0.0.1", "127.0.0.2"] == [
        first.getsockname()[0],
        second.getsockname()[0],
    ]
    assert first.getsockname()[1] == second.getsockname()[1]


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_an_address_which_the_system_lacks_is_left_out(
    bound: Bind, system: FakeSystem, number: int
) -> None:
    """`localhost` may stand for ::1 where there is no IPv6; the other one counts."""
    system.failures = [0, number]

    [sock] = bound("tcp:0:interface=both")

    assert "127.0.0.1" == sock.getsockname()[0]


def test_all_addresses_lacking_is_an_error(bound: Bind, system: FakeSystem) -> None:
    """A name none of whose addresses can be bound is a listen failure."""
    system.failures = [errno.EADDRNOTAVAIL] * 2

    with pytest.raises(ListenError, match="both:0: "):
        bound("tcp:0:interface=both")


def test_a_chosen_port_that_is_taken_elsewhere_is_chosen_again(
    bound: Bind, system: FakeSystem
) -> None:
    """What is free on one address may be in use on another one."""
    system.failures = [0, errno.EADDRINUSE, 0, errno.EADDRINUSE]

    assert 2 == len(bound("tcp:0:interface=both"))

    system.failures = [0, errno.EADDRINUSE] * 20
    with pytest.raises(ListenError, match="Address already in use"):
        bound("tcp:0:interface=both")


def test_a_given_port_is_tried_once(bound: Bind, system: FakeSystem) -> None:
    """Nothing is gained by asking for the same port again."""
    system.failures = [errno.EADDRINUSE]

    with pytest.raises(ListenError, match="Address already in use"):
        bound("tcp:1:interface=both")


# -- Unix sockets --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["666", "600", "0660"])
def test_the_mode_holds_from_the_first_instant(
    bound: Bind, folder: Path, mode: str
) -> None:
    """Nobody may connect whom the mode excludes; the process's mask is as before."""
    before = os.umask(0o027)
    try:
        bound(f"unix:{folder}/s:mode={mode}")
        assert 0o027 == os.umask(0o027)
    finally:
        os.umask(before)

    assert int(mode, 8) == stat.S_IMODE((folder / "s").stat().st_mode)


def test_a_stale_socket_is_replaced(bound: Bind, folder: Path) -> None:
    """A file that nobody listens on is in nobody's way."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))

    assert 1 == len(bound(f"unix:{path}"))


@pytest.mark.parametrize("queue", [0, 10])
def test_a_live_socket_is_an_error(bound: Bind, folder: Path, queue: int) -> None:
    """Also when its owner is so busy that its queue is full."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen(queue)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(path))
        with pytest.raises(ListenError) as raised, waiting:
            bound(f"unix:{path}")

    assert f"Listen failure: {path}: Address already in use" == str(raised.value)
    assert path.exists()


def test_a_file_of_another_kind_is_an_error(bound: Bind, folder: Path) -> None:
    """What may be precious isn't removed."""
    path = folder / "s"
    path.write_text("precious", "utf-8")

    with pytest.raises(ListenError, match="exists and is no socket"):
        bound(f"unix:{path}")
    assert "precious" == path.read_text("utf-8")


@pytest.mark.parametrize("name", ["no/such/folder/s", "s" * 200])
def test_a_path_that_cannot_be(bound: Bind, folder: Path, name: str) -> None:
    """The system's words are the reason."""
    with pytest.raises(ListenError, match=r"^Listen failure: .*(No such|too long)"):
        bound(f"unix:{folder}/{name}")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may all")
def test_a_stale_socket_of_somebody_else(bound: Bind, folder: Path) -> None:
    """A file that may not be removed is an error in one line."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    folder.chmod(0o500)
    try:
        with pytest.raises(ListenError, match="Permission denied"):
            bound(f"unix:{path}")
    finally:
        folder.chmod(0o700)


def test_one_path_twice(bound: Bind, folder: Path) -> None:
    """The second would replace the first, which doesn't listen yet."""
    with pytest.raises(ListenError, match="s: is named twice"):
        bound(f"unix:{folder}/s", f"unix:{folder}/s:mode=600")


def test_closing_removes_the_file(folder: Path) -> None:
    """A server that never came to listen leaves no file behind."""
    endpoint = parse(f"unix:{folder}/s")
    endpoint.bind()
    endpoint.close()
    endpoint.close()

    assert [] == list(folder.iterdir())


def test_what_is_bound_stays_bound(folder: Path) -> None:
    """Addresses may be claimed early, and are then not claimed once more."""
    endpoint = parse(f"unix:{folder}/s")
    first = list(endpoint.bind())

    assert first == list(endpoint.bind())
    endpoint.close()


# -- Descriptors -----------------------------------------------------------------------


def test_a_descriptor_is_taken_over(bound: Bind) -> None:
    """Its family is found out; processes started later don't inherit it."""
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind("")
    inherited.set_inheritable(True)

    [sock] = bound(f"fd:fileno={inherited.detach()}")

    assert socket.AF_UNIX == sock.family
    assert not sock.get_inheritable()


def test_a_closed_descriptor(bound: Bind) -> None:
    """One line tells the number and the reason."""
    with pytest.raises(ListenError) as raised:
        bound("fd:fileno=9999")

    assert "Listen failure: descriptor 9999: Bad file descriptor" == str(raised.value)


def test_descriptors_of_other_kinds_stay_open(bound: Bind, folder: Path) -> None:
    """What is no listening socket is somebody else's, and refused."""
    reader, writer = socket.socketpair()
    with reader, writer, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for sock, reason in (
            (reader, "is a connection, not a listening socket"),
            (datagrams, "is no stream socket"),
        ):
            with pytest.raises(ListenError, match=reason):
                bound(f"fd:fileno={sock.fileno()}")
            os.fstat(sock.fileno())
    file = os.open(folder, os.O_RDONLY)
    with pytest.raises(ListenError, match="non-socket"):
        bound(f"fd:fileno={file}")
    os.close(file)


def test_one_descriptor_twice(bound: Bind) -> None:
    """It can be closed once only."""
    sock = socket.socket()
    number = sock.detach()
    with pytest.raises(ListenError, match=f"descriptor {number}: is named twice"):
        bound(f"fd:{number}", f"fd:fileno={number}")


# -- Sockets of systemd's ---------------------------------------------------------------


Pass = Callable[..., None]


@pytest.fixture
def pass_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pass]:
    """Pass sockets by their names, as systemd would; close those not taken."""
    left: list[socket.socket] = []

    def pass_sockets(**sockets: socket.socket | Sequence[socket.socket]) -> None:
        passed = []
        for name, item in sockets.items():
            several = [item] if isinstance(item, socket.socket) else item
            left.extend(several)
            passed += [PassedSocket(sock.fileno(), name) for sock in several]
        monkeypatch.setattr(systemd, "passed_sockets", lambda: tuple(passed))

    yield pass_sockets
    for sock in left:
        sock.detach()


def listening(family: int = socket.AF_INET) -> socket.socket:
    """Make a socket which has long been listening."""
    sock = socket.socket(family)
    sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
    sock.listen()
    return sock


@pytest.mark.parametrize(
    "string",
    [
        *("systemd:domain=INET:index=1", "systemd:INET:1", "systemd:index=1"),
        *("systemd:domain=UNIX:name=web", "systemd:UNIX::web", "systemd:name=web"),
        "systemd:name=web:backlog=5",
    ],
)
def test_systemds_sockets_have_places_and_names(
    bound: Bind, pass_sockets: Pass, string: str
) -> None:
    """
    Twisted's notation, in which the family may be missing or wrong: the socket
    knows it.
    """
    pass_sockets(other=listening(), web=listening(socket.AF_UNIX))

    [sock] = bound(string)

    assert socket.AF_UNIX == sock.family


def test_a_name_of_several_sockets(bound: Bind, pass_sockets: Pass) -> None:
    """All lines of one unit share its name; all are listened on."""
    pass_sockets(web=[listening(), listening(socket.AF_UNIX)])

    assert [socket.AF_INET, socket.AF_UNIX] == [
        sock.family for sock in bound("systemd:name=web")
    ]


def test_what_systemd_passes_in_vain(bound: Bind, pass_sockets: Pass) -> None:
    """One line names the socket, what is wrong, and what its unit needs."""
    reader, writer = socket.socketpair()
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    good = listening()
    pass_sockets(accepted=reader, silent=silent, datagrams=[good, datagrams])
    with writer, reader, silent, datagrams, good:
        for name, reason in (
            ("accepted", "is a connection, not a listening socket; .*Accept=no"),
            ("silent", "is not listening"),
            ("datagrams", "is no stream socket; its unit needs ListenStream="),
        ):
            with pytest.raises(
                ListenError,
                match=rf"^Listen failure: descriptor .* \({name}\): {reason}",
            ):
                bound(f"systemd:name={name}")
        for sock in (reader, silent, datagrams, good):
            os.fstat(sock.fileno())


def test_sockets_of_other_families_are_refused() -> None:
    """What is neither TCP nor Unix can't be served, though it may be a stream."""
    # Few systems would make one for a test.
    sock = cast("socket.socket", SimpleNamespace(type=socket.SOCK_STREAM, family=40))

    assert "is neither a TCP nor a Unix socket" == sockets._no_listener(sock, False)


# -- Listening -------------------------------------------------------------------------


async def listen(endpoint: SocketEndpoint, factory: Factory) -> LoopPort:
    """Listen on the running loop."""
    listening: Awaitable[Any] = endpoint.listen(cast("Any", factory)).asFuture(
        asyncio.get_running_loop()
    )
    return cast("LoopPort", await listening)


async def stop(port: LoopPort) -> None:
    """Stop listening."""
    await port.stopListening().asFuture(asyncio.get_running_loop())


async def assert_echoes(family: int, address: Any) -> None:
    """Whoever connects is answered."""
    loop = asyncio.get_running_loop()
    with socket.socket(family) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, b"hello")
        assert b"hello" == await loop.sock_recv(sock, 10)


@ON_LOOPS
def test_listening_on_tcp(loop: str) -> None:
    """The port tells its address, and the factory hears of start and stop."""

    async def scenario() -> None:
        factory = Factory()
        port = await listen(parse("tcp:0:interface=127.0.0.1"), factory)
        assert verifyObject(IListeningPort, port)
        host = port.getHost()
        assert isinstance(host, IPv4Address)
        assert [host] == port.addresses()
        await assert_echoes(socket.AF_INET, (host.host, host.port))
        assert ["start"] == factory.calls

        port.startListening()
        await stop(port)
        await stop(port)
        assert ["start", "stop"] == factory.calls
        with pytest.raises(ConnectionRefusedError):
            await assert_echoes(socket.AF_INET, (host.host, host.port))

    run_on(loop, scenario())


@ON_LOOPS
def test_small_answers_leave_at_once(loop: str) -> None:
    """Nagle's algorithm is off, or streams would wait for acknowledgements."""
    seen: list[bool] = []

    class Asking(Echo):
        def makeConnection(self, transport: Any) -> None:
            super().makeConnection(transport)
            seen.append(transport.getTcpNoDelay())

    class AskingFactory(Factory):
        def buildProtocol(self, address: object) -> Echo:
            return Asking()

    async def scenario() -> None:
        port = await listen(parse("tcp:0:interface=127.0.0.1"), AskingFactory())
        host = port.getHost()
        assert isinstance(host, IPv4Address)
        await assert_echoes(socket.AF_INET, (host.host, host.port))
        await stop(port)
        assert [True] == seen

    run_on(loop, scenario())


@ON_LOOPS
def test_listening_on_a_unix_socket(folder: Path, loop: str) -> None:
    """The file is there as long as the port, unless a successor has put its own."""

    async def scenario() -> None:
        path = folder / "s"
        port = await listen(parse(f"unix:{path}"), Factory())
        assert UNIXAddress(os.fsencode(path)) == port.getHost()
        await assert_echoes(socket.AF_UNIX, str(path))
        await stop(port)
        assert not path.exists()

        port = await listen(parse(f"unix:{path}"), Factory())
        path.unlink()
        successor = await listen(parse(f"unix:{path}"), Factory())
        await stop(port)
        await assert_echoes(socket.AF_UNIX, str(path))
        await stop(successor)
        assert not path.exists()

    run_on(loop, scenario())


@ON_LOOPS
def test_listening_on_an_inherited_unix_socket(folder: Path, loop: str) -> None:
    """Its file belongs to whoever made it, and stays."""
    path = folder / "s"
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(str(path))

    async def scenario() -> None:
        port = await listen(parse(f"fd:{inherited.detach()}"), Factory())
        await assert_echoes(socket.AF_UNIX, str(path))
        await stop(port)
        assert path.exists()

    run_on(loop, scenario())


@ON_LOOPS
def test_a_port_that_is_lost_between_binding_and_listening(loop: str) -> None:
    """Another program that has bound it, too, may be the first to listen."""

    async def scenario() -> None:
        endpoint = parse("tcp:0:interface=127.0.0.1")
        [sock] = endpoint.bind()
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rival.bind(sock.getsockname())
            rival.listen()
            with pytest.raises(ListenError, match="0: Address already in use"):
                await listen(endpoint, Factory())
        assert -1 == sock.fileno()

    run_on(loop, scenario())


@ON_LOOPS
def test_a_path_that_is_lost_between_binding_and_listening(
    folder: Path, loop: str
) -> None:
    """A second server has taken the file for a stale one: one of them gives up."""

    async def scenario() -> None:
        first, second = parse(f"unix:{folder}/s"), parse(f"unix:{folder}/s")
        first.bind()
        second.bind()
        with pytest.raises(ListenError, match="another server took it over"):
            await listen(first, Factory())
        port = await listen(second, Factory())
        await assert_echoes(socket.AF_UNIX, f"{folder}/s")
        await stop(port)

    run_on(loop, scenario())


@ON_LOOPS
def test_the_backlog_is_the_kernels(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many connections wait while the process is busy; the last word is ours."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux shows it")

    async def scenario() -> None:
        for string, backlog in (
            ("tcp:0:interface=127.0.0.1", 50),
            ("tcp:0:interface=127.0.0.1:backlog=7", 7),
        ):
            endpoint = parse(string)
            [sock] = endpoint.bind()
            port = await listen(endpoint, Factory())
            # TCP_INFO of a listening socket: tcpi_sacked is its backlog.
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert backlog == int.from_bytes(info[28:32], sys.byteorder)
            await stop(port)

    run_on(loop, scenario())


@ON_LOOPS
def test_a_connection_that_is_accepted_at_the_last_moment(loop: str) -> None:
    """It is served or refused; no client is left waiting."""

    async def scenario() -> None:
        for turns in range(6):
            port = await listen(parse("tcp:0:interface=127.0.0.1"), Factory())
            host = port.getHost()
            assert isinstance(host, IPv4Address)
            with socket.create_connection((host.host, host.port)) as client:
                client.setblocking(False)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await stop(port)
                running = asyncio.get_running_loop()
                with suppress(ConnectionError):
                    await running.sock_sendall(client, b"hello")
                    assert await running.sock_recv(client, 10) in (b"hello", b"")

    run_on(loop, scenario())


# -- Twisted's endpoints -----------------------------------------------------------------


@pytest.mark.parametrize(
    "string",
    [
        "haproxy:ssl:443",
        "tls:/etc/certificates:tcp:443",  # of a plugin
        "x",
        "",
    ],
)
def test_other_kinds_are_twisteds(string: str) -> None:
    """What isn't ours is left to Twisted and its plugins."""
    assert endpoint_from_string(string, 50) is None


def test_twisteds_own_endpoints() -> None:
    """Twisted makes them of the same strings, on its reactor."""
    reactor = MemoryReactor()
    endpoint: Any = twisted_endpoint(r"tcp6:80:interface=\:\:1", reactor)
    endpoint.listen(Factory())

    [(port, _, _, interface)] = reactor.tcpServers
    assert (80, "::1") == (port, interface)


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("", "Unknown endpoint type: ''"),
        ("carrier-pigeon:80", "Unknown endpoint type: 'carrier-pigeon'"),
        ("tcp6:port=x", "invalid literal"),
        ("tcp6:feather=1", "wrong or missing arguments"),
        ("ssl:443:privateKey=/no/such/file", "No such file or directory"),
    ],
)
def test_what_twisted_cannot_make_is_explained(string: str, reason: str) -> None:
    """The message is one line, as for our own."""
    with pytest.raises(SettingsError) as raised:
        twisted_endpoint(string, MemoryReactor())

    assert str(raised.value).startswith(f"endpoint {string!r}: ")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("string", "scheme"),
    [
        ("tcp:80", "http"),
        ("unix:/x", "http"),
        ("haproxy:tcp:80", "http"),
        ("ssl:443", "https"),
        ("tls:443", "https"),
        ("haproxy:ssl:443", "https"),
    ],
)
def test_the_scheme_of_an_endpoint(string: str, scheme: str) -> None:
    """Twisted's TLS endpoints serve https."""
    assert scheme == scheme_of(string)


# -- TLS ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate in one file, alone in its directory."""
    folder = tmp_path_factory.mktemp("certificates")
    return Authority().issue("localhost").write(folder / "server.pem")


@pytest.mark.parametrize(
    ("string", "where"),
    [
        ("ssl:443:privateKey={0}", "0.0.0.0:443"),
        ("ssl:443:{0}:{0}:TLS_METHOD:127.0.0.1:9", "127.0.0.1:443"),
        ("ssl:port=443:certKey={0}:privateKey={0}:extraCertChain={0}", "0.0.0.0:443"),
        ("tls:443:privateKey={0}:interface=127.0.0.1", "127.0.0.1:443"),
        ("tls:{1}", "[::]:443"),
        ("tls:{1}:8443:50:127.0.0.1", "127.0.0.1:8443"),
        ("tls:path={1}:port=8443:interface=", "0.0.0.0:8443"),
    ],
)
def test_tls_by_endpoint_strings(certificate: Path, string: str, where: str) -> None:
    """Twisted's names, order and defaults of arguments hold."""
    text = string.format(certificate, certificate.parent)
    endpoint = endpoint_from_string(text, 50)

    assert endpoint is not None
    assert where == endpoint._source.where
    assert endpoint.tls is not None
    assert "https" == scheme_of(text, endpoint)


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("ssl:privateKey={0}", "port is missing"),
        ("ssl:443:privatekey={0}", "unknown argument 'privatekey'"),
        ("ssl:443:privateKey=/no/such", "/no/such: No such file or directory"),
        ("ssl:443:privateKey={0}:sslmethod=SSLv3_METHOD", "sslmethod must be"),
        ("ssl:443:privateKey={0}:dhParameters=/no", "/no: No such file"),
        ("ssl:443:privateKey={0}:backlog=x", "backlog must be a number"),
        ("tls:/no/such:443", "/no/such: there is no .pem file"),
        ("tls:port=443", "path is missing"),
    ],
)
def test_wrong_endpoint_strings_of_tls(
    certificate: Path, string: str, reason: str
) -> None:
    """What is wrong is told together with the string."""
    text = string.format(certificate)
    with pytest.raises(SettingsError) as raised:
        endpoint_from_string(text, 50)

    assert str(raised.value).startswith(f"endpoint {text!r}: {reason}")


def test_a_certificate_secures_what_options_name(certificate: Path) -> None:
    """Hosts, sockets and descriptors share it; endpoint strings speak for themselves."""
    settings = Settings.of(
        bind="127.0.0.1",
        port=0,
        unix_socket="/x",
        fd=3,
        endpoint=["tcp:81", f"ssl:444:privateKey={certificate}", "tcp6:82"],
        ssl_certfile=str(certificate),
    )
    found = dict(configured_endpoints(settings.bind, settings.tls, settings.proxy))
    tls = {text: None if item is None else item.tls for text, item in found.items()}

    assert found["tcp6:82"] is None
    assert tls["tcp:81"] is None
    of_options = {
        tls["tcp:port=0:interface=127.0.0.1"],
        tls["unix:/x"],
        tls["fd:fileno=3"],
    }
    assert 1 == len(of_options)
    assert None not in of_options
    assert tls[f"ssl:444:privateKey={certificate}"] not in (None, *of_options)


def test_the_name_of_systemds_socket_says_what_is_spoken(
    certificate: Path, pass_sockets: Pass
) -> None:
    """
    A socket named `http` is never encrypted and one named `https` always; others
    are as all addresses which options name, or which endpoint strings do.
    """
    sockets = {name: listening() for name in ("http", "https", "web")}
    pass_sockets(**sockets)
    numbers = {name: sock.fileno() for name, sock in sockets.items()}

    def secured(**given: Any) -> list[str]:
        settings = Settings.of(ssl_certfile=str(certificate), **given)
        found = configured_endpoints(settings.bind, settings.tls, settings.proxy)
        return [text for text, endpoint in found if endpoint and endpoint.tls]

    assert {f"fd:fileno={numbers['https']}", f"fd:fileno={numbers['web']}"} == set(
        secured(fd=list(numbers.values()))
    )
    strings = [f"systemd:domain=INET:name={name}" for name in sockets]
    assert ["systemd:domain=INET:name=https"] == secured(endpoint=strings)
    for sock in sockets.values():
        sock.close()


def test_a_socket_named_redirect_serves_nothing(
    certificate: Path, pass_sockets: Pass
) -> None:
    """It only sends clients on to HTTPS, like the address of `redirect_https`."""
    with listening() as sock, listening() as other:
        pass_sockets(redirect=sock, https=other)
        text, rest = (f"fd:fileno={item.fileno()}" for item in (sock, other))
        settings = Settings.of(
            fd=[sock.fileno(), other.fileno()], ssl_certfile=str(certificate)
        )
        served = configured_endpoints(settings.bind, settings.tls, settings.proxy)
        assert [rest] == [string for string, _ in served]
        for where, more in ((None, []), ("80", ["tcp:port=80:interface=127.0.0.1"])):
            redirecting = redirect_endpoints(where, settings.bind, settings.proxy)
            assert [text, *more] == [string for string, _ in redirecting]


def test_a_socket_named_https_needs_a_certificate(pass_sockets: Pass) -> None:
    """Nobody gets plain HTTP on a port which says otherwise."""
    with listening() as sock:
        pass_sockets(https=sock)
        settings = Settings.of(fd=sock.fileno())
        with pytest.raises(SettingsError, match="named https needs a certificate"):
            configured_endpoints(settings.bind, settings.tls, settings.proxy)


def test_settings_of_tls_hold_for_endpoint_strings(certificate: Path) -> None:
    """What a string doesn't say is as the options say it."""
    settings = Settings.of(ssl_min_version="1.3", ssl_handshake_timeout=3)
    endpoint = endpoint_from_string(f"ssl:443:{certificate}", 50, settings.tls)

    assert endpoint is not None
    assert endpoint.tls is not None
    assert 3 == endpoint.tls.handshake_timeout
    assert ssl.TLSVersion.TLSv1_3 == endpoint.tls.context.minimum_version


@pytest.mark.parametrize(
    ("where", "hosts", "expected"),
    [
        (None, (), []),
        ("80", (), ["tcp:port=80:interface=127.0.0.1"]),
        (
            "80",
            ("a", "::1"),
            ["tcp:port=80:interface=a", r"tcp:port=80:interface=\:\:1"],
        ),
        ("[::]:80", ("a",), [r"tcp:port=80:interface=\:\:"]),
        ("b:80", ("a",), ["tcp:port=80:interface=b"]),
    ],
)
def test_where_redirects_are_given(
    where: str | None, hosts: tuple[str, ...], expected: list[str]
) -> None:
    """On the hosts of the other listeners, unless one is named."""
    settings = Settings.of(bind=hosts)

    assert expected == [
        text for text, _ in redirect_endpoints(where, settings.bind, settings.proxy)
    ]


@pytest.mark.parametrize(
    ("settings", "string", "expected"),
    [
        (False, "tcp:81", False),
        (True, "tcp:81", True),
        (False, "tcp:81:proxyProtocol=yes", True),
        (True, "tcp:81:proxyProtocol=no", False),
        (True, "unix:/x:mode=600", True),
        (True, "fd:3", True),
        (False, "unix:/x:proxyProtocol=yes", True),
        (True, "ssl:443:{0}", True),
        (False, "ssl:443:{0}:proxyProtocol=yes", True),
    ],
)
def test_where_the_proxy_protocol_is_expected(
    certificate: Path, settings: bool, string: str, *, expected: bool
) -> None:
    """Everywhere when the settings say so; but an endpoint string decides for itself."""
    text = string.format(certificate)
    made = Settings.of(endpoint=text, proxy_protocol=settings)
    ((_, endpoint),) = configured_endpoints(made.bind, made.tls, made.proxy)

    assert endpoint is not None
    assert expected == (endpoint.proxy is not None)


def test_redirects_expect_the_proxy_protocol_too() -> None:
    """Who connects to the other port comes by the same proxy."""
    made = Settings.of(proxy_protocol=True)
    ((_, endpoint),) = redirect_endpoints("80", made.bind, made.proxy)

    assert endpoint is not None
    assert endpoint.proxy is not None


def test_the_trust_list_holds_for_the_proxy_protocol() -> None:
    """There is one list, and the deadline is a setting."""
    made = Settings.of(
        proxy_protocol=True, forwarded_allow_ips="10.0.0.2", timeout_proxy_protocol=3
    )
    ((_, endpoint),) = configured_endpoints(made.bind, made.tls, made.proxy)

    assert endpoint is not None
    assert endpoint.proxy is not None
    assert endpoint.proxy.peers.trusts("10.0.0.2")
    assert not endpoint.proxy.peers.trusts("127.0.0.1")
    assert 3 == endpoint.proxy.timeout


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("tcp:81:proxyProtocol=maybe", "proxyProtocol must be yes or no, not 'maybe'"),
        ("tcp6:81", "proxy_protocol has no effect on endpoints of Twisted's; write "),
    ],
)
def test_wrong_endpoint_strings_of_the_proxy_protocol(string: str, reason: str) -> None:
    """A listener which would not expect it can't be taken for one which does."""
    made = Settings.of(endpoint=string, proxy_protocol=True)
    with pytest.raises(SettingsError) as raised:
        configured_endpoints(made.bind, made.tls, made.proxy)

    assert str(raised.value).startswith(f"endpoint {string!r}: {reason}")


def test_twisteds_own_reader_of_the_proxy_protocol_is_left_alone() -> None:
    """Who writes haproxy: gets Twisted's, whatever the settings are."""
    made = Settings.of(endpoint="haproxy:tcp:81", proxy_protocol=True)

    assert [("haproxy:tcp:81", None)] == configured_endpoints(
        made.bind, made.tls, made.proxy
    )


def test_wrapped_factories_can_negotiate() -> None:
    """Twisted's TLS finds our protocols behind the wrapper for HAProxy."""

    @implementer(IProtocolNegotiationFactory)
    class Negotiating(TwistedFactory):
        def acceptableProtocols(self) -> list[bytes]:
            return [b"h2"]

    twisted_endpoint("tcp:80", MemoryReactor())
    adapt: Any = IProtocolNegotiationFactory
    wrapped = WrappingFactory(WrappingFactory(Negotiating()))

    assert [b"h2"] == adapt(wrapped).acceptableProtocols()
    assert adapt(WrappingFactory(TwistedFactory()), None) is None
