"""
A notice board: a service of Twisted, and an ASGI application which shares it.

Whoever connects by TCP posts the lines that he sends. Browsers read the notices, and
may post as well: the application awaits the Deferreds of the service. Both run in one
process on one reactor, so that nothing needs a lock. ``board.tac`` is the program.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from twisted.application.service import Service
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

_MOST_NOTICES = 100
_LONGEST_NOTICE = 200


class Board(Service):
    """
    Keeps the last notices, and tells how many have come each minute.

    Its methods return Deferreds, as those of a database would.
    """

    name = "board"

    def __init__(self) -> None:
        self.count = 0
        self._notices: deque[tuple[int, str]] = deque(maxlen=_MOST_NOTICES)
        self._waiting: list[Deferred[tuple[int, str]]] = []
        self._told = 0
        self._report = task.LoopingCall(self._tell)

    def startService(self) -> None:
        """Begin with the reports."""
        super().startService()
        self._report.start(60, now=False)

    def stopService(self) -> None:
        """End the reports, and whoever waits."""
        super().stopService()
        self._report.stop()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.cancel()

    def _tell(self) -> None:
        print(f"notices in the last minute: {self.count - self._told}")
        self._told = self.count

    def latest(self) -> Deferred[list[str]]:
        """Return the notices, the oldest one first."""
        return succeed([text for _, text in self._notices])

    def post(self, text: str) -> Deferred[int]:
        """Add a notice; return its number."""
        if not 0 < len(text) <= _LONGEST_NOTICE:
            return fail(ValueError(f"1 to {_LONGEST_NOTICE} characters, please"))
        self.count += 1
        self._notices.append((self.count, text))
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback((self.count, text))
        return succeed(self.count)

    def after(self, number: int) -> Deferred[tuple[int, str]]:
        """Return the number and text of the notice after another one; wait for it."""
        for notice in self._notices:
            if notice[0] > number:
                return succeed(notice)
        waiter: Deferred[tuple[int, str]] = Deferred()
        self._waiting.append(waiter)
        return waiter


class Lines(LineOnlyReceiver):
    """Posts each line which a client sends."""

    delimiter = b"\n"

    def __init__(self, board: Board) -> None:
        self._board = board

    def lineReceived(self, line: bytes) -> None:
        """Post a line, and answer with its number."""
        posting: Any = self._board.post(line.decode("utf-8", "replace").strip())
        posting.addCallbacks(
            lambda number: self.sendLine(b"%d" % number),
            lambda reason: self.sendLine(reason.getErrorMessage().encode()),
        )


class LinesFactory(Factory):
    """Makes a protocol for each client."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def buildProtocol(self, address: object) -> Lines:
        """Make one."""
        return Lines(self._board)


class Application:
    """The board as an ASGI application."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Show notices (GET), post one (POST), or send them as they come (WebSocket)."""
        if scope["type"] == "lifespan":
            raise NotImplementedError  # there is nothing to start
        if scope["type"] == "websocket":
            await self._follow(receive, send)
            return
        status = 200
        if scope["method"] == "POST":
            body = b""
            more_body = True
            while more_body:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return  # half a notice is none
                body += event["body"]
                more_body = event["more_body"]
            try:
                answer: object = await awaited(self._board.post(body.decode()))
            except ValueError as error:
                status, answer = 400, str(error)
        else:
            answer = await awaited(self._board.latest())
        headers = [(b"content-type", b"application/json")]
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _follow(self, receive: Any, send: Any) -> None:
        await receive()
        number = self._board.count
        await send({"type": "websocket.accept"})
        gone = asyncio.ensure_future(receive())
        while True:
            notice = awaited(self._board.after(number))
            await asyncio.wait([notice, gone], return_when=asyncio.FIRST_COMPLETED)
            if not notice.done() or notice.cancelled():
                notice.cancel()
                gone.cancel()
                return
            number, text = notice.result()
            await send({"type": "websocket.send", "text": text})


def awaited(deferred: Deferred[Any]) -> asyncio.Future[Any]:
    """Make of a Deferred what a coroutine of asyncio can await."""
    return deferred.asFuture(asyncio.get_running_loop())
