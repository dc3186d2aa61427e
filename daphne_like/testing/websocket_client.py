"""
For tests of applications: a WebSocket client without sockets.

The application runs under the server's own stream and protocol, so each message
is checked as it is in production: which may come when, which codes and headers
are valid, what a refusal looks like. Between client and server there are frames,
and no network, no thread and no reactor; any asyncio event loop will do.

Source: ASGI HTTP & WebSocket 2.5; RFC 6455 for the frames.

Tests: ``tests/unit/testing/test_websocket_client.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from daphne_like.asgi.applications import ApplicationManager
from daphne_like.asgi.exchange import ExchangeContext
from daphne_like.asgi.response_headers import FieldReader
from daphne_like.asgi.websocket_stream import WebSocketStream, WebSocketStreamContext
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.interfaces import Connection, RequestHead
from daphne_like.protocols.websocket import WebSocketContext
from daphne_like.settings import WebSocketSettings

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send
    from daphne_like.protocols.interfaces import Header, ResponseHead, TunnelUser

__all__ = ["WebSocketClient", "WebSocketClosed", "WebSocketRefused"]

_KEY = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
_TEXT, _BINARY, _CLOSE, _PONG = 0x81, 0x82, 0x88, 0x8A


class WebSocketRefused(Exception):
    """
    The application did not accept.

    Attributes:
        status: Of its answer; 403 when it closed, 500 when it raised.
        headers: Pairs of its answer.
        body: Of its answer.
    """

    def __init__(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body


class WebSocketClosed(Exception):
    """
    The application has closed, so nothing more can be received.

    Attributes:
        code: The close code; 1006 when the server broke off.
        reason: The reason, or an empty text.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class WebSocketClient:
    """
    A client of one WebSocket of an application.

    As a context manager it connects, and at the end closes and waits for the
    application to return. What the application raises is raised in the test, where
    the test waits next, or at the end. It is made where an event loop is running.

    Args:
        application: An ASGI 3 application.
        target: Path and query, percent-encoded.
        subprotocols: Those to offer.
        headers: Further fields of the handshake, as text or bytes.
        state: The lifespan's; each scope gets a copy.
        scheme: ``ws`` or ``wss``.
        timeout: The most seconds for which anything is waited.

    Attributes:
        subprotocol: The one which the application has chosen.
        response_headers: Pairs with which it accepted.
        close_code: Why it ended, once it has.
        close_reason: What was said to that.
    """

    def __init__(
        self,
        application: ASGIApplication,
        target: str = "/",
        *,
        subprotocols: Iterable[str] = (),
        headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] = (),
        state: dict[str, Any] | None = None,
        scheme: str = "ws",
        timeout: float = 1.0,
    ) -> None:
        self._application = application
        self._timeout = timeout
        self._state = state
        self._connection = Connection(
            ("127.0.0.1", 50000),
            ("127.0.0.1", 443 if scheme == "wss" else 80),
            "https" if scheme == "wss" else "http",
        )
        self._head = _handshake(target, [*subprotocols], headers)
        self._received: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._tunnel = _Tunnel(self._received)
        self._sender = _Sender(self._tunnel)
        self._error: BaseException | None = None
        self._ended: asyncio.Future[None] | None = None
        self.subprotocol: str | None = None
        self.response_headers: Sequence[Header] = ()

    @property
    def close_code(self) -> int | None:
        """Why it ended, once it has."""
        return None if self._tunnel.closed is None else self._tunnel.closed[0]

    @property
    def close_reason(self) -> str | None:
        """What was said to that."""
        return None if self._tunnel.closed is None else self._tunnel.closed[1]

    # -- Beginning and end ---------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, and wait for the application to return."""
        if self._tunnel.closed is None:
            await self.close()
        try:
            await self._end()
        except BaseException:
            # What the test has found out already is worth more.
            if error is None:
                raise

    async def connect(self) -> None:
        """
        Ask the application, and wait for its answer.

        Raises:
            WebSocketRefused: It did not accept.
            TimeoutError: It has not answered in time.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        wheel = DeadlineWheel(loop.time)
        exchanges = ExchangeContext(
            manager=ApplicationManager(self._run, loop),
            field_reader=FieldReader(),
            wheel=wheel,
            state=self._state,
        )
        websockets = WebSocketContext(
            WebSocketSettings(websocket_connect_timeout=0.0),
            0.0,
            wheel,
            loop.call_soon,
        )
        context = WebSocketStreamContext(exchanges, exchanges, websockets)
        self._manager = exchanges.manager
        self._stream = WebSocketStream(
            context, self._head, self._connection, self._sender
        )
        self._stream.start()
        await self._in_time(self._sender.answered, "accept or refuse")
        if self._sender.status != 101:
            await self._end(reraise=False)
            raise WebSocketRefused(
                self._sender.status, self._sender.headers, self._sender.body
            ) from self._error
        self.response_headers = self._sender.headers
        for name, value in self.response_headers:
            if name == b"sec-websocket-protocol":
                self.subprotocol = value.decode()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._ended is not None
        try:
            await self._application(scope, receive, send)
        except BaseException as error:
            self._error = error
            raise
        finally:
            if not self._ended.done():
                self._ended.set_result(None)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close as a client does, and wait for the answer to that."""
        if self._tunnel.closed is None:
            payload = code.to_bytes(2, "big") + reason.encode()
            await self._send(_CLOSE, payload)
            await self._in_time(self._tunnel.ended, "answer to the close")

    async def disconnect(self) -> None:
        """Vanish without closing, as clients on the road do."""
        self._tunnel.abort()
        await self._in_time(self._tunnel.ended, "notice that the client has gone")

    async def _end(self, *, reraise: bool = True) -> None:
        """Wait for the application, and raise what it raised."""
        assert self._ended is not None
        try:
            await self._in_time(self._ended, "return after its client had gone")
        except TimeoutError:
            self._manager.cancel(self._stream)
            raise
        if self._error is not None and reraise:
            error, self._error = self._error, None
            raise error

    async def _in_time(self, awaitable: Awaitable[Any], what: str) -> Any:
        if isinstance(awaitable, asyncio.Future):
            awaitable = asyncio.shield(awaitable)  # it may be waited for again
        try:
            return await asyncio.wait_for(awaitable, self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"the application did not {what} within {self._timeout} seconds"
            ) from None

    # -- Messages ------------------------------------------------------------

    async def send_text(self, text: str) -> None:
        """Send a message of text."""
        await self._send(_TEXT, text.encode())

    async def send_bytes(self, data: bytes) -> None:
        """Send a message of bytes."""
        await self._send(_BINARY, data)

    async def send_json(self, value: object) -> None:
        """Send a message of text, in JSON."""
        await self.send_text(json.dumps(value))

    async def _send(self, first: int, payload: bytes) -> None:
        if self._tunnel.closed is not None:
            raise WebSocketClosed(*self._tunnel.closed)
        await self._in_time(self._tunnel.writable.wait(), "receive what was sent")
        self._tunnel.deliver(_frame(first, payload))

    async def receive(self) -> str | bytes:
        """
        Wait for the next message.

        Raises:
            WebSocketClosed: None will come.
            TimeoutError: None has come in time.
        """
        message = await self._in_time(self._received.get(), "send a message")
        if message is None:
            self._received.put_nowait(None)  # for the next call
            if self._error is not None:
                await self._end()
            raise WebSocketClosed(*(self._tunnel.closed or (1006, "")))
        assert isinstance(message, str | bytes)
        return message

    async def receive_text(self) -> str:
        """Wait for a message of text; one of bytes is an error in the test."""
        message = await self.receive()
        assert isinstance(message, str), f"received bytes: {message!r}"
        return message

    async def receive_bytes(self) -> bytes:
        """Wait for a message of bytes; one of text is an error in the test."""
        message = await self.receive()
        assert isinstance(message, bytes), f"received text: {message!r}"
        return message

    async def receive_json(self) -> Any:
        """Wait for a message, and decode its JSON."""
        return json.loads(await self.receive())

    async def receives_nothing(self, seconds: float = 0.05) -> bool:
        """Tell whether no message comes for a while."""
        await asyncio.sleep(seconds)
        return self._received.empty()


