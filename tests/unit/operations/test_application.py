"""Tests of ``daphne_like.operations.application``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from operated import FakeOperated
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop

from daphne_like.asgi.types import ASGIApplication, Message
from daphne_like.operations.application import (
    controlling_application,
    watching_application,
)


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    headers: dict[str, str]
    body: bytes
    pieces: int

    @property
    def json(self) -> Any:
        """The body's meaning."""
        return json.loads(self.body)


@pytest.fixture
def operated() -> FakeOperated:
    """Make a server."""
    return FakeOperated()


def start(
    loop: SteppedLoop,
    application: ASGIApplication,
    method: str,
    path: str,
    *events: Message,
) -> tuple[asyncio.Task[None], list[Any]]:
    """Begin a request."""
    sent: list[Any] = []
    waiting = [*events] or [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        scope: Any = {"type": "http", "method": method, "path": path}
        await application(scope, receive, send)

    task = loop.create_task(ask())
    for _ in range(3):
        loop.settle()
    return task, sent


def ask(
    loop: SteppedLoop,
    application: ASGIApplication,
    method: str,
    path: str,
    *events: Message,
) -> Answer:
    """Make a request and return the whole answer."""
    task, sent = start(loop, application, method, path, *events)
    task.result()
    head, *bodies = sent
    assert not bodies[-1].get("more_body", False)
    headers = {name.decode(): value.decode() for name, value in head["headers"]}
    body = b"".join(message["body"] for message in bodies)
    return Answer(head["status"], headers, body, len(bodies))


def body(data: bytes, *, more: bool = False) -> Message:
    """Make an event with a body."""
    return {"type": "http.request", "body": data, "more_body": more}


# -- Health ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "live", "ready", "draining"),
    [
        ("starting", 200, 503, 503),
        ("ready", 200, 200, 503),
        ("draining", 200, 503, 200),
    ],
)
@pytest.mark.parametrize("which", ["watching", "controlling"])
def test_health_is_a_status(
    loop: SteppedLoop,
    operated: FakeOperated,
    *,
    which: str,
    phase: str,
    live: int,
    ready: int,
    draining: int,
) -> None:
    """A probe needs only the status: alive in all phases, ready while it serves."""
    operated.phase = phase
    application = (
        watching_application(operated, None)
        if which == "watching"
        else controlling_application(operated)
    )
    for name, status in (("live", live), ("ready", ready), ("draining", draining)):
        for method in ("GET", "HEAD"):
            answer = ask(loop, application, method, f"/health/{name}")
            assert status == answer.status
            assert f"{phase}\n" == answer.body.decode()
            assert "text/plain; charset=utf-8" == answer.headers["content-type"]
            assert "no-store" == answer.headers["cache-control"]


def test_health_needs_no_worker(loop: SteppedLoop, operated: FakeOperated) -> None:
    """Health is answered even when the workers answer nothing."""
    operated.gate.clear()
    application = watching_application(operated, None)
    assert 200 == ask(loop, application, "GET", "/health/live").status


# -- Metrics -----------------------------------------------------------------


def test_metrics_are_rendered(loop: SteppedLoop, operated: FakeOperated) -> None:
    """Prometheus gets the counters in the format that was chosen."""

    def render(snapshot: Mapping[str, Any]) -> tuple[str, bytes]:
        return "text/x", f"requests {snapshot['requests']}".encode()

    application = watching_application(operated, render)
    answer = ask(loop, application, "GET", "/metrics")
    assert (200, "text/x", b"requests 3") == (
        answer.status,
        answer.headers["content-type"],
        answer.body,
    )


def test_the_address_obeys_nobody(loop: SteppedLoop, operated: FakeOperated) -> None:
    """What others of the network can reach has neither orders nor details."""
    application = watching_application(operated, None)
    for path in ("/drain", "/scale", "/reload", "/connections", "/tasks", "/metrics"):
        for method in ("GET", "POST"):
            assert 404 == ask(loop, application, method, path).status
    assert not operated.orders


# -- Questions ---------------------------------------------------------------


@pytest.fixture
def control(operated: FakeOperated) -> ASGIApplication:
    """Make the application of the control socket."""
    return controlling_application(operated)


