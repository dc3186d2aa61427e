"""
WebSocket messages over a tunnel of bytes, whichever HTTP version made it.

Two lanes share each connection. The fast lane, in this module, takes whole
unfragmented data frames, which is what nearly all frames are, and pongs, both
of them between messages; and it writes every data frame. All else goes to
Autobahn, frame by frame (:mod:`~daphne_like.protocols.websocket_autobahn`):
fragments, frames that arrive in pieces, pings, the closing handshake, and
whatever breaks a rule, since it is Autobahn that judges. Connections borrow
an Autobahn protocol and give it back at the next boundary between messages, so
that idle connections have none.

Source: RFC 6455, RFC 7692.

Tests: ``tests/unit/protocols/test_websocket.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from daphne_like.errors import WebSocketFailed
from daphne_like.protocols.interfaces import ignore_limit
from daphne_like.protocols.websocket_masking import unmasker

if TYPE_CHECKING:
    from collections.abc import Callable

    from daphne_like.protocols.deadlines import DeadlineWheel
    from daphne_like.protocols.interfaces import LimitHit, Tunnel
    from daphne_like.protocols.websocket_autobahn import AutobahnLane, AutobahnPool
    from daphne_like.protocols.websocket_deflate import Deflate
    from daphne_like.settings import WebSocketSettings

__all__ = [
    "BINARY",
    "SMALL_HEADS",
    "TEXT",
    "WebSocketConnection",
    "WebSocketContext",
    "WebSocketUser",
]

# First bytes of whole frames (RFC 6455 section 5.2): FIN, then the opcode.
TEXT, BINARY, _PONG = 0x81, 0x82, 0x8A
# RSV1 says that the message is compressed (RFC 7692 section 6).
_COMPRESSED = 0x40

_PING = b"\x89\x00"
_PONG_HEADS = [bytes((_PONG, size)) for size in range(126)]

# Those whose length fits in the second byte, by first byte and length.
SMALL_HEADS = {
    first: [bytes((first, size)) for size in range(126)]
    for first in (
        TEXT,
        BINARY,
        TEXT | _COMPRESSED,
        BINARY | _COMPRESSED,
    )
}

# Of those whose length follows in two bytes, or in eight.
_medium_head = Struct(">BBH").pack
_large_head = Struct(">BBQ").pack

# Larger messages go to the transport beside their head instead of being copied.
_JOIN_BYTES = 64 * 1024 - 1
# How long a peer that broke a rule may go on sending before it is cut.
_LINGER_TIMEOUT = 2.0


class WebSocketUser(Protocol):
    """
    Who is told what a connection receives, and sends what it likes.

    Attributes:
        write_frame: Writes the frame of a message, if that needs no more than one of
            the :data:`SMALL_HEADS`, without a call of :meth:`WebSocketConnection.send`.
            The connection sets it, to ``None`` while messages have to take the
            usual way.
        descriptor: Takes such a frame by :func:`os.write` while that is set; ``None``
            if there is none.
    """

    write_frame: Callable[[bytes], None] | None
    descriptor: int | None

    def message_received(self, message: str | bytes) -> None:
        """Take a whole message."""

    def closed(self, code: int, reason: str) -> None:
        """
        Learn that no message follows, neither way; called once.

        Args:
            code: Of the peer's Close frame; 1005 when it had none, 1006 when there
                was no Close frame.
            reason: Of that frame.
        """

    def says_goodbye(self) -> bool:
        """Whether the user closes by itself, for the server stops."""


@dataclass(frozen=True, slots=True)
class WebSocketContext:
    """
    What all WebSocket connections of a server share.

    Attributes:
        settings: Limits and timeouts.
        timeout_send: Seconds which a peer may take nothing; 0 for any time.
        wheel: Keeps the deadlines; its clock is the clock.
        call_soon: Calls a function when applications have had their turn.
        drain_code: Tells the close code of a server that stops: 1001 when it goes
            away, 1012 when another one takes over.
        limit_hit: Is told of each limit that holds.
    """

    settings: WebSocketSettings
    timeout_send: float
    wheel: DeadlineWheel
    call_soon: Callable[[Callable[[], None]], object]
    drain_code: Callable[[], int] = lambda: 1001
    limit_hit: LimitHit = ignore_limit

    def pool(self) -> AutobahnPool:
        """Return what lends Autobahn's protocols; it is loaded by the first call."""
        # Not before: to import it takes longer than all else at the start.
        from daphne_like.protocols.websocket_autobahn import pool_for

        return pool_for(self.settings)


