"""
The project of Django and Channels behind the workloads ``channels-get`` and ``channels-64``.

A project in one module: no middleware, no database, an asynchronous view and a
consumer. It answers as the application of the other workloads does, so that it goes
through the soak, too.
"""

from __future__ import annotations

import asyncio

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.applications import SMALL_BODY


def answer(body: bytes) -> HttpResponse:
    """Make a response whose length is told, as by Django's usual middleware."""
    return HttpResponse(
        body, content_type="text/plain", headers={"Content-Length": str(len(body))}
    )


async def hello(_request: HttpRequest) -> HttpResponse:
    """Answer a short text."""
    return answer(SMALL_BODY)


async def echo(request: HttpRequest) -> HttpResponse:
    """Answer the request's body."""
    return answer(request.body)


async def tasks(_request: HttpRequest) -> HttpResponse:
    """Tell how many tasks the server has."""
    return answer(str(len(asyncio.all_tasks())).encode())


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Sends back what it receives."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Send it back."""
        await self.send(text_data=text_data, bytes_data=bytes_data)


urlpatterns = [path("", hello), path("echo", echo), path("tasks", tasks)]

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no worth: this project holds no secret",
)

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("echo", Echo.as_asgi())]),
    }
)
