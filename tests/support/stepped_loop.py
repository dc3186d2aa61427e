"""An event loop that runs when it is told to, on a clock which the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["SteppedLoop"]

T = TypeVar("T")

# Turns of the loop after which everything that can go on has gone on. An
# application that never waits for anything is still running then.
_TURNS = 40


class SteppedLoop(asyncio.SelectorEventLoop):
    """
    An event loop without real time.

    Timers fire when :meth:`advance` moves the clock; nothing sleeps.

    Attributes:
        errors: What went to the loop's exception handler, such as errors of
            tasks which nobody asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Tell the instant which the test has set."""
        return self._now

    def settle(self) -> None:
        """Run until whoever is left waits for something."""
        for _ in range(_TURNS):
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what is due then."""
        self._now += seconds
        self.settle()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work``, which must end without time passing, and what it causes."""
        task = self.create_task(work)
        self.settle()
        return task.result()

    def finish(self) -> None:
        """End what is still running, and see that no error went unnoticed."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        self.settle()
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()
        assert [] == self.errors
