"""
The WebSockets of the demo: an echo, and a broadcast to all who are there.

Tests: ``tests/unit/test_demo.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daphne_like.asgi.types import Receive, Send
    from daphne_like.demo import DemoLimits

__all__ = ["WebSockets"]

# RFC 6455 section 7.4.1, and the registry of close codes.
_POLICY, _TOO_LARGE, _TRY_LATER = 1008, 1009, 1013


class _Rate:
    """How many messages a client may still send; refilled as time goes by."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second
        self._at = clock()

    def take(self) -> bool:
        """Count a message; False when it is one too many."""
        now = self._clock()
        refill = (now - self._at) * self._per_second
        self._left = min(self._per_second, self._left + refill)
        self._at = now
        self._left -= 1
        return self._left >= 0


class WebSockets:
    """
    Serves ``/echo`` and ``/live``.

    Args:
        limits: What to spend at most.
        clock: Monotonic time in seconds.
    """

    def __init__(self, limits: DemoLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._members: dict[int, asyncio.Queue[str | None]] = {}
        self._last_number = 0

    async def serve(self, path: str, receive: Receive, send: Send) -> None:
        """Serve one WebSocket, or refuse it with 403."""
        await receive()
        # The client may leave at any time (ASGI WebSocket, disconnected client).
        with suppress(OSError):
            if path == "/echo":
                await send({"type": "websocket.accept"})
                await self._echo(receive, send)
            elif path == "/live":
                await send({"type": "websocket.accept"})
                await self._live(receive, send)
            else:
                await send({"type": "websocket.close"})

    async def _echo(self, receive: Receive, send: Send) -> None:
        """Send each text back."""
        async for text in self._texts(receive, send):
            await send({"type": "websocket.send", "text": text})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Let all know who is there, and what each says."""
        if len(self._members) >= self._limits.members:
            await send({"type": "websocket.close", "code": _TRY_LATER})
            return
        self._last_number += 1
        number = self._last_number
        news: asyncio.Queue[str | None] = asyncio.Queue(self._limits.unread_news)
        self._members[number] = news
        teller = asyncio.ensure_future(self._tell(news, send))
        try:
            self._announce({"you": number, "members": len(self._members)})
            async for text in self._texts(receive, send):
                self._announce({"from": number, "text": text})
        finally:
            self._members.pop(number, None)
            self._announce({"members": len(self._members)})
            teller.cancel()

    async def _tell(self, news: asyncio.Queue[str | None], send: Send) -> None:
        """Pass the news on to one member, as fast as that one reads."""
        with suppress(OSError):
            while (text := await news.get()) is not None:
                await send({"type": "websocket.send", "text": text})
            await send({"type": "websocket.close", "code": _TRY_LATER})

    def _announce(self, event: dict[str, Any]) -> None:
        text = json.dumps(event)
        for number, news in [*self._members.items()]:
            if news.full():
                # Too slow to follow: the others are not to wait.
                del self._members[number]
                news.get_nowait()
                news.put_nowait(None)
            else:
                news.put_nowait(text)

    async def _texts(self, receive: Receive, send: Send) -> Any:
        """Yield what a client says, as long as it keeps to the limits."""
        rate = _Rate(self._limits.messages_per_second, self._clock)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            code = 0
            if text is None or not rate.take():
                code = _POLICY
            elif len(text) > self._limits.message_characters:
                code = _TOO_LARGE
            if code:
                await send({"type": "websocket.close", "code": code})
                return
            yield text