class WebSocketConnection:
    """
    One connection, from the accepted handshake on.

    Flow control towards the application: the user calls :meth:`pause` when it
    has enough messages unread; what has been read by then is kept in ``_held``
    and the tunnel stops reading until :meth:`resume`.

    Flow control towards the peer: the tunnel's, see
    :class:`~daphne_like.protocols.interfaces.Tunnel`. A peer that takes nothing
    for ``timeout_send`` is cut.

    Deadlines are instants of the wheel's clock, ``inf`` when nothing is due.

    Attributes:
        tunnel: What the frames go through, once it is open.
        closing: We have sent a Close frame; nothing but that may follow.
        paused: The user has said :meth:`pause`.
        congested, owed_pong: See
            :class:`~daphne_like.protocols.websocket_autobahn.Borrower`.
        covered_from: See :class:`~daphne_like.protocols.deadlines.DeadlineHolder`.
    """

    __slots__ = (
        "_autobahn",
        "_context",
        "_deadline",
        "_deflate",
        "_ended",
        "_expiry",
        "_frame_rest",
        "_has_delivered",
        "_held",
        "_held_from",
        "_is_lost",
        "_is_waiting",
        "_last_heard",
        "_least_compressed",
        "_most_bytes",
        "_send_deadline",
        "_unmask",
        "_unsent_bytes",
        "_user",
        "_wheel",
        "_write",
        "closing",
        "congested",
        "covered_from",
        "owed_pong",
        "paused",
        "tunnel",
    )

    def __init__(
        self,
        context: WebSocketContext,
        user: WebSocketUser,
        deflate: Deflate | None,
    ) -> None:
        settings = context.settings
        self._context = context
        self._wheel = context.wheel
        self._user = user
        self._deflate = deflate
        self._least_compressed = settings.ws_deflate_min_size if deflate else inf
        self._most_bytes = min(
            settings.websocket_max_frame_size or inf,
            settings.websocket_max_message_size or inf,
        )
        self._unmask = unmasker()
        self.covered_from = inf

        # Autobahn's protocol while it is needed, and how many bytes of the frame
        # which it has begun are still to come.
        self._autobahn: AutobahnLane | None = None
        self._frame_rest = 0
        # Read, but not looked at: an incomplete head of a frame, or all that
        # came behind the last message which the user wanted.
        self._held = b""
        self._held_from = 0
        self.paused = False
        # Messages were passed on by this read; the rest waits for a turn.
        self._has_delivered = False
        self._is_waiting = False
        self._is_lost = False
        self.congested = False
        self.owed_pong: bytes | None = None
        # Nothing is read or written any more, once it has ended.
        self.closing = False
        self._ended = False

        # When bytes came last, to the second; negative when none have come since
        # we sent a Ping.
        self._last_heard = 0.0
        self._deadline = inf
        self._expiry = inf
        self._send_deadline = inf
        self._unsent_bytes = 0

    def opened(self, tunnel: Tunnel) -> None:
        """Begin, as the handshake has been answered."""
        self.tunnel = tunnel
        self._write = tunnel.write
        settings, now = self._context.settings, self._wheel.clock()
        self._last_heard = now
        if settings.websocket_timeout > 0:
            self._expiry = now + settings.websocket_timeout
        self._deadline = now + (settings.ping_interval or inf)
        self._watch()
        if self._least_compressed >= len(SMALL_HEADS[TEXT]):
            self._user.descriptor = tunnel.share_descriptor()
            self._share_writing()

    def _share_writing(self) -> None:
        """Let the user write frames, as long as nothing else has to be thought of."""
        none_compressed = self._least_compressed >= len(SMALL_HEADS[TEXT])
        free = none_compressed and not (self.closing or self.congested)
        self._user.write_frame = self._write if free else None

    # -- Bytes in ------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read the next bytes of the connection."""
        self._last_heard = self._wheel.now
        if self._held:
            data = self._held[self._held_from :] + data
            self._hold(b"", 0)
        if self.paused or self._is_waiting:
            self._hold(data, 0)
        elif not self._ended:
            self._read(data, 0)

    def _read(self, data: bytes, start: int) -> None:
        """
        Read frames until the bytes end, the user has enough, or all is over.

        Whatever else follows messages waits for a turn of the loop, so that the
        application can answer them before a Close frame or a violation ends all.
        """
        end = len(data)
        self._has_delivered = False
        while start < end and not self.paused:
            if self._autobahn is None:
                begin = start
                start = self._read_whole_frames(data, start, end)
                self._has_delivered |= start > begin
                if start == end or self.paused:
                    break
            if self._has_delivered and not self._is_lost:
                self._is_waiting = True
                self._context.call_soon(self._go_on)
                break
            if not self._frame_rest:
                size = _frame_size(data, start, end)
                if not size:
                    break
                self._frame_rest = size
            piece = data[start : start + self._frame_rest]
            start += len(piece)
            self._frame_rest -= len(piece)
            self._pass_on(piece)
            if self._ended:
                return
        if start < end:
            self._hold(data, start)

    def _hold(self, data: bytes, start: int) -> None:
        """Keep what is behind ``start`` for later."""
        # Without a copy, as a peer may cause a great many of these in one read.
        self._held, self._held_from = data, start

    def _go_on(self) -> None:
        """Read what has been held, if it may be by now."""
        self._is_waiting = False
        if self._held and not (self.paused or self._ended):
            data, start = self._held, self._held_from
            self._hold(b"", 0)
            self._read(data, start)

    def _read_whole_frames(self, data: bytes, start: int, end: int) -> int:
        """
        Take the frames which are whole and common.

        Args:
            data: What was read.
            start: Where a frame begins, outside of a message.
            end: Length of ``data``.

        Returns:
            Where the first frame begins that isn't; ``end`` when all is over.
        """
        user = self._user
        while start + 6 <= end:
            # RFC 6455 section 5.2. Frames of clients are masked, which is the
            # first bit of the second byte.
            first, size = data[start], data[start + 1] - 0x80
            if 0 <= size < 126:
                body = start + 6
            elif size == 126 and start + 8 <= end:
                body = start + 8
                size = data[start + 2] << 8 | data[start + 3]
                if size < 126:
                    break
            elif size == 127 and start + 14 <= end:
                body = start + 14
                size = int.from_bytes(data[start + 2 : start + 10], "big")
                if size < 65536:
                    break
            else:
                break
            finish = body + size
            if finish > end or size > self._most_bytes:
                break
            payload = self._unmask(data[body:finish], data[body - 4 : body])
            if first == TEXT:
                try:
                    message: str | bytes = payload.decode()
                except UnicodeDecodeError:
                    break
            elif first == BINARY:
                message = payload
            elif first & ~_COMPRESSED in SMALL_HEADS and self._deflate is not None:
                try:
                    message = self._inflate(first, payload)
                except UnicodeDecodeError:
                    self._fail(1007, "The text is no UTF-8.")
                    return end
                except WebSocketFailed as failure:
                    self._fail(failure.code, failure.reason)
                    return end
            elif first == _PONG and size < 126:
                start = finish
                continue
            else:
                break
            start = finish
            user.message_received(message)
            if self.paused:
                break
        return start

    def _inflate(self, first: int, payload: bytes) -> str | bytes:
        assert self._deflate is not None
        message = self._deflate.inflate(payload)
        return message.decode() if first == TEXT | _COMPRESSED else message

    def _pass_on(self, piece: bytes) -> None:
        """Give Autobahn bytes of one frame, and take it back when it is done."""
        autobahn = self._autobahn or self._borrow()
        try:
            autobahn.feed(piece)
        except WebSocketFailed as failure:
            self._fail(failure.code, failure.reason)
            return
        if autobahn.closed is not None:
            # Both sides have sent their Close frame (RFC 6455 section 7.1.1).
            code, reason = autobahn.closed
            self._end(1005 if code is None else code, reason or "")
        elif not self._frame_rest and autobahn.is_idle and not self.closing:
            self._give_back()

    def _borrow(self) -> AutobahnLane:
        self._autobahn = autobahn = self._context.pool().borrow(self, self._deflate)
        return autobahn

    def _give_back(self) -> None:
        autobahn, self._autobahn = self._autobahn, None
        if autobahn is not None:
            autobahn.give_back()

    # -- Told by Autobahn ----------------------------------------------------

    def message_received(self, message: str | bytes) -> None:
        """Pass on a message, unless we have said that we take no more."""
        if not self.closing:
            self._has_delivered = True
            self._user.message_received(message)

    def write(self, data: bytes) -> None:
        """Write a control frame."""
        self._write(data)

    def _fail(self, code: int, reason: str) -> None:
        """
        Fail the connection, for the peer broke a rule (RFC 6455 section 7.1.7).

        What it sends is not looked at any more.
        """
        if code == 1009:
            self._context.limit_hit("websocket_max_message_size")
        if not self.closing:
            self._send_close(code, reason)
        self._end(1006, reason)

    def _end(self, code: int, reason: str) -> None:
        """
        Read and write no more, but let the peer read what was written.

        RFC 6455 section 7.1.1: it is the server that closes first. A peer that
        doesn't close its side then is cut.
        """
        self._forget(code, reason)
        if self._is_lost:
            return
        self._expiry = self._wheel.clock() + _LINGER_TIMEOUT
        self._watch()
        self.tunnel.end()

    def _forget(self, code: int, reason: str) -> None:
        """Let go of all that an ended connection doesn't need."""
        self._ended = self.closing = True
        self._share_writing()
        self._hold(b"", 0)
        self._frame_rest = 0
        self._deadline = self._expiry = inf
        self._give_back()
        self._user.closed(code, reason)

    # -- Told by the tunnel --------------------------------------------------

    def connection_lost(self) -> None:
        """Learn that nothing can be read or written any more."""
        self._send_deadline = inf
        self._is_lost = True
        self._user.write_frame = None
        # What the peer sent before it left is worth having, and so is its Close.
        self._write = _nowhere
        self.paused = False
        self._go_on()
        if not self._ended:
            self._forget(1006, "")
        self._wheel.remove(self)

    def congestion_changed(self, congested: bool) -> None:
        """Watch a peer that doesn't read, from when the tunnel is congested."""
        self.congested = congested
        timeout = self._context.timeout_send
        if not congested:
            self._send_deadline = inf
            if self.owed_pong is not None and not self.closing:
                self._write(_PONG_HEADS[len(self.owed_pong)] + self.owed_pong)
            self.owed_pong = None
        elif timeout:
            self._unsent_bytes = self.tunnel.unsent_bytes()
            self._send_deadline = self._wheel.clock() + timeout
            self._watch()
        self._share_writing()

    def drain(self) -> None:
        """Close, for the server stops; in time, if not now."""
        if not (self.closing or self._user.says_goodbye()):
            self.close(self._context.drain_code(), "")

    # -- Called by the user --------------------------------------------------

    def send(self, payload: bytes, text: bool) -> None:
        """
        Send a message in one frame; not once :attr:`closing`.

        Args:
            payload: The message.
            text: Whether it is text, in UTF-8.
        """
        first, size = TEXT if text else BINARY, len(payload)
        if size >= self._least_compressed:
            assert self._deflate is not None
            first |= _COMPRESSED
            payload = self._deflate.compress(payload)
            size = len(payload)
        if size < 126:
            self._write(SMALL_HEADS[first][size] + payload)
        elif size <= _JOIN_BYTES:
            self._write(_medium_head(first, 126, size) + payload)
        else:
            self._write(_large_head(first, 127, size))
            self._write(payload)

    def close(self, code: int, reason: str) -> None:
        """Send a Close frame and wait for the peer's."""
        self._send_close(code, reason)
        timeout = self._context.settings.ws_close_timeout or inf
        self._expiry = self._wheel.clock() + timeout
        self._watch()
        self.resume()  # to find that among what is unread

    def _send_close(self, code: int, reason: str) -> None:
        self.closing = True
        self._share_writing()
        self._deadline = inf  # no Ping may follow
        autobahn = self._autobahn or self._borrow()
        autobahn.send_close(code, reason)

    def pause(self) -> None:
        """Take no further message for now."""
        if not (self.paused or self.closing or self._is_lost):
            self.paused = True
            self.tunnel.pause_reading()

    def resume(self) -> None:
        """Take messages again; what is held comes within this call."""
        if self.paused:
            self.paused = False
            if not self._is_waiting:
                self._go_on()
            if not self.paused:
                self.tunnel.resume_reading()

    # -- Deadlines (DeadlineHolder) ------------------------------------------

    def _watch(self) -> None:
        deadline = self.next_deadline()
        if deadline < self.covered_from:
            self._wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the earliest deadline."""
        return min(self._deadline, self._expiry, self._send_deadline)

    def deadline_passed(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        if self._send_deadline <= now:
            if self.tunnel.unsent_bytes() < self._unsent_bytes:
                self.congestion_changed(congested=True)  # slow, but alive
            else:
                self._context.limit_hit("timeout_send")
                self._cut()
                return
        if self._expiry <= now:
            if self.closing:
                self._cut()  # the peer never answered, or never closed
                return
            self._context.limit_hit("websocket_timeout")
            self.close(1000, "")
        if self._deadline <= now:
            self._look_for_life(now)
        self._watch()

    def _look_for_life(self, now: float) -> None:
        """Ping a silent peer, and cut it when it stays silent."""
        settings = self._context.settings
        heard = self._last_heard
        if self.paused:
            # It is the application that doesn't listen.
            self._last_heard = self._wheel.now
            self._deadline = now + settings.ping_interval
        elif heard < 0 and settings.ping_timeout:
            self._context.limit_hit("ping_timeout")
            self._cut()
        elif now < heard + 1 + settings.ping_interval and heard >= 0:
            self._deadline = heard + 1 + settings.ping_interval
        else:
            self._last_heard = -1.0
            self._write(_PING)
            self._deadline = now + (settings.ping_timeout or settings.ping_interval)

    def _cut(self) -> None:
        tunnel = self.tunnel
        if not self._ended:
            self._forget(1006, "")
        tunnel.abort()


def _frame_size(data: bytes, start: int, end: int) -> int:
    """
    Tell the size of a frame, with its head; 0 when the head isn't complete.

    As soon as a head breaks a rule it counts as complete.
    """
    if start + 2 > end:
        return 0
    second = data[start + 1]
    size, head = second & 0x7F, 6 if second & 0x80 else 2
    if size < 126 or data[start] & 0x08:
        if start + head > end:
            return 0
        return head + size
    wide = 2 if size == 126 else 8
    if start + head + wide > end:
        return 0
    return head + wide + int.from_bytes(data[start + 2 : start + 2 + wide], "big")


def _nowhere(data: bytes) -> None:
    """Drop what would be written to a peer that has gone."""
