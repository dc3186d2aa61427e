"""Messages and small applications, in fewer words than ASGI's."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send

__all__ = [
    "body",
    "failure_of",
    "file",
    "hint",
    "path",
    "sending",
    "start",
    "trailers",
]


def start(status: Any = 200, headers: Any = (), **more: Any) -> Message:
    """Begin a response."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": headers,
        **more,
    }


def body(data: Any = b"", *, more: Any = False) -> Message:
    """Send a piece of the body; the last one unless ``more``."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> Message:
    """Send trailers."""
    return {
        "type": "http.response.trailers",
        "headers": fields,
        "more_trailers": more,
    }


def hint(*links: bytes) -> Message:
    """Hint at what the client will need."""
    return {"type": "http.response.early_hint", "links": links}


def path(where: Any) -> Message:
    """Send a whole file."""
    return {
        "type": "http.response.pathsend",
        "path": where if where is None else str(where),
    }


def file(opened: Any, *, more: Any = False, **part: Any) -> Message:
    """Send a part of an open file."""
    return {
        "type": "http.response.zerocopysend",
        "file": opened,
        "more_body": more,
        **part,
    }


def sending(*messages: Message) -> ASGIApplication:
    """Make an application that sends these messages and returns."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return application


async def failure_of(awaitable: Awaitable[Any]) -> BaseException | None:
    """Return what an awaitable raises, so that an application can go on."""
    try:
        await awaitable
    except Exception as error:
        return error
    return None
