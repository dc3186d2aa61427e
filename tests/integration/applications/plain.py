"""A plain ASGI application with a path for each thing that clients try."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from applications.gates import gate, with_gates

Event = dict[str, Any]


async def answer(
    send: Callable[[Event], Awaitable[None]],
    body: bytes,
    status: int = 200,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Send a whole response with a length."""
    length = (b"content-length", b"%d" % len(body))
    fields = [(b"content-type", b"text/plain"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Callable[[], Awaitable[Event]]) -> bytes:
    """Read the whole request body."""
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionAbortedError
        body += bytes(event["body"])
        if not event["more_body"]:
            return body


async def hello(query: dict[str, str], receive: Any, send: Any) -> None:
    """Answer at once."""
    await answer(send, f"hello {query.get('name', '')}\n".encode())


async def echo(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send the body back."""
    await answer(send, await read_body(receive))


async def refuse(query: dict[str, str], receive: Any, send: Any) -> None:
    """Answer without reading the body."""
    await answer(send, b"not wanted\n", 413)


async def wait(query: dict[str, str], receive: Any, send: Any) -> None:
    """Answer when the gate is open."""
    gate(f"{query['gate']}-begun").set()
    await gate(query["gate"]).wait()
    await answer(send, f"waited {query.get('name', '')}\n".encode())


async def turn(query: dict[str, str], receive: Any, send: Any) -> None:
    """Answer after a turn of the event loop, as most applications do."""
    await asyncio.sleep(0)
    await answer(send, f"turned {query.get('name', '')}\n".encode())


async def pieces(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send a body of unknown length in three pieces."""
    await send({"type": "http.response.start", "status": 200})
    for body in (b"one\n", b"two\n"):
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"three\n"})


async def events(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send two server-sent events, the second one when the gate is open."""
    fields = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    event = b"data: one\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": True})
    await gate(query["gate"]).wait()
    await send({"type": "http.response.body", "body": b"data: two\n\n"})


async def digest(query: dict[str, str], receive: Any, send: Any) -> None:
    """Read the body, open a gate when it begins, answer with size and checksum."""
    hashed, size, more = hashlib.sha256(), 0, True
    while more:
        event = await receive()
        hashed.update(event["body"])
        size += len(event["body"])
        more = event["more_body"]
        if size and "gate" in query:
            gate(query["gate"]).set()
    await answer(send, f"{size} {hashed.hexdigest()}".encode())


async def trailers(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send trailers after the body."""
    fields = [(b"trailer", b"checksum")]
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": fields,
            "trailers": True,
        }
    )
    await send({"type": "http.response.body", "body": b"body\n"})
    await send({"type": "http.response.trailers", "headers": [(b"checksum", b"right")]})


async def hints(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send early hints, and the response when the gate is open."""
    link = b"</style.css>; rel=preload; as=style"
    await send({"type": "http.response.early_hint", "links": [link]})
    if "gate" in query:
        await gate(query["gate"]).wait()
    await answer(send, b"hinted\n")


async def path_send(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send a file by its path."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.pathsend", "path": query["file"]})


async def zero_copy_send(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send an open file between two pieces of text."""
    with Path(query["file"]).open("rb") as file:  # noqa: ASYNC230 - nothing is read
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"<", "more_body": True})
        half = int(query["half"])
        await send(
            {
                "type": "http.response.zerocopysend",
                "file": file,
                "offset": half,
                "more_body": True,
            }
        )
        await send(
            {
                "type": "http.response.zerocopysend",
                "file": file,
                "count": half,
                "more_body": True,
            }
        )
        await send({"type": "http.response.body", "body": b">"})


async def send_forever(query: dict[str, str], receive: Any, send: Any) -> None:
    """Send until the client has gone; then open the gate."""
    try:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send(
                {"type": "http.response.body", "body": bytes(1000), "more_body": True}
            )
            await asyncio.sleep(0.01)
    except OSError:
        gate(query["gate"]).set()


PATHS = {
    "/hello": hello,
    "/echo": echo,
    "/refuse": refuse,
    "/wait": wait,
    "/turn": turn,
    "/pieces": pieces,
    "/events": events,
    "/digest": digest,
    "/trailers": trailers,
    "/hints": hints,
    "/pathsend": path_send,
    "/zerocopysend": zero_copy_send,
    "/send-forever": send_forever,
}


async def tell_and_echo(scope: Any, receive: Any, send: Any) -> None:
    """Send what the scope of a WebSocket says, then each message back."""
    await receive()
    await send({"type": "websocket.accept"})
    told = {name: scope[name] for name in ("path", "client", "scheme", "http_version")}
    await send({"type": "websocket.send", "text": json.dumps(told)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Serve the paths above, and the scope itself as JSON on all others."""
    if scope["type"] == "websocket":
        await tell_and_echo(scope, receive, send)
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    query = dict(parse_qsl(scope["query_string"].decode()))
    if scope["path"] in PATHS:
        await PATHS[scope["path"]](query, receive, send)
        return
    names = (
        "method",
        "path",
        "http_version",
        "client",
        "server",
        "scheme",
        "root_path",
    )
    told = {name: scope[name] for name in names}
    told["headers"] = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
    ]
    await answer(send, json.dumps(told).encode())


application = with_gates(plain)
