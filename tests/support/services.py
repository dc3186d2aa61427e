"""Services which sites talk to, started for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from chat_site import manage
from programs import find_program

_START_TIMEOUT = 30.0

# PostgreSQL refuses to run as root, as tests in containers do; Debian's package brings
# a user for it.
_USER = "postgres" if os.geteuid() == 0 else None


@contextmanager
def running(log: Path, *command: str, ready: Callable[[], bool]) -> Iterator[None]:
    """Run a service until the end of the block."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd="/", stdout=output, stderr=subprocess.STDOUT, user=_USER
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _START_TIMEOUT
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(log.read_text())
                time.sleep(0.02)
            yield
        finally:
            # PostgreSQL then doesn't wait for its clients.
            process.send_signal(signal.SIGINT)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a Unix socket, and tell its URL."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    initdb = Path(find_program(*reversed(debian), "initdb")).resolve()
    data = str(folder / "data")
    # Whatever the locale of who runs the tests is, and whether it is there.
    words = ("--no-locale", "--encoding=UTF8")
    subprocess.run(
        [str(initdb), "-D", data, "-U", "chat", "--auth=trust", "--no-sync", *words],
        cwd="/",
        check=True,
        stdout=subprocess.DEVNULL,
        user=_USER,
    )
    url = f"postgresql://chat@{quote(str(folder), safe='')}/postgres"

    def ready() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    postgres = str(initdb.with_name("postgres"))
    options = ("-D", data, "-k", str(folder), "-F", "-c", "listen_addresses=")
    with running(folder / "postgres.log", postgres, *options, ready=ready):
        yield url


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run Redis on a Unix socket, and tell its URL."""
    program, path = find_program("redis-server"), folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(path), "--save", "")
    with running(folder / "redis.log", program, *options, ready=path.exists):
        yield f"unix://{path}"


@contextmanager
def chat_on_services(data: Path) -> Iterator[dict[str, str]]:
    """
    Make the site of examples/chat on both services, with its tables.

    Args:
        data: Directory of the site.

    Yields:
        The environment of its servers.
    """
    # Below /tmp, since the path of a Unix socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="dl", dir="/tmp"))
    try:
        if _USER is not None:
            shutil.chown(folder, _USER)
        with ExitStack() as services:
            environment = {
                "CHAT_DATA": str(data),
                "DATABASE_URL": services.enter_context(postgresql(folder)),
                "REDIS_URL": services.enter_context(redis(folder)),
                "CHAT_SUMMARY": "0.2",
            }
            manage(environment, "migrate", "--verbosity", "0")
            yield environment
    finally:
        shutil.rmtree(folder)
