"""
An ASGI application as a resource in a tree of ``twisted.web``.

:class:`ASGIResource` turns a request of ``twisted.web`` into a request head and
answers through its interface; the ASGI in between is that of the server
(:mod:`daphne_like.asgi`). ``twisted.web`` parses, keeps the time limits of
connections, and logs. It receives the whole body before it looks for a resource, so
an upload streams from memory or from a temporary file, not from the network.

A WebSocket takes the transport over from ``twisted.web``, which has no other way; it
is then the server's own (:mod:`daphne_like.protocols.websocket`).

Tests: ``tests/unit/test_resource.py``, ``tests/integration/test_inside_twisted.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextvars import copy_context
from dataclasses import replace
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_to_bytes

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from daphne_like import reactor
from daphne_like.asgi.applications import ApplicationManager
from daphne_like.asgi.drain_notice import DrainNotice
from daphne_like.asgi.exchange import ExchangeContext, with_drain_state
from daphne_like.asgi.forwarded import ForwardedPolicy
from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.lifespan import Lifespan
from daphne_like.asgi.response_headers import FieldReader
from daphne_like.asgi.websocket_stream import WebSocketStream, WebSocketStreamContext
from daphne_like.errors import LifespanFailed, RequestRejected, SettingsError
from daphne_like.process_setup import refuse
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.http1_tunnel import HTTP1Tunnel
from daphne_like.protocols.interfaces import Connection, RequestHead
from daphne_like.protocols.tls_extension import tls_extension
from daphne_like.protocols.websocket import WebSocketContext
from daphne_like.protocols.websocket_handshake import accept_key
from daphne_like.settings import Settings
from daphne_like.winding_down import Connections, EverySecond, give_notice, wind_down

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.protocols.interfaces import (
        Header,
        ResponseHead,
        Stream,
        TunnelUser,
    )

__all__ = ["ASGIResource", "ApplicationService"]

_logger = logging.getLogger("daphne_like.server")

# What is read of a body, or of a file, at once; and how much of a body waits in
# memory for the application.
_PIECE_BYTES = 64 * 1024

# twisted.web refuses three of them. Another parser behind us might take any of the
# rest for the end of a line (CVE-2026-44546).
_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@implementer(IResource)
class ASGIResource:
    """
    Mounts an ASGI application where the resource is put.

    ``root_path`` of the scope is the path of that place. The application gets its
    lifespan from :attr:`service`, which is to be added to a service collection or
    started by hand; without that it has none.

    Args:
        application: An ASGI 3 application.
        settings: All settings; those of listeners, HTTP and logs aren't looked at,
            but for ``header_underscores``, ``limit_concurrency`` and, for
            WebSockets, ``timeout_send``.
        overrides: Settings by their flat names, instead of ``settings``.

    Attributes:
        service: The life of the application.

    Raises:
        SettingsError: A setting is wrong, or one which ``twisted.web`` would have to
            obey: workers, metrics, the PROXY protocol and the like. Or the reactor
            isn't the asyncio one.
    """

    isLeaf = True

    def __init__(
        self,
        application: ASGIApplication,
        *,
        settings: Settings | None = None,
        **overrides: object,
    ) -> None:
        if settings is None:
            settings = Settings.of(**overrides)
        elif overrides:
            raise SettingsError(
                f"{', '.join(overrides)}: give settings or keywords, not both"
            )
        if settings.app.daphne_compat:
            raise SettingsError(
                "daphne_compat: twisted.web reads the requests, as it does for Daphne"
            )
        _refuse_what_twisted_does(settings)
        reactor.install(settings.lifecycle.loop)
        self._settings = settings
        self._forwarded = ForwardedPolicy.from_settings(settings.proxy)
        self.service = ApplicationService(application, settings)

    def render(self, request: Any) -> int:
        """Run the application for a request (IResource)."""
        exchange = _WebExchange(request, self._read)
        self.service.when_ready(exchange.begin)
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: object) -> ASGIResource:
        """Return itself: what is below is the application's (IResource)."""
        return self

    def putChild(self, path: bytes, child: object) -> NoReturn:
        """Refuse: what is below is the application's (IResource)."""
        raise TypeError("an ASGI application has no child resources")

    def _read(self, request: Any) -> tuple[RequestHead, Connection, str]:
        """Return what streams want to know of a request, and where it is mounted."""
        head = _head_of(request, self._settings.http.header_underscores)
        connection = _connection_of(request)
        root_path: str | None = None
        if self._forwarded is not None:
            origin = self._forwarded.resolve(
                connection.client, connection.scheme, head.headers
            )
            head.headers, root_path = origin.headers, origin.root_path
            connection = replace(connection, client=origin.client, scheme=origin.scheme)
        if root_path is None:
            root_path = self._settings.app.root_path
        mount = b"".join(b"/" + segment for segment in request.prepath)
        place = mount.decode("utf-8", "replace").rstrip("/")
        if not root_path:
            return head, connection, place
        raw_path, _, query = head.target.partition(b"?")
        path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
        if f"{path}/".startswith(f"{root_path}/"):
            # The proxy has left it, and so it is in the tree, too.
            return head, connection, max(root_path, place, key=len)
        head.parts = root_path + path, raw_path, query
        return head, connection, root_path + place