def test_questions_are_answered_in_json(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """The status is an object, everything else an array of objects."""
    answer = ask(loop, control, "GET", "/status")
    assert {"phase": "ready", "pid": 77, "workers": 2} == answer.json
    assert "application/json" == answer.headers["content-type"]
    for path in ("/workers", "/connections", "/tasks"):
        operated.rows = []
        assert [] == ask(loop, control, "GET", path).json
        operated.rows = [{"worker": 1, "name": 'a "b" é'}]
        assert operated.rows == ask(loop, control, "GET", path).json


def test_many_rows_leave_in_pieces(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """Ten thousand connections don't hold up the event loop."""
    for count, pieces in ((100, 1), (101, 2), (200, 2), (1050, 11)):
        operated.rows = [{"number": number} for number in range(count)]
        answer = ask(loop, control, "GET", "/connections")
        assert (operated.rows, pieces) == (answer.json, answer.pieces)


def test_workers_which_do_not_answer(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """A worker that hangs doesn't make the operator hang."""
    operated.gate.clear()
    task, sent = start(loop, control, "GET", "/tasks")
    loop.advance(9)
    assert not task.done()
    loop.advance(2)
    loop.settle()
    assert [504] == [message["status"] for message in sent if "status" in message]


def test_a_failure_is_logged(
    loop: SteppedLoop,
    operated: FakeOperated,
    control: ASGIApplication,
    log: RecordedLog,
) -> None:
    """A fault of the server's own is a 500 and a traceback in the log."""
    operated.failure = RuntimeError("oh")
    answer = ask(loop, control, "GET", "/status")
    assert 500 == answer.status
    assert "oh" not in answer.json["error"]
    assert [operated.failure] == log.take_errors()


# -- Orders ------------------------------------------------------------------


def test_orders_are_obeyed(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """An order is accepted at once; the status shows when it is done."""
    assert 202 == ask(loop, control, "POST", "/reload").status
    pieces = body(b'{"work', more=True), body(b'ers": 4}')
    assert 202 == ask(loop, control, "POST", "/scale", *pieces).status
    answer = ask(loop, control, "POST", "/drain")
    assert (202, {"accepted": True}) == (answer.status, answer.json)
    assert ["reload", ("scale", 4), "drain"] == operated.orders


def test_orders_are_refused(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """What the server can't do it refuses with the reason."""
    operated.refusal = "there is nothing to reload"
    answer = ask(loop, control, "POST", "/reload")
    assert (409, {"error": "there is nothing to reload"}) == (
        answer.status,
        answer.json,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        b"[]",
        b"4",
        b"\xff",
        b'{"workers": 0}',
        b'{"workers": -1}',
        b'{"workers": "2"}',
        b'{"workers": 1.5}',
        b'{"workers": true}',
    ],
)
def test_a_wrong_number_of_workers(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication, wrong: bytes
) -> None:
    """Garbage is told what would be right."""
    answer = ask(loop, control, "POST", "/scale", body(wrong))
    assert 400 == answer.status
    assert '{"workers": N}' in answer.json["error"]
    assert not operated.orders


def test_a_body_which_is_too_large(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """No order is that long."""
    pieces = [body(bytes(40_000), more=True)] * 3
    assert 413 == ask(loop, control, "POST", "/scale", *pieces).status


def test_a_client_which_leaves(
    loop: SteppedLoop, operated: FakeOperated, control: ASGIApplication
) -> None:
    """An order of which half has arrived isn't obeyed."""
    gone: Message = {"type": "http.disconnect"}
    ask(loop, control, "POST", "/drain", body(b"", more=True), gone)
    assert not operated.orders


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/drain", "POST"),
        ("HEAD", "/reload", "POST"),
        ("POST", "/status", "GET, HEAD"),
        ("DELETE", "/health/live", "GET, HEAD"),
    ],
)
def test_the_wrong_method(
    loop: SteppedLoop,
    operated: FakeOperated,
    control: ASGIApplication,
    *,
    method: str,
    path: str,
    allow: str,
) -> None:
    """A link can't stop the server: orders are POST, questions are GET."""
    answer = ask(loop, control, method, path)
    assert (405, allow) == (answer.status, answer.headers["allow"])
    assert not operated.orders


def test_an_unknown_path(loop: SteppedLoop, control: ASGIApplication) -> None:
    """Who errs is told what there is."""
    answer = ask(loop, control, "GET", "/")
    assert 404 == answer.status
    assert "/health/ready" in answer.json["error"]


def test_no_websockets(loop: SteppedLoop, control: ASGIApplication) -> None:
    """Nobody is let into a WebSocket."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def connect() -> None:
        scope: Any = {"type": "websocket", "path": "/status"}
        await control(scope, receive, send)

    loop.run_until_complete(connect())
    assert [{"type": "websocket.close"}] == sent
