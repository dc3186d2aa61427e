"""Several processes which serve: real ones, and whatever may become of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from programs import curl
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess

APPLICATION = "applications.workers:application"

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="workers need a POSIX system"
)

PATIENCE = 30.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something holds; return it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found


def get(server: ServerProcess, path: str = "/pid") -> str:
    """Return the body of a response."""
    with connect(server.url) as sock:
        head = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        sock.sendall(head.encode())
        [answer] = split_answers(read_to_end(sock))
    assert 200 == answer.status
    return answer.body.decode()


def children(pid: int) -> set[int]:
    """Return the processes which a process has started and not waited for."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


def workers(server: ServerProcess) -> set[int]:
    """Return the process ids of a server's workers."""
    return children(server.process.pid)


def is_alive(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the file in which stands what goes wrong in the application."""
    path = tmp_path / "mischief"
    monkeypatch.setenv("MISCHIEF", str(path))
    return path


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """Close connections at the end."""
    with ExitStack() as closing:
        yield closing


def ask(closing: ExitStack, server: ServerProcess, path: str) -> socket.socket:
    """Send a request whose answer isn't waited for."""
    sock = closing.enter_context(connect(server.url))
    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    return sock


# -- Starting and stopping -----------------------------------------------------------


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_workers_serve_and_stop(serve: Serve, start: str, loop: str) -> None:
    """Each of them serves; SIGTERM ends all with status 0."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    server = serve(
        APPLICATION, "--workers", "2", "--worker-start", start, "--loop", loop
    )
    pids = workers(server)

    assert 2 == len(pids)
    assert "(2 workers)" in server.log
    until(lambda: {int(get(server)) for _ in range(10)} == pids, "an answer of each")
    assert 0 == server.stop()
    assert not any(map(is_alive, pids))
    assert "Traceback" not in server.log


def test_the_number_of_workers_from_the_platform(serve: Serve) -> None:
    """WEB_CONCURRENCY says how many there are, unless somebody says it here."""
    server = serve(APPLICATION, environment={"WEB_CONCURRENCY": "2"})

    assert 2 == len(workers(server))


def test_sockets_of_all_kinds_are_shared(serve: Serve, tmp_path: Path) -> None:
    """TCP and Unix sockets; the file of the latter goes when all is over."""
    path = tmp_path / "socket"
    server = serve(APPLICATION, "--workers", "2", "-p", "0", "-u", str(path))
    answer = curl("--unix-socket", str(path), "http://a/pid")
    first = int(answer.stdout)
    os.kill(first, signal.SIGKILL)
    until(lambda: not is_alive(first), "the death")

    assert path.exists()
    assert int(curl("--unix-socket", str(path), "http://a/pid").stdout) != first
    assert int(get(server)) in workers(server)
    assert 0 == server.stop()
    assert not path.exists()


def test_endpoints_which_cannot_be_shared(launch: Serve) -> None:
    """One clear line, and status 2."""
    server = launch(APPLICATION, "--workers", "2", "-e", "haproxy:tcp:0")

    assert 2 == server.wait()
    assert "workers can't share one of Twisted's" in server.log


def test_an_address_in_use(serve: Serve, launch: Serve) -> None:
    """It is found before any worker starts."""
    first = serve(APPLICATION, "--workers", "1")
    second = launch(APPLICATION, "--workers", "1", "-p", str(first.port))

    assert 1 == second.wait()
    assert "Address already in use" in second.log
    assert "Worker" not in second.log


def test_requests_in_flight_are_finished(serve: Serve, closing: ExitStack) -> None:
    """SIGTERM takes nothing new, and answers what came before."""
    server = serve(APPLICATION, "--workers", "2")
    sock = ask(closing, server, "/wait?1")
    server.wait_for_log("application: waiting")
    server.signal(signal.SIGTERM)
    [answer] = split_answers(read_to_end(sock))

    assert 200 == answer.status
    assert "close" == answer.headers["connection"]
    assert 0 == server.wait()


def test_systemd_may_signal_everybody(serve: Serve, closing: ExitStack) -> None:
    """Workers which get SIGTERM twice still answer what is in flight."""
    server = serve(APPLICATION, "--workers", "1")
    sock = ask(closing, server, "/wait?1")
    server.wait_for_log("application: waiting")
    [worker] = workers(server)
    for _ in range(3):
        os.kill(worker, signal.SIGTERM)
    server.signal(signal.SIGTERM)
    [answer] = split_answers(read_to_end(sock))

    assert 200 == answer.status
    assert 0 == server.wait()


def test_the_second_signal_cuts_what_is_in_flight(
    serve: Serve, closing: ExitStack
) -> None:
    """Ctrl-C, once more."""
    server = serve(APPLICATION, "--workers", "2")
    ask(closing, server, "/wait?3600")
    server.wait_for_log("application: waiting")
    server.signal(signal.SIGINT)
    server.wait_for_log("SIGINT: stopping")
    server.signal(signal.SIGINT)

    assert 0 == server.wait()
    assert "Cancelling the application" in server.log


@pytest.mark.parametrize(
    ("number", "count", "status"), [("SIGQUIT", 1, 0), ("SIGINT", 3, 1)]
)
def test_leaving_at_once(
    serve: Serve, closing: ExitStack, number: str, count: int, status: int
) -> None:
    """SIGQUIT does it, and so does the third Ctrl-C, although the worker is stuck."""
    server = serve(APPLICATION, "--workers", "1")
    ask(closing, server, "/block")
    server.wait_for_log("application: blocking")
    for time_over in range(count):
        server.signal(getattr(signal, number))
        server.wait_for_log(rf"(?s)({number}: .*){{{time_over + 1}}}")

    assert status == server.wait()


def test_a_terminals_signal_to_all_is_the_supervisors(
    serve: Serve, closing: ExitStack
) -> None:
    """Ctrl-C reaches the whole process group; no worker dies behind its back."""
    server = serve(APPLICATION, "--workers", "2", start_new_session=True)
    sock = ask(closing, server, "/wait?1")
    server.wait_for_log("application: waiting")
    os.killpg(server.process.pid, signal.SIGINT)
    [answer] = split_answers(read_to_end(sock))

    assert 200 == answer.status
    assert 0 == server.wait()
    assert "died" not in server.log


def test_a_closed_terminal_ends_all(launch: Serve) -> None:
    """Its SIGHUP isn't taken for an operator's, who wants a reload."""
    primary, secondary = os.openpty()
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "from daphne_like.cli import CommandLineInterface as C; C.entrypoint()"
    )
    server = launch(
        *(APPLICATION, "--workers", "1", "-p", "0"),
        program=("-c", program),
        stdin=secondary,
        start_new_session=True,
    )
    os.close(secondary)
    server.wait_for_log("Listening on")
    server.signal(signal.SIGHUP)
    server.wait_for_log("The reload is over")
    os.close(primary)

    assert 0 == server.wait()
    assert "the terminal is gone, stopping" in server.log


@pytest.mark.skipif(sys.platform != "linux", reason="looks at another process")
def test_the_supervisor_may_have_many_descriptors(launch: Serve) -> None:
    """Each worker takes some of it: it allows itself as many as the system does."""
    import resource

    program = (
        "import resource as r; limit = r.getrlimit(r.RLIMIT_NOFILE)[1]; "
        "r.setrlimit(r.RLIMIT_NOFILE, (min(limit, 64), limit)); "
        "from daphne_like.cli import CommandLineInterface as C; C.entrypoint()"
    )
    server = launch(
        *(APPLICATION, "--workers", "1", "-p", "0"), program=("-c", program)
    )
    server.wait_for_log("Listening on")
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)

    assert hard == soft


# -- Death -------------------------------------------------------------------------


def test_a_killed_worker_is_replaced(serve: Serve) -> None:
    """`kill -9`: another one takes its place at once."""
    server = serve(APPLICATION, "--workers", "2")
    before = workers(server)
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)
    server.wait_for_log("Worker . died: killed by SIGKILL")
    after = until(lambda: len(pids := workers(server)) == 2 and pids, "a second worker")

    assert before < after
    assert int(get(server)) in after
    assert 0 == server.stop()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_when_the_supervisor_is_killed(
    serve: Serve, closing: ExitStack, start: str
) -> None:
    """`kill -9` of it: they answer what is in flight, and end; the port is free."""
    server = serve(APPLICATION, "--workers", "2", "--worker-start", start)
    pids = workers(server)
    sock = ask(closing, server, "/wait?1")
    server.wait_for_log("application: waiting")
    server.signal(signal.SIGKILL)
    [answer] = split_answers(read_to_end(sock))

    assert 200 == answer.status
    until(lambda: not any(map(is_alive, pids)), "the end of the workers")
    assert_port_is_free(server)


def assert_port_is_free(server: ServerProcess) -> None:
    """Nobody listens on it any more."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", server.port))


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_stuck_worker_ends_when_the_supervisor_is_killed(
    serve: Serve, closing: ExitStack, start: str, loop: str
) -> None:
    """Its event loop can't hear of it, and nobody else would end it."""
    server = serve(
        APPLICATION,
        *("--workers", "1", "--worker-start", start, "--loop", loop),
        *("--timeout-worker-healthcheck", "1"),
    )
    [stuck] = workers(server)
    ask(closing, server, "/block")
    server.wait_for_log("application: blocking")
    server.signal(signal.SIGKILL)
    log = server.wait_for_log(r"(?s)Timeout \(0:00:02\).*line \d+ in block")

    assert "supervisor has gone" not in log  # which the loop would have said
    until(lambda: not is_alive(stuck), "the end of the worker")
    assert_port_is_free(server)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_worker_that_was_busy_when_the_supervisor_was_killed(
    serve: Serve, closing: ExitStack
) -> None:
    """It may finish what it does, if that isn't longer than a worker may be silent."""
    server = serve(APPLICATION, "--workers", "1", "--timeout-worker-healthcheck", "20")
    [busy] = workers(server)
    sock = ask(closing, server, "/nap?1")
    server.wait_for_log("application: blocking")
    server.signal(signal.SIGKILL)
    [answer] = split_answers(read_to_end(sock))

    assert str(busy) == answer.body.decode()
    until(lambda: not is_alive(busy), "the end of the worker")
    assert "Timeout" not in server.log


