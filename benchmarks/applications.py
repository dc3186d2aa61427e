"""
The plain ASGI application behind the raw workloads.

It is what the usual example of an ASGI application does, by path: ``/`` and whatever
begins with ``/pages/`` answer 13 bytes, ``/10k`` 10 KB, ``/16k`` 16 KB, ``/size`` how
long the body of the request is, ``/echo`` that body. Each answer names its type and
length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.browser import PATH_PREFIX

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SMALL_BODY = b"Hello, world!"
LARGE_BODY = b"0123456789abcdef" * 640
BODY_OF_16K = b"0123456789abcdef" * 1024

_FIXED_BODIES = {"/": SMALL_BODY, "/10k": LARGE_BODY, "/16k": BODY_OF_16K}


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request, or follow the lifespan."""
    if scope["type"] == "lifespan":
        await _follow_lifespan(receive, send)
        return
    body = _FIXED_BODIES.get(scope["path"])
    if body is None:
        body = await _answer_to(scope["path"], receive)
        if body is None:
            return
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/plain"),
                (b"content-length", str(len(body)).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _answer_to(path: str, receive: Receive) -> bytes | None:
    """Return the body of the answer, None if the client went away before."""
    if path.startswith(PATH_PREFIX):
        return SMALL_BODY
    if path == "/size":
        return await _request_size(receive)
    return await _request_body(receive)


async def _request_size(receive: Receive) -> bytes | None:
    """Count the body of the request without keeping it, None as above."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return str(size).encode()


async def _request_body(receive: Receive) -> bytes | None:
    """Return the whole body of the request, None if the client went away before."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _follow_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
