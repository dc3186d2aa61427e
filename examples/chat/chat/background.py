"""Tasks which run as long as the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Lifespan:
    """
    Runs tasks beside requests, by ASGI's lifespan protocol.

    They begin before the first request, and are cancelled and waited for after the
    last one. With several server processes, each runs them.

    Args:
        functions: Each makes a task; it should run until it is cancelled.
    """

    def __init__(self, *functions: Callable[[], Any]) -> None:
        self._functions = functions

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve the lifespan, which begins and ends with the server."""
        await receive()  # lifespan.startup
        tasks = [asyncio.create_task(function()) for function in self._functions]
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()  # lifespan.shutdown
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})
