"""Operating a real server: health checks, the control socket, `daphne-like ctl`."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificates import Authority
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import APPLICATIONS, LOOPS, Serve, ServerProcess

APPLICATION = "applications.lifecycle:application"

Ctl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def path(socket_folder: Path, request: pytest.FixtureRequest) -> Path:
    """Choose a path for the control socket."""
    return socket_folder / str(abs(hash(request.node.name)) % 1_000_000)


@pytest.fixture
def ctl(path: Path) -> Ctl:
    """Run `daphne-like ctl` as a user does."""

    def ctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daphne_like", "ctl", *arguments],
            env={**os.environ, "DAPHNE_LIKE_CONTROL_SOCKET": str(path)},
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )

    return ctl


def get(url: str, target: str) -> tuple[int, bytes]:
    """Make a request of its own connection."""
    with connect(url) as sock:
        sock.sendall(
            f"GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode()
        )
        [answer] = split_answers(read_to_end(sock))
        return answer.status, answer.body


def operations_url(server: ServerProcess) -> str:
    """Find the address for health checks."""
    line = server.wait_for_log(r"Operations: http://\S+")
    return line.removeprefix("Operations: ")


def health(url: str) -> list[int]:
    """Ask whether it lives, is ready, drains."""
    return [get(url, f"/health/{name}")[0] for name in ("live", "ready", "draining")]


def test_health_from_start_to_end(launch: Serve, path: Path, ctl: Ctl) -> None:
    """
    A balancer sees it starting, ready and draining; `ctl drain --wait` ends it
    when the last request has been answered.
    """
    server = launch(
        *(APPLICATION, "-p", "0", "--metrics", "0", "--control-socket", str(path)),
        *("--application-close-timeout", "0"),
        environment={"LIFESPAN": "wait"},
        stdin=subprocess.PIPE,
    )
    url = operations_url(server)
    assert [200, 503, 503] == health(url)
    assert "phase        starting\n" in ctl("status").stdout
    server.close_stdin()
    server.wait_for_log("Listening on")
    wait_until(lambda: health(url) == [200, 200, 503])
    with connect(server.url) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        read_until(sock, b"\r\n\r\n")
        assert "draining\n" == ctl("drain").stdout
        server.wait_for_log("Asked to drain: stopping")
        wait_until(lambda: health(url) == [200, 503, 200])
        waiting = ctl("drain", "--wait", "0")
        assert (1, "daphne-like ctl: the server has not ended yet\n") == (
            waiting.returncode,
            waiting.stderr,
        )
    done = ctl("drain", "--wait")
    # It may have ended before it could be told again.
    assert done.returncode in (0, 3)
    assert 0 == server.wait()
    assert not path.exists()
    assert 3 == ctl("status").returncode


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for an event of which nobody tells."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_connections_of_all_kinds(
    serve: Serve, path: Path, ctl: Ctl, tmp_path: Path
) -> None:
    """The table has those of our transports, of Twisted's, and of TLS."""
    pem = Authority().issue("localhost").write(tmp_path / "server.pem")
    server = serve(
        *(APPLICATION, "-p", "0", "--ssl-certfile", str(pem)),
        *("--control-socket", str(path)),
        *("-e", "tcp:0:interface=127.0.0.1"),
        # Twisted's, since we have none that is called so.
        *("-e", "haproxy:tcp:0:interface=127.0.0.1"),
    )
    wait_until(lambda: len(server.urls) == 3)
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with ExitStack() as closing:
        # In the order of the strings, the first of which is that of haproxy.
        heads = [b"PROXY TCP4 192.0.2.1 192.0.2.2 7 8\r\n", b"", b""]
        for url, head in zip(server.urls, heads, strict=True):
            sock = closing.enter_context(connect(url))
            if url.startswith("https:"):
                sock = closing.enter_context(unverified.wrap_socket(sock))
            sock.sendall(head + b"GET /stream?secret HTTP/1.1\r\nhost: a\r\n\r\n")
            read_until(sock, b"\r\n\r\n")
        rows = json.loads(ctl("connections", "--json").stdout)
        assert 3 == len(rows)
        table = ctl("connections").stdout
    assert "secret" not in table
    assert "GET /stream" in table
    assert 1 == sum(row["tls"] for row in rows)
    assert "192.0.2.1:7" in {row["client"] for row in rows}


