"""The server as a service of systemd: its sockets, its notifications, its units."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from notify_socket import NotifySocket
from programs import find_program
from raw_http import connect, read_to_end, split_answers
from server_process import LOOPS, Serve, ServerProcess

import daphne_like

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="systemd is there on Linux only"
)

APPLICATION = "applications.activated:application"

UNITS = Path(__file__).parents[2] / "docs" / "systemd"

# What the units of the documentation start.
PROGRAM = "/srv/app/.venv/bin/daphne-like"


def request(path: str) -> bytes:
    """Write a request after which the connection is closed."""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()


def answered(sock: socket.socket) -> bytes:
    """Return the body of the one response on a connection."""
    [answer] = split_answers(read_to_end(sock))
    assert 200 == answer.status
    return answer.body


def ask(url: str, path: str = "/hello") -> bytes:
    """Return the body of a response."""
    with connect(url) as sock:
        sock.sendall(request(path))
        return answered(sock)


class Systemd:
    """
    Does what systemd does: holds sockets, starts services, listens to them.

    Attributes:
        notified: What services say.
    """

    def __init__(self, launch: Serve, folder: Path, closing: ExitStack) -> None:
        self.folder = folder
        self.notified = NotifySocket(str(folder / f"notify-{time.monotonic_ns()}"))
        closing.callback(self.notified.close)
        self._closing = closing
        self._launch = launch

    def listen(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """Make a socket for services."""
        sock = self._closing.enter_context(socket.socket(family, kind))
        if family == socket.AF_INET:
            sock.bind(("127.0.0.1", 0))
        else:
            sock.bind(str(self.folder / f"listen-{time.monotonic_ns()}"))
        if kind == socket.SOCK_STREAM:
            sock.listen(200)
        return sock

    def start(
        self,
        *arguments: str,
        sockets: Sequence[socket.socket] = (),
        names: str | None = None,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> ServerProcess:
        """Start a service with sockets."""
        numbers = [sock.fileno() for sock in sockets]
        variables = {
            "NOTIFY_SOCKET": self.notified.address,
            "TEST_PASSED": " ".join(map(str, numbers)),
            **({} if names is None else {"LISTEN_FDNAMES": names}),
            **(environment or {}),
        }
        script = Path(__file__).parents[1] / "support" / "activate.py"
        return self._launch(
            *(APPLICATION, *arguments),
            program=(str(script),),
            pass_fds=numbers,
            environment=variables,
            **options,
        )

    def start_until_ready(self, *arguments: str, **options: Any) -> ServerProcess:
        """Start a service with sockets, and wait until it serves."""
        server = self.start(*arguments, **options)
        status = self.notified.wait_for("READY")["STATUS"]
        for url in status.removeprefix("Listening on ").split(", "):
            server.wait_for_log(re.escape(url))
        return server


@pytest.fixture
def systemd(launch: Serve, socket_folder: Path) -> Iterator[Systemd]:
    """Play systemd."""
    with ExitStack() as closing:
        yield Systemd(launch, socket_folder, closing)


# -- Sockets -----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_passed_sockets_are_served(systemd: Systemd, loop: str) -> None:
    """
    Without any address, all passed sockets are listened on, whatever their family.
    Children of the application inherit neither them nor the variables.
    """
    sockets = [systemd.listen(), systemd.listen(socket.AF_UNIX), systemd.listen()]
    server = systemd.start_until_ready(
        *("--loop", loop),
        sockets=sockets,
        names="app.socket:app.socket:other",
        environment={"WATCHDOG_USEC": "60000000", "LISTEN_PIDFDID": "7"},
    )

    first, path, second = (sock.getsockname() for sock in sockets)
    urls = {f"http://127.0.0.1:{port}" for _, port in (first, second)}
    assert {*urls, f"unix:{path}"} == set(server.urls)
    assert [b"hello"] * 3 == [ask(url) for url in server.urls]
    variables, inherited = json.loads(ask(server.url, "/child"))
    for prefix in ("LISTEN_", "NOTIFY_", "WATCHDOG_"):
        assert not [name for name in variables if name.startswith(prefix)]
    assert [] == inherited
    assert 0 == server.stop()
    assert Path(path).exists()


@pytest.mark.parametrize(
    ("string", "place"),
    [
        ("systemd:domain=INET:index=0", 0),
        ("systemd:domain=INET:index=1", 1),
        ("systemd:domain=INET:name=web", 1),
    ],
)
def test_endpoint_strings_choose_sockets(
    systemd: Systemd, string: str, place: int
) -> None:
    """Twisted's notation, as in Daphne's documentation; the others stay unused."""
    sockets = [systemd.listen(), systemd.listen()]
    server = systemd.start_until_ready(
        *("-e", string), sockets=sockets, names="admin:web"
    )

    assert [f"http://127.0.0.1:{sockets[place].getsockname()[1]}"] == server.urls
    assert b"hello" == ask(server.url)


def test_endpoints_of_twisted_take_sockets(systemd: Systemd) -> None:
    """Wrappers of Twisted's, such as that for HAProxy, find systemd's sockets, too."""
    server = systemd.start_until_ready(
        *("-e", "haproxy:systemd:domain=INET:index=0"),
        sockets=[systemd.listen()],
        names="web",
    )

    with connect(server.url) as sock:
        line = b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 80\r\n"
        sock.sendall(line + request("/hello"))
        assert b"hello" == answered(sock)
    assert "are not used" not in server.log


def test_given_addresses_win(systemd: Systemd) -> None:
    """The log tells which sockets are left out."""
    server = systemd.start_until_ready("-p", "0", sockets=[systemd.listen()], names="a")

    assert 1 == len(server.urls)
    assert (
        "INFO     The sockets which systemd has passed (a) are not used" in server.log
    )


def test_sockets_of_another_process(systemd: Systemd) -> None:
    """Variables which an ancestor has left behind do no harm."""
    server = systemd.start_until_ready(
        *("-p", "0"), sockets=[systemd.listen()], environment={"TEST_LISTEN_PID": "1"}
    )

    assert "LISTEN_FDS is for process 1; this one is" in server.log
    assert b"hello" == ask(server.url)


def test_names_choose_what_is_spoken(systemd: Systemd, tmp_path: Path) -> None:
    """
    With a certificate, `http` stays without TLS, and `redirect` sends clients to
    where TLS is; everything else has it.
    """
    authority = Authority()
    path = authority.issue("127.0.0.1").write(tmp_path / "server.pem")
    sockets = [systemd.listen() for _ in range(4)]
    server = systemd.start_until_ready(
        *("--ssl-certfile", str(path)),
        sockets=sockets,
        names="redirect:https:http:app.socket",
    )
    *serving, redirecting = server.urls

    context = ssl.create_default_context(cadata=authority.pem)
    answers = []
    for url in serving:
        sock = connect(url)
        if url.startswith("https:"):
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        with sock:
            sock.sendall(request("/scheme"))
            answers.append(json.loads(answered(sock)))
    assert ["https", "http", "https"] == answers
    assert answers == [url.partition(":")[0] for url in serving]
    with connect(redirecting) as sock:
        sock.sendall(request("/scheme"))
        [answer] = split_answers(read_to_end(sock))
    port = sockets[1].getsockname()[1]
    assert (308, f"https://x:{port}/scheme") == (
        answer.status,
        answer.headers["location"],
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("datagrams", "is no stream socket; its unit needs ListenStream="),
        ("connection", "is a connection, not a listening socket; its unit needs Acc"),
    ],
)
def test_a_socket_that_does_not_listen(
    systemd: Systemd, kind: str, reason: str
) -> None:
    """One line, status 1; `systemctl status` shows it, too."""
    with ExitStack() as closing:
        if kind == "datagrams":
            sock = systemd.listen(kind=socket.SOCK_DGRAM)
        else:
            sock, other = socket.socketpair()
            closing.enter_context(sock)
            closing.enter_context(other)
        server = systemd.start(sockets=[sock], names="app.socket")

        assert 1 == server.wait()
    [line] = server.log.splitlines()
    assert f"CRITICAL Listen failure: descriptor 3 (app.socket): {reason}" in line
    told = systemd.notified.wait_for("STOPPING")["STATUS"]
    assert line.endswith(f"CRITICAL {told}")


def test_systemds_own_tool(launch: Serve, socket_folder: Path) -> None:
    """`systemd-socket-activate` starts the server when the first client comes."""
    path = socket_folder / "activated.sock"
    program = find_program("systemd-socket-activate")
    become = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    server = launch(
        *(program, f"--listen={path}", "--fdname=web", "-E", "PYTHONPATH"),
        *(sys.executable, "-m", "daphne_like", APPLICATION),
        *("-e", "systemd:domain=UNIX:name=web"),
        program=("-c", become),
        environment={"PYTHONPATH": str(Path(daphne_like.__file__).parents[1])},
    )
    server.wait_for_log("Listening on")

    assert b"hello" == ask(f"unix:{path}")
    # The first line was that of the tool; the server's may come after the answer.
    server.wait_for_log(re.escape(f"Listening on unix:{path}"))
    assert 0 == server.stop()


# -- Restarts ----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_restart_refuses_nobody(
    systemd: Systemd, loop: str, family: socket.AddressFamily
) -> None:
    """Who comes between two services waits, and is answered by the second one."""
    held = systemd.listen(family)
    first = systemd.start_until_ready("--loop", loop, sockets=[held])
    url = first.url
    assert 0 == first.stop()

    with ExitStack() as closing:
        clients = [closing.enter_context(connect(url)) for _ in range(50)]
        for sock in clients:
            sock.sendall(request("/hello"))
        second = systemd.start_until_ready("--loop", loop, sockets=[held])

        assert [b"hello"] * 50 == [answered(sock) for sock in clients]
    assert 0 == second.stop()


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_do_not_notice_restarts(systemd: Systemd, loop: str) -> None:
    """Clients that ask all the time get an answer each time, however often it restarts."""
    held = systemd.listen()
    # DeferAcceptSec=: a client that has sent nothing yet is the next server's.
    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    url = f"http://127.0.0.1:{held.getsockname()[1]}"
    enough = threading.Event()
    answers: list[bytes] = []
    failures: list[BaseException] = []

    def keep_asking() -> None:
        while not enough.is_set():
            try:
                answers.append(ask(url))
            except BaseException as error:
                failures.append(error)
                return

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    for last in (False, False, True):
        server = systemd.start_until_ready("--loop", loop, sockets=[held])
        seen = len(answers)
        while len(answers) < seen + 20 and not failures:
            time.sleep(0.01)
        if last:
            enough.set()
            for client in clients:
                client.join()
        assert 0 == server.stop()

    assert [] == failures
    assert {b"hello"} == set(answers)


# -- Notifications -------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_life_is_told(systemd: Systemd, loop: str) -> None:
    """
    Ready when the application has started and all addresses listen; stopping
    when the drain begins, with what is waited for.
    """
    held = systemd.listen()
    url = f"http://127.0.0.1:{held.getsockname()[1]}"
    server = systemd.start(
        *("--loop", loop),
        sockets=[held],
        environment={"LIFESPAN": "wait"},
        stdin=subprocess.PIPE,
    )
    assert {"STATUS": "Starting the application"} == systemd.notified.wait_for("STATUS")
    server.wait_for_log("application: starting")
    with connect(url) as early, connect(url) as late:
        early.sendall(request("/hello"))
        assert not any("READY" in message for message in systemd.notified.take())
        server.close_stdin()

        ready = {"READY": "1", "STATUS": f"Listening on {url}"}
        assert ready == systemd.notified.wait_for("READY")
        assert b"hello" == answered(early)

        late.sendall(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na")
        server.wait_for_log("http.request after 1 bytes")
        server.signal(signal.SIGTERM)
        stopping = {"STOPPING": "1", "STATUS": "Stopping, open connections: 1"}
        assert stopping == systemd.notified.wait_for("STOPPING")
        late.sendall(b"b")
        assert b"2 bytes" == answered(late)
    assert 0 == server.wait()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_reload_is_told(
    systemd: Systemd, launch: Serve, tmp_path: Path, abstract: bool
) -> None:
    """SIGHUP reads certificates again, and systemd knows when that is done."""
    path = Authority().issue("localhost").write(tmp_path / "server.pem")
    notified = systemd.notified
    with ExitStack() as closing_all:
        if abstract:
            name = f"@daphne-like-{os.getpid()}-{time.monotonic_ns()}"
            notified = closing_all.enter_context(closing(NotifySocket(name)))
        server = launch(
            *(APPLICATION, "-p", "0", "--ssl-certfile", str(path)),
            environment={"NOTIFY_SOCKET": notified.address},
        )
        notified.wait_for("READY")
        server.wait_for_log("Listening on")
        before = time.monotonic_ns() // 1000
        server.signal(signal.SIGHUP)

        reloading = notified.wait_for("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert f"Listening on {server.url}" == notified.wait_for("READY")["STATUS"]
        server.wait_for_log("Certificates read again")
        assert 0 == server.stop()


def test_workers_are_one_service(systemd: Systemd) -> None:
    """
    The supervisor takes the sockets and tells of all its workers: when they are
    ready, that they are replaced, and that it ends. It answers to the watchdog.
    """
    held = systemd.listen()
    url = f"http://127.0.0.1:{held.getsockname()[1]}"
    server = systemd.start(
        *("--workers", "2"),
        sockets=[held],
        environment={"WATCHDOG_USEC": "1000000"},
    )

    status = f"Listening on {url}, workers: 2"
    assert {"READY": "1", "STATUS": status} == systemd.notified.wait_for("READY")
    assert {"WATCHDOG": "1"} == systemd.notified.wait_for("WATCHDOG")
    server.wait_for_log("Listening on")
    variables, inherited = json.loads(ask(server.url, "/child"))
    assert not [name for name in variables if name.startswith(("LISTEN_", "NOTIFY_"))]
    assert [] == inherited

    server.signal(signal.SIGHUP)
    assert "1" == systemd.notified.wait_for("RELOADING")["RELOADING"]
    assert "1" == systemd.notified.wait_for("READY")["READY"]
    assert b"hello" == ask(url)
    server.signal(signal.SIGTERM)
    assert "1" == systemd.notified.wait_for("STOPPING")["STOPPING"]
    assert 0 == server.wait()


def test_spawned_workers_take_no_sockets_of_systemd(systemd: Systemd) -> None:
    """A new interpreter doesn't know their names; one line says so."""
    server = systemd.start(
        *("--workers", "2", "--worker-start", "spawn"), sockets=[systemd.listen()]
    )

    assert 2 == server.wait()
    assert "sockets of systemd need workers which are forked" in server.log


