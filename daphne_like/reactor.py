"""
Installs Twisted's reactor over the event loop that was asked for.

Nothing here happens on import: a process may have a reactor already, and a
management command may never need one (daphne#195, daphne#279).

Tests: ``tests/unit/test_reactor.py``.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from daphne_like.errors import SettingsError

if TYPE_CHECKING:
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

__all__ = ["install", "new_event_loop", "reap_children"]


def new_event_loop(loop: str = "auto") -> asyncio.AbstractEventLoop:
    """
    Make the event loop which a setting names.

    Args:
        loop: ``uvloop``, ``asyncio``, or ``auto`` for uvloop where installed.

    Raises:
        SettingsError: uvloop was asked for and isn't there.
    """
    if loop != "asyncio":
        try:
            import uvloop
        except ImportError:
            if loop == "uvloop":
                raise SettingsError(
                    "loop: uvloop isn't installed; try: pip install daphne-like[speed]"
                ) from None
        else:
            return uvloop.new_event_loop()
    if sys.platform == "win32":
        # Twisted's reactor needs add_reader, which the default loop lacks.
        return asyncio.SelectorEventLoop()
    return asyncio.new_event_loop()


def install(loop: str = "auto") -> AsyncioSelectorReactor:
    """
    Install the reactor, or take the one that is there when it fits.

    Returns:
        The global reactor.

    Raises:
        SettingsError: Another kind of reactor has been installed already.
    """
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

    if "twisted.internet.reactor" not in sys.modules:
        from twisted.internet.main import installReactor

        event_loop = new_event_loop(loop)
        asyncio.set_event_loop(event_loop)
        made = AsyncioSelectorReactor(event_loop)
        installReactor(made)
        # When it runs: it installs a signal handler of its own.
        made.callWhenRunning(_notice_children, made)
    from twisted.internet import reactor

    if not isinstance(reactor, AsyncioSelectorReactor):
        raise SettingsError(
            f"the reactor {type(reactor).__name__} is installed already; daphne_like "
            "needs the asyncio one: call daphne_like.reactor.install() before, "
            "or start twistd with --reactor daphne-like"
        )
    return reactor


def _notice_children(reactor: AsyncioSelectorReactor) -> None:
    """Reap children, unless the program has a handler of its own, or wants none."""
    if not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if str(getattr(handler, "__module__", "")).startswith("twisted."):
        reap_children(reactor)


def reap_children(reactor: AsyncioSelectorReactor) -> None:
    """
    Let Twisted learn that a process of ``reactor.spawnProcess`` has ended.

    Its own handler of SIGCHLD does nothing, as it is the wakeup descriptor by which
    Twisted learns of it. That one uvloop takes for itself.

    Args:
        reactor: It runs, in the main thread.
    """
    if not hasattr(signal, "SIGCHLD"):
        return

    from twisted.internet.process import reapAllProcesses

    def child_ended(number: int, frame: object) -> None:
        reactor.callFromThread(reapAllProcesses)

    signal.signal(signal.SIGCHLD, child_ended)
    signal.siginterrupt(signal.SIGCHLD, False)
