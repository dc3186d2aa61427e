"""
One HTTP/1 connection wholly in memory: transport, streams, event loop and clock.

:class:`MemoryConnection` puts a protocol between a :class:`MemoryTransport`, which
fails where a real one would put up with nonsense, and :class:`FakeStream`, which
stands where ASGI does in the server. Time passes and turns of the loop happen
only when a test says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from math import inf
from typing import Any, NamedTuple, cast

import h11
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from daphne_like.errors import RequestRejected
from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.default_headers import DefaultHeaders
from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.http1_reader import RequestReader
from daphne_like.protocols.interfaces import (
    Connection,
    Header,
    LiveConnection,
    RequestHead,
    ResponseFields,
    StreamSender,
)
from daphne_like.protocols.negotiation import HTTPFactory
from daphne_like.settings import HTTP2Settings, HTTPSettings

__all__ = [
    "Application",
    "FakeStream",
    "HandTask",
    "MemoryConnection",
    "MemoryTransport",
    "Outcome",
    "PlainTransport",
    "Response",
    "echo",
    "hello",
    "responses_in",
]


class PlainTransport:
    """
    The least that a stream transport of Twisted can do.

    Attributes:
        written: All that was written.
        end: How its writing side was ended: ``""``, ``half``, ``closing`` or
            ``aborted``.
        lost: The protocol has been told that the connection is gone.
        reading: It isn't paused.
        producer: Who is paused when the peer takes too little.
        unsent_bytes: Written, but not taken by the peer.
        high_water_bytes: Above so many unsent bytes, the producer is paused; the
            peer then takes nothing by itself.
    """

    def __init__(self, high_water_bytes: float = inf) -> None:
        self.written = bytearray()
        self.end = ""
        self.lost = False
        self.reading = True
        self.producer: Any = None
        self.producer_paused = False
        self.high_water_bytes = high_water_bytes
        self.unsent_bytes = 0
        self.peer: object = IPv4Address("TCP", "192.0.2.1", 1234)
        self.host: object = IPv4Address("TCP", "192.0.2.2", 80)

    def write(self, data: bytes) -> None:
        """Take bytes, as long as the writing side is open."""
        assert type(data) is bytes
        assert data, "nothing was written"
        assert not self.end, f"written although {self.end}: {data!r}"
        assert not self.lost, f"written although lost: {data!r}"
        self.written += data
        if self.high_water_bytes == inf:
            return
        self.unsent_bytes += len(data)
        if (
            self.unsent_bytes > self.high_water_bytes
            and self.producer is not None
            and not self.producer_paused
        ):
            self.producer_paused = True
            self.producer.pauseProducing()

    def take(self, count: float = inf) -> None:
        """Let the peer take so many bytes; the producer resumes when all are taken."""
        self.unsent_bytes -= int(min(count, self.unsent_bytes))
        if self.producer_paused and not self.unsent_bytes:
            self.producer_paused = False
            if self.producer is not None:
                self.producer.resumeProducing()

    def loseConnection(self) -> None:
        """Close when all is taken."""
        assert self.end in ("", "half"), f"closed although {self.end}"
        self.end = "closing"

    def abortConnection(self) -> None:
        """Close at once."""
        assert not self.lost
        self.end = "aborted"

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Take the one producer."""
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self.producer = None

    def pauseProducing(self) -> None:
        """Stop reading."""
        assert self.reading, "paused twice"
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again."""
        assert not self.reading, "resumed although not paused"
        self.reading = True

    def getPeer(self) -> object:
        """Tell the other end."""
        return self.peer

    def getHost(self) -> object:
        """Tell this end."""
        return self.host


class MemoryTransport(PlainTransport):
    """One that can do what TCP transports can: half close, and tell its buffer."""

    def loseWriteConnection(self) -> None:
        """Close the writing side."""
        assert not self.end, f"half closed although {self.end}"
        assert self.producer is None, "Twisted waits for a producer first"
        self.end = "half"

    def write_buffer_bytes(self) -> int:
        """Count what the peer hasn't taken."""
        return self.unsent_bytes


