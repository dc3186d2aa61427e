"""The project's ASGI application."""

from __future__ import annotations

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from .consumers import ChatConsumer  # noqa: E402 - Django is set up now

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(
            URLRouter([path("ws/chat", ChatConsumer.as_asgi())])
        ),
    }
)
