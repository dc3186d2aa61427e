"""
Tells a function of the user's what happens, in the form of Daphne's.

``Server(..., action_logger=function)`` calls
``function(protocol, action, details)``: for HTTP when a response has ended, for
WebSockets at each step of their life. Django's ``runserver`` writes its log so.

Tests: ``tests/unit/test_action_log.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from daphne_like.observability.log_formats import Exchange, ExchangeLog, escaped_bytes

__all__ = ["ActionLog", "ActionLogger"]

ActionLogger = Callable[[str, str, dict[str, Any]], object]

_logger = logging.getLogger("daphne_like.server")

_WEBSOCKET_ACTIONS = {
    "CONNECTING": "connecting",
    "CONNECT": "connected",
    "REJECT": "rejected",
    "DISCONNECT": "disconnected",
}


class ActionLog:
    """
    Calls an action logger, and hands on to another log.

    The calls are:

    - ``("http", "complete", details)`` with ``path`` (and query), ``status``,
      ``method``, ``client``, ``time_taken`` in seconds and ``size`` in bytes;
      not for a request whose client left before there was a status;
    - ``("websocket", action, details)`` with ``path`` and ``client``; the action is
      ``connecting``, ``connected``, ``rejected`` or ``disconnected``.

    ``client`` is ``address:port``, or ``None`` where there is none. A path is as the
    client sent it, but for what could break out of a line.

    Args:
        action_logger: May raise; that is logged, and nothing more.
        further: Another log, if there is one.
    """

    def __init__(
        self, action_logger: ActionLogger, further: ExchangeLog | None = None
    ) -> None:
        self._action_logger = action_logger
        self._further = further

    def exchange_ended(self, exchange: Exchange) -> None:
        """Tell of an exchange."""
        if exchange.status:
            details = {
                "path": escaped_bytes(exchange.target),
                "status": exchange.status,
                "method": exchange.method,
                "client": _client(exchange),
                "time_taken": exchange.duration,
                "size": exchange.body_bytes_sent,
            }
            self._call("http", "complete", details)
        if self._further is not None:
            self._further.exchange_ended(exchange)

    def websocket_changed(self, exchange: Exchange, event: str) -> None:
        """Tell of a step in the life of a WebSocket."""
        path = escaped_bytes(exchange.target.partition(b"?")[0])
        details = {"path": path, "client": _client(exchange)}
        self._call("websocket", _WEBSOCKET_ACTIONS[event], details)
        if self._further is not None:
            self._further.websocket_changed(exchange, event)

    def _call(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        try:
            self._action_logger(protocol, action, details)
        except Exception:
            _logger.exception("The action logger failed")


def _client(exchange: Exchange) -> str | None:
    client = exchange.client
    # The address may be what a trusted proxy says.
    if client is None:
        return None
    return f"{escaped_bytes(str(client[0]).encode())}:{client[1]}"
