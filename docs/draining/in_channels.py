"""A consumer of Channels which says goodbye."""

from __future__ import annotations

import asyncio

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

import daphne_like

settings.configure()


class Echo(AsyncWebsocketConsumer):
    """Echoes what comes."""

    async def connect(self) -> None:
        """Wait for the end from the beginning."""
        await self.accept()
        self.goodbye = asyncio.create_task(self.say_goodbye())

    async def disconnect(self, code: int) -> None:
        """Wait no longer."""
        self.goodbye.cancel()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Echo a message."""
        await self.send(text_data)

    async def say_goodbye(self) -> None:
        """When the server stops, tell the client to come back."""
        await daphne_like.draining()
        await self.send("back in a moment")
        await self.close(1012, "restart")


application = Echo.as_asgi()
