"""
HTTP exchanges as a client sees them, whatever the HTTP version.

A driver is a server in memory and a client that speaks one version with it. The
contract suite is written against :class:`Driver` and :class:`Exchange`; a further
version needs another subclass of each, and its name among the parameters of the
suite's fixture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import h11
from stepped_loop import SteppedLoop
from twisted.internet.interfaces import IAddress
from two_ended_transport import TwoEndedTransport

from daphne_like.asgi.applications import ApplicationManager
from daphne_like.asgi.exchange import ExchangeContext
from daphne_like.asgi.observed_streams import observed
from daphne_like.asgi.request_events import stream_class
from daphne_like.asgi.response_headers import FieldReader
from daphne_like.asgi.types import ASGIApplication
from daphne_like.asgi.websocket_stream import WebSocketStream, WebSocketStreamContext
from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.default_headers import DefaultHeaders
from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.interfaces import Header
from daphne_like.protocols.websocket import WebSocketContext
from daphne_like.settings import HTTPSettings, WebSocketSettings

__all__ = ["Driver", "Exchange", "HTTP1Driver", "HTTP1Exchange", "Streams"]


class Streams:
    """
    What makes streams for requests, as a server has it.

    Args:
        loop: Runs the applications.
        application: The one that is served.
        websocket: Settings of WebSockets.
        filled: Whether the first event of a body waits until it is full.
        options: Of :class:`~daphne_like.asgi.exchange.ExchangeContext`.
    """

    def __init__(
        self,
        loop: SteppedLoop,
        application: ASGIApplication,
        websocket: dict[str, Any] | None = None,
        *,
        filled: bool = False,
        **options: Any,
    ) -> None:
        self.loop = loop
        self.default_headers = DefaultHeaders(
            [(b"server", b"daphne-like")], date=True, wall_clock=loop.time
        )
        self.manager = ApplicationManager(application, loop)
        self.wheel = DeadlineWheel(loop.time)
        self.context = ExchangeContext(
            manager=self.manager,
            field_reader=FieldReader(self.default_headers.names),
            wheel=self.wheel,
            **options,
        )
        stream = stream_class(self.context.request_buffer_size, filled=filled)
        self.open_stream = partial(observed(stream, self.context), self.context)
        websockets = WebSocketStreamContext(
            exchanges=self.context,
            denials=replace(self.context, access_log=None),
            websockets=WebSocketContext(
                WebSocketSettings(**(websocket or {})),
                60.0,
                self.wheel,
                loop.call_soon,
                limit_hit=self.context.limit_hit,
            ),
        )
        self.open_websocket = partial(
            observed(WebSocketStream, self.context), websockets
        )

    def advance(self, seconds: int) -> None:
        """Let time pass, second by second, as a server does."""
        for _ in range(seconds):
            self.loop.advance(1)
            self.loop.call_soon(self.wheel.tick)
            self.loop.settle()

    def end(self) -> None:
        """Cancel what is still running."""
        for instance in [*self.manager.running]:
            self.manager.cancel(instance)
        self.loop.settle()


class Exchange(ABC):
    """
    One request, and what its client has got of the response.

    Attributes:
        status: ``None`` while no head has come.
        headers: Pairs in the order received, without those of one version only.
        body: What has come of it, without framing.
        trailers: Fields behind the body.
        informational: Heads before the response: status and fields.
        is_complete: The response has come to its end.
        is_broken: It never will: the server has broken it off.
        is_closed: The server has ended what carried the exchange: the connection
            in HTTP/1, the stream in others.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[Header] = []
        self.body = b""
        self.trailers: list[Header] = []
        self.informational: list[tuple[int, list[Header]]] = []
        self.is_complete = False
        self.is_broken = False
        self.is_closed = False

    def values_of(self, name: bytes) -> list[bytes]:
        """Return the values of all fields of this name."""
        return [value for known, value in self.headers if known == name]

    @abstractmethod
    def send_body(self, data: bytes, *, end: bool = False) -> None:
        """Send a piece of the request's body."""

    @abstractmethod
    def upload_is_paused(self) -> bool:
        """Whether the server takes no more of the request's body for now."""

    @abstractmethod
    def stop_reading(self) -> None:
        """Take nothing more of the response, until :meth:`read_on`."""

    @abstractmethod
    def read_on(self) -> None:
        """Take what has piled up of the response, and whatever comes."""

    @abstractmethod
    def leave(self) -> None:
        """Go away without waiting for the rest."""


class Driver(ABC):
    """
    A server in memory for one application, and its clients.

    Attributes:
        http_version: As the scope tells it.
        streams: What the server makes of requests.
        violations: What clients got that no server may send.
    """

    http_version: str

    def __init__(
        self,
        loop: SteppedLoop,
        application: ASGIApplication,
        *,
        settings: HTTPSettings | None = None,
        **options: Any,
    ) -> None:
        self.loop = loop
        self.settings = HTTPSettings() if settings is None else settings
        self.streams = Streams(loop, application, **options)
        self.violations: list[str] = []

    def advance(self, seconds: int) -> None:
        """Let time pass."""
        self.streams.advance(seconds)

    def end(self) -> None:
        """Let all clients go and all applications end, without a word."""
        self.leave()
        self.streams.end()

    @abstractmethod
    def leave(self) -> None:
        """Let all clients go."""

    @abstractmethod
    def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Sequence[Header] = (),
        body: bytes = b"",
        *,
        more_body: bool = False,
        after: Exchange | None = None,
    ) -> Exchange:
        """
        Send a request and wait for all that comes of it by itself.

        Args:
            method: Its method.
            path: Path and query, percent-encoded.
            headers: Fields besides the host and those that frame the body.
            body: Of the request; its first piece if ``more_body``.
            more_body: The rest is sent by :meth:`Exchange.send_body`.
            after: Use the connection of that exchange, which is complete.
        """

    @abstractmethod
    def begin_request(self) -> None:
        """Connect, and send a head that isn't complete."""

    @property
    def running(self) -> int:
        """Count the application instances that have not ended."""
        return len(self.streams.manager.running)


