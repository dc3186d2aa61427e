"""
One WebSocket as ASGI messages, whatever the HTTP version.

:class:`WebSocketStream` checks the handshake, runs the application, and lets it
decide: accept, close, or an HTTP response of its own. From the acceptance on it
stands between the application and a
:class:`~daphne_like.protocols.websocket.WebSocketConnection`. Which message may
come when is told by the table of states at the end of this module.

Source: ASGI HTTP & WebSocket 2.5; the extensions page for WebSocket denial.

Tests: ``tests/unit/asgi/test_websocket_stream.py``.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
from collections import deque
from dataclasses import dataclass
from math import inf
from reprlib import repr as short_repr
from typing import TYPE_CHECKING

from daphne_like.asgi.applications import log_error
from daphne_like.asgi.exchange import Exchange, ExchangeState
from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.scope import websocket_scope
from daphne_like.errors import InvalidMessage, RequestRejected
from daphne_like.protocols.websocket import (
    BINARY,
    SMALL_HEADS,
    TEXT,
    WebSocketConnection,
)
from daphne_like.protocols.websocket_deflate import Deflate, negotiate
from daphne_like.protocols.websocket_handshake import read_handshake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from daphne_like.asgi.drain_notice import DrainNotice
    from daphne_like.asgi.exchange import ExchangeContext
    from daphne_like.asgi.types import Message
    from daphne_like.protocols.interfaces import (
        Connection,
        Header,
        RequestHead,
        StreamSender,
    )
    from daphne_like.protocols.websocket import WebSocketContext
    from daphne_like.protocols.websocket_handshake import Handshake

__all__ = ["WebSocketStream", "WebSocketStreamContext"]

_logger = logging.getLogger("daphne_like.server")

# Messages that the application has not received: reading pauses above the first
# mark and resumes below the second. ws_max_queue limits their number as well.
_HIGH_WATER_BYTES = 64 * 1024
_LOW_WATER_BYTES = 16 * 1024

# RFC 6455 section 5.5: 125 bytes, two of them for the code.
_MOST_REASON_BYTES = 123
# RFC 6455 section 7.4 and the registry of close codes: these say how a connection
# ended, and are never sent.
_NEVER_SENT = frozenset((1004, 1005, 1006, 1015))

# Extensions which each WebSocket can use.
_EXTENSIONS = ("daphne_like.draining", "websocket.http.response")

_TEXT_HEADS, _BINARY_HEADS = SMALL_HEADS[TEXT], SMALL_HEADS[BINARY]
_SMALL_BYTES = len(_TEXT_HEADS)
# A message has its type, and a content. The last small one: its key, and its frame,
# since many get the same one in a broadcast.
_USUAL_KEYS = 2
_latest: list[tuple[str, object, bytes]] = [("bytes", b"", _BINARY_HEADS[0])]

# Those of Python beside the main one; threading's count takes ten times as long.
count_other_threads: Callable[[], int] = _thread._count

# Fields of the answer to a handshake which are the server's.
_OURS = frozenset((b"connection", b"content-length", b"upgrade"))


@dataclass(frozen=True, slots=True)
class WebSocketStreamContext:
    """
    What all WebSockets of a server share.

    Attributes:
        exchanges: What they share with HTTP exchanges.
        denials: The same for their answers in HTTP, which log nothing.
        websockets: What their connections share.
    """

    exchanges: ExchangeContext
    denials: ExchangeContext
    websockets: WebSocketContext


class WebSocketStream(Exchange):
    """
    A stream, an application instance and its WebSocket in one.

    The way in: messages wait in ``_messages`` until ``receive()`` takes them;
    above the mark the connection pauses. The way out: ``send()`` hands each
    message on and, while the connection is congested, waits until it has drained.

    Attributes:
        write_frame, descriptor: See
            :class:`~daphne_like.protocols.websocket.WebSocketUser`.
    """

    __slots__ = (
        "_connect_told",
        "_denial",
        "_denials",
        "_drain_notice",
        "_ending",
        "_handshake",
        "_messages",
        "_unread_bytes",
        "_websocket",
        "_websockets",
        "descriptor",
        "write_frame",
    )

    def __init__(
        self,
        context: WebSocketStreamContext,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
    ) -> None:
        super().__init__(context.exchanges, head, connection, sender, _CONNECTING)
        self._websockets = context.websockets
        self._denials = context.denials
        # What answers in HTTP, when it comes to that.
        self._denial: HTTPStream | None = None
        self._handshake: Handshake | None = None
        self._websocket: WebSocketConnection | None = None
        self.write_frame: Callable[[bytes], None] | None = None
        self.descriptor: int | None = None
        self._connect_told = False
        self._messages: deque[str | bytes] = deque()
        self._unread_bytes = 0
        # What the application waits for, once it has asked.
        self._drain_notice: DrainNotice | None = None
        self._ending = (1006, "")
        self._deadline = inf

    # -- Told by the protocol (Stream) ---------------------------------------

    def start(self) -> None:
        """Check the handshake and run the application for it."""
        context = self._context
        try:
            self._handshake = handshake = read_handshake(
                self.head, context.version_status
            )
            if self._is_busy():
                raise RequestRejected(
                    503, "The server is busy.", ((b"retry-after", b"1"),)
                )
        except RequestRejected as rejection:
            self.reject(rejection)
            return
        root_path = self._mount()
        scope = websocket_scope(
            self.head,
            self._connection,
            root_path,
            [*handshake.subprotocols],
            {name: context.extensions.get(name, {}) for name in _EXTENSIONS},
            build_scope=context.build_scope,
        )
        if context.state is not None:
            scope["state"] = context.state.copy()
        self._log("CONNECTING")
        timeout = self._websockets.settings.websocket_connect_timeout
        if timeout:
            self._deadline = context.wheel.clock() + timeout
            context.wheel.schedule(self, self._deadline)
        context.manager.start(self, scope, self)

    def reject(self, rejection: RequestRejected) -> None:
        """Answer in the application's stead and end the connection."""
        if self._state is _CONNECTING:
            self._deny(rejection)

    def body_received(self, data: bytes) -> None:
        """Take no body: a handshake has none."""

    def body_ended(self) -> None:
        """Take no body: a handshake has none."""

    def disconnected(self) -> None:
        """Learn that the client has gone during the handshake."""
        if not self._state.is_over:
            denial = self._in_http()
            denial.disconnected()
            self.status = denial.status
            self._end(1006, "")

    # -- Told by the WebSocket (WebSocketUser) -------------------------------

    def message_received(self, message: str | bytes) -> None:
        """Queue a message, and let the client wait when there are too many."""
        messages = self._messages
        messages.append(message)
        self._unread_bytes += len(message)
        if self._waiters:
            self._wake()
        elif (
            self._unread_bytes > _HIGH_WATER_BYTES
            or len(messages) >= self._websockets.settings.ws_max_queue
        ):
            assert self._websocket is not None
            self._websocket.pause()

    def closed(self, code: int, reason: str) -> None:
        """Learn that nothing more comes or goes."""
        self._websocket = None
        if not self._state.is_over:
            self._end(code, reason)

    def says_goodbye(self) -> bool:
        """Whether the application ends the connection of a server that stops."""
        return self._drain_notice is not None and self._drain_notice.is_patient

    # -- Told by the drain notice (DrainListener) ----------------------------

    def listens_for(self, notice: DrainNotice) -> None:
        """Learn that the application waits to say goodbye."""
        self._drain_notice = notice

    # -- Called by the application -------------------------------------------

    async def receive(self) -> Message:
        """Hand out the next event (ASGI WebSocket, connect, receive, disconnect)."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        messages = self._messages
        while not messages:
            if self._state.is_over:
                code, reason = self._ending
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            await self._change()
        message = messages.popleft()
        self._unread_bytes -= len(message)
        websocket = self._websocket
        if websocket is not None and websocket.paused:
            self._resume(websocket)
        if type(message) is bytes:
            return {"type": "websocket.receive", "bytes": message}
        return {"type": "websocket.receive", "text": message}

    def _resume(self, websocket: WebSocketConnection) -> None:
        """Let the client go on when few messages are left."""
        if (
            self._unread_bytes <= _LOW_WATER_BYTES
            and len(self._messages) <= self._websockets.settings.ws_max_queue // 2
        ):
            websocket.resume()

    # -- The messages --------------------------------------------------------

    def _accept(self, message: Message) -> None:
        """Complete the handshake (websocket.accept)."""
        handshake, websockets = self._handshake, self._websockets
        assert handshake is not None
        fields = self._accepted_fields(message.get("headers", ()))
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            # RFC 6455 section 4.2.2: one of those which the client offers.
            if subprotocol not in handshake.subprotocols:
                raise InvalidMessage(
                    f"websocket.accept: the client does not offer the subprotocol "
                    f"{subprotocol!r}"
                )
            fields.append((b"sec-websocket-protocol", subprotocol.encode()))
        agreed = negotiate(handshake.extensions, websockets.settings)
        deflate = None
        if agreed is not None:
            deflate = Deflate(agreed, websockets.settings)
            fields.append((b"sec-websocket-extensions", agreed.response))
        self._websocket = websocket = WebSocketConnection(websockets, self, deflate)
        self._state = _OPEN
        self.status = 101
        self._handshake = None
        self._context.wheel.remove(self)
        self._log("CONNECT")
        sender = self._sender
        del self._sender  # HTTP is over, and needs no memory any more
        sender.open_tunnel(fields, websocket)

    def _accepted_fields(self, headers: Sequence[Header]) -> list[Header]:
        """Check the header fields for the answer; the server adds its own."""
        fields = self._context.field_reader.read(headers)
        for name, _ in fields.headers:
            if name.startswith(b"sec-websocket-"):
                raise InvalidMessage(
                    f"websocket.accept: the header {name.decode()} is the server's"
                )
        return [field for field in fields.headers if field[0] not in _OURS]

    async def send(self, message: Message) -> None:
        """
        Take a message, and wait while the client is slower than that.

        Raises:
            InvalidMessage: ASGI forbids the message here.
            ClientDisconnected: Nobody will get it.
        """
        is_message = type(message) is dict and message.get("type") == "websocket.send"
        write = self.write_frame
        if is_message and write is not None:
            # In a broadcast each object that is looked at has left the processor's
            # cache since it was last; so for small messages there is no other one.
            key, content, frame = _latest[0]
            if message.get(key) is not content or len(message) != _USUAL_KEYS:
                frame = _small_frame(message)
            elif self.descriptor is not None and not count_other_threads():
                # Many get it: the loop's transport would be several objects more. Where
                # there are other threads, though, each of these writes may give them
                # the GIL for milliseconds.
                try:
                    sent = os.write(self.descriptor, frame)
                except OSError:
                    sent = 0  # the transport waits, or finds that the client has gone
                if sent == len(frame):
                    return
                frame = frame[sent:]
            if frame:
                write(frame)
                if self.write_frame is None and (pending := self._drained()):
                    await pending
                return
        if is_message and self._state is _OPEN:
            if pending := self._send_message(message):
                await pending
        else:
            await super().send(message)

    def _drained(self) -> Awaitable[None] | None:
        """Return what the application is to wait for, if the client is slower."""
        websocket = self._websocket
        if websocket is not None and websocket.congested:
            return websocket.tunnel.drained()
        return None

    def _send_message(self, message: Message) -> Awaitable[None] | None:
        """Send text or bytes (websocket.send)."""
        websocket = self._websocket
        assert websocket is not None
        if websocket.closing:
            return self._send_too_late("the WebSocket is being closed")
        text, data = message.get("text"), message.get("bytes")
        if text is None:
            websocket.send(data if type(data) is bytes else _as_bytes(data), False)
        elif data is None:
            websocket.send(_as_text(text), True)
        else:
            raise InvalidMessage("websocket.send: either text or bytes, not both")
        return self._drained()

    def _close(self, message: Message) -> None:
        """Begin the closing handshake (websocket.close)."""
        code, reason = _close_arguments(message)
        self._end_by_us(code, reason)

    def _end_by_us(self, code: int, reason: str) -> None:
        """Close, and let the application know what it comes to."""
        websocket = self._websocket
        assert websocket is not None
        if not websocket.closing:
            websocket.close(code, reason)
        if not self._state.is_over:
            self._end(code, reason)

    def _refuse_client(self, message: Message) -> None:
        """Refuse the handshake (websocket.close before accept)."""
        _close_arguments(message)
        self._deny(None)

    def _deny(self, rejection: RequestRejected | None) -> None:
        """Answer the handshake in HTTP; by 403 when no other answer is given."""
        denial = self._in_http()
        if rejection is None:
            denial.refuse(403)
        else:
            denial.reject(rejection)
        self._denied(denial)

    async def _deny_in_own_words(self, message: Message) -> None:
        """Pass on the application's own answer (websocket.http.response)."""
        self._state = _DENYING
        denial = self._in_http()
        kind = message["type"].removeprefix("websocket.")
        await denial.send({**message, "type": kind})
        if denial.is_complete and self._state is _DENYING:
            self._denied(denial)

    def _in_http(self) -> HTTPStream:
        """Return what answers in HTTP."""
        if self._denial is None:
            self._denial = self._new_denial()
        return self._denial

    def _new_denial(self) -> HTTPStream:
        return HTTPStream(self._denials, self.head, self._connection, self._sender)

    def _denied(self, denial: HTTPStream) -> None:
        """End: the handshake was answered in HTTP."""
        self.status = denial.status
        self._log("REJECT")
        self._end(1006, "")

    # -- The end -------------------------------------------------------------

    def _end(self, code: int, reason: str) -> None:
        """Take no more messages, and let the application know."""
        self._state = _OVER
        self._ending = code, reason
        self._log("DISCONNECT")
        self._wake()
        self._context.wheel.remove(self)
        # Not now, as an application in its first step isn't known as running.
        asyncio.get_running_loop().call_soon(self._limit_application)

    def application_ended(self, error: BaseException | None) -> None:
        """Close what the application has left open (ApplicationInstance)."""
        is_over = self._state.is_over
        self._context.wheel.remove(self)
        if self._state is _DENYING:
            denial = self._in_http()
            denial.application_ended(error)
            self._denied(denial)
            return
        if error is not None:
            websocket = self._websocket
            # From the server's own close on, send() says that the client is gone.
            closing = websocket is not None and websocket.closing
            log_error(self, error, client_gone=is_over or closing)
        cancelled = isinstance(error, asyncio.CancelledError)
        if self._state is _OPEN:
            # RFC 6455 section 7.4.1: going away, unexpected condition, normal.
            leaving = self._websockets.drain_code
            self._end_by_us(leaving() if cancelled else 1011 if error else 1000, "")
        elif not is_over and cancelled:
            self._deny(RequestRejected(503, "The server is shutting down."))
        elif not is_over and error:
            self._deny(RequestRejected(500, "Internal Server Error"))
        elif not is_over:
            _logger.error(
                "The application returned without accepting or closing: %s",
                self.describe(),
            )
            self._deny(None)

    # -- Time (DeadlineHolder) -----------------------------------------------

    def deadline_passed(self, now: float) -> None:
        """Refuse what wasn't accepted in time, or cancel the application."""
        if self._state is _CONNECTING:
            self._deny(
                RequestRejected(
                    403,
                    "The application took too long.",
                    limit="websocket_connect_timeout",
                )
            )
        elif self._state.is_over:
            super().deadline_passed(now)

    # -- Told to logs (log_formats.Exchange) ---------------------------------

    def _log(self, event: str) -> None:
        if self._context.access_log is not None:
            self._context.access_log.websocket_changed(self, event)

    @property
    def response_headers(self) -> Sequence[Header]:
        """The header fields of an answer in HTTP."""
        return () if self._denial is None else self._denial.fields.headers

    @property
    def body_bytes_sent(self) -> int:
        """Bytes of an answer in HTTP; those of messages aren't counted."""
        return 0 if self._denial is None else self._denial.body_bytes_sent

    def describe(self) -> str:
        """Name the WebSocket in a log line: path and age."""
        path = self.head.target.partition(b"?")[0].decode("ascii", "backslashreplace")
        return f"WebSocket {path}, {self.duration:.1f} s old"