def _handshake(
    target: str,
    subprotocols: Sequence[str],
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]],
) -> RequestHead:
    head = RequestHead(target.encode("ascii"))
    head.method = "GET"
    head.is_websocket = True
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    given = [(_as_bytes(name).lower(), _as_bytes(value)) for name, value in pairs]
    if not any(name == b"host" for name, _ in given):
        given.insert(0, (b"host", b"testserver"))
    head.headers = [*given, (b"sec-websocket-version", b"13"), _KEY]
    if subprotocols:
        offer = ", ".join(subprotocols).encode()
        head.headers.append((b"sec-websocket-protocol", offer))
    return head


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _frame(first: int, payload: bytes) -> bytes:
    """Build a frame whose mask changes nothing (RFC 6455 section 5.2)."""
    size, mask = len(payload), bytes(4)
    if size < 126:
        return bytes((first, 0x80 | size)) + mask + payload
    if size < 65536:
        return bytes((first, 0xFE)) + size.to_bytes(2, "big") + mask + payload
    return bytes((first, 0xFF)) + size.to_bytes(8, "big") + mask + payload


# -- The server's side -------------------------------------------------------


class _Sender:
    """What the server answers to the handshake (StreamSender)."""

    congested = False
    can_push = False

    def __init__(self, tunnel: _Tunnel) -> None:
        self._tunnel = tunnel
        self.answered = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: Sequence[Header] = ()
        self.body = b""

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        self.status, self.headers = 101, fields
        self._tunnel.open(user)
        self.answered.set_result(None)

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        self.status, self.headers = response.status, response.fields.headers
        self.send_body(body, end)

    def send_body(self, body: bytes, end: bool) -> None:
        self.body += body
        if end:
            self.answered.set_result(None)

    def abort(self) -> None:
        self.send_body(b"", True)

    async def drained(self) -> None: ...
    def push(self, head: RequestHead) -> None: ...
    def send_continue(self) -> None: ...
    def send_informational(self, status: int, headers: Sequence[Header]) -> None: ...
    def send_trailers(self, trailers: Sequence[Header]) -> None: ...
    def body_consumed(self, count: int) -> None: ...
    async def send_file(self, file: int, offset: int, count: int) -> None: ...


