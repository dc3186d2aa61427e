"""Operating a server with workers: what a supervisor answers and obeys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import Serve, ServerProcess

APPLICATION = "applications.lifecycle:application"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


class Operator:
    """Somebody at a terminal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `daphne-like ctl`."""
        return subprocess.run(
            [sys.executable, "-m", "daphne_like", "ctl", *arguments],
            env={**os.environ, "DAPHNE_LIKE_CONTROL_SOCKET": str(self._path)},
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )

    def get(self, target: str) -> tuple[int, bytes]:
        """Ask without a program, which is quicker."""
        with connect(f"unix:{self._path}") as sock:
            sock.sendall(request(target, "connection: close"))
            [answer] = split_answers(read_to_end(sock))
            return answer.status, answer.body

    def ask(self, question: str) -> Any:
        """Return what the server tells."""
        status, body = self.get(f"/{question}")
        assert 200 == status
        return json.loads(body)

    def health(self) -> list[int]:
        """Tell whether it lives, is ready, drains."""
        return [
            self.get(f"/health/{name}")[0] for name in ("live", "ready", "draining")
        ]

    def ready_pids(self, count: int) -> set[int]:
        """Wait until there are so many workers, all of them ready."""
        deadline = time.monotonic() + 30
        while True:
            workers = self.ask("workers")
            pids = {row["pid"] for row in workers if row["phase"] == "ready"}
            if count == len(pids) == len(workers):
                return pids
            assert time.monotonic() < deadline, workers
            time.sleep(0.02)


def request(target: str, *fields: str) -> bytes:
    """Write a request."""
    lines = [f"GET {target} HTTP/1.1", "host: a", *fields, "", ""]
    return "\r\n".join(lines).encode()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for an event of which nobody tells."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def heard(server: ServerProcess, count: int) -> bool:
    """Whether so many requests have reached the application."""
    return count == server.log.count("application: waiting")


@pytest.fixture
def path(socket_folder: Path, request: pytest.FixtureRequest) -> Path:
    """Choose a path for the control socket."""
    return socket_folder / str(abs(hash(request.node.name)) % 1_000_000)


@pytest.fixture
def operator(path: Path) -> Operator:
    """Have somebody operate the server."""
    return Operator(path)


@pytest.fixture
def server(serve: Serve, path: Path, operator: Operator) -> ServerProcess:
    """Serve with two workers, which cut what doesn't end at once."""
    server = serve(
        *(APPLICATION, "--workers", "2", "--control-socket", str(path)),
        *("--timeout-graceful-shutdown", "0.5"),
    )
    operator.ready_pids(2)
    return server


def test_what_it_tells(server: ServerProcess, operator: Operator) -> None:
    """Connections and tasks of all workers are told by one process, with its own status."""
    status = operator.ask("status")
    assert ("ready", server.process.pid, 2) == (
        status["phase"],
        status["pid"],
        status["workers"],
    )
    assert [server.url] == status["addresses"]
    numbers = {row["worker"] for row in operator.ask("workers")}
    assert 2 == len(numbers)
    assert [200, 200, 503] == operator.health()
    with ExitStack() as closing:
        rows: list[dict[str, Any]] = []
        # Until both have one.
        while {row["worker"] for row in rows} != numbers:
            count = len(rows) + 1
            sock = closing.enter_context(connect(server.url))
            sock.sendall(request("/slow"))
            wait_until(partial(heard, server, count))
            rows = operator.ask("connections")
        assert {"GET /slow"} == {row["doing"] for row in rows}
        assert count == len(rows)
        waiting = [row for row in operator.ask("tasks") if "in slow" in row["stack"]]
        assert numbers == {row["worker"] for row in waiting}
        assert count == sum(row["count"] for row in waiting)

        def beaten() -> bool:
            workers = operator.ask("workers")
            return bool(count == sum(row["in_flight"] for row in workers))

        wait_until(beaten)
        assert count == operator.ask("status")["in_flight"]
    lines = operator.run("status").stdout.splitlines()
    assert ["phase", "ready"] in [line.split() for line in lines]
    assert 2 == sum(line.split()[1:2] == ["ready"] for line in lines[-2:])


def test_what_it_obeys(server: ServerProcess, operator: Operator, path: Path) -> None:
    """
    Workers are scaled, replaced and ended on demand, while an operator's connection
    goes on: no worker has a copy of it.
    """
    with connect(f"unix:{path}") as watching:

        def still_watches() -> None:
            watching.sendall(request("/health/live"))
            assert b" 200 " in read_until(watching, b"ready\n")

        still_watches()
        old = operator.ready_pids(2)
        assert 0 == operator.run("scale", "+1").returncode
        more = operator.ready_pids(3)
        assert old < more
        still_watches()
        assert 0 == operator.run("reload").returncode
        wait_until(lambda: not operator.ready_pids(3) & more)
        still_watches()
        assert 0 == operator.run("scale", "1").returncode
        operator.ready_pids(1)
        still_watches()
        refused = operator.run("scale", "100000")
        assert (1, 1) == (refused.returncode, refused.stderr.count("\n"))
        done = operator.run("drain", "--wait", "20")
        assert (0, "ended\n") == (done.returncode, done.stdout), done.stderr
        assert b"" == read_to_end(watching)
    assert 0 == server.wait()
    assert not path.exists()


def test_it_lives_while_workers_start(
    launch: Serve, path: Path, operator: Operator
) -> None:
    """An application which blocks while it starts keeps nobody from asking."""
    server = launch(
        *(APPLICATION, "-p", "0", "--workers", "1", "--control-socket", str(path)),
        environment={"LIFESPAN": "block"},
    )
    try:
        server.wait_for_log("application: starting")
        assert [200, 503, 503] == operator.health()
        assert "starting" == operator.ask("status")["phase"]
        assert [] == operator.ask("connections")
    finally:
        # Such a worker hears nothing else, not even that its supervisor is gone.
        server.signal(signal.SIGQUIT)
        server.wait()
