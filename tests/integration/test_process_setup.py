"""What a real server process is to the system."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import resource
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from raw_http import connect, read_to_end, split_answers
from server_process import APPLICATIONS, Serve, ServerProcess

APPLICATION = ("applications.who:application", "--app-dir", str(APPLICATIONS))

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give up the privileges of root"
)
on_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads /proc of Linux"
)
pytestmark = on_linux


# Where folders of root's alone lead to Python, to its packages or to this file, nobody
# can import from there: shows folders without that lock, to this process and its children.
_READABLE = f"""
import ctypes, os, subprocess, sys
needed = [sys.prefix, sys.base_prefix, {str(Path(__file__).parents[2])!r}]

def locked():
    for path in needed:
        parts = path.strip("/").split("/")
        for count in range(1, len(parts)):
            above = "/" + "/".join(parts[:count])
            if os.stat(above).st_mode & 5 != 5:
                return above
    return None

if locked() and ctypes.CDLL(None, use_errno=True).unshare(0x20000):
    sys.exit("no permission to unshare")
while folder := locked():
    inside = [path for path in needed if path.startswith(folder + "/")]
    script = ["set -e; mount --make-rprivate /; mount -t tmpfs none /mnt"]
    for number, path in enumerate(inside):
        script.append(f"mkdir /mnt/{{number}}; mount --bind '{{path}}' /mnt/{{number}}")
    script.append(f"mount -t tmpfs -o mode=755 none '{{folder}}'")
    for number, path in enumerate(inside):
        script.append(f"mkdir -p '{{path}}'; mount --bind /mnt/{{number}} '{{path}}'")
    subprocess.run(["sh", "-c", "; ".join(script)], check=True)
os.execv(sys.executable, [sys.executable, "-m", "daphne_like", *sys.argv[1:]])
"""
READABLE = ("-c", _READABLE)


def title(pid: int) -> str:
    """Return what listings show of a process."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return command.rstrip(b"\0 ").decode()


def ask(server: ServerProcess, url: str = "") -> dict[str, Any]:
    """Return what the application tells."""
    with connect(url or server.url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        [answer] = split_answers(read_to_end(sock))
    told: dict[str, Any] = json.loads(answer.body)
    return told


def test_nothing_is_changed_unasked(serve: Serve) -> None:
    """Without these settings the process is as it was started."""
    told = ask(serve(*APPLICATION))

    limits = [str(limit) for limit in resource.getrlimit(resource.RLIMIT_CORE)]
    assert " ".join(limits).replace("-1", "unlimited") == told["core"]
    assert str(APPLICATIONS) == told["directory"]
    assert [os.geteuid()] * 3 == told["users"]


def test_directory_umask_title_and_pid_file(serve: Serve, tmp_path: Path) -> None:
    """All hold while the server runs; the pid file, in that directory, is gone then."""
    server = serve(
        *APPLICATION,
        *("--chdir", str(tmp_path), "--umask", "027", "--pid-file", "pid"),
        *("--process-title", "our shop", "--access-log", "access.log"),
    )
    told = ask(server)
    pid = told["pid"]

    assert str(tmp_path) == told["directory"]
    assert 0o27 == told["umask"]
    assert f"{pid}\n" == (tmp_path / "pid").read_text("ascii")
    assert "our shop" == title(pid)
    assert 0 == server.stop()
    assert not (tmp_path / "pid").exists()
    log = tmp_path / "access.log"
    assert 0o640 == stat.S_IMODE(log.stat().st_mode)


def test_a_second_server_is_told_of_the_first(
    serve: Serve, launch: Serve, tmp_path: Path
) -> None:
    """One line names its process; after a kill the file is no obstacle."""
    options = ("--pid-file", str(tmp_path / "pid"))
    first = serve(*APPLICATION, *options)
    second = launch(*APPLICATION, *options, "-p", "0")
    assert 1 == second.wait()
    assert f"a server is running already, process {first.process.pid}\n" in second.log

    first.signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "pid").exists()
    third = serve(*APPLICATION, *options)
    assert f"{third.process.pid}\n" == (tmp_path / "pid").read_text("ascii")


def test_core_dumps_are_prevented(serve: Serve) -> None:
    """The limit is 0, also for children; and no helper gets the memory either."""
    told = ask(serve(*APPLICATION, "--no-core-dumps"))

    assert "0 0" == told["core"]
    # proc(5): root's, where the process may not be dumped.
    assert 0 == Path(f"/proc/{told['pid']}/environ").stat().st_uid


