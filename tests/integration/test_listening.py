"""Where a server takes connections from, and what it says when it can't."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess

APPLICATION = "applications.lifecycle:application"

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


@pytest.fixture
def port() -> int:
    """Find a port that is free on all addresses."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# -- TCP -----------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["-b", "127.0.0.1", "-p", "0"], "127.0.0.1"),
        (["-p", "0"], "127.0.0.1"),
        (["-e", "tcp:0:interface=127.0.0.1:backlog=5"], "127.0.0.1"),
        (["-e", "tcp:port=0"], "0.0.0.0"),
        pytest.param(["-b", "[::1]", "-p", "0"], "[::1]", marks=needs_ipv6),
        pytest.param(["-e", r"tcp:0:interface=\:\:1"], "[::1]", marks=needs_ipv6),
    ],
)
def test_tcp(serve: Serve, arguments: list[str], host: str, loop: str) -> None:
    """The log tells which port was chosen; answers come from there."""
    server = serve(APPLICATION, *arguments, "--loop", loop)

    assert re.fullmatch(rf"http://{re.escape(host)}:[1-9]\d*", server.url)
    assert f"(HTTP/1.1, {loop})" in server.log
    assert b"hello" == ask(server.url)


def test_a_name_stands_for_all_its_addresses(serve: Serve) -> None:
    """`localhost` listens on IPv4 and IPv6, where there is both, on one port."""
    server = serve(APPLICATION, "-b", "localhost", "-p", "0")

    wanted = {"127.0.0.1", "[::1]"} if has_ipv6() else {"127.0.0.1"}
    server.wait_for_log(r"(?s)(Listening.*){%d}" % len(wanted))
    found = [url.removeprefix("http://").rpartition(":") for url in server.urls]
    # Which of both a system knows by that name is its own affair.
    assert {host for host, _, _ in found} <= wanted
    assert 1 == len({chosen for _, _, chosen in found})
    assert [b"hello"] * len(found) == [ask(url) for url in server.urls]


@needs_ipv6
@pytest.mark.parametrize("loop", LOOPS)
def test_one_address_for_both_families(serve: Serve, loop: str) -> None:
    """`::` alone takes IPv4 connections as well."""
    server = serve(APPLICATION, "-b", "::", "-p", "0", "--loop", loop)

    assert b"hello" == ask(f"http://[::1]:{server.port}")
    assert b"hello" == ask(f"http://127.0.0.1:{server.port}")


@needs_ipv6
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ipv4", ["0.0.0.0", "127.0.0.1"])
def test_both_families_by_two_addresses(
    serve: Serve, port: int, ipv4: str, loop: str
) -> None:
    """`::` leaves IPv4 to another address of the same server, in any order."""
    arguments = ("-b", "::", "-b", ipv4, "-p", str(port))
    server = serve(APPLICATION, *arguments, "--loop", loop)

    assert {f"http://{ipv4}:{port}", f"http://[::]:{port}"} == set(server.urls)
    assert b"hello" == ask(f"http://[::1]:{port}")
    assert b"hello" == ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_in_use(launch: Serve, host: str, loop: str) -> None:
    """One clear line, before the application is started, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = taken.getsockname()[1]
        server = launch(
            APPLICATION, "-b", host, "-p", str(chosen), "--loop", loop
        )
        assert 1 == server.wait()

    [line] = server.log.splitlines()
    where = re.escape(f"{host}:{chosen}")
    assert re.search(rf"CRITICAL Listen failure: {where}: Address already in use$", line)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_port_that_is_taken_at_the_last_moment(launch: Serve, loop: str) -> None:
    """A port that two servers bind is the one's that listens first."""
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        chosen = rival.getsockname()[1]
        server = launch(
            *(APPLICATION, "-p", str(chosen), "--loop", loop),
            environment={"LIFESPAN": "wait"},
            stdin=subprocess.PIPE,
        )
        server.wait_for_log("application: starting")
        rival.listen()
        server.process.stdin.close()

        assert 1 == server.wait()
    assert f"Listen failure: 127.0.0.1:{chosen}: Address already in use" in server.log
    assert "application: stopped" in server.log
    assert "Listening on" not in server.log