def test_a_reload_never_ends_a_service(systemd: Systemd) -> None:
    """`systemctl reload` of a service without certificates changes nothing."""
    server = systemd.start_until_ready(sockets=[systemd.listen()])
    server.signal(signal.SIGHUP)

    systemd.notified.wait_for("RELOADING")
    systemd.notified.wait_for("READY")
    assert b"hello" == ask(server.url)


def test_a_failure_to_listen_is_told(systemd: Systemd) -> None:
    """With the line of the log and the system's number."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = systemd.start("-p", str(port))
        assert 1 == server.wait()

    told = systemd.notified.wait_for("STOPPING")
    reason = f"Listen failure: 127.0.0.1:{port}: Address already in use"
    number = str(errno.EADDRINUSE)
    assert {"STOPPING": "1", "STATUS": reason, "ERRNO": number} == told


def test_an_application_that_does_not_start_is_told(systemd: Systemd) -> None:
    """Whether it refuses or isn't found: the reason is told."""
    server = systemd.start("-p", "0", environment={"LIFESPAN": "fail"})
    assert 3 == server.wait()
    told = systemd.notified.wait_for("STOPPING")["STATUS"]
    assert "Application startup failed: no database" == told

    server = systemd.start("--app-dir", "/nowhere", "-p", "0")
    assert 1 == server.wait()
    told = systemd.notified.wait_for("STOPPING")["STATUS"]
    assert "app_dir /nowhere is no directory" == told


