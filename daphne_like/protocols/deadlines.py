"""
One wheel of deadlines for all connections of a process.

A timer per request costs as much as parsing the request. Here a connection
keeps its deadlines as plain numbers; it stands in exactly one slot of the
wheel, which is visited once a second. A deadline that moves to a *later*
instant, as the keep-alive deadline does with each request, costs nothing: the
visit finds that it isn't due and moves the connection on. Only an *earlier*
deadline asks for a call of :meth:`DeadlineWheel.schedule`.

Deadlines are kept to a tick: never early, and told at the first tick in the
second after them at the latest.

Tests: ``tests/unit/protocols/test_deadlines.py``.
"""

from __future__ import annotations

import logging
from math import ceil, inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DeadlineHolder", "DeadlineWheel"]

_logger = logging.getLogger("daphne_like.server")


class DeadlineHolder(Protocol):
    """
    Something with deadlines.

    Attributes:
        covered_from: Deadlines from this instant on are found in time without
            scheduling; ``inf`` when it isn't on the wheel. Written by the
            wheel alone.
    """

    covered_from: float

    def next_deadline(self) -> float:
        """Tell the earliest deadline, ``inf`` when there is none."""

    def deadline_passed(self, now: float) -> None:
        """Do what is due at ``now``; may schedule again."""


class DeadlineWheel:
    """
    Keeps the deadlines of its holders, to the second.

    Attributes:
        clock: Tells the instant.
        now: The instant of the last tick, for those to whom that is enough.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._slots: dict[int, dict[DeadlineHolder, None]] = {}
        self.now = clock()
        self._visited = int(self.now)

    def schedule(self, holder: DeadlineHolder, deadline: float) -> None:
        """
        See to it that ``holder`` is looked at when ``deadline`` has passed.

        Call it only when ``deadline < holder.covered_from``.
        """
        self.remove(holder)
        slot = max(ceil(deadline), self._visited + 1)
        # It is looked at in this slot; what falls due in the second before
        # is found then.
        holder.covered_from = slot - 1
        self._slots.setdefault(slot, {})[holder] = None

    def remove(self, holder: DeadlineHolder) -> None:
        """Forget ``holder``, which need not be on the wheel."""
        if holder.covered_from != inf:
            del self._slots[int(holder.covered_from) + 1][holder]
            holder.covered_from = inf

    def tick(self) -> None:
        """Visit all slots up to this instant; to be called once a second."""
        self.now = now = self.clock()
        self._visited = int(now)
        for slot in sorted(slot for slot in self._slots if slot <= now):
            holders = self._slots[slot]
            while holders:
                # A holder may remove others of the same slot meanwhile.
                holder, _ = holders.popitem()
                holder.covered_from = inf
                deadline = holder.next_deadline()
                if deadline <= now:
                    self._tell(holder, now)
                elif deadline != inf:
                    self.schedule(holder, deadline)
            del self._slots[slot]

    def _tell(self, holder: DeadlineHolder, now: float) -> None:
        """Tell one holder; a fault in it must not cost others their deadlines."""
        try:
            holder.deadline_passed(now)
        except Exception:
            _logger.exception("A deadline could not be kept")

    def __len__(self) -> int:
        """Count the holders on the wheel."""
        return sum(map(len, self._slots.values()))
