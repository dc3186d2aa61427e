"""The life of a server process: how it starts, and all the ways in which it stops."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess

APPLICATION = "applications.lifecycle:application"

EMBEDDING = {"program": ("-m", "applications.embedding")}

# Log lines of the server and of the application in their order, none of them late.
LOG = ("--access-log", "logger")


def request(path: str, *fields: str, method: str = "GET") -> bytes:
    """Write a request head."""
    lines = [f"{method} {path} HTTP/1.1", "host: server", *fields, "", ""]
    return "\r\n".join(lines).encode()


class Clients:
    """Connections that a test opens, which end with it at the latest."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing

    def connect(self, server: ServerProcess) -> socket.socket:
        """Open a connection."""
        return self._closing.enter_context(connect(server.url))

    def ask(self, server: ServerProcess, path: str, *fields: str) -> socket.socket:
        """Open a connection and send a request."""
        sock = self.connect(server)
        sock.sendall(request(path, *fields))
        return sock

    def get(self, server: ServerProcess, path: str) -> bytes:
        """Return the body of a response."""
        sock = self.ask(server, path, "connection: close")
        [answer] = split_answers(read_to_end(sock))
        assert 200 == answer.status
        return answer.body


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Connect to servers."""
    with ExitStack() as closing:
        yield Clients(closing)


def assert_in_order(log: str, *patterns: str) -> None:
    """Each pattern is found, behind the one before."""
    start = 0
    for pattern in patterns:
        found = re.compile(pattern).search(log, start)
        assert found, f"no {pattern!r} in:\n{log[start:]}"
        start = found.end()


# -- Starting ------------------------------------------------------------------


def test_an_application_that_refuses_to_start_ends_the_process(launch: Serve) -> None:
    """The application's message is one line in the log, and the status is 3."""
    server = launch(APPLICATION, "-p", "0", environment={"LIFESPAN": "fail"})

    assert 3 == server.wait()
    assert_in_order(
        server.log,
        "application: starting",
        r"CRITICAL Application startup failed: no database\n$",
    )
    assert "Traceback" not in server.log


def test_an_application_that_takes_too_long_to_start_ends_the_process(
    launch: Serve, socket_folder: Path
) -> None:
    """A hanging start is no silent wait; the socket file doesn't stay behind."""
    path = socket_folder / "slow-start.sock"
    server = launch(
        *(APPLICATION, "-u", str(path), "--timeout-startup", "0.1"),
        environment={"LIFESPAN": "hang"},
    )

    assert 3 == server.wait()
    assert re.search(r"CRITICAL .* within 0.1 seconds.*\n$", server.log)
    assert not path.exists()


def test_an_import_error_is_the_users_traceback(launch: Serve, tmp_path: Path) -> None:
    """What is wrong in the user's code is shown without our frames; status 1."""
    (tmp_path / "broken.py").write_text("import no_such_module\n", "utf-8")
    server = launch("broken:app", "-p", "0", "--app-dir", str(tmp_path))

    assert 1 == server.wait()
    assert 'broken.py", line 1' in server.log
    assert "ModuleNotFoundError: No module named 'no_such_module'" in server.log
    assert "daphne_like/" not in server.log


def test_an_application_may_exit_while_it_is_imported(
    launch: Serve, tmp_path: Path
) -> None:
    """An application that has said why it can't run decides on the exit status."""
    (tmp_path / "leaving.py").write_text("raise SystemExit(42)\n", "utf-8")
    server = launch("leaving:app", "-p", "0", "--app-dir", str(tmp_path))

    assert 42 == server.wait()
    assert "" == server.log