def test_more_time_is_asked_for_where_the_settings_need_it(systemd: Systemd) -> None:
    """A drain of five minutes isn't ended after systemd's usual 90 seconds."""
    server = systemd.start_until_ready(
        *("--timeout-graceful-shutdown", "300"), sockets=[systemd.listen()]
    )
    with connect(server.url) as sock:
        sock.sendall(request("/slow"))
        server.wait_for_log("application: waiting")
        server.signal(signal.SIGTERM)

        for _ in range(2):
            told = systemd.notified.wait_for("EXTEND_TIMEOUT_USEC")
            assert "Stopping, open connections: 1" == told["STATUS"]
        server.signal(signal.SIGTERM)
        assert 0 == server.wait()


# -- The watchdog ------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_blocked_loop_does_not_ping(systemd: Systemd, loop: str) -> None:
    """The service is then restarted by systemd; if it comes to life again, the log warns."""
    server = systemd.start(
        *("--loop", loop),
        sockets=[systemd.listen()],
        environment={"WATCHDOG_USEC": "200000"},
        stdin=subprocess.PIPE,
    )
    systemd.notified.wait_for("READY")
    server.wait_for_log("Listening on")
    for _ in range(3):
        systemd.notified.wait_for("WATCHDOG")

    with connect(server.url) as sock:
        sock.sendall(request("/block-until-told"))
        server.wait_for_log("application: blocking")
        systemd.notified.take()
        time.sleep(0.5)
        assert [] == systemd.notified.take()
        server.close_stdin()

        systemd.notified.wait_for("WATCHDOG")
        server.wait_for_log(r"WARNING  The event loop was blocked: it turned \d+\.\d s")
        assert b"done" == answered(sock)
    assert 0 == server.stop()


