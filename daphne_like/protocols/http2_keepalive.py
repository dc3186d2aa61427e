"""
Whether a silent peer of HTTP/2 is still there: asked with PING, while requests are open.

Source: RFC 9113 section 6.7.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from daphne_like.protocols.http2_frames import FrameType, frame

if TYPE_CHECKING:
    from daphne_like.protocols.http2_output import Output
    from daphne_like.settings import HTTP2Settings

__all__ = ["KeepAlive"]

_PING = b"are you?"


class KeepAlive:
    """
    Asks a peer of which nothing has come for ``http2_ping_interval``.

    Whatever comes then is an answer, not only that to PING.

    Attributes:
        heard: When anything came last.
    """

    __slots__ = ("_deadline", "_options", "_output", "heard")

    def __init__(self, options: HTTP2Settings, output: Output) -> None:
        self._options = options
        self._output = output
        self.heard = 0.0
        # Of the answer, when one is awaited.
        self._deadline = inf

    def next_deadline(self) -> float:
        """Tell when to look at it again, ``inf`` when that is never."""
        if self._deadline != inf:
            return self._deadline
        interval = self._options.http2_ping_interval
        return self.heard + interval if interval else inf

    def is_gone(self, now: float) -> bool:
        """Ask a silent peer whether it is there, and tell of one that isn't."""
        options = self._options
        if self._output.congested:
            # A PING would wait behind all the rest. What the peer takes of that has a
            # deadline of its own.
            self.heard, self._deadline = now, inf
        elif self._deadline <= now:
            if self.heard < self._deadline - options.http2_ping_timeout:
                return True
            self._deadline = inf
        elif self._deadline == inf and 0 < options.http2_ping_interval <= (
            now - self.heard
        ):
            self._deadline = now + options.http2_ping_timeout
            self._output.put(frame(FrameType.PING, 0, 0, _PING))
        return False

    def cancel(self) -> None:
        """Await no answer any more."""
        self._deadline = inf
