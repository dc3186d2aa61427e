"""
An ASGI application in a tree of ``twisted.web``: ``python tree.py``.

``/`` and ``/time`` are resources of Twisted, and all below ``/app`` is the application:
``/app/hello`` answers, ``/app/echo`` is a WebSocket. The application knows its place
from ``root_path``.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

# Before anything imports the reactor.
from daphne_like.reactor import install

install()

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import Site

from daphne_like.resource import ASGIResource

WEB = os.environ.get("TREE_WEB", "tcp:8000:interface=127.0.0.1")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what the lifespan has prepared, or echo."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["greeting"] = "hello"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
    else:
        place = scope["path"].removeprefix(scope["root_path"])
        text = f"{scope['state']['greeting']} from {place} below {scope['root_path']}\n"
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


class Time(Resource):
    """Tells the time."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """Answer."""
        request.setHeader(b"content-type", b"text/plain")
        return f"{time.ctime()}\n".encode()


class Root(Resource):
    """What is above the others."""

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Be the resource of ``/`` oneself."""
        return self if not path else super().getChild(path, request)

    def render_GET(self, request: Any) -> bytes:
        """Show the way."""
        return b'<a href="/time">time</a> <a href="/app/hello">hello</a>'


def main() -> None:
    """Serve until a signal comes."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    mounted = ASGIResource(application)
    root = Root()
    root.putChild(b"time", Time())
    root.putChild(b"app", mounted)

    services = MultiService()
    # The life of the application: its lifespan, and the end of what is in flight.
    mounted.service.setServiceParent(services)
    StreamServerEndpointService(
        serverFromString(reactor, WEB), Site(root)
    ).setServiceParent(services)
    services.startService()
    reactor.addSystemEventTrigger("before", "shutdown", services.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
