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

__all__ = ["Budget"]


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