@pytest.mark.parametrize("loop", LOOPS)
def test_where_it_hangs(serve: Serve, path: Path, ctl: Ctl, loop: str) -> None:
    """`ctl tasks` shows the line of the application which waits."""
    server = serve(APPLICATION, "--control-socket", str(path), "--loop", loop)
    with connect(server.url) as sock:
        sock.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        server.wait_for_log("application: waiting")
        stacks = ctl("tasks").stdout
    assert "in slow" in stacks
    assert "await asyncio.sleep(3600)" in stacks


def test_what_one_process_refuses(serve: Serve, path: Path, ctl: Ctl) -> None:
    """There are no workers to scale, and nothing to reload without certificates."""
    serve(APPLICATION, "--control-socket", str(path))
    for order in (("scale", "2"), ("reload",)):
        done = ctl(*order)
        assert (1, 1) == (done.returncode, done.stderr.count("\n"))
        assert "--workers" in done.stderr


def test_certificates_are_reloaded(
    serve: Serve, path: Path, ctl: Ctl, tmp_path: Path
) -> None:
    """`ctl reload` reads certificates again, as SIGHUP does."""
    authority = Authority()
    pem = authority.issue("localhost").write(tmp_path / "server.pem")
    server = serve(
        *(APPLICATION, "--ssl-certfile", str(pem), "--ssl-reload-interval", "0"),
        *("--control-socket", str(path)),
    )
    authority.issue("localhost").write(pem)
    assert "reloading\n" == ctl("reload").stdout
    server.wait_for_log("[Cc]ertificate")


@pytest.mark.parametrize(
    "option",
    [["--metrics", "{port}"], ["--control-socket", "/nonexistent/socket"]],
    ids=["metrics", "control socket"],
)
def test_an_address_which_can_not_be_had(
    serve: Serve, launch: Serve, option: list[str]
) -> None:
    """The server ends before the application starts, with a line that tells why."""
    first = serve(APPLICATION)
    option = [text.format(port=first.port) for text in option]
    server = launch(APPLICATION, "-p", "0", *option)
    assert 1 == server.wait()
    assert 1 == len(re.findall("Listen failure", server.log))
    assert "application: starting" not in server.log


@pytest.fixture
def supervisor(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process which serves operators and forks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "applications.forking_operations", str(path)],
        cwd=APPLICATIONS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists descriptors")
def test_forks_disturb_nobody(supervisor: subprocess.Popen[str], path: Path) -> None:
    """
    A supervisor forks while operators are connected: the children have nothing of
    theirs, the parent goes on, and what it closes is closed.
    """
    assert supervisor.stdout is not None
    assert supervisor.stdin is not None

    def heard(pattern: str) -> str:
        assert supervisor.stdout is not None
        line = supervisor.stdout.readline()
        assert re.match(pattern, line), line
        return line

    urls = heard("listening ").split()[1:]
    request = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    with ExitStack() as closing:
        clients = [closing.enter_context(connect(url)) for url in urls]

        def everybody_is_answered() -> None:
            for sock in clients:
                sock.sendall(request)
                assert b" 200 " in read_until(sock, b"ready\n")
            for url in urls:
                assert (200, b"ready\n") == get(url, "/health/ready")

        everybody_is_answered()
        supervisor.send_signal(signal.SIGUSR1)
        heard(r"child 1 \[\]")
        heard("child ends")
        # Its end has neither removed the file nor shut a connection down.
        assert path.exists()
        everybody_is_answered()
        supervisor.send_signal(signal.SIGUSR1)
        heard(r"child 2 \[\]")
        everybody_is_answered()
        supervisor.send_signal(signal.SIGUSR2)
        heard("standing still")
        # Accepted, and not yet known to anybody when the fork comes.
        clients += [closing.enter_context(connect(url)) for url in urls]
        supervisor.send_signal(signal.SIGUSR1)
        heard(r"child 3 \[\]")
        everybody_is_answered()
        supervisor.send_signal(signal.SIGTERM)
        # Two children live, and keep no connection open.
        for sock in clients:
            assert b"" == read_to_end(sock)
        heard("ended False")
        assert not path.exists()
    supervisor.stdin.close()
    heard("child ends")
    heard("child ends")
