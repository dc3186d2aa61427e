"""
Runs application instances: one asyncio task for each scope.

The manager starts them, counts them, cancels them when their time is over,
and tells when the last one has ended. Nothing polls: an instance reports its
own end, at once (daphne_like's answer to Daphne's periodic check).

Tests: ``tests/unit/asgi/test_applications.py``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from daphne_like.asgi.types import ASGIApplication, Message, Scope

__all__ = ["ApplicationInstance", "ApplicationManager"]

_logger = logging.getLogger("daphne_like.server")

# An eager task runs its first step at once; Python 3.12 has them.
_TASK_OPTIONS: dict[str, Any] = (
    {"eager_start": True} if sys.version_info >= (3, 12) else {}
)

# How long a cancelled instance gets to end before it is left behind.
_CANCEL_TIMEOUT = 5.0


class ApplicationInstance(Protocol):
    """What the manager runs: the two channels of an instance, and its end."""

    async def receive(self) -> Message:
        """Hand the application its next event."""

    async def send(self, message: Message) -> None:
        """Take a message of the application."""

    def application_ended(self, error: BaseException | None) -> None:
        """The application returned, or raised ``error``."""

    def describe(self) -> str:
        """Name the instance in a log line, by method, path and age."""


class ApplicationManager:
    """
    Starts and ends the instances of one application on one event loop.

    Attributes:
        running: Those which have not ended, with their tasks.
    """

    def __init__(
        self, application: ASGIApplication, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._application = application
        self._loop = loop
        self._new_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
        self._new_task = partial(asyncio.Task, loop=loop, **_TASK_OPTIONS)
        self.running: dict[ApplicationInstance, asyncio.Task[None]] = {}
        self._idle: asyncio.Future[None] | None = None

    def start(self, instance: ApplicationInstance, scope: Scope) -> None:
        """
        Run the application for ``scope``.

        Where Python can, its first step runs before this returns: an
        application that needs no waiting has then ended already, and no turn of
        the loop was spent on it.
        """
        task = self._new_task(self._run(instance, scope))
        if not task.done():
            self.running[instance] = task

    async def _run(self, instance: ApplicationInstance, scope: Scope) -> None:
        error: BaseException | None = None
        try:
            await self._application(scope, instance.receive, instance.send)
        except GeneratorExit:
            raise  # the loop is gone, and so is everybody who could be told
        except BaseException as raised:  # noqa: BLE001
            # SystemExit too: an application must not end the server.
            error = raised
        if self.running:
            self.running.pop(instance, None)
        instance.application_ended(error)
        if self._idle is not None and not self.running:
            self._signal_idle()

    def cancel(self, instance: ApplicationInstance) -> None:
        """Cancel an instance, once; it has a limited time to end."""
        task = self.running.get(instance)
        if task is None:
            return
        # A task that is cancelled before its first step never comes to _run.
        task.add_done_callback(lambda _: self._forget(instance))
        task.cancel()
        self._loop.call_later(_CANCEL_TIMEOUT, self._leave_behind, instance)

    def cancel_all(self) -> None:
        """Cancel every instance, with one line for each."""
        for instance in list(self.running):
            _logger.warning("Cancelling the application: %s", instance.describe())
            self.cancel(instance)

    async def ended(self) -> None:
        """Wait until no instance is running."""
        if self.running:
            self._idle = self._loop.create_future()
            await self._idle

    def _leave_behind(self, instance: ApplicationInstance) -> None:
        if instance in self.running:
            _logger.error(
                "The application goes on although it was cancelled: %s",
                instance.describe(),
            )
            self._forget(instance)

    def _forget(self, instance: ApplicationInstance) -> None:
        self.running.pop(instance, None)
        if self._idle is not None and not self.running:
            self._signal_idle()

    def _signal_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