@pytest.mark.parametrize("path", ["/block", "/hold"])
def test_a_stuck_worker_is_killed(serve: Serve, closing: ExitStack, path: str) -> None:
    """Its log tells where it was stuck, even in C; another one takes its place."""
    server = serve(APPLICATION, "--workers", "1", "--timeout-worker-healthcheck", "2")
    [stuck] = workers(server)
    ask(closing, server, path)
    server.wait_for_log(r"is killed: its event loop was silent for 2 s")
    log = server.wait_for_log(r"(?s)silent for 2 s\n.*")

    assert re.search(rf"applications/workers.py\", line \d+ in {path[1:]}", log)
    until(lambda: stuck not in workers(server) and workers(server), "another one")
    assert int(get(server)) != stuck


def test_an_application_that_forks(serve: Serve, closing: ExitStack) -> None:
    """Its child keeps neither the channel nor the port."""
    server = serve(APPLICATION, "--workers", "1")

    def fork() -> Iterator[int]:
        # The child has the connection, too, so that it doesn't end.
        received = read_until(ask(closing, server, "/fork"), b"end")
        [answer] = split_answers(received)
        return map(int, answer.body.split()[:2])

    worker, child = fork()
    os.kill(worker, signal.SIGKILL)
    server.wait_for_log("Worker 1 died: killed by SIGKILL")
    next_worker, next_child = fork()
    server.signal(signal.SIGKILL)
    until(lambda: not is_alive(next_worker), "the end of the worker")

    assert is_alive(child)
    assert is_alive(next_child)
    assert_port_is_free(server)
    for pid in (child, next_child):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# -- Applications that don't start, or don't end -----------------------------------------


