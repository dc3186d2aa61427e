"""Tests of ``daphne_like.operations.tables``."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from event_loops import LOOPS, run_on
from recorded_log import RecordedLog
from websocket_drivers import handshake
from whole_server import ACCEPT, Application

from daphne_like.operations import tables
from daphne_like.operations.tables import (
    WatchedConnections,
    resident_bytes,
    task_rows,
)
from daphne_like.protocols.interfaces import ConnectionReport, RequestHead
from daphne_like.server import Server

UPLOAD = b"POST /upload?key=secret HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
HTTP2_UPLOAD = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    # HEADERS, END_HEADERS: POST http / with authority a
    b"\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a"
)


class Transport:
    """Of a connection which isn't there."""

    def getPeer(self) -> Any:
        """Tell nothing."""

    def getHost(self) -> Any:
        """Tell nothing."""


class Connection:
    """A live connection which reports what the test has arranged."""

    def __init__(self, target: bytes = b"/") -> None:
        head = RequestHead(target)
        head.method = "GET"
        self.told = ConnectionReport("HTTP/1.1", Transport(), 1, head)

    def report(self) -> ConnectionReport:
        """Tell it."""
        return self.told

    def last_call(self) -> None:
        """Do nothing."""

    def drain(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


async def rows_of(server: Server, count: int) -> list[dict[str, Any]]:
    """Wait until so many connections have a request, and return their rows."""
    assert isinstance(server.connections, WatchedConnections)
    while True:
        rows = await server.connections.rows(3)
        if count == sum(bool(row["in_flight"]) for row in rows):
            return rows
        await asyncio.sleep(0)


async def served(*endpoints: str) -> AsyncIterator[Server]:
    """Serve with an eye on connections."""
    server = Server(
        Application(ACCEPT),
        endpoints,
        access_log="",
        lifespan="off",
        control_socket="unused",
    )
    # What is tested here are the rows alone.
    server._operations = None
    await server.startup()
    yield server
    server.force()
    await server.shutdown()


@pytest.mark.parametrize("kind", LOOPS)
def test_rows_tell_of_connections(kind: str, log: RecordedLog) -> None:
    """Of each connection is told who is there, since when, and what it does."""

    async def scenario() -> None:
        async for server in served("tcp:0:interface=127.0.0.1"):
            host, port = server.listening_addresses[0]
            writers = []
            for request in (UPLOAD, handshake(b"/chat"), HTTP2_UPLOAD):
                _, writer = await asyncio.open_connection(host, port)
                writer.write(request)
                writers.append(writer)
                rows = await rows_of(server, len(writers))
            clients = {
                "{}:{}".format(*writer.get_extra_info("sockname")): writer
                for writer in writers
            }
            assert {row["client"] for row in rows} == {*clients}
            assert [row["age"] for row in rows] == sorted(
                (row["age"] for row in rows), reverse=True
            )
            assert {("HTTP/1.1", "POST /upload"), ("WebSocket", "GET /chat")} | {
                ("HTTP/2", "POST /")
            } == {(row["protocol"], row["doing"]) for row in rows}
            for row in rows:
                assert f"{host}:{port}" == row["server"]
                assert (3, 1, False) == (row["worker"], row["in_flight"], row["tls"])
            [row] = [row for row in rows if row["protocol"] == "HTTP/1.1"]
            if sys.platform == "linux":
                assert len(UPLOAD) == row["received_bytes"]
            json.dumps(rows)
            for writer in writers:
                writer.close()

    run_on(kind, scenario())
    log.take()


def test_rows_of_unix_sockets(tmp_path: Any, log: RecordedLog) -> None:
    """Clients on Unix sockets have no address, and the kernel counts nothing."""
    path = tmp_path / "s"

    async def scenario() -> None:
        async for server in served(f"unix:{path}"):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(UPLOAD)
            [row] = await rows_of(server, 1)
            assert ("unix", f"unix:{path}") == (row["client"], row["server"])
            assert (None, None) == (row["received_bytes"], row["sent_bytes"])
            writer.close()

    run_on("asyncio", scenario())
    log.take()


def test_bytes_are_those_of_the_kernel() -> None:
    """What it has received and sent is asked of the system, where it knows."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as served,
    ):
        client.sendall(b"x" * 100)
        served.recv(100, socket.MSG_WAITALL)

        class Held:
            socket = served

        received, sent = tables._carried_bytes(Held())
    if sys.platform == "linux":
        assert 100 == received
        assert sent in (0, 1)  # the handshake's own counts in some kernels
    else:
        assert (None, None) == (received, sent)


def test_ages_are_told_by_the_clock() -> None:
    """The age of a connection is the time since it came."""
    now = 50.0
    connections = WatchedConnections(lambda: now)
    connections.add(Connection())
    now += 5
    connections.add(Connection())
    now += 2

    async def scenario() -> None:
        rows = await connections.rows(1)
        assert [7.0, 2.0] == [row["age"] for row in rows]
        assert ["unix", "unix"] == [row["client"] for row in rows]

    run_on("asyncio", scenario())


def test_many_connections_are_told_in_turns() -> None:
    """Others get their turn meanwhile, and those who leave are left out."""
    connections = WatchedConnections()
    known = [Connection(b"/%d?token=1" % number) for number in range(450)]
    for connection in known:
        connections.add(connection)

    async def scenario() -> None:
        telling = asyncio.ensure_future(connections.rows(1))
        await asyncio.sleep(0)
        assert not telling.done()
        for connection in known[400:]:
            connections.discard(connection)
        rows = await telling
        assert [f"GET /{number}" for number in range(400)] == [
            row["doing"] for row in rows
        ]

    run_on("asyncio", scenario())
    assert 400 == len(connections)


def test_long_paths_are_cut() -> None:
    """Cause: thousands of requests for them made an answer that was too long to send."""
    connections = WatchedConnections()
    connections.add(Connection(b"/" + b"a" * 5000))

    async def scenario() -> None:
        [row] = await connections.rows(1)
        assert f"GET /{'a' * 199}…" == row["doing"]

    run_on("asyncio", scenario())


# -- Tasks and threads -------------------------------------------------------


async def inner(gate: asyncio.Event) -> None:
    """Wait."""
    await gate.wait()


async def outer(gate: asyncio.Event) -> None:
    """Wait for somebody who waits."""
    await inner(gate)


@pytest.mark.parametrize("kind", LOOPS)
def test_tasks_tell_where_they_are(kind: str) -> None:
    """The whole way from the task's function to what it waits for is shown."""

    async def scenario() -> None:
        gate = asyncio.Event()
        waiters = [
            asyncio.get_running_loop().create_task(outer(gate), name=f"waiter {n}")
            for n in range(300)
        ]
        await asyncio.sleep(0)
        tasks = [row for row in await task_rows(2) if row["kind"] == "task"]
        [row] = [row for row in tasks if "in outer" in row["stack"]]
        assert (2, 300) == (row["worker"], row["count"])
        assert row["name"].startswith("waiter ")
        stack = row["stack"]
        assert (
            stack.index("in outer") < stack.index("in inner") < stack.index("in wait")
        )
        assert "await inner(gate)" in stack
        gate.set()
        await asyncio.gather(*waiters)

    run_on(kind, scenario())


def test_a_generator_is_followed() -> None:
    """What an asynchronous generator waits for shows, too."""

    async def numbers(gate: asyncio.Event) -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    async def reading(gate: asyncio.Event) -> None:
        async for _ in numbers(gate):
            pass

    async def scenario() -> None:
        gate = asyncio.Event()
        task = asyncio.ensure_future(reading(gate))
        await asyncio.sleep(0)
        assert any("in reading" in row["stack"] for row in await task_rows(1))
        gate.set()
        await task

    run_on("asyncio", scenario())


def test_threads_tell_where_they_are() -> None:
    """A view that blocks in a thread is found by the thread's name."""
    gate = threading.Event()

    def blocking_view() -> None:
        gate.wait()

    async def scenario() -> None:
        thread = threading.Thread(target=blocking_view, name="a view")
        thread.start()
        try:
            while True:
                rows = [row for row in await task_rows(1) if row["name"] == "a view"]
                if rows and "blocking_view" in rows[0]["stack"]:
                    break
        finally:
            gate.set()
            thread.join()
        [row] = rows
        assert "thread" == row["kind"]
        assert any(row["name"] == "MainThread" for row in await task_rows(1))

    run_on("asyncio", scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory() -> None:
    """The memory is told in bytes."""
    here = resident_bytes()
    assert here is not None
    assert 1_000_000 < here < 10_000_000_000


def test_memory_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system doesn't say it, nothing is told."""

    def refuse(*arguments: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    assert resident_bytes() is None
