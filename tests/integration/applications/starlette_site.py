"""A Starlette application which does what such applications do."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from applications.gates import gate, with_gates
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    StreamingResponse,
)
from starlette.routing import Route

logger = logging.getLogger("site")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Leave something for the requests."""
    logger.info("The site is starting")
    yield {"made_at_startup": ["kept"]}
    logger.info("The site is stopping")


async def hello(request: Request) -> JSONResponse:
    """Tell what arrived."""
    return JSONResponse(
        {
            "name": request.query_params.get("name"),
            "http_version": request.scope["http_version"],
            "client": request.scope["client"],
            "server": request.scope["server"],
        }
    )


async def state(request: Request) -> JSONResponse:
    """Show and change what the lifespan left."""
    kept = request.state.made_at_startup
    kept.append("seen")
    before = getattr(request.state, "own", None)
    request.state.own = "set by a request"
    return JSONResponse({"kept": kept, "own": before})


async def digest(request: Request) -> JSONResponse:
    """Read the body piece by piece."""
    name = request.query_params.get("gate")
    if name is not None:
        await gate(name).wait()
    hashed, size = hashlib.sha256(), 0
    async for piece in request.stream():
        hashed.update(piece)
        size += len(piece)
    return JSONResponse({"bytes": size, "sha256": hashed.hexdigest()})


async def stream(request: Request) -> StreamingResponse:
    """Send a piece, and another one when the gate is open."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        await gate(request.query_params["gate"]).wait()
        yield b"last\n"

    return StreamingResponse(pieces(), media_type="text/plain")


async def events(request: Request) -> StreamingResponse:
    """Send server-sent events, the second one when the gate is open."""

    async def pieces() -> AsyncIterator[str]:
        yield "id: 1\nevent: tick\ndata: one\n\n"
        await gate(request.query_params["gate"]).wait()
        yield "id: 2\nevent: tick\ndata: two\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def file(request: Request) -> FileResponse:
    """Send a file, or the ranges of it that are asked for."""
    return FileResponse(request.query_params["file"])


async def duplex(request: Request) -> StreamingResponse:
    """Send back each piece of the body as soon as it has come."""

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            yield piece.upper()

    return StreamingResponse(pieces(), media_type="text/plain")


async def background(request: Request) -> PlainTextResponse:
    """Answer, and go on working until the gate is open."""
    name = request.query_params["gate"]

    async def work() -> None:
        await gate(name).wait()
        gate(f"{name}-done").set()

    return PlainTextResponse("accepted", 202, background=BackgroundTask(work))


async def broken(request: Request) -> PlainTextResponse:
    """Fail before there is a response."""
    raise RuntimeError("broken on purpose")


async def broken_stream(request: Request) -> StreamingResponse:
    """Fail in the middle of a response."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        raise RuntimeError("broken in mid-stream on purpose")

    return StreamingResponse(pieces(), media_type="text/plain")


async def stay(request: Request) -> PlainTextResponse:
    """Answer nothing, and open the gate when the client has left."""
    name = request.query_params["gate"]
    gate(f"{name}-begun").set()
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    gate(name).set()
    return PlainTextResponse("too late")


async def endless(request: Request) -> StreamingResponse:
    """Stream as long as the client stays, and open the gate when it has left."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more\n"
                await asyncio.sleep(0.01)
        finally:
            gate(request.query_params["gate"]).set()

    return StreamingResponse(pieces(), media_type="text/plain")


async def silent(request: Request) -> StreamingResponse:
    """Stream one piece and then none, until cancelled; then open the gate."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"first\n"
            await asyncio.Event().wait()
        finally:
            gate(request.query_params["gate"]).set()

    return StreamingResponse(pieces(), media_type="text/plain")


application = with_gates(
    Starlette(
        routes=[
            Route("/hello", hello),
            Route("/state", state),
            Route("/digest", digest, methods=["POST"]),
            Route("/stream", stream),
            Route("/events", events),
            Route("/file", file),
            Route("/duplex", duplex, methods=["POST"]),
            Route("/background", background),
            Route("/broken", broken),
            Route("/broken-stream", broken_stream),
            Route("/stay", stay),
            Route("/endless", endless),
            Route("/silent", silent),
        ],
        lifespan=lifespan,
    )
)
