"""
What keeps a worker whose supervisor has died from living on, whatever it is doing.

The channel's end of file tells a worker that it is alone, and it drains. But that is
heard by its event loop, which the application may block. So Linux is asked to send a
signal when the supervisor dies, whose handler runs in the middle of anything that is
Python; elsewhere a worker hears of it when its loop turns again. From then on a thread
in C, which needs no interpreter, ends the process when it would have been killed by
its supervisor.

Tests: ``tests/unit/supervisor/test_orphan.py``, ``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING

from daphne_like.supervisor.orders import BEAT_INTERVAL
from daphne_like.winding_down import longest_stop

if TYPE_CHECKING:
    from daphne_like.settings import Settings

__all__ = ["STOP_RESERVE", "LastResort", "signal_of_orphans"]

STOP_RESERVE = 5.0
"""What the end of a worker takes beyond its own deadlines, in seconds."""

# prctl(2).
_PR_SET_PDEATHSIG = 1

# What is longer is for ever.
_LONGEST_TIMEOUT = 1e9


def signal_of_orphans(number: int, supervisor: int) -> bool:
    """
    Let the system send this process a signal when its supervisor dies, if it can.

    A program which this process starts doesn't inherit that, nor does a fork.

    Args:
        number: Of the signal.
        supervisor: Process id of the parent.

    Returns:
        Whether the supervisor was still there.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    # It may have died before.
    return os.getppid() == supervisor


class LastResort:
    """
    Ends a worker which its supervisor can't end any more.

    By the same rules: when its event loop has been silent for too long, and when its
    deadlines are over.

    Args:
        settings: Have these times.
    """

    def __init__(self, settings: Settings) -> None:
        self._parent = os.getppid()
        self._output = _output()
        silence = settings.workers.timeout_worker_healthcheck or inf
        # A beat is no more than that: it may turn from one to the next.
        self._longest_silence = BEAT_INTERVAL + silence
        self._longest_stop = longest_stop(settings) + STOP_RESERVE
        self._end_by = inf
        self._beats = False
        self.is_needed = False

    @property
    def is_orphan(self) -> bool:
        """Whether the supervisor has died."""
        return os.getppid() != self._parent

    def begin(self) -> None:
        """Take note that the supervisor has died; also in a handler of a signal."""
        if not self.is_needed:
            self.is_needed = True
            self._end_by = time.monotonic() + self._longest_stop
            self._wind()

    def beat(self) -> None:
        """Take note that the event loop turns: from now on its silence counts."""
        self._beats = True
        if self.is_needed:
            self._wind()

    def loop_ended(self) -> None:
        """Take note that the event loop turns no more, in good order."""
        self._beats = False
        if self.is_needed:
            self._end_by = min(self._end_by, time.monotonic() + STOP_RESERVE)
            self._wind()

    def _wind(self) -> None:
        """Set the time again, like that of an alarm clock."""
        left = max(self._end_by - time.monotonic(), 0.001)
        timeout = min(left, self._longest_silence if self._beats else inf)
        if timeout < _LONGEST_TIMEOUT:
            # Nobody else hears what it was doing then.
            faulthandler.dump_traceback_later(timeout, exit=True, file=self._output)


def _output() -> int:
    """Return where messages go; the number of stderr may be anything's if it has none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return os.open(os.devnull, os.O_WRONLY)
