"""
What one connection of HTTP/2 sends: its frames, and whose turn it is to send more.

Frames are gathered. All answers to one read leave in one write, and so do those which
applications give within one turn of the loop. Pieces of bodies wait in their streams
until the windows and the transport let them go.

Source: RFC 9113 sections 4.3, 5.2, 6.9; RFC 9218 section 10.

Tests: ``tests/unit/protocols/test_http2.py``, ``test_http2_attacks.py``.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from daphne_like.errors import ConnectionFailed
from daphne_like.protocols.connections import close_writing, soon_writer, unsent_bytes
from daphne_like.protocols.http2_frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    MOST_WINDOW,
    ErrorCode,
    FrameType,
    head_frames,
)
from daphne_like.protocols.http2_responses import ResponseBlocks
from daphne_like.protocols.http2_turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daphne_like.protocols.connections import HTTPContext, Transport
    from daphne_like.protocols.http2_stream import HTTP2Stream
    from daphne_like.protocols.interfaces import Header, Priority

__all__ = ["LEAST_USEFUL_BYTES", "Output"]

LEAST_USEFUL_BYTES = 1024
"""A frame that the peer's windows make smaller is none that pays for WINDOW_UPDATE."""

# So many bytes of bodies leave in one write. The transport says then when it is full.
# With a quarter of it, bodies of 16 KB over TLS take a tenth more time.
_BATCH_BYTES = 256 * 1024
# Answers (to SETTINGS, PING and the like) that may wait for a peer which doesn't read,
# before reading pauses.
_MOST_ANSWERS = 128
# How long what is left of a window waits for more, in seconds.
_REST_DELAY = 0.1


