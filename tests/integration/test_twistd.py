"""The server as a program of ``twistd``: real processes, daemons too."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_http import connect, read_to_end, split_answers
from server_process import APPLICATIONS, LOOPS, Serve, ServerProcess

import daphne_like

# Twisted looks for plugins on the path of its start, where an editable installation
# doesn't put the tree.
FOLDER = str(Path(daphne_like.__file__).parents[1])
ENVIRONMENT = {"PYTHONPATH": FOLDER}
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")
APPLICATION = "applications.lifecycle:application"
REQUEST = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
_TIMEOUT = 30.0

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give up the privileges of root"
)


def ask(url: str) -> bytes:
    """Return the body of a response."""
    with connect(url) as sock:
        sock.sendall(REQUEST)
        [answer] = split_answers(read_to_end(sock))
    assert 200 == answer.status
    return answer.body


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + _TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def twistd(launch: Serve) -> Serve:
    """Start ``twistd`` in the foreground, with options of both."""

    def twistd(*arguments: str, **options: Any) -> ServerProcess:
        environment = {**ENVIRONMENT, **options.pop("environment", {})}
        return launch(
            "-n",
            "--pidfile=",
            *arguments,
            program=TWISTD,
            environment=environment,
            **options,
        )

    return twistd


@pytest.fixture(scope="module")
def usage_status() -> int:
    """What twistd ends with for a wrong option of its own; older ones say 0."""
    return subprocess.run(
        [sys.executable, *TWISTD, "--no-such-option"],
        check=False,
        stdout=subprocess.DEVNULL,
        timeout=_TIMEOUT,
    ).returncode


# -- In the foreground -------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_twistd_serves_an_application(twistd: Serve, loop: str) -> None:
    """On the right reactor without a word about it, with twistd's log."""
    server = twistd("daphne-like", "-p", "0", "--loop", loop, APPLICATION)
    server.wait_for_log("Listening on")
    assert b"hello" == ask(server.url)
    server.wait_for_log(r'\[stdout#info\] 127.0.0.1:\d+ - - .*"GET /hello" 200 5')

    assert 0 == server.stop()
    log = server.log
    assert "reactor class: twisted.internet.asyncioreactor.AsyncioSelector" in log
    assert re.search(rf"daphne_like.server#info\] Listening on .*, {loop}\)", log)
    assert "SIGTERM: stopping" in log
    # The application's own words come after, as its lifespan ends.
    assert "application: stopped" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("name", ["daphne-like", "asyncio"])
def test_the_reactor_may_be_named(twistd: Serve, name: str) -> None:
    """`--reactor` of twistd comes first, and one that fits stays."""
    server = twistd("--reactor", name, "daphne-like", "-p", "0", APPLICATION)
    server.wait_for_log("Listening on")
    assert b"hello" == ask(server.url)
    assert 0 == server.stop()


def test_another_reactor_is_one_clear_error(twistd: Serve, usage_status: int) -> None:
    """The text names the reactor, and what to type instead."""
    server = twistd("--reactor", "select", "daphne-like", APPLICATION)

    assert usage_status == server.wait()
    assert re.search(
        "the reactor SelectReactor is installed already;.*"
        "start twistd with --reactor daphne-like\n$",
        server.log,
    )
    assert "Traceback" not in server.log


def test_an_unknown_loop_of_a_named_reactor(twistd: Serve) -> None:
    """`--help-reactors` lists ours; the rest of twistd works as ever."""
    server = twistd("--help-reactors")

    assert 0 == server.wait()
    assert re.search(r"daphne-like\s+asyncio based reactor", server.log)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (
            ("-p", "0", "applications.nowhere:app"),
            1,
            "'applications.nowhere' not found",
        ),
        (("-e", "tcp:x", APPLICATION), 2, "endpoint 'tcp:x': the port must be"),
    ],
)
def test_what_prevents_the_start_is_one_clear_line(
    twistd: Serve, arguments: tuple[str, ...], status: int, text: str
) -> None:
    """With an exit status, and without a traceback."""
    server = twistd("daphne-like", *arguments)

    assert status == server.wait()
    assert text in server.log.splitlines()[-1]
    assert "Traceback" not in server.log


def test_a_wrong_option_is_an_error_like_those_of_twistd(
    twistd: Serve, usage_status: int
) -> None:
    """With our usage before, and the status which twistd has for them."""
    server = twistd("daphne-like", "-p", "x", APPLICATION)

    assert usage_status == server.wait()
    assert "usage: twistd daphne-like [option ...]" in server.log
    assert "argument -p/--port: must be a whole number, not 'x'\n" in server.log
    assert "Traceback" not in server.log


