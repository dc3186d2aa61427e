"""Coroutines of a test on each kind of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from server_process import LOOPS

from daphne_like.reactor import new_event_loop

__all__ = ["LOOPS", "run_on"]

# In which a scenario must end: nothing in it waits for time.
_TIMEOUT = 20.0


def run_on(kind: str, scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario on a new event loop, to its end."""
    loop = new_event_loop(kind)
    try:
        loop.run_until_complete(asyncio.wait_for(scenario, _TIMEOUT))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
