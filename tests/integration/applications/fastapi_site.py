"""A FastAPI application which does what such applications do."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from applications.gates import gate, with_gates
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Leave something for the requests."""
    logger.info("The site is starting")
    yield {"made_at_startup": ["kept"]}
    logger.info("The site is stopping")


logger = logging.getLogger("site")
site = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    """What clients send as JSON."""

    title: str
    count: int = 1


async def first_name(name: str = "nobody") -> str:
    """Give a name, as a dependency."""
    return name


@site.get("/hello")
async def hello(
    request: Request, name: Annotated[str, Depends(first_name)]
) -> dict[str, Any]:
    """Tell what arrived."""
    return {
        "name": name,
        "http_version": request.scope["http_version"],
        "client": request.scope["client"],
        "server": request.scope["server"],
    }


@site.get("/state")
async def state(request: Request) -> dict[str, Any]:
    """Show and change what the lifespan left."""
    kept = request.state.made_at_startup
    kept.append("seen")
    before = getattr(request.state, "own", None)
    request.state.own = "set by a request"
    return {"kept": kept, "own": before}


@site.put("/orders/{number}")
async def put_order(number: int, order: Order) -> dict[str, Any]:
    """Take validated JSON."""
    return {"number": number, **order.model_dump()}


@site.get("/threaded")
def threaded() -> dict[str, bool]:
    """Run in a thread, where blocking is allowed."""
    return {"main": threading.current_thread() is threading.main_thread()}


@site.post("/digest")
async def digest(request: Request) -> dict[str, Any]:
    """Read the body piece by piece."""
    hashed, size = hashlib.sha256(), 0
    async for piece in request.stream():
        hashed.update(piece)
        size += len(piece)
    return {"bytes": size, "sha256": hashed.hexdigest()}


@site.get("/stream")
async def stream(request: Request) -> StreamingResponse:
    """Send a piece, and another one when the gate is open."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        await gate(request.query_params["gate"]).wait()
        yield b"last\n"

    return StreamingResponse(pieces(), media_type="text/plain")


@site.get("/events")
async def events(request: Request) -> StreamingResponse:
    """Send server-sent events, the second one when the gate is open."""

    async def pieces() -> AsyncIterator[str]:
        yield "id: 1\nevent: tick\ndata: one\n\n"
        await gate(request.query_params["gate"]).wait()
        yield "id: 2\nevent: tick\ndata: two\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


@site.post("/duplex")
async def duplex(request: Request) -> StreamingResponse:
    """Send back each piece of the body as soon as it has come."""

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            yield piece.upper()

    return StreamingResponse(pieces(), media_type="text/plain")


@site.get("/background", status_code=202)
async def background(request: Request, tasks: BackgroundTasks) -> str:
    """Answer, and go on working until the gate is open."""
    name = request.query_params["gate"]

    async def work() -> None:
        await gate(name).wait()
        gate(f"{name}-done").set()

    tasks.add_task(work)
    return "accepted"


@site.get("/broken")
async def broken() -> None:
    """Fail before there is a response."""
    raise RuntimeError("broken on purpose")


@site.get("/broken-stream")
async def broken_stream() -> StreamingResponse:
    """Fail in the middle of a response."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        raise RuntimeError("broken in mid-stream on purpose")

    return StreamingResponse(pieces(), media_type="text/plain")


@site.get("/stay")
async def stay(request: Request) -> str:
    """Answer nothing, and open the gate when the client has left."""
    name = request.query_params["gate"]
    gate(f"{name}-begun").set()
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    gate(name).set()
    return "too late"


@site.get("/endless")
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


application = with_gates(site)
