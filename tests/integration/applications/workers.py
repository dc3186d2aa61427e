"""
An application which does what one shouldn't, for tests of workers.

``MISCHIEF`` names a file; what stands in it says what goes wrong, and when: a test
changes it while the server runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_LEAKED: list[bytearray] = []


def mischief() -> str:
    """Tell what is to go wrong now."""
    path = os.environ.get("MISCHIEF")
    return Path(path).read_text() if path and Path(path).exists() else ""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"application: {text}\n")
    sys.stdout.flush()


if mischief() == "raise at import":
    raise RuntimeError("no such table")
if mischief() == "exit at import":
    sys.exit(5)
if mischief() == "die at import":
    os.kill(os.getpid(), signal.SIGKILL)
if mischief() == "block at import":
    say("importing")
    time.sleep(3600)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
    else:
        await answer(send, await _PATHS[scope["path"]](scope))


async def live(receive: Any, send: Any) -> None:
    """Start and stop, unless told otherwise."""
    await receive()
    if mischief() == "raise in startup":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    if mischief() == "block in startup":
        time.sleep(3600)  # noqa: ASYNC251 - a user's mistake
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if mischief() == "raise in shutdown":
        raise RuntimeError("no goodbye")
    if mischief() == "block in shutdown":
        time.sleep(3600)  # noqa: ASYNC251 - a user's mistake
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any, text: str) -> None:
    """Send a whole response."""
    body = text.encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def pid(scope: Any) -> str:
    """Tell which process answers."""
    return str(os.getpid())


async def block(scope: Any) -> str:
    """Block the event loop."""
    say("blocking")
    time.sleep(3600)  # noqa: ASYNC251 - a user's mistake
    return ""


async def nap(scope: Any) -> str:
    """Block the event loop, but not for ever."""
    say("blocking")
    time.sleep(float(scope["query_string"]))  # noqa: ASYNC251 - a user's mistake
    return str(os.getpid())


async def hold(scope: Any) -> str:
    """Hold the interpreter: no other thread and no signal handler runs."""
    say("holding")
    ctypes.PyDLL(None).sleep(3600)
    return ""


async def wait(scope: Any) -> str:
    """Answer after a while."""
    # Once it does: somebody may look at once.
    asyncio.get_running_loop().call_soon(say, "waiting")
    await asyncio.sleep(float(scope["query_string"]))
    return str(os.getpid())


async def leak(scope: Any) -> str:
    """Grow."""
    _LEAKED.append(bytearray(b"x" * 2**20 * int(scope["query_string"])))
    return str(os.getpid())


async def fork(scope: Any) -> str:
    """Leave a child behind that lives on."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)  # noqa: ASYNC251 - it has no event loop
        os._exit(0)
    return f"{os.getpid()} {child} end"


_PATHS = {
    "/pid": pid,
    "/block": block,
    "/nap": nap,
    "/hold": hold,
    "/wait": wait,
    "/leak": leak,
    "/fork": fork,
}