def _small_frame(message: Message) -> bytes:
    """Make the frame of a small message, and keep it; return nothing for others."""
    text, data = message.get("text"), message.get("bytes")
    if text is None and type(data) is bytes and len(data) < _SMALL_BYTES:
        frame = _BINARY_HEADS[len(data)] + data
        _latest[0] = "bytes", data, frame
        return frame
    if data is None and type(text) is str and len(text) < _SMALL_BYTES:
        data = _as_text(text)
        if len(data) < _SMALL_BYTES:
            frame = _TEXT_HEADS[len(data)] + data
            _latest[0] = "text", text, frame
            return frame
    return b""


def _as_text(content: object) -> bytes:
    if not isinstance(content, str):
        raise InvalidMessage(
            f"websocket.send: text must be str, not {type(content).__name__}"
        )
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"websocket.send: {error}") from None


def _as_bytes(content: object) -> bytes:
    if content is None:
        raise InvalidMessage("websocket.send: neither text nor bytes")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise InvalidMessage(
        f"websocket.send: bytes must be bytes, not {type(content).__name__}"
    )


def _close_arguments(message: Message) -> tuple[int, str]:
    """Check the code and the reason of websocket.close."""
    code, reason = message.get("code"), message.get("reason")
    if code is None:
        code = 1000
    if reason is None:
        reason = ""
    if (
        not isinstance(code, int)
        or not (1000 <= code <= 1015 or 3000 <= code <= 4999)
        or code in _NEVER_SENT
    ):
        raise InvalidMessage(f"websocket.close: {short_repr(code)} is no close code")
    if not isinstance(reason, str):
        raise InvalidMessage(
            f"websocket.close: reason must be str, not {type(reason).__name__}"
        )
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"websocket.close: {error}") from None
    if size > _MOST_REASON_BYTES:
        raise InvalidMessage(
            f"websocket.close: the reason has more than {_MOST_REASON_BYTES} bytes"
        )
    return code, reason


# -- The table of states -----------------------------------------------------

_CONNECTING = ExchangeState(
    "before the WebSocket was accepted",
    {
        "websocket.accept": WebSocketStream._accept,
        "websocket.close": WebSocketStream._refuse_client,
        "websocket.http.response.start": WebSocketStream._deny_in_own_words,
    },
)
_DENYING = ExchangeState(
    "in the middle of a response to the handshake",
    {
        "websocket.http.response.start": WebSocketStream._deny_in_own_words,
        "websocket.http.response.body": WebSocketStream._deny_in_own_words,
    },
)
_OPEN = ExchangeState(
    "while the WebSocket is open",
    {
        # Looked up again, since observed streams have one of their own.
        "websocket.send": lambda stream, message: stream._send_message(message),
        "websocket.close": WebSocketStream._close,
    },
)
_OVER = ExchangeState("after the WebSocket was closed", is_over=True)
