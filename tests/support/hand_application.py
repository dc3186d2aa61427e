"""An application that does what the test says, when the test says it."""

from __future__ import annotations

import asyncio

from stepped_loop import SteppedLoop

from daphne_like.asgi.types import Message, Receive, Scope, Send

__all__ = ["HandApplication"]


class HandApplication:
    """
    An application for one request, in the hands of a test.

    What it does belongs to tasks of its own, as in applications that have several.

    Attributes:
        scope: Of the request.
    """

    scope: Scope

    def __init__(self, loop: SteppedLoop) -> None:
        self._loop = loop
        self._ended = loop.create_future()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait until the test ends it."""
        self.scope, self._receive, self._send = scope, receive, send
        await self._ended

    def receive(self) -> Message:
        """Receive what is there."""

        async def receive() -> Message:
            return await self._receive()

        return self._loop.do(receive())

    def send(self, *messages: Message) -> None:
        """Send without having to wait."""
        self._loop.do(self._send_all(messages))

    async def _send_all(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            await self._send(message)

    def begin_receive(self) -> asyncio.Task[Message]:
        """Receive in a task, as there may be nothing yet."""

        async def receive() -> Message:
            return await self._receive()

        task = self._loop.create_task(receive())
        self._loop.settle()
        return task

    def begin_send(self, *messages: Message) -> asyncio.Task[None]:
        """Send in a task, as that may have to wait."""
        task = self._loop.create_task(self._send_all(messages))
        self._loop.settle()
        return task

    def end(self, error: BaseException | None = None) -> None:
        """Return, or raise ``error``."""
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
        self._loop.settle()