class FakeStream:
    """
    A stream that does what a test's application makes of it.

    It keeps to the contract of ``Stream`` in its own calls, and checks that the
    protocol keeps it, too.

    Attributes:
        head: The request.
        told: What it was told of the exchange, in order: ``body``, ``end``, a
            status and ``disconnected``.
        body: The request body so far.
        complete: The request body has ended, or there is none.
        over: Nothing more is to be sent.
    """

    def __init__(
        self,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
        owner: MemoryConnection,
    ) -> None:
        self.head = head
        self.connection = connection
        self.sender = sender
        self.told: list[str] = []
        self.body = b""
        self.complete = not head.has_body
        self.started = self.begun = self.over = False
        self._untaken_bytes = 0
        self._owner = owner
        # ResponseHead
        self.status = 0
        self.fields = ResponseFields(())
        self.content_length: int | None = None
        self.bodiless = False

    # Told by the protocol

    def start(self) -> None:
        """Begin: at once as eager tasks do, or in the next turn."""
        assert not self.started
        assert not self.over
        assert not self._owner.is_feeding, "a fault may be behind it"
        self.started = True
        if self._owner.eager:
            self._owner.application(self)
        else:
            self._owner.pending.append(self)

    def reject(self, rejection: RequestRejected) -> None:
        """Answer with an error, or break off."""
        self._tell(str(rejection.status))
        if self.over:
            return
        if self.begun:
            self.abort()
            return
        body = f"{rejection.detail}\n".encode()
        self.answer(body, status=rejection.status, close=True)

    def body_received(self, data: bytes) -> None:
        """Keep a piece, or drop it when it comes too late."""
        assert not self.complete
        if self.over:
            self.sender.body_consumed(len(data))
            return
        if self.told[-1:] != ["body"]:
            self._tell("body")
        self.body += data
        self._untaken_bytes += len(data)
        self._owner.pending.append(self)

    def body_ended(self) -> None:
        """Note the end of the body."""
        assert not self.complete
        self.complete = True
        if not self.over:
            self._tell("end")
            self._owner.pending.append(self)

    def disconnected(self) -> None:
        """Note that the client has gone."""
        assert self.started
        self._tell("disconnected")
        self.over = True

    def _tell(self, what: str) -> None:
        assert "disconnected" not in self.told, f"{what} after disconnected"
        self.told.append(what)

    # Done by an application

    def ask(self) -> None:
        """Wait for more of the body, as ``receive()`` does."""
        if self.head.expects_continue and not self.complete and not self.begun:
            self.head.expects_continue = False
            self.sender.send_continue()

    def take(self) -> None:
        """Take what has come of the body, as ``receive()`` does."""
        taken, self._untaken_bytes = self._untaken_bytes, 0
        if taken:
            self.sender.body_consumed(taken)

    def answer(
        self,
        body: bytes = b"ok",
        *,
        status: int = 200,
        headers: Sequence[Header] = (),
        length: int | None = None,
        end: bool = True,
        close: bool = False,
        own_defaults: frozenset[bytes] = frozenset(),
    ) -> None:
        """
        Begin a response, and end it unless told otherwise.

        Args:
            body: The first piece.
            status: The status.
            headers: Its fields.
            length: What the response is to announce, if it is longer than ``body``.
            end: Whether that is all.
            close: The connection is to be closed afterwards.
            own_defaults: Names of the server's fields which ``headers`` replace.
        """
        assert not self.begun
        self.begun = True
        self.status = status
        told = dict(headers).get(b"content-length")
        fields_length = None if told is None else int(told)
        self.fields = ResponseFields(headers, fields_length, own_defaults, close)
        self.bodiless = self.head.method == "HEAD" or status in (204, 304)
        self.content_length = length if length is not None else fields_length
        if self.content_length is None and end and status not in (204, 304):
            self.content_length = len(body)
        if self.bodiless:
            body, end = b"", True
        if end:
            self._finish()
        self.sender.send_response(self, body, end)

    def send(self, body: bytes, *, end: bool = False) -> None:
        """Send a further piece."""
        if end:
            self._finish()
        self.sender.send_body(body, end)

    def abort(self) -> None:
        """Break off."""
        self.over = True
        self.sender.abort()

    def end_with(self, trailers: Sequence[Header]) -> None:
        """End the response with trailers."""
        self._finish()
        self.sender.send_trailers(trailers)

    def _finish(self) -> None:
        assert not self.over
        self.over = True
        self.take()


Application = Callable[[FakeStream], None]
"""Called when its stream starts, and when there is news of the body."""


def hello(stream: FakeStream) -> None:
    """Answer at once, without the body."""
    if not stream.over:
        stream.answer()


