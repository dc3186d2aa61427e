"""Where a server takes connections from, and what it says when it can't."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from certificates import Authority
from http2_client import Peer
from http2_links import SocketLink
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess
from websocket_frames import frame

APPLICATION = "applications.lifecycle:application"
HANDSHAKE = (
    b"GET /shout HTTP/1.1\r\nhost: server\r\n"
    b"upgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

REQUEST = b"GET /hello HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6")


def ask(url: str) -> bytes:
    """Return the body of a response."""
    with connect(url) as sock:
        sock.sendall(REQUEST)
        [answer] = split_answers(read_to_end(sock))
        assert 200 == answer.status
        return answer.body


def inherited_socket(family: int, address: Any) -> socket.socket:
    """Bind a socket for a server to inherit."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)
    return sock


@pytest.mark.parametrize("loop", LOOPS)
def test_all_kinds_of_addresses_at_once(
    serve: Serve, socket_folder: Path, loop: str
) -> None:
    """
    Hosts, Unix sockets, inherited sockets and endpoint strings can be combined.
    The log tells each address with the port that was chosen, and each answers.
    Socket files go with the server, unless somebody else has made them.
    """
    own = socket_folder / f"{loop}:own.sock"  # a colon has a meaning in strings
    private = socket_folder / f"{loop}-private.sock"
    systemds = socket_folder / f"{loop}-systemd.sock"
    ipv6 = has_ipv6()
    with ExitStack() as closing:
        inherited = [
            inherited_socket(socket.AF_INET, ("127.0.0.1", 0)),
            inherited_socket(socket.AF_UNIX, str(systemds)),
        ]
        if ipv6:
            inherited.append(inherited_socket(socket.AF_INET6, ("::1", 0)))
        for sock in inherited:
            closing.enter_context(sock)
        first, *others = (str(sock.fileno()) for sock in inherited)
        arguments = [
            *("-b", "127.0.0.1", "-p", "0", "-u", str(own)),
            *("-e", f"unix:{private}:mode=600"),
            *("-e", "tcp:0:interface=127.0.0.1:backlog=5"),
            *("--fd", first),
            *(word for number in others for word in ("-e", f"fd:fileno={number}")),
            *(("-b", "[::1]", "-e", r"tcp:0:interface=\:\:1") if ipv6 else ()),
        ]
        server = serve(
            *(APPLICATION, *arguments, "--loop", loop),
            pass_fds=[sock.fileno() for sock in inherited],
        )
        expected = 9 if ipv6 else 6
        server.wait_for_log(f"(?s)(Listening on.*){{{expected}}}")

    urls = [url for url in server.urls if url.startswith("http:")]
    assert {f"unix:{own}", f"unix:{private}", f"unix:{systemds}"} == {
        url for url in server.urls if url not in urls
    }
    assert 3 == sum(url.startswith("http://127.0.0.1:") for url in urls)
    assert all(
        re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):[1-9]\d*", url) for url in urls
    )
    assert expected == len(set(server.urls))
    assert [b"hello"] * expected == [ask(url) for url in server.urls]
    assert (0o666, 0o600) == (
        stat.S_IMODE(own.stat().st_mode),
        stat.S_IMODE(private.stat().st_mode),
    )
    assert 0 == server.stop()
    assert (False, False, True) == (own.exists(), private.exists(), systemds.exists())


# -- TCP -----------------------------------------------------------------------


def test_a_name_stands_for_all_its_addresses(serve: Serve) -> None:
    """`localhost` listens on IPv4 and IPv6, where it means both, on one port."""
    found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    hosts = {item[4][0] for item in found}
    server = serve(APPLICATION, "-b", "localhost", "-p", "0")
    server.wait_for_log(f"(?s)(Listening on.*){{{len(hosts)}}}")

    urls = [urlsplit(url) for url in server.urls]
    assert hosts == {url.hostname for url in urls}
    assert 1 == len({url.port for url in urls})
    assert [b"hello"] * len(hosts) == [ask(url) for url in server.urls]


@needs_ipv6
@pytest.mark.parametrize("loop", LOOPS)
def test_one_address_for_both_families(serve: Serve, loop: str) -> None:
    """`::` alone takes IPv4 connections as well."""
    server = serve(APPLICATION, "-b", "::", "-p", "0", "--loop", loop)

    assert b"hello" == ask(f"http://[::1]:{server.port}")
    assert b"hello" == ask(f"http://127.0.0.1:{server.port}")


