"""An HTTP/2 connection of a server in memory, with a raw client at its other end."""

from __future__ import annotations

from typing import Any, cast

from http2_client import Ended, Peer
from http2_frames import headers
from http2_links import MemoryLink, Silence
from http_drivers import Streams
from stepped_loop import SteppedLoop

from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send
from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.http2 import HTTP2Protocol
from daphne_like.protocols.interfaces import LiveConnection
from daphne_like.protocols.negotiation import HTTPFactory
from daphne_like.settings import HTTP2Settings, HTTPSettings

__all__ = ["ServedHTTP2", "hello", "waiting"]


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})


async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
    """Take the body, and never answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


class ServedHTTP2:
    """
    One connection and its server.

    Args:
        loop: Runs it.
        application: What is served.
        limits: Of ``HTTPSettings``.
        http2: Of ``HTTP2Settings``.
        websocket: Of ``WebSocketSettings``.
        connections: Those which the server has beside this one.
        alpn: What was negotiated in TLS; the first bytes tell where nothing was.
        options: Of the exchanges.

    Attributes:
        peer: The client.
        protocol: The server's end.
    """

    def __init__(
        self,
        loop: SteppedLoop,
        application: ASGIApplication = hello,
        *,
        limits: dict[str, Any] | None = None,
        http2: dict[str, Any] | None = None,
        websocket: dict[str, Any] | None = None,
        connections: set[LiveConnection] | None = None,
        alpn: bytes | None = b"h2",
        **options: Any,
    ) -> None:
        self.loop = loop
        self.streams = Streams(loop, application, websocket, **options)
        self.connections = set() if connections is None else connections
        self.context = HTTPContext(
            open_stream=self.streams.open_stream,
            open_websocket=self.streams.open_websocket,
            settings=HTTPSettings(**(limits or {})),
            default_headers=self.streams.default_headers,
            wheel=self.streams.wheel,
            loop=loop,
            connections=self.connections,
            http2=HTTP2Settings(**(http2 or {})),
        )
        self.link = MemoryLink(loop, self.streams.advance)
        self.transport = self.link.transport
        factory = HTTPFactory(self.context)
        protocol = factory.build_negotiated(self.link.client, alpn)
        self.protocol = cast("HTTP2Protocol", protocol)
        self.link.connect(protocol)
        self.peer = Peer(self.link)

    def open(self, *pairs: tuple[int, int]) -> Peer:
        """Exchange prefaces; return the client."""
        self.peer.open(*pairs)
        return self.peer

    def settle(self) -> None:
        """Let the server have what was sent, and the client read what comes of it."""
        try:
            self.peer.wait_until(lambda: False, "nothing")
        except (Ended, Silence):
            pass

    def advance(self, seconds: int) -> None:
        """Let time pass, in which the client reads and answers."""
        self.settle()
        for _ in range(seconds):
            self.streams.advance(1)
            self.settle()

    def get(self, path: bytes = b"/", **more: Any) -> int:
        """Send a request; return its stream."""
        return self.peer.request(path=path, **more)

    def many(self, count: int, path: bytes = b"/", *, end: bool = True) -> list[int]:
        """Send requests in one read."""
        peer = self.peer
        fields = peer.request_fields(path=path)
        numbers = [peer.new_stream() for _ in range(count)]
        peer.send(*(headers(n, peer.encode(fields), end=end) for n in numbers))
        return numbers

    @property
    def goaway(self) -> int | None:
        """The code of the last GOAWAY, if there was one."""
        return self.peer.goaways[-1][1] if self.peer.goaways else None

    @property
    def running(self) -> int:
        """Count the application instances that have not ended."""
        return len(self.streams.manager.running)

    def end(self) -> None:
        """Let the client go and all applications end, without a word."""
        self.link.leave()
        self.streams.end()
        assert not self.connections