@pytest.mark.parametrize(
    ("what", "status", "log"),
    [
        ("raise at import", 1, "RuntimeError: no such table"),
        ("exit at import", 5, "couldn't start"),
        ("raise in startup", 3, "Application startup failed: no database"),
    ],
)
def test_an_application_that_does_not_start(
    launch: Serve, mischief: Path, what: str, status: int, log: str
) -> None:
    """The server ends with the status it would have without workers; told once."""
    mischief.write_text(what)
    server = launch(APPLICATION, "--workers", "3", "-p", "0")

    assert status == server.wait()
    assert 1 == server.log.count(log)


@pytest.mark.parametrize("what", ["raise at import", "raise in startup"])
def test_a_dead_worker_whose_successor_does_not_start(
    serve: Serve, mischief: Path, what: str
) -> None:
    """The others go on, and it is tried again until it works."""
    server = serve(APPLICATION, "--workers", "2")
    victim, survivor = workers(server)
    mischief.write_text(what)
    os.kill(victim, signal.SIGKILL)
    server.wait_for_log("Worker . couldn't start")
    assert survivor == int(get(server))
    mischief.write_text("")
    until(lambda: len({get(server) for _ in range(20)}) == 2, "a second worker")

    assert survivor in workers(server)
    assert 0 == server.stop()