def test_ctrl_c_during_the_import_leaves_no_traceback(
    launch: Serve, tmp_path: Path
) -> None:
    """A user who changes his mind early gets the prompt back, status 130."""
    # In steps: Python 3.14 may sleep through a signal that comes just before.
    lines = "import time; print('importing', flush=True)\nwhile True: time.sleep(0.1)\n"
    (tmp_path / "slow_import.py").write_text(lines, "utf-8")
    server = launch("slow_import:app", "-p", "0", "--app-dir", str(tmp_path))
    server.wait_for_log("importing")

    server.signal(signal.SIGINT)

    assert 130 == server.wait()
    assert "importing\n" == server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_during_startup_ends_the_start(
    launch: Serve, socket_folder: Path, loop: str
) -> None:
    """The application's startup is cancelled, nothing is left behind, status 0."""
    path = socket_folder / "start.sock"
    server = launch(
        *(APPLICATION, "-u", str(path), "--loop", loop),
        environment={"LIFESPAN": "hang"},
    )
    server.wait_for_log("application: starting")
    assert path.exists()

    server.signal(signal.SIGTERM)

    assert 0 == server.wait()
    assert_in_order(server.log, "SIGTERM: stopping", "application: start cancelled\n$")
    assert not path.exists()


def test_verbosity_3_shows_misuse_of_the_event_loop(
    serve: Serve, clients: Clients
) -> None:
    """The debug mode of asyncio is on then, and off otherwise."""
    for verbosity, mode in (("3", "True"), ("1", "False")):
        server = serve(APPLICATION, "-v", verbosity)
        assert f"debug={mode} " in clients.get(server, "/settings").decode()


def test_the_thread_pool_has_the_size_which_the_environment_says(
    serve: Serve, launch: Serve, clients: Clients
) -> None:
    """`ASGI_THREADS` is Daphne's; a value that is no number is an error, status 2."""
    server = serve(APPLICATION, environment={"ASGI_THREADS": "2"})
    assert b"threads=2" in clients.get(server, "/settings")

    server = launch(APPLICATION, "-p", "0", environment={"ASGI_THREADS": "many"})
    assert 2 == server.wait()
    assert "ASGI_THREADS must be a number above 0, not 'many'" in server.log


def test_trusting_everybody_is_told_at_the_start(serve: Serve) -> None:
    """`*` in the trust list lets each client choose its address: one warning."""
    options = ("--proxy-headers", "--forwarded-allow-ips", "*")
    server = serve(APPLICATION, *options)

    [line] = re.findall(r".*WARNING.*", server.log)
    assert "forwarded_allow_ips" in line


