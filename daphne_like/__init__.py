"""
A Twisted-based reference ASGI server.

The way of a request: a socket of :mod:`daphne_like.listeners` hands bytes to a
protocol of :mod:`daphne_like.protocols`, which turns them into a request head
and body pieces; a stream of :mod:`daphne_like.asgi` makes of these the ASGI
scope and messages; the application manager runs one instance of the user's
application for it. ``send()`` takes the same way back.

Names are imported when first used, since importing Twisted costs more than
many commands do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Server", "__version__", "draining", "run"]

if TYPE_CHECKING:
    from daphne_like.asgi.drain_notice import draining
    from daphne_like.server import Server, run


def __getattr__(name: str) -> object:
    if name in ("Server", "run"):
        from daphne_like import server

        return getattr(server, name)
    if name == "draining":
        from daphne_like.asgi import drain_notice

        return drain_notice.draining
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
