"""A WebSocket of the server in memory: its client, and its application by hand."""

from __future__ import annotations

from typing import Any

from hand_application import HandApplication
from http_drivers import Streams
from stepped_loop import SteppedLoop
from two_ended_transport import TwoEndedTransport
from websocket_frames import Frame, close_payload, frame, read_frames

from daphne_like.asgi.types import Receive, Scope, Send
from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.interfaces import Header, LiveConnection
from daphne_like.settings import HTTPSettings

__all__ = ["ServedWebSocket"]

TEXT, BINARY, CLOSE = 1, 2, 8

HANDSHAKE_FIELDS = (
    (b"host", b"example.org"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)


def handshake(
    target: bytes = b"/chat?room=1",
    *fields: Header,
    without: bytes = b"",
    method: bytes = b"GET",
    version: bytes = b"1.1",
) -> bytes:
    """Build a handshake: with fields in place of, or beside, the usual ones."""
    replaced = {name for name, _ in fields} - {b"sec-websocket-protocol"}
    kept = [
        field
        for field in HANDSHAKE_FIELDS
        if field[0] not in replaced and field[0] != without
    ]
    lines = [b"%b: %b\r\n" % field for field in (*kept, *fields)]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, b"".join(lines))


class ServedWebSocket:
    """
    One connection to a server whose application is in the hands of the test.

    Attributes:
        app: The application, of the last exchange.
        transport: The connection, as the client sees it.
        connections: Those which the server counts.
    """

    def __init__(
        self,
        loop: SteppedLoop,
        request: bytes = b"",
        settings: HTTPSettings | None = None,
        connections: set[LiveConnection] | None = None,
        streams: Streams | None = None,
        **options: Any,
    ) -> None:
        self.loop = loop
        self._applications = [HandApplication(loop), HandApplication(loop)]
        self.app = self._applications[0]
        self.streams = streams or Streams(loop, self._run, **options)
        self.connections = set() if connections is None else connections
        context = HTTPContext(
            open_stream=self.streams.open_stream,
            open_websocket=self.streams.open_websocket,
            settings=settings or HTTPSettings(),
            default_headers=self.streams.default_headers,
            wheel=self.streams.wheel,
            loop=loop,
            connections=self.connections,
            limit_hit=self.streams.context.limit_hit,
        )
        self.transport = TwoEndedTransport(loop)
        self.transport.connect(HTTP1Protocol(context))
        self.deliver(request or handshake())

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._applications.pop(0)(scope, receive, send)

    def next_application(self) -> HandApplication:
        """Return the one which the next request will get."""
        return self._applications[0]

    def deliver(self, *pieces: bytes) -> None:
        """Let the server receive what the client sends."""
        for piece in pieces:
            self.transport.deliver(piece)
        self.loop.settle()

    def accept(self, **message: Any) -> None:
        """Let the application accept, as most do."""
        assert {"type": "websocket.connect"} == self.app.receive()
        self.app.send({"type": "websocket.accept", **message})

    def say(self, *messages: str | bytes) -> None:
        """Let the client send messages."""
        for message in messages:
            if isinstance(message, str):
                self.deliver(frame(TEXT, message.encode()))
            else:
                self.deliver(frame(BINARY, message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Let the client send a Close frame."""
        self.deliver(frame(CLOSE, close_payload(code, reason)))

    @property
    def head(self) -> bytes:
        """The head of the answer to the handshake."""
        return bytes(self.transport.received).partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        """The status of that answer."""
        return int(self.head.split()[1])

    @property
    def body(self) -> bytes:
        """What is behind that head."""
        return bytes(self.transport.received).partition(b"\r\n\r\n")[2]

    @property
    def frames(self) -> list[Frame]:
        """The frames behind that head."""
        return read_frames(self.body)

    @property
    def said(self) -> list[str | bytes]:
        """The messages which the client has got."""
        return [
            sent.payload.decode() if sent.opcode == TEXT else sent.payload
            for sent in self.frames
            if sent.opcode in (TEXT, BINARY)
        ]

    @property
    def closed(self) -> tuple[int, str] | None:
        """Code and reason of the Close frame which the client has got."""
        for sent in self.frames:
            if sent.opcode == CLOSE:
                code = int.from_bytes(sent.payload[:2], "big") if sent.payload else 1005
                return code, sent.payload[2:].decode()
        return None

    @property
    def running(self) -> int:
        """Count the application instances that have not ended."""
        return len(self.streams.manager.running)

    def end(self) -> None:
        """Let the client go and the application end, without a word."""
        self.transport.leave()
        self.streams.end()
