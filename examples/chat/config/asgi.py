"""What a server serves: pages, WebSockets, and a task that runs beside them."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# First of all: it makes Django ready, and what follows imports models.
pages = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - see above
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from chat.background import Lifespan  # noqa: E402
from chat.consumers import RoomConsumer  # noqa: E402
from chat.summaries import keep_summaries  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.urls import path  # noqa: E402

sockets = URLRouter([path("ws/rooms/<int:pk>/", RoomConsumer.as_asgi())])

application = ProtocolTypeRouter(
    {
        # Also without DEBUG, so that the example needs no other server. A proxy in
        # front serves static files better.
        "http": ASGIStaticFilesHandler(pages),
        # Browsers let any site open WebSockets to any other, and send the cookies
        # along: the origin shows which site it was.
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(sockets)),
        "lifespan": Lifespan(keep_summaries),
    }
)
