"""
A whole server for one test, on a port of the loopback interface, and its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from asgi_messages import body, start
from event_loops import run_on
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from raw_http import split_answers
from websocket_drivers import handshake
from websocket_frames import Frame, close_payload, frame, read_frames

from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.server import Server

__all__ = [
    "ACCEPT",
    "BINARY",
    "BOTH",
    "CLOSE",
    "FEW",
    "NAMES",
    "TEXT",
    "VALUES",
    "Answer",
    "Application",
    "WebSocket",
    "ask",
    "connect",
    "nothing_more",
    "say",
    "serving",
]

TEXT, BINARY, CLOSE = 1, 2, 8
ACCEPT = {"type": "websocket.accept"}

BOTH = pytest.mark.parametrize("compat", [False, True], ids=["strict", "compat"])
"""Do without, and with ``daphne_compat``."""

FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""A server is started for each example."""

NAMES = st.text("abcXYZ019-", min_size=1, max_size=12).map("x-".__add__)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
"""Those of header fields."""


class Application:
    """
    Answers a request, when it has received the whole of it, by prepared messages.

    A WebSocket gets the first of them at its beginning, and one for each message.

    Attributes:
        scopes: Of all requests.
        events: All that was received.
        error: What ``send()`` raised.
    """

    def __init__(self, *messages: Message) -> None:
        self.messages = messages or (start(), body(b"OK"))
        self.scopes: list[Any] = []
        self.events: list[Message] = []
        self.error: Exception | None = None

    @property
    def scope(self) -> Any:
        """The only scope."""
        [scope] = self.scopes
        return scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep all that comes."""
        self.scopes.append(scope)
        messages = iter(self.messages)
        if scope["type"] == "websocket":
            async for message in _received(receive, self.events):
                if message["type"] != "websocket.disconnect":
                    await send(next(messages, {"type": "websocket.send", "text": "."}))
            return
        self.events.append(await receive())
        while self.events[-1]["more_body"]:
            self.events.append(await receive())
        try:
            for message in messages:
                await send(message)
        except Exception as error:
            self.error = error
            raise


async def _received(receive: Receive, events: list[Message]) -> AsyncIterator[Message]:
    while not events or events[-1]["type"] != "websocket.disconnect":
        events.append(await receive())
        yield events[-1]


@asynccontextmanager
async def serving(application: Application, **overrides: Any) -> AsyncIterator[int]:
    """Serve an application on a port, which is told."""
    server = Server(
        application,
        ["tcp:0:interface=127.0.0.1"],
        **{"access_log": "", "lifespan": "off", **overrides},
    )
    await server.startup()
    try:
        yield server.listening_addresses[0][1]
    finally:
        await server.shutdown()


def say(
    request: bytes, application: Application, *, compat: bool, **overrides: Any
) -> bytes:
    """Tell what comes back until the connection is closed by the server."""
    answer = b""

    async def scenario() -> None:
        nonlocal answer
        async with serving(application, daphne_compat=compat, **overrides) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await reader.read()
            writer.close()

    run_on("asyncio", scenario())
    return answer


class Answer(NamedTuple):
    """The answer to the only request of a connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    *fields: bytes,
    method: bytes = b"GET",
    target: bytes = b"/",
    content: bytes = b"",
    application: Application | None = None,
    compat: bool,
    **overrides: Any,
) -> tuple[Application, Answer]:
    """Send a request, and tell what the application and the client get."""
    application = application or Application()
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: a", *fields]
    if content:
        lines.append(b"Content-Length: %d" % len(content))
    request = b"\r\n".join([*lines, b"Connection: close", b"", content])
    answer = say(request, application, compat=compat, **overrides)
    [(status, headers, answered)] = split_answers(answer)
    return application, Answer(status, headers, answered)


class WebSocket:
    """A client of a WebSocket, in whose way nothing stands."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.head = b""

    async def open(self, request: bytes) -> None:
        """Send a handshake and read the head of the answer."""
        self._writer.write(request)
        self.head = await self._reader.readuntil(b"\r\n\r\n")

    async def say(self, message: str | bytes) -> None:
        """Send a message."""
        kind = TEXT if isinstance(message, str) else BINARY
        payload = message.encode() if isinstance(message, str) else message
        self._writer.write(frame(kind, payload))

    async def hear(self) -> Frame:
        """Wait for the next frame, which has to be a small one."""
        head = await self._reader.readexactly(2)
        [heard] = read_frames(head + await self._reader.readexactly(head[1]))
        return heard

    async def rest(self) -> bytes:
        """Read until the server closes."""
        return await self._reader.read()

    async def close(self, code: int = 1000) -> None:
        """Close as clients do."""
        self._writer.write(frame(CLOSE, close_payload(code)))
        assert CLOSE == (await self.hear()).opcode


def connect(
    application: Application,
    scenario: Callable[[WebSocket], Awaitable[None]],
    *fields: tuple[bytes, bytes],
    compat: bool,
    request: bytes = b"",
    target: bytes = b"/chat",
    **overrides: Any,
) -> None:
    """Run what a client does with its WebSocket."""

    async def whole() -> None:
        async with serving(
            application, daphne_compat=compat, ws_close_timeout=0.2, **overrides
        ) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            client = WebSocket(reader, writer)
            await client.open(request or handshake(target, *fields))
            await scenario(client)
            writer.close()

    run_on("asyncio", whole())


async def nothing_more(client: WebSocket) -> None:
    """Leave when the handshake is over."""
    await client.close()
