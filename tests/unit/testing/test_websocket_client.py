"""Tests of ``daphne_like.testing``: what users test their applications with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from quart import Quart, websocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from daphne_like.errors import InvalidMessage
from daphne_like.testing import WebSocketClient, WebSocketClosed, WebSocketRefused

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applications may fail here."""
    monkeypatch.setattr(logging.getLogger("daphne_like.server"), "disabled", True)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test as users do: in an event loop of its own."""
    asyncio.run(asyncio.wait_for(test, 10))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send messages back until the client leaves."""
    await receive()
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": next(iter(scope["subprotocols"]), None),
            "headers": [(b"x-query", scope["query_string"])],
        }
    )
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def starlette_echo(socket: WebSocket) -> None:
    """Do the same by Starlette."""
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


quart_site = Quart(__name__)


@quart_site.websocket("/")
async def quart_echo() -> None:
    """Do the same by Quart."""
    while True:
        await websocket.send(await websocket.receive())


FRAMEWORKS: dict[str, Any] = {
    "plain": echo,
    "starlette": Starlette(routes=[WebSocketRoute("/", starlette_echo)]),
    "quart": quart_site,
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_messages(name: str) -> None:
    """What is sent comes back, by any framework."""

    async def test() -> None:
        async with WebSocketClient(FRAMEWORKS[name]) as client:
            for text in ("hello", "", "ü" * 100, "x" * 70_000):
                await client.send_text(text)
                assert text == await client.receive_text()
        assert 1000 == client.close_code

    run(test())


def test_bytes_and_json() -> None:
    """All kinds of messages have their methods."""

    async def test() -> None:
        async with WebSocketClient(echo) as client:
            await client.send_bytes(b"\x00" * 300)
            assert b"\x00" * 300 == await client.receive_bytes()
            await client.send_json({"a": [1]})
            assert {"a": [1]} == await client.receive_json()
            await client.send_text("text")
            with pytest.raises(AssertionError, match="received text: 'text'"):
                await client.receive_bytes()
            await client.send_bytes(b"bytes")
            with pytest.raises(AssertionError, match="received bytes: b'bytes'"):
                await client.receive_text()
            assert await client.receives_nothing(0)

    run(test())


def test_the_handshake_both_ways() -> None:
    """The application sees what the test says, and the test what it answers."""
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async def test() -> None:
        async with WebSocketClient(
            application,
            "/chat?room=1",
            subprotocols=["one", "two"],
            headers={"Cookie": "a=b"},
            state={"key": "value"},
            scheme="wss",
        ) as client:
            assert "one" == client.subprotocol
            assert (b"x-query", b"room=1") in client.response_headers
            assert client.close_code is None
            assert client.close_reason is None

    run(test())
    (scope,) = seen
    assert ("/chat", "wss", {"key": "value"}) == (
        scope["path"],
        scope["scheme"],
        scope["state"],
    )
    assert (b"cookie", b"a=b") in scope["headers"]
    assert ["one", "two"] == scope["subprotocols"]


def test_a_refusal() -> None:
    """It raises with the answer."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [(b"x", b"y")],
            }
        )
        await send({"type": "websocket.http.response.body", "body": b"who?"})

    async def test() -> None:
        with pytest.raises(WebSocketRefused) as refused:
            async with WebSocketClient(application):
                raise AssertionError
        answer = refused.value
        assert (401, b"who?") == (answer.status, answer.body)
        assert (b"x", b"y") in answer.headers

    run(test())


def test_a_refusal_by_an_error() -> None:
    """The error is the cause of the refusal."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such room")

    async def test() -> None:
        with pytest.raises(WebSocketRefused) as refused:
            await WebSocketClient(application).connect()
        assert 500 == refused.value.status
        assert isinstance(refused.value.__cause__, LookupError)

    run(test())


def test_the_application_closes() -> None:
    """Whoever waits for a message learns of it, again and again."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "last"})
        await send({"type": "websocket.close", "code": 4001, "reason": "done"})

    async def test() -> None:
        async with WebSocketClient(application) as client:
            assert "last" == await client.receive()
            for _ in range(2):
                with pytest.raises(WebSocketClosed) as closed:
                    await client.receive()
                assert (4001, "done") == (closed.value.code, closed.value.reason)
            with pytest.raises(WebSocketClosed):
                await client.send_text("too late")
        assert (4001, "done") == (client.close_code, client.close_reason)

    run(test())


def test_the_client_closes_or_vanishes() -> None:
    """The application sees the difference."""
    ends: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        ends.append(await receive())

    async def test() -> None:
        async with WebSocketClient(application) as client:
            await client.close(4000, "bye")
        async with WebSocketClient(application) as client:
            await client.disconnect()
        assert 1006 == client.close_code

    run(test())
    assert [(4000, "bye"), (1006, "")] == [(end["code"], end["reason"]) for end in ends]


def test_errors_of_the_application_are_raised_in_the_test() -> None:
    """Where the test waits next, or at the end."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await receive()
        raise LookupError("oops")

    async def waiting() -> None:
        async with WebSocketClient(application) as client:
            await client.send_text("go")
            await client.receive()

    async def ending() -> None:
        async with WebSocketClient(application) as client:
            await client.send_text("go")

    for test in (waiting, ending):
        with pytest.raises(LookupError, match="oops"):
            run(test())


def test_messages_are_checked_as_in_production() -> None:
    """A message which ASGI forbids raises."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.send", "text": "too early"})

    async def test() -> None:
        with pytest.raises(WebSocketRefused) as refused:
            await WebSocketClient(application).connect()
        assert isinstance(refused.value.__cause__, InvalidMessage)

    run(test())


def test_whatever_takes_too_long_says_so() -> None:
    """No test hangs."""

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(100)

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.sleep(100)

    async def connecting() -> None:
        await WebSocketClient(deaf, timeout=0.01).connect()

    async def receiving() -> None:
        async with WebSocketClient(echo, timeout=0.01) as client:
            await client.receive()

    async def leaving() -> None:
        async with WebSocketClient(stubborn, timeout=0.01):
            pass

    for test, text in (
        (connecting, "did not accept or refuse within 0.01 seconds"),
        (receiving, "did not send a message within"),
        (leaving, "did not return after its client had gone within"),
    ):
        with pytest.raises(TimeoutError, match=text):
            run(test())


def test_a_slow_application_makes_the_client_wait() -> None:
    """As in production, a bounded number of messages waits."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await asyncio.sleep(100)

    async def test() -> None:
        client = WebSocketClient(application, timeout=0.02)
        await client.connect()
        with pytest.raises(TimeoutError, match="receive what was sent"):
            for _ in range(100):
                await client.send_text("x")
        await client.disconnect()

    run(test())
