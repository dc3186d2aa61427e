"""An application that tells what it sees of TLS."""

from __future__ import annotations

import hashlib
import json
from typing import Any


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the extension, or with the hash of what was uploaded."""
    if scope["type"] == "websocket":
        await talk(scope, receive, send)
        return
    if scope["type"] == "lifespan":
        return
    body, more, hashed, size = b"", True, hashlib.sha256(), 0
    while more:
        message = await receive()
        more = message.get("more_body", False)
        hashed.update(message.get("body", b""))
        size += len(message.get("body", b""))
    if scope["path"] == "/upload":
        body = f"{size} {hashed.hexdigest()}".encode()
    elif scope["path"] == "/download":
        body = bytes(range(256)) * (int(scope["query_string"]) // 256)
    elif scope["path"] == "/file":
        await send_file(scope, send)
        return
    elif scope["path"] == "/refuse":
        body = b"no"
    else:
        body = tell(scope)
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def send_file(scope: Any, send: Any) -> None:
    """Send this file."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.pathsend", "path": __file__})


def tell(scope: Any) -> bytes:
    """Put what concerns TLS into JSON."""
    tls = scope["extensions"].get("tls")
    return json.dumps({"scheme": scope["scheme"], "tls": tls}).encode()


async def talk(scope: Any, receive: Any, send: Any) -> None:
    """Send the extension, then echo."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": tell(scope).decode()})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
