"""A WebSocket of FastAPI which says goodbye."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, WebSocket

import daphne_like

application = FastAPI()


@application.websocket("/")
async def echo(websocket: WebSocket) -> None:
    """Echo what comes."""
    await websocket.accept()
    goodbye = asyncio.create_task(say_goodbye(websocket))
    try:
        async for text in websocket.iter_text():
            await websocket.send_text(text)
    finally:
        goodbye.cancel()


async def say_goodbye(websocket: WebSocket) -> None:
    """When the server stops, tell the client to come back."""
    await daphne_like.draining()
    await websocket.send_text("back in a moment")
    await websocket.close(1012, "restart")