@needs_ipv6
@pytest.mark.parametrize("loop", LOOPS)
def test_both_families_by_two_addresses(serve: Serve, loop: str) -> None:
    """`::` leaves IPv4 to another address of the same server, in any order."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        port = sock.getsockname()[1]
    arguments = ("-b", "::", "-b", "0.0.0.0", "-p", str(port))
    server = serve(APPLICATION, *arguments, "--loop", loop)
    server.wait_for_log("(?s)(Listening on.*){2}")

    assert {f"http://0.0.0.0:{port}", f"http://[::]:{port}"} == set(server.urls)
    assert b"hello" == ask(f"http://[::1]:{port}")
    assert b"hello" == ask(f"http://127.0.0.1:{port}")


def test_a_port_in_use(launch: Serve) -> None:
    """One clear line, before the application is started, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = launch(APPLICATION, "-p", str(port))
        assert 1 == server.wait()

    [line] = server.log.splitlines()
    reason = f"127.0.0.1:{port}: Address already in use"
    assert line.endswith(f"CRITICAL Listen failure: {reason}")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_port_that_is_taken_at_the_last_moment(launch: Serve, loop: str) -> None:
    """A port that two servers have bound is the one's that listens first."""
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        port = rival.getsockname()[1]
        server = launch(
            *(APPLICATION, "-p", str(port), "--loop", loop),
            environment={"LIFESPAN": "wait"},
            stdin=subprocess.PIPE,
        )
        server.wait_for_log("application: starting")
        rival.listen()
        server.close_stdin()

        assert 1 == server.wait()
    assert f"Listen failure: 127.0.0.1:{port}: Address already in use" in server.log
    assert "application: stopped" in server.log
    assert "Listening on" not in server.log


# -- Unix sockets --------------------------------------------------------------


def test_a_socket_file_left_by_a_crash_is_replaced(
    serve: Serve, launch: Serve, socket_folder: Path
) -> None:
    """
    A second server doesn't take the socket from a live one: one line, status 1.
    After `kill -9` the next server starts as if nothing had happened.
    """
    path = socket_folder / "crash.sock"
    first = serve(APPLICATION, "-u", str(path))
    second = launch(APPLICATION, "-u", str(path))

    assert 1 == second.wait()
    [line] = second.log.splitlines()
    assert f"CRITICAL Listen failure: {path}: Address already in use" in line
    assert b"hello" == ask(first.url)

    first.kill()
    assert path.exists()
    third = serve(APPLICATION, "-u", str(path))
    assert b"hello" == ask(third.url)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_successors_socket_stays(
    serve: Serve, socket_folder: Path, loop: str
) -> None:
    """A server that stops late doesn't remove the socket of the next one."""
    path = socket_folder / "shared.sock"
    first = serve(APPLICATION, "-u", str(path), "--loop", loop)
    path.unlink()
    second = serve(APPLICATION, "-u", str(path), "--loop", loop)

    assert 0 == first.stop()
    assert b"hello" == ask(second.url)


# -- Descriptors and strings -----------------------------------------------------


def test_standard_input_may_be_the_socket(serve: Serve) -> None:
    """`--fd 0`: the way of supervisors such as fcgi's and supervisord's."""
    with inherited_socket(socket.AF_INET, ("127.0.0.1", 0)) as sock:
        server = serve(APPLICATION, "--fd", "0", stdin=sock)

        assert b"hello" == ask(server.url)


def test_a_descriptor_that_is_no_socket(launch: Serve) -> None:
    """One line, status 1."""
    server = launch(APPLICATION, "--fd", "0")

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert "Listen failure: descriptor 0: Socket operation on non-socket" in line


def test_one_failure_is_enough(launch: Serve, socket_folder: Path) -> None:
    """When one of several addresses can't be had, nothing listens or stays behind."""
    path = socket_folder / "with-failure.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = launch(APPLICATION, "-u", str(path), "-p", str(port))

        assert 1 == server.wait()
    assert not path.exists()
    assert "Listening on" not in server.log


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("tcp:http", "the port must be a number from 0 to 65535, not 'http'"),
        ("carrier-pigeon:80", "Unknown endpoint type: 'carrier-pigeon'"),
        ("ssl:0:privateKey=/no/such/file", "No such file"),
    ],
)
def test_a_wrong_endpoint_string(launch: Serve, string: str, reason: str) -> None:
    """What is wrong is said in one line, before the application starts; status 2."""
    server = launch(APPLICATION, "-e", string)

    assert 2 == server.wait()
    [line] = [line for line in server.log.splitlines() if "usage:" not in line]
    assert string in line
    assert reason in line


# -- Twisted's own endpoints -----------------------------------------------------


class TwistedServer(NamedTuple):
    """
    A server on an endpoint whose transports are Twisted's.

    Attributes:
        kind: That of the endpoint.
        server: The process.
        certificate: What is trusted, where there is TLS.
    """

    kind: str
    server: ServerProcess
    certificate: Path

    def connect(self, *versions: str) -> socket.socket:
        """Connect as the endpoint wants it, and in TLS offer these versions of HTTP."""
        sock = connect(self.server.url)
        if self.kind == "ssl":
            context = ssl.create_default_context(cafile=str(self.certificate))
            if versions:
                context.set_alpn_protocols([*versions])
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        if self.kind != "tcp6":
            sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 80\r\n")
        return sock


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate for 127.0.0.1, and what clients trust."""
    authority = Authority()
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.with_name("root.pem").write_text(authority.pem)
    return authority.issue("127.0.0.1").write(path)


@pytest.fixture(scope="module", params=["tcp6", "haproxy", "ssl"])
def twisted_server(
    request: pytest.FixtureRequest, serve_module: Serve, certificate: Path
) -> TwistedServer:
    """Serve on an endpoint whose transports are Twisted's."""
    strings = {
        "tcp6": r"tcp6:0:interface=\:\:1",
        "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
        # With TLS of its own, which ssl: alone has not.
        "ssl": f"haproxy:ssl:0:interface=127.0.0.1:privateKey={certificate}",
    }
    if request.param == "tcp6" and not has_ipv6():
        pytest.skip("this system has no IPv6")
    server = serve_module(APPLICATION, "-e", strings[request.param])
    return TwistedServer(request.param, server, certificate.with_name("root.pem"))


