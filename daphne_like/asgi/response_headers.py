"""
The header fields of an application's response, checked before they are sent.

A name that isn't a token, or a value with CR, LF or NUL, could end the head
early and smuggle in another response (RFC 9110 section 5.5, CWE-113).

Tests: ``tests/unit/asgi/test_response_headers.py``.
"""

from __future__ import annotations

import re
from enum import Enum
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, cast

from daphne_like.errors import InvalidMessage
from daphne_like.protocols.interfaces import ResponseFields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daphne_like.protocols.interfaces import Header

__all__ = ["FieldReader", "read_trailers"]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CR, _LF, _NUL = b"\r\n\0"
_NOTHING: frozenset[bytes] = frozenset()
# Response heads, and names, that are kept.
_MOST_KEPT = 512


class _Kind(Enum):
    """What a field means to the server."""

    PLAIN = "passed on"
    DEFAULT = "passed on, instead of the server's own"
    LENGTH = "checked against the body"
    FRAMING = "the server's business: dropped"
    CONNECTION = "dropped, but close is obeyed"


_FRAMED_BY_US = {
    b"content-length": _Kind.LENGTH,
    b"transfer-encoding": _Kind.FRAMING,
    b"keep-alive": _Kind.FRAMING,
    b"proxy-connection": _Kind.FRAMING,
    b"connection": _Kind.CONNECTION,
}
# RFC 9110 section 6.5.1: fields that frame or route a message are no trailers.
_NO_TRAILERS = frozenset((*_FRAMED_BY_US, b"host", b"trailer", b"te"))


class FieldReader:
    """
    Checks the header fields of responses.

    Applications send few different heads, again and again: each is checked
    once and kept, and so is each name. What is kept is bounded.

    Args:
        defaults: Names of the fields which the server adds by itself.
    """

    def __init__(self, defaults: Iterable[bytes] = ()) -> None:
        self._kinds = dict.fromkeys(defaults, _Kind.DEFAULT)
        self._kinds.update(_FRAMED_BY_US)
        self._known: dict[tuple[Header, ...], ResponseFields] = {}

    def read(self, headers: Iterable[Iterable[bytes]]) -> ResponseFields:
        """
        Check the fields of a response and find those which concern the server.

        Args:
            headers: Pairs of name and value, both bytes.

        Raises:
            InvalidMessage: A name or value can't be sent.
        """
        # They are pairs if they are known, or if _check() finds nothing wrong.
        key: tuple[Any, ...] = ()
        try:
            key = tuple(headers)
            fields = self._known.get(key)
        except TypeError:
            # Pairs may be lists, which can't be looked up. Headers that can be
            # read only once are in the key.
            return self._check(_pairs(key or headers))
        if fields is None:
            fields = self._check(key)
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[key] = fields
        return fields

    def _check(self, pairs: tuple[Header, ...]) -> ResponseFields:
        headers: list[Header] = []
        length, own, close = None, _NOTHING, False
        kinds = self._kinds
        try:
            for given, value in pairs:
                name, kind = given, kinds.get(given)
                if kind is None:
                    name, kind = self._learn(given)
                if kind is _Kind.LENGTH:
                    if length is not None:
                        raise InvalidMessage("there is more than one content-length")
                    if not _LENGTH.fullmatch(value):
                        raise InvalidMessage(f"content-length {value!r} is invalid")
                    length = int(value)
                elif kind is _Kind.DEFAULT:
                    own |= {name}
                elif kind is _Kind.CONNECTION:
                    close = close or b"close" in value.lower()
                    continue
                elif kind is _Kind.FRAMING:
                    continue
                headers.append((name, value))
        except (TypeError, ValueError, AttributeError) as error:
            raise _explain(pairs, error) from None
        _check_values(headers)
        return ResponseFields(headers, length, own, close)

    def _learn(self, name: bytes) -> tuple[bytes, _Kind]:
        """Check a name that isn't known; tell it in lower case, and its meaning."""
        lower = name.lower()
        if not _TOKEN.fullmatch(lower):  # TypeError for text, which is explained
            # Pseudo-headers of HTTP/2 begin with a colon and end here, too.
            raise InvalidMessage(f"header name {name!r} is no token")
        kind = self._kinds.get(lower, _Kind.PLAIN)
        if kind is _Kind.PLAIN and len(self._kinds) < _MOST_KEPT:
            self._kinds[lower] = kind
        return lower, kind


def read_trailers(fields: Iterable[Iterable[bytes]]) -> list[Header]:
    """
    Check trailers; those which RFC 9110 section 6.5.1 forbids are dropped.

    Raises:
        InvalidMessage: A name or value can't be sent.
    """
    headers = FieldReader().read(fields).headers
    return [field for field in headers if field[0] not in _NO_TRAILERS]


def _check_values(headers: list[Header]) -> None:
    """Search all values at once, as they nearly always hold nothing bad."""
    try:
        values = b"".join([value for _, value in headers])
    except TypeError as error:
        raise _explain(headers, error) from None
    # As numbers, which are found without a detour by an exception.
    if _LF in values or _CR in values or _NUL in values:
        name = next(
            name
            for name, value in headers
            if any(byte in value for byte in (_CR, _LF, _NUL))
        )
        raise InvalidMessage(
            f"the value of header {name.decode()!r} holds a CR, LF or NUL"
        )


def _pairs(headers: object) -> tuple[Header, ...]:
    try:
        pairs = tuple(tuple(pair) for pair in cast("Iterable[Header]", headers))
    except TypeError:
        raise InvalidMessage(
            f"headers must be pairs of bytes, not {short_repr(headers)}"
        ) from None
    return cast("tuple[Header, ...]", pairs)


def _explain(fields: object, error: Exception) -> InvalidMessage:
    """Find which part of the headers isn't as ASGI wants it."""
    if isinstance(error, InvalidMessage):
        return error
    try:
        for name, value in cast("Iterable[tuple[object, object]]", fields):
            for part, what in ((name, "name"), (value, "value")):
                if not isinstance(part, bytes):
                    return _not_bytes(what, part)
    except (TypeError, ValueError):
        pass
    return InvalidMessage(f"headers must be pairs of bytes, not {short_repr(fields)}")


def _not_bytes(what: str, part: object) -> InvalidMessage:
    # Tests of Daphne's users compare this with what Daphne says, letter for letter.
    text = part if isinstance(part, str) else repr(part)
    return InvalidMessage(
        f"Header {what} '{text}' expected to be `bytes`, but got `{type(part)}`"
    )
