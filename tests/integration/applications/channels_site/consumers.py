"""The chat's WebSockets."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer


class ChatConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc] # untyped
    """One who chats: keeps what comes, and passes it on to all."""

    groups = ("chat",)

    async def receive_json(self, content: Any, **keywords: Any) -> None:
        """Take a line."""
        from .models import Line

        await database_sync_to_async(Line.objects.create)(text=content["text"])
        await self.channel_layer.group_send("chat", {"type": "line", **content})

    async def line(self, message: dict[str, str]) -> None:
        """Show a line of anybody."""
        await self.send_json({"text": message["text"]})
