"""
An application that tells what happens to it, for tests of the server's life.

What it prints stands in the log of the server process, in order with the
server's own lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

from twisted.internet import protocol, threads
from twisted.internet.defer import Deferred


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"application: {text}\n")
    sys.stdout.flush()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "http":
        await _PATHS[scope["path"]](scope, receive, send)
    else:
        await shout(receive, send)


async def shout(receive: Any, send: Any) -> None:
    """Say in capitals what comes on a WebSocket."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"].upper()})


async def live(receive: Any, send: Any) -> None:
    """Tell of start and stop; hang, or fail, where the environment says so."""
    mode = os.environ.get("LIFESPAN", "")
    await receive()
    say("starting")
    try:
        if mode == "hang":
            await asyncio.sleep(3600)
        if mode == "block":
            time.sleep(3600)  # noqa: ASYNC251 - a user's mistake
    except asyncio.CancelledError:
        say("start cancelled")
        raise
    if mode == "wait":
        await asyncio.to_thread(sys.stdin.read)
    if mode == "fail":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("stopping")
    await send({"type": "lifespan.shutdown.complete"})
    say("stopped")


async def answer(send: Any, body: bytes) -> None:
    """Send a whole response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once."""
    await answer(send, b"hello")


async def upload(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of bytes, when all have come."""
    received = 0
    while True:
        message = await receive()
        received += len(message.get("body", b""))
        say(f"{message['type']} after {received} bytes")
        if not message.get("more_body"):
            break
    await answer(send, b"%d bytes" % received)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back each piece of the body as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        body = message.get("body", b"")
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Never answer."""
    say("waiting")
    await asyncio.sleep(3600)


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Never end the response."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await asyncio.sleep(3600)


async def pour(scope: Any, receive: Any, send: Any) -> None:
    """Send 32 MiB in pieces, which takes a client that reads."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    piece = bytes(64 * 1024)
    for _ in range(512):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    say("poured")
    await send({"type": "http.response.body"})


async def file(scope: Any, receive: Any, send: Any) -> None:
    """Send a file which the environment names, as long as the query says."""
    size = int(scope["query_string"])
    path = os.environ["FILE"]
    length = (b"content-length", b"%d" % size)
    with open(path, "rb") as opened:  # noqa: ASYNC230, PTH123 - a file of the tests
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send(
            {"type": "http.response.zerocopysend", "file": opened, "count": size}
        )


async def show(scope: Any, receive: Any, send: Any) -> None:
    """Tell what the scope says of the connection."""
    shown = {name: scope[name] for name in ("client", "server", "scheme")}
    await answer(send, json.dumps(shown).encode())


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """Send a response that is larger than all buffers."""
    await answer(send, bytes(32 * 1024 * 1024))


async def stubborn(scope: Any, receive: Any, send: Any) -> None:
    """Go on in spite of being cancelled."""
    say("waiting")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("cancelled")


async def block(scope: Any, receive: Any, send: Any) -> None:
    """Block the event loop."""
    say("blocking")
    time.sleep(3600)  # noqa: ASYNC251 - a user's mistake


async def thread(scope: Any, receive: Any, send: Any) -> None:
    """Wait for a thread which doesn't end."""
    await asyncio.to_thread(_block_thread)


def _block_thread() -> None:
    say("blocking a thread")
    time.sleep(3600)


async def background(scope: Any, receive: Any, send: Any) -> None:
    """Leave a task behind."""

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            say("background task cancelled")

    _tasks.append(asyncio.ensure_future(work()))
    await answer(send, b"started")


_tasks: list[asyncio.Future[None]] = []


async def stop_reactor(scope: Any, receive: Any, send: Any) -> None:
    """Stop the reactor, as applications of Daphne may."""
    from twisted.internet import reactor  # noqa: TID251 - it is there

    core: Any = reactor
    core.callLater(0, core.stop)
    await answer(send, b"stopping")


async def process(scope: Any, receive: Any, send: Any) -> None:
    """Start processes in the ways of Twisted and of asyncio."""
    from twisted.internet import reactor  # noqa: TID251 - it is there

    core: Any = reactor
    ended: Deferred[bytes] = Deferred()

    class Protocol(protocol.ProcessProtocol):
        def processEnded(self, reason: Any) -> None:
            ended.callback(b"%d" % reason.value.exitCode)

    # Without pipes, only the signal tells that it has ended.
    program = [sys.executable, "-c", "raise SystemExit(7)"]
    core.spawnProcess(Protocol(), sys.executable, program, childFDs={})
    status = await ended.asFuture(asyncio.get_running_loop())
    other = await asyncio.create_subprocess_exec(*program)
    await answer(send, b"%b %d" % (status, await other.wait()))


async def defer(scope: Any, receive: Any, send: Any) -> None:
    """Run something in a thread of the reactor's pool."""
    name: Deferred[str] = threads.deferToThread(lambda: threading.current_thread().name)
    found = await name.asFuture(asyncio.get_running_loop())
    await answer(send, found.encode())


async def settings(scope: Any, receive: Any, send: Any) -> None:
    """Tell how the event loop is set up."""
    loop = asyncio.get_running_loop()

    def work() -> str:
        time.sleep(0.02)
        return threading.current_thread().name

    jobs = [loop.run_in_executor(None, work) for _ in range(8)]
    workers = len(set(await asyncio.gather(*jobs)))
    await answer(send, f"debug={loop.get_debug()} threads={workers}".encode())


_PATHS = {
    "/hello": hello,
    "/upload": upload,
    "/echo": echo,
    "/slow": slow,
    "/stream": stream,
    "/flood": flood,
    "/pour": pour,
    "/file": file,
    "/scope": show,
    "/stubborn": stubborn,
    "/block": block,
    "/thread": thread,
    "/background": background,
    "/stop-reactor": stop_reactor,
    "/process": process,
    "/defer": defer,
    "/settings": settings,
}
