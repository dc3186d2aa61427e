"""
The one seam between protocols and ASGI.

A protocol turns bytes into a :class:`RequestHead` and body pieces and gives
them to a :class:`Stream`; the stream answers through its
:class:`StreamSender`. Streams know no HTTP version, protocols know no ASGI, so
that each feature is written once.

These are ``typing.Protocol`` and not zope interfaces because both sides are
ours and mypy is to check every call between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from daphne_like.errors import RequestRejected

__all__ = [
    "Connection",
    "ConnectionReport",
    "Header",
    "LimitHit",
    "LiveConnection",
    "OpenStream",
    "RequestHead",
    "ResponseFields",
    "ResponseHead",
    "Stream",
    "StreamSender",
    "Tunnel",
    "TunnelUser",
    "ignore_limit",
]

Header = tuple[bytes, bytes]

LimitHit = Callable[[str], None]
"""Is told the name of a setting when what it limits was refused or cut."""


def ignore_limit(name: str) -> None:
    """Do nothing (:data:`LimitHit`): nobody counts."""


@dataclass(frozen=True, slots=True)
class Connection:
    """
    What all streams of one connection share.

    Attributes:
        client: Address and port of the peer; ``None`` on a Unix socket.
        server: Address and port of the listener; the path and ``None`` on a
            Unix socket; ``None`` where it can't be known.
        scheme: ``http`` or ``https``.
        tls: ASGI's TLS extension, on a TLS connection; not to be changed.
        proxy: Our extension ``proxy_protocol``, on a connection which a proxy has
            announced; not to be changed.
    """

    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    scheme: str
    tls: dict[str, object] | None = None
    proxy: dict[str, object] | None = None


class Priority(NamedTuple):
    """
    How urgent a response is (RFC 9218 section 4).

    Attributes:
        urgency: 0 is served first, 7 last.
        incremental: It takes turns with others as urgent, instead of going out
            as a whole. So do responses of clients which say nothing.
    """

    urgency: int = 3
    incremental: bool = True


DEFAULT_PRIORITY = Priority()


class RequestHead:
    """
    A request without its body, filled by the protocol as it parses.

    After that it doesn't change, since requests that are equal may share one;
    but for ``expects_continue`` of those with a body, which never do, and for
    what is kept here for the next time.

    Attributes:
        method: As received, e.g. ``"GET"``.
        target: Path and query as received; absolute-form already reduced.
        http_version: ``"1.0"``, ``"1.1"``, ``"2"`` or ``"3"``.
        headers: Pairs of bytes in received order, names in lower case.
        has_body: Bytes of a body are to follow.
        expects_continue: The client waits for a 100 before it sends the body.
        accepts_trailers: The client said ``TE: trailers``.
        is_websocket: It asks for a WebSocket, whether rightly or not.
        content_length: Bytes which the body is announced to have, over HTTP/2; or -1.
        priority: How urgent the client finds the response, over HTTP/2.
        parts: Decoded path, path as received and query, once somebody has asked
            for them.
        scope: What an application was told when the request came before,
        scope_connection: on this connection.
    """

    __slots__ = (
        "accepts_trailers",
        "content_length",
        "expects_continue",
        "has_body",
        "headers",
        "http_version",
        "is_websocket",
        "method",
        "parts",
        "priority",
        "scope",
        "scope_connection",
        "target",
    )

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.method = ""
        self.http_version = "1.1"
        self.headers: list[Header] = []
        self.has_body = False
        self.expects_continue = False
        self.accepts_trailers = False
        self.is_websocket = False
        self.content_length = -1
        self.priority = DEFAULT_PRIORITY
        self.parts: tuple[str, bytes, bytes] | None = None
        self.scope: dict[str, Any] | None = None
        self.scope_connection: Connection | None = None

    def with_headers(self, headers: list[Header]) -> RequestHead:
        """Make another head which differs in its fields alone."""
        # Without __init__(), which takes half as long again.
        head = RequestHead.__new__(RequestHead)
        head.target = self.target
        head.method = self.method
        head.http_version = self.http_version
        head.headers = headers
        head.has_body = self.has_body
        head.expects_continue = self.expects_continue
        head.accepts_trailers = self.accepts_trailers
        head.is_websocket = self.is_websocket
        head.content_length = self.content_length
        head.priority = self.priority
        head.parts = head.scope = head.scope_connection = None
        return head


class ResponseFields:
    """
    The header fields of a response, checked.

    They are shared by all responses with the same fields and never change, but
    for what a protocol keeps here for the next time.

    Attributes:
        headers: Pairs to send, in the application's order, names in lower case;
            without the fields that frame a message for one HTTP version.
        content_length: Bytes which the body is to have, if ``headers`` tell.
        own_defaults: Names of the server's default fields which these replace.
        close: The connection is to be closed afterwards (HTTP/1).
        encoded: What a protocol made of ``headers``.
        whole_head: What it made of a whole head with them,
        head_status: one with this status
        head_defaults: and these default fields.
    """

    __slots__ = (
        "close",
        "content_length",
        "encoded",
        "head_defaults",
        "head_status",
        "headers",
        "own_defaults",
        "whole_head",
    )

    def __init__(
        self,
        headers: Sequence[Header],
        content_length: int | None = None,
        own_defaults: frozenset[bytes] = frozenset(),
        close: bool = False,
    ) -> None:
        self.headers = headers
        self.content_length = content_length
        self.own_defaults = own_defaults
        self.close = close
        self.encoded: bytes | None = None
        self.whole_head = b""
        self.head_status = 0
        self.head_defaults: bytes | None = None


class ResponseHead(Protocol):
    """
    What a sender reads of a response when it writes the head.

    Attributes:
        status: 200 to 999.
        fields: The application's header fields.
        content_length: Bytes of the body when known, whether or not the fields
            tell; a sender adds the field when they don't.
        bodiless: The answer can't have a body (HEAD, 204, 304).
    """

    status: int
    fields: ResponseFields
    content_length: int | None
    bodiless: bool


class StreamSender(Protocol):
    """
    What a stream may ask of the protocol that carries it.

    Nothing may be called once the stream has been told that it is
    disconnected or has sent its end.

    Attributes:
        congested: The peer takes less than the application gives; wait for
            :meth:`drained` before sending more.
    """

    congested: bool

    @property
    def can_push(self) -> bool:
        """Whether :meth:`push` is there and the client wants it."""

    def push(self, head: RequestHead) -> None:
        """Answer ``head`` too, a request which the client hasn't made, if it can be."""

    def drained(self) -> Awaitable[None]:
        """Wait until the congestion is over or the connection is gone."""

    def send_continue(self) -> None:
        """Ask for the body, if the client still waits to be asked."""

    def send_informational(self, status: int, headers: Sequence[Header]) -> None:
        """Send a 1xx head. A client which can't understand it gets none."""

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        """
        Send the head together with the first piece of the body.

        Args:
            response: Read at once, not kept.
            body: May be empty; is empty when ``response.bodiless``.
            end: The response is complete.
        """

    def send_body(self, body: bytes, end: bool) -> None:
        """Send a further piece of the body, which may be empty."""

    def send_trailers(self, trailers: Sequence[Header]) -> None:
        """End the response with ``trailers``."""

    def send_file(self, file: int, offset: int, count: int) -> Awaitable[None]:
        """
        Send bytes of an open file as a further piece of the body.

        Args:
            file: A descriptor, which stays the caller's.
            offset: Where to begin.
            count: How many bytes there are to send, more than 0.

        Raises:
            EOFError: The file ended early; the response can't be completed.
        """

    def body_consumed(self, count: int) -> None:
        """Let the peer send ``count`` more bytes: the application has taken them."""

    def abort(self) -> None:
        """Break off: the response begun can't be completed."""

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        """
        Accept the WebSocket asked for, instead of a response.

        The stream is over for this sender. ``user`` learns of its tunnel, and of
        bytes which the peer has sent already, within the call.

        Args:
            fields: Header fields of the answer, beside those of the HTTP version.
            user: Speaks the protocol inside.
        """


