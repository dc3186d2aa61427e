"""
The application behind several workers: each tells when it begins.

Beside what ``websocket_applications`` serves, ``/slow`` answers after a while, so that
there are always requests under way.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks.applications import SMALL_BODY, Receive, Scope, Send
from benchmarks.websocket_applications import application as others

BEGUN_DIRECTORY = "BENCHMARKS_BEGUN"
"""Variable: where each worker leaves a file with its process id as name."""

_SLOW_SECONDS = 0.3


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one scope; see above."""
    if scope["type"] == "lifespan":
        _tell_of_beginning()
    if scope["type"] == "http" and scope["path"] == "/slow":
        await _answer_slowly(send)
    else:
        await others(scope, receive, send)


def _tell_of_beginning() -> None:
    """Write the time, which the harness compares with its own: the clock is one."""
    directory = Path(os.environ[BEGUN_DIRECTORY])
    unfinished = directory / f".{os.getpid()}"
    unfinished.write_text(str(time.monotonic()))
    unfinished.rename(directory / str(os.getpid()))


async def _answer_slowly(send: Send) -> None:
    await asyncio.sleep(_SLOW_SECONDS)
    length = str(len(SMALL_BODY)).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": SMALL_BODY})