def echo(stream: FakeStream) -> None:
    """Answer with method, target and body when the body has come."""
    stream.ask()
    stream.take()
    if stream.complete:
        head = stream.head
        stream.answer(b"%b %b %b" % (head.method.encode(), head.target, stream.body))


def silent(stream: FakeStream) -> None:
    """Do nothing; the test acts itself."""


class WatchedReader(RequestReader):
    """A reader which knows when it is being fed."""

    is_feeding = False

    def feed(self, data: bytes) -> bool:
        """Feed, not within being fed."""
        assert not self.is_feeding
        self.is_feeding = True
        try:
            return super().feed(data)
        finally:
            self.is_feeding = False


class Outcome(NamedTuple):
    """
    What a peer and the applications see of a connection.

    Attributes:
        written: All that was written to the peer.
        end: How the connection was ended.
        streams: Method, target, body and what was told, of each that started.
    """

    written: bytes
    end: str
    streams: list[tuple[str, bytes, bytes, list[str]]]


class MemoryConnection:
    """
    A protocol with everything around it.

    Args:
        application: What answers requests.
        transport: The transport; one that can do everything by default.
        eager: Whether applications run within ``start()``, as on Python 3.12.
        connections: The other connections of the listener.
        deaf_to_pauses: Deliver bytes although reading is paused.
        http2: Which versions are spoken.
        settings: Of ``HTTPSettings``.

    Attributes:
        streams: All that were opened.
        transport, protocol, clock, wheel, loop: The parts.
    """

    def __init__(
        self,
        application: Application = silent,
        *,
        transport: PlainTransport | None = None,
        eager: bool = True,
        connections: set[LiveConnection] | None = None,
        deaf_to_pauses: bool = False,
        extra_headers: Sequence[Header] = (),
        scheme: str = "http",
        http2: HTTP2Settings | None = None,
        **settings: Any,
    ) -> None:
        self.application = application
        self.eager = eager
        self.transport = MemoryTransport() if transport is None else transport
        self.clock = Clock()
        # Deadlines fall in the middle between two ticks.
        self.clock.rightNow = 1000.5
        self.wheel = DeadlineWheel(self.clock.seconds)
        self.loop = HandLoop()
        self.streams: list[FakeStream] = []
        self.pending: list[FakeStream] = []
        self._deaf = deaf_to_pauses
        self._network: deque[bytes] = deque()
        self.connections = set() if connections is None else connections
        context = HTTPContext(
            open_stream=self._open_stream,
            open_websocket=self._open_stream,
            settings=HTTPSettings(**settings),
            default_headers=DefaultHeaders(
                extra_headers, date=False, wall_clock=self.clock.seconds
            ),
            wheel=self.wheel,
            loop=cast("asyncio.AbstractEventLoop", self.loop),
            connections=self.connections,
            scheme=scheme,
            http2=http2 or HTTP2Settings(),
        )
        address = IPv4Address("TCP", "192.0.2.1", 1234)
        protocol = HTTPFactory(context).buildProtocol(address)
        assert isinstance(protocol, HTTP1Protocol)
        self.protocol = protocol
        self.protocol._reader = WatchedReader(HTTPSettings(**settings), self.protocol)
        self.protocol.makeConnection(cast("ITransport", self.transport))

    @property
    def is_feeding(self) -> bool:
        """Whether the reader is in the middle of what came in."""
        reader = self.protocol._reader
        assert isinstance(reader, WatchedReader)
        return reader.is_feeding

    @property
    def _receiver(self) -> Any:
        """The protocol, or the one which it has left the connection to."""
        return getattr(self.transport, "protocol", None) or self.protocol

    def _open_stream(
        self, head: RequestHead, connection: Connection, sender: StreamSender
    ) -> FakeStream:
        stream = FakeStream(head, connection, sender, self)
        self.streams.append(stream)
        return stream

    @property
    def started(self) -> list[FakeStream]:
        """The streams whose application was started."""
        return [stream for stream in self.streams if stream.started]

    @property
    def written(self) -> bytes:
        """All that was written to the peer."""
        return bytes(self.transport.written)

    @property
    def outcome(self) -> Outcome:
        """What can be compared."""
        return Outcome(
            self.written,
            self.transport.end,
            [
                (stream.head.method, stream.head.target, stream.body, stream.told)
                for stream in self.started
            ],
        )

    def is_reading(self) -> bool:
        """Tell whether the transport isn't paused."""
        return self.transport.reading

    def is_lost(self) -> bool:
        """Tell whether the connection is gone."""
        return self.transport.lost

    def receive(self, *pieces: bytes) -> None:
        """Let the peer send pieces; each is a read, if it is read at all."""
        self._network.extend(piece for piece in pieces if piece)
        self.turn()

    def turn(self) -> None:
        """Run turns of the loop until nothing happens any more."""
        transport = self.transport
        while True:
            if self.loop.ready:
                self.loop.step()
            elif self.pending:
                stream = self.pending.pop(0)
                if stream.started and not stream.over:
                    self.application(stream)
            elif transport.end == "aborted" or (
                transport.end == "closing" and not transport.unsent_bytes
            ):
                self.lose()
                return
            elif (
                self._network
                and (transport.reading or self._deaf)
                and transport.end != "closing"
            ):
                self._receiver.dataReceived(self._network.popleft())
            else:
                return
            if transport.lost:
                return

    def take(self, count: float = inf) -> None:
        """Let the peer take bytes of what was written."""
        self.transport.take(count)
        self.turn()

    def wait(self, seconds: int) -> None:
        """Let whole seconds pass, with a tick in the middle of each."""
        for _ in range(seconds):
            self.clock.advance(0.5)
            self.wheel.tick()
            self.turn()
            self.clock.advance(0.5)

    def drain(self) -> None:
        """Let the server stop."""
        self.protocol.drain()
        self.turn()

    def lose(self) -> None:
        """Let the connection be gone."""
        if not self.transport.lost:
            self.transport.lost = True
            self._network.clear()
            self._receiver.connectionLost(Failure(ConnectionDone()))


