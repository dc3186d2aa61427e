"""
HTTP/1.1 and HTTP/1.0: one connection, its requests in order, its answers.

The reader of :mod:`~daphne_like.protocols.http1_reader` finds the requests.
This module queues them (pipelining: answers go out in the order of the
requests, RFC 9112 section 9.3.2), frames the answers by means of
:mod:`~daphne_like.protocols.http1_responses`, paces both directions, and keeps
the deadlines. An error is answered with a line of plain text after the answers
to the requests before it, and ends the connection.

Source: RFC 9112.

Tests: ``tests/unit/protocols/test_http1.py``.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, ClassVar, cast

from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface import implementer

from daphne_like.errors import RequestRejected
from daphne_like.protocols.connections import (
    close_writing,
    describe,
    has_tls,
    http2_protocol,
    settle,
    soon_writer,
    switch_protocol,
    unsent_bytes,
)
from daphne_like.protocols.http1_reader import FEED_BYTES, RequestReader
from daphne_like.protocols.http1_responses import (
    CHUNKED,
    JOIN_BYTES,
    SIZED,
    UNTIL_CLOSE,
    encode,
    encode_once,
    file_pieces,
    status_line,
    usual_status_line,
    write_pieces,
)
from daphne_like.protocols.http1_tunnel import HTTP1Tunnel
from daphne_like.protocols.http2_frames import PREFACE
from daphne_like.protocols.interfaces import ConnectionReport, RequestHead
from daphne_like.protocols.websocket_handshake import accept_key

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable, Sequence

    from twisted.internet.interfaces import ITransport
    from twisted.python.failure import Failure

    from daphne_like.protocols.connections import HTTPContext, Transport
    from daphne_like.protocols.interfaces import (
        Connection,
        Header,
        ResponseFields,
        ResponseHead,
        Stream,
        StreamSender,
        TunnelUser,
    )

__all__ = ["HTTP1Protocol"]

# Request bodies that no application has taken: reading pauses above the first
# mark and resumes below the second.
_BODY_HIGH_WATER_BYTES = 64 * 1024
_BODY_LOW_WATER_BYTES = 16 * 1024
# When nobody reads a body, so much of it is read and dropped to keep the
# connection; beyond that, closing is cheaper for both sides.
_DISCARD_BYTES = 64 * 1024
# How long a peer may go on sending what nobody reads, so that it gets to
# reading the answer.
_LINGER_TIMEOUT = 2.0


class _State(Enum):
    """What becomes of bytes that arrive."""

    READING = "parsed as requests"
    LAST = "parsed for the body of the last request, then ignored"
    UPGRADING = "held for the tunnel that the last request asks for"
    ENDING = "ignored; the last answer is on its way, then we linger"
    LINGERING = "ignored; our side is closed, the peer's is not yet"
    CLOSING = "ignored; the answer is still being written"
    CLOSED = "none arrive"


_READING = _State.READING


@implementer(IProtocol, IPushProducer)
class HTTP1Protocol:
    """
    One connection, and the sender of the response being written.

    Flow control towards the application: bytes of bodies that no application
    has taken are counted in ``_unread_bytes``. Above the high-water mark, or
    with a full pipeline, the transport pauses reading and TCP tells the peer;
    :meth:`body_consumed` or the next answer resumes it. What had been read by
    then is kept in ``_held``.

    Flow control towards the peer: the transport, whose producer this is, calls
    :meth:`pauseProducing` above its own mark. From then on ``congested`` is
    true and ``send()`` waits for :meth:`drained`, which comes true with
    :meth:`resumeProducing` or the end of the connection; that end comes after
    ``timeout_send`` without progress. Meanwhile no request starts: a peer that
    asks on and on and reads no answer would fill the memory with answers.

    Deadlines are instants of the wheel's clock, ``inf`` when nothing is due.
    """

    __slots__ = (
        "_advancing",
        "_body_deadline",
        "_clock",
        "_connection",
        "_context",
        "_current",
        "_drain_waiters",
        "_framing",
        "_held",
        "_idle_deadline",
        "_keep_alive_timeout",
        "_limits",
        "_most_queued",
        "_queue",
        "_reader",
        "_reading_paused",
        "_receiving",
        "_rejection",
        "_request_deadline",
        "_send_deadline",
        "_state",
        "_unread_bytes",
        "_unsent_bytes",
        "_write",
        "congested",
        "covered_from",
        "transport",
    )

    can_push = False

    reader_class: ClassVar[type[RequestReader]] = RequestReader

    def __init__(self, context: HTTPContext) -> None:
        self._context = context
        self._limits = context.settings
        self._clock = context.wheel.clock
        self._reader = self.reader_class(
            context.settings, self, takes_h2c=context.http2.h2c_upgrade
        )
        self._keep_alive_timeout = context.settings.timeout_keep_alive or inf
        self._most_queued = context.settings.limit_pipelined_requests or inf
        self._state = _READING
        self._connection: Connection | None = None
        self.covered_from = inf

        # Requests in order: being answered, waiting; then the error, if any.
        self._current: Stream | None = None
        self._queue: list[Stream] = []
        self._rejection: RequestRejected | None = None
        self._advancing = False
        # The one whose body is still arriving: the last of those above, or
        # one that was answered early.
        self._receiving: Stream | None = None

        self._unread_bytes = 0
        self._reading_paused = False
        self._held = b""
        self.congested = False
        self._drain_waiters: list[Future[None]] = []
        self._unsent_bytes = 0
        self._framing = SIZED

        self._idle_deadline = inf
        self._request_deadline = inf
        self._body_deadline = inf
        self._send_deadline = inf

    # -- The life of the connection ------------------------------------------

    def makeConnection(self, transport: ITransport) -> None:
        """Take the transport into use (IProtocol)."""
        # All stream transports of Twisted can do what Transport lists.
        self.transport = cast("Transport", transport)
        self._write = soon_writer(self.transport)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Join the other connections and wait for the first request."""
        context, limit = self._context, self._limits.limit_connections
        self.transport.registerProducer(self, True)
        full = len(context.connections) >= limit > 0
        context.connections.add(self)
        if full:
            self._refuse(
                RequestRejected(
                    503, "There are too many connections.", limit="limit_connections"
                )
            )
        else:
            self._expect_head()

    def connectionLost(self, reason: Failure) -> None:
        """Tell whoever waits that the connection is gone (IProtocol)."""
        self._state = _State.CLOSED
        self._context.connections.discard(self)
        self._context.wheel.remove(self)
        self._reader.close()
        self._forget_requests()
        self._send_deadline = inf
        self._wake_senders()
        current, self._current = self._current, None
        if current is not None:
            current.disconnected()

    def last_call(self) -> None:
        """
        Say with the next answer that it is the last one (LiveConnection).

        RFC 9112 section 9.6: "A server that sends a "close" connection option MUST
        initiate closure of the connection after it sends the final response." Closed
        without a word, the connection could have the client's next request under way.
        """
        if self._state is not _READING:
            return
        if self._current or self._receiving or self._queue:
            self.drain()
            return
        context = self._context

        def open_last(
            head: RequestHead, connection: Connection, sender: StreamSender
        ) -> Stream:
            self._reader.keep_alive = False
            return context.open_stream(head, connection, sender)

        self._context = replace(context, open_stream=open_last)
        # It is to be looked at, however often it has come before.
        self._reader.repeated = None

    def drain(self) -> None:
        """Take no further request; answer what was received, then close."""
        if self._state is _READING:
            self._state = _State.LAST
            if not (self._current or self._receiving or self._queue):
                self._close()

    def stop(self) -> None:
        """Close at once, whatever is in flight."""
        if self._state is not _State.CLOSED:
            self.transport.abortConnection()

    def report(self) -> ConnectionReport:
        """Tell how it is (LiveConnection)."""
        current = self._current
        requests = len(self._queue) + (current is not None)
        head = None if current is None else current.head
        return ConnectionReport("HTTP/1.1", self.transport, requests, head)

    def _close(self) -> None:
        """Close when everything is written, or when that takes too long."""
        self._state = _State.CLOSING
        self._forget_requests()
        self._await_progress()
        self._leave_transport()
        self.transport.loseConnection()

    def _linger(self) -> None:
        """
        Close in a way that leaves the peer time to read the answer.

        A socket that is closed with unread bytes is reset, and the peer drops
        the answer with it. RFC 9112 section 9.6: close the write side first. Under
        TLS that can't be; the answer tells its end by itself.
        """
        self._state = _State.LINGERING
        self._forget_requests()
        self._await_progress()
        self._idle_deadline = self._clock() + _LINGER_TIMEOUT
        self._watch(self._idle_deadline)
        self._leave_transport()
        half_close = close_writing(self.transport)
        if half_close is not None:
            half_close()
        self._pace_reading()

    def _leave_transport(self) -> None:
        """
        Take no more part in the flow control of the transport.

        Twisted's transports half-close only when no producer waits for them.
        """
        self.transport.unregisterProducer()
        self._wake_senders()

    def _forget_requests(self) -> None:
        """Let go of all requests but the current one, and of their deadlines."""
        self._queue.clear()
        self._rejection = None
        self._receiving = None
        self._held = b""
        self._idle_deadline = self._request_deadline = self._body_deadline = inf

    # -- Bytes in ------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Read requests and start those whose turn it is (IProtocol)."""
        reader = self._reader
        if (
            # A client that asks for the same over and over, byte for byte, and
            # waits for each answer: then nothing else is under way.
            data == reader.repeated
            and self._current is None
            and self._state is _READING
            and not self.congested
        ):
            connection = self._connection or self._describe_connection()
            self._begin(
                self._context.open_stream(reader.repeated_head, connection, self)
            )
            return
        if self._state is not _READING and self._receiving is None:
            if self._state is _State.UPGRADING:
                self._hold(data)
            return
        if len(data) > FEED_BYTES or self._held:
            self._read_slices(data)
            return
        try:
            head_begun = reader.feed(data)
        except RequestRejected as rejection:
            self._fail(rejection, b"")
            return
        if head_begun:
            self._expect_head()
        if self._receiving is not None:
            self._await_body()
        if reader.rest:
            self._hold(reader.rest)
        if self._queue:
            self._advance()

    def _read_slices(self, data: bytes) -> None:
        """Read in pieces, as far as the pipeline has room; hold the rest."""
        data = self._held + data
        start = 0
        self._held = b""
        while start < len(data) and len(self._queue) < self._most_queued:
            size = FEED_BYTES
            remaining = self._reader.remaining_body_bytes
            if FEED_BYTES < remaining < inf:
                size = min(int(remaining), _BODY_HIGH_WATER_BYTES)
            piece = data[start : start + size]
            start += size
            try:
                if self._reader.feed(piece):
                    self._expect_head()
            except RequestRejected as rejection:
                self._fail(rejection, data[start:])
                return
            if self._receiving is not None:
                self._await_body()
            if self._state is _State.UPGRADING:
                self._hold(self._reader.rest + data[start:])
                self._advance()
                return
            self._advance()
            if self._state is not _READING and self._receiving is None:
                return
        self._held = data[start:]
        self._pace_reading()

    def _fail(self, rejection: RequestRejected, rest: bytes) -> None:
        """Refuse what can't be parsed, unless it is HTTP/2 and that is spoken."""
        begun, context = self._reader.http2, self._context
        if (
            begun
            and context.http2.http == "auto"
            and self._state is _READING
            # Over TLS there was a way to agree on it.
            and (begun.startswith(PREFACE) or not has_tls(self.transport))
        ):
            # RFC 9113 section 3.3: with prior knowledge.
            self._leave()
            # The transport takes no second producer beside the first.
            self.transport.unregisterProducer()
            protocol = http2_protocol(context)
            switch_protocol(self.transport, protocol)
            protocol.makeConnection(cast("ITransport", self.transport))
            protocol.dataReceived(begun + rest)
        else:
            self._refuse(rejection)

    def become_http2(self, head: RequestHead) -> None:
        """Go on in HTTP/2 with the answer to ``head`` (RFC 7540 section 3.2)."""
        from daphne_like.protocols.http2_upgrade import upgrade

        self._write(
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"connection: Upgrade\r\nupgrade: h2c\r\n\r\n"
        )
        held, self._held = self._held, b""
        self._current = None
        self._leave()
        self.transport.unregisterProducer()
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resumeProducing()
        upgrade(self.transport, self._context, head, held)

    def _leave(self) -> None:
        """Let another protocol have the connection."""
        self._state = _State.CLOSED
        self._context.connections.discard(self)
        self._context.wheel.remove(self)
        self._reader.close()
        self._wake_senders()

    def _hold(self, data: bytes) -> None:
        """Keep what is meant for the tunnel, and let the peer wait with more."""
        self._held += data
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pauseProducing()

    def request_received(self, head: RequestHead) -> None:
        """Queue a request; it starts when the read has proved sound."""
        if self._state is not _READING:
            return  # in one read with the end of the last request
        connection = self._connection or self._describe_connection()
        context = self._context
        if head.is_websocket:
            stream = context.open_websocket(head, connection, self)
            self._state = _State.UPGRADING
        elif self._reader.h2c:
            stream = cast("Stream", _UpgradeToHTTP2(self, head))
            self._state = _State.UPGRADING
        else:
            stream = context.open_stream(head, connection, self)
            if not self._reader.keep_alive:
                self._state = _State.LAST
        self._queue.append(stream)
        if head.has_body:
            self._receiving = stream

    def _describe_connection(self) -> Connection:
        """
        Describe the connection for the first request on it, and all others.

        Not earlier: behind HAProxy's header the client isn't known before.
        """
        self._connection = describe(self.transport, self._context.scheme)
        return self._connection

    def body_received(self, data: bytes) -> None:
        """Pass on a piece of the body and count it until it is taken."""
        stream = self._receiving
        if stream is None:
            return
        self._unread_bytes += len(data)
        stream.body_received(data)
        # RFC 9110 section 10.1.1: one that doesn't wait need not be asked.
        stream.head.expects_continue = False
        if self._unread_bytes > _BODY_HIGH_WATER_BYTES:
            self._pace_reading()

    def body_ended(self) -> None:
        """End the request being received."""
        stream, self._receiving = self._receiving, None
        self._body_deadline = inf
        if stream is None:
            return
        stream.body_ended()
        if stream is not self._current and not self._queue:
            # It was answered before its body was read to the end.
            self._next_request()

    def _refuse(self, rejection: RequestRejected) -> None:
        """Answer with an error when the requests before it have their answer."""
        if self._state is not _READING and self._receiving is None:
            return  # what is behind the last request doesn't matter
        broken, self._receiving = self._receiving, None
        self._state = _State.ENDING
        self._body_deadline = inf
        self._held = b""
        if broken is not None and broken is self._current:
            broken.reject(rejection)
            return
        if broken is None:
            self._rejection = rejection
        elif broken in self._queue:
            self._queue.remove(broken)
            self._rejection = rejection
        # Else it has its answer already, and gets no second one.
        self._next_request()

    # -- Requests in order ---------------------------------------------------

    def _advance(self) -> None:
        """Start the next request, unless one is being answered."""
        if self._advancing:
            return  # an application that ends at once comes back to this loop
        self._advancing = True
        queue = self._queue
        while queue:
            if self._current is not None or self.congested:
                break
            self._begin(queue.pop(0))
            if (
                self._held
                and len(queue) < self._most_queued
                and self._state is not _State.UPGRADING
            ):
                self._read_slices(b"")
        self._advancing = False
        if self._rejection is not None and self._current is None and not queue:
            self._answer_rejection(self._rejection)
        if queue or self._reading_paused:
            self._pace_reading()

    def _begin(self, stream: Stream) -> None:
        """Start a request whose turn it is."""
        self._current = stream
        self._idle_deadline = inf
        if self._limits.http_timeout and not stream.head.is_websocket:
            self._request_deadline = self._clock() + self._limits.http_timeout
            self._watch(self._request_deadline)
        stream.start()

    def _answer_rejection(self, rejection: RequestRejected) -> None:
        """Answer what isn't a request, as the last thing on the connection."""
        self._rejection = None
        connection = self._connection or self._describe_connection()
        stream = self._context.open_stream(self._rejected_head(), connection, self)
        self._current = stream
        stream.reject(rejection)

    def _rejected_head(self) -> RequestHead:
        """Tell what is known of what isn't a request."""
        return RequestHead(b"")

    def _response_ended(self) -> None:
        """Wait for the next request, go on to it, or close."""
        stream, self._current = self._current, None
        self._request_deadline = inf
        if self._state is _READING and not (
            self._receiving or self._queue or self._reader.head_begun
        ):
            self._idle_deadline = deadline = self._clock() + self._keep_alive_timeout
            if deadline < self.covered_from:
                self._context.wheel.schedule(self, deadline)
        elif self._receiving is not stream:
            self._next_request()
        elif self._must_close_unread():
            self._linger()

    def _next_request(self) -> None:
        """Go on after a response, or after an unread body's end."""
        if self._queue or self._rejection is not None:
            self._advance()
        if self._current or self._receiving or self._queue or self._rejection:
            return
        if self._state is _State.LAST:
            self._close()
        elif self._state is _State.ENDING:
            self._linger()
        elif self._state is not _READING:
            return  # ended by what _advance did
        elif self._reader.head_begun:
            self._expect_head()
        else:
            self._idle_deadline = self._clock() + self._keep_alive_timeout
            self._watch(self._idle_deadline)

    def _must_close_unread(self) -> bool:
        """Whether the body that is still to come isn't worth reading."""
        receiving = self._receiving
        return (
            self._state is not _READING
            or self._reader.remaining_body_bytes > _DISCARD_BYTES
            # Without the 100 it asked for, the client may never send the body.
            or (receiving is not None and receiving.head.expects_continue)
        )

    # -- Pacing --------------------------------------------------------------

    def _pace_reading(self) -> None:
        """Pause or resume the transport's reading, as the class says."""
        if self._state is _State.UPGRADING:
            return  # what comes is the tunnel's
        mark = _BODY_LOW_WATER_BYTES if self._reading_paused else _BODY_HIGH_WATER_BYTES
        pause = (
            self._unread_bytes > mark
            # And only then can bytes be held.
            or len(self._queue) >= self._most_queued
        ) and self._state in (_READING, _State.LAST)
        if pause and not self._reading_paused:
            self._reading_paused = True
            # It is the application that is slow now, not the peer.
            self._body_deadline = inf
            self.transport.pauseProducing()
        elif self._reading_paused and not pause:
            self._reading_paused = False
            if self._receiving is not None:
                self._await_body()
            self.transport.resumeProducing()

    def body_consumed(self, count: int) -> None:
        """Let the peer send more (StreamSender)."""
        self._unread_bytes -= count
        if self._reading_paused and self._unread_bytes <= _BODY_LOW_WATER_BYTES:
            self._pace_reading()

    def pauseProducing(self) -> None:
        """Learn that the transport's buffer is full (IPushProducer)."""
        self.congested = True
        self._await_progress()

    def resumeProducing(self) -> None:
        """Learn that the transport's buffer has room (IPushProducer)."""
        self._send_deadline = inf
        self._wake_senders()
        if self._queue:
            self._advance()

    def stopProducing(self) -> None:
        """Learn that the transport is gone (IPushProducer)."""

    def drained(self) -> Awaitable[None]:
        """Wait for room, or for the end of the connection (StreamSender)."""
        waiter = self._context.loop.create_future()
        if self.congested:
            self._drain_waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    def _wake_senders(self) -> None:
        self.congested = False
        waiters, self._drain_waiters = self._drain_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- Deadlines -----------------------------------------------------------

    def _expect_head(self) -> None:
        if self._current is None:
            timeout = self._limits.timeout_request_header or inf
            self._idle_deadline = self._clock() + timeout
            self._watch(self._idle_deadline)

    def _await_body(self) -> None:
        receiving = self._receiving
        if (
            self._limits.timeout_request_body
            and not self._reading_paused
            # The client waits to be asked: no fault of its.
            and not (receiving is not None and receiving.head.expects_continue)
        ):
            self._body_deadline = self._clock() + self._limits.timeout_request_body
            self._watch(self._body_deadline)

    def _await_progress(self) -> None:
        if self._limits.timeout_send:
            self._unsent_bytes = unsent_bytes(self.transport)
            self._send_deadline = self._clock() + self._limits.timeout_send
            self._watch(self._send_deadline)

    def _watch(self, deadline: float) -> None:
        if deadline < self.covered_from:
            self._context.wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the earliest deadline (DeadlineHolder)."""
        return min(
            self._idle_deadline,
            self._request_deadline,
            self._body_deadline,
            self._send_deadline,
        )

    def deadline_passed(self, now: float) -> None:
        """Act on the deadlines that have passed (DeadlineHolder)."""
        if self._send_deadline <= now:
            if unsent_bytes(self.transport) < self._unsent_bytes:
                self._await_progress()  # slow, but alive
            else:
                self._context.limit_hit("timeout_send")
                self.transport.abortConnection()
                return
        if self._idle_deadline <= now:
            self._idle_deadline = inf
            self._idled(now)
        if self._body_deadline <= now:
            self._body_deadline = inf
            self._refuse(
                RequestRejected(
                    408, "The request body took too long.", limit="timeout_request_body"
                )
            )
        if self._request_deadline <= now:
            self._request_deadline = inf
            if self._current is not None:
                self._current.reject(
                    RequestRejected(
                        503, "The application took too long.", limit="http_timeout"
                    )
                )
        deadline = self.next_deadline()
        if deadline != inf:
            self._watch(deadline)

    def _idled(self, now: float) -> None:
        """End a connection on which nothing has come for too long."""
        if self._state is _READING and self._reader.head_begun:
            self._refuse(
                RequestRejected(
                    408, "The request took too long.", limit="timeout_request_header"
                )
            )
        elif self._state is _READING and self.congested:
            # The peer is still busy with the answers.
            self._idle_deadline = now + self._keep_alive_timeout
        elif self._state is _State.LINGERING and unsent_bytes(self.transport):
            self._idle_deadline = now + _LINGER_TIMEOUT
        elif self._state in (_READING, _State.LINGERING):
            self._close()

    # -- Bytes out (StreamSender) --------------------------------------------

    def send_continue(self) -> None:
        """Ask for the body (RFC 9110 section 10.1.1)."""
        if self._receiving is not None and self._receiving is self._current:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._await_body()

    def push(self, head: RequestHead) -> None:
        """Do nothing: there are no pushes (StreamSender)."""

    def send_informational(self, status: int, headers: Sequence[Header]) -> None:
        """Send a 1xx head; RFC 9110 section 15.2: never to HTTP/1.0."""
        current = self._current
        if current is not None and current.head.http_version != "1.0":
            self._write(b"%b%b\r\n" % (status_line(status), encode(headers)))

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        """Frame and write the head, with the first piece of the body."""
        fields, length = response.fields, response.content_length
        defaults = self._context.default_headers
        current = self._current
        assert current is not None
        if (
            fields.head_defaults is defaults.block
            and fields.head_status == response.status
            and self._state is _READING
            and self._receiving is None
            and len(body) <= JOIN_BYTES
            and current.head.http_version == "1.1"
        ):
            self._framing = SIZED
            self._write(fields.whole_head + body)
            if end:
                self._response_ended()
            return
        pieces = [
            usual_status_line(response.status) or status_line(response.status),
            fields.encoded or encode_once(fields),
            defaults.block_without(fields.own_defaults)
            if fields.own_defaults
            else defaults.block,
        ]
        self._framing = SIZED
        if length is not None and length != fields.content_length:
            pieces.append(b"content-length: %d\r\n" % length)
        elif length is None and not response.bodiless:
            pieces.append(self._frame_unsized(current.head))
        if (
            self._state is not _READING
            or self._receiving is not None
            or fields.close
            or current.head.http_version == "1.0"
        ):
            self._end_head(pieces, current.head, fields, end)
        elif fields.content_length is not None and not fields.own_defaults:
            fields.whole_head = b"".join((*pieces, b"\r\n"))
            fields.head_status, fields.head_defaults = response.status, defaults.block
        if self._framing is SIZED and len(body) <= JOIN_BYTES:
            pieces += (b"\r\n", body)
            self._write(b"".join(pieces))
        else:
            pieces.append(b"\r\n")
            write_pieces(self._write, pieces, body, self._framing, end)
        if end:
            self._response_ended()

    def _frame_unsized(self, head: RequestHead) -> bytes:
        """Choose the framing of a body whose length isn't known."""
        if head.http_version == "1.0":
            self._framing = UNTIL_CLOSE
            return b""
        self._framing = CHUNKED
        return b"transfer-encoding: chunked\r\n"

    def _end_head(
        self, pieces: list[bytes], head: RequestHead, fields: ResponseFields, end: bool
    ) -> None:
        """Decide whether the connection is closed after this response, and tell."""
        if head.is_websocket:
            # No tunnel, but an answer: it is the last one.
            self._state = _State.ENDING if self._held else _State.LAST
        if fields.close or self._framing is UNTIL_CLOSE:
            self._take_no_more()
        elif end and self._receiving is self._current and self._must_close_unread():
            self._state = _State.LAST
        if self._state is not _READING and not (self._queue or self._rejection):
            pieces.append(b"connection: close\r\n")
        elif head.http_version == "1.0":
            pieces.append(b"connection: keep-alive\r\n")

    def _take_no_more(self) -> None:
        """Make the current request the last one, whatever was read behind it."""
        if self._queue or self._rejection is not None:
            # Whatever is held or being received belongs to those, too.
            self._queue.clear()
            self._rejection = self._receiving = None
            self._held = b""
            self._state = _State.ENDING
        elif self._state is _READING:
            self._state = _State.LAST

    def send_body(self, body: bytes, end: bool) -> None:
        """Write a further piece, in chunked coding where it was announced."""
        write_pieces(self._write, [], body, self._framing, end)
        if end:
            self._response_ended()

    def send_trailers(self, trailers: Sequence[Header]) -> None:
        """End a chunked response with trailers (RFC 9112 section 7.1.2)."""
        self._write(b"0\r\n%b\r\n" % encode(trailers))
        self._response_ended()

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """Send a piece of a file, by the kernel where the transport can."""
        if self._framing is CHUNKED:
            self._write(b"%x\r\n" % count)
        by_kernel = getattr(self.transport, "send_file", None)
        if by_kernel is not None:
            await by_kernel(file, offset, count)
        else:
            for data in file_pieces(file, offset, count):
                self._write(data)
                if self.congested:
                    await self.drained()
                if self._current is None:
                    return  # broken off, or the connection is gone
        if self._framing is CHUNKED and self._current is not None:
            self._write(b"\r\n")

    def abort(self) -> None:
        """Close in mid-response, in a way that the peer sees it is incomplete."""
        self._current = None
        if self._framing is UNTIL_CLOSE:
            # A regular close would look like the regular end: reset instead.
            self._state = _State.CLOSING
            self._forget_requests()
            self._leave_transport()
            self.transport.abortConnection()
        else:
            self._close()

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        """Switch protocols (RFC 6455 section 4.2.2) and leave the connection."""
        context, current = self._context, self._current
        assert current is not None
        self._write(
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"upgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: %b\r\n%b%b\r\n"
            % (accept_key(current.head), encode(fields), context.default_headers.block)
        )
        settle(self.transport)
        held, self._held = self._held, b""
        self._current = None
        tunnel = HTTP1Tunnel(
            self.transport, current.head, user, context.connections, context.loop
        )
        self._leave()
        user.opened(tunnel)
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resumeProducing()
        if held:
            user.data_received(held)


class _UpgradeToHTTP2:
    """Stands in the queue for a request that is to be answered in HTTP/2."""

    __slots__ = ("_protocol", "head")

    def __init__(self, protocol: HTTP1Protocol, head: RequestHead) -> None:
        self._protocol = protocol
        self.head = head

    def start(self) -> None:
        """It is this request's turn."""
        self._protocol.become_http2(self.head)