def test_a_port_in_use_ends_twistd(twistd: Serve) -> None:
    """One line on stderr, exit status 1, nothing half-started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = twistd("daphne-like", "-p", str(port), APPLICATION)
        assert 1 == server.wait()

    assert re.fullmatch(
        rf"daphne-like: Listen failure: 127.0.0.1:{port}: .*\n", server.log
    )


def test_an_application_that_refuses_to_start_ends_twistd(twistd: Serve) -> None:
    """The exit status is that of `daphne-like`, although twistd has none."""
    server = twistd(
        *("daphne-like", "-p", "0", APPLICATION), environment={"LIFESPAN": "fail"}
    )

    assert 3 == server.wait()
    assert "#critical] Application startup failed: no database" in server.log
    assert "Traceback" not in server.log


def test_help_shows_the_options_of_the_server(twistd: Serve) -> None:
    """All of them, as `daphne-like --help` does."""
    server = twistd("daphne-like", "--help")

    assert 0 == server.wait()
    assert "usage: twistd daphne-like [option ...]" in server.log
    assert "--websocket_connect_timeout" in server.log


def test_the_newer_runner_of_twisted_works_too(launch: Serve) -> None:
    """`twist`, which never becomes a daemon, loads the same plugin."""
    server = launch(
        *("--log-format=text", "daphne-like", "-p", "0", APPLICATION),
        program=("-m", "twisted"),
        environment=ENVIRONMENT,
    )
    server.wait_for_log("Listening on")
    assert b"hello" == ask(server.url)
    assert 0 == server.stop()


# -- Daemons -----------------------------------------------------------------


class Daemons:
    """Daemons in a folder, which end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(
        self, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Let twistd start one; return when the parent has ended."""
        options = ["--pidfile", "d.pid", "--logfile", "d.log", *arguments]
        path = os.pathsep.join([FOLDER, str(APPLICATIONS)])
        return subprocess.run(
            [sys.executable, *TWISTD, *options],
            check=False,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT,
        )

    @property
    def pid(self) -> int | None:
        """The number in the pid file; None when there is none."""
        try:
            return int((self.folder / "d.pid").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def log(self) -> str:
        """The log file."""
        return (self.folder / "d.log").read_text("utf-8")

    def stop(self) -> None:
        """Stop the daemon by the signal which init scripts send."""
        pid = self.pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))

    def end(self) -> None:
        """Leave nothing behind."""
        pid = self.pid
        if pid is not None:
            with_pid = Path(f"/proc/{pid}/cmdline")
            if with_pid.exists() and b"twistd" in with_pid.read_bytes():
                os.kill(pid, signal.SIGKILL)


def _is_zombie(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    """Start daemons in a folder of their own, which every user may write to."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks at daemons through /proc")
    with tempfile.TemporaryDirectory(prefix="dl", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        daemons = Daemons(Path(folder))
        yield daemons
        daemons.end()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_daemon(daemons: Daemons, loop: str) -> None:
    """Pid file, log file and socket are there; SIGTERM takes away what must go."""
    started = daemons.start(
        *("daphne-like", "--loop", loop, "-u", "s", "--access-log", "access.log"),
        APPLICATION,
    )
    assert (0, "") == (started.returncode, started.stdout)
    until(lambda: "Listening on" in daemons.log)
    assert b"hello" == ask(f"unix:{daemons.folder}/s")

    daemons.stop()

    assert "SIGTERM: stopping" in daemons.log
    assert "Server Shut Down." in daemons.log
    # What the application prints is in the log, too.
    assert "application: stopped" in daemons.log
    assert ["access.log", "d.log"] == sorted(
        path.name for path in daemons.folder.iterdir()
    )
    assert '"GET /hello" 200' in (daemons.folder / "access.log").read_text("utf-8")


def test_paths_do_not_depend_on_the_directory_of_a_daemon(daemons: Daemons) -> None:
    """`--rundir` changes the directory; relative paths are of the one before."""
    (daemons.folder / "run").mkdir()
    daemons.start(
        *("--rundir", "run", "daphne-like", "-u", "s", "--access-log", "a.log"),
        APPLICATION,
    )
    until(lambda: "Listening on" in daemons.log)
    assert b"hello" == ask(f"unix:{daemons.folder}/s")
    daemons.stop()

    assert (daemons.folder / "a.log").exists()
    assert [] == [*(daemons.folder / "run").iterdir()]


def test_a_daemon_that_can_not_start_says_so_on_the_terminal(daemons: Daemons) -> None:
    """Before it is one: with the reason, an exit status and no pid file."""
    (daemons.folder / "taken").write_text("", "utf-8")
    started = daemons.start("daphne-like", "-u", "taken", APPLICATION)

    assert 1 == started.returncode
    assert re.fullmatch("daphne-like: Listen failure: .*\n", started.stdout)
    assert None is daemons.pid


@as_root
def test_privileges_are_given_up(daemons: Daemons) -> None:
    """A privileged port is bound first; the application runs as somebody else."""
    nobody = pwd.getpwnam("nobody")
    port = next(port for port in range(700, 1000) if _is_free(port))
    daemons.start(
        *("--uid", "nobody", "daphne-like", "-p", str(port), "--access-log", "a.log"),
        APPLICATION,
    )
    until(lambda: "Listening on" in daemons.log)

    pid = daemons.pid
    assert pid is not None
    assert nobody.pw_uid == Path(f"/proc/{pid}").stat().st_uid
    assert b"hello" == ask(f"http://127.0.0.1:{port}")
    daemons.stop()
    assert nobody.pw_uid == (daemons.folder / "a.log").stat().st_uid
    assert "Traceback" not in daemons.log


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@as_root
def test_another_root(twistd: Serve, socket_folder: Path) -> None:
    """With `--chroot` all paths are those inside, also of sockets."""
    root = socket_folder / "root"
    (root / "etc").mkdir(parents=True)
    # twistd asks them for the groups of the user.
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc")
    root.chmod(0o777)
    path = root / "s"
    server = twistd(
        *("--chroot", str(root), "--uid", "nobody", "--gid", "nogroup"),
        *("daphne-like", "-u", "/s", "--access-log", "access.log", APPLICATION),
    )
    server.wait_for_log("Listening on")
    assert b"hello" == ask(f"unix:{path}")
    with connect(f"unix:{path}") as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
        assert sock.recv(1024)[3] == 4  # SETTINGS, from a module imported before

    assert 0 == server.stop()
    assert '"GET /hello" 200' in (root / "access.log").read_text("utf-8")
    assert "Traceback" not in server.log
