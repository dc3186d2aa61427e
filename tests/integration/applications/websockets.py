"""WebSockets which do what their path says, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from daphne_like import draining

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ends: list[Message] = []


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Serve WebSockets; over HTTP, tell how the last ones ended and what is left."""
    if scope["type"] == "http":
        await _report(scope["path"], send)
        return
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    assert {"type": "websocket.connect"} == await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
    elif scope["path"] == "/answer":
        await _answer(send)
    elif scope["path"] == "/close":
        await _accept(scope, send)
        await send({"type": "websocket.close", "code": 4321, "reason": "grüezi"})
        _ends.append(await receive())
    elif scope["path"] == "/fail":
        await _accept(scope, send)
        raise RuntimeError("meant to fail")
    elif scope["path"] == "/flood":
        await _accept(scope, send)
        while True:
            await send({"type": "websocket.send", "bytes": bytes(65536)})
    elif scope["path"] == "/twice":
        await _accept(scope, send)
        for number in range(4000):
            content = str(number) if number % 100 else "x" * 200_000
            for _ in range(2):
                await send({"type": "websocket.send", "text": content})
    elif scope["path"] == "/goodbye":
        await _say_goodbye(scope, receive, send)
    else:
        await _echo(scope, receive, send)


async def _accept(scope: Message, send: Send) -> None:
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": next(iter(scope["subprotocols"]), None),
            "headers": [(b"x-path", scope["raw_path"])],
        }
    )


async def _answer(send: Send) -> None:
    start = {"type": "websocket.http.response.start", "status": 418, "headers": []}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b"a teapot"})


async def _echo(scope: Message, receive: Receive, send: Send) -> None:
    await _accept(scope, send)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            _ends.append(message)
            return
        await send({**message, "type": "websocket.send"})


async def _say_goodbye(scope: Message, receive: Receive, send: Send) -> None:
    """Echo, and when the server stops tell where to go, and close."""
    await _accept(scope, send)
    end = asyncio.create_task(draining())
    while True:
        event = asyncio.ensure_future(receive())
        await asyncio.wait((event, end), return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            event.cancel()
            break
        await send({**event.result(), "type": "websocket.send"})
    await send({"type": "websocket.send", "text": "come back"})
    _ends.append(await receive())
    await send({"type": "websocket.close", "code": 4001})


async def _report(path: str, send: Send) -> None:
    """Tell the ends at ``/ends``, and how many tasks there are at ``/tasks``."""
    if path == "/ends":
        body = json.dumps(_ends)
        _ends.clear()
    else:
        gc.collect()
        body = str(len(asyncio.all_tasks()))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
