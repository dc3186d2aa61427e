"""
Where a running server can be asked and ordered: an address and a Unix socket.

:class:`OperationsListener` serves the applications of
:mod:`daphne_like.operations.application` with the server's own HTTP, on whichever
asyncio loop runs: that of a server, or that of a supervisor, where there is no reactor.
It begins before the application starts and ends after it has ended, so that health
checks are answered all the time.

A supervisor forks while all this is open. :meth:`OperationsListener.close_in_child`
leaves nothing of it in the child and keeps all of it in the parent.

Tests: ``tests/unit/operations/test_listener.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from daphne_like.asgi.drain_notice import DrainNotice
from daphne_like.listeners.endpoints import (
    build_endpoint_description_strings,
    endpoint_from_string,
)
from daphne_like.listeners.ports import LoopPort
from daphne_like.listening import listen, url_of
from daphne_like.operations.application import (
    controlling_application,
    watching_application,
)
from daphne_like.serving import Serving
from daphne_like.settings import Settings
from daphne_like.winding_down import EverySecond, wind_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.listeners.ports import SocketEndpoint
    from daphne_like.operations.application import Render
    from daphne_like.operations.interfaces import Operated
    from daphne_like.settings import OperationsSettings

__all__ = ["OperationsListener"]

_logger = logging.getLogger("daphne_like.operations")

_DEFAULT_HOST = "127.0.0.1"

# Operators are few; whoever floods the address must not take the server's memory.
_SETTINGS = Settings.of(
    access_log="",
    backlog=64,
    http="1.1",
    limit_connections=64,
    limit_concurrency=64,
    timeout_keep_alive=15.0,
    # For answers which are under way when the listener stops.
    timeout_graceful_shutdown=1.0,
)


class OperationsListener:
    """
    Answers operators on the addresses of the settings; on none where they name none.

    Args:
        operated: What is asked and ordered.
        settings: The addresses.
        render: Writes metrics for Prometheus; None where nothing is counted.

    Raises:
        SettingsError: An address can't be understood.
    """

    def __init__(
        self,
        operated: Operated,
        settings: OperationsSettings,
        render: Render | None = None,
    ) -> None:
        self._parts: list[_Part] = []
        if settings.metrics is not None:
            application = watching_application(operated, render)
            self._parts.append(_Part(_tcp_string(settings.metrics), application))
        if settings.control_socket is not None:
            application = controlling_application(operated)
            self._parts.append(
                _Part(_unix_string(settings.control_socket), application)
            )

    @property
    def endpoints(self) -> list[SocketEndpoint]:
        """Its endpoints, which are bound with those of the server or by :meth:`start`."""
        return [part.endpoint for part in self._parts]

    @property
    def urls(self) -> list[str]:
        """Where it listens; ``unix:`` and a path for the control socket."""
        return [url for part in self._parts for url in part.urls]

    async def start(self) -> None:
        """
        Answer from now on.

        Raises:
            ListenError: An address can't be had; nothing is left open then.
        """
        try:
            for part in self._parts:
                await part.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Accept no more, let answers go out, close."""
        for part in self._parts:
            await part.stop()

    def close_in_child(self) -> None:
        """
        Close everything in a forked child, which must not run the parent's loop.

        The parent's listeners, connections and files stay as they are. Nothing is
        done with the loop: what it has registered with the kernel is the parent's,
        too.
        """
        names = [name for part in self._parts for name in part.names]
        for endpoint in self.endpoints:
            endpoint.abandon()
        if names:
            _give_up_sockets(names)


class _Part:
    """
    One endpoint with its application.

    Attributes:
        endpoint: The endpoint.
        names: What its sockets are bound to, once it listens.
    """

    def __init__(self, text: str, application: ASGIApplication) -> None:
        self._text = text
        self._application = application
        endpoint = endpoint_from_string(text, _SETTINGS.bind.backlog)
        assert endpoint is not None
        self.endpoint = endpoint
        self.names: list[Any] = []
        self._serving: Serving | None = None
        self._every_second: EverySecond | None = None
        self._port: LoopPort | None = None

    @property
    def urls(self) -> list[str]:
        """Where it listens; ``unix:`` and a path for the Unix socket."""
        if self._port is None:
            return []
        return [url_of("http", address) for address in self._port.addresses()]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._serving = serving = Serving(self._application, _SETTINGS)
        port = await listen(self._text, self.endpoint, serving.factory("http"))
        assert isinstance(port, LoopPort)
        self._port = port
        self.names = [sock.getsockname() for sock in self.endpoint.bound]
        self._every_second = EverySecond(loop, serving.duties)
        self._every_second.__enter__()
        for url in self.urls:
            _logger.info("Operations: %s", url)

    async def stop(self) -> None:
        port, self._port = self._port, None
        if port is None:
            self.endpoint.close()
            return
        await port.stopListening().asFuture(asyncio.get_running_loop())
        serving, every_second = self._serving, self._every_second
        if serving is not None:
            await wind_down(
                serving.connections,
                serving.manager,
                DrainNotice(),
                _SETTINGS.lifecycle,
                asyncio.Event(),
            )
        if every_second is not None:
            every_second.__exit__()


def _give_up_sockets(names: Sequence[Any]) -> None:
    """
    Close this process' copies of the connections to some addresses.

    The system is asked which there are: the loop may have accepted one in the turn
    before the fork, of which nobody knows yet.

    Args:
        names: What the listening sockets are bound to.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for entry in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, no files
        try:
            sock = socket.socket(fileno=int(entry))
        except OSError:
            continue  # it is no socket
        try:
            name = sock.getsockname()
        except OSError:
            name = None  # macOS: whoever was there has reset the connection
        sock.detach()
        if any(_is_at(name, listening) for listening in names):
            # In its place, since objects which know the number may close it later.
            os.dup2(nothing, int(entry), inheritable=False)
    os.close(nothing)


def _is_at(name: Any, listening: Any) -> bool:
    """Whether a socket with this name may come from that listening one."""
    if isinstance(name, tuple) and isinstance(listening, tuple):
        is_any = listening[0] in ("0.0.0.0", "::")  # noqa: S104 - compared
        return name[1] == listening[1] and (is_any or name[0] == listening[0])
    # A name may be text or bytes; that of a socket without one is empty.
    return type(name) is type(listening) and bool(name == listening)


def _tcp_string(where: str) -> str:
    host, _, port = where.rpartition(":")
    [text] = build_endpoint_description_strings(host or _DEFAULT_HOST, int(port))
    return text


def _unix_string(path: str) -> str:
    [text] = build_endpoint_description_strings(unix_socket=path)
    # Whoever may write to it may stop the server.
    return f"{text}:mode=600"