@as_root
def test_privileges_are_given_up(
    serve: Serve, socket_folder: Path, tmp_path: Path
) -> None:
    """
    Privileged addresses are bound as root. The application is imported as the user,
    has only its groups, and no way back.
    """
    nobody = pwd.getpwnam("nobody")
    port = _privileged_port()
    path = socket_folder / "root-only.sock"
    pid_file = socket_folder / "pid"
    server = serve(
        *APPLICATION,
        *("-p", str(port), "-u", str(path), "--user", "nobody"),
        *("--pid-file", str(pid_file), "--chdir", "/"),
        program=READABLE,
    )
    assert stat.S_ISSOCK(path.stat().st_mode)
    for url in (f"http://127.0.0.1:{port}", f"unix:{path}"):
        told = ask(server, url)
        assert nobody.pw_uid == told["imported_by"]
        assert [nobody.pw_uid] * 3 == told["users"]
        assert {nobody.pw_gid} == set(told["groups"])
        assert nobody.pw_dir == told["home"]
        assert 0 == int(told["capabilities"], 16)
    assert f"{told['pid']}\n" == pid_file.read_text("ascii")
    assert 0 == pid_file.stat().st_uid

    assert 0 == server.stop()
    # The folder is root's: nobody can remove it, and so it is emptied.
    assert b"" == pid_file.read_bytes()


@as_root
def test_a_key_which_the_user_cannot_read_is_found_at_the_start(
    launch: Serve, tmp_path: Path
) -> None:
    """Not months later, when the certificate is renewed; status 2."""
    certificate = Authority("CA").issue("localhost").write(tmp_path / "pem")
    certificate.chmod(0o600)
    server = launch(
        *APPLICATION,
        *("-p", "0", "--user", "nobody", "--chdir", "/"),
        *("--ssl-certfile", str(certificate)),
        program=READABLE,
    )
    assert 2 == server.wait()
    assert "ermission" in server.log


@as_root
def test_an_unknown_user_is_found_before_anything_is_done(
    launch: Serve, tmp_path: Path
) -> None:
    """One line, status 2."""
    pid_file = tmp_path / "pid"
    server = launch(*APPLICATION, "--user", "nbody", "--pid-file", str(pid_file))

    assert 2 == server.wait()
    assert server.log.endswith("user: there is no user nbody\n")
    assert not pid_file.exists()


@as_root
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_have_no_privileges_either(
    serve: Serve, socket_folder: Path, start: str
) -> None:
    """
    The supervisor binds as root, and becomes the user before it starts any; it can
    replace them as that user, and keeps the pid file.
    """
    nobody = pwd.getpwnam("nobody")
    port = _privileged_port()
    pid_file = socket_folder / f"{start}.pid"
    server = serve(
        *APPLICATION,
        *("-p", str(port), "--user", "nobody", "--chdir", "/", "--workers", "1"),
        *("--worker-start", start, "--pid-file", str(pid_file), "--no-core-dumps"),
        *("--process-title", "our shop"),
        program=READABLE,
    )
    supervisor = server.process.pid
    told = ask(server)
    pids = {told["pid"]}
    for _ in range(2):
        assert nobody.pw_uid == told["imported_by"]
        assert [nobody.pw_uid] * 3 == told["users"]
        assert {nobody.pw_gid} == set(told["groups"])
        assert 0 == int(told["capabilities"], 16)
        assert "0 0" == told["core"]
        assert supervisor != told["pid"]
        os.kill(told["pid"], signal.SIGKILL)
        # Who connects meanwhile waits, unless the dead one has accepted it.
        while told["pid"] in pids:
            with contextlib.suppress(OSError, ValueError):
                told = ask(server)
        pids.add(told["pid"])
    status = Path(f"/proc/{supervisor}/status").read_text("ascii")
    assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t" in status
    assert f"{supervisor}\n" == pid_file.read_text("ascii")
    assert "our shop: supervisor" == title(supervisor)
    assert "our shop: worker 3" == title(told["pid"])

    assert 0 == server.stop()
    assert b"" == pid_file.read_bytes()


def _privileged_port() -> int:
    """Find a free one; not the one which another test finds at the same time."""
    while True:
        port = random.randrange(400, 1023)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
