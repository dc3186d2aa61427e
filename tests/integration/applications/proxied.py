"""An application that tells whom it sees behind proxies."""

from __future__ import annotations

import json
from typing import Any

# Clients of all requests so far, by path.
_seen: dict[str, list[Any]] = {}


def tell(scope: Any) -> str:
    """Put what proxies may change into JSON; bytes become text."""
    names = ("type", "http_version", "client", "server", "scheme", "path", "root_path")
    told = {name: scope[name] for name in names}
    told["headers"] = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
    ]
    told["tls"] = scope["extensions"].get("tls")
    told["proxy"] = scope["extensions"].get("proxy_protocol")
    return json.dumps(told, default=lambda value: value.decode("latin-1"))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Tell of the request, or of earlier ones to ``/seen?path``."""
    if scope["type"] == "websocket":
        await talk(scope, receive, send)
        return
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/seen":
        text = json.dumps(_seen.get(scope["query_string"].decode(), []))
    else:
        text = tell(scope)
    _seen.setdefault(scope["path"], []).append(scope["client"])
    body = text.encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def talk(scope: Any, receive: Any, send: Any) -> None:
    """Tell of the handshake, then send each message back."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": tell(scope)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