class _Tunnel:
    """
    Frames both ways (Tunnel).

    Attributes:
        closed: Code and reason, once the WebSocket is closed.
        ended: Done when nothing can come any more.
        writable: Whether the server reads.
    """

    congested = False

    def __init__(self, received: asyncio.Queue[str | bytes | None]) -> None:
        self._received = received
        self._buffer = b""
        self._user: TunnelUser | None = None
        self.closed: tuple[int, str] | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self.writable = asyncio.Event()
        self.writable.set()

    def open(self, user: TunnelUser) -> None:
        self._user = user
        user.opened(self)

    def deliver(self, data: bytes) -> None:
        if self._user is not None:
            self._user.data_received(data)

    def share_descriptor(self) -> None: ...

    def write(self, data: bytes) -> None:
        self._buffer += data
        while (size := _size_of_frame(self._buffer)) <= len(self._buffer):
            frame, self._buffer = self._buffer[: int(size)], self._buffer[int(size) :]
            self._take(frame[0], frame[_head_size(frame) :])

    def _take(self, first: int, payload: bytes) -> None:
        if first == _TEXT:
            self._received.put_nowait(payload.decode())
        elif first == _BINARY:
            self._received.put_nowait(payload)
        elif first == _CLOSE and self.closed is None:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.closed = code, payload[2:].decode()
            # As clients do; the server, if it has not begun, ignores it.
            asyncio.get_running_loop().call_soon(self.deliver, _frame(first, payload))
            self._received.put_nowait(None)

    def end(self) -> None:
        asyncio.get_running_loop().call_soon(self._lose)

    abort = end

    def _lose(self) -> None:
        user, self._user = self._user, None
        if user is not None:
            user.connection_lost()
        if self.closed is None:
            self.closed = 1006, ""
            self._received.put_nowait(None)
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_reading(self) -> None:
        self.writable.clear()

    def resume_reading(self) -> None:
        self.writable.set()

    def unsent_bytes(self) -> int:
        return 0

    async def drained(self) -> None: ...


def _head_size(data: bytes) -> int:
    return 2 + {126: 2, 127: 8}.get(data[1] & 0x7F, 0)


def _size_of_frame(data: bytes) -> float:
    """Tell the size of the frame which ``data`` begins with; ``inf`` when unknown."""
    if len(data) < 2 or len(data) < _head_size(data):
        return inf
    head = _head_size(data)
    return head + (int.from_bytes(data[2:head], "big") if head > 2 else data[1])
