"""
Whether a SIGHUP comes from a terminal that is closed, or from an operator.

Tests: ``tests/unit/supervisor/test_terminal.py``, ``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from math import inf

__all__ = ["Terminal"]

# The end of a terminal and the signal for that come together. What comes later comes
# from somebody who has not forgotten the server that was left to itself.
_TOGETHER = 5.0


def _is_there() -> bool:
    """Whether there is a terminal which controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Terminal:
    """
    The one in which the server was started, if it was.

    Args:
        clock: Monotonic seconds.
        is_there: Tells whether there is one.
    """

    def __init__(
        self, clock: Callable[[], float], is_there: Callable[[], bool] = _is_there
    ) -> None:
        self._clock = clock
        self._is_there = is_there
        # Who has used nohup wants it to go on.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._gone_since = inf if not ignored and is_there() else -inf

    def look(self) -> None:
        """Notice, once a second, that it has gone."""
        if self._gone_since == inf and not self._is_there():
            self._gone_since = self._clock()

    def has_hung_up(self) -> bool:
        """Whether a SIGHUP which comes now says that it has gone."""
        self.look()
        return 0 <= self._clock() - self._gone_since < _TOGETHER