def _refuse_what_twisted_does(settings: Settings) -> None:
    """
    Refuse what somebody would rely on in vain.

    Raises:
        SettingsError: There is such a setting.
    """
    wanted = {
        "workers, and limits which replace them,": settings.workers.supervised,
        "proxy_protocol": settings.proxy.proxy_protocol,
    }
    operations = settings.operations
    for name in ("metrics", "control_socket", "statsd_host", "otel"):
        wanted[name] = bool(getattr(operations, name))
    wanted["request_id_header"] = bool(operations.request_id_header)
    for name, is_wanted in wanted.items():
        if is_wanted:
            raise SettingsError(f"{name} can't be had in a tree of twisted.web")
    refuse(settings.process, "is about the process, not a resource in it")


# -- The life of the application ---------------------------------------------


class _Phase(Enum):
    """What becomes of requests."""

    UNMANAGED = "served without a lifespan: the service was never started"
    STARTING = "wait until the application has started"
    SERVING = "served"
    ENDED = "refused"


class ApplicationService(Service):
    """
    The life of a mounted application: its lifespan, and what is in flight.

    It may be started again after it was stopped.

    Attributes:
        failure: What kept the application from starting; requests get 503 then.
    """

    def __init__(self, application: ASGIApplication, settings: Settings) -> None:
        self._application = application
        self._settings = settings
        self._phase = _Phase.UNMANAGED
        self._waiting: list[Callable[[_Serving | None], None]] = []
        self._serving: _Serving | None = None
        self._life: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._impatience = asyncio.Event()
        self.failure: BaseException | None = None

    def startService(self) -> None:
        """Start the application as soon as the reactor runs (IService)."""
        super().startService()  # type: ignore[no-untyped-call]
        self._phase = _Phase.STARTING
        core: Any = reactor.install(self._settings.lifecycle.loop)
        # One turn later, since then the loop runs.
        core.callWhenRunning(core.callLater, 0, self._start_if_wanted)

    def _start_if_wanted(self) -> None:
        if not self.running:
            return
        if self._life is not None and not self._life.done():
            # It is being stopped.
            self._life.add_done_callback(lambda _: self._start_if_wanted())
        else:
            self._stop_asked.clear()
            self.failure = None
            self._life = asyncio.ensure_future(self._live())

    def stopService(self) -> Deferred[None]:
        """
        Take no more requests, let those that run end in time, end the lifespan.

        Returns:
            Fires when all is over.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        life, was_starting = self._life, self._phase is _Phase.STARTING
        # Not in the life's own steps: cancelled before the first, it takes none.
        self._become(_Phase.ENDED)
        if life is None or life.done():
            return succeed(None)
        if was_starting and not self._stop_asked.is_set():
            life.cancel()
        self._stop_asked.set()

        async def ended() -> None:
            await asyncio.wait([life])

        return Deferred.fromFuture(asyncio.ensure_future(ended()))

    def when_ready(self, begin: Callable[[_Serving | None], None]) -> None:
        """Call ``begin`` with what serves, or with None for a refusal."""
        if self._phase is _Phase.STARTING:
            self._waiting.append(begin)
            return
        if self._phase is _Phase.UNMANAGED and self._serving is None:
            self._serving = copy_context().run(self._serve_unmanaged)
        begin(self._serving)

    def _serve_unmanaged(self) -> _Serving:
        """Serve without an end, of which there will be no notice then."""
        notice = DrainNotice().__enter__()
        serving = _Serving(self._application, self._settings, None, notice)
        serving.every_second.__enter__()
        return serving

    def _become(self, phase: _Phase, serving: _Serving | None = None) -> None:
        self._phase, self._serving = phase, serving
        waiting, self._waiting = self._waiting, []
        for begin in waiting:
            begin(serving)

    async def _live(self) -> None:
        """Start, serve until asked to stop, and undo all in the reverse order."""
        with DrainNotice() as notice:
            await self._serve(notice)

    async def _serve(self, notice: DrainNotice) -> None:
        app = self._settings.app
        lifespan = Lifespan(
            self._application, app.lifespan, app.timeout_startup, app.timeout_shutdown
        )
        try:
            await lifespan.startup()
        except LifespanFailed as error:
            self.failure = error
            _logger.critical("%s", error)
            self._become(_Phase.ENDED)
            return
        serving = _Serving(self._application, self._settings, lifespan.state, notice)
        try:
            with serving.every_second:
                self._become(_Phase.SERVING, serving)
                await self._stop_asked.wait()
                await give_notice(notice)
                await wind_down(
                    serving.connections,
                    serving.manager,
                    notice,
                    self._settings.lifecycle,
                    self._impatience,
                )
        finally:
            await lifespan.shutdown()


class _Serving:
    """What all requests share while the application serves."""

    def __init__(
        self,
        application: ASGIApplication,
        settings: Settings,
        state: dict[str, Any] | None,
        notice: DrainNotice,
    ) -> None:
        self.loop = loop = asyncio.get_running_loop()
        self.manager = ApplicationManager(application, loop)
        self.connections = Connections()
        wheel = DeadlineWheel(loop.time)
        self.every_second = EverySecond(loop, [wheel.tick])
        self._exchanges = ExchangeContext(
            manager=self.manager,
            field_reader=FieldReader(),
            wheel=wheel,
            application_close_timeout=settings.app.application_close_timeout,
            limit_concurrency=settings.http.limit_concurrency,
            state=state,
            extensions=with_drain_state(notice.state),
        )
        self._websockets = WebSocketContext(
            settings.websocket, settings.http.timeout_send, wheel, loop.call_soon
        )

    def open_stream(
        self,
        head: RequestHead,
        connection: Connection,
        sender: _WebExchange,
        root_path: str,
    ) -> Stream:
        """Make the stream of a request."""
        exchanges = replace(self._exchanges, root_path=root_path)
        if not head.is_websocket:
            return HTTPStream(exchanges, head, connection, sender)
        context = WebSocketStreamContext(exchanges, exchanges, self._websockets)
        return WebSocketStream(context, head, connection, sender)


# -- Requests ----------------------------------------------------------------


@implementer(IPushProducer)
class _WebExchange:
    """
    A request of ``twisted.web``, and the sender of its response (StreamSender).

    The body's way in: pieces are read from what ``twisted.web`` has received, as
    the application takes them. The body's way out: while the transport pauses this
    producer, ``send()`` waits.
    """

    can_push = False

    def __init__(
        self,
        request: Any,
        read: Callable[[Any], tuple[RequestHead, Connection, str]],
    ) -> None:
        self._request = request
        self._read = read
        self._stream: Stream | None = None
        self._serving: _Serving
        self._unfed_bytes = 0
        self._unread_bytes = 0
        self._is_over = False
        self._is_producer = False
        self.congested = False
        self._waiters: list[asyncio.Future[None]] = []
        request.notifyFinish().addErrback(self._lost)

    def begin(self, serving: _Serving | None) -> None:
        """Run the application for the request, unless nobody waits any more."""
        request = self._request
        if self._is_over:
            return
        try:
            if serving is None:
                raise RequestRejected(
                    503, "The application is not running.", ((b"retry-after", b"1"),)
                )
            head, connection, root_path = self._read(request)
        except RequestRejected as rejection:
            self._refuse(rejection)
            return
        self._serving = serving
        self._stream = serving.open_stream(head, connection, self, root_path)
        if head.has_body:
            self._unfed_bytes = request.content.seek(0, os.SEEK_END)
            request.content.seek(0)
            self._feed()
        self._stream.start()

    def _refuse(self, rejection: RequestRejected) -> None:
        request = self._request
        request.setResponseCode(rejection.status)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        for name, value in rejection.fields:
            request.setHeader(name, value)
        body = f"{rejection.detail}\n".encode()
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        self._end()

    def _lost(self, reason: object) -> None:
        """Learn that the client has gone."""
        if self._is_over:
            return
        self._is_over = True
        self.resumeProducing()
        if self._stream is not None:
            self._stream.disconnected()

    # -- The body ------------------------------------------------------------

    def _feed(self) -> None:
        """Give the stream of the body what it may keep in memory."""
        stream = self._stream
        assert stream is not None
        while (
            self._unfed_bytes
            and not self._is_over
            and self._unread_bytes < _PIECE_BYTES
        ):
            piece = self._request.content.read(_PIECE_BYTES)
            self._unfed_bytes -= len(piece)
            self._unread_bytes += len(piece)
            stream.body_received(piece)
            if not self._unfed_bytes:
                stream.body_ended()

    def body_consumed(self, count: int) -> None:
        """Read on, as the application has taken what was read."""
        self._unread_bytes -= count
        if self._unfed_bytes:
            # Not now: it may be the end of the response that takes it.
            self._serving.loop.call_soon(self._feed)

    # -- The response --------------------------------------------------------

    def send_continue(self) -> None:
        """Do nothing: ``twisted.web`` has asked for the body itself."""

    def push(self, head: RequestHead) -> None:
        """Do nothing: there are no pushes."""

    def send_informational(self, status: int, headers: Sequence[Header]) -> None:
        """Send a 1xx head."""
        fields = Headers()
        for name, value in headers:
            fields.addRawHeader(name, value)
        phrase = HTTPStatus(status).phrase.encode()
        self._request.channel.writeHeaders(b"HTTP/1.1", b"%d" % status, phrase, fields)

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        """Set the head, and write it with the first piece of the body."""
        request = self._request
        request.setResponseCode(response.status)
        # None of its own where the application says nothing.
        request.defaultContentType = None
        fields: dict[bytes, list[bytes]] = {}
        for name, value in response.fields.headers:
            fields.setdefault(name, []).append(value)
        # It would put those of its session in the place of ours.
        request.cookies += fields.pop(b"set-cookie", ())
        if response.content_length is not None:
            fields[b"content-length"] = [b"%d" % response.content_length]
        for name, values in fields.items():
            request.responseHeaders.setRawHeaders(name, values)
        if not end:
            self._is_producer = True
            request.registerProducer(self, True)
        self.send_body(body, end)

    def send_body(self, body: bytes, end: bool) -> None:
        """Write a further piece of the body."""
        # Also an empty one, for it brings the head.
        self._request.write(body)
        if end:
            self._end()

    def send_trailers(self, trailers: Sequence[Header]) -> None:
        """End without them: ``twisted.web`` has none, and so nobody is offered any."""
        self._end()

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """Write a piece of a file."""
        while count and not self._is_over:
            data = os.pread(file, min(count, _PIECE_BYTES), offset)
            if not data:
                raise EOFError("the file ended early")
            offset += len(data)
            count -= len(data)
            self._request.write(data)
            if self.congested:
                await self.drained()

    def _end(self) -> None:
        self._is_over = True
        self._leave()
        self._request.finish()

    def _leave(self) -> None:
        if self._is_producer:
            self._is_producer = False
            self._request.unregisterProducer()
        self.resumeProducing()

    def abort(self) -> None:
        """Break off the response, in a way that the client sees it is incomplete."""
        self._is_over = True
        self._leave()
        channel = self._request.channel
        if channel.transport is None:
            channel.abortConnection()  # a stream of HTTP/2
        elif self._request.clientproto == b"HTTP/1.0":
            # A regular close would look like the regular end: reset instead.
            channel.transport.abortConnection()
        else:
            channel.loseConnection()

    # -- Congestion (IPushProducer) ------------------------------------------

    def pauseProducing(self) -> None:
        """Learn that the client takes less than it is sent."""
        self.congested = True

    def resumeProducing(self) -> None:
        """Learn that there is room, or that nothing is sent any more."""
        self.congested = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def stopProducing(self) -> None:
        """Learn that the transport is gone; the request tells it, too."""

    def drained(self) -> Awaitable[None]:
        """Wait for room, or for the end of the connection."""
        waiter = self._serving.loop.create_future()
        if self.congested:
            self._waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    # -- WebSockets ----------------------------------------------------------

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        """Answer 101 and take the transport over; ``twisted.web`` is out of it."""
        self._is_over = True
        channel, stream, serving = self._request.channel, self._stream, self._serving
        assert stream is not None
        transport = channel.transport
        lines = [b"%b: %b\r\n" % field for field in fields]
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"upgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: %b\r\n%b\r\n"
            % (accept_key(stream.head), b"".join(lines))
        )
        channel.setTimeout(None)
        tunnel = HTTP1Tunnel(
            transport, stream.head, user, serving.connections, serving.loop
        )
        # Whatever the channel still reads from the bytes of the handshake, and
        # whatever it has read since: a client which doesn't wait for the answer.
        channel.rawDataReceived = tunnel.dataReceived
        early = b"".join(getattr(channel, "_dataBuffer", ()))
        user.opened(tunnel)
        transport.resumeProducing()
        if early:
            user.data_received(early)


def _head_of(request: Any, underscores: str) -> RequestHead:
    """
    Read the head of a request.

    Raises:
        RequestRejected: It can't be passed on.
    """
    head = RequestHead(request.uri)
    if not head.target.startswith(b"/"):
        raise RequestRejected(400, "The target must be a path.")
    head.method = request.method.decode("latin-1")
    head.http_version = request.clientproto.decode("latin-1").removeprefix("HTTP/")
    for name, values in request.requestHeaders.getAllRawHeaders():
        if b"_" in name and underscores != "keep":
            if underscores == "reject":
                raise RequestRejected(400, "A header name holds an underscore.")
            continue
        for value in values:
            if _CONTROL_CHARACTERS.search(value):
                raise RequestRejected(400, "A header value holds a control character.")
            head.headers.append((name.lower(), value))
    head.has_body = request.content.seek(0, os.SEEK_END) > 0
    request.content.seek(0)
    head.is_websocket = _asks_for_websocket(request)
    if head.is_websocket and not _can_be_taken_over(request):
        raise RequestRejected(
            501, "WebSockets are not possible over this kind of connection."
        )
    return head


def _asks_for_websocket(request: Any) -> bool:
    """RFC 6455 section 4.2.1; or whatever looks like it over another version."""
    headers = request.requestHeaders
    upgrades = b",".join(headers.getRawHeaders(b"upgrade", ())).lower()
    if request.clientproto == b"HTTP/1.1":
        return b"websocket" in [word.strip() for word in upgrades.split(b",")]
    is_http2: bool = request.clientproto == b"HTTP/2"
    return is_http2 and headers.hasHeader(b"sec-websocket-version")


def _can_be_taken_over(request: Any) -> bool:
    # Streams of HTTP/2 have no transport of their own, requests that came from
    # another process (twisted.web.distrib) not even a channel of the kind.
    transport = getattr(request.channel, "transport", None)
    return request.clientproto == b"HTTP/1.1" and transport is not None


def _connection_of(request: Any) -> Connection:
    """Read the addresses; ``setHost`` of a proxy's resource counts."""
    peer, host = request.getClientAddress(), request.getHost()
    client = (peer.host, peer.port) if hasattr(peer, "port") else None
    server: tuple[str, int | None] | None = None
    if hasattr(host, "port"):
        server = (host.host, host.port)
    elif getattr(host, "name", None):
        server = (os.fsdecode(host.name), None)
    transport = getattr(request.channel, "transport", None)
    tls = None if transport is None else tls_extension(transport)
    scheme = "https" if request.isSecure() else "http"
    return Connection(client, server, scheme, tls)