# -- Stopping ------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_completed(
    serve: Serve, loop: str, number: signal.Signals, clients: Clients
) -> None:
    """
    After a signal, responses and uploads end as if nothing had happened. Idle
    connections are closed at once, new ones refused, and the application's
    lifespan ends when the last connection is closed.
    """
    server = serve(APPLICATION, "--loop", loop, *LOG)
    idle = clients.ask(server, "/hello")
    read_until(idle, b"hello")
    half_a_head = clients.connect(server)
    half_a_head.sendall(b"GET / HT")
    uploading = clients.connect(server)
    uploading.sendall(request("/upload", "content-length: 10", method="POST"))
    uploading.sendall(b"01234")
    server.wait_for_log("http.request after 5 bytes")
    answering = clients.connect(server)
    answering.sendall(request("/echo", "content-length: 4", method="POST") + b"ab")
    started = read_until(answering, b"\r\nab\r\n")

    server.signal(number)
    server.wait_for_log(f"{number.name}: stopping")

    assert b"" == idle.recv(1)
    assert b"" == half_a_head.recv(1)
    with pytest.raises(ConnectionRefusedError):
        clients.connect(server)
    uploading.sendall(b"56789")
    [answer] = split_answers(read_to_end(uploading))
    assert (200, b"10 bytes") == (answer.status, answer.body)
    assert "close" == answer.headers["connection"]
    assert "application: stopping" not in server.log
    answering.sendall(b"cd")
    received = started + read_to_end(answering)
    assert received.endswith(b"\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
    assert 0 == server.wait()
    assert_in_order(
        server.log,
        "stopping",
        "POST /upload",
        "POST /echo",
        "application: stopping",
        r"application: stopped\n$",
    )
    assert "ERROR" not in server.log
    assert "WARNING" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_cuts_what_is_in_flight(
    serve: Serve, loop: str, clients: Clients
) -> None:
    """Each request that is cancelled has one line with its path and age; status 0."""
    server = serve(APPLICATION, "--loop", loop, *LOG)
    waiting = clients.ask(server, "/slow")
    server.wait_for_log("application: waiting")
    streaming = clients.ask(server, "/stream")
    read_until(streaming, b"begun")

    server.signal(signal.SIGINT)
    server.wait_for_log("SIGINT: stopping")
    server.signal(signal.SIGINT)

    [answer] = split_answers(read_to_end(waiting))
    assert (503, "close") == (answer.status, answer.headers["connection"])
    assert not read_to_end(streaming).endswith(b"0\r\n\r\n")
    assert 0 == server.wait()
    lines = re.findall(r"WARNING +Cancelling the application: (.*)", server.log)
    assert ["GET /slow", "GET /stream"] == sorted(line.split(",")[0] for line in lines)
    assert all(re.search(r", \d+\.\d s old$", line) for line in lines)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("seconds", ["0", "0.2"])
def test_a_graceful_stop_has_its_time(
    serve: Serve, seconds: str, clients: Clients
) -> None:
    """When `--timeout-graceful-shutdown` is over, the rest is cut; 0 cuts at once."""
    server = serve(APPLICATION, "--timeout-graceful-shutdown", seconds)
    waiting = clients.ask(server, "/slow")
    server.wait_for_log("application: waiting")

    begun = time.monotonic()
    server.signal(signal.SIGTERM)

    assert b"HTTP/1.1 503 " in read_to_end(waiting)
    assert 0 == server.wait()
    assert float(seconds) <= time.monotonic() - begun < 10
    assert "Cancelling the application: GET /slow" in server.log


def test_a_client_that_does_not_read_is_cut_too(serve: Serve, clients: Clients) -> None:
    """A response that nobody takes keeps the server for the graceful time only."""
    server = serve(APPLICATION, "--timeout-graceful-shutdown", "0.2", *LOG)
    deaf = clients.connect(server)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(request("/flood"))
    server.wait_for_log("GET /flood")

    server.signal(signal.SIGTERM)

    assert 0 == server.wait()
    assert_in_order(
        server.log, "Connections that are cut: 1", r"application: stopped\n$"
    )


def test_an_application_that_swallows_its_cancellation_is_left_behind(
    serve: Serve, clients: Clients
) -> None:
    """It doesn't keep the process from ending; the log names it."""
    server = serve(APPLICATION, "--timeout-graceful-shutdown", "0")
    clients.ask(server, "/stubborn")
    server.wait_for_log("application: waiting")

    server.signal(signal.SIGTERM)

    assert 0 == server.wait()
    assert_in_order(
        server.log,
        "WARNING  Cancelling the application: GET /stubborn",
        "application: cancelled",
        "ERROR .*although it was cancelled: GET /stubborn",
        "application: stopped",
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_a_third_signal_ends_an_application_that_blocks(
    serve: Serve, loop: str, clients: Clients
) -> None:
    """When the event loop can't be reached any more, the process can be left."""
    server = serve(APPLICATION, "--loop", loop)
    clients.ask(server, "/block")
    server.wait_for_log("application: blocking")

    for _ in range(3):
        server.signal(signal.SIGINT)
        # Signals of one number that come at the same time are one signal.
        time.sleep(0.1)

    assert 1 == server.wait()
    assert re.search(r"third signal, leaving at once\n$", server.log)


def test_a_thread_that_does_not_end_does_not_keep_the_process(
    serve: Serve, clients: Clients
) -> None:
    """A view that blocks in a thread is left behind, with a line that names it."""
    server = serve(APPLICATION, "--timeout-graceful-shutdown", "0")
    clients.ask(server, "/thread")
    server.wait_for_log("application: blocking a thread")

    server.signal(signal.SIGTERM)

    assert 0 == server.wait()
    assert_in_order(server.log, "GET /thread", "stopped", r"threads don.t end: \w+_0")


def test_an_application_may_stop_the_reactor(serve: Serve, clients: Clients) -> None:
    """That is a graceful stop like that of a signal."""
    server = serve(APPLICATION, *LOG)

    assert b"stopping" == clients.get(server, "/stop-reactor")
    assert 0 == server.wait()
    assert re.search(r"application: stopped\n$", server.log)


def test_tasks_of_the_application_are_cancelled_in_the_end(
    serve: Serve, clients: Clients
) -> None:
    """A task that the application left behind can clean up."""
    server = serve(APPLICATION, *LOG)
    assert b"started" == clients.get(server, "/background")

    assert 0 == server.stop()
    assert_in_order(server.log, "stopped", r"application: background task cancelled\n$")


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_left_open(
    serve: Serve, socket_folder: Path, loop: str, clients: Clients
) -> None:
    """Python's development mode finds no unclosed socket, loop or task at the end."""
    path = socket_folder / f"{loop}.sock"
    server = serve(
        *(APPLICATION, "-u", str(path), "-p", "0", "--loop", loop, *LOG),
        program=("-X", "dev", "-W", "always::ResourceWarning", "-m", "daphne_like"),
    )
    assert b"hello" == clients.get(server, "/hello")

    assert 0 == server.stop()
    assert "Warning" not in server.log
    assert re.search(r"application: stopped\n$", server.log)


# -- Twisted -------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_processes_can_be_started(serve: Serve, loop: str, clients: Clients) -> None:
    """An application may use `reactor.spawnProcess` and asyncio's subprocesses."""
    server = serve(APPLICATION, "--loop", loop)

    for _ in range(2):  # asyncio's way must not break Twisted's
        assert b"7 7" == clients.get(server, "/process")


@pytest.mark.parametrize("loop", LOOPS)
def test_threads_of_the_reactor_can_be_used(
    serve: Serve, loop: str, clients: Clients
) -> None:
    """An application may use `deferToThread`; the pool is stopped in the end."""
    server = serve(APPLICATION, "--loop", loop)

    assert b"PoolThread" in clients.get(server, "/defer")
    assert 0 == server.stop()


# -- The Python interface --------------------------------------------------------


def test_a_server_can_run_in_a_thread(launch: Serve) -> None:
    """Without signal handlers it need not be the main thread, as in test suites."""
    server = launch("in_a_thread", **EMBEDDING)

    assert 0 == server.wait(), server.log
    assert_in_order(
        server.log,
        "application: hello",
        "application: stopped",
        "application: the thread has ended",
    )


def test_a_server_is_a_twisted_service(launch: Serve) -> None:
    """It starts and stops with the other services of a program."""
    server = launch("as_a_service", **EMBEDDING)

    assert 0 == server.wait(), server.log
    assert_in_order(
        server.log,
        "other service started",
        "application: starting",
        "application: hello",
        "application: stopped",
        "running: 0, failure: None",
    )


def test_a_service_on_another_reactor_is_an_error(launch: Serve) -> None:
    """The message names the reactor that is there and the one that is needed."""
    server = launch("on_another_reactor", **EMBEDDING)

    assert 1 == server.wait()
    assert "the reactor SelectReactor is installed already" in server.log


def test_a_server_that_cannot_start_exits(launch: Serve) -> None:
    """`Server.run()` ends with the status and the line of the command."""
    server = launch("with_a_server_in_vain", **EMBEDDING)

    assert 1 == server.wait()
    [line] = re.findall(r".*CRITICAL.*", server.log)
    assert "Address already in use" in line


def test_signal_handlers_are_given_back(serve: Serve) -> None:
    """What handled signals before `Server.run()` handles them afterwards."""
    server = serve("with_its_own_handlers", **EMBEDDING)

    assert 0 == server.stop()
    assert "application: restored: True" in server.log
