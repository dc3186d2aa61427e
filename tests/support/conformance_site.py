"""
The ASGI application that conformance cases are run against.

====================  =====================================================
``/``                 reads the body, then answers ``hello``
``/large``            answers a mebibyte, and reads nothing of the body
``/echo``             reads the body, then answers with it
``/scope``            answers what the server told of the request, as JSON
``/empty``            answers 204
``/not-modified``     answers 304
``/hints``            answers 103, then ``hello``
``/trailers``         answers ``hello``, and a trailer
====================  =====================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from daphne_like.asgi.types import Message, Receive, Scope, Send

__all__ = ["HELLO", "LARGE_BYTES", "application"]

HELLO = b"hello"
LARGE_BYTES = 1024 * 1024

_PIECE_BYTES = 64 * 1024

_Fields = Sequence[tuple[bytes, bytes]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the path says."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    if scope["type"] != "http":
        # WebSockets are another suite's.
        return
    path = scope["path"]
    if path == "/large":
        await _answer_at_length(send)
        return
    body = await _read(receive)
    if path == "/":
        await _answer(send, HELLO)
    elif path == "/echo":
        await _answer(send, body)
    elif path == "/scope":
        await _answer(send, _told(scope))
    elif path == "/empty":
        await _answer(send, b"", 204)
    elif path == "/not-modified":
        await _answer(send, b"", 304, [(b"etag", b'"1"')])
    elif path == "/hints":
        links = [b"</style.css>; rel=preload; as=style"]
        await send({"type": "http.response.early_hint", "links": links})
        await _answer(send, HELLO)
    elif path == "/trailers":
        await _answer_with_trailers(send)
    else:
        await _answer(send, b"", 404)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _read(receive: Receive) -> bytes:
    body = b""
    message: Message = {"more_body": True}
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answer(
    send: Send, body: bytes, status: int = 200, fields: _Fields = ()
) -> None:
    headers = [*fields]
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _answer_at_length(send: Send) -> None:
    """Answer in pieces, so that the client's window decides how long it takes."""
    length = (b"content-length", b"%d" % LARGE_BYTES)
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    for _ in range(LARGE_BYTES // _PIECE_BYTES):
        piece = bytes(_PIECE_BYTES)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def _answer_with_trailers(send: Send) -> None:
    headers = [(b"trailer", b"x-checksum")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    await send({**start, "trailers": True})
    await send({"type": "http.response.body", "body": HELLO})
    trailers = [(b"x-checksum", b"1234")]
    await send({"type": "http.response.trailers", "headers": trailers})


def _told(scope: Scope) -> bytes:
    told = {name: scope[name] for name in ("method", "scheme", "http_version", "path")}
    told["query"] = scope["query_string"].decode()
    told["headers"] = [
        [name.decode("latin-1"), value.decode("latin-1")]
        for name, value in scope["headers"]
    ]
    return json.dumps(told).encode()
