"""Real Gunicorn with our worker class: what it was told holds, and signals do."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Authority
from clients import client, get
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Gunicorn needs what Unix has"
)

APPLICATION = "applications.lifecycle:application"

Gunicorn = Callable[..., ServerProcess]


@pytest.fixture
def launch_gunicorn(launch: Serve, tmp_path: Path) -> Gunicorn:
    """Start Gunicorn without waiting for anything."""

    def start(*options: str, bind: str = "127.0.0.1:0", **keywords: Any) -> Any:
        # It keeps a socket there.
        environment = {"HOME": str(tmp_path), **keywords.pop("environment", {})}
        return launch(
            *("-k", "daphne_like.gunicorn.Worker", "-b", bind),
            *(() if "--chdir" in options else (APPLICATION,)),
            *options,
            program=("-m", "gunicorn"),
            environment=environment,
            **keywords,
        )

    return start


@pytest.fixture
def gunicorn(launch_gunicorn: Gunicorn) -> Gunicorn:
    """Start Gunicorn and wait until a worker listens."""

    def start(*options: str, **keywords: Any) -> ServerProcess:
        server = launch_gunicorn(*options, **keywords)
        server.wait_for_log("Listening on ")
        return server

    return start


def worker_ids(server: ServerProcess) -> list[int]:
    """Return the ids of all workers that have begun to listen."""
    return [int(n) for n in re.findall(r"\[(\d+)\] \[INFO\] Listening on", server.log)]


def wait_for_worker(server: ServerProcess, number: int) -> int:
    """Wait until a worker listens; return its id."""
    server.wait_for_log(rf"(?s)(\] Listening on.*){{{number}}}")
    return worker_ids(server)[number - 1]


def begin_upload(server: ServerProcess) -> socket.socket:
    """Send a request without the end of its body; it is in the application."""
    sock = connect(server.url)
    sock.sendall(
        b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n"
        b"connection: close\r\n\r\n12345"
    )
    server.wait_for_log("http.request after 5 bytes")
    return sock


def end_upload(sock: socket.socket) -> bytes:
    """Send the rest; return the body of the response."""
    with sock:
        sock.sendall(b"67890")
        [answer] = split_answers(read_to_end(sock))
        assert 200 == answer.status
        return answer.body


# -- What is served ---------------------------------------------------------------


def test_requests_reach_the_application_and_the_access_log(gunicorn: Gunicorn) -> None:
    """One word in the configuration, and all that stood there goes on as before."""
    server = gunicorn("--access-logfile", "-")
    answer = get(
        f"{server.url}/scope?a=1",
        headers={
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-proto": "https",
            "user-agent": "test",
        },
    )

    assert "daphne-like" == answer.headers["server"]
    assert ["192.0.2.7", 0] == answer.json()["client"]
    assert "https" == answer.json()["scheme"]
    server.wait_for_log(
        r'192\.0\.2\.7 - - \[[^]]+\] "GET /scope\?a=1 HTTP/1\.1" 200 \d+ "-" "test"\n'
    )
    assert 0 == server.stop()


def test_a_proxy_that_is_not_trusted_is_not_believed(gunicorn: Gunicorn) -> None:
    """Gunicorn's list of trusted addresses decides."""
    server = gunicorn("--forwarded-allow-ips", "192.0.2.1,192.0.2.2")
    answer = get(f"{server.url}/scope", headers={"x-forwarded-for": "192.0.2.7"})

    assert "127.0.0.1" == answer.json()["client"][0]


def test_unix_sockets(gunicorn: Gunicorn, socket_folder: Path) -> None:
    """A proxy on a Unix socket is believed, as Gunicorn does; the file is removed."""
    path = socket_folder / "gunicorn.sock"
    server = gunicorn(bind=f"unix:{path}")
    with client(f"unix:{path}") as http:
        shown = http.get("/scope", headers={"x-forwarded-for": "192.0.2.7"}).json()

    assert ["192.0.2.7", 0] == shown["client"]
    assert 0 == server.stop()
    assert not path.exists()


def test_certificates(gunicorn: Gunicorn, tmp_path: Path) -> None:
    """Gunicorn's certificate, and clients must show one which its authority made."""
    authority = Authority()
    issued = authority.issue("localhost")
    own, trusted = tmp_path / "own.pem", tmp_path / "trusted.pem"
    issued.write(own)
    trusted.write_text(authority.pem, "utf-8")
    server = gunicorn(
        *("--certfile", str(own), "--keyfile", str(own)),
        *("--ca-certs", str(trusted), "--cert-reqs", "2"),
    )
    url = f"https://localhost:{server.port}/scope"

    context = ssl.create_default_context(cafile=str(trusted))
    with httpx.Client(verify=context) as http, pytest.raises(httpx.TransportError):
        http.get(url)
    context.load_cert_chain(own)
    with httpx.Client(verify=context) as http:
        assert "https" == http.get(url).json()["scheme"]