# -- A loop that is stepped by hand ------------------------------------------------


class HandLoop:
    """As much of an event loop as futures need."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], object]] = deque()

    def get_debug(self) -> bool:
        """Tell a future that nothing is to be traced."""
        return False

    def create_future(self) -> asyncio.Future[None]:
        """Make a future of this loop."""
        return asyncio.Future(loop=cast("asyncio.AbstractEventLoop", self))

    def call_soon(
        self, callback: Callable[..., object], *arguments: Any, context: Any = None
    ) -> None:
        """Queue a callback."""
        self.ready.append(lambda: callback(*arguments))

    def step(self) -> None:
        """Run one callback."""
        self.ready.popleft()()


class HandTask:
    """
    A coroutine that goes on whenever a test says so.

    Attributes:
        done: It has returned, or raised ``error``.
    """

    def __init__(self, awaitable: Awaitable[None]) -> None:
        self._coroutine = cast(
            "Coroutine[Any, Any, None] | Generator[Any, Any, None]",
            awaitable if asyncio.iscoroutine(awaitable) else awaitable.__await__(),
        )
        self._waits_for: asyncio.Future[None] | None = None
        self.done = False
        self.error: Exception | None = None
        self.step()

    def step(self) -> None:
        """Go on, unless it waits for something that hasn't come."""
        while not self.done and (self._waits_for is None or self._waits_for.done()):
            try:
                self._waits_for = self._coroutine.send(None)
            except StopIteration:
                self.done = True
            except Exception as error:
                self.done, self.error = True, error


# -- The peer's view -----------------------------------------------------------


class Response(NamedTuple):
    """
    A response as h11, a client of another make, reads it.

    Attributes:
        complete: Its end was seen.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool


def responses_in(
    written: bytes, *methods: str, closed: bool = False
) -> tuple[list[Response], bytes]:
    """
    Read final responses, and tell what is left behind the last one.

    Args:
        written: What the peer received.
        methods: Of the requests, in order; all others are GET.
        closed: The connection's end was seen.
    """
    responses: list[Response] = []
    while written:
        method = methods[len(responses)] if len(responses) < len(methods) else "GET"
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(written)
        if closed:
            client.receive_data(b"")
        response = _read_response(client)
        if response is None:
            break
        responses.append(response)
        if not response.complete:
            return responses, b""
        written = bytes(client.trailing_data[0])
    return responses, written


def _read_response(client: h11.Connection) -> Response | None:
    response: Response | None = None
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            assert response is not None, "what was written is no response"
            return response
        if isinstance(event, h11.Response):
            response = Response(event.status_code, list(event.headers), b"", False)
        elif isinstance(event, h11.Data):
            assert response is not None
            response = response._replace(body=response.body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None
            return response._replace(complete=True)
        elif not isinstance(event, h11.InformationalResponse):
            return response
