"""
The two bodies of a stream of HTTP/2, as far as they are on their way.

Source: RFC 9113 section 6.9.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daphne_like.protocols.interfaces import Header

__all__ = ["Download", "Upload"]


class Upload:
    """
    What the peer sends.

    Flow control: the peer may send ``window`` bytes. What it has sent is owed to it
    again once the application has taken it (``credit``), and announced when it is
    half of ``size``. Where the application takes everything as fast as the client
    can send it within a round trip or two, ``size`` is what bounds the client, and
    doubles.

    Attributes:
        window: Bytes which the peer may send now.
        size: Bytes it may send at most before the application takes any.
        unread: Bytes which the application has not taken.
        credit: Bytes taken, and not announced yet.
        remaining: Bytes to come by content-length; -1 when there was none.
        received: Bytes so far.
        held: What came for a tunnel that isn't open yet.
        partial_bytes: What there was of the next frame when the wait for it began.
        discarded: Nobody wants the rest,
        discardable: of which so many bytes may come.
        updated: When the window was last announced.
    """

    __slots__ = (
        "credit",
        "discardable",
        "discarded",
        "held",
        "partial_bytes",
        "received",
        "remaining",
        "size",
        "unread",
        "updated",
        "window",
    )

    def __init__(self, window: int, remaining: int, now: float) -> None:
        self.window = self.size = window
        self.unread = self.credit = self.received = 0
        self.remaining = remaining
        self.discarded = False
        self.discardable = 0
        self.held = bytearray()
        self.updated = now
        self.partial_bytes = 0


class Download:
    """
    What the application has sent and the peer not yet let go out.

    Attributes:
        chunks: Pieces of the body.
        offset: Bytes of the first of them which have gone out.
        size: Bytes which have not.
        ended: The response ends with them.
        trailers: It ends with these, behind them.
        sent: Bytes that ever went out, to see progress.
    """

    __slots__ = ("chunks", "ended", "offset", "sent", "size", "trailers")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.offset = self.size = self.sent = 0
        self.ended = False
        self.trailers: Sequence[Header] | None = None

    def take(self, size: int) -> list[bytes | memoryview]:
        """Take the next bytes, of which there are enough."""
        self.size -= size
        self.sent += size
        chunks = self.chunks
        taken: list[bytes | memoryview] = []
        while size:
            chunk, offset = chunks[0], self.offset
            left = len(chunk) - offset
            if left > size:
                self.offset = offset + size
                taken.append(memoryview(chunk)[offset : offset + size])
                return taken
            taken.append(memoryview(chunk)[offset:] if offset else chunk)
            chunks.popleft()
            self.offset = 0
            size -= left
        return taken
