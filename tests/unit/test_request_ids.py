"""Tests of ``daphne_like.observability.request_ids``."""

from __future__ import annotations

import asyncio
import logging
import re
from contextvars import copy_context
from typing import Any

import pytest
from asgi_messages import body, start

from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send
from daphne_like.observability.request_ids import (
    RequestIDFilter,
    RequestIDs,
    current_request_id,
)

MADE = re.compile(rb"[0-9a-f]{32}")
HOST = (b"host", b"example.org")


@pytest.fixture
def request_ids() -> RequestIDs:
    """Number requests, and tell clients."""
    return RequestIDs("X-Request-ID", in_responses=True)


@pytest.mark.parametrize(
    "value",
    [b"a", b"x" * 128, b"6ba7b810-9dad-11d1-80b4-00c04fd430c8", b"Root=1-6+a/b_c.d~:@"],
)
def test_a_given_id_is_kept(request_ids: RequestIDs, value: bytes) -> None:
    """A proxy in front has made it, and its log has it, too."""
    headers = [HOST, (b"x-request-id", value)]

    assert request_ids.given(headers) is None
    assert value == request_ids.of(headers)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"x" * 129],
        [b"a b"],
        [b'"'],
        [b"a\x1b[2J"],
        [b"\xff"],
        [b"one", b"other"],
    ],
)
def test_else_one_is_made(request_ids: RequestIDs, values: list[bytes]) -> None:
    """There is exactly one then, which can't do harm in a log."""
    headers = [HOST, *((b"x-request-id", value) for value in values)]
    made = request_ids.given(headers)
    again = request_ids.given(headers)

    assert made is not None
    assert again is not None
    assert [HOST, (b"x-request-id", request_ids.of(made))] == made
    assert MADE.fullmatch(request_ids.of(made) or b"")
    assert made != again


def run(application: ASGIApplication, *headers: tuple[bytes, bytes]) -> list[Message]:
    """Run an application as the server does, in a context of its own."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        await application({"type": "http", "headers": [*headers]}, receive, send)

    copy_context().run(asyncio.run, scenario())
    return sent


def test_what_an_application_logs_has_the_id(request_ids: RequestIDs) -> None:
    """Also in tasks of its own; what is logged elsewhere has a dash."""
    records: list[logging.LogRecord] = []

    def record() -> None:
        made = logging.LogRecord("app", logging.INFO, "", 0, "text", None, None)
        RequestIDFilter().filter(made)
        records.append(made)

    async def in_a_task() -> None:
        record()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        record()
        await asyncio.create_task(in_a_task())
        assert "abc" == current_request_id()

    run(request_ids.applied(application), HOST, (b"x-request-id", b"abc"))
    record()

    assert ["abc", "abc", "-"] == [made.__dict__["request_id"] for made in records]
    assert "" == current_request_id()


def test_a_record_may_have_an_id_of_its_own() -> None:
    """What the application has put there counts."""
    record = logging.makeLogRecord({"request_id": "its own"})

    assert RequestIDFilter().filter(record)
    assert "its own" == record.__dict__["request_id"]


@pytest.mark.parametrize(
    "message",
    [
        start(headers=[HOST]),
        {"type": "websocket.accept", "headers": [HOST]},
        {"type": "websocket.http.response.start", "status": 403, "headers": [HOST]},
    ],
)
def test_clients_are_told(request_ids: RequestIDs, message: Message) -> None:
    """The response gets the field; nothing else in it changes."""
    before = dict(message)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)
        await send(body(b"text"))

    sent = run(request_ids.applied(application), (b"x-request-id", b"abc"))

    told = {**message, "headers": [HOST, (b"x-request-id", b"abc")]}
    assert [told, body(b"text")] == sent
    assert before == message


def test_what_the_application_tells_counts(request_ids: RequestIDs) -> None:
    """Its own field stays, however it is spelled."""
    own = start(headers=((b"X-Request-ID", b"its own"),))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(own)

    [sent] = run(request_ids.applied(application), (b"x-request-id", b"abc"))
    assert [(b"X-Request-ID", b"its own")] == sent["headers"]


@pytest.mark.parametrize("headers", [None, 7, [1], [(b"a",)], [("a", b"b")]])
def test_what_is_no_header_field_is_left_to_others(
    request_ids: RequestIDs, headers: Any
) -> None:
    """The server explains it, in its own words."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=headers))
        await send(None)  # type: ignore[arg-type]

    sent = run(request_ids.applied(application), (b"x-request-id", b"abc"))
    assert [start(headers=headers), None] == sent


def test_without_being_asked_no_client_is_told() -> None:
    """The header of the request is for logs alone, unless the operator says so."""
    request_ids = RequestIDs("X-Request-ID")
    message = start()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)

    [sent] = run(request_ids.applied(application), (b"x-request-id", b"abc"))
    assert message is sent
