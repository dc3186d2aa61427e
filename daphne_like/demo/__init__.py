"""
The built-in demo: the ASGI application served when none is named.

It turns each HTTP scope into one answer of a small set: a page which shows the
scope and the request headers as the server delivered them, and the
endpoints the page plays with (a paced or full-speed response, an upload which
is counted and hashed but never kept, server-sent events, and the state of one
of these streams; an echo and a broadcast over WebSockets are in
:mod:`~daphne_like.demo.websockets`). The page is one HTML document without any external resource;
it is made by :mod:`~daphne_like.demo.page`. All its URLs are relative, so that
it works under any ``root_path`` and behind a proxy which strips a prefix.

Everything a visitor can ask for is bounded by ``DemoLimits``.

Nothing but the standard library is used, and nothing of this server beyond its
version and the type names: the demo is an application like any other.

Tests: ``tests/unit/test_demo.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from daphne_like.demo.page import Headers, Page, root_path
from daphne_like.demo.websockets import WebSockets

if TYPE_CHECKING:
    from daphne_like.asgi.types import Receive, Scope, Send

__all__ = ["Demo", "DemoLimits", "application"]

_HTML = b"text/html; charset=utf-8"
_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"
_EVENT_STREAM = b"text/event-stream"

# Sent with every answer. A Cross-Origin-Opener-Policy is left out: browsers
# ignore it on plain HTTP, and complain about it in their console.
_COMMON_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]

_RECONNECT_MS = 1500
"""How long a browser waits before it opens a closed event stream again."""


@dataclass(frozen=True, slots=True)
class DemoLimits:
    """What the demo spends at most on one exchange."""

    upload_bytes: int = 1024**3
    """
    Longest body ``/upload`` takes, in bytes. It is hashed and dropped, never
    stored: this bounds the work, not the memory. Beyond it the answer is 413.
    """

    stream_timeout: float = 300.0
    """
    Seconds after which a response of ``/stream`` or ``/events`` is ended in
    good order; a browser then opens its event stream again by itself.
    """

    event_interval: float = 1.0
    """Seconds between two server-sent events."""

    remembered_streams: int = 64
    """How many ended streams ``/status`` can still tell about."""

    message_characters: int = 2000
    """Longest text on a WebSocket; beyond it the close code is 1009."""

    messages_per_second: float = 20.0
    """How fast one WebSocket may talk; beyond it the close code is 1008."""

    members: int = 200
    """How many may be in ``/live`` at once; others are closed with 1013."""

    unread_news: int = 256
    """What ``/live`` holds for a slow reader, who is then closed with 1013."""


class _BadQuery(ValueError):
    """The query string asks for something out of range; becomes a 400."""


@dataclass(frozen=True, slots=True)
class _StreamPlan:
    """What ``/stream`` is asked to send."""

    chunks: int = 40
    size: int = 0
    pause_ms: int = 100

    @classmethod
    def from_query(cls, query_string: bytes) -> _StreamPlan:
        """
        Read the plan from a query string; parameters left out keep their default.

        Raises:
            _BadQuery: A value is no whole number, or out of its range.
        """
        query = _query(query_string)
        return cls(
            chunks=_whole_number(query, "chunks", cls().chunks, range(1, 4097)),
            size=_whole_number(query, "size", cls().size, range(65537)),
            pause_ms=_whole_number(query, "pause", cls().pause_ms, range(2001)),
        )


class _StreamEnd(Enum):
    """Why a stream is over."""

    COMPLETE = "complete"
    CLIENT_LEFT = "client left"
    TIME_LIMIT = "time limit"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class _StreamRecord:
    """How far one streaming response has come, for the page to show."""

    number: int
    sent_chunks: int = 0
    sent_bytes: int = 0
    waited: float = 0.0
    """Seconds spent waiting in ``send()``, all finished calls together."""
    waiting_since: float | None = None
    """Instant at which the ``send()`` now under way began, or None."""
    end: _StreamEnd | None = None

    def as_json(self, now: float) -> dict[str, Any]:
        """Describe the stream at the instant ``now``, the wait under way included."""
        waiting = 0.0 if self.waiting_since is None else now - self.waiting_since
        return {
            "number": self.number,
            "sent_chunks": self.sent_chunks,
            "sent_bytes": self.sent_bytes,
            "waited": round(self.waited + waiting, 6),
            "end": self.end.value if self.end else None,
        }


class _StreamRegistry:
    """The open streams, and a bounded memory of the ended ones."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._open: dict[int, _StreamRecord] = {}
        self._ended: OrderedDict[int, _StreamRecord] = OrderedDict()
        self._last_number = 0

    def __len__(self) -> int:
        """Return how many streams are open."""
        return len(self._open)

    def open(self) -> _StreamRecord:
        """Register a new stream; the caller must hand it to ``close`` in the end."""
        self._last_number += 1
        record = _StreamRecord(self._last_number)
        self._open[record.number] = record
        return record

    def close(self, record: _StreamRecord, end: _StreamEnd) -> None:
        """Note why the stream ended, and forget the oldest of those ended before."""
        record.end = end
        record.waiting_since = None
        del self._open[record.number]
        self._ended[record.number] = record
        while len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    def find(self, number: int) -> _StreamRecord | None:
        """Return the stream of that number if it is open or still remembered."""
        return self._open.get(number) or self._ended.get(number)


