"""
Bodies of requests in events of a certain size.

Where ``request_buffer_size`` is 0 an event holds whatever has come, and
:class:`~daphne_like.asgi.http_stream.HTTPStream` does that by itself. The
classes here are for the other servers: which of them is told once, by
:func:`stream_class`.

Tests: ``tests/unit/test_daphne_compat.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.asgi.http_stream import HTTPStream

if TYPE_CHECKING:
    from daphne_like.asgi.exchange import ExchangeContext
    from daphne_like.asgi.types import Message
    from daphne_like.protocols.interfaces import (
        Connection,
        RequestHead,
        StreamSender,
    )

__all__ = ["FilledHTTPStream", "SizedHTTPStream", "stream_class"]


def stream_class(request_buffer_size: int, *, filled: bool) -> type[HTTPStream]:
    """
    Choose the class for the exchanges of a server.

    Args:
        request_buffer_size: Bytes which an event may have; 0 for any number.
        filled: Whether the first event of a body waits until it has as many.
    """
    if not request_buffer_size:
        return HTTPStream
    return FilledHTTPStream if filled else SizedHTTPStream


class SizedHTTPStream(HTTPStream):
    """An exchange which gives its body away in pieces of a limited size."""

    __slots__ = ("_taken_bytes",)

    def __init__(
        self,
        context: ExchangeContext,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
    ) -> None:
        super().__init__(context, head, connection, sender)
        # What has gone of the first chunk.
        self._taken_bytes = 0

    def _request_event(self) -> Message:
        body = self._take(self._context.request_buffer_size)
        self._end_told = self._body_ended and not self._chunks
        if body and not self._state.is_over:
            self._give_credit(len(body))
        return {
            "type": "http.request",
            "body": body,
            "more_body": not self._end_told,
        }

    def _take(self, most: int) -> bytes:
        """Take the next bytes, of as many chunks as it needs."""
        chunks, pieces = self._chunks, []
        while chunks and most:
            start, size = self._taken_bytes, len(chunks[0])
            piece = chunks[0][start : start + most]
            pieces.append(piece)
            most -= len(piece)
            self._taken_bytes += len(piece)
            if self._taken_bytes == size:
                del chunks[0]
                self._taken_bytes = 0
        return b"".join(pieces)

    def _give_credit(self, count: int) -> None:
        """Let the client send as many bytes more."""
        self._sender.body_consumed(count)

    def _finish(self) -> None:
        """Take no more messages, and give credit for what nobody has taken."""
        left = sum(map(len, self._chunks)) - self._taken_bytes
        self._chunks.clear()
        self._taken_bytes = 0
        super()._finish()
        if left:
            self._give_credit(left)


class FilledHTTPStream(SizedHTTPStream):
    """
    An exchange whose first event is as large as it may be, as with Daphne.

    Many applications look at the first event alone and take it for the body,
    which is right with Daphne as long as bodies are small.

    The client gets credit for these bytes when they come, not when they are
    taken: the transport would pause below the size of a large event.
    """

    __slots__ = ("_is_filling", "_paid_bytes")

    def __init__(
        self,
        context: ExchangeContext,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
    ) -> None:
        super().__init__(context, head, connection, sender)
        self._is_filling = head.has_body
        # Those in the chunks for which the client has its credit already.
        self._paid_bytes = 0

    def body_received(self, data: bytes) -> None:
        """Queue a piece of the body."""
        super().body_received(data)
        if self._is_filling and not self._state.is_over:
            self._paid_bytes += len(data)
            self._is_filling = self._paid_bytes < self._context.request_buffer_size
            self._sender.body_consumed(len(data))

    async def receive(self) -> Message:
        """Hand out the next event, the first one not before it is full."""
        while self._is_filling and not (self._body_ended or self._state.is_over):
            if self.head.expects_continue and self._is_held():
                self._ask_for_body()
            await self._change()
        self._is_filling = False
        return await super().receive()

    def _give_credit(self, count: int) -> None:
        paid = min(count, self._paid_bytes)
        self._paid_bytes -= paid
        if count > paid:
            super()._give_credit(count - paid)
