"""The ASGI application with Channels."""

from __future__ import annotations

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Sends back what it receives."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Send it back."""
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Closed(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Accepts nobody."""

    async def connect(self) -> None:
        """Refuse."""
        await self.close()


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(
            URLRouter([path("echo", Echo.as_asgi()), path("closed", Closed.as_asgi())])
        ),
    }
)
