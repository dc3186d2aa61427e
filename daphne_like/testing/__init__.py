"""
For tests of applications: a client in memory, and a server in a process.

:class:`WebSocketClient` talks to an application without sockets.
:class:`DaphneProcess` and what is built on it serve over real ones, with the
interface of Daphne's module of the same name; :mod:`channels.testing` starts it for
its live-server tests.

Importing this package makes ``import daphne`` work where no Daphne is installed, see
:mod:`daphne_like.aliases`: the process of a live server unpickles the class from here
first, and only then what belongs to its tests.

Tests: ``tests/unit/testing``, ``tests/integration/test_live_server.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like import aliases
from daphne_like.testing.live_server import (
    BaseDaphneTestingInstance,
    DaphneProcess,
    DaphneTestingInstance,
    TestApplication,
)

if TYPE_CHECKING:
    from daphne_like.testing.websocket_client import (
        WebSocketClient,
        WebSocketClosed,
        WebSocketRefused,
    )

__all__ = [
    "BaseDaphneTestingInstance",
    "DaphneProcess",
    "DaphneTestingInstance",
    "TestApplication",
    "WebSocketClient",
    "WebSocketClosed",
    "WebSocketRefused",
]

aliases.install()


def __getattr__(name: str) -> object:
    # When first used, since it needs Twisted and the server's own protocols.
    if name in ("WebSocketClient", "WebSocketClosed", "WebSocketRefused"):
        from daphne_like.testing import websocket_client

        return getattr(websocket_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
