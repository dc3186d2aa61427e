"""
The header fields of an application's response, checked before they are sent.

A name that isn't a token, or a value with CR, LF or NUL, could end the head
early and smuggle in another response (RFC 9110 section 5.5, CWE-113).

Tests: ``tests/unit/asgi/test_response_headers.py``.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, cast

from daphne_like.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daphne_like.protocols.interfaces import Header

__all__ = ["FieldNames", "ResponseFields", "read_fields", "read_trailers"]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_NOTHING: frozenset[bytes] = frozenset()
_MOST_NAMES = 1024


class _Kind(Enum):
    """What a field means to the server."""

    PLAIN = "passed on"
    DEFAULT = "passed on, instead of the server's own"
    LENGTH = "checked against the body"
    FRAMING = "the server's business: dropped"
    CONNECTION = "dropped, but close is obeyed"


_PLAIN = _Kind.PLAIN
_FRAMED_BY_US = {
    b"content-length": _Kind.LENGTH,
    b"transfer-encoding": _Kind.FRAMING,
    b"keep-alive": _Kind.FRAMING,
    b"proxy-connection": _Kind.FRAMING,
    b"connection": _Kind.CONNECTION,
}
# RFC 9110 section 6.5.1: fields that frame or route a message are no trailers.
_NO_TRAILERS = frozenset((*_FRAMED_BY_US, b"host", b"trailer", b"te"))


class FieldNames(dict[bytes, _Kind]):
    """
    The names which have been checked, with their meaning.

    Applications use few names, again and again: each is checked once. The
    number kept is bounded, for an application that makes names up.

    Args:
        defaults: Names of the fields which the server adds by itself.
    """

    def __init__(self, defaults: Iterable[bytes] = ()) -> None:
        super().__init__(dict.fromkeys(defaults, _Kind.DEFAULT))
        self.update(_FRAMED_BY_US)

    def learn(self, name: bytes) -> tuple[bytes, _Kind]:
        """
        Check a name that isn't kept.

        Returns:
            The name in lower case, and its meaning.

        Raises:
            InvalidMessage: It is no bytes, or no token.
        """
        if not isinstance(name, bytes):
            raise _not_bytes("name", name)
        lower = name.lower()
        if not _TOKEN.fullmatch(lower):
            # Pseudo-headers of HTTP/2 begin with a colon and end here, too.
            raise InvalidMessage(f"header name {name!r} is no token")
        kind = self.get(lower, _PLAIN)
        if kind is _PLAIN and len(self) < _MOST_NAMES:
            self[lower] = kind
        return lower, kind


class ResponseFields(NamedTuple):
    """
    The fields of a response as the server takes them.

    Attributes:
        headers: To be sent, in the application's order.
        content_length: Bytes which the body is to have, if told.
        own_defaults: Names of the server's fields which these replace.
        close: The application wants the connection closed.
    """

    headers: list[Header]
    content_length: int | None
    own_defaults: frozenset[bytes]
    close: bool


def read_fields(
    fields: Iterable[Iterable[bytes]], names: FieldNames
) -> ResponseFields:
    """
    Check the fields of a response and find those which concern the server.

    Args:
        fields: Pairs of name and value, both bytes.
        names: The names known.

    Raises:
        InvalidMessage: A name or value can't be sent.
    """
    headers: list[Header] = []
    length, own, close = None, _NOTHING, False
    try:
        for name, value in cast("Iterable[Header]", fields):
            kind = names.get(name)
            if kind is not _PLAIN:
                if kind is None:
                    name, kind = names.learn(name)
                if kind is _Kind.LENGTH:
                    if length is not None or not _LENGTH.fullmatch(value):
                        raise InvalidMessage(f"content-length {value!r} is invalid")
                    length = int(value)
                elif kind is _Kind.DEFAULT:
                    own |= {name}
                elif kind is not _PLAIN:
                    close = close or (
                        kind is _Kind.CONNECTION and b"close" in value.lower()
                    )
                    continue
            headers.append((name, value))
    except (TypeError, ValueError, AttributeError) as error:
        raise _explain(fields, error) from None
    _check_values(headers)
    return ResponseFields(headers, length, own, close)


def read_trailers(fields: Iterable[Iterable[bytes]]) -> list[Header]:
    """
    Check trailers; those which RFC 9110 section 6.5.1 forbids are dropped.

    Raises:
        InvalidMessage: A name or value can't be sent.
    """
    headers = read_fields(fields, FieldNames()).headers
    return [field for field in headers if field[0] not in _NO_TRAILERS]


def _check_values(headers: list[Header]) -> None:
    """Search all values at once, as they nearly always hold nothing bad."""
    try:
        values = b"".join([value for _, value in headers])
    except TypeError as error:
        raise _explain(headers, error) from None
    if b"\n" in values or b"\r" in values or b"\0" in values:
        name = next(
            name
            for name, value in headers
            if any(byte in value for byte in (b"\r", b"\n", b"\0"))
        )
        raise InvalidMessage(
            f"the value of header {name.decode()!r} holds a CR, LF or NUL"
        )


def _explain(fields: object, error: Exception) -> InvalidMessage:
    """Find which part of the headers isn't as ASGI wants it."""
    if isinstance(error, InvalidMessage):
        return error
    try:
        for name, value in cast("Iterable[Header]", fields):
            for part, what in ((name, "name"), (value, "value")):
                if not isinstance(part, bytes):
                    return _not_bytes(what, part)
    except (TypeError, ValueError):
        pass
    return InvalidMessage(f"headers must be pairs of bytes, not {fields!r}")


def _not_bytes(what: str, part: object) -> InvalidMessage:
    return InvalidMessage(
        f"header {what} {part!r} must be `bytes`, not `{type(part).__name__}`"
    )