# -- The units of the documentation ------------------------------------------------------


@pytest.mark.parametrize("folders", [(".",), (".", "https")])
def test_the_units_are_right(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """`systemd-analyze verify` has nothing to say about them, in either set."""
    for folder in folders:
        for unit in (UNITS / folder).glob("*.*"):
            text = unit.read_text("utf-8").replace(PROGRAM, sys.executable)
            (tmp_path / unit.name).write_text(text, "utf-8")
    assert {".service", ".socket"} == {path.suffix for path in tmp_path.iterdir()}

    finished = subprocess.run(
        [
            *(find_program("systemd-analyze"), "--man=no", "verify"),
            *sorted(str(path) for path in tmp_path.iterdir()),
        ],
        capture_output=True,
        check=False,
        text=True,
    )

    assert ("", "", 0) == (finished.stdout, finished.stderr, finished.returncode)


def test_the_units_start_what_exists() -> None:
    """The command line of the service is one which the server takes."""
    text = (UNITS / "daphne-like.service").read_text("utf-8")
    [command] = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(command.replace("\\\n", ""))

    assert PROGRAM == program
    finished = subprocess.run(
        [sys.executable, "-m", "daphne_like", "--show-config", *arguments],
        capture_output=True,
        check=True,
        text=True,
    )
    assert "proxy_headers = true" in finished.stdout
    assert 'application = "project.asgi:application"' in finished.stdout
