"""
Every exception of the server, with the status a peer sees for it.

What a peer does wrong becomes a :class:`RequestRejected`, or in HTTP/2 an error of
its stream or of the connection; what an application
does wrong with a message becomes an :class:`InvalidMessage`; what goes wrong
before serving becomes one clear line and an exit status.

Tests: ``tests/unit/test_errors.py``.
"""

from __future__ import annotations

__all__ = [
    "ApplicationLoadError",
    "ClientDisconnected",
    "ConnectionFailed",
    "InvalidMessage",
    "LifespanFailed",
    "ListenError",
    "RequestRejected",
    "SettingsError",
    "StartError",
    "StreamFailed",
    "WebSocketFailed",
]


class StartError(Exception):
    """
    The server can't start; ``str()`` is one line for the user.

    Attributes:
        exit_status: What the process ends with.
    """

    exit_status = 1


class SettingsError(StartError):
    """A setting or an endpoint string is wrong."""

    exit_status = 2


class ListenError(StartError):
    """
    An address can't be bound, for instance because it is in use.

    Attributes:
        errno: The system's reason, where it has given one.
    """

    exit_status = 1

    def __init__(self, text: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.errno = errno


class ApplicationLoadError(StartError):
    """The application named by the user can't be imported or called."""

    exit_status = 1


class LifespanFailed(StartError):
    """The application refused to start (``lifespan.startup.failed``)."""

    exit_status = 3


class ClientDisconnected(OSError):
    """
    The client has gone; raised out of the application's ``send()``.

    An ``OSError``, as ASGI HTTP 2.4 asks, so that frameworks take it for a
    lost connection. When it bubbles out of the application it isn't logged.
    """


class InvalidMessage(ValueError):
    """
    The application sent a message which ASGI forbids at this point.

    A ``ValueError``, which is what Daphne raises; the text says what was wrong.
    """


# Statuses which nothing but a limit leads to.
_LIMITS = {
    413: "limit_request_body",
    414: "limit_request_line",
    431: "limit_request_header",
}


class RequestRejected(Exception):
    """
    The peer's request is refused before any application sees it.

    Attributes:
        status: The HTTP status which the peer gets.
        detail: One plain-text line for the body of the answer; never holds
            anything the peer sent.
        fields: Header fields which belong to that status.
        limit: The setting which has refused it, if one has.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        limit: str = "",
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.fields = fields
        self.limit = limit or _LIMITS.get(status, "")


class WebSocketFailed(Exception):
    """
    The peer broke a rule or a limit of an open WebSocket (RFC 6455 section 7.1.7).

    Attributes:
        code: The status code of the Close frame which the peer gets.
        reason: One line for it; never holds anything the peer sent.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class StreamFailed(Exception):
    """
    The peer broke a rule on one stream (RFC 9113 section 5.4.2).

    Attributes:
        code: The error code of the RST_STREAM frame which the peer gets.
        reason: One line for the log; never holds anything the peer sent.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class ConnectionFailed(Exception):
    """
    The peer broke a rule of the whole connection (RFC 9113 section 5.4.1).

    Attributes:
        code: The error code of the GOAWAY frame which the peer gets.
        reason: One line for it; never holds anything the peer sent.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
