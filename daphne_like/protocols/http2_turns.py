"""
Whose turn it is to send, of the streams of one connection.

The more urgent go first. Of streams that are as urgent as each other, one goes on until
it has nothing to send, or takes turns with the others if its client said so or said
nothing.

Source: RFC 9218 section 10.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daphne_like.protocols.http2_stream import HTTP2Stream
    from daphne_like.protocols.interfaces import Priority

__all__ = ["Turns"]


class Turns:
    """Streams that wait for their turn: a line for each urgency."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[int, deque[HTTP2Stream]] = {}

    def __len__(self) -> int:
        """Count those who wait."""
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        """Tell whether anybody waits."""
        return bool(self._lines)

    def add(self, stream: HTTP2Stream) -> None:
        """Let a stream wait, if it doesn't already."""
        if not stream.queued:
            stream.queued = True
            self._lines.setdefault(stream.priority.urgency, deque()).append(stream)

    def remove(self, stream: HTTP2Stream) -> None:
        """Let a stream wait no longer."""
        if stream.queued:
            stream.queued = False
            line = self._lines[stream.priority.urgency]
            line.remove(stream)
            if not line:
                del self._lines[stream.priority.urgency]

    def first(self) -> HTTP2Stream:
        """Tell whose turn it is; somebody has to wait."""
        return self._lines[min(self._lines)][0]

    def taken(self, stream: HTTP2Stream) -> None:
        """Note that the first has had its turn, and wants another one."""
        if stream.priority.incremental:
            self._lines[stream.priority.urgency].rotate(-1)

    def prioritize(self, stream: HTTP2Stream, priority: Priority) -> None:
        """Change how urgent a stream is."""
        waits = stream.queued
        self.remove(stream)
        stream.priority = priority
        if waits:
            self.add(stream)

    def clear(self) -> None:
        """Forget all: the connection is over."""
        self._lines.clear()
