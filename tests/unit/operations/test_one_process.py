"""Tests of ``daphne_like.operations.one_process``, and of the server it looks at."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from event_loops import run_on
from recorded_log import RecordedLog

from daphne_like import __version__
from daphne_like.operations.interfaces import Operated
from daphne_like.operations.one_process import OneProcess
from daphne_like.operations.tables import WatchedConnections
from daphne_like.server import Server


class Site:
    """An application which starts, answers and ends when the test says so."""

    def __init__(self) -> None:
        self.startup = asyncio.Event()
        self.gate = asyncio.Event()
        self.shutdown = asyncio.Event()
        self.asked = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait for the test."""
        if scope["type"] == "lifespan":
            await receive()
            await self.startup.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.shutdown.wait()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.asked.set()
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dl") as folder:
        yield Path(folder)


def make(site: Site, folder: Path, **settings: Any) -> Server:
    """Make a server with a control socket."""
    return Server(
        site,
        [f"unix:{folder / 's'}"],
        access_log="",
        **{"control_socket": str(folder / "c"), **settings},
    )


async def request(path: Path, line: bytes) -> bytes:
    """Make a request of its own connection, and return the answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def test_health_is_answered_all_the_time(folder: Path, log: RecordedLog) -> None:
    """It is alive while it starts and while it drains, and ready in between."""
    site = Site()

    async def scenario() -> None:
        async def health() -> list[int]:
            return [
                int((await request(folder / "c", b"GET /health/" + name)).split()[1])
                for name in (b"live", b"ready", b"draining")
            ]

        server = make(site, folder)
        starting = asyncio.ensure_future(server.startup())
        assert server._operations is not None
        while not server._operations.urls:
            await asyncio.sleep(0)
        assert [200, 503, 503] == await health()
        site.startup.set()
        await starting
        assert [200, 200, 503] == await health()
        asking = asyncio.ensure_future(request(folder / "s", b"GET /"))
        await site.asked.wait()
        stopping = asyncio.ensure_future(server.shutdown())
        assert [200, 503, 200] == await health()
        site.gate.set()
        assert b"204" in await asking
        # The application's own end may take its time as well.
        assert [200, 503, 200] == await health()
        site.shutdown.set()
        await stopping
        assert not (folder / "c").exists()

    run_on("asyncio", scenario())


def test_what_it_tells(folder: Path, log: RecordedLog) -> None:
    """Status, the only worker, connections, tasks and counters."""
    site = Site()
    site.startup.set()
    site.shutdown.set()

    async def scenario() -> None:
        server = make(site, folder)
        await server.startup()
        asking = asyncio.ensure_future(request(folder / "s", b"GET /slow"))
        await site.asked.wait()
        operated: Operated = OneProcess(server, lambda: {"requests": 9})
        status = dict(await operated.status())
        assert 0 <= status.pop("age")
        assert {
            "version": __version__,
            "phase": "ready",
            "pid": os.getpid(),
            "workers": 1,
            "connections": 1,
            "in_flight": 1,
            "addresses": [f"unix:{folder / 's'}"],
        } == status
        [worker] = await operated.workers()
        assert (1, os.getpid(), "ready", 1) == (
            worker["worker"],
            worker["pid"],
            worker["phase"],
            worker["in_flight"],
        )
        [connection] = await operated.connections()
        assert "GET /slow" == connection["doing"]
        assert any("in __call__" in row["stack"] for row in await operated.tasks())
        assert {"requests": 9} == await operated.metrics()
        assert {} == await OneProcess(server).metrics()
        site.gate.set()
        await asking
        await server.shutdown()
        assert "draining" == operated.phase

    run_on("asyncio", scenario())


def test_what_it_obeys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It drains, and the log says who wanted it; it reads certificates again if there are some; it stays one."""
    server = make(Site(), folder)
    operated = OneProcess(server)
    calls: list[str] = []
    monkeypatch.setattr(server, "stop", lambda: calls.append("stop"))
    monkeypatch.setattr(server, "reload", lambda: calls.append("reload"))
    caplog.set_level("INFO")
    operated.drain()
    assert "Asked to drain: stopping" in caplog.text
    with pytest.raises(ValueError, match="nothing to reload"):
        operated.reload()
    monkeypatch.setattr(Server, "can_reload", True)
    operated.reload()
    with pytest.raises(ValueError, match="--workers"):
        operated.scale(2)
    assert ["stop", "reload"] == calls


def test_connections_are_watched_when_asked_for(folder: Path) -> None:
    """Without a control socket nobody keeps the books of connections."""
    watched = make(Site(), folder).connections
    assert isinstance(watched, WatchedConnections)
    server = make(Site(), folder, control_socket=None)
    assert not isinstance(server.connections, WatchedConnections)

    async def scenario() -> None:
        assert [] == await OneProcess(server).connections()

    run_on("asyncio", scenario())


def test_the_supervisor_answers_for_workers(folder: Path) -> None:
    """A worker leaves the addresses to its supervisor."""
    server = make(Site(), folder, workers=2)
    assert server._operations is None
    assert isinstance(server.connections, WatchedConnections)


def test_the_control_socket_is_bound_first(folder: Path, log: RecordedLog) -> None:
    """A second server with the same one ends before its application starts."""
    site = Site()
    site.startup.set()
    site.shutdown.set()

    async def scenario() -> None:
        server = make(site, folder)
        await server.startup()
        other = Site()
        second = Server(
            other,
            [f"unix:{folder / 'other'}"],
            access_log="",
            control_socket=str(folder / "c"),
        )
        with pytest.raises(Exception, match="Address already in use"):
            await second.startup()
        assert (folder / "c").exists()
        await server.shutdown()

    run_on("asyncio", scenario())
    assert ["CRITICAL"] == [line.split()[0] for line in log.take()]
