"""Tests of ``daphne_like.operations.ctl``."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from operated import FakeOperated

from daphne_like.cli import CommandLineInterface
from daphne_like.operations import ctl
from daphne_like.operations.listener import OperationsListener
from daphne_like.settings import OperationsSettings

WORKERS = [{"worker": 1, "phase": "ready"}, {"worker": 2, "phase": "draining"}]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dl") as folder:
        yield Path(folder)


@pytest.fixture
def path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Choose a socket, of which the environment tells."""
    path = folder / "control"
    monkeypatch.setenv("DAPHNE_LIKE_CONTROL_SOCKET", str(path))
    return path


@pytest.fixture
def operated(path: Path) -> Iterator[FakeOperated]:
    """Have a server answer there, in a thread of its own."""
    operated = FakeOperated()
    operated.rows = [*WORKERS]
    begun = threading.Event()
    ends: list[Callable[[], None]] = []

    async def serve() -> None:
        listening = OperationsListener(
            operated, OperationsSettings(control_socket=str(path))
        )
        await listening.start()
        end, loop = asyncio.Event(), asyncio.get_running_loop()

        def finish() -> None:
            with suppress(RuntimeError):  # it has ended before
                loop.call_soon_threadsafe(end.set)

        ends.append(finish)
        begun.set()
        await end.wait()
        await listening.stop()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert begun.wait(20)
    operated.end = ends[0]
    yield operated
    ends[0]()
    thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; return its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = CommandLineInterface().run(["ctl", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run


# -- Questions ---------------------------------------------------------------


def test_status(run: Run, operated: FakeOperated) -> None:
    """The status is told with a table of the workers."""
    status, out, err = run("status")
    assert (0, "") == (status, err)
    assert (
        "phase    ready\n"
        "pid      77\n"
        "workers  2\n"
        "\n"
        "worker  phase\n"
        "     1  ready\n"
        "     2  draining\n"
    ) == out


@pytest.mark.parametrize("command", ["workers", "connections"])
def test_tables(run: Run, operated: FakeOperated, command: str) -> None:
    """Workers and connections are told as tables."""
    assert (0, "worker  phase\n     1  ready\n     2  draining\n", "") == run(command)


def test_tasks(run: Run, operated: FakeOperated) -> None:
    """Tasks are told with their stacks."""
    operated.rows = [{"kind": "task", "name": "T", "worker": 1, "stack": " a\n"}]
    assert (0, "task T (worker 1)\n a\n\n", "") == run("tasks")


def test_json(run: Run, operated: FakeOperated) -> None:
    """Programs get all that the server tells, as JSON."""
    for command in ("workers", "connections", "tasks"):
        _, out, _ = run(command, "--json")
        assert WORKERS == json.loads(out)
    _, out, _ = run("status", "--json")
    assert {
        "phase": "ready",
        "pid": 77,
        "workers": 2,
        "processes": WORKERS,
    } == json.loads(out)


def watching(monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """Have the user press Ctrl-C after so many looks; return the intervals."""
    intervals: list[float] = []

    def sleep(seconds: float) -> None:
        intervals.append(seconds)
        if len(intervals) == times:
            raise KeyboardInterrupt

    monkeypatch.setattr("daphne_like.operations.ctl.time.sleep", sleep)
    return intervals


def test_watching(
    run: Run, operated: FakeOperated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table keeps up to date until Ctrl-C, which is no failure."""
    pytest.importorskip("rich")
    for arguments, interval in (([], 1.0), (["2s"], 2.0)):
        intervals = watching(monkeypatch, 3)
        status, out, err = run("workers", "--watch", *arguments)
        assert (0, "") == (status, err)
        assert "draining" in out
        assert [interval] * 3 == intervals


def test_watching_as_json(
    run: Run, operated: FakeOperated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs which watch get a line of JSON each time."""
    watching(monkeypatch, 2)
    status, out, _ = run("workers", "-w", "--json")
    assert 0 == status
    assert [WORKERS] * 2 == [json.loads(line) for line in out.splitlines()]


def test_watching_without_rich(
    run: Run, operated: FakeOperated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lacks rich is told how to get it."""
    monkeypatch.setitem(sys.modules, "daphne_like.operations.live_display", None)
    status, _, err = run("status", "-w")
    assert 2 == status
    assert "pip install 'daphne-like[ctl]'" in err


# -- Orders ------------------------------------------------------------------


def test_orders(run: Run, operated: FakeOperated) -> None:
    """Orders are passed on."""
    assert (0, "reloading\n", "") == run("reload")
    assert (0, "workers wanted: 5\n", "") == run("scale", "5")
    assert (0, "workers wanted: 3\n", "") == run("scale", "+1")
    assert (0, "workers wanted: 1\n", "") == run("scale", "-1")
    assert (0, "draining\n", "") == run("drain")
    status, out, _ = run("reload", "--json")
    assert (0, {"accepted": True}) == (status, json.loads(out))
    assert [
        "reload",
        ("scale", 5),
        ("scale", 3),
        ("scale", 1),
        "drain",
        "reload",
    ] == operated.orders


def test_a_refusal(run: Run, operated: FakeOperated) -> None:
    """The server's reason is one line, and the exit status is 1."""
    operated.refusal = "nothing to reload"
    assert (1, "", "daphne-like ctl: nothing to reload\n") == run("reload")
    assert (1, "", "daphne-like ctl: at least one worker must stay\n") == run(
        "scale", "-2"
    )


def test_waiting_for_the_end(run: Run, operated: FakeOperated) -> None:
    """`drain --wait` returns when nobody listens any more."""
    operated.drains = True
    assert (0, "ended\n", "") == run("drain", "--wait")


def test_waiting_too_long(run: Run, operated: FakeOperated) -> None:
    """A limit for the wait can be given."""
    status, _, err = run("drain", "--wait", "0")
    assert (1, "daphne-like ctl: the server has not ended yet\n") == (status, err)


# -- Finding the server ------------------------------------------------------


def test_the_option_wins(run: Run, operated: FakeOperated, path: Path) -> None:
    """The socket is found as the server found its own: option, environment, file."""
    other = f"{path}-other"
    for arguments in (
        ["status", "--control-socket", other],
        ["--control-socket", other, "status", "--json"],
        ["--json", "--control-socket", other, "status"],
    ):
        status, _, err = run(*arguments)
        assert (3, f"daphne-like ctl: no server listens on {other}\n") == (status, err)


def test_the_settings_file(
    run: Run, operated: FakeOperated, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own file tells, too, whatever else is in it."""
    monkeypatch.delenv("DAPHNE_LIKE_CONTROL_SOCKET")
    monkeypatch.setenv("DAPHNE_LIKE_PORT", "nonsense")  # is none of our business
    file = path.with_suffix(".toml")
    file.write_text(f'port = 80\ncontrol_socket = "{path}"\n')
    assert 0 == run("status", "--config", str(file))[0]


def test_no_socket_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names no server is asked which one is meant."""
    monkeypatch.delenv("DAPHNE_LIKE_CONTROL_SOCKET", raising=False)
    status, _, err = run("status")
    assert 2 == status
    assert "--control-socket PATH, or DAPHNE_LIKE_CONTROL_SOCKET" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["stats"],
        ["scale"],
        ["scale", "many"],
        ["scale", "--1"],
        ["scale", "²"],
        ["scale", "9" * 5000],
        ["drain", "--watch"],
        ["status", "--watch", "soon"],
        ["status", "--config", "/nonexistent"],
    ],
)
def test_wrong_arguments(run: Run, path: Path, arguments: list[str]) -> None:
    """Mistakes end with status 2 and a line."""
    status, out, err = run(*arguments)
    assert (2, "") == (status, out)
    assert "daphne-like ctl" in err


def test_a_server_which_was_killed(run: Run, path: Path) -> None:
    """A file without a server is no server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    status, _, err = run("drain")
    assert (3, f"daphne-like ctl: no server listens on {path}\n") == (status, err)


@contextmanager
def somebody(path: Path, *pieces: bytes, pause: float = 0) -> Iterator[None]:
    """Have another program listen, which says the same to everybody."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    other.bind(str(path))
    other.listen()

    def serve() -> None:
        while True:
            connection, _ = other.accept()
            with connection, suppress(OSError):
                if not request_on(connection):
                    return
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(path))
        thread.join()
        other.close()


def request_on(connection: socket.socket) -> bytes:
    """Read a whole request, since what is left unread would reset the connection."""
    request = connection.recv(65536)
    while request.startswith(b"POST") and not request.endswith(b"}"):
        request += connection.recv(65536)
    return request


def ok(body: bytes) -> bytes:
    """Write a whole answer."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "the server has hung up"),
        (b"SSH-2.0-x\r\n", "no daphne-like"),
        (ok(b"<ok/>"), "no daphne-like"),
        (b"HTTP/1.1 502 No\r\ncontent-length: 2\r\n\r\n[]", "status 502"),
    ],
)
def test_somebody_else_listens(run: Run, path: Path, answer: bytes, text: str) -> None:
    """Whatever else answers there, a line tells what is wrong."""
    with somebody(path, answer):
        status, out, err = run("workers")
    assert "" == out
    assert status in (ctl.REFUSED, ctl.UNREACHABLE)
    [line] = err.splitlines()
    assert line.startswith("daphne-like ctl: ")
    assert text in line


@pytest.mark.parametrize("command", [["status"], ["tasks"], ["scale", "+1"]])
@pytest.mark.parametrize(
    "answer",
    [b"1", b"null", b'"x"', b"[1]", b"[[]]", b'{"workers": "x"}', b"[" * 100_000],
)
def test_json_of_somebody_else(
    run: Run, path: Path, command: list[str], answer: bytes
) -> None:
    """Cause: JSON of another shape than ours ended in a traceback."""
    with somebody(path, ok(answer)):
        status, out, err = run(*command)
    assert (3, "") == (status, out)
    assert f"daphne-like ctl: {path}: what answers is no daphne-like\n" == err


def test_values_of_somebody_else(run: Run, path: Path) -> None:
    """Cause: ages without end, and counts that are none, ended in a traceback."""
    row = b'{"age": 1e999, "rss_bytes": NaN, "count": "x", "worker": 1%s}' % (
        b"0" * 400
    )
    with somebody(path, ok(b"[%s]" % row)):
        status, out, _ = run("workers")
        assert 0 == status
        assert "inf" in out
        assert 0 == run("tasks")[0]


def test_a_refusal_can_not_move_the_cursor(run: Run, path: Path) -> None:
    """Cause: the reason which a server gives was printed as it came."""
    answer = ok(b'{"error": "\\u001b[2J"}').replace(b"200", b"409")
    with somebody(path, answer):
        assert (1, "", "daphne-like ctl: \\x1b[2J\n") == run("reload")


def test_an_answer_which_never_ends(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cause: a byte now and then was in time for ever."""
    monkeypatch.setattr(ctl, "_ANSWER_TIMEOUT", 0.1)
    with somebody(path, *(b"a" for _ in range(2000)), pause=0.01):
        status, out, _ = run("status")
    assert (3, "") == (status, out)


def test_a_server_which_does_not_answer(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocked event loop is named as a likely cause."""
    monkeypatch.setattr(ctl, "_ANSWER_TIMEOUT", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        silent.listen()
        status, _, err = run("status")
    assert 3 == status
    assert "blocked" in err


def test_a_terminal_which_has_few_letters(path: Path, operated: FakeOperated) -> None:
    """Cause: in ASCII there is no dash for what isn't known, so ctl raised."""
    operated.rows = [{"worker": 1, "rss_bytes": None}]
    done = subprocess.run(
        [sys.executable, "-m", "daphne_like", "ctl", "workers"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\\u2013" in done.stdout


def test_waiting_for_a_server_which_hangs(run: Run, path: Path) -> None:
    """Cause: when its queue was full, connecting waited for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)

        def accept_once() -> None:
            connection, _ = server.accept()
            with connection:
                request_on(connection)
                connection.sendall(ok(b"{}"))

        thread = threading.Thread(target=accept_once)
        thread.start()
        status, _, err = run("drain", "--wait", "0.5")
        thread.join()
    assert (1, "daphne-like ctl: the server has not ended yet\n") == (status, err)


# -- Its start ---------------------------------------------------------------


def test_it_starts_quickly() -> None:
    """Neither Twisted nor asyncio nor rich is loaded to ask a question."""
    program = (
        "import sys; from daphne_like.cli import CommandLineInterface as C;"
        "status = C().run(['ctl', 'status', '--control-socket', '/nonexistent']);"
        "print(status, {'twisted', 'asyncio', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "3 set()\n" == done.stdout