def test_an_address_of_another_machine(launch: Serve) -> None:
    """An address that isn't ours can't be bound: one line, status 1."""
    server = launch(APPLICATION, "-b", "192.0.2.1", "-p", "0")

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert "Listen failure: 192.0.2.1:0: " in line


def test_a_name_that_nobody_knows(launch: Serve) -> None:
    """A host name without an address: one line, status 1."""
    server = launch(APPLICATION, "-b", "no-such-host.invalid", "-p", "0")

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert "Listen failure: no-such-host.invalid:0: " in line


# -- Unix sockets --------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("option", ["-u", "--uds", "-e"])
def test_a_unix_socket(
    serve: Serve, socket_folder: Path, loop: str, option: str
) -> None:
    """Everybody may connect unless said otherwise; the file goes with the server."""
    path = socket_folder / "s:1"  # a colon has a meaning in endpoint strings
    value = f"unix:{socket_folder}/s\\:1" if option == "-e" else str(path)
    server = serve(APPLICATION, option, value, "--loop", loop)

    assert f"unix:{path}" == server.url
    assert 0o666 == stat.S_IMODE(path.stat().st_mode)
    assert b"hello" == ask(server.url)
    assert 0 == server.stop()
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [["-u", "{path}", "--uds-permissions", "600"], ["-e", "unix:{path}:mode=600"]],
)
def test_the_mode_of_a_unix_socket(
    serve: Serve, socket_folder: Path, arguments: list[str]
) -> None:
    """Permissions can be given by an option or in the endpoint string."""
    path = socket_folder / "mode.sock"
    serve(APPLICATION, *(word.format(path=path) for word in arguments))

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_socket_file_left_by_a_crash_is_replaced(
    serve: Serve, socket_folder: Path, loop: str
) -> None:
    """After `kill -9` the next server starts as if nothing had happened."""
    path = socket_folder / "crash.sock"
    serve(APPLICATION, "-u", str(path), "--loop", loop).kill()
    assert path.exists()

    server = serve(APPLICATION, "-u", str(path), "--loop", loop)

    assert b"hello" == ask(server.url)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_live_unix_socket_is_an_error(
    serve: Serve, launch: Serve, socket_folder: Path, loop: str
) -> None:
    """A second server doesn't take the socket from the first; status 1."""
    path = socket_folder / "live.sock"
    first = serve(APPLICATION, "-u", str(path), "--loop", loop)
    second = launch(APPLICATION, "-u", str(path), "--loop", loop)

    assert 1 == second.wait()
    [line] = second.log.splitlines()
    assert f"CRITICAL Listen failure: {path}: Address already in use" in line
    assert b"hello" == ask(first.url)


def test_a_file_that_is_no_socket_stays(launch: Serve, tmp_path: Path) -> None:
    """A regular file in the place of the socket is an error, and not removed."""
    path = tmp_path / "file"
    path.write_text("precious", "utf-8")
    server = launch(APPLICATION, "-u", str(path))

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert f"Listen failure: {path}: exists and is no socket" in line
    assert "precious" == path.read_text("utf-8")


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


# -- Inherited descriptors -------------------------------------------------------


def inherited_socket(family: int, address: str) -> socket.socket:
    """Bind a socket for a server to inherit."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address if family == socket.AF_UNIX else (address, 0))
    return sock


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("option", ["--fd", "-e"])
@pytest.mark.parametrize(
    "family",
    [
        socket.AF_INET,
        pytest.param(socket.AF_INET6, marks=needs_ipv6),
        socket.AF_UNIX,
    ],
)
def test_an_inherited_socket(
    serve: Serve, socket_folder: Path, family: int, option: str, loop: str
) -> None:
    """Its family need not be told; a Unix socket's file stays, it is systemd's."""
    path = socket_folder / f"{loop}{option}.sock"
    addresses = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
    with inherited_socket(family, addresses.get(family, str(path))) as sock:
        number = str(sock.fileno())
        value = number if option == "--fd" else f"fd:fileno={number}:domain=INET"
        server = serve(
            *(APPLICATION, option, value, "--loop", loop), pass_fds=[sock.fileno()]
        )
        assert b"hello" == ask(server.url)
        assert 0 == server.stop()
    assert path.exists() == (family == socket.AF_UNIX)


def test_standard_input_may_be_the_socket(serve: Serve) -> None:
    """`--fd 0` is how supervisors such as fcgi's pass a socket."""
    with inherited_socket(socket.AF_INET, "127.0.0.1") as sock:
        server = serve(APPLICATION, "--fd", "0", stdin=sock)

        assert b"hello" == ask(server.url)