def test_an_application_that_crashes_at_import(launch: Serve, mischief: Path) -> None:
    """It is tried again, more and more seldom, and then given up."""
    mischief.write_text("die at import")
    server = launch(APPLICATION, "--workers", "2", "-p", "0")
    server.wait_for_log("3 workers have died early.*after 2 s")
    mischief.write_text("")
    server.wait_for_log("Listening on")

    assert 0 == server.stop()


def test_an_application_that_blocks_in_its_start(launch: Serve, mischief: Path) -> None:
    """When its time is over it is killed; the log tells where it was."""
    mischief.write_text("block in startup")
    server = launch(
        APPLICATION, "--workers", "1", "-p", "0", "--timeout-startup", "0.1"
    )

    assert 3 == server.wait()
    assert "its start has taken too long" in server.log
    assert re.search(r"workers.py\", line \d+ in live", server.log)


def test_an_application_that_blocks_at_import(launch: Serve, mischief: Path) -> None:
    """Nobody knows how long it may take; it can be looked into, and stopped."""
    mischief.write_text("block at import")
    server = launch(APPLICATION, "--workers", "1", "-p", "0")
    server.wait_for_log("application: importing")
    server.signal(signal.SIGUSR2)
    server.wait_for_log(r"workers.py\", line \d+ in <module>")
    server.signal(signal.SIGTERM)

    assert 0 == server.wait()


def test_an_application_that_raises_in_its_end(serve: Serve, mischief: Path) -> None:
    """It is told, and the server ends as it should."""
    server = serve(APPLICATION, "--workers", "1")
    mischief.write_text("raise in shutdown")

    assert 0 == server.stop()
    assert "RuntimeError: no goodbye" in server.log


def test_an_application_that_blocks_in_its_end(serve: Serve, mischief: Path) -> None:
    """It is killed as one that is stuck, and the server ends."""
    server = serve(APPLICATION, "--workers", "1", "--timeout-worker-healthcheck", "1")
    mischief.write_text("block in shutdown")

    assert 0 == server.stop()
    assert "is killed: its event loop was silent for 1 s" in server.log


