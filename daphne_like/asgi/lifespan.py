"""
The lifespan of an application: told when the server starts and when it stops.

Source: ASGI Lifespan 2.0.

Tests: ``tests/unit/asgi/test_lifespan.py``.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any

from daphne_like.errors import InvalidMessage, LifespanFailed

if TYPE_CHECKING:
    from daphne_like.asgi.types import ASGIApplication, Message, Scope

__all__ = ["Lifespan"]

_logger = logging.getLogger("daphne_like.server")


class _Phase(Enum):
    """Where the application is in its life."""

    STARTING = "starting up"
    RUNNING = "running"
    STOPPING = "shutting down"
    ENDED = "ended"
    UNSUPPORTED = "without a lifespan"


class Lifespan:
    """
    One lifespan instance of the application, on the loop that serves it.

    Args:
        application: Called once with a lifespan scope.
        mode: ``auto`` goes on without lifespan when the application raises or
            returns at start-up, as ASGI asks; ``on`` takes that for a failure;
            ``off`` doesn't ask.
        startup_timeout: Seconds until start-up counts as failed; 0 for none.
        shutdown_timeout: Seconds until the shutdown is given up; 0 for none.

    Attributes:
        state: To be copied into each request's scope; ``None`` when the
            application takes no part in lifespan.
    """

    def __init__(
        self,
        application: ASGIApplication,
        mode: str = "auto",
        startup_timeout: float = 60.0,
        shutdown_timeout: float = 30.0,
    ) -> None:
        self._application = application
        self._mode = mode
        self._startup_timeout = startup_timeout or None
        self._shutdown_timeout = shutdown_timeout or None
        self._phase = _Phase.STARTING
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._failure: str | None = None
        self._state: dict[str, Any] = {}

    @property
    def state(self) -> dict[str, Any] | None:
        """Tell the state which start-up left, if there was one."""
        return None if self._phase is _Phase.UNSUPPORTED else self._state

    async def startup(self) -> None:
        """
        Let the application start, before anybody can connect.

        Raises:
            LifespanFailed: It said so, took too long, or raised in mode ``on``.
        """
        if self._mode == "off":
            self._phase = _Phase.UNSUPPORTED
            return
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        self._task = loop.create_task(self._run())
        try:
            await self._tell("lifespan.startup", self._startup_timeout)
        except asyncio.CancelledError:
            # The server is stopped while the application starts.
            self._phase = _Phase.ENDED
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.5)
            raise
        if self._failure is None and not self._answered.done():
            self._failure = (
                "no answer to lifespan.startup within "
                f"{self._startup_timeout:g} seconds (--timeout-startup, --lifespan off)"
            )
        if self._failure is not None:
            self._phase = _Phase.ENDED
            await self._cancel()
            raise LifespanFailed(f"Application startup failed: {self._failure}")

    async def shutdown(self) -> None:
        """Let the application clean up, after the last connection is closed."""
        if self._phase is not _Phase.RUNNING:
            return
        self._phase = _Phase.STOPPING
        self._answered = asyncio.get_running_loop().create_future()
        await self._tell("lifespan.shutdown", self._shutdown_timeout)
        if self._failure is not None:
            _logger.error("Application shutdown failed: %s", self._failure)
        elif not self._answered.done():
            _logger.error(
                "Application shutdown isn't complete after %g seconds",
                self._shutdown_timeout,
            )
        await self._cancel()

    async def _tell(self, event: str, timeout: float | None) -> None:
        self._events.put_nowait({"type": event})
        await asyncio.wait([self._answered], timeout=timeout)

    async def _cancel(self) -> None:
        """End the task, which has said what it had to say."""
        if not self._task.done():
            # An application may still do something after its last message.
            await asyncio.wait([self._task], timeout=0.5)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.5)

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        error: BaseException | None = None
        try:
            await self._application(scope, self._events.get, self._send)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        except BaseException as raised:  # noqa: BLE001
            # SystemExit too: whether the server ends is not the task's to say.
            error = raised
        self._ended(error)
        if not self._answered.done():
            self._answered.set_result(None)

    def _ended(self, error: BaseException | None) -> None:
        """Take note of an application that leaves its lifespan."""
        phase, self._phase = self._phase, _Phase.ENDED
        if self._failure is not None:
            return  # it has told why
        if phase is _Phase.STARTING:
            self._ended_at_once(error)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            _logger.error("Exception in the application's lifespan", exc_info=error)
        elif phase is _Phase.RUNNING:
            _logger.debug("The application has left its lifespan: %r", error)

    def _ended_at_once(self, error: BaseException | None) -> None:
        """Go on without lifespan, or fail, as the mode says."""
        if self._mode == "on":
            if error is None:
                self._failure = "it returned without answering lifespan.startup"
            else:
                self._failure = f"{type(error).__name__}: {error}"
                _logger.error("Exception in lifespan startup", exc_info=error)
            return
        # As ASGI asks when it raises, which Django and Channels do at the scope.
        self._phase = _Phase.UNSUPPORTED
        if error is not None and self._events.empty():
            # It did begin to start, so the user may want to know.
            _logger.info("Exception in lifespan startup", exc_info=error)
        else:
            _logger.debug("The application takes no part in lifespan: %r", error)

    async def _send(self, message: Message) -> None:
        """Take the application's answer."""
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise InvalidMessage(
                f'a message must be a dict with a "type", not {short_repr(message)}'
            ) from None
        if self._phase is _Phase.STARTING:
            expected = "lifespan.startup"
        elif self._phase is _Phase.STOPPING:
            expected = "lifespan.shutdown"
        else:
            raise InvalidMessage(
                f"{kind!r} while the application is {self._phase.value}"
            )
        if self._answered.done():
            raise InvalidMessage(f"{kind!r} after {expected} was answered")
        if kind == f"{expected}.failed":
            self._failure = str(message.get("message", "")) or "no reason given"
        elif kind != f"{expected}.complete":
            raise InvalidMessage(
                f"{kind!r} where ASGI expects {expected}.complete or {expected}.failed"
            )
        elif self._phase is _Phase.STARTING:
            # From now on, since it may leave its lifespan before anybody looks.
            self._phase = _Phase.RUNNING
        self._answered.set_result(None)
