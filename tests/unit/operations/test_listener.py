"""Tests of ``daphne_like.operations.listener``."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from event_loops import LOOPS, run_on
from operated import FakeOperated
from recorded_log import RecordedLog

from daphne_like.errors import ListenError
from daphne_like.operations.listener import (
    OperationsListener,
    _give_up_sockets,
    _is_at,
)
from daphne_like.settings import OperationsSettings, Settings

READY = b"GET /health/ready HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dl") as folder:
        yield Path(folder)


@pytest.fixture
def path(folder: Path) -> Path:
    """Choose a path for the control socket."""
    return folder / "control: 1"


@pytest.fixture
def operated() -> FakeOperated:
    """Make a server."""
    return FakeOperated()


Listen = Callable[..., OperationsListener]


@pytest.fixture
def listener(operated: FakeOperated, path: Path, log: RecordedLog) -> Listen:
    """Make listeners for it, on that path."""

    def listener(**settings: Any) -> OperationsListener:
        settings = settings or {"control_socket": str(path), "metrics": "0"}
        return OperationsListener(operated, OperationsSettings(**settings))

    return listener


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to where the listener says it is."""
    if url.startswith("unix:"):
        return await asyncio.open_unix_connection(url.removeprefix("unix:"))
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = READY
) -> tuple[int, bytes]:
    """Make a request and return status and body."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [
        line for line in head.split(b"\r\n") if line.startswith(b"content-length")
    ]
    body = await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1]), body


@pytest.mark.parametrize("kind", LOOPS)
def test_it_answers_on_each_address(
    kind: str, listener: Listen, operated: FakeOperated, path: Path
) -> None:
    """Probes are answered on TCP and on the control socket, from start to stop."""

    async def scenario() -> None:
        listening = listener()
        assert [] == listening.urls
        await listening.start()
        tcp, unix = listening.urls
        assert tcp.startswith("http://127.0.0.1:")
        assert f"unix:{path}" == unix
        streams = [await connect(url) for url in (tcp, unix)]
        for phase, status in (("starting", 503), ("ready", 200), ("draining", 503)):
            operated.phase = phase
            for reader, writer in streams:
                answer = await ask(reader, writer)
                assert (status, f"{phase}\n".encode()) == answer
        await listening.stop()
        assert [] == listening.urls
        for reader, writer in streams:
            assert b"" == await reader.read()
            writer.close()
        assert not path.exists()

    run_on(kind, scenario())


def test_no_reactor_is_needed(listener: Listen) -> None:
    """A supervisor's loop, which keeps nothing in the kernel, is enough."""
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())

    async def scenario() -> None:
        listening = listener()
        await listening.start()
        for url in listening.urls:
            reader, writer = await connect(url)
            assert (200, b"ready\n") == await ask(reader, writer)
            writer.close()
        await listening.stop()

    before = sys.modules.get("twisted.internet.reactor")
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
    assert before is sys.modules.get("twisted.internet.reactor")


def test_only_its_owner_may_use_the_socket(listener: Listen, path: Path) -> None:
    """The file has mode 0600 from its first instant, whatever the umask."""

    async def scenario() -> None:
        before = os.umask(0)
        try:
            listening = listener(control_socket=str(path))
            [endpoint] = listening.endpoints
            endpoint.bind()
        finally:
            os.umask(before)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        await listening.start()
        await listening.stop()

    run_on("asyncio", scenario())


def test_nothing_is_opened_unasked(listener: Listen) -> None:
    """Without settings there is neither an address nor a socket."""

    async def scenario() -> None:
        listening = OperationsListener(FakeOperated(), OperationsSettings())
        assert not listening.endpoints
        await listening.start()
        assert not listening.urls
        await listening.stop()

    run_on("asyncio", scenario())