def test_a_descriptor_that_is_closed(launch: Serve) -> None:
    """One line, status 1."""
    server = launch(APPLICATION, "--fd", "99")

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert "Listen failure: descriptor 99: Bad file descriptor" in line


def test_a_descriptor_that_is_no_socket(launch: Serve) -> None:
    """One line, status 1."""
    server = launch(APPLICATION, "--fd", "0")

    assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert "Listen failure: descriptor 0: Socket operation on non-socket" in line


# -- Several at once ---------------------------------------------------------------


def test_all_kinds_at_once(serve: Serve, socket_folder: Path) -> None:
    """Hosts, sockets, descriptors and endpoint strings can be combined."""
    path = socket_folder / "one-of-many.sock"
    with inherited_socket(socket.AF_INET, "127.0.0.1") as sock:
        server = serve(
            *(APPLICATION, "-b", "127.0.0.1", "-p", "0", "-u", str(path)),
            *("--fd", str(sock.fileno()), "-e", "tcp:0:interface=127.0.0.1"),
            pass_fds=[sock.fileno()],
        )
        server.wait_for_log(r"(?s)(Listening.*){4}")

        assert [b"hello"] * 4 == [ask(url) for url in server.urls]


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
        ("tcp:80:interfce=::1", "unknown argument 'interfce'; did you mean interface"),
        ("unix:/tmp/x:mode=rw", "mode must be octal digits up to 777, not 'rw'"),
        ("fd:", "fileno must be a number"),
        ("carrier-pigeon:80", "Unknown endpoint type: 'carrier-pigeon'"),
        ("ssl:0:privateKey=/no/such/file", "No such file"),
    ],
)
def test_a_wrong_endpoint_string(launch: Serve, string: str, reason: str) -> None:
    """What is wrong is said in one line, before the application starts; status 2."""
    server = launch(APPLICATION, "-e", string)

    assert 2 == server.wait()
    lines = [line for line in server.log.splitlines() if "usage:" not in line]
    assert 1 == len(lines)
    assert string.partition(":")[0] in lines[0]
    assert reason in lines[0]


# -- Twisted's own endpoints -----------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate of our own, both in one file."""
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "server.pem"
    # In a process of its own, since OpenSSL's Python package warns on import.
    program = """
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
now = datetime.datetime.now(datetime.timezone.utc)
address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
certificate = (
    x509.CertificateBuilder().subject_name(name).issuer_name(name)
    .public_key(key.public_key()).serial_number(1)
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([address]), critical=False)
    .sign(key, hashes.SHA256())
)
encoding = serialization.Encoding.PEM
with open(sys.argv[1], "wb") as file:
    file.write(key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    file.write(certificate.public_bytes(encoding))
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    return path


@pytest.fixture(scope="module", params=["tcp6", "haproxy", "ssl"])
def twisted_server(
    request: pytest.FixtureRequest, serve_module: Serve, certificate: Path
) -> Iterator[TwistedServer]:
    """Serve on an endpoint whose transports are Twisted's."""
    strings = {
        "tcp6": r"tcp6:0:interface=\:\:1",
        "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
        "ssl": f"ssl:0:interface=127.0.0.1:privateKey={certificate}",
    }
    if request.param == "tcp6" and not has_ipv6():
        pytest.skip("this system has no IPv6")
    server = serve_module(APPLICATION, "-e", strings[request.param])
    return TwistedServer(request.param, server, certificate)