# -- Reloading -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [(), ("--reuse-port",), ("--worker-start", "spawn")]
)
def test_a_reload_under_load_loses_no_request(
    serve: Serve, options: tuple[str, ...]
) -> None:
    """All are answered, on new connections and on those which are kept."""
    server = serve(APPLICATION, "--workers", "2", *options)
    before = workers(server)
    over = threading.Event()
    failures: list[str] = []
    counts: list[int] = []

    def load(keep: bool) -> None:
        count = 0
        while not over.is_set():
            with connect(server.url) as sock:
                kept = True
                while kept and not over.is_set():
                    kept = keep
                    close = "" if keep else "connection: close\r\n"
                    sock.sendall(
                        f"GET /pid HTTP/1.1\r\nhost: a\r\n{close}\r\n".encode()
                    )
                    head = read_until(sock, b"\r\n\r\n")
                    if not head.startswith(b"HTTP/1.1 200 "):
                        failures.append(f"{keep}: {head!r}")
                        return
                    count += 1
                    kept = kept and b"connection: close" not in head
        counts.append(count)

    threads = [threading.Thread(target=load, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    server.signal(signal.SIGHUP)
    server.wait_for_log("The reload is over")
    until(lambda: len(workers(server)) == 2, "the end of the old ones")
    over.set()
    for thread in threads:
        thread.join()

    assert [] == failures
    assert 4 == len(counts)
    assert min(counts) > 0
    assert not before & workers(server)
    assert 0 == server.stop()
    assert "ERROR" not in server.log


def test_a_reload_lets_websockets_come_back(serve: Serve) -> None:
    """They are closed with 1012, "service restart"."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect as open_websocket

    server = serve(APPLICATION, "--workers", "1")
    with open_websocket(server.url.replace("http", "ws"), proxy=None) as websocket:
        websocket.send("hello")
        assert "hello" == websocket.recv()
        server.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=PATIENCE)

    assert closed.value.rcvd is not None
    assert 1012 == closed.value.rcvd.code


@pytest.mark.parametrize("what", ["raise at import", "raise in startup"])
def test_a_reload_that_fails_leaves_the_old_workers(
    serve: Serve, mischief: Path, what: str
) -> None:
    """The log tells what was wrong; when it is repaired, the next one works."""
    server = serve(APPLICATION, "--workers", "2")
    before = workers(server)
    mischief.write_text(what)
    server.signal(signal.SIGHUP)
    server.wait_for_log("the reload is given up")

    assert before == workers(server)
    assert int(get(server)) in before
    mischief.write_text("")
    server.signal(signal.SIGHUP)
    server.wait_for_log("The reload is over")
    until(lambda: not before & workers(server), "the end of the old ones")
    assert 0 == server.stop()


def test_preloaded_applications_are_shared(serve: Serve, mischief: Path) -> None:
    """It is imported once, in the supervisor; a reload doesn't import it again."""
    server = serve(APPLICATION, "--workers", "2", "--preload")
    before = workers(server)
    mischief.write_text("raise at import")
    server.signal(signal.SIGHUP)
    server.wait_for_log("The reload is over")
    until(lambda: not before & workers(server), "the end of the old ones")

    assert int(get(server)) in workers(server)
    assert 0 == server.stop()


# -- Scaling, recycling ------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--reuse-port",)])
def test_scaling_by_signal(serve: Serve, options: tuple[str, ...]) -> None:
    """TTIN adds a worker, TTOU takes one away, but not the last."""
    server = serve(APPLICATION, "--workers", "1", *options)
    server.signal(signal.SIGTTIN)
    until(lambda: len(workers(server)) == 2, "a second one")
    until(lambda: len({get(server) for _ in range(20)}) == 2, "its answer")
    server.signal(signal.SIGTTOU)
    until(lambda: len(workers(server)) == 1, "its end")
    server.signal(signal.SIGTTOU)
    for _ in range(20):
        assert int(get(server)) in workers(server)
    assert 0 == server.stop()


@pytest.mark.parametrize(
    ("options", "path", "reason"),
    [
        (("--limit-max-requests", "5"), "/pid", r"it has taken \d+ requests"),
        (("--max-worker-lifetime", "1"), "/pid", "its lifetime is over"),
        (
            ("--max-worker-rss", "150", "--max-worker-rss-samples", "1"),
            "/leak?20",
            r"its memory has grown to \d+ MiB",
        ),
    ],
)
def test_worn_workers_are_replaced(
    serve: Serve, options: tuple[str, ...], path: str, reason: str
) -> None:
    """By their requests, their age or their memory; somebody always answers."""
    server = serve(APPLICATION, *options)
    [first] = workers(server)
    # Else the first sample of its memory would be above the limit.
    time.sleep(1.1 if "rss" in options[0] else 0)
    for _ in range(10):
        get(server, path)
    server.wait_for_log(f"Worker 1 is replaced: {reason}")
    until(lambda: first not in workers(server) or get(server) == "", "its end")

    assert int(get(server)) != first
    assert 0 == server.stop()


# -- Looking into it -----------------------------------------------------------------------


def test_logs_are_opened_anew(serve: Serve, tmp_path: Path) -> None:
    """USR1 after a rotation: lines go to the new file, from all workers."""
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    server = serve(APPLICATION, "--workers", "2", "--access-log", str(log))
    get(server)
    log.rename(old)
    server.signal(signal.SIGUSR1)
    until(log.exists, "the new file")
    seen = {get(server) for _ in range(20)}
    assert seen
    server.stop()

    assert 20 <= log.read_text().count("/pid")
    assert 1 == old.read_text().count("/pid")


def test_tasks_and_threads_are_shown(serve: Serve, closing: ExitStack) -> None:
    """USR2 shows what all of them are doing; they go on."""
    server = serve(*(APPLICATION, "--workers", "2", "--timeout-graceful-shutdown", "0"))
    ask(closing, server, "/wait?3600")
    server.wait_for_log("application: waiting")
    server.signal(signal.SIGUSR2)
    server.wait_for_log(r"workers.py\", line \d+, in wait\n")
    until(lambda: server.log.count("Current thread") == 2, "both")

    assert int(get(server)) in workers(server)
