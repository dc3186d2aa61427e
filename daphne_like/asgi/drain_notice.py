"""
The notice that a server drains, for its application.

A server gives the notice when it begins to stop, before anything is closed. Each
task of the application finds it by :func:`draining`: the server's tasks have the
notice in their context, and hand it on to the tasks they make. Whoever would rather
look than wait finds one dict of the server in each scope. So nothing is made for a
request, and several servers of one process don't mix.

A WebSocket has itself in its context, too: it remembers that its application has
asked, and isn't closed before the application has had time to say goodbye.

Tests: ``tests/unit/asgi/test_drain_notice.py``.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DrainListener", "DrainNotice", "draining", "hear_as"]


class DrainListener(Protocol):
    """Who is told that its application waits for a notice."""

    def listens_for(self, notice: DrainNotice) -> None:
        """Learn that it does."""


_notice: ContextVar[DrainNotice] = ContextVar("daphne_like_drain_notice")
_listener: ContextVar[DrainListener] = ContextVar("daphne_like_drain_listener")

# The notices of all servers which are up, the latest last.
_notices: list[DrainNotice] = []


class DrainNotice:
    """
    Tells the application of one server, in one life, that the server drains.

    As a context manager it becomes that of the current context, in which the server
    starts its application; and of all tasks in this loop which know no other.

    Attributes:
        state: ``{"begun": False}``, until the server drains;
            ``scope["extensions"]["daphne_like.draining"]``.
        is_patient: Whether those who have asked for it may still say goodbye.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._given = asyncio.Event()
        self.state: dict[str, object] = {"begun": False}
        self.is_patient = True

    def __enter__(self) -> Self:
        _notice.set(self)
        _notices.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.give()
        _notices.remove(self)

    @classmethod
    def current(cls) -> DrainNotice:
        """
        Return that of the current task's server.

        Raises:
            RuntimeError: No server of ours runs in this event loop.
        """
        loop = asyncio.get_running_loop()
        own = _notice.get(None)
        for notice in reversed(_notices) if own is None else (own,):
            if notice._loop is loop:
                return notice
        raise RuntimeError(
            "daphne_like.draining(): no server of daphne_like runs in this event loop"
        )

    def give(self) -> None:
        """Tell everybody, at once and from now on."""
        self.state["begun"] = True
        self._given.set()

    def lose_patience(self) -> None:
        """Let those go who have asked for it, whether or not they are done."""
        self.is_patient = False

    async def wait(self) -> None:
        """Wait for it; returns at once when it was given already."""
        listener = _listener.get(None)
        if listener is not None:
            listener.listens_for(self)
        await self._given.wait()


async def draining() -> None:
    """
    Wait until the server drains: it takes nothing new, and ends what it has.

    It returns at once when the server drains already. Any task of the application may
    wait, for as long as it likes. A WebSocket whose application has called this isn't
    closed with the others, but has ``drain_notice_timeout`` to say goodbye.

    Of several servers in one process it is the one whose application the current task
    belongs to; a task which belongs to none waits for the one that was started last.

    Raises:
        RuntimeError: No server of ours runs in the current event loop.
    """
    await DrainNotice.current().wait()


def hear_as(listener: DrainListener) -> None:
    """Let ``listener`` know when something in the current context waits."""
    _listener.set(listener)