# -- HTTP/1.1 ----------------------------------------------------------------


class HTTP1Driver(Driver):
    """
    A server and clients that speak HTTP/1.1.

    Attributes:
        client: The address of the next client; one of IPv4 by default.
    """

    http_version = "1.1"
    client: IAddress | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections: list[HTTP1Connection] = []

    def leave(self) -> None:
        """Lose all connections."""
        for connection in self._connections:
            connection.transport.leave()

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Sequence[Header] = (),
        body: bytes = b"",
        *,
        more_body: bool = False,
        after: Exchange | None = None,
    ) -> HTTP1Exchange:
        """Send a request, on a connection of its own unless ``after`` is given."""
        if isinstance(after, HTTP1Exchange):
            connection = after.connection
        else:
            connection = self._connect()
        fields = [(b"host", b"example.org"), *headers]
        names = {name for name, _ in headers}
        if b"te" in names:
            # RFC 9110 section 10.1.4: it concerns this connection alone.
            fields.append((b"connection", b"te"))
        if b"content-length" in names:
            pass
        elif more_body:
            fields.append((b"transfer-encoding", b"chunked"))
        elif body:
            fields.append((b"content-length", b"%d" % len(body)))
        head = h11.Request(method=method, target=path, headers=fields)
        exchange = HTTP1Exchange(connection, head)
        exchange.send_body(body, end=not more_body)
        return exchange

    def begin_request(self) -> None:
        """Connect, and send a head without its last line."""
        connection = self._connect()
        connection.transport.deliver(b"GET / HTTP/1.1\r\nHost: example.org\r\n")

    def _connect(self) -> HTTP1Connection:
        connection = HTTP1Connection(self, self.client)
        self._connections.append(connection)
        return connection


class HTTP1Connection:
    """
    A connection of the driver, with h11 as the client's parser.

    Attributes:
        current: The exchange being read.
    """

    def __init__(self, driver: HTTP1Driver, client: IAddress | None) -> None:
        self.transport = TwoEndedTransport(driver.loop, client, self._read)
        self.parser = h11.Connection(h11.CLIENT)
        self.current: HTTP1Exchange | None = None
        self._driver = driver
        self._parsed_bytes = 0
        self._end_parsed = False
        context = HTTPContext(
            open_stream=driver.streams.open_stream,
            open_websocket=driver.streams.open_websocket,
            settings=driver.settings,
            default_headers=driver.streams.default_headers,
            wheel=driver.streams.wheel,
            loop=driver.loop,
            connections=set(),
            limit_hit=driver.streams.context.limit_hit,
        )
        self.transport.connect(HTTP1Protocol(context))

    def send(self, event: Any) -> None:
        """Send what h11 makes of an event of its own."""
        data = self.parser.send(event)
        if data:
            self.transport.deliver(data)

    def _read(self) -> None:
        """Parse what has come, and let the exchange know what it means."""
        data = bytes(self.transport.received[self._parsed_bytes :])
        self._parsed_bytes += len(data)
        exchange, ended = self.current, self.transport.ended
        if exchange is not None:
            exchange.is_closed = ended
        if exchange is None or exchange.is_complete:
            if data:
                self._driver.violations.append(f"unasked for: {data!r}")
            return
        try:
            if data:
                self.parser.receive_data(data)
            if ended and not self.transport.reset and not self._end_parsed:
                self._end_parsed = True
                self.parser.receive_data(b"")
            self._read_events(exchange)
        except h11.RemoteProtocolError as error:
            if not ended:
                self._driver.violations.append(repr(error))
        exchange.is_broken = ended and not exchange.is_complete

    def _read_events(self, exchange: HTTP1Exchange) -> None:
        while not exchange.is_complete:
            event = self.parser.next_event()
            if isinstance(event, h11.InformationalResponse):
                fields = list(event.headers)
                exchange.informational.append((event.status_code, fields))
            elif isinstance(event, h11.Response):
                exchange.status = event.status_code
                exchange.headers = list(event.headers)
            elif isinstance(event, h11.Data):
                exchange.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                exchange.trailers = list(event.headers)
                exchange.is_complete = True
            else:
                return


class HTTP1Exchange(Exchange):
    """An exchange over HTTP/1.1."""

    def __init__(self, connection: HTTP1Connection, head: h11.Request) -> None:
        super().__init__()
        self.connection = connection
        if connection.current is not None:
            connection.parser.start_next_cycle()
        connection.current = self
        connection.send(head)

    def send_body(self, data: bytes, *, end: bool = False) -> None:
        """Send a piece, in a chunk where the length wasn't told."""
        if data:
            self.connection.send(h11.Data(data))
        if end:
            self.connection.send(h11.EndOfMessage())

    def upload_is_paused(self) -> bool:
        """Whether the server reads nothing from this connection."""
        return self.connection.transport.reading_paused

    def stop_reading(self) -> None:
        """Let the buffers of the connection fill."""
        self.connection.transport.stop_reading()

    def read_on(self) -> None:
        """Empty the buffers of the connection."""
        self.connection.transport.read_on()

    def leave(self) -> None:
        """Lose the connection."""
        self.connection.transport.leave()
