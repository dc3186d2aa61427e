"""
Answers of one turn of the event loop, written together at its end.

When a client, or more often the proxy in front, runs on this machine, each write
wakes it, and it reads one answer and sleeps again before the next one comes.
Waking costs the writer more than a small write does. Answers which leave together
find it awake: a server under load sends a tenth more of them.

While there is little to do nothing is held back: then both sides would only wait
for each other. Nor does an answer wait for long, see :class:`Outbox`.

Tests: ``tests/unit/listeners/test_outbox.py``.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

__all__ = ["Outbox", "Writable"]

_logger = logging.getLogger("daphne_like.server")

# So many writes in a turn are worth holding back; fewer cost more than they save.
_MANY_WRITES = 16
# After so many writes that weren't held back those of one turn are counted.
_WRITES_BETWEEN_COUNTS = 64

# What is held at most: bytes of a write, writes, and seconds.
_MOST_BYTES = 32 * 1024
_MOST_WRITES = 64
_MOST_SECONDS = 0.001
# When it becomes more seconds than this, an application has blocked the loop. Then
# nothing is held back for so many times as long.
_LATE_SECONDS = 0.004
_PENALTY = 10


class Writable(Protocol):
    """What an outbox asks of a transport."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Write at once."""

    def abortConnection(self) -> object:
        """Close at once."""


class Outbox:
    """
    The writes of many connections which wait for the end of the loop's turn.

    They wait if there were many in the turn before, and not much longer than a
    millisecond, unless an application blocks the loop meanwhile. Then nothing is held
    back for ten times as long as it did: where applications block often, an answer
    seldom waits for what others do.

    Args:
        loop: Whose turns these are.
        clock: Tells the time in seconds.

    Attributes:
        flushing: It is writing what was held back.
    """

    __slots__ = (
        "_clock",
        "_count",
        "_count_at",
        "_held",
        "_held_since",
        "_holding",
        "_immediate_until",
        "_loop",
        "_turn_ended",
        "flushing",
    )

    def __init__(
        self, loop: AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self.flushing = False
        self._holding = False
        self._held: deque[tuple[Writable, bytes]] = deque()
        # Writes of this turn; while nothing is held back, of many turns, until those
        # of one are counted.
        self._count, self._count_at = 0, _WRITES_BETWEEN_COUNTS
        # Instants: since when those which are held have been waiting; before the
        # first one in a turn, for ever.
        self._held_since = -inf
        self._turn_ended = self._immediate_until = -inf

    def write(self, transport: Writable, data: bytes) -> None:
        """Write ``data``, now or at the end of the turn, in order."""
        self._count = count = self._count + 1
        if not self._holding:
            if count == self._count_at:
                self._loop.call_soon(self._begin_count)
            transport.write(data)
            return
        now, goes_on = self._clock(), True
        if now - self._held_since > _MOST_SECONDS or not count % _MOST_WRITES:
            goes_on = self._bound(now)
        if goes_on and len(data) <= _MOST_BYTES:
            self._held.append((transport, data))
        else:
            self.flush()
            transport.write(data)

    def flush(self) -> None:
        """Write all that is held back."""
        held = self._held
        if not held:
            return
        outermost, self.flushing = not self.flushing, True
        while held:
            transport, data = held.popleft()
            try:
                transport.write(data)
            except Exception:
                _logger.exception("An answer could not be written")
                # The rest would come behind a hole.
                transport.abortConnection()
        self.flushing = not outermost

    def _bound(self, now: float) -> bool:
        """Write what has waited for long enough; tell whether more is to be held."""
        if self._count == 1:
            self._loop.call_soon(self._end_turn)
            self._count_at = 0
            # Otherwise the load is gone, and what comes now may come alone.
            self._holding = now - self._turn_ended < _LATE_SECONDS
        self._judge(now)
        self.flush()
        self._held_since = now
        return self._holding

    def _begin_count(self) -> None:
        """Count the writes of one whole turn."""
        self._count, self._count_at = 0, 0
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Write what is held back; find whether the next turn's writes are to be."""
        now = self._clock()
        self._judge(now)
        self.flush()
        self._holding = self._count >= _MANY_WRITES and now >= self._immediate_until
        self._count, self._count_at = 0, _WRITES_BETWEEN_COUNTS
        self._held_since = -inf
        self._turn_ended = now

    def _judge(self, now: float) -> None:
        """Hold nothing back for a while if an application has blocked the loop."""
        late = now - self._held_since
        if self._held and late > _LATE_SECONDS:
            self._holding = False
            self._immediate_until = now + _PENALTY * late
