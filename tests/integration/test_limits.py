"""What a server endures: too many connections, and clients that don't behave."""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from raw_http import connect, read_to_end, split_answers
from server_process import LOOPS, Serve, ServerProcess

APPLICATION = "applications.lifecycle:application"

REQUEST = b"GET /hello HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n"

# Below what is usual for a user, and above what the server itself needs.
FEW_DESCRIPTORS = 64
MANY_CONNECTIONS = 10_000

FILE_BYTES = 32 * 1024 * 1024
FILE_REQUEST = b"/file?%d" % FILE_BYTES


def assert_serves(server: ServerProcess) -> None:
    """A request is answered."""
    with connect(server.url) as sock:
        sock.sendall(REQUEST)
        [answer] = split_answers(read_to_end(sock))
    assert (200, b"hello") == (answer.status, answer.body)


def descriptor_count(server: ServerProcess) -> int:
    """Count the files and sockets which the server has open."""
    path = Path(f"/proc/{server.process.pid}/fd")
    if not path.exists():
        pytest.skip("the system has no /proc")
    return len(list(path.iterdir()))


def processor_seconds(server: ServerProcess) -> float:
    """Tell how long the server has computed."""
    path = Path(f"/proc/{server.process.pid}/stat")
    if not path.exists():
        pytest.skip("the system has no /proc")
    fields = path.read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Make a file that no buffer holds, and which takes no room on the disk."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(FILE_BYTES)
    return path


@pytest.mark.parametrize("loop", LOOPS)
def test_descriptors_may_run_out(serve: Serve, loop: str) -> None:
    """
    With more connections than the process may have, it says so in one line and
    waits without computing. When some are gone, it serves again.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))

    server = serve(APPLICATION, "--loop", loop, preexec_fn=limit)
    with ExitStack() as connections:
        for _ in range(2 * FEW_DESCRIPTORS):
            connections.enter_context(connect(server.url))
        server.wait_for_log("Too many open files")
        before = processor_seconds(server)
        time.sleep(1.2)  # asyncio tries again each second
        assert processor_seconds(server) - before < 0.4

    for _ in range(20):
        # The first ones may come too early for a server that cleans up.
        try:
            assert_serves(server)
        except (OSError, ValueError):
            time.sleep(0.1)
        else:
            break
    assert_serves(server)
    assert 0 == server.stop()
    [line] = [line for line in server.log.splitlines() if "ERROR" in line]
    assert line.endswith(f"Too many open files (the limit is {FEW_DESCRIPTORS})")
    assert "Traceback" not in server.log


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow this process as many connections as the test wants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MANY_CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.usefixtures("many_descriptors")
def test_ten_thousand_idle_connections(serve: Serve, loop: str) -> None:
    """They cost no time: others are served, and the server stops as usual."""
    server = serve(APPLICATION, "--loop", loop, "--timeout-request-header", "50")
    with ExitStack() as connections:
        for number in range(MANY_CONNECTIONS):
            sock = connections.enter_context(connect(server.url))
            if number % 2:
                sock.sendall(b"GET / HTTP/1.1\r\n")
        before = processor_seconds(server)
        for _ in range(20):
            assert_serves(server)
        assert processor_seconds(server) - before < 2

        assert 0 == server.stop()


def test_clients_that_do_not_behave(serve: Serve, large_file: Path) -> None:
    """Whoever is silent, slow or deaf is cut in time; others don't notice."""
    server = serve(
        *(APPLICATION, "--timeout-request-header", "1"),
        *("--timeout-request-body", "1"),
        *("--timeout-send", "1", "--timeout-keep-alive", "1"),
        environment={"FILE": str(large_file)},
    )
    post = b"POST /upload HTTP/1.1\r\nhost: server\r\ncontent-length: 9\r\n\r\n"
    with ExitStack() as connections:

        def client(first: bytes) -> socket.socket:
            sock = connections.enter_context(connect(server.url))
            sock.sendall(first)
            return sock

        silent = client(b"")
        stuck_in_head = client(b"GET / HTTP/1.1\r\nhost:")
        trickling = client(b"GET /")
        stuck_in_body = client(post + b"four")
        idle = client(REQUEST.replace(b"close", b"keep-alive"))
        deaf = client(REQUEST.replace(b"/hello", b"/pour"))
        deaf_for_a_file = client(REQUEST.replace(b"/hello", FILE_REQUEST))
        sent = 0
        try:
            while sent < 50:
                trickling.sendall(b"x")
                sent += 1
                assert_serves(server)
                time.sleep(0.1)
        except OSError:
            pass

        assert sent < 50
        assert b"" == read_to_end(silent)
        assert read_to_end(stuck_in_head).startswith(b"HTTP/1.1 408 ")
        assert read_to_end(stuck_in_body).startswith(b"HTTP/1.1 408 ")
        assert read_to_end(idle).endswith(b"\r\n\r\nhello")
        for sock in (deaf, deaf_for_a_file):
            with pytest.raises(ConnectionResetError):
                read_to_end(sock)
    assert_serves(server)
    assert "poured" not in server.log
    assert "Traceback" not in server.log
    assert 0 == server.stop()


