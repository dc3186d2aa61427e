"""A Quart application which does what such applications do."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

from applications.gates import gate, with_gates
from quart import Quart, Response, request

logger = logging.getLogger("site")
site = Quart(__name__)
# Quart's own limit is 16 MiB.
site.config["MAX_CONTENT_LENGTH"] = None


@site.before_serving
async def starting() -> None:
    """Log the start."""
    logger.info("The site is starting")


@site.after_serving
async def stopping() -> None:
    """Log the stop."""
    logger.info("The site is stopping")


@site.get("/hello")
async def hello() -> dict[str, Any]:
    """Tell what arrived."""
    scope = request.scope
    return {
        "name": request.args.get("name"),
        "http_version": scope["http_version"],
        "client": scope["client"],
        "server": scope["server"],
    }


@site.get("/threaded")
def threaded() -> dict[str, bool]:
    """Run in a thread, where blocking is allowed."""
    return {"main": threading.current_thread() is threading.main_thread()}


@site.post("/digest")
async def digest() -> dict[str, Any]:
    """Read the body piece by piece."""
    hashed, size = hashlib.sha256(), 0
    async for piece in request.body:
        hashed.update(piece)
        size += len(piece)
    return {"bytes": size, "sha256": hashed.hexdigest()}


@site.get("/stream")
async def stream() -> Response:
    """Send a piece, and another one when the gate is open."""
    name = request.args["gate"]

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        await gate(name).wait()
        yield b"last\n"

    return Response(pieces(), content_type="text/plain")


@site.get("/events")
async def events() -> Response:
    """Send server-sent events, the second one when the gate is open."""
    name = request.args["gate"]

    async def pieces() -> AsyncIterator[bytes]:
        yield b"id: 1\nevent: tick\ndata: one\n\n"
        await gate(name).wait()
        yield b"id: 2\nevent: tick\ndata: two\n\n"

    return Response(pieces(), content_type="text/event-stream")


@site.post("/duplex")
async def duplex() -> Response:
    """Send back each piece of the body as soon as it has come."""
    body = request.body

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece.upper()

    return Response(pieces(), content_type="text/plain")


@site.get("/background")
async def background() -> tuple[str, int]:
    """Answer, and go on working until the gate is open."""
    name = request.args["gate"]

    async def work() -> None:
        await gate(name).wait()
        gate(f"{name}-done").set()

    site.add_background_task(work)
    return "accepted", 202


@site.get("/broken")
async def broken() -> str:
    """Fail before there is a response."""
    raise RuntimeError("broken on purpose")


@site.get("/broken-stream")
async def broken_stream() -> Response:
    """Fail in the middle of a response."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        raise RuntimeError("broken in mid-stream on purpose")

    return Response(pieces(), content_type="text/plain")


@site.get("/stay")
async def stay() -> str:
    """Answer nothing, and open the gate when Quart has cancelled the view."""
    name = request.args["gate"]
    gate(f"{name}-begun").set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        gate(name).set()
        raise
    return ""


@site.get("/endless")
async def endless() -> Response:
    """Stream as long as the client stays, and open the gate when it has left."""
    name = request.args["gate"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more\n"
                await asyncio.sleep(0.01)
        finally:
            gate(name).set()

    return Response(pieces(), content_type="text/plain")


@site.get("/silent")
async def silent() -> Response:
    """Stream one piece and then none, until cancelled; then open the gate."""
    name = request.args["gate"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"first\n"
            await asyncio.Event().wait()
        finally:
            gate(name).set()

    return Response(pieces(), content_type="text/plain")


application = with_gates(site)