@implementer(IPushProducer)
class Output:
    """
    Gathers the frames of one connection, and gives its streams their turns.

    Flow control towards the peer: what neither window lets go out, or what comes
    while the transport is full, waits in its stream, whose application waits in
    ``send()``. Streams take turns, a frame each, by their priority. Heads and answers
    to control frames never wait; when too many of them have been written to a
    transport that is full, reading pauses.

    A peer that takes nothing from a full transport for ``timeout_send`` is given up.

    Attributes:
        pending: What was put, and waits for :meth:`flush`.
        corked: Somebody will call :meth:`flush`; otherwise it is called at the end of
            this turn of the loop.
        encode_response: Makes the block of a response's head.
        send_window: Bytes which the peer takes now, on all streams.
        stream_window: Bytes which it takes on a stream that opens now.
        most_frame_bytes: The longest payload which the peer takes.
        least_frame: The smallest piece of a body that goes out for want of window.
        useful_frames: DATA frames sent, but for those which a window made tiny.
        held_back: Streams for which what is left of a window isn't enough.
        congested: The transport is full.
        covered_from: See :class:`~daphne_like.protocols.deadlines.DeadlineHolder`.
    """

    __slots__ = (
        "_answers",
        "_context",
        "_deadline",
        "_flush_due",
        "_reading_paused",
        "_responses",
        "_rest_due",
        "_sending",
        "_transport",
        "_turns",
        "_unsent_bytes",
        "_unwritten_bytes",
        "_write",
        "congested",
        "corked",
        "covered_from",
        "encode_response",
        "held_back",
        "least_frame",
        "most_frame_bytes",
        "pending",
        "send_window",
        "stream_window",
        "useful_frames",
    )

    _transport: Transport
    _write: Callable[[bytes], None]

    def __init__(self, context: HTTPContext) -> None:
        self._context = context

        # Frames.
        self.pending: list[bytes | memoryview] = []
        self.corked = False
        self._flush_due = False
        self._unwritten_bytes = 0
        self._responses = ResponseBlocks(context.default_headers)
        self.encode_response = self._responses.encode
        self.most_frame_bytes = DEFAULT_FRAME_BYTES

        # Turns.
        self.send_window = self.stream_window = DEFAULT_WINDOW
        self.least_frame = LEAST_USEFUL_BYTES
        self.useful_frames = 0
        self.held_back: dict[HTTP2Stream, None] = {}
        self._rest_due = False
        self._turns = Turns()
        self._sending = False

        # A transport that is full.
        self.congested = False
        self._answers = 0
        self._reading_paused = False
        self._unsent_bytes = 0
        self._deadline = self.covered_from = inf

    # -- The transport -------------------------------------------------------

    def open(self, transport: Transport) -> None:
        """Write to ``transport`` from now on."""
        self._transport = transport
        self._write = soon_writer(transport)
        transport.registerProducer(self, True)

    def close(self) -> None:
        """Close our side when all is written; nothing goes out any more."""
        self.flush()
        self._write = _drop
        self._turns.clear()
        self._await_progress()
        self._transport.unregisterProducer()
        self.congested = False
        # A socket that is closed with unread bytes is reset, and the peer drops what
        # it has not read.
        (close_writing(self._transport) or self._transport.loseConnection)()
        self._read_on()

    def connection_lost(self) -> None:
        """Drop all that is put from now on: the transport is gone."""
        self._write = _drop
        self.pending.clear()
        self.congested = False
        self._deadline = inf
        self._context.wheel.remove(self)

    def pauseProducing(self) -> None:
        """Learn that the transport's buffer is full (IPushProducer)."""
        self.congested = True
        self._await_progress()

    def resumeProducing(self) -> None:
        """Learn that the transport's buffer has room (IPushProducer)."""
        self.congested = False
        self._deadline = inf
        self._answers = 0
        self._read_on()
        self._send_ready()
        self.flush()

    def stopProducing(self) -> None:
        """Learn that the transport is gone (IPushProducer)."""

    def _read_on(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resumeProducing()

    def _owe(self) -> None:
        """Let a peer wait which asks on and on, and doesn't read the answers."""
        self._answers += 1
        if self._answers > _MOST_ANSWERS and not self._reading_paused:
            self._reading_paused = True
            self._transport.pauseProducing()

    # -- Frames --------------------------------------------------------------

    def put(self, data: bytes | memoryview) -> None:
        """
        Send with all that is sent in this turn of the loop.

        Args:
            data: A frame, or its head, which the payload follows.
        """
        self.pending.append(data)
        if not self.corked and not self._flush_due:
            self._flush_due = True
            self._context.loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Write all that was put, at once."""
        pending = self.pending
        if pending:
            data = b"".join(pending)
            pending.clear()
            self._unwritten_bytes = 0
            self._write(data)

    def limit_unwritten(self, count: int) -> None:
        """Write now, if ``count`` bytes more of bodies are too many to wait."""
        self._unwritten_bytes += count
        if self._unwritten_bytes >= _BATCH_BYTES:
            self.flush()

    def answer(self, data: bytes) -> None:
        """Answer a control frame."""
        self.put(data)
        if self.congested:
            self._owe()

    def put_head(self, stream: int, block: bytes, flags: int) -> None:
        """Send a head."""
        most = self.most_frame_bytes
        self.put(head_frames(FrameType.HEADERS, stream, block, flags, most))
        if self.congested:
            self._owe()

    def put_fields(self, stream: int, fields: Iterable[Header], flags: int) -> None:
        """Send a head of these fields."""
        self.put_head(stream, self._responses.encoder.encode(fields), flags)

    def put_promise(self, stream: int, promised: int, fields: Iterable[Header]) -> None:
        """Promise the answer to a request of these fields (section 6.6)."""
        block = promised.to_bytes(4, "big") + self._responses.encoder.encode(fields)
        most = self.most_frame_bytes
        self.put(head_frames(FrameType.PUSH_PROMISE, stream, block, 0, most))

    def resize_table(self, size: int) -> None:
        """Encode heads for a table of at most ``size`` bytes (section 4.3.1)."""
        self._responses.encoder.resize(size)

    # -- Windows and turns ---------------------------------------------------

    def window_updated(self, count: int) -> None:
        """
        Take more room on all streams (section 6.9.1).

        Raises:
            ConnectionFailed: The window gets too large.
        """
        self.send_window += count
        if self.send_window > MOST_WINDOW:
            raise ConnectionFailed(
                ErrorCode.FLOW_CONTROL_ERROR, "the window is too large"
            )
        if self.held_back:
            self._queue_held_back()
        self._send_ready()

    def resize_stream_window(self, size: int) -> int:
        """
        Take another size of the streams' windows (section 6.9.2).

        Returns:
            By how much those of streams which are open change.
        """
        change = size - self.stream_window
        self.stream_window = size
        self.least_frame = LEAST_USEFUL_BYTES if size >= 2 * LEAST_USEFUL_BYTES else 1
        return change

    def send_soon(self, stream: HTTP2Stream) -> None:
        """Give a stream its turn, now if nothing is in the way."""
        self._turns.add(stream)
        self._send_ready()

    def prioritize(self, stream: HTTP2Stream, priority: Priority) -> None:
        """Change how urgent a stream is."""
        self._turns.prioritize(stream, priority)
        self._send_ready()

    def forget(self, stream: HTTP2Stream) -> None:
        """Give a stream that is over no turn any more."""
        self._turns.remove(stream)
        self.held_back.pop(stream, None)

    def hold_turns(self) -> None:
        """Let all streams wait for :meth:`resume_turns`."""
        self._sending = True

    def resume_turns(self) -> None:
        """Let streams send again."""
        self._sending = False
        self._send_ready()

    def _send_ready(self) -> None:
        """Send as much of the bodies as the windows and the transport allow."""
        if self._sending:
            return
        self._sending = True
        turns = self._turns
        while turns and self.send_window > 0 and not self.congested:
            stream, window = turns.first(), self.send_window
            if stream.send_frame():
                turns.taken(stream)
            else:
                turns.remove(stream)
            self.limit_unwritten(window - self.send_window)
        self._sending = False

    def hold_back(self, stream: HTTP2Stream) -> None:
        """
        Let what is left of a window wait for further credit, but not for long.

        To a peer which gives credit for each frame, small frames would go for ever,
        each with two answers: the silly windows of RFC 1122 section 4.2.3.4.
        """
        self.held_back[stream] = None
        if not self._rest_due:
            self._rest_due = True
            self._context.loop.call_later(_REST_DELAY, self._send_rest)

    def _send_rest(self) -> None:
        self._rest_due = False
        least, self.least_frame = self.least_frame, 1
        self._queue_held_back()
        self._send_ready()
        self.least_frame = least
        self.flush()

    def _queue_held_back(self) -> None:
        for stream in self.held_back:
            self._turns.add(stream)
        self.held_back.clear()

    # -- Deadlines (DeadlineHolder) ------------------------------------------

    def _await_progress(self) -> None:
        """Limit how long the peer takes nothing."""
        timeout, wheel = self._context.settings.timeout_send, self._context.wheel
        if timeout:
            self._unsent_bytes = unsent_bytes(self._transport)
            self._deadline = deadline = wheel.clock() + timeout
            if deadline < self.covered_from:
                wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the only deadline."""
        return self._deadline

    def deadline_passed(self, now: float) -> None:
        """Give up a peer that takes nothing."""
        if unsent_bytes(self._transport) < self._unsent_bytes:
            self._await_progress()  # slow, but alive
        else:
            self._context.limit_hit("timeout_send")
            self._transport.abortConnection()


def _drop(data: bytes) -> None:
    """Write nothing: the connection is over."""