class Tunnel(Protocol):
    """
    Bytes both ways, over whichever HTTP version (RFC 9110 section 7.8, RFC 8441).
    """

    # Properties, so that these may be attributes, and the transport's own method.
    @property
    def congested(self) -> bool:
        """Whether the peer takes less than it is sent."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """What sends bytes."""

    def share_descriptor(self) -> int | None:
        """
        Return where :func:`os.write` sends bytes, too, while it isn't congested.

        It is congested sooner then. ``None`` if there is no such descriptor.
        """

    def drained(self) -> Awaitable[None]:
        """Wait until the congestion is over or the tunnel is gone."""

    def unsent_bytes(self) -> int:
        """Count the bytes which the peer hasn't taken yet."""

    def pause_reading(self) -> None:
        """Let the peer wait."""

    def resume_reading(self) -> None:
        """Read again."""

    def end(self) -> None:
        """Write nothing more; close when all is written and the peer has closed."""

    def abort(self) -> None:
        """Close at once, whatever isn't written."""


class TunnelUser(Protocol):
    """What a tunnel tells those who use it."""

    def opened(self, tunnel: Tunnel) -> None:
        """Begin: the tunnel is open."""

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer."""

    def congestion_changed(self, congested: bool) -> None:
        """Learn that :attr:`Tunnel.congested` has changed."""

    def connection_lost(self) -> None:
        """Learn that the tunnel is gone; called once."""

    def drain(self) -> None:
        """Come to an end soon: the server stops."""


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """
    How a connection is at the moment.

    Attributes:
        protocol: ``HTTP/1.1``, ``HTTP/2`` or ``WebSocket``.
        transport: What carries it, of Twisted's interface ITransport.
        requests: How many are in flight.
        oldest: The one of them that came first, where that is known.
    """

    protocol: str
    transport: Any
    requests: int
    oldest: RequestHead | None


class LiveConnection(Protocol):
    """What the server asks of each of its connections."""

    def report(self) -> ConnectionReport:
        """Tell how it is, to the server's operator."""

    def last_call(self) -> None:
        """Answer what was received, and one more request if it comes, as the last."""

    def drain(self) -> None:
        """Take no further request; finish what was received, then close."""

    def stop(self) -> None:
        """Close at once, whatever is in flight."""


class Stream(Protocol):
    """
    What a protocol tells the stream of one request.

    Attributes:
        head: The request; ``expects_continue`` is taken back once the client
            has been asked for the body.
    """

    head: RequestHead

    def start(self) -> None:
        """Run the application: it is this request's turn."""

    def reject(self, rejection: RequestRejected) -> None:
        """Answer in the application's stead, or abort when it has begun."""

    def body_received(self, data: bytes) -> None:
        """
        Queue the next piece of the request body.

        The sender is owed a :meth:`StreamSender.body_consumed` for it.
        """

    def body_ended(self) -> None:
        """The body is complete; not called for a head that has none."""

    def disconnected(self) -> None:
        """The client has gone, or the exchange was broken off."""


OpenStream = Callable[[RequestHead, Connection, StreamSender], Stream]
