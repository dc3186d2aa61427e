"""
An id for each request, by which lines of several logs are found together.

A client, or rather the proxy in front, may have given one; else it is made here. It
is in the request's header fields, where the application and the access log find it;
in records of :mod:`logging` that are made while the application works for the
request; and where the operator wants it, in the response.

Tests: ``tests/unit/test_request_ids.py``.
"""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from random import getrandbits
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daphne_like.asgi.types import (
        ASGIApplication,
        Message,
        Receive,
        Scope,
        Send,
    )

    Header = tuple[bytes, bytes]

__all__ = ["RequestIDFilter", "RequestIDs", "current_request_id"]

# What a log can hold without quotes. 16 bytes as hexadecimal digits, and all that
# proxies and clouds make, fits in.
_VALID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")

_RESPONSES = frozenset(
    ("http.response.start", "websocket.accept", "websocket.http.response.start")
)

_current: ContextVar[str] = ContextVar("daphne_like_request_id")


def current_request_id() -> str:
    """Return the id of the request for which this code runs; empty without one."""
    return _current.get("")


class RequestIDFilter(logging.Filter):
    """
    Puts the id into log records, as ``request_id``; ``-`` where there is none.

    It belongs on handlers: filters of loggers don't see what their children log.
    A record which has such an attribute already keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let each record pass."""
        if not hasattr(record, "request_id"):
            record.request_id = _current.get("-")
        return True


class RequestIDs:
    """
    Gives requests their ids.

    Args:
        header: The name of the field.
        in_responses: Whether responses get the field, too, unless the application
            has set it.

    Attributes:
        name: The name of the field, in lower case.
        in_responses: See above.
    """

    def __init__(self, header: str, *, in_responses: bool = False) -> None:
        self.name = header.lower().encode("ascii")
        self.in_responses = in_responses

    def of(self, headers: Sequence[Header]) -> bytes | None:
        """Return the id which the fields of a request hold, if they do."""
        for name, value in headers:
            if name == self.name:
                return value
        return None

    def given(self, headers: Sequence[Header]) -> list[Header] | None:
        """
        Return fields with one valid id; None when these have one.

        What isn't valid, and what came more than once, is replaced: an id is to name
        one request, and to break no log.
        """
        found = [value for name, value in headers if name == self.name]
        if len(found) == 1 and _VALID.fullmatch(found[0]):
            return None
        # No secret: it has to differ, not to be hard to guess.
        made = b"%032x" % getrandbits(128)
        others = [field for field in headers if field[0] != self.name]
        return [*others, (self.name, made)]

    def applied(self, application: ASGIApplication) -> ASGIApplication:
        """Wrap an application, so that what it logs, and answers, has the id."""

        async def identified(scope: Scope, receive: Receive, send: Send) -> None:
            request_id = self.of(scope["headers"])
            if request_id is not None:
                # Each instance runs in a context of its own, which ends with it; an
                # error that comes out of here is logged in it.
                _current.set(request_id.decode("ascii"))
                if self.in_responses:
                    send = self._answering(send, request_id)
            await application(scope, receive, send)

        return identified

    def _answering(self, send: Send, request_id: bytes) -> Send:
        async def answer(message: Message) -> None:
            if type(message) is dict and message.get("type") in _RESPONSES:
                message = {
                    **message,
                    "headers": self._with_id(message.get("headers", ()), request_id),
                }
            await send(message)

        return answer

    def _with_id(self, headers: object, request_id: bytes) -> object:
        try:
            fields = [*headers]  # type: ignore[misc]
            if any(bytes(name).lower() == self.name for name, _ in fields):
                return fields
        except (TypeError, ValueError):
            return headers  # no header fields, as send() is going to explain
        return [*fields, (self.name, request_id)]
