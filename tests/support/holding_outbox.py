"""An outbox in the middle of a turn that ends when the test says so."""

from __future__ import annotations

from typing import Any, cast

from daphne_like.listeners.outbox import Outbox, Writable

__all__ = ["HoldingOutbox"]


class HoldingOutbox(Outbox):
    """Holds back what may wait until it is flushed."""

    __slots__ = ("holding",)

    def __init__(self) -> None:
        super().__init__(cast("Any", None))
        self.holding = True

    def write(self, transport: Writable, data: bytes) -> None:
        """Hold ``data`` back, unless the test says not to."""
        if self.holding:
            self._held.append((transport, data))
        else:
            transport.write(data)
