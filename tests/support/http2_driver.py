"""The driver of the contract suite which speaks HTTP/2, with h2 as the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from http_drivers import Driver, Exchange
from twisted.internet.interfaces import IAddress
from two_ended_transport import TwoEndedTransport

from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.http2 import HTTP2Protocol
from daphne_like.protocols.interfaces import Header

__all__ = ["HTTP2Connection", "HTTP2Driver", "HTTP2Exchange"]


class HTTP2Driver(Driver):
    """
    A server and clients that speak HTTP/2.

    Attributes:
        client: The address of the next client; one of IPv4 by default.
    """

    http_version = "2"
    client: IAddress | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections: list[HTTP2Connection] = []

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
    ) -> HTTP2Exchange:
        """Send a request, on a connection of its own unless ``after`` is given."""
        if isinstance(after, HTTP2Exchange):
            connection = after.connection
        else:
            connection = self.connect()
        fields = [(name.lower(), value) for name, value in headers]
        if body and not more_body and b"content-length" not in dict(fields):
            fields.append((b"content-length", b"%d" % len(body)))
        return connection.request(
            method, path, fields, body, ended=not more_body and not body
        )

    def begin_request(self) -> None:
        """Connect, and send a head without its last fragment."""
        connection = self.connect()
        connection.transport.deliver(b"\0\0\x01\x01\x01\0\0\0\x01\x82")

    def connect(self) -> HTTP2Connection:
        """Connect and exchange settings."""
        connection = HTTP2Connection(self, self.client)
        self._connections.append(connection)
        return connection


class HTTP2Connection:
    """
    A connection of the driver.

    Attributes:
        engine: The client's.
        exchanges: By number of the stream.
    """

    def __init__(self, driver: HTTP2Driver, client: IAddress | None) -> None:
        self.transport = TwoEndedTransport(driver.loop, client, self._read)
        self.engine = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding=None)
        )
        self.exchanges: dict[int, HTTP2Exchange] = {}
        self._driver = driver
        self._parsed_bytes = 0
        self.protocol = HTTP2Protocol(
            HTTPContext(
                open_stream=driver.streams.open_stream,
                open_websocket=driver.streams.open_websocket,
                settings=driver.settings,
                default_headers=driver.streams.default_headers,
                wheel=driver.streams.wheel,
                loop=driver.loop,
                connections=set(),
                limit_hit=driver.streams.context.limit_hit,
            )
        )
        self.engine.initiate_connection()
        self.transport.connect(self.protocol)
        self.flush()

    def request(
        self,
        method: str,
        path: str,
        fields: Sequence[Header],
        body: bytes,
        *,
        ended: bool,
    ) -> HTTP2Exchange:
        """Send a head, and the first piece of the body."""
        number = self.engine.get_next_available_stream_id()
        exchange = self.exchanges[number] = HTTP2Exchange(self, number)
        pseudo = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", b"example.org"),
            (b":path", path.encode()),
        ]
        self.engine.send_headers(number, [*pseudo, *fields], end_stream=ended)
        self.flush()
        if body:
            known = dict(fields)
            whole = int(known.get(b"content-length", b"-1")) == len(body)
            exchange.send_body(body, end=whole)
        return exchange

    def flush(self) -> None:
        """Let the server receive what the engine has made."""
        data = self.engine.data_to_send()
        if data and not self.transport.ended:
            self.transport.deliver(data)

    def _read(self) -> None:
        """Parse what has come, and let the exchanges know what it means."""
        data = bytes(self.transport.received[self._parsed_bytes :])
        self._parsed_bytes += len(data)
        try:
            events = self.engine.receive_data(data) if data else []
        except h2.exceptions.ProtocolError as error:
            self._driver.violations.append(repr(error))
            return
        for event in events:
            number = getattr(event, "stream_id", None)
            exchange = self.exchanges.get(number or 0)
            if exchange is not None:
                exchange.take(event)
        self.flush()
        for exchange in self.exchanges.values():
            exchange.go_on()
            if self.transport.ended and not exchange.is_closed:
                exchange.is_closed = True
                exchange.is_broken = not exchange.is_complete


class HTTP2Exchange(Exchange):
    """An exchange over HTTP/2."""

    def __init__(self, connection: HTTP2Connection, number: int) -> None:
        super().__init__()
        self.connection = connection
        self.number = number
        self.reset_code: int | None = None
        self._unsent = b""
        self._end_unsent = False

    def take(self, event: h2.events.Event) -> None:
        """Take note of what the server sent."""
        engine = self.connection.engine
        if isinstance(event, h2.events.InformationalResponseReceived):
            status, *fields = _plain(event.headers)
            self.informational.append((int(status[1]), fields))
        elif isinstance(event, h2.events.ResponseReceived):
            status, *fields = _plain(event.headers)
            self.status = int(status[1])
            self.headers = fields
        elif isinstance(event, h2.events.DataReceived):
            self.body += event.data or b""
            size = event.flow_controlled_length
            if size:
                engine.acknowledge_received_data(size, self.number)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = _plain(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self.is_complete = self.is_closed = True
        elif isinstance(event, h2.events.StreamReset):
            self.reset_code = event.error_code
            self.is_broken = not self.is_complete
            self.is_closed = True

    def send_body(self, data: bytes, *, end: bool = False) -> None:
        """Send a piece, as far as the server's windows allow."""
        self._unsent += data
        self._end_unsent = end
        self.go_on()

    def go_on(self) -> None:
        """Send what waits for a window to open."""
        engine = self.connection.engine
        while self._unsent or self._end_unsent:
            if self.is_closed or self.connection.transport.ended:
                return
            room = min(
                engine.local_flow_control_window(self.number),
                engine.max_outbound_frame_size,
            )
            if not room and self._unsent:
                return
            piece, self._unsent = self._unsent[:room], self._unsent[room:]
            end = self._end_unsent and not self._unsent
            if end:
                self._end_unsent = False
            engine.send_data(self.number, piece, end_stream=end)
            self.connection.flush()

    def upload_is_paused(self) -> bool:
        """Whether the window of the stream is shut."""
        engine = self.connection.engine
        return not engine.local_flow_control_window(self.number)

    def stop_reading(self) -> None:
        """Let the buffers of the connection fill."""
        self.connection.transport.stop_reading()

    def read_on(self) -> None:
        """Empty the buffers of the connection."""
        self.connection.transport.read_on()

    def leave(self) -> None:
        """Lose the connection."""
        self.connection.transport.leave()


def _plain(fields: Any) -> list[Header]:
    return [(bytes(name), bytes(value)) for name, value in fields]