@pytest.mark.parametrize(
    ("where", "begins"),
    [
        ("0", "http://127.0.0.1:"),
        ("localhost:0", "http://127.0.0.1:"),
        pytest.param(
            "[::1]:0",
            "http://[::1]:",
            marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here"),
        ),
    ],
)
def test_addresses(listener: Listen, where: str, begins: str) -> None:
    """A port alone is one of this machine; a host may be given."""

    async def scenario() -> None:
        listening = listener(metrics=where)
        await listening.start()
        assert any(url.startswith(begins) for url in listening.urls)
        await listening.stop()

    run_on("asyncio", scenario())


def test_an_address_in_use(listener: Listen, path: Path) -> None:
    """A second server on the same control socket is told so, and opens nothing."""

    async def scenario() -> None:
        first, second = listener(), listener()
        await first.start()
        with pytest.raises(ListenError, match=r"control: 1: Address already in use"):
            await second.start()
        assert [] == second.urls
        [reader, writer] = await connect(f"unix:{path}")
        assert (200, b"ready\n") == await ask(reader, writer)
        writer.close()
        await first.stop()

    run_on("asyncio", scenario())


def test_a_socket_left_behind(listener: Listen, path: Path) -> None:
    """The file of a server which was killed is no obstacle."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        listening = listener(control_socket=str(path))
        await listening.start()
        await listening.stop()

    run_on("asyncio", scenario())


def test_stopping_waits_for_no_worker(
    listener: Listen,
    operated: FakeOperated,
    log: RecordedLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer which doesn't come can't keep the server from ending."""
    hurried = Settings.of(timeout_graceful_shutdown=0.01)
    monkeypatch.setattr("daphne_like.operations.listener._SETTINGS", hurried)
    operated.gate.clear()

    async def scenario() -> None:
        listening = listener()
        await listening.start()
        reader, writer = await connect(listening.urls[1])
        writer.write(b"GET /tasks HTTP/1.1\r\nhost: a\r\n\r\n")
        await operated.asked.wait()
        await listening.stop()
        assert b"503" in await reader.read()
        writer.close()

    run_on("asyncio", scenario())
    log.take()


def test_it_starts_again(listener: Listen) -> None:
    """A service which is stopped and started again listens again."""

    async def scenario() -> None:
        listening = listener()
        for _ in range(2):
            await listening.start()
            reader, writer = await connect(listening.urls[1])
            assert (200, b"ready\n") == await ask(reader, writer)
            writer.close()
            await listening.stop()

    run_on("asyncio", scenario())


@pytest.mark.parametrize(
    ("name", "bound", "ours"),
    [
        (("127.0.0.1", 9000), ("127.0.0.1", 9000), True),
        (("127.0.0.2", 9000), ("127.0.0.1", 9000), False),
        (("127.0.0.1", 9001), ("127.0.0.1", 9000), False),
        (("10.0.0.1", 9000), ("0.0.0.0", 9000), True),
        (("10.0.0.1", 9001), ("0.0.0.0", 9000), False),
        (("::ffff:10.0.0.1", 9000, 0, 0), ("::", 9000, 0, 0), True),
        (("::1", 9000, 0, 0), ("127.0.0.1", 9000), False),
        ("/run/control", "/run/control", True),
        ("/run/app", "/run/control", False),
        ("", "/run/control", False),
        (b"", "/run/control", False),
        ("/run/control", ("127.0.0.1", 9000), False),
    ],
)
def test_what_a_child_gives_up(name: object, bound: object, ours: bool) -> None:
    """Connections of operators are told from the application's by their addresses."""
    assert ours is _is_at(name, bound)


def test_a_connection_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing is known of it, and it stays open: it isn't the listener's to close.

    Cause: macOS has no name for a connection which was reset, so a worker that was
    forked then failed, and the connection of somebody else was closed.
    """

    class Nameless(socket.socket):
        """Has lost its peer."""

        def getsockname(self) -> Any:
            raise OSError(errno.EINVAL, "Invalid argument")

    one, other = socket.socketpair()
    with one, other:
        monkeypatch.setattr(os, "listdir", lambda _: [str(one.fileno())])
        monkeypatch.setattr(socket, "socket", Nameless)
        _give_up_sockets(["/run/control"])
        one.send(b"a")
        assert b"a" == other.recv(1)
