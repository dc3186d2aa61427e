"""
Daphne's access log as a callable, for programs which make one.

It writes each line at once. The server's own access log, in the same format, is that
of :mod:`daphne_like.observability.access_log`, which writes several at a time.

Tests: ``tests/unit/test_access.py``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

__all__ = ["AccessLogGenerator"]

_WEBSOCKET_WORDS = {
    "connecting": "WSCONNECTING",
    "connected": "WSCONNECT",
    "rejected": "WSREJECT",
    "disconnected": "WSDISCONNECT",
}


class AccessLogGenerator:
    """
    An ``action_logger`` that writes a line for each request, and WebSocket's step.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, protocol: str, action: str, details: Mapping[str, Any]) -> None:
        """
        Write the line of an action; nothing of those which have none.

        Args:
            protocol: ``http`` or ``websocket``.
            action: What has happened.
            details: ``client``, ``path``; for HTTP ``method``, ``status``, ``size``.
        """
        now = datetime.now()  # noqa: DTZ005 - the format has local time
        if protocol == "http" and action == "complete":
            self.write_entry(
                host=details["client"],
                date=now,
                request=f"{details['method']} {details['path']}",
                status=details["status"],
                length=details["size"],
            )
        elif protocol == "websocket" and action in _WEBSOCKET_WORDS:
            self.write_entry(
                host=details["client"],
                date=now,
                request=f"{_WEBSOCKET_WORDS[action]} {details['path']}",
            )

    def write_entry(
        self,
        host: str | None,
        date: datetime,
        request: str,
        status: int | None = None,
        length: int | None = None,
        ident: str | None = None,
        user: str | None = None,
    ) -> None:
        """Write a line in the order of NCSA's log format; ``-`` for what is missing."""
        time = date.strftime("%d/%b/%Y:%H:%M:%S")
        self.stream.write(
            f"{host or '-'} {ident or '-'} {user or '-'} [{time}] "
            f'"{request}" {status or "-"} {length or "-"}\n'
        )
