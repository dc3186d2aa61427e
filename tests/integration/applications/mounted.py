"""
An application in a tree of ``twisted.web``: ``python -m applications.mounted ENDPOINT``.

It is mounted at ``/outer/inner``, and ``/twisted`` is a resource of Twisted's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from typing import Any

from daphne_like.reactor import install

install()

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor  # noqa: TID251 - it is there
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site

from daphne_like.resource import ASGIResource

# What became of floods.
floods = {"bytes": 0, "ended": 0}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Try what connections can bear."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    path = scope["path"].removeprefix(scope["root_path"])
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
    elif path == "/digest":
        hashed, more = hashlib.sha256(), True
        while more:
            event = await receive()
            hashed.update(event["body"])
            more = event["more_body"]
        await answer(send, hashed.hexdigest().encode())
    elif path == "/flood":
        await flood(send)
    elif path == "/half":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
    elif path == "/floods":
        await answer(send, json.dumps(floods).encode())
    else:
        names = ("method", "path", "root_path", "scheme", "http_version")
        told = {name: scope[name] for name in names}
        told["tls"] = scope["extensions"].get("tls", {}).get("tls_version")
        await answer(send, json.dumps(told).encode())


async def answer(send: Any, body: bytes) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def flood(send: Any) -> None:
    """Send until the client has gone."""
    piece = {"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True}
    await send({"type": "http.response.start", "status": 200})
    try:
        while True:
            await send(piece)
            floods["bytes"] += 64 * 1024
    except OSError:
        floods["ended"] += 1


class Page(Resource):
    """Answers for itself."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        """Answer."""
        return b"twisted"


def main(endpoint: str) -> None:
    """Serve until a signal comes."""
    core: Any = reactor
    resource = ASGIResource(application)
    root, outer = Resource(), Resource()
    root.putChild(b"twisted", Page())  # type: ignore[no-untyped-call]
    root.putChild(b"outer", outer)
    outer.putChild(b"inner", resource)
    services: Any = MultiService()
    resource.service.setServiceParent(services)  # type: ignore[no-untyped-call]
    web: Any = StreamServerEndpointService(serverFromString(core, endpoint), Site(root))
    web.setServiceParent(services)
    services.startService()
    host = web._waitingForPort.result.getHost()
    print(f"Listening on http://{host.host}:{host.port}", flush=True)
    core.addSystemEventTrigger("before", "shutdown", services.stopService)
    core.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(sys.argv[1])
