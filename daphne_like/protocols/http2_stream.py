"""
One stream of HTTP/2: its states, its two directions, its deadlines.

A stream is the sender of one response, and takes what the connection has read of
one request. It knows its flow-control windows; whose turn it is on the wire is the
business of :mod:`~daphne_like.protocols.http2_output`.

Source: RFC 9113 sections 5, 6.9, 8.1.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

import os
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from daphne_like.errors import RequestRejected, StreamFailed
from daphne_like.protocols.http2_bodies import Download, Upload
from daphne_like.protocols.http2_frames import (
    DEFAULT_FRAME_BYTES,
    FRAME_HEAD,
    MOST_WINDOW,
    ErrorCode,
    Flag,
    FrameType,
    frame,
    window_update_frame,
)
from daphne_like.protocols.http2_output import LEAST_USEFUL_BYTES
from daphne_like.protocols.http2_tunnel import HTTP2Tunnel

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable, Sequence

    from daphne_like.protocols.http2 import HTTP2Protocol
    from daphne_like.protocols.interfaces import (
        Header,
        Priority,
        RequestHead,
        ResponseHead,
        Stream,
        TunnelUser,
    )

__all__ = ["HTTP2Stream"]

# What an application may have sent that hasn't gone out: ``send()`` waits above the
# first mark until it is below the second.
_SEND_HIGH_WATER_BYTES = 64 * 1024
_SEND_LOW_WATER_BYTES = 16 * 1024
# A frame of ours is no larger, even if the peer would take it: others have their turn.
_MOST_DATA_BYTES = DEFAULT_FRAME_BYTES
# Smaller responses may leave in one write in any number.
_LEAST_COUNTED_BYTES = 512
# When nobody reads a body, so much of it is taken and dropped before the client is
# asked to stop.
_DISCARD_BYTES = 64 * 1024
# How long the end of a body of unknown length may take then.
_LAST_FRAMES_TIMEOUT = 1.0
# What is read of a file at once.
_FILE_BYTES = 256 * 1024
# The window of a body grows when the client fills it in so many round trips or fewer.
_FAST_ROUND_TRIPS = 4


class StreamState(Enum):
    """Section 5.1, without the states before the request."""

    OPEN = "both send"
    HALF_CLOSED_REMOTE = "the request is complete"
    HALF_CLOSED_LOCAL = "the response is complete"
    CLOSED = "it is over"


_OPEN = StreamState.OPEN
_HALF_CLOSED_REMOTE = StreamState.HALF_CLOSED_REMOTE
_HALF_CLOSED_LOCAL = StreamState.HALF_CLOSED_LOCAL
_CLOSED = StreamState.CLOSED


class HTTP2Stream:
    """
    One exchange, or one WebSocket, of a connection.

    Attributes:
        id: Its number on the connection.
        stream: What it carries, until it is over or a tunnel has taken over.
        tunnel: Of a WebSocket which was accepted.
        state: Of RFC 9113 section 5.1.
        send_window: Bytes which the peer takes now, on this stream.
        congested, can_push: See
            :class:`~daphne_like.protocols.interfaces.StreamSender`.
        priority: Against the connection's other streams.
        queued: It waits for its turn to send.
        covered_from: See :class:`~daphne_like.protocols.deadlines.DeadlineHolder`.
    """

    __slots__ = (
        "_body_deadline",
        "_connection",
        "_download",
        "_others_sent",
        "_output",
        "_request_deadline",
        "_send_deadline",
        "_sent",
        "_upload",
        "_waiters",
        "can_push",
        "congested",
        "covered_from",
        "id",
        "priority",
        "queued",
        "send_window",
        "state",
        "stream",
        "tunnel",
    )

    # Until there is a tunnel, or the stream is over.
    stream: Stream

    def __init__(
        self,
        connection: HTTP2Protocol,
        number: int,
        priority: Priority,
        state: StreamState,
    ) -> None:
        self._connection = connection
        self._output = output = connection.output
        self.id = number
        self.state = state
        self.send_window = output.stream_window
        self.priority = priority
        self.congested = False
        self.can_push = connection.can_push
        self.queued = False
        self.tunnel: HTTP2Tunnel | None = None
        self.covered_from = inf
        self._upload: Upload | None = None
        self._download: Download | None = None
        self._waiters: list[Future[None]] | None = None
        self._request_deadline = inf
        self._body_deadline = inf
        self._send_deadline = inf
        self._sent = self._others_sent = 0

    def start(self) -> None:
        """Let the application begin."""
        timeout = self._connection.limits.http_timeout
        if timeout and not self.stream.head.is_websocket:
            self._request_deadline = self._connection.clock() + timeout
            self._watch(self._request_deadline)
        self.stream.start()

    # -- The request's body --------------------------------------------------

    def expect_body(self, window: int, length: int, *, wanted: bool = True) -> None:
        """Prepare for a body, of ``length`` bytes if that isn't -1."""
        self._upload = Upload(window, length, self._connection.clock())
        self._upload.discarded = not wanted
        self._await_body()

    def data_received(self, data: bytes, size: int, ended: bool) -> None:
        """
        Take the content of a DATA frame.

        Args:
            data: Without padding.
            size: With padding, which counts for flow control (section 6.1).
            ended: The request is complete.

        Raises:
            StreamFailed: It breaks a rule.
        """
        upload = self._upload
        if upload is None or self.state is _HALF_CLOSED_REMOTE:
            self._connection.consumed(size)
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "data after the end")
        upload.window -= size
        if upload.window < 0:
            self._connection.consumed(size)
            raise StreamFailed(ErrorCode.FLOW_CONTROL_ERROR, "more than the window")
        count = len(data)
        upload.received += count
        if upload.remaining >= 0:
            # Section 8.1.1: the sum of all frames is what content-length says.
            upload.remaining -= count
            if upload.remaining < 0 or (ended and upload.remaining):
                self._connection.consumed(size)
                raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "wrong content-length")
        if size > count:
            self._consumed(upload, size - count)
        if count:
            self._deliver(upload, data)
        if self.state is _CLOSED:
            return  # refused with this piece
        if ended:
            self.remote_ended()
        else:
            self._await_body()

    def _deliver(self, upload: Upload, data: bytes) -> None:
        """Pass on a piece of the body, or drop it."""
        count = len(data)
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        if upload.discarded:
            self._connection.consumed(count)
            upload.discardable -= count
            if upload.discardable < 0 and self.state is _HALF_CLOSED_LOCAL:
                self._want_no_more()
            return
        if upload.received > self._connection.limits.limit_request_body > 0:
            self._connection.consumed(count)
            upload.discarded = True
            self.stream.reject(RequestRejected(413, "The request body is too large."))
            return
        upload.unread += count
        if self.stream.head.is_websocket:
            upload.held += data
            return
        self.stream.body_received(data)
        # RFC 9110 section 10.1.1: one that doesn't wait need not be asked.
        self.stream.head.expects_continue = False

    def remote_ended(self) -> None:
        """
        End the request.

        Raises:
            StreamFailed: Its body is shorter than announced.
        """
        upload = self._upload
        self._body_deadline = inf
        if self.state is _HALF_CLOSED_LOCAL:
            self._close()
            return
        if upload is not None and upload.remaining > 0:
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "wrong content-length")
        self.state = _HALF_CLOSED_REMOTE
        if self.tunnel is not None:
            self.tunnel.remote_ended()
        else:
            self.stream.body_ended()

    def body_consumed(self, count: int) -> None:
        """Let the peer send more (StreamSender)."""
        upload = self._upload
        if upload is not None:
            upload.unread -= count
            self._consumed(upload, count)

    def _consumed(self, upload: Upload, count: int) -> None:
        """Give credit on the connection, and on the stream if more is to come."""
        connection = self._connection
        connection.consumed(count)
        if self.state is not _OPEN or upload.discarded:
            return
        upload.credit += count
        if upload.credit < upload.size // 2:
            return
        now = connection.clock()
        most = connection.most_stream_window
        if (
            not upload.unread
            and upload.size < most
            and now - upload.updated < _FAST_ROUND_TRIPS * connection.round_trip
        ):
            grown = min(upload.size * 2, most)
            upload.credit += grown - upload.size
            upload.size = grown
        upload.updated = now
        upload.window += upload.credit
        self._output.put(window_update_frame(self.id, upload.credit))
        upload.credit = 0
        self._await_body()

    def send_continue(self) -> None:
        """Ask for the body (RFC 9110 section 10.1.1)."""
        if self.state is _OPEN:
            self.send_informational(100, ())
            self._await_body()

    # -- The response (StreamSender) -----------------------------------------

    def send_informational(self, status: int, headers: Sequence[Header]) -> None:
        """Send a 1xx head."""
        self._output.put_fields(self.id, [(b":status", b"%d" % status), *headers], 0)

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        """Send the head, and the body with it if it is small and the peer takes it."""
        output = self._output
        block = output.encode_response(response)
        size, length = len(body), len(block)
        most = output.most_frame_bytes
        if (
            end
            and size <= self.send_window
            and size <= output.send_window
            and size <= _MOST_DATA_BYTES
            and length <= most
            and not output.congested
        ):
            pack = FRAME_HEAD.pack
            if size:
                self.send_window -= size
                output.send_window -= size
                head = b"".join(
                    (
                        pack(length >> 8, length & 0xFF, 1, 0x4, self.id),
                        block,
                        pack(size >> 8, size & 0xFF, 0, 0x1, self.id),
                    )
                )
                if size < _LEAST_COUNTED_BYTES:
                    output.put(head + body)
                else:
                    # Not joined twice, since it is large.
                    output.put(head)
                    output.put(body)
                    output.limit_unwritten(size)
            else:
                output.put(pack(length >> 8, length & 0xFF, 1, 0x5, self.id) + block)
            self._local_ended()
            return
        bare = end and not size
        output.put_head(self.id, block, Flag.END_STREAM if bare else 0)
        if bare:
            self._local_ended()
        elif size:
            self._queue(body, end)

    def send_body(self, body: bytes, end: bool) -> None:
        """Send a further piece of the body, or queue it."""
        if body or end:
            self._queue(body, end)

    def push(self, head: RequestHead) -> None:
        """Answer another request, which wasn't made (StreamSender)."""
        self._connection.push(self.id, head)

    def send_trailers(self, trailers: Sequence[Header]) -> None:
        """End the response with trailers (section 8.1)."""
        if self._download is None:
            self._put_trailers(trailers)
        else:
            self._download.trailers = trailers
            self._download.ended = True

    def _put_trailers(self, trailers: Sequence[Header]) -> None:
        if trailers:
            self._output.put_fields(self.id, trailers, Flag.END_STREAM)
        else:
            # A field section must not be empty there; an empty frame may.
            self._output.put(frame(FrameType.DATA, Flag.END_STREAM, self.id))
        self._local_ended()

    def _queue(self, body: bytes, end: bool) -> None:
        """Queue a piece of the body, and send what can go out now."""
        output, download = self._output, self._download
        if download is None:
            if not body:
                output.put(frame(FrameType.DATA, Flag.END_STREAM, self.id))
                self._local_ended()
                return
            self._download = download = Download()
        if body:
            download.chunks.append(body)
            download.size += len(body)
        download.ended = end
        output.send_soon(self)
        if self._download is not None:
            if not self.congested and download.size > _SEND_HIGH_WATER_BYTES:
                self._set_congested(True)
            if self._send_deadline == inf:
                self._await_progress()

    def send_frame(self) -> bool:
        """
        Send one DATA frame, as far as both windows allow.

        Returns:
            Whether another one can follow at once.
        """
        output, download = self._output, self._download
        if download is None:
            return False
        size = min(
            download.size, _MOST_DATA_BYTES, self.send_window, output.send_window
        )
        if size < output.least_frame and size < download.size:
            if size > 0:
                output.hold_back(self)
            return False
        if size == download.size or size >= LEAST_USEFUL_BYTES:
            output.useful_frames += 1
        last = size == download.size and download.ended
        flags = Flag.END_STREAM if last and download.trailers is None else 0
        self.send_window -= size
        output.send_window -= size
        head = FRAME_HEAD.pack(size >> 8, size & 0xFF, FrameType.DATA, flags, self.id)
        output.put(head)
        for piece in download.take(size):
            output.put(piece)
        if self.congested and download.size <= _SEND_LOW_WATER_BYTES:
            self._set_congested(False)
        if download.size:
            return self.send_window > 0
        if self._download is download:
            self._download = None
            self._send_deadline = inf
            if last:
                if download.trailers is not None:
                    self._put_trailers(download.trailers)
                else:
                    self._local_ended()
        return self._download is not None

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """Send a piece of a file."""
        while count and self.state is not _CLOSED:
            data = os.pread(file, min(count, _FILE_BYTES), offset)
            if not data:
                raise EOFError("the file ended early")
            offset += len(data)
            count -= len(data)
            self._queue(data, False)
            if self.congested:
                await self.drained()

    def window_updated(self, count: int) -> None:
        """
        Take more room on this stream (section 6.9.1).

        Raises:
            StreamFailed: The window gets too large.
        """
        self.send_window += count
        if self.send_window > MOST_WINDOW:
            raise StreamFailed(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
        if self._download is not None:
            self._output.send_soon(self)

    def drained(self) -> Awaitable[None]:
        """Wait for room, or for the end of the stream (StreamSender)."""
        waiter = self._connection.loop.create_future()
        if self.congested:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    def _set_congested(self, congested: bool) -> None:
        self.congested = congested
        if not congested and self._waiters:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if self.tunnel is not None:
            self.tunnel.congestion_changed(congested)

    def unsent_bytes(self) -> int:
        """Count the bytes of the response which have not gone out."""
        return 0 if self._download is None else self._download.size

    # -- Tunnels -------------------------------------------------------------

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        """Accept the WebSocket (RFC 8441 section 5)."""
        connection = self._connection
        defaults = connection.default_headers.fields
        self._output.put_fields(self.id, [(b":status", b"200"), *fields, *defaults], 0)
        self._request_deadline = inf
        self._body_deadline = inf
        del self.stream  # it has its tunnel, and a cycle would keep both
        self.tunnel = tunnel = HTTP2Tunnel(self, user, connection.loop)
        tunnel.open()
        upload = self._upload
        if upload is not None and upload.held:
            held, upload.held = bytes(upload.held), bytearray()
            upload.unread -= len(held)
            tunnel.data_received(held)
        if self.state is _HALF_CLOSED_REMOTE:
            tunnel.remote_ended()

    def tunnel_consumed(self, count: int) -> None:
        """Let the peer send more through the tunnel."""
        if self._upload is not None:
            self._consumed(self._upload, count)

    def end_tunnel(self) -> None:
        """Send the end of the stream behind all that is queued."""
        if self._download is not None:
            self._download.ended = True
        elif self.state in (_OPEN, _HALF_CLOSED_REMOTE):
            self._output.put(frame(FrameType.DATA, Flag.END_STREAM, self.id))
            self._local_ended()

    # -- The end -------------------------------------------------------------

    def _local_ended(self) -> None:
        """Note that the response is complete."""
        if self.state is not _OPEN:
            self._close()
            return
        self.state = _HALF_CLOSED_LOCAL
        self._request_deadline = inf
        upload = self._upload
        if self.tunnel is not None or upload is None:
            return
        head, length_known = self.stream.head, upload.remaining >= 0
        refused, upload.discarded = upload.discarded, True
        upload.discardable = min(upload.window, _DISCARD_BYTES)
        if (
            upload.remaining > upload.discardable
            or (not length_known and (refused or head.is_websocket))
            # Without the 100 it asked for, the client may never send the body.
            or head.expects_continue
        ):
            self._want_no_more()
        elif not length_known:
            # Most often the end is under way, and a reset is an error to some clients.
            self._body_deadline = self._connection.clock() + _LAST_FRAMES_TIMEOUT
            self._watch(self._body_deadline)
        elif self._body_deadline == inf:
            self._await_body()

    def _want_no_more(self) -> None:
        """Tell a client which has its answer to stop (section 8.1): nothing is wrong."""
        self.reset(ErrorCode.NO_ERROR)

    def abort(self) -> None:
        """Break off a response that can't be completed (StreamSender)."""
        self.reset(ErrorCode.INTERNAL_ERROR)

    def reset(self, code: int) -> None:
        """End the stream at once; who carries it knows."""
        if self.state is not _CLOSED:
            self._connection.reset_stream(self.id, code)
            self._close()

    def fail(self) -> None:
        """Tell the application that the stream is over; the peer knows."""
        listening = self.tunnel is None and self.state in (_OPEN, _HALF_CLOSED_REMOTE)
        stream = self.stream if listening else None
        self._close()
        if stream is not None:
            stream.disconnected()

    def _close(self) -> None:
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        connection, upload = self._connection, self._upload
        if upload is not None and upload.unread:
            # Nobody will take it any more.
            connection.consumed(upload.unread)
            self._upload = None
        self._download = None
        if self.covered_from != inf:
            connection.wheel.remove(self)
        if self.congested:
            self._set_congested(False)
        if self.tunnel is not None:
            tunnel, self.tunnel = self.tunnel, None  # which refers to us
            tunnel.closed()
        else:
            del self.stream  # as well
        connection.stream_closed(self.id)

    # -- Deadlines (DeadlineHolder) ------------------------------------------

    def _await_body(self) -> None:
        """Limit the silence in the body, if it is the peer's turn."""
        connection, upload = self._connection, self._upload
        timeout = connection.limits.timeout_request_body
        if not timeout or upload is None or self.tunnel is not None:
            return
        if self.state is _HALF_CLOSED_LOCAL and upload.remaining < 0:
            return  # it has its time, whatever comes
        head = self.stream.head
        if (
            (upload.window <= 0 and not upload.discarded)
            or head.expects_continue
            or head.is_websocket
        ):
            self._body_deadline = inf
            return
        upload.partial_bytes = connection.reader.partial_bytes(self.id)
        self._body_deadline = connection.clock() + timeout
        self._watch(self._body_deadline)

    def _await_progress(self) -> None:
        """Limit how long the peer takes nothing of the response."""
        timeout = self._connection.limits.timeout_send
        if timeout and self._download is not None:
            self._sent = self._download.sent
            self._others_sent = self._output.useful_frames
            self._send_deadline = self._connection.clock() + timeout
            self._watch(self._send_deadline)

    def _waits_for_others(self) -> bool:
        """Whether the peer takes what it is sent, but other streams have their turn."""
        output = self._output
        return self.queued and (
            # The connection has a deadline of its own.
            output.congested or output.useful_frames != self._others_sent
        )

    def _watch(self, deadline: float) -> None:
        if deadline < self.covered_from:
            self._connection.wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the earliest deadline."""
        return min(self._request_deadline, self._body_deadline, self._send_deadline)

    def deadline_passed(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        if self._send_deadline <= now:
            self._send_deadline = inf
            download = self._download
            if (
                download is not None
                and download.sent == self._sent
                and not self._waits_for_others()
            ):
                # Attack: windows that stay shut, with an answer waiting for each.
                self._connection.limit_hit("timeout_send")
                self._connection.reset_stream(self.id, ErrorCode.CANCEL)
                self.fail()
                return
            self._await_progress()
        if self._body_deadline <= now:
            self._body_deadline = inf
            self._body_stalled()
        if self._request_deadline <= now and self.state is not _CLOSED:
            self._request_deadline = inf
            self.stream.reject(
                RequestRejected(
                    503, "The application took too long.", limit="http_timeout"
                )
            )
        deadline = self.next_deadline()
        if deadline != inf and self.state is not _CLOSED:
            self._watch(deadline)

    def _body_stalled(self) -> None:
        """Give up on a body of which nothing has come for too long."""
        upload = self._upload
        assert upload is not None
        if self.state is _HALF_CLOSED_LOCAL and upload.remaining < 0:
            self._want_no_more()
        elif self._connection.reader.partial_bytes(self.id) > upload.partial_bytes:
            self._await_body()  # a frame comes in, slowly
        elif self.state is _HALF_CLOSED_LOCAL:
            self._want_no_more()
        else:
            upload.discarded = True
            self.stream.reject(
                RequestRejected(
                    408, "The request body took too long.", limit="timeout_request_body"
                )
            )