def test_idle_connections_end_when_gunicorn_says_so(gunicorn: Gunicorn) -> None:
    """--keep-alive is how long a client may wait with its next request."""
    server = gunicorn("--keep-alive", "1")
    with connect(server.url) as sock:
        sock.sendall(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        read_until(sock, b"hello")

        assert b"" == sock.recv(1)


def test_the_access_log_is_opened_anew(gunicorn: Gunicorn, tmp_path: Path) -> None:
    """After a rotation and SIGUSR1 to Gunicorn, lines go to the new file."""
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    server = gunicorn("--access-logfile", str(log), "--access-logformat", "%(U)s")
    get(f"{server.url}/hello")
    log.rename(rotated)
    server.signal(signal.SIGUSR1)
    while not log.exists() or not log.read_text("utf-8"):
        get(f"{server.url}/scope")

    assert rotated.read_text("utf-8").startswith("/hello\n")
    assert {"/scope"} == set(log.read_text("utf-8").split())


def test_an_application_may_be_loaded_before_the_fork(
    gunicorn: Gunicorn, site: Path
) -> None:
    """With --preload workers share the memory of what was imported."""
    (site / "site_of_test.py").write_text(f"print('loaded')\n{_PAGE}", "utf-8")
    server = gunicorn(
        *("--preload", "-w", "2"),
        *("--chdir", str(site), "site_of_test:application"),
    )
    wait_for_worker(server, 2)

    assert "TEXT" == get(f"{server.url}/").text
    assert 0 == server.stop()
    assert 1 == server.log.count("loaded")


# -- How workers end --------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reload_loses_no_request(gunicorn: Gunicorn, loop: str) -> None:
    """After SIGHUP the old worker ends its requests, and a new one serves."""
    server = gunicorn(environment={"DAPHNE_LIKE_LOOP": loop})
    first = wait_for_worker(server, 1)
    upload = begin_upload(server)
    with connect_websocket(server.url.replace("http", "ws") + "/") as websocket:
        websocket.send("hello")
        assert "HELLO" == websocket.recv()
        server.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv()
        assert closed.value.rcvd is not None
        assert 1001 == closed.value.rcvd.code
    second = wait_for_worker(server, 2)

    assert "hello" == get(f"{server.url}/hello").text
    os.kill(first, 0)  # it is still there
    assert b"10 bytes" == end_upload(upload)
    server.wait_for_log(f"Worker exiting \\(pid: {first}\\)")
    assert second != first
    assert 0 == server.stop()
    assert 2 == server.log.count("application: stopped")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stop_lets_requests_end(gunicorn: Gunicorn, loop: str) -> None:
    """SIGTERM to Gunicorn waits for what is in flight, then ends the lifespan."""
    server = gunicorn(environment={"DAPHNE_LIKE_LOOP": loop})
    upload = begin_upload(server)
    server.signal(signal.SIGTERM)
    server.wait_for_log("Waiting for 1 connections")

    assert b"10 bytes" == end_upload(upload)
    assert 0 == server.wait()
    assert "application: stopped" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_waits_for_nothing(gunicorn: Gunicorn, number: int) -> None:
    """SIGINT or SIGQUIT cuts what is in flight, and still ends the lifespan."""
    server = gunicorn()
    with connect(server.url) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        read_until(sock, b"begun")
        server.signal(number)
        # The end of a response which isn't whole.
        assert not read_to_end(sock).endswith(b"0\r\n\r\n")

    assert 0 == server.wait()
    assert "application: stopped" in server.log


def test_what_hangs_is_cancelled_before_gunicorn_kills(gunicorn: Gunicorn) -> None:
    """Shortly before the graceful timeout the application gets to clean up."""
    server = gunicorn("--graceful-timeout", "2")
    with connect(server.url) as sock:
        sock.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        server.wait_for_log("application: waiting")
        server.signal(signal.SIGTERM)
        read_to_end(sock)

    assert 0 == server.wait()
    assert "application: stopped" in server.log
    assert "SIGKILL" not in server.log


def test_a_worker_ends_after_its_requests(gunicorn: Gunicorn) -> None:
    """--max-requests replaces a worker, and no request is lost meanwhile."""
    server = gunicorn("--max-requests", "3")
    # One that leaves still answers what has come to it.
    for _ in range(100):
        assert "hello" == get(f"{server.url}/hello").text
        if len(worker_ids(server)) == 3:
            break

    wait_for_worker(server, 3)
    assert 3 <= len(set(worker_ids(server)))
    assert "Requests served: 3, a new worker takes over" in server.log
    assert 0 == server.stop()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_that_blocks_is_replaced(gunicorn: Gunicorn, loop: str) -> None:
    """After --timeout the log says where the event loop was blocked."""
    server = gunicorn("--timeout", "1", environment={"DAPHNE_LIKE_LOOP": loop})
    with connect(server.url) as sock:
        sock.sendall(b"GET /block HTTP/1.1\r\nhost: x\r\n\r\n")
        server.wait_for_log(r"(?s)loop was blocked here:.*lifecycle\.py.*in block")
        wait_for_worker(server, 2)

    assert "hello" == get(f"{server.url}/hello").text
    assert "WORKER TIMEOUT" in server.log


def test_workers_notice_that_gunicorn_is_gone(gunicorn: Gunicorn) -> None:
    """When Gunicorn is killed its workers end, as orphans would keep the port."""
    server = gunicorn()
    server.process.kill()
    # For the end of its output, too, which the worker has as well.
    server.wait()

    assert "Gunicorn is gone: stopping" in server.log
    assert "application: stopped" in server.log
    assert f"Worker exiting (pid: {worker_ids(server)[0]})" in server.log


# -- What goes wrong at the start ---------------------------------------------------


def test_an_application_that_refuses_to_start_ends_gunicorn(
    launch_gunicorn: Gunicorn,
) -> None:
    """A worker that can't serve isn't started again and again."""
    server = launch_gunicorn(environment={"LIFESPAN": "fail"})

    assert 3 == server.wait()
    assert "Application startup failed: no database" in server.log
    assert "Worker failed to boot" in server.log


@pytest.mark.parametrize(
    ("options", "environment", "error"),
    [
        (
            ["--access-logfile", "-", "--access-logformat", "%(nothing)s"],
            {},
            "unknown atom '%(nothing)s'",
        ),
        (["--certfile", "conftest.py"], {}, "conftest.py"),
        ([], {"DAPHNE_LIKE_METRICS": "9100"}, "can't share an address"),
        ([], {"DAPHNE_LIKE_PONG": "1"}, "DAPHNE_LIKE_PONG"),
    ],
)
def test_a_wrong_setting_ends_gunicorn_with_a_line(
    launch_gunicorn: Gunicorn,
    options: list[str],
    environment: dict[str, str],
    error: str,
) -> None:
    """What can't be served by is one line, not a traceback or a circle of restarts."""
    server = launch_gunicorn(*options, environment=environment)

    assert server.wait() != 0
    assert error in server.log
    assert "Traceback" not in server.log


def test_what_has_no_effect_is_said(gunicorn: Gunicorn) -> None:
    """A setting for Gunicorn's own HTTP is not dropped in silence."""
    server = gunicorn("--threads", "4")

    assert "threads has no effect with the worker daphne_like" in server.log


# -- Development --------------------------------------------------------------------

_PAGE = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"TEXT"})
"""


def save(module: Path, source: str, server: ServerProcess, shown: str) -> None:
    """Write a module, and ask until the response shows it, whatever lies between."""
    deadline = time.monotonic() + 30
    while (now := time.monotonic()) < deadline:
        module.write_text(source, "utf-8")
        # Gunicorn may not have seen the file before this change; then once more.
        while time.monotonic() < now + 5:
            with suppress(httpx.TransportError):
                if shown in get(f"{server.url}/").text:
                    return
            time.sleep(0.05)
    pytest.fail(f"no {shown!r} in {server.log}")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Make a module with an application, in a folder of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "site_of_test.py").write_text(_PAGE, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("mistake", "shown"),
    [
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "has ended the program: exit status 3"),
    ],
)
def test_reload_shows_an_error_and_recovers(
    gunicorn: Gunicorn, site: Path, mistake: str, shown: str
) -> None:
    """Gunicorn's --reload: a mistake is a page, and the next save mends it."""
    module = site / "site_of_test.py"
    server = gunicorn(
        *("--reload", "--reload-engine", "poll"),
        *("--chdir", str(site), "site_of_test:application"),
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "TEXT" == get(f"{server.url}/").text

    save(module, f"{mistake}\n{_PAGE}", server, shown)
    save(module, _PAGE.replace("TEXT", "better"), server, "better")
