"""
The opening handshake, as far as it is the same over every HTTP version.

The HTTP layer has parsed and checked the request as such; this module reads
the fields which are the handshake's own. Whatever is wrong with them is
answered in HTTP, and nothing of it reaches an application or Autobahn.

Source: RFC 6455 sections 4.2 and 9.1; RFC 8441 section 5.

Tests: ``tests/unit/protocols/test_websocket_handshake.py``.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING

from daphne_like.errors import RequestRejected

if TYPE_CHECKING:
    from daphne_like.protocols.interfaces import RequestHead
    from daphne_like.protocols.websocket_deflate import Extension

__all__ = ["Handshake", "accept_key", "read_handshake"]

# RFC 6455 section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# RFC 9110 section 5.6.2 and 5.6.4.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED_TOKEN = rf'"({_TOKEN})"'
_PROTOCOLS = re.compile(rf"{_TOKEN}(?:[ \t]*,[ \t]*{_TOKEN})*")
_PARAMETER = re.compile(
    rf"[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|{_QUOTED_TOKEN}))?"
)
_EXTENSION = re.compile(rf"[ \t]*({_TOKEN})((?:{_PARAMETER.pattern})*)[ \t]*(?:,|$)")

# Those of RFC 6455 and of its last draft, which differ in a field's name only.
_VERSIONS = (b"13", b"8")


@dataclass(frozen=True, slots=True)
class Handshake:
    """
    What a client asks for.

    Attributes:
        subprotocols: Those it can speak, by preference.
        extensions: Those it offers, by preference.
    """

    subprotocols: list[str]
    extensions: list[Extension]


def read_handshake(head: RequestHead, version_status: int = 426) -> Handshake:
    """
    Check the fields of an opening handshake.

    Args:
        head: The request.
        version_status: Answers an unknown version in HTTP/1.1: 426, or 400.

    Raises:
        RequestRejected: Something is wrong with them.
    """
    if head.method != "GET" and head.http_version == "1.1":
        raise RequestRejected(
            405, "A WebSocket is opened by GET.", ((b"allow", b"GET"),)
        )
    if head.has_body:
        raise RequestRejected(400, "A WebSocket handshake has no body.")
    fields: dict[bytes, list[bytes]] = {}
    for name, value in head.headers:
        if name.startswith(b"sec-websocket-"):
            fields.setdefault(name, []).append(value)
    versions = fields.get(b"sec-websocket-version", [])
    if len(versions) != 1:
        raise RequestRejected(400, "Sec-WebSocket-Version has to be there once.")
    if versions[0] not in _VERSIONS and (
        # RFC 9110 section 15.5.22: 426 asks for an Upgrade, which HTTP/2 hasn't.
        head.http_version != "1.1" or version_status == 400
    ):
        raise RequestRejected(
            400,
            "The WebSocket version is not supported; 13 and 8 are.",
            ((b"sec-websocket-version", b"13, 8"),),
        )
    if versions[0] not in _VERSIONS:
        # RFC 6455 section 4.4; RFC 9110 section 15.5.22 asks for an Upgrade.
        raise RequestRejected(
            426,
            "The WebSocket version is not supported; 13 and 8 are.",
            (
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-version", b"13, 8"),
            ),
        )
    if head.http_version == "1.1":
        _check_key(fields.get(b"sec-websocket-key", []))
    return Handshake(
        _subprotocols(fields.get(b"sec-websocket-protocol", [])),
        _extensions(fields.get(b"sec-websocket-extensions", [])),
    )


def _check_key(keys: list[bytes]) -> None:
    """RFC 6455 section 4.1: 16 bytes in base64, and only once."""
    try:
        valid = len(keys) == 1 and len(b64decode(keys[0], validate=True)) == 16
    except ValueError:
        valid = False
    if not valid:
        raise RequestRejected(400, "The Sec-WebSocket-Key is invalid.")


def _subprotocols(values: list[bytes]) -> list[str]:
    """RFC 6455 section 4.1: tokens, each only once."""
    names: list[str] = []
    for value in values:
        text = value.decode("latin-1")
        if not _PROTOCOLS.fullmatch(text):
            raise RequestRejected(400, "The Sec-WebSocket-Protocol is invalid.")
        names += [name.strip(" \t") for name in text.split(",")]
    if len({*names}) < len(names):
        raise RequestRejected(400, "A WebSocket subprotocol is named twice.")
    return names


def _extensions(values: list[bytes]) -> list[Extension]:
    """RFC 6455 section 9.1: names with parameters, whose values are tokens."""
    offers: list[Extension] = []
    for value in values:
        text, position = value.decode("latin-1"), 0
        while position < len(text):
            match = _EXTENSION.match(text, position)
            if match is None:
                raise RequestRejected(400, "The Sec-WebSocket-Extensions are invalid.")
            position = match.end()
            parameters: dict[str, str | None] = {}
            for name, token, quoted in _PARAMETER.findall(match[2]):
                # Twice the same: no offer that could be met.
                twice = name in parameters
                parameters[name] = "" if twice else token or quoted or None
            offers.append((match[1], parameters))
    return offers


def accept_key(head: RequestHead) -> bytes:
    """Answer the challenge of a checked handshake (RFC 6455 section 4.2.2)."""
    key = next(value for name, value in head.headers if name == b"sec-websocket-key")
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