class _Exchange:
    """One request, and the sending of its response."""

    __slots__ = ("_send", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path = _path_below_root(scope)
        self.receive = receive
        self._send = send

    @property
    def head_only(self) -> bool:
        """Whether the response must not have a body."""
        return self.method == "HEAD"

    def header(self, name: bytes) -> str:
        """Return the first request header of that name, or an empty string."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value).decode("latin-1")
        return ""

    async def start(
        self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Send the head of the response; the caller sends the body next."""
        head = [(b"content-type", content_type), *_COMMON_HEADERS, *headers]
        await self._send(
            {"type": "http.response.start", "status": status, "headers": head}
        )

    async def write(self, body: bytes) -> None:
        """
        Send a piece of the body, waiting while the client takes no more.

        Raises:
            OSError: The client is gone (ASGI HTTP 2.4, disconnected client).
        """
        await self._send(
            {"type": "http.response.body", "body": body, "more_body": True}
        )

    async def finish(self, body: bytes = b"") -> None:
        """Send the last piece of the body."""
        await self._send(
            {"type": "http.response.body", "body": body, "more_body": False}
        )

    async def respond(
        self,
        status: int,
        content_type: bytes,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send a whole response of known length; to HEAD, its head only."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, content_type, [length, *headers])
        await self.finish(b"" if self.head_only else body)

    async def respond_json(self, content: dict[str, Any]) -> None:
        """Send ``content`` as JSON with status 200."""
        await self.respond(200, _JSON, json.dumps(content).encode() + b"\n")


class Demo:
    """
    The demo as an ASGI 3 application.

    One instance is one worker's demo: it counts what this process has served.
    """

    def __init__(
        self,
        limits: DemoLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Load the page.

        Args:
            limits: What to spend at most on one exchange.
            clock: Monotonic time in seconds.
        """
        self._limits = limits or DemoLimits()
        self._clock = clock
        self._page = Page()
        self._streams = _StreamRegistry(self._limits.remembered_streams)
        self._websockets = WebSockets(self._limits, clock)
        self._started = clock()
        self._requests = 0
        self._received_bytes = 0
        self._routes: dict[str, dict[str, Callable[[_Exchange], Awaitable[None]]]] = {
            "/": {"GET": self._index},
            "/request": {"GET": self._request},
            "/stream": {"GET": self._stream},
            "/events": {"GET": self._events},
            "/status": {"GET": self._status},
            "/upload": {"POST": self._upload, "PUT": self._upload},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one scope (ASGI 3.0, applications).

        Raises:
            ValueError: The scope is of a type the demo does not know.
        """
        if scope["type"] == "http":
            await self._serve(_Exchange(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._websockets.serve(_path_below_root(scope), receive, send)
        else:
            raise ValueError(f"the demo does not serve {scope['type']!r} scopes")

    async def _live(self, receive: Receive, send: Send) -> None:
        """Answer the lifespan messages; uptime counts from the startup."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._started = self._clock()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, exchange: _Exchange) -> None:
        """Find the handler of a request, and run it."""
        self._requests += 1
        try:
            if not exchange.path:
                await self._redirect_to_slash(exchange)
            elif exchange.path not in self._routes:
                await self._not_found(exchange)
            else:
                await self._handle(exchange, self._routes[exchange.path])
        except OSError:
            # The client left before its answer was sent (ASGI HTTP 2.4); there
            # is nothing to save, and nobody to tell.
            return

    async def _handle(
        self,
        exchange: _Exchange,
        handlers: dict[str, Callable[[_Exchange], Awaitable[None]]],
    ) -> None:
        """Run the handler of the request's method, or refuse the method."""
        method = "GET" if exchange.head_only else exchange.method
        if handler := handlers.get(method):
            await handler(exchange)
        else:
            await self._method_not_allowed(exchange, handlers)

    # Pages

    async def _index(self, exchange: _Exchange) -> None:
        """Answer with the page."""
        page = self._page
        await exchange.respond(200, _HTML, page.index(exchange.scope), page.headers)

    async def _request(self, exchange: _Exchange) -> None:
        """Answer with the part of the page that describes the request."""
        page = self._page
        await exchange.respond(200, _HTML, page.request(exchange.scope), page.headers)

    async def _redirect_to_slash(self, exchange: _Exchange) -> None:
        """Send ``/demo`` on to ``/demo/``: from there relative URLs lead right."""
        last_segment = quote(root_path(exchange.scope).rpartition("/")[2])
        query = exchange.scope.get("query_string", b"")
        location = f"./{last_segment}/".encode() + (b"?" + query if query else b"")
        await exchange.respond(307, _TEXT, b"", [(b"location", location)])

    async def _not_found(self, exchange: _Exchange) -> None:
        """Answer 404."""
        detail = f"Nothing is served at {exchange.path}."
        await self._refuse(exchange, 404, "Not found", detail)

    async def _method_not_allowed(
        self, exchange: _Exchange, methods: Iterable[str]
    ) -> None:
        """Answer 405 with the methods that would do (RFC 9110 section 15.5.6)."""
        allowed = set(methods) | ({"HEAD"} if "GET" in methods else set())
        allow = ", ".join(sorted(allowed))
        detail = f"{exchange.path} takes {allow}; this was {exchange.method}."
        await self._refuse(
            exchange, 405, "Method not allowed", detail, [(b"allow", allow.encode())]
        )

    async def _refuse(
        self,
        exchange: _Exchange,
        status: int,
        title: str,
        detail: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer with an error: a page for who accepts HTML, a line for others."""
        if "text/html" in exchange.header(b"accept"):
            body = self._page.error(status, title, detail, exchange.scope)
            headers = [*self._page.headers, *headers]
            await exchange.respond(status, _HTML, body, headers)
        else:
            body = f"{status} {title}: {detail}\n".encode()
            await exchange.respond(status, _TEXT, body, headers)

    # Streams

    async def _stream(self, exchange: _Exchange) -> None:
        """Answer with the chunks the query asks for, paced or at full speed."""
        try:
            plan = _StreamPlan.from_query(exchange.scope.get("query_string", b""))
        except _BadQuery as error:
            await self._refuse(exchange, 400, "Bad request", str(error))
            return
        record = self._streams.open()
        chunks = self._chunks(plan)
        await self._send_stream(exchange, record, _TEXT, chunks, plan.pause_ms / 1000)

    def _chunks(self, plan: _StreamPlan) -> Iterator[bytes]:
        """Yield the lines of ``/stream``, each filled up to the size asked for."""
        started = self._clock()
        for index in range(1, plan.chunks + 1):
            line = f"chunk {index} of {plan.chunks}, {self._clock() - started:.3f} s "
            yield line.ljust(plan.size - 1, ".").encode() + b"\n"

    async def _events(self, exchange: _Exchange) -> None:
        """Answer with an event each interval, until the browser closes the stream."""
        last_id = exchange.header(b"last-event-id")
        # Checked in length too: the number comes back in every event.
        seen = int(last_id) if last_id.isdecimal() and len(last_id) <= 15 else 0
        record = self._streams.open()
        ticks = self._ticks(record, seen)
        interval = self._limits.event_interval
        await self._send_stream(exchange, record, _EVENT_STREAM, ticks, interval)

    def _ticks(self, record: _StreamRecord, seen: int) -> Iterator[bytes]:
        """Yield server-sent events without end, numbered on from ``seen``."""
        opening = _event("stream", {"number": record.number, "resumed_after": seen})
        yield f"retry: {_RECONNECT_MS}\n".encode() + opening
        while True:
            seen += 1
            yield f"id: {seen}\n".encode() + _event("tick", self._statistics())

    async def _send_stream(
        self,
        exchange: _Exchange,
        record: _StreamRecord,
        content_type: bytes,
        chunks: Iterable[bytes],
        pause: float,
    ) -> None:
        """
        Send ``chunks`` with ``pause`` seconds between them; close the record.

        The flow of a stream: ``write`` waits as long as the client takes
        nothing, so the next chunk is not even made; meanwhile ``receive`` is
        listened to, and the first ``http.disconnect`` ends the stream.
        """
        end = _StreamEnd.CANCELLED
        disconnect = asyncio.create_task(_wait_for_disconnect(exchange.receive))
        try:
            number = (b"demo-stream", str(record.number).encode())
            # nginx collects a response unless it is told not to.
            unbuffered = (b"x-accel-buffering", b"no")
            await exchange.start(200, content_type, [number, unbuffered])
            if exchange.head_only:
                chunks = ()
            end = await self._send_chunks(exchange, record, chunks, disconnect, pause)
        except OSError:
            end = _StreamEnd.CLIENT_LEFT
        finally:
            self._streams.close(record, end)
            disconnect.cancel()
            await asyncio.wait({disconnect})

    async def _send_chunks(
        self,
        exchange: _Exchange,
        record: _StreamRecord,
        chunks: Iterable[bytes],
        disconnect: asyncio.Future[None],
        pause: float,
    ) -> _StreamEnd:
        """Send chunks till they end, the client leaves, or the time is up."""
        end = _StreamEnd.COMPLETE
        deadline = self._clock() + self._limits.stream_timeout
        for chunk in chunks:
            if self._clock() >= deadline:
                end = _StreamEnd.TIME_LIMIT
                break
            await self._write_measured(exchange, record, chunk)
            # Also without a pause: this is what lets the event loop breathe
            # between two chunks when the client takes them at once.
            await asyncio.wait({disconnect}, timeout=pause)
            if disconnect.done():
                return _StreamEnd.CLIENT_LEFT
        await exchange.finish()
        return end

    async def _write_measured(
        self, exchange: _Exchange, record: _StreamRecord, chunk: bytes
    ) -> None:
        """Write one chunk, and note how long ``send()`` waited for the client."""
        record.waiting_since = self._clock()
        await exchange.write(chunk)
        record.waited += self._clock() - record.waiting_since
        record.waiting_since = None
        record.sent_chunks += 1
        record.sent_bytes += len(chunk)

    # Numbers

    async def _status(self, exchange: _Exchange) -> None:
        """Answer with the statistics, and with one stream's state if asked for."""
        try:
            query = _query(exchange.scope.get("query_string", b""))
            number = _whole_number(query, "stream", 0, range(2**53))
        except _BadQuery as error:
            await self._refuse(exchange, 400, "Bad request", str(error))
            return
        record = self._streams.find(number)
        stream = record.as_json(self._clock()) if record else None
        await exchange.respond_json({**self._statistics(), "stream": stream})

    def _statistics(self) -> dict[str, Any]:
        """Return what this process has served up to now."""
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "uptime": round(self._clock() - self._started, 3),
            "requests": self._requests,
            "open_streams": len(self._streams),
            "received_bytes": self._received_bytes,
            "process": os.getpid(),
        }

    # Uploads

    async def _upload(self, exchange: _Exchange) -> None:
        """Count and hash the request body as it arrives, and answer with both."""
        announced = exchange.header(b"content-length")
        if announced.isdecimal() and int(announced) > self._limits.upload_bytes:
            await self._refuse_upload(exchange)
            return
        started = self._clock()
        digest = hashlib.sha256()
        length = chunks = 0
        more_body = True
        while more_body:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                return
            body = message.get("body", b"")
            more_body = message.get("more_body", False)
            length += len(body)
            self._received_bytes += len(body)
            if length > self._limits.upload_bytes:
                await self._refuse_upload(exchange)
                return
            chunks += bool(body)
            digest.update(body)
        await exchange.respond_json(
            {
                "bytes": length,
                "chunks": chunks,
                "seconds": round(self._clock() - started, 6),
                "sha256": digest.hexdigest(),
            }
        )

    async def _refuse_upload(self, exchange: _Exchange) -> None:
        """Answer 413."""
        detail = f"An upload may have {self._limits.upload_bytes:,} bytes at most."
        await self._refuse(exchange, 413, "Content too large", detail)


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return when the client is gone, dropping what is left of the request body."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _path_below_root(scope: Scope) -> str:
    """
    Return the path within the application; empty for its bare mount point.

    By ASGI the path includes the ``root_path``; behind a proxy which strips the
    prefix some servers leave it out, so it is removed only where it stands.
    """
    mount, path = root_path(scope), str(scope["path"])
    if mount and (path + "/").startswith(mount + "/"):
        return path[len(mount) :]
    return path or "/"


def _query(query_string: bytes) -> dict[str, str]:
    """
    Return the parameters of a query string; the last one of a name counts.

    Raises:
        _BadQuery: There are far more parameters than anything here takes.
    """
    try:
        return dict(parse_qsl(query_string.decode("latin-1"), max_num_fields=16))
    except ValueError as error:
        raise _BadQuery("There are too many parameters.") from error


def _whole_number(
    query: dict[str, str], name: str, default: int, allowed: range
) -> int:
    """
    Return the parameter ``name`` as a number.

    Raises:
        _BadQuery: It is no whole number, or not among those allowed.
    """
    text = query.get(name, str(default))
    if text.isdecimal() and len(text) <= 16 and int(text) in allowed:
        return int(text)
    raise _BadQuery(
        f"{name} must be a whole number from {allowed[0]} to {allowed[-1]}."
    )


def _event(name: str, data: dict[str, Any]) -> bytes:
    """Return one server-sent event (HTML standard, section 9.2)."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


application = Demo()
"""
The ASGI application.
"""
