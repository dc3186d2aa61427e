"""
Types of ASGI scopes, messages and applications.

Messages are plain dicts on the wire between server and application; they are
typed loosely here because applications may add keys of their own (ASGI:
surplus keys never raise).

Source: ASGI core 3.0, HTTP & WebSocket 2.5, Lifespan 2.0.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

__all__ = ["ASGIApplication", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
