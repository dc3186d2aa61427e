"""
What a stream of HTTP/2 becomes when a WebSocket on it is accepted.

Source: RFC 8441 section 5.

Tests: ``tests/unit/protocols/test_http2_tunnel.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.protocols.http2_frames import ErrorCode

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable

    from daphne_like.protocols.http2_stream import HTTP2Stream
    from daphne_like.protocols.interfaces import TunnelUser

__all__ = ["HTTP2Tunnel"]


class HTTP2Tunnel:
    """
    The bytes in the DATA frames of a stream, both ways.

    The user never hears of its end within a call of its own, just as it is with
    the tunnels of HTTP/1.1.
    """

    __slots__ = (
        "_ended",
        "_held",
        "_loop",
        "_owed_bytes",
        "_paused",
        "_stream",
        "_user",
    )

    def __init__(
        self, stream: HTTP2Stream, user: TunnelUser, loop: AbstractEventLoop
    ) -> None:
        self._stream = stream
        self._user: TunnelUser | None = user
        self._loop = loop
        self._paused = False
        # Bytes of which the peer is told when reading goes on, and those which the
        # user is to have then, as they came behind what it wanted.
        self._owed_bytes = 0
        self._held = bytearray()
        self._ended = False

    # -- Called by the stream ------------------------------------------------

    def open(self) -> None:
        """Let the user begin."""
        if self._user is not None:
            self._user.opened(self)

    def data_received(self, data: bytes) -> None:
        """Pass on bytes, of which the peer may send as many again; or keep them."""
        self._owed_bytes += len(data)
        if self._paused:
            self._held += data
            return
        if self._user is not None:
            self._user.data_received(data)
        self._pay()

    def _pay(self) -> None:
        if not self._paused and self._owed_bytes:
            owed, self._owed_bytes = self._owed_bytes, 0
            self._stream.tunnel_consumed(owed)

    def remote_ended(self) -> None:
        """Take the end of the stream for that of a TCP connection."""
        if self._paused:
            self._ended = True
        else:
            # RFC 8441 section 5: as a TCP connection closed by the peer.
            self._stream.end_tunnel()

    def congestion_changed(self, congested: bool) -> None:
        """Tell the user whether it is to wait."""
        if self._user is not None:
            self._user.congestion_changed(congested)

    def closed(self) -> None:
        """Tell the user that it is over, as soon as it listens."""
        user, self._user = self._user, None
        self._paused = False
        self._pay()
        if user is not None:
            if self._held:
                self._loop.call_soon(user.data_received, bytes(self._held))
            self._loop.call_soon(user.connection_lost)

    def drain(self) -> None:
        """Let the user come to an end."""
        if self._user is not None:
            self._user.drain()

    # -- Called by the user (Tunnel) -----------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the peer takes less than it is sent."""
        return self._stream.congested

    @property
    def write(self) -> Callable[[bytes], None]:
        """What sends bytes."""
        return self._write

    def _write(self, data: bytes) -> None:
        if self._user is not None and data:
            self._stream.send_body(data, False)

    def share_descriptor(self) -> None:
        """Return nothing: others share the connection."""

    def drained(self) -> Awaitable[None]:
        """Wait for room, or for the end."""
        return self._stream.drained()

    def unsent_bytes(self) -> int:
        """Count the bytes which the peer hasn't taken yet."""
        return self._stream.unsent_bytes()

    def pause_reading(self) -> None:
        """Let the peer use up its window, and wait."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again, what has been kept first."""
        self._paused = False
        if self._held and self._user is not None:
            held, self._held = bytes(self._held), bytearray()
            self._user.data_received(held)
        self._pay()
        if self._ended and not self._paused:
            self._ended = False
            self._stream.end_tunnel()

    def end(self) -> None:
        """Send the end of the stream behind what was written."""
        self._stream.end_tunnel()

    def abort(self) -> None:
        """End it at once; RFC 8441 section 5: the equivalent of a TCP reset."""
        self._stream.reset(ErrorCode.CANCEL)
