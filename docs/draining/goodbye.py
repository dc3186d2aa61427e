"""A WebSocket and a stream of events which say goodbye, served by one application."""

from __future__ import annotations

import asyncio
from typing import Any

import daphne_like


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Echo what comes; when the server stops, tell the client to come back."""
    await receive()
    await send({"type": "websocket.accept"})
    end = asyncio.create_task(daphne_like.draining())
    while True:
        event = asyncio.create_task(receive())
        await asyncio.wait({event, end}, return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            event.cancel()
            break
        message = event.result()
        if message["type"] == "websocket.disconnect":
            end.cancel()
            return
        await send({"type": "websocket.send", "text": message["text"]})
    await send({"type": "websocket.send", "text": "back in a moment"})
    await send({"type": "websocket.close", "code": 1012, "reason": "restart"})


async def events(scope: Any, receive: Any, send: Any) -> None:
    """Send an event each second; when the server stops, end the stream."""
    end = asyncio.create_task(daphne_like.draining())
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while not end.done():
        event = b"data: tick\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.wait({end}, timeout=1)
    # The browser's EventSource comes back after so many milliseconds.
    await send({"type": "http.response.body", "body": b"retry: 100\n\n"})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve both."""
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        await events(scope, receive, send)
    else:
        raise NotImplementedError(scope["type"])
