"""
The WebSocket application under load: an echo, and a broadcast.
"""

from __future__ import annotations

import asyncio

from benchmarks.applications import Receive, Scope, Send, raw

_members: set[Send] = set()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """
    Serve WebSockets at any path; at ``/broadcast`` all get what one sends.

    To ``GET /tasks`` it tells how many tasks the server has.
    """
    if scope["type"] != "websocket":
        if scope.get("path") == "/tasks":
            await _tell_tasks(send)
        else:
            await raw(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/broadcast":
        await _broadcast(receive, send)
    else:
        await _echo(receive, send)


async def _tell_tasks(send: Send) -> None:
    body = str(len(asyncio.all_tasks())).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _broadcast(receive: Receive, send: Send) -> None:
    _members.add(send)
    try:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            for member in [*_members]:
                await member({"type": "websocket.send", "bytes": message["bytes"]})
    finally:
        _members.discard(send)