def test_twisted_transports_keep_connections_alive(
    twisted_server: TwistedServer,
) -> None:
    """Several requests come on one connection, one by one and all at once."""
    once = b"GET /hello HTTP/1.1\r\nhost: server\r\n\r\n"
    with twisted_server.connect() as sock:
        for _ in range(2):
            sock.sendall(once)
            assert read_until(sock, b"hello").startswith(b"HTTP/1.1 200 ")
        sock.sendall(once * 5 + REQUEST)
        answers = split_answers(read_to_end(sock))
    assert [(200, b"hello")] * 6 == [(item.status, item.body) for item in answers]


def test_twisted_transports_take_uploads(twisted_server: TwistedServer) -> None:
    """A large body arrives whole."""
    size = 8 * 1024 * 1024
    with twisted_server.connect() as sock:
        head = f"POST /upload HTTP/1.1\r\nhost: server\r\ncontent-length: {size}"
        sock.sendall(head.encode() + b"\r\nconnection: close\r\n\r\n" + bytes(size))
        [answer] = split_answers(read_to_end(sock))
    assert b"%d bytes" % size == answer.body


def test_twisted_transports_wait_for_slow_clients(
    twisted_server: TwistedServer,
) -> None:
    """The application isn't ahead of a client that reads late, who gets it all."""
    server = twisted_server.server
    with twisted_server.connect() as sock:
        sock.sendall(REQUEST.replace(b"/hello", b"/pour"))
        begun = read_until(sock, b"\r\n\r\n")
        with twisted_server.connect() as other:  # which shows that time has passed
            other.sendall(REQUEST)
            read_to_end(other)
        assert "poured" not in server.log
        received = begun + read_to_end(sock)
    server.wait_for_log("poured")
    assert 512 * 64 * 1024 == received.count(b"\0")
    assert received.endswith(b"0\r\n\r\n")


def test_twisted_transports_tell_the_scope(twisted_server: TwistedServer) -> None:
    """The scheme is that of the endpoint, the client's address its peer's."""
    with twisted_server.connect() as sock:
        sock.sendall(REQUEST.replace(b"/hello", b"/scope"))
        client = sock.getsockname()[:2]
        [answer] = split_answers(read_to_end(sock))
    scope = json.loads(answer.body)

    scheme = "https" if twisted_server.kind == "ssl" else "http"
    assert scheme == scope["scheme"]
    assert twisted_server.server.url.startswith(f"{scheme}://")
    if twisted_server.kind != "tcp6":
        client = ("192.0.2.7", 5000)
    assert [*client] == scope["client"]


def test_twisted_transports_speak_http2(twisted_server: TwistedServer) -> None:
    """A connection that begins with HTTP/2 is handed over, however deep it is wrapped."""
    with twisted_server.connect("h2") as sock:
        peer = Peer(SocketLink(sock))
        peer.open()
        streams = [peer.request(path=b"/hello") for _ in range(3)]
        upload = peer.request(method=b"POST", path=b"/upload", end=False)
        peer.upload(upload, bytes(1024 * 1024))

        bodies = [bytes(peer.expect_response(stream).body) for stream in streams]
        assert [b"hello"] * 3 == bodies
        assert b"1048576 bytes" == bytes(peer.expect_response(upload).body)


def test_twisted_transports_carry_websockets(twisted_server: TwistedServer) -> None:
    """The tunnel of a WebSocket takes over, however deep the connection is wrapped."""
    with twisted_server.connect() as sock:
        sock.sendall(HANDSHAKE + frame(1, b"over"))
        answer = read_until(sock, b"OVER")

    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\x81\x04OVER")


def test_twisted_transports_are_drained(serve: Serve) -> None:
    """A signal closes idle connections, and ends what is in flight."""
    server = serve(APPLICATION, "-e", "haproxy:tcp:0:interface=127.0.0.1")
    proxy = b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 80\r\n"
    with connect(server.url) as idle, connect(server.url) as busy:
        idle.sendall(proxy + b"GET /hello HTTP/1.1\r\nhost: server\r\n\r\n")
        read_until(idle, b"hello")
        busy.sendall(
            proxy + b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na"
        )
        server.wait_for_log("http.request after 1 bytes")
        server.signal(signal.SIGTERM)

        assert b"" == idle.recv(1)
        busy.sendall(b"b")
        assert read_to_end(busy).endswith(b"2 bytes")
    assert 0 == server.wait()
