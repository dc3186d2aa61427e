"""
Events in the server process which one request waits for and another one sets.

Tests steer their applications with them instead of sleeping: an application
waits at a gate in mid-response, say, and the test opens the gate when it has
seen what was sent before it. ``POST /gates/NAME`` opens one, ``GET /gates/NAME``
answers when it is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Application = Callable[[Any, Any, Any], Awaitable[None]]

_gates: dict[str, asyncio.Event] = {}


def gate(name: str) -> asyncio.Event:
    """Return the gate of that name, which is shut until somebody opens it."""
    return _gates.setdefault(name, asyncio.Event())


def with_gates(application: Application) -> Application:
    """Serve the gates beside an application."""

    async def application_with_gates(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/gates/"):
            await application(scope, receive, send)
            return
        chosen = gate(scope["path"].removeprefix("/gates/"))
        if scope["method"] == "POST":
            chosen.set()
        else:
            await chosen.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    return application_with_gates
