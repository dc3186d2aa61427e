"""
HTTP/2: one connection, its frames, its streams.

The connection acts on the frames which its :mod:`~daphne_like.protocols.http2_reader`
reads, and keeps the rules that concern all streams. What it and they send goes through
its :mod:`~daphne_like.protocols.http2_output`.

An error of one stream resets it; an error of the connection is told by GOAWAY, after
which the connection is closed (section 5.4).

Source: RFC 9113, RFC 8441 (WebSockets), RFC 9218 (priorities).

Tests: ``tests/unit/protocols/test_http2.py``, ``test_http2_conformance.py``.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, ClassVar, cast

from twisted.internet.interfaces import IProtocol
from zope.interface import implementer

from daphne_like.errors import ConnectionFailed, RequestRejected, StreamFailed
from daphne_like.protocols.connections import describe, unsent_bytes
from daphne_like.protocols.http2_flood import FloodGuard
from daphne_like.protocols.http2_frames import (
    DEFAULT_WINDOW,
    MOST_WINDOW,
    ErrorCode,
    Flag,
    FrameType,
    SettingCode,
    check_size,
    frame,
    goaway_frame,
    read_number,
    read_settings,
    reset_frame,
    settings_frame,
    unpadded,
    window_update_frame,
)
from daphne_like.protocols.http2_heads import read_priority
from daphne_like.protocols.http2_keepalive import KeepAlive
from daphne_like.protocols.http2_output import Output
from daphne_like.protocols.http2_reader import (
    FrameReader,
    depends_on_itself,
    wrong_stream,
)
from daphne_like.protocols.http2_requests import RequestBlocks
from daphne_like.protocols.http2_stream import HTTP2Stream, StreamState
from daphne_like.protocols.interfaces import (
    DEFAULT_PRIORITY,
    ConnectionReport,
    Priority,
    RequestHead,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import ITransport
    from twisted.python.failure import Failure

    from daphne_like.protocols.connections import HTTPContext, Transport
    from daphne_like.protocols.interfaces import Connection

__all__ = ["HTTP2Protocol"]

# Streams that were reset lately, whose frames may still be on their way.
_MOST_REMEMBERED = 256
# Priorities of requests which have not come yet (RFC 9218 section 7.1).
_MOST_EARLY_PRIORITIES = 128
# How long a peer may go on sending what nobody reads, so that it gets to reading why.
_LINGER_TIMEOUT = 2.0
# How long a client gets to answer that it knows of our leaving.
_LEAVE_TIMEOUT = 1.0

_DRAIN_PING = b"draining"


class _State(Enum):
    """What becomes of bytes that arrive."""

    OPENING = "the client's settings are awaited"
    OPEN = "requests are read"
    LEAVING = "requests are read which were sent before the client knew that we leave"
    DRAINING = "no further request is taken"
    CLOSING = "ignored; the end was announced"
    CLOSED = "none arrive"


_OPEN = _State.OPEN
_TAKING = (_State.OPEN, _State.LEAVING)
_OVER = (_State.CLOSING, _State.CLOSED)


@implementer(IProtocol)
class HTTP2Protocol:
    """
    One connection.

    Flow control towards applications: a stream's window is opened again as its
    application takes the body, the connection's as any application does. An upload
    which nobody reads holds no more than its own window.

    Deadlines are instants of the wheel's clock, ``inf`` when nothing is due; those of
    single requests are the streams', that of a full transport the output's.

    Attributes:
        streams: Those which are not over, by number.
        reader: Reads what comes in.
        output: Takes what goes out.
        can_push: The client takes pushes, and they are switched on.
        round_trip: How long the peer took to answer to our settings, in seconds.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_credit",
        "_early_priorities",
        "_guard",
        "_head_deadline",
        "_idle_deadline",
        "_keep_alive",
        "_known",
        "_last_pushed",
        "_last_stream",
        "_most_pushed",
        "_most_streams",
        "_opened_at",
        "_receive_window",
        "_requests",
        "_reset_streams",
        "_skipped",
        "_state",
        "_transport",
        "can_push",
        "clock",
        "covered_from",
        "default_headers",
        "limits",
        "loop",
        "most_stream_window",
        "output",
        "reader",
        "round_trip",
        "streams",
        "wheel",
    )

    def __init__(self, context: HTTPContext) -> None:
        self._context = context
        self.limits = context.settings
        self.loop = context.loop
        self.wheel = context.wheel
        self.clock = context.wheel.clock
        self.default_headers = context.default_headers
        self._connection: Connection | None = None
        self._state = _State.OPENING
        self.covered_from = inf
        self.output = Output(context)

        # Bytes in.
        self._requests = RequestBlocks(context.settings)
        self.reader = FrameReader(
            context.http2.http2_max_frame_size, self._requests.most_bytes
        )
        self._known = self._requests.known
        self._receive_window = DEFAULT_WINDOW
        self._credit = context.http2.http2_connection_window - DEFAULT_WINDOW

        # Streams.
        self.streams: dict[int, HTTP2Stream] = {}
        self._most_streams = context.http2.http2_max_concurrent_streams
        self.most_stream_window = max(
            context.http2.http2_max_stream_window, context.http2.http2_stream_window
        )
        self._last_stream = 0
        # Section 8.4: clients may forbid pushes, or allow so many at a time.
        self._last_pushed = 0
        self.can_push = context.http2.http2_push
        self._most_pushed = self._most_streams
        # Numbers which the peer has left out; and streams it may not know are over.
        self._skipped: deque[range] = deque(maxlen=16)
        self._reset_streams: dict[int, None] = {}
        self._early_priorities: dict[int, Priority] = {}

        # Trouble, and time.
        self._guard = FloodGuard(self.clock)
        self._keep_alive = KeepAlive(context.http2, self.output)
        self._opened_at = 0.0
        self.round_trip = 0.0
        self._idle_deadline = inf
        self._head_deadline = inf

    # -- The life of the connection ------------------------------------------

    def makeConnection(self, transport: ITransport) -> None:
        """Take the transport into use (IProtocol)."""
        self._transport = cast("Transport", transport)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Join the other connections, and send our settings."""
        context, limit = self._context, self.limits.limit_connections
        self.output.open(self._transport)
        full = len(context.connections) >= limit > 0
        context.connections.add(self)
        self._opened_at = self.clock()
        self._keep_alive.heard = self.wheel.now
        options = context.http2
        self.output.put(
            settings_frame(
                (
                    (SettingCode.MAX_CONCURRENT_STREAMS, self._most_streams),
                    (SettingCode.INITIAL_WINDOW_SIZE, options.http2_stream_window),
                    (SettingCode.MAX_FRAME_SIZE, options.http2_max_frame_size),
                    (SettingCode.MAX_HEADER_LIST_SIZE, self._requests.most_bytes),
                    (SettingCode.ENABLE_CONNECT_PROTOCOL, 1),
                    (SettingCode.NO_RFC7540_PRIORITIES, 1),
                )
            )
        )
        self._give_credit()
        if full:
            self.limit_hit("limit_connections")
            self._fail(ConnectionFailed(ErrorCode.NO_ERROR, "too many connections"))
            return
        self._idle_deadline = self._after(self.limits.timeout_request_header)
        self._watch(self.next_deadline())

    def begin_upgraded(self, head: RequestHead, settings: bytes) -> None:
        """
        Answer a request of HTTP/1.1 as the first stream (RFC 7540 section 3.2).

        Args:
            head: Of the request, which has no body.
            settings: The client's, as the payload of a frame.
        """
        if self._state is _State.CLOSING:
            return  # one connection too many
        output = self.output
        output.corked = True
        try:
            self._apply_settings(settings)
            self._last_stream = 1
            self._open_stream(1, head, ended=1)
        except ConnectionFailed as failure:
            self._fail(failure)
        finally:
            output.corked = False
        output.flush()

    def connectionLost(self, reason: Failure) -> None:
        """Tell the streams that the connection is gone (IProtocol)."""
        self._state = _State.CLOSED
        self._context.connections.discard(self)
        self.output.connection_lost()
        self._fail_streams()
        self.wheel.remove(self)

    def last_call(self) -> None:
        """Let the client know that it should ask elsewhere from now on."""
        if self._state is _OPEN:
            self._state = _State.LEAVING
            # Section 6.8: requests may be on their way. When this PING is answered
            # the client knows, and they have come.
            self.output.put(goaway_frame(MOST_WINDOW, ErrorCode.NO_ERROR))
            self.output.put(frame(FrameType.PING, 0, 0, _DRAIN_PING))

    def report(self) -> ConnectionReport:
        """Tell how it is (LiveConnection)."""
        heads = (
            stream.stream.head
            for stream in self.streams.values()
            # What has become a tunnel carries a request no more.
            if hasattr(stream, "stream")
        )
        return ConnectionReport(
            "HTTP/2", self._transport, len(self.streams), next(heads, None)
        )

    def drain(self) -> None:
        """Take no further request; finish what was received, then close."""
        if self._state in _OVER:
            return
        for stream in [*self.streams.values()]:
            if stream.tunnel is not None:
                stream.tunnel.drain()
        if not self.streams:
            self._say_goodbye()
        else:
            self.last_call()

    def stop(self) -> None:
        """Close at once, whatever is in flight."""
        if self._state is not _State.CLOSED:
            self._transport.abortConnection()

    def _say_goodbye(self) -> None:
        """Close a connection on which nothing is in flight."""
        self.output.put(goaway_frame(self._last_stream, ErrorCode.NO_ERROR))
        self._close()

    def _fail(self, failure: ConnectionFailed) -> None:
        """End the connection for an error (section 5.4.1)."""
        if failure.code == ErrorCode.ENHANCE_YOUR_CALM:
            self.limit_hit("http2_flood")
        self.output.put(goaway_frame(self._last_stream, failure.code, failure.reason))
        self._fail_streams()
        self._close()

    def limit_hit(self, name: str) -> None:
        """Tell whoever counts that a limit has held."""
        self._context.limit_hit(name)

    def _fail_streams(self) -> None:
        for stream in [*self.streams.values()]:
            stream.fail()

    def _close(self) -> None:
        """Close when all is written, and leave the peer time to read it."""
        if self._state is _State.CLOSING:
            return  # with the last stream that failed
        self._state = _State.CLOSING
        self.reader.close()
        self._head_deadline = inf
        self._keep_alive.cancel()
        self._idle_deadline = self.clock() + _LINGER_TIMEOUT
        self._watch(self._idle_deadline)
        self.output.close()

    # -- Frames in -----------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Read frames, and answer them in one write (IProtocol)."""
        state = self._state
        if state is _State.CLOSING or state is _State.CLOSED:
            return
        self._keep_alive.heard = self.wheel.now
        output = self.output
        output.corked = True
        try:
            begun = self.reader.read(data, self)
            self._expect_rest(begun=begun)
        except ConnectionFailed as failure:
            self._fail(failure)
        finally:
            output.corked = False
        if output.pending:
            output.flush()
        if not self.streams:
            self._rest()

    def _expect_rest(self, *, begun: bool) -> None:
        """
        Limit the time for a head that has begun, and for any small frame.

        Args:
            begun: That of which there is a part came with this read.
        """
        reader = self.reader
        rest = reader.rest
        if reader.partial_head is None and (
            not rest or (rest[3:4] == b"\0" and self.streams)
        ):
            self._head_deadline = inf  # frames of bodies have a deadline of their own
        elif begun or self._head_deadline == inf:
            self._head_deadline = self._after(self.limits.timeout_request_header)
            self._watch(self._head_deadline)

    def frame_received(
        self, kind: int, flags: int, stream: int, payload: bytes
    ) -> None:
        """Act on any frame but those of heads (FrameSink)."""
        handler = self._HANDLERS.get(kind)
        if handler is None:
            # Section 4.1: unknown types are ignored; not in any number.
            self._spend_idle()
            return
        try:
            handler(self, flags, stream, payload)
        except StreamFailed as failure:
            self._fail_stream(stream, failure)

    def _spend_idle(self, amount: int = 1) -> None:
        """Take note of a frame which is of no use by itself."""
        self._guard.idle_frame(self._last_stream, self.output.useful_frames, amount)

    # -- Requests ------------------------------------------------------------

    def head_received(
        self,
        stream: int,
        block: bytes,
        ended: int,
        failure: StreamFailed | None = None,
    ) -> None:
        """Begin a request, or end one with trailers (FrameSink)."""
        if stream <= self._last_stream:
            try:
                self._trailers_received(stream, block, ended)
            except StreamFailed as broken:
                self._fail_stream(stream, broken)
            return
        if not stream & 1:
            raise wrong_stream()
        if stream != self._last_stream + 2 and stream != 1:
            # Section 5.1.1: the numbers left out are used up. They pay for nothing.
            self._skipped.append(range(self._last_stream + 1, stream))
            self._guard.streams_left_out(stream - self._last_stream - 2)
        self._last_stream = stream
        head = self._known.get(block) if ended and failure is None else None
        if head is None:
            try:
                head = self._requests.read(block, ended=bool(ended))
                if failure is not None:
                    raise failure
            except StreamFailed as broken:
                self._fail_stream(stream, broken)
                return
            except RequestRejected as rejection:
                self._reject(stream, rejection, ended)
                return
        if self._state not in _TAKING or (
            len(self.streams) >= self._most_streams and self._is_full()
        ):
            # Sections 5.1.2 and 8.7: it may be sent again, elsewhere.
            if self._state in _TAKING:
                self.limit_hit("http2_max_concurrent_streams")
            self._fail_stream(
                stream, StreamFailed(ErrorCode.REFUSED_STREAM, "too many streams")
            )
            return
        self._open_stream(stream, head, ended)

    def _is_full(self) -> bool:
        """Whether the client has as many requests in flight as it may."""
        count = len(self.streams)
        if count >= self._most_streams and self._last_pushed:
            # Section 5.1.2: those which we promised aren't the client's.
            count = sum(1 for number in self.streams if number & 1)
        return count >= self._most_streams

    def _open_stream(self, number: int, head: RequestHead, ended: int) -> None:
        context = self._context
        priority = head.priority
        if self._early_priorities:
            priority = self._early_priorities.pop(number, priority)
        stream = HTTP2Stream(
            self,
            number,
            priority,
            StreamState.HALF_CLOSED_REMOTE if ended else StreamState.OPEN,
        )
        connection = self._connection or self._describe_connection()
        open_stream = (
            context.open_websocket if head.is_websocket else context.open_stream
        )
        stream.stream = open_stream(head, connection, stream)
        self.streams[number] = stream
        if not ended:
            stream.expect_body(context.http2.http2_stream_window, head.content_length)
        stream.start()

    def _describe_connection(self) -> Connection:
        self._connection = describe(self._transport, self._context.scheme)
        return self._connection

    def _reject(self, number: int, rejection: RequestRejected, ended: int) -> None:
        """Answer what is no request for the application."""
        if self._is_full() or self._state not in _TAKING:
            self.reset_stream(number, ErrorCode.REFUSED_STREAM)
            return
        self._guard.lost_request(self._last_stream)
        stream = HTTP2Stream(
            self,
            number,
            DEFAULT_PRIORITY,
            StreamState.HALF_CLOSED_REMOTE if ended else StreamState.OPEN,
        )
        head = RequestHead(b"")
        head.http_version = "2"
        connection = self._connection or self._describe_connection()
        stream.stream = self._context.open_stream(head, connection, stream)
        self.streams[number] = stream
        if not ended:
            window = self._context.http2.http2_stream_window
            stream.expect_body(window, -1, wanted=False)
        stream.stream.reject(rejection)

    def _trailers_received(self, number: int, block: bytes, ended: int) -> None:
        """Take a second head on a stream: trailers, or an error."""
        are_trailers = self._requests.read_trailers(block)
        stream = self.streams.get(number)
        if stream is None:
            if number in self._reset_streams:
                self._spend_idle()
                return
            if any(number in numbers for numbers in self._skipped) or not number & 1:
                # Section 5.1.1: numbers only grow.
                raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "an old stream number")
            raise ConnectionFailed(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        if stream.state is StreamState.HALF_CLOSED_REMOTE:
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        # Section 8.1. ASGI has no place for trailers of requests.
        if not ended or not are_trailers:
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "the trailers are malformed")
        stream.remote_ended()

    def _data_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Take a piece of a body (section 6.1)."""
        if not number:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "DATA without a stream")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFailed(
                ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window"
            )
        data = unpadded(flags, payload) if flags & Flag.PADDED else payload
        ended = bool(flags & Flag.END_STREAM)
        if not data and not ended:
            # Attack: frames which cost work and bring nothing.
            self._spend_idle()
        stream = self.streams.get(number)
        if stream is not None:
            stream.data_received(data, size, ended)
            return
        self._check_not_idle(number)
        self.consumed(size)
        if number not in self._reset_streams:
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "DATA after the end")

    def _check_not_idle(self, number: int) -> None:
        """Section 5.1: what concerns a stream can't come before it."""
        if not number or number > (
            self._last_stream if number & 1 else self._last_pushed
        ):
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "the stream isn't open")

    # -- The other frames ----------------------------------------------------

    def _priority_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Check a PRIORITY frame, which means nothing any more (section 6.3)."""
        self._spend_idle()
        if not number:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        failure = None
        if len(payload) != 5:
            failure = StreamFailed(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        elif read_number(payload) == number:
            failure = depends_on_itself()
        if failure is not None:
            if number > self._last_stream:
                # No stream is there that could be reset.
                raise ConnectionFailed(failure.code, failure.reason)
            raise failure

    def _reset_frame(self, flags: int, number: int, payload: bytes) -> None:
        """End a stream for the peer (section 6.4)."""
        check_size(payload, 4)
        self._check_not_idle(number)
        stream = self.streams.get(number)
        if stream is None:
            self._spend_idle()
            # Section 5.1: who has reset it as well sends nothing more.
            self._reset_streams.pop(number, None)
            return
        if stream.state is StreamState.HALF_CLOSED_LOCAL:
            self._spend_idle()  # it has its answer
        else:
            # Attack: rapid reset, CVE-2023-44487.
            self._guard.lost_request(self._last_stream)
        stream.fail()

    def _settings_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Keep to the peer's settings from now on (section 6.5)."""
        if number:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if self._state is _State.OPENING:
            self._state = _OPEN
        # Attack: settings in great number, each of which concerns all streams.
        self._spend_idle(1 + len(payload) // 6)
        if flags & Flag.ACK:
            check_size(payload, 0)
            if not self.round_trip:
                self.round_trip = self.clock() - self._opened_at
            return
        # What the new windows let go out must come behind the answer, which tells the
        # peer that they hold.
        output = self.output
        output.hold_turns()
        self._apply_settings(payload)
        output.answer(frame(FrameType.SETTINGS, Flag.ACK, 0))
        output.resume_turns()

    def _apply_settings(self, payload: bytes) -> None:
        """Section 6.5.2; unknown ones are ignored."""
        for code, value in read_settings(payload):
            if code == SettingCode.HEADER_TABLE_SIZE:
                self.output.resize_table(value)
            elif code == SettingCode.INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif code == SettingCode.MAX_FRAME_SIZE:
                self.output.most_frame_bytes = value
            elif code == SettingCode.ENABLE_PUSH:
                self.can_push = value == 1 and self._context.http2.http2_push
            elif code == SettingCode.MAX_CONCURRENT_STREAMS:
                self._most_pushed = min(value, self._most_streams)

    def _resize_windows(self, size: int) -> None:
        """Section 6.9.2: all streams' windows change, and may become negative."""
        change = self.output.resize_stream_window(size)
        for stream in [*self.streams.values()]:
            try:
                stream.window_updated(change)
            except StreamFailed as failure:
                raise ConnectionFailed(failure.code, failure.reason) from None

    def _push_promise_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Section 8.4: clients can't push."""
        raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE by a client")

    def _ping_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Answer, or take an answer (section 6.7)."""
        if number:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        check_size(payload, 8)
        self._spend_idle()
        if not flags & Flag.ACK:
            self.output.answer(frame(FrameType.PING, Flag.ACK, 0, payload))
        elif payload == _DRAIN_PING and self._state is _State.LEAVING:
            self._state = _State.DRAINING
            self.output.put(goaway_frame(self._last_stream, ErrorCode.NO_ERROR))
            if not self.streams:
                self._close()

    def _goaway_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Finish what is in flight: the peer wants nothing more (section 6.8)."""
        if number:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is cut off")
        self._spend_idle()

    def _window_update_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Send more (section 6.9)."""
        check_size(payload, 4)
        self._spend_idle()
        count = read_number(payload)
        if not number:
            if not count:
                raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a window grows by 0")
            self.output.window_updated(count)
            return
        self._check_not_idle(number)
        stream = self.streams.get(number)
        if stream is None:
            return
        if not count:
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a window grows by 0")
        stream.window_updated(count)

    def _priority_update_frame(self, flags: int, number: int, payload: bytes) -> None:
        """Change a priority (RFC 9218 section 7.1)."""
        if number:
            raise ConnectionFailed(
                ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE on a stream"
            )
        if len(payload) < 4:
            raise ConnectionFailed(
                ErrorCode.FRAME_SIZE_ERROR, "PRIORITY_UPDATE is cut off"
            )
        self._spend_idle()
        target = read_number(payload)
        if not target & 1 and not 0 < target <= self._last_pushed:
            raise ConnectionFailed(
                ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE of no request"
            )
        priority = read_priority(payload[4:])
        stream = self.streams.get(target)
        if stream is not None:
            self.output.prioritize(stream, priority)
        elif (
            target > self._last_stream
            and len(self._early_priorities) < _MOST_EARLY_PRIORITIES
        ):
            self._early_priorities[target] = priority

    _HANDLERS: ClassVar[dict[int, Callable[[HTTP2Protocol, int, int, bytes], None]]] = {
        FrameType.DATA: _data_frame,
        FrameType.PRIORITY: _priority_frame,
        FrameType.RST_STREAM: _reset_frame,
        FrameType.SETTINGS: _settings_frame,
        FrameType.PUSH_PROMISE: _push_promise_frame,
        FrameType.PING: _ping_frame,
        FrameType.GOAWAY: _goaway_frame,
        FrameType.WINDOW_UPDATE: _window_update_frame,
        FrameType.PRIORITY_UPDATE: _priority_update_frame,
    }

    # -- Streams -------------------------------------------------------------

    def push(self, number: int, head: RequestHead) -> None:
        """
        Promise the answer to a request that wasn't made, and give it.

        What the client can't take now isn't promised.
        """
        pushed = sum(1 for other in self.streams if not other & 1)
        if (
            not self.can_push
            # Section 8.4.1: only on streams of the client's.
            or not number & 1
            or self._state is not _OPEN
            or pushed >= self._most_pushed
        ):
            return
        self._last_pushed = promised = self._last_pushed + 2
        host, *others = head.headers
        self.output.put_promise(
            number,
            promised,
            [
                (b":method", head.method.encode()),
                (b":scheme", self._context.scheme.encode()),
                (b":authority", host[1]),
                (b":path", head.target),
                *others,
            ],
        )
        self._open_stream(promised, head, ended=1)

    def _fail_stream(self, number: int, failure: StreamFailed) -> None:
        """
        Reset a stream for an error of the peer (section 5.4.2).

        Raises:
            ConnectionFailed: It was one too many.
        """
        self.reset_stream(number, failure.code)
        stream = self.streams.get(number)
        if stream is not None:
            stream.fail()
        # Attack: MadeYouReset, CVE-2025-8671.
        self._guard.lost_request(self._last_stream)

    def reset_stream(self, number: int, code: int) -> None:
        """Reset a stream, and remember that the peer may not know it yet."""
        self.output.put(reset_frame(number, code))
        streams = self._reset_streams
        streams[number] = None
        if len(streams) > _MOST_REMEMBERED:
            del streams[next(iter(streams))]

    def stream_closed(self, number: int) -> None:
        """Forget a stream."""
        output = self.output
        stream = self.streams.pop(number, None)
        if stream is not None and (stream.queued or output.held_back):
            # Attack: streams that are reset while no window lets them have their turn.
            output.forget(stream)
        if not self.streams and not output.corked:
            self._rest()

    def _rest(self) -> None:
        """Wait for the next request, or close: nothing is in flight."""
        if self._state is _OPEN:
            self._idle_deadline = deadline = self._after(self.limits.timeout_keep_alive)
            if deadline < self.covered_from:
                self.wheel.schedule(self, deadline)
        elif self._state is _State.LEAVING:
            self._idle_deadline = self.clock() + _LEAVE_TIMEOUT
            self._watch(self._idle_deadline)
        elif self._state is _State.DRAINING:
            self._close()

    def consumed(self, count: int) -> None:
        """Let the peer send ``count`` bytes more, on whichever stream."""
        self._credit += count
        if self._credit >= self._context.http2.http2_connection_window // 4:
            self._give_credit()

    def _give_credit(self) -> None:
        if self._credit > 0:
            self._receive_window += self._credit
            self.output.put(window_update_frame(0, self._credit))
            self._credit = 0

    # -- Deadlines -----------------------------------------------------------

    def _after(self, timeout: float) -> float:
        return self.clock() + timeout if timeout else inf

    def _watch(self, deadline: float) -> None:
        if deadline < self.covered_from:
            self.wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the earliest deadline (DeadlineHolder)."""
        quiet = self._idle_deadline
        if self.streams or quiet == inf:
            quiet = self._keep_alive.next_deadline()
        return min(quiet, self._head_deadline)

    def deadline_passed(self, now: float) -> None:
        """Act on the deadlines that have passed (DeadlineHolder)."""
        if self._head_deadline <= now:
            self._head_deadline = inf
            self._fail(
                ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a frame took too long")
            )
        elif self.streams or self._idle_deadline == inf:
            if self._keep_alive.is_gone(now):
                self.limit_hit("http2_ping_timeout")
                self._transport.abortConnection()
        elif self._idle_deadline <= now:
            self._idle_deadline = inf
            self._idled(now)
        deadline = self.next_deadline()
        if deadline != inf:
            self._watch(deadline)

    def _idled(self, now: float) -> None:
        """End a connection on which nothing happens."""
        if self._state is _State.CLOSING:
            if unsent_bytes(self._transport):
                self._idle_deadline = now + _LINGER_TIMEOUT
            else:
                self._transport.loseConnection()
        elif self.output.congested or self._head_deadline != inf:
            self._idle_deadline = self._after(self.limits.timeout_keep_alive)
        else:
            self._say_goodbye()