@pytest.mark.parametrize("loop", LOOPS)
def test_files(serve: Serve, large_file: Path, loop: str) -> None:
    """
    Files go out whole, several on one connection. A file that has become shorter
    breaks the response off, so that the client sees it, and nothing else.
    """
    server = serve(APPLICATION, "--loop", loop, environment={"FILE": str(large_file)})
    request = REQUEST.replace(b"/hello", FILE_REQUEST)
    with connect(server.url) as sock:
        sock.sendall(request.replace(b"close", b"keep-alive") + request)
        answers = split_answers(read_to_end(sock))
    assert [FILE_BYTES, FILE_BYTES] == [len(item.body) for item in answers]

    with connect(server.url) as sock:
        sock.sendall(request)
        received = len(sock.recv(100))
        large_file.write_bytes(b"short")
        with suppress(ConnectionResetError):
            received += len(read_to_end(sock))
    assert received < FILE_BYTES
    server.wait_for_log("EOFError: the file ended early")
    assert_serves(server)
    assert 0 == server.stop()


@pytest.mark.parametrize("loop", LOOPS)
def test_garbage(serve: Serve, loop: str) -> None:
    """Bytes that are no HTTP get an error or nothing, and leave no trace."""
    server = serve(APPLICATION, "--loop", loop)
    choose = random.Random(7)
    starts = (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n")
    for number in range(100):
        with connect(server.url) as sock:
            start = starts[number % len(starts)]
            sock.sendall(start + choose.randbytes(choose.randrange(1, 40_000)))
            sock.shutdown(socket.SHUT_WR)
            try:
                received = read_to_end(sock)
            except ConnectionResetError:
                continue
            if received[3:9] == b"\4\0\0\0\0\0":  # SETTINGS, so it is HTTP/2
                goaway = b"\7\0\0\0\0\0" + b"\0\0\0\0"  # the last stream is 0
                assert goaway + b"\0\0\0\1" in received, "PROTOCOL_ERROR"
                continue
            assert received[:10] in (b"", b"HTTP/1.1 4", b"HTTP/1.1 5")
    assert_serves(server)
    assert "Traceback" not in server.log
    assert 0 == server.stop()


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_vanish(serve: Serve, large_file: Path, loop: str) -> None:
    """Connections that are reset at any point leave nothing behind."""
    server = serve(
        *(APPLICATION, "--loop", loop, "--no-access-log"),
        *("--application-close-timeout", "0"),
        environment={"FILE": str(large_file)},
    )
    requests = (
        b"",
        b"GET / HT",
        REQUEST,
        REQUEST.replace(b"/hello", b"/flood"),
        REQUEST.replace(b"/hello", FILE_REQUEST),
        REQUEST.replace(b"/hello", b"/slow"),
        b"POST /upload HTTP/1.1\r\nhost: server\r\ncontent-length: 9\r\n\r\nfour",
    )
    before = descriptor_count(server)
    for number in range(120):
        with connect(server.url) as sock:
            reset = b"\1\0\0\0\0\0\0\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            sock.sendall(requests[number % len(requests)])
    for _ in range(100):
        assert_serves(server)
        if descriptor_count(server) <= before:
            break
        time.sleep(0.05)
    assert descriptor_count(server) <= before
    assert "Traceback" not in server.log
    assert 0 == server.stop()
