"""
Streams for servers which count, or which give requests an id.

They are classes of their own, so that others pay nothing for it: which of them a
server needs is told once, by :func:`observed`.

Tests: ``tests/unit/asgi/test_observed_streams.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from daphne_like.asgi.exchange import Exchange
from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.websocket_stream import WebSocketStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from daphne_like.asgi.exchange import ExchangeContext
    from daphne_like.asgi.types import Message
    from daphne_like.errors import RequestRejected
    from daphne_like.protocols.interfaces import Header

__all__ = ["observed"]

_Stream = TypeVar("_Stream", bound=Exchange)


def observed(base: type[_Stream], context: ExchangeContext) -> type[_Stream]:
    """
    Choose the class for exchanges which a server observes.

    Args:
        base: The class without that.
        context: Tells what is observed.
    """
    of_websocket = issubclass(base, WebSocketStream)
    parts: list[type[Exchange]] = []
    if context.request_ids is not None:
        parts.append(_IdentifiedWebSocket if of_websocket else _IdentifiedHTTP)
    if context.metrics is not None:
        parts.append(_CountedWebSocket if of_websocket else _CountedHTTP)
    if not parts:
        return base
    made = type(f"Observed{base.__name__}", (*parts, base), {"__slots__": ()})
    return cast("type[_Stream]", made)


class _CountedHTTP(HTTPStream):
    """Counts the bytes of request bodies."""

    __slots__ = ()

    def body_received(self, data: bytes) -> None:
        metrics = self._context.metrics
        assert metrics is not None
        metrics.request_body_bytes += len(data)
        super().body_received(data)


class _CountedWebSocket(WebSocketStream):
    """Counts messages, and their bytes."""

    __slots__ = ()

    @property
    def write_frame(self) -> Callable[[bytes], None] | None:
        """None, so that small messages are counted, too."""
        return None

    @write_frame.setter
    def write_frame(self, write: Callable[[bytes], None] | None) -> None:
        pass

    def message_received(self, message: str | bytes) -> None:
        metrics = self._context.metrics
        assert metrics is not None
        metrics.messages_received += 1
        metrics.message_bytes_received += _size(message)
        super().message_received(message)

    def _send_message(self, message: Message) -> Awaitable[None] | None:
        pending = super()._send_message(message)
        # What was no message has raised.
        metrics = self._context.metrics
        assert metrics is not None
        content: Any = message.get("text")
        if content is None:
            content = message["bytes"]
        metrics.messages_sent += 1
        metrics.message_bytes_sent += _size(content)
        return pending


class _IdentifiedHTTP(HTTPStream):
    """Has an id, also when no application is asked."""

    __slots__ = ()

    def start(self) -> None:
        _identify(self)
        super().start()

    def reject(self, rejection: RequestRejected) -> None:
        _identify(self)
        super().reject(rejection)

    def answer(
        self,
        status: int,
        detail: str,
        fields: tuple[Header, ...] = (),
        close: bool = False,
    ) -> None:
        super().answer(status, detail, (*fields, *_told_id(self)), close)

    def refuse(self, status: int, fields: tuple[Header, ...] = ()) -> None:
        super().refuse(status, (*fields, *_told_id(self)))


class _IdentifiedWebSocket(WebSocketStream):
    """Has an id, also when no application is asked."""

    __slots__ = ()

    def start(self) -> None:
        _identify(self)
        super().start()

    def _new_denial(self) -> HTTPStream:
        _identify(self)
        return _IdentifiedHTTP(self._denials, self.head, self._connection, self._sender)


def _size(message: str | bytes) -> int:
    """Count the bytes of a message; most text is ASCII, which is quickly asked."""
    if type(message) is str and not message.isascii():
        return len(message.encode())
    return len(message)


def _identify(stream: Exchange) -> None:
    """Give a request an id, unless it has one."""
    request_ids = stream._context.request_ids
    assert request_ids is not None
    headers = request_ids.given(stream.head.headers)
    if headers is not None:
        stream.head = stream.head.with_headers(headers)


def _told_id(stream: Exchange) -> tuple[Header, ...]:
    """Return the field with the id for an answer of the server's, if it is to have it."""
    request_ids = stream._context.request_ids
    assert request_ids is not None
    if not request_ids.in_responses:
        return ()
    request_id = request_ids.of(stream.head.headers)
    assert request_id is not None
    return ((request_ids.name, request_id),)
