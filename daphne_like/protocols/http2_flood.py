"""
How much trouble one HTTP/2 connection may make.

Frames which cost the server work and the peer nothing are allowed in numbers
that no honest client reaches, and have to be paid for beyond. A budget fills up
again with time and with honest traffic, so that a connection which lives for
days is never cut for the sum of what it did.

Source: RFC 9113 section 10.5; CVE-2019-9511 to 9518, CVE-2023-44487 (rapid
reset), CVE-2025-8671 (MadeYouReset).

Tests: ``tests/unit/protocols/test_http2_flood.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.errors import ConnectionFailed
from daphne_like.protocols.http2_frames import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Budget", "FloodGuard"]

# Frames which cost nothing to send: at once, and in the long run. Each request and each
# frame of a response pays for some, as clients give credit for what they receive.
_MOST_IDLE_FRAMES = 1000
_IDLE_FRAMES_PER_SECOND = 100.0
_IDLE_FRAMES_PER_REQUEST = 8
_IDLE_FRAMES_PER_FRAME = 4
# Requests which come to nothing: at once, and in the long run. Each request pays for a
# part of one, as the clients of a proxy share a connection.
_MOST_RESETS = 200
_RESETS_PER_SECOND = 20.0
_RESETS_PER_REQUEST = 0.1


class Budget:
    """
    Counts one kind of trouble.

    Args:
        name: What it is, for the GOAWAY frame.
        size: How much is allowed at once.
        per_second: How much is allowed in the long run.
        clock: Tells the instant, in seconds.
    """

    __slots__ = ("_clock", "_filled", "_left", "_name", "_per_second", "_size")

    def __init__(
        self, name: str, size: float, per_second: float, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._size = self._left = size
        self._per_second = per_second
        self._clock = clock
        self._filled = clock()

    def earn(self, amount: float) -> None:
        """Allow more, up to the size."""
        self._left = min(self._size, self._left + amount)

    def spend(self, amount: float = 1) -> None:
        """
        Take note of trouble.

        Raises:
            ConnectionFailed: It is too much.
        """
        self._left -= amount
        if self._left >= 0:
            return
        now = self._clock()
        self.earn((now - self._filled) * self._per_second)
        self._filled = now
        if self._left < 0:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, self._name)


class FloodGuard:
    """
    The budgets of one connection.

    Requests and frames aren't told it one by one: it looks at how many there were when
    there is trouble.
    """

    __slots__ = (
        "_frames_paid",
        "_idle_frames",
        "_last_idle_paid",
        "_last_reset_paid",
        "_resets",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._resets = Budget(
            "too many requests were reset", _MOST_RESETS, _RESETS_PER_SECOND, clock
        )
        self._idle_frames = Budget(
            "too many frames without use",
            _MOST_IDLE_FRAMES,
            _IDLE_FRAMES_PER_SECOND,
            clock,
        )
        # The streams up to which requests have paid, less those that were left out.
        self._last_idle_paid = self._last_reset_paid = 0
        self._frames_paid = 0

    def streams_left_out(self, count: int) -> None:
        """Take note of numbers which were used for no request, and pay for nothing."""
        self._last_idle_paid += count
        self._last_reset_paid += count

    def idle_frame(self, last_stream: int, useful_frames: int, amount: int = 1) -> None:
        """
        Take note of a frame which is of no use by itself.

        Args:
            last_stream: The number of the last request.
            useful_frames: How many frames of responses were sent.
            amount: For how many such frames it counts.

        Raises:
            ConnectionFailed: It is one too many.
        """
        requests = (last_stream - self._last_idle_paid) // 2
        frames = useful_frames - self._frames_paid
        if requests or frames:
            self._idle_frames.earn(
                requests * _IDLE_FRAMES_PER_REQUEST + frames * _IDLE_FRAMES_PER_FRAME
            )
            self._last_idle_paid += requests * 2
            self._frames_paid = useful_frames
        self._idle_frames.spend(amount)

    def lost_request(self, last_stream: int) -> None:
        """
        Take note of a request which comes to nothing.

        Raises:
            ConnectionFailed: It is one too many.
        """
        requests = (last_stream - self._last_reset_paid) // 2
        if requests:
            self._resets.earn(requests * _RESETS_PER_REQUEST)
            self._last_reset_paid += requests * 2
        self._resets.spend()
