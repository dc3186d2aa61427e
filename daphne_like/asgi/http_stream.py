"""
One HTTP exchange as ASGI messages, whatever the HTTP version.

:class:`HTTPStream` stands between a protocol, which tells it of the body and
of the client's going, and an application instance, which receives events and
sends messages. Which message may come when is told by the table of states at
the end of this module; any other raises in the application.

The head of a response is held until the first piece of its body, as ASGI asks:
both leave in one write, and an error in between can still become a 500.

Source: ASGI HTTP & WebSocket 2.5; the extensions page for trailers, early
hints, path send and zero-copy send.

Tests: ``tests/unit/asgi/test_http_stream.py``.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from reprlib import repr as short_repr
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import quote

from daphne_like.asgi.applications import log_error
from daphne_like.asgi.exchange import Exchange, ExchangeState
from daphne_like.asgi.response_files import FilePart, opened
from daphne_like.asgi.response_headers import read_trailers
from daphne_like.errors import InvalidMessage, RequestRejected
from daphne_like.protocols.interfaces import RequestHead, ResponseFields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from daphne_like.asgi.exchange import ExchangeContext, Handler
    from daphne_like.asgi.types import Message
    from daphne_like.protocols.interfaces import (
        Connection,
        Header,
        StreamSender,
    )

__all__ = ["HTTPStream"]

_logger = logging.getLogger("daphne_like.server")

# RFC 9110 section 6.4.1: these have no content, whatever the application sends.
_BODILESS = frozenset((204, 304))

# What a path and a query may hold as it is (RFC 3986 section 3.3); and "%", since the
# application may have encoded them.
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=-._~%"

# Pieces of a body which are smaller are put to the one before, if that is small, too.
_SMALL_BYTES = 128
_JOIN_BYTES = 1024

# nginx's number for a client that left before it was answered; log only.
_CLIENT_CLOSED_REQUEST = 499


class HTTPStream(Exchange):
    """
    A stream, an application instance and the head of its response in one.

    The body's way in: pieces wait in ``_chunks`` until ``receive()`` takes all
    of them as one event; the sender is told then and lets the client send more.
    The body's way out: ``send()`` hands each piece on and, while the sender is
    congested, waits until it has drained.

    Attributes:
        status, fields, content_length, bodiless: See
            :class:`~daphne_like.protocols.interfaces.ResponseHead`.
        body_bytes_sent: Bytes of the response body so far, without framing.
    """

    __slots__ = (
        "_body_ended",
        "_chunks",
        "_end_told",
        "_trailers",
        "bodiless",
        "body_bytes_sent",
        "content_length",
        "fields",
    )

    def __init__(
        self,
        context: ExchangeContext,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
    ) -> None:
        # As Exchange does it, but without a call for each request.
        self._context = context
        self.head = head
        self._connection = connection
        self._sender = sender
        self.started = monotonic()
        self._state = _AWAITED
        self._waiters = None
        self.status = 0
        self.covered_from = inf

        # The request's body, and whether its end was told the application.
        self._chunks: list[bytes] = []
        self._body_ended = not head.has_body
        self._end_told = False

        self.fields = _NO_FIELDS
        self.bodiless = False
        self.body_bytes_sent = 0
        self._trailers: list[Header] | None = None

    # -- Told by the protocol (Stream) ---------------------------------------

    def start(self) -> None:
        """Run the application for this request."""
        context = self._context
        if context.limit_concurrency and self._is_busy():
            self.answer(503, "The server is busy.", ((b"retry-after", b"1"),))
            return
        root_path = self._mount() if context.forwarded else context.root_path
        head = self.head
        extensions = context.extensions.copy()
        if head.accepts_trailers and head.http_version != "1.0":
            extensions["http.response.trailers"] = {}
        if head.http_version != "1.1":
            self._adapt(extensions)
        scope = context.build_scope(head, self._connection, root_path, extensions)
        if context.state is not None:
            scope["state"] = context.state.copy()
        context.manager.start(self, scope)

    def _adapt(self, extensions: dict[str, dict[str, object]]) -> None:
        """Offer what other versions than 1.1 can do, and not what they can't."""
        if self.head.http_version == "1.0":
            del extensions["http.response.early_hint"]
        elif self.head.http_version == "2" and self._sender.can_push:
            extensions["http.response.push"] = {}

    def reject(self, rejection: RequestRejected) -> None:
        """Answer in the application's stead and end the connection."""
        if self._state.is_over:
            return
        if rejection.limit:
            self._context.limit_hit(rejection.limit)
        if self._is_held():
            self.answer(
                rejection.status, rejection.detail, rejection.fields, close=True
            )
            self._state = _GONE
            self._limit_application()
        else:
            self._break_off()

    def body_received(self, data: bytes) -> None:
        """Queue a piece of the body, or drop it when nobody will take it."""
        if self._state.is_over:
            self._sender.body_consumed(len(data))
            return
        chunks = self._chunks
        if len(data) < _SMALL_BYTES and chunks and len(chunks[-1]) < _JOIN_BYTES:
            # Attack: pieces of a few bytes, each of which takes as many again.
            chunks[-1] += data
        else:
            chunks.append(data)
        if self._waiters:
            self._wake()

    def body_ended(self) -> None:
        """Note that the body is complete, unless parts of it were dropped."""
        if self._state.is_over:
            return
        self._body_ended = True
        if self._waiters:
            self._wake()

    def disconnected(self) -> None:
        """Let the application know that nobody listens any more."""
        if self._state.is_over:
            return
        if self._is_held():
            self.status = _CLIENT_CLOSED_REQUEST
        self._state = _GONE
        self._log()
        self._wake()
        self._limit_application()

    # -- Called by the application -------------------------------------------

    async def receive(self) -> Message:
        """
        Hand out the next event (ASGI HTTP, request and disconnect events).

        Each event goes to one caller, and a cancelled call takes none with it.
        """
        while True:
            state = self._state
            if not self._end_told and (
                # A body that arrived whole is worth having even if its sender left.
                self._body_ended and state is _GONE
                if state.is_over
                else self._chunks or self._body_ended
            ):
                return self._request_event()
            if state.is_over:
                return {"type": "http.disconnect"}
            head = self.head
            if head.expects_continue and not self._body_ended and self._is_held():
                self._ask_for_body()
            await self._change()

    def _ask_for_body(self) -> None:
        """RFC 9110 section 10.1.1: only now is the body wanted."""
        self.head.expects_continue = False
        self._sender.send_continue()

    def _request_event(self) -> Message:
        chunks = self._chunks
        if not chunks:
            body = b""
        elif len(chunks) == 1:
            body = chunks.pop()
        else:
            body = b"".join(chunks)
            chunks.clear()
        self._end_told = self._body_ended
        if body and not self._state.is_over:
            self._sender.body_consumed(len(body))
        return {
            "type": "http.request",
            "body": body,
            "more_body": not self._end_told,
        }

    def _refuse(self, message: Message) -> Awaitable[None] | None:
        """Ignore what comes too late, and let the rest wait for a file."""
        if self._state is _COMPLETE:
            return None  # ASGI: later messages are ignored
        if self._state is _BUSY:
            return self._send_after_file(message)
        return super()._refuse(message)

    # -- The messages --------------------------------------------------------

    def _start(self, message: Message) -> None:
        """Hold the head until the body begins (http.response.start)."""
        status = message.get("status")
        if type(status) is not int:
            status = _as_status(status)
        if not 200 <= status <= 999:
            raise _wrong_status(status)
        fields = self._context.field_reader.read(message.get("headers", ()))
        self.fields = fields
        self.content_length = fields.content_length
        self.status = status
        if status in _BODILESS or self.head.method == "HEAD":
            self.bodiless = True
        if message.get("trailers") and self._can_trail():
            self._trailers = []
        self._state = _HELD

    def _can_trail(self) -> bool:
        """Whether trailers reach the client (RFC 9110 section 6.5.1, TE)."""
        return (
            self.head.accepts_trailers
            and self.head.http_version != "1.0"
            and self.content_length is None
            and not self.bodiless
        )

    def _first_body(self, message: Message) -> Awaitable[None] | None:
        """Send the head and the first piece of the body."""
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        more = message.get("more_body", False)
        if self.bodiless:
            self._send_bodiless(len(body), more)
            return None
        size = len(body)
        length = self.content_length
        if length is None:
            if not more and self._trailers is None:
                self.content_length = size
        elif size > length or (size < length and not more):
            raise _wrong_length(size, length)
        self.body_bytes_sent = size
        if more or self._trailers is not None:
            self._state = _SENDING if more else _TRAILING
            self._sender.send_response(self, body, False)
            return self._sender.drained() if self._sender.congested else None
        self._finish()
        self._sender.send_response(self, body, True)
        return None

    def _send_bodiless(self, size: int, more: bool) -> None:
        """Send the head alone: RFC 9110 section 6.4.1, no content in this answer."""
        if self.status == 204:
            # RFC 9110 section 8.6: no Content-Length in a 204.
            self.fields = _without_length(self.fields)
            self.content_length = None
        elif self.content_length is None and size and not more and self.status != 304:
            # What the same GET would have, which is what HEAD asks for.
            self.content_length = size
        self._finish()
        if more:
            self._state = _UNHEARD
            # Not now, as an application in its first step isn't known as running.
            asyncio.get_running_loop().call_soon(self._limit_application)
        self._sender.send_response(self, b"", True)

    def _unheard_body(self, message: Message) -> Awaitable[None]:
        """
        Take a piece of a body which this answer can't have.

        It may be one of an endless stream, so others get their turn, and the
        time of the application is limited until it says that this was all.
        """
        if not message.get("more_body", False):
            self._state = _COMPLETE
            self._context.wheel.remove(self)
        return asyncio.sleep(0)

    def _unheard_hint(self, message: Message) -> None:
        """Ignore a hint that comes after the head."""

    def _further_body(self, message: Message) -> Awaitable[None] | None:
        """Send another piece of the body."""
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        more = message.get("more_body", False)
        sent = self.body_bytes_sent + len(body)
        length = self.content_length
        if length is not None and (sent > length or (sent < length and not more)):
            raise _wrong_length(sent, length)
        self.body_bytes_sent = sent
        if more:
            self._sender.send_body(body, False)
        elif self._trailers is not None:
            self._state = _TRAILING
            self._sender.send_body(body, False)
        else:
            self._finish()
            self._sender.send_body(body, True)
            return None
        return self._sender.drained() if self._sender.congested else None

    def _further_trailers(self, message: Message) -> None:
        """Collect trailers; the last message of them ends the response."""
        assert self._trailers is not None
        self._trailers += read_trailers(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._finish()
            self._sender.send_trailers(self._trailers)

    def _early_hint(self, message: Message) -> Awaitable[None] | None:
        """Send a 103 with one ``link`` field each (RFC 8297)."""
        links = message.get("links", ())
        if isinstance(links, (str, bytes)) or not hasattr(links, "__iter__"):
            raise InvalidMessage(
                "http.response.early_hint: links must be an iterable of bytes, "
                f"not {short_repr(links)}"
            )
        hints = read_trailers([(b"link", link) for link in links])
        if hints and self.head.http_version != "1.0":
            self._sender.send_informational(103, hints)
        return self._sender.drained() if self._sender.congested else None

    def _push(self, message: Message) -> None:
        """Have a further request answered, if the client takes it (push)."""
        path = message.get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise InvalidMessage(
                "http.response.push: path must be a string that begins with /, "
                f"not {short_repr(path)}"
            )
        target = quote(path, safe=_TARGET_CHARACTERS).encode("ascii")
        pushed = RequestHead(target)
        pushed.method = "GET"
        pushed.http_version = self.head.http_version
        host = [field for field in self.head.headers if field[0] == b"host"]
        fields = read_trailers(message.get("headers", ()))
        pushed.headers = [*host, *fields]
        if self._sender.can_push:
            self._sender.push(pushed)

    # -- Files ---------------------------------------------------------------

    async def _path_send(self, message: Message) -> None:
        """Send a whole file as the body (http.response.pathsend)."""
        try:
            with opened(message.get("path")) as part:
                await self._send_file(part, more=False)
        except BaseException:
            if self._state is _HELD:
                # Take the start back, so that the application may answer instead.
                self._state = _AWAITED
                self.bodiless, self._trailers = False, None
            raise

    async def _zero_copy_send(self, message: Message) -> None:
        """Send a part of an open file (http.response.zerocopysend)."""
        part = FilePart.of(message)
        await self._send_file(part, more=bool(message.get("more_body", False)))
        part.advance()

    async def _send_file(self, part: FilePart, more: bool) -> None:
        """Send bytes of a file as a piece of the body; messages wait meanwhile."""
        if self.bodiless:
            self._send_bodiless(part.count, more)
            return
        sent = self.body_bytes_sent + part.count
        held, length = self._state is _HELD, self.content_length
        if length is None and held and not more and self._trailers is None:
            self.content_length = part.count
        elif length is not None and (sent > length or (sent < length and not more)):
            raise _wrong_length(sent, length)
        self._state = _BUSY
        self.body_bytes_sent = sent
        if held:
            self._sender.send_response(self, b"", False)
        try:
            if part.count:
                await self._sender.send_file(part.descriptor, part.offset, part.count)
        except BaseException:
            # Cancelled, or the file can't be read, or it has become shorter: the
            # client was promised more than it has got.
            if self._state is _BUSY:
                self._break_off()
            raise
        if self._state is not _BUSY:
            return  # nobody listens any more
        self._state = _SENDING
        self._wake()
        pending = None if more else self._further_body({})
        if pending is not None:
            await pending

    async def _send_after_file(self, message: Message) -> None:
        """Send ``message`` when the file that is under way has gone out."""
        while self._state is _BUSY:
            await self._change()
        await self.send(message)

    # -- The end -------------------------------------------------------------

    def application_ended(self, error: BaseException | None) -> None:
        """Complete, break off or leave alone the response (ApplicationInstance)."""
        if error is None and self._state is _COMPLETE:
            return
        self._context.wheel.remove(self)
        is_over = self._state.is_over
        if error is not None:
            log_error(self, error, client_gone=is_over)
        elif not is_over:
            _logger.error(
                "The application returned without completing its response: %s",
                self.describe(),
            )
        if is_over:
            return
        if not self._is_held():
            self._break_off()
        elif isinstance(error, asyncio.CancelledError):
            self.answer(503, "The server is shutting down.", close=True)
        else:
            # ASGI, main specification: with the instance ends its connection.
            self.answer(500, "Internal Server Error", close=True)

    def answer(
        self,
        status: int,
        detail: str,
        fields: tuple[Header, ...] = (),
        close: bool = False,
    ) -> None:
        """Send a page with a line of text in the application's stead."""
        content_type, body = self._context.error_page(status, detail)
        self.status = status
        self.fields = ResponseFields(
            [(b"content-type", content_type), *fields], close=close
        )
        self.content_length = len(body)
        self.bodiless = self.head.method == "HEAD"
        if self.bodiless:
            body = b""
        self.body_bytes_sent = len(body)
        self._finish()
        self._sender.send_response(self, body, True)

    def refuse(self, status: int, fields: tuple[Header, ...] = ()) -> None:
        """Answer without a body in the application's stead, and close."""
        self.status = status
        self.fields = ResponseFields(fields, close=True)
        self.content_length = 0
        self._finish()
        self._sender.send_response(self, b"", True)

    @property
    def is_complete(self) -> bool:
        """Whether the response is complete."""
        return self._state is _COMPLETE

    def _break_off(self) -> None:
        """End a response that can't be completed, in mid-body."""
        self._state = _GONE
        self._log()
        self._wake()
        self._limit_application()
        self._sender.abort()

    def _finish(self) -> None:
        """Take no more messages; the response is complete with the next write."""
        self._state = _COMPLETE
        if self._context.access_log is not None:
            self._context.access_log.exchange_ended(self)
        if self._chunks:
            self._sender.body_consumed(sum(map(len, self._chunks)))
            self._chunks.clear()
        if self._waiters:
            self._wake()

    def _log(self) -> None:
        if self._context.access_log is not None:
            self._context.access_log.exchange_ended(self)

    def _is_held(self) -> bool:
        """Whether nothing of the response is on the wire yet."""
        return self._state is _AWAITED or self._state is _HELD

    def _limit_application(self) -> None:
        """Do so unless the response is complete."""
        if self._state is not _COMPLETE:
            super()._limit_application()

    @property
    def response_headers(self) -> Sequence[Header]:
        """The response's header fields, without those of the server."""
        return self.fields.headers


_NO_FIELDS = ResponseFields(())


def _without_length(fields: ResponseFields) -> ResponseFields:
    headers = [field for field in fields.headers if field[0] != b"content-length"]
    return ResponseFields(headers, None, fields.own_defaults, fields.close)


def _as_status(status: object) -> int:
    if isinstance(status, int) and not isinstance(status, bool):
        return int(status)  # an HTTPStatus, say
    raise _wrong_status(status)


def _wrong_status(status: object) -> InvalidMessage:
    return InvalidMessage(
        "http.response.start: status must be an integer from 200 to 999, "
        f"not {status!r}"
    )


def _as_bytes(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise InvalidMessage(
        f"http.response.body: body must be bytes, not {type(body).__name__}"
    )


def _wrong_length(sent: int, length: int) -> InvalidMessage:
    relation = "longer" if sent > length else "shorter"
    return InvalidMessage(
        f"the response body is {relation} than its content-length: "
        f"{sent} bytes instead of {length}"
    )


# -- The table of states -----------------------------------------------------


def _in_http(**handlers: Handler) -> dict[str, Handler]:
    return {f"http.response.{kind}": handler for kind, handler in handlers.items()}


_AWAITED = ExchangeState(
    "before the response was started",
    _in_http(start=HTTPStream._start, early_hint=HTTPStream._early_hint),
)
_HELD = ExchangeState(
    "after the response was started",
    _in_http(
        body=HTTPStream._first_body,
        early_hint=HTTPStream._early_hint,
        pathsend=HTTPStream._path_send,
        push=HTTPStream._push,
        zerocopysend=HTTPStream._zero_copy_send,
    ),
)
_SENDING = ExchangeState(
    "in the middle of the body",
    _in_http(
        body=HTTPStream._further_body,
        early_hint=HTTPStream._unheard_hint,
        push=HTTPStream._push,
        zerocopysend=HTTPStream._zero_copy_send,
    ),
)
_BUSY = ExchangeState("while a file is being sent")
_TRAILING = ExchangeState(
    "after the body, before the trailers",
    _in_http(trailers=HTTPStream._further_trailers),
)
_UNHEARD = ExchangeState(
    "in the middle of a body which this response can't have",
    _in_http(
        body=HTTPStream._unheard_body,
        early_hint=HTTPStream._unheard_hint,
        zerocopysend=HTTPStream._unheard_body,
    ),
    is_over=True,
)
_COMPLETE = ExchangeState("after the response was complete", is_over=True)
_GONE = ExchangeState("after the client had gone", is_over=True)
