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
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from daphne_like.asgi.drain_notice import hear_as

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from daphne_like.asgi.drain_notice import DrainListener
    from daphne_like.asgi.types import ASGIApplication, Message, Scope

__all__ = [
    "ApplicationInstance",
    "ApplicationManager",
    "CountingManager",
    "log_error",
]

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
        """
        The application returned, or raised ``error``.

        A ``CancelledError`` says that the manager has cancelled it.
        """

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
        # A request can start within another one's send(). Tasks copy the context
        # they are made in, so each gets the server's: the context variables of
        # one request must not show in the next.
        self._context = copy_context()
        self._new_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
        self._new_task = partial(asyncio.Task, loop=loop, **_TASK_OPTIONS)
        self.running: dict[ApplicationInstance, asyncio.Task[None]] = {}
        self._cancelled: set[ApplicationInstance] = set()
        self._idle_waiters: list[asyncio.Future[None]] = []

    def start(
        self,
        instance: ApplicationInstance,
        scope: Scope,
        listener: DrainListener | None = None,
    ) -> None:
        """
        Run the application for ``scope``.

        Where Python can, its first step runs before this returns: an
        application that needs no waiting has then ended already, and no turn of
        the loop was spent on it.

        Args:
            instance: What is told of its messages and of its end.
            scope: What it is called with.
            listener: Learns that it waits for the notice that the server drains.
        """
        context = self._context.copy()
        if listener is not None:
            context.run(hear_as, listener)
        task = context.run(self._new_task, self._run(instance, scope))
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
            error = self._judge(instance, raised)
        if self.running:
            self.running.pop(instance, None)
        instance.application_ended(error)
        # Its traceback refers to this frame: break the cycle, so that what the
        # application left unfinished, such as generators, is closed at once.
        error = None
        if self._idle_waiters and not self.running:
            self._signal_idle()

    def _judge(
        self, instance: ApplicationInstance, error: BaseException
    ) -> BaseException:
        """Put what the user couldn't understand into words."""
        if isinstance(error, asyncio.CancelledError):
            if instance in self._cancelled:
                return error
            stray = RuntimeError("the application was cancelled, but not by the server")
            stray.__cause__ = error.with_traceback(_beyond_ours(error))
            return stray
        if isinstance(error, TypeError) and _beyond_ours(error) is None:
            # Raised by the call or by the await, not by the application's code.
            return TypeError(
                "the application can't be called as ASGI asks, "
                f"await application(scope, receive, send): {error}"
            )
        return error

    def cancel(self, instance: ApplicationInstance) -> None:
        """Cancel an instance, once; it has a limited time to end."""
        task = self.running.get(instance)
        if task is None or instance in self._cancelled:
            return
        self._cancelled.add(instance)
        timer = self._loop.call_later(_CANCEL_TIMEOUT, self._leave_behind, instance)
        task.add_done_callback(lambda _: self._cancellation_over(instance, timer))
        task.cancel()

    def _cancellation_over(
        self, instance: ApplicationInstance, timer: asyncio.TimerHandle
    ) -> None:
        timer.cancel()
        self._cancelled.discard(instance)
        if instance in self.running:
            # A task that is cancelled before its first step never comes to _run.
            self._forget(instance)
            instance.application_ended(asyncio.CancelledError())

    def cancel_all(self) -> None:
        """Cancel every instance which isn't cancelled yet, with one line for each."""
        for instance in [*self.running]:
            if instance not in self._cancelled:
                _logger.warning("Cancelling the application: %s", instance.describe())
                self.cancel(instance)

    async def ended(self) -> None:
        """Wait until no instance is running."""
        while self.running:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    def _leave_behind(self, instance: ApplicationInstance) -> None:
        _logger.error(
            "The application goes on although it was cancelled: %s",
            instance.describe(),
        )
        self._forget(instance)

    def _forget(self, instance: ApplicationInstance) -> None:
        self.running.pop(instance, None)
        if not self.running:
            self._signal_idle()

    def _signal_idle(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class CountingManager(ApplicationManager):
    """
    Counts, too; only those pay for it who want to know.

    Attributes:
        started: How many instances it has started.
    """

    def __init__(
        self, application: ASGIApplication, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(application, loop)
        self.started = 0

    def start(
        self,
        instance: ApplicationInstance,
        scope: Scope,
        listener: DrainListener | None = None,
    ) -> None:
        """Run the application for ``scope``, and count it."""
        self.started += 1
        super().start(instance, scope, listener)


# -- Errors ------------------------------------------------------------------


def log_error(
    instance: ApplicationInstance, error: BaseException, *, client_gone: bool
) -> None:
    """
    Log what an application raised, unless it is nothing to care about.

    Args:
        instance: Which of its instances.
        error: What :meth:`ApplicationInstance.application_ended` was told.
        client_gone: Whether the application had lost its client, so that an
            error which says just that is no fault (ASGI HTTP 2.4, "send").
    """
    if isinstance(error, asyncio.CancelledError):
        return  # whoever cancelled it has told why
    if client_gone and _is_farewell(error):
        return
    _logger.error(
        "Exception in the application: %s",
        instance.describe(),
        exc_info=error.with_traceback(_beyond_ours(error)),
    )


def _is_farewell(error: BaseException | None, known: tuple[int, ...] = ()) -> bool:
    """Whether an error is what a client's going or a cancellation leads to."""
    if error is None or id(error) in known:
        return False  # the end of the chain, or an error raised from itself
    known = (*known, id(error))
    if isinstance(error, asyncio.CancelledError):
        return True
    # By its name, since frameworks raise one of their own in place of ours:
    # Starlette's ClientDisconnect, Quart's ClientDisconnectedError.
    if type(error).__name__.startswith("ClientDisconnect"):
        return True
    inner = getattr(error, "exceptions", None)
    if inner and isinstance(inner, tuple):  # an exception group, of a task group
        return all(_is_farewell(part, known) for part in inner)
    # What is raised *from* a farewell is a farewell in other words; what merely
    # happens while one is handled is a fault.
    return _is_farewell(error.__cause__, known)


def _beyond_ours(error: BaseException) -> TracebackType | None:
    """Leave the manager's own frame out of the application's traceback."""
    traceback = error.__traceback__
    return traceback.tb_next if traceback is not None else None
