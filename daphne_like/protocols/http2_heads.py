"""
Header fields of HTTP/2 to request heads, checked.

Each literal is looked at once, when the decoder meets it (:func:`read_field`);
a head is then put together of fields whose meaning is known.

Source: RFC 9113 sections 8.2, 8.3; RFC 8441 section 4; RFC 9110 for semantics.

Tests: ``tests/unit/protocols/test_http2_heads.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from daphne_like.errors import RequestRejected, StreamFailed
from daphne_like.protocols.hpack import static_fields
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.interfaces import RequestHead
from daphne_like.protocols.request_rules import AUTHORITY, METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daphne_like.protocols.interfaces import Header
    from daphne_like.settings import HTTPSettings

__all__ = [
    "DEFAULT_PRIORITY",
    "STATIC_FIELDS",
    "Field",
    "HeadReader",
    "Meaning",
    "Priority",
    "ReadHead",
    "read_field",
    "read_priority",
]


class Meaning(IntEnum):
    """What a field is to the server."""

    PLAIN = 0
    METHOD = 1
    SCHEME = 2
    PATH = 3
    AUTHORITY = 4
    PROTOCOL = 5
    # Behind the pseudo-header fields: those of which the server takes note.
    COOKIE = 6
    CONTENT_LENGTH = 7
    EXPECT = 8
    HOST = 9
    TE = 10
    PRIORITY = 11
    UNDERSCORE = 12
    BAD_AUTHORITY = 13
    MALFORMED = 14


Field = tuple["Header", int, int]
"""A field, its :class:`Meaning`, and what it counts."""

# As plain numbers, which are compared much faster.
_PLAIN, _AUTHORITY, _COOKIE = 0, int(Meaning.AUTHORITY), int(Meaning.COOKIE)
_UNDERSCORE, _BAD_AUTHORITY = int(Meaning.UNDERSCORE), int(Meaning.BAD_AUTHORITY)
_MALFORMED = int(Meaning.MALFORMED)
_LAST_PSEUDO = int(Meaning.PROTOCOL)

_MEANINGS: dict[bytes, int] = {
    b":method": int(Meaning.METHOD),
    b":scheme": int(Meaning.SCHEME),
    b":path": int(Meaning.PATH),
    b":authority": int(Meaning.AUTHORITY),
    b":protocol": int(Meaning.PROTOCOL),
    b"cookie": int(Meaning.COOKIE),
    b"content-length": int(Meaning.CONTENT_LENGTH),
    b"expect": int(Meaning.EXPECT),
    b"host": int(Meaning.HOST),
    b"priority": int(Meaning.PRIORITY),
    b"te": int(Meaning.TE),
    # RFC 9113 section 8.2.2: fields of a connection have no place in HTTP/2.
    b"connection": int(Meaning.MALFORMED),
    b"keep-alive": int(Meaning.MALFORMED),
    b"proxy-connection": int(Meaning.MALFORMED),
    b"transfer-encoding": int(Meaning.MALFORMED),
    b"upgrade": int(Meaning.MALFORMED),
}

# RFC 9113 section 8.2.1: a token without capitals.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEMES = (b"https", b"http")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
# Priorities are short; what is behind is ignored.
_MOST_PRIORITY_BYTES = 256
# Those which no value holds; and those which a target does: all that is visible, but
# for the number sign.
_FORBIDDEN = b"\0\r\n"
_TARGET_BYTES = bytes({*range(0x21, 0x7F)} - {0x23})


def read_field(name: bytes, value: bytes) -> int:
    """Tell the meaning of a field, which is malformed if it breaks the grammar."""
    meaning = _MEANINGS.get(name)
    if meaning is None:
        if not _NAME.fullmatch(name):
            return _MALFORMED
        meaning = _UNDERSCORE if b"_" in name else _PLAIN
    # RFC 9113 section 8.2.1: no NUL, CR, LF, and no blank at either end. These two
    # are much faster than a pattern, and this is done for each new value.
    if len(value.translate(None, _FORBIDDEN)) != len(value):
        return _MALFORMED
    if len(value.strip(b" \t")) != len(value):
        return _MALFORMED
    if meaning == _AUTHORITY and not AUTHORITY.fullmatch(value):
        return _BAD_AUTHORITY
    return meaning


STATIC_FIELDS: tuple[Field, ...] = static_fields(read_field)


class Priority(NamedTuple):
    """
    How urgent a response is (RFC 9218 section 4).

    Attributes:
        urgency: 0 is served first, 7 last.
        incremental: It takes turns with others as urgent, instead of going out
            as a whole. So do responses of clients which say nothing.
    """

    urgency: int = 3
    incremental: bool = True


DEFAULT_PRIORITY = Priority()


def read_priority(value: bytes) -> Priority:
    """
    Read a Priority field (RFC 9218 section 5): a dictionary of RFC 9651.

    What is malformed is ignored, member by member.
    """
    urgency, incremental = 3, False
    for member in value[:_MOST_PRIORITY_BYTES].split(b","):
        key, _, text = member.partition(b";")[0].strip().partition(b"=")
        if key == b"u" and len(text) == 1 and b"0" <= text <= b"7":
            urgency = int(text)
        elif key == b"i" and text in (b"", b"?1", b"?0"):
            incremental = text != b"?0"
    return Priority(urgency, incremental)


@dataclass(slots=True)
class ReadHead:
    """
    A head, and what the protocol wants to know of it.

    Attributes:
        head: For the application.
        length: Bytes which the body is announced to have; -1 when it isn't.
        priority: How urgent the client finds it.
    """

    head: RequestHead
    length: int = -1
    priority: Priority = DEFAULT_PRIORITY


class HeadReader:
    """
    Makes request heads within limits.

    Args:
        limits: Those which are the same for every HTTP version.

    Attributes:
        most_bytes: What the fields of a head may count (RFC 9113 section 6.5.2).
    """

    def __init__(self, limits: HTTPSettings) -> None:
        self._limits = limits
        self._most_target_bytes = limits.limit_request_line or inf
        self._most_fields = limits.limit_request_fields or inf
        self.most_bytes = 2**31 - 1
        if limits.limit_request_header and limits.limit_request_line:
            # What such a head counts when it is as large as HTTP/1 would let it
            # be: with 32 bytes for each field, and five for the request line.
            fields = min(self._most_fields, limits.limit_request_header // 4) + 5
            self.most_bytes = int(
                limits.limit_request_header + limits.limit_request_line + 32 * fields
            )

    def read(self, fields: Iterable[Field], *, ended: bool) -> ReadHead:
        """
        Put a head together.

        Args:
            fields: In the order received.
            ended: No body follows.

        Raises:
            StreamFailed: The request is malformed.
            RequestRejected: It is above a limit, or asks for what isn't there.
        """
        pseudo: list[bytes | None] = [None] * (_LAST_PSEUDO + 1)
        headers: list[Header] = []
        noted: list[tuple[int, bytes]] = []
        crumbs: list[bytes] = []
        cookie = 0
        for pair, meaning, _ in fields:
            if not meaning:
                headers.append(pair)
            elif meaning == _COOKIE:
                if not crumbs:
                    cookie = len(headers)
                    headers.append(pair)
                crumbs.append(pair[1])
            elif meaning > _LAST_PSEUDO:
                self._note(pair, meaning, headers, noted)
            # RFC 9113 section 8.3: each once, and before the others.
            elif headers or noted or pseudo[meaning] is not None:
                raise _malformed("a pseudo-header is twice there, or too late")
            else:
                pseudo[meaning] = pair[1]
        if len(crumbs) > 1:
            # RFC 9113 section 8.2.3: crumbs are one field elsewhere.
            headers[cookie] = (b"cookie", b"; ".join(crumbs))
        head = RequestHead(b"")
        head.http_version = "2"
        head.headers = headers
        self._read_request_line(head, pseudo)
        read = ReadHead(head)
        if noted:
            self._read_noted(read, noted)
        self._read_authority(head, pseudo[_AUTHORITY])
        if head.is_websocket:
            # RFC 9110 section 9.3.6: CONNECT has no content, but bytes of a tunnel.
            read.length = -1
        else:
            if ended and read.length > 0:
                raise _malformed("the body is shorter than its content-length")
            head.has_body = not ended
        if not head.has_body:
            head.expects_continue = False
        if len(headers) > self._most_fields:
            raise RequestRejected(431, "There are too many header fields.")
        return read

    def with_target(self, read: ReadHead, target: bytes) -> ReadHead:
        """
        Make a head which differs in its target alone.

        Raises:
            StreamFailed, RequestRejected: See :meth:`read`.
        """
        known = read.head
        head = RequestHead(b"")
        head.method = known.method
        head.http_version = "2"
        head.headers = known.headers
        head.accepts_trailers = known.accepts_trailers
        head.is_websocket = known.is_websocket
        self._read_target(head, target)
        return ReadHead(head, read.length, read.priority)

    def check_size(self, fields: Iterable[Field], total: int) -> None:
        """
        Hold the size of a head against its limit, as HTTP/1 counts it.

        Args:
            fields: As decoded.
            total: What they count, with those that were left out.

        Raises:
            RequestRejected: It is too large.
        """
        limit = self._limits.limit_request_header
        if not 0 < limit < total:
            return
        size = sum(
            size - 28 for _, meaning, size in fields if not 0 < meaning <= _LAST_PSEUDO
        )
        if size > limit or total > self.most_bytes:
            raise RequestRejected(431, "The header fields are too large.")

    def _note(
        self,
        pair: Header,
        meaning: int,
        headers: list[Header],
        noted: list[tuple[int, bytes]],
    ) -> None:
        """Take a field of which the server takes note."""
        value = pair[1]
        if meaning == Meaning.MALFORMED:
            raise _malformed("a field has no place here, or breaks the grammar")
        if meaning == Meaning.BAD_AUTHORITY:
            raise RequestRejected(400, "The Host is invalid.")
        if meaning == Meaning.UNDERSCORE:
            # CGI-like environments fold "_" and "-" (CVE-2015-0219).
            policy = self._limits.header_underscores
            if policy == "reject":
                raise RequestRejected(400, "A header name holds an underscore.")
            if policy == "keep":
                headers.append(pair)
            else:
                noted.append((meaning, value))
            return
        if meaning == Meaning.TE and value.lower() != b"trailers":
            raise _malformed("te is something else than trailers")
        noted.append((meaning, value))
        if meaning != Meaning.HOST:
            headers.append(pair)

    def _read_noted(self, read: ReadHead, noted: list[tuple[int, bytes]]) -> None:
        head = read.head
        host: bytes | None = None
        for meaning, value in noted:
            if meaning == Meaning.CONTENT_LENGTH:
                if read.length >= 0 or not _LENGTH.fullmatch(value):
                    raise _malformed("content-length is invalid, or there twice")
                read.length = int(value)
            elif meaning == Meaning.HOST:
                if host is not None:
                    raise _malformed("there is more than one host")
                host = value
                head.headers.insert(0, (b"host", value))
            elif meaning == Meaning.EXPECT:
                # RFC 9110 section 10.1.1: others may be ignored.
                head.expects_continue = value.lower() == b"100-continue"
            elif meaning == Meaning.PRIORITY:
                read.priority = read_priority(value)
            elif meaning == Meaning.TE:
                head.accepts_trailers = True
        if read.length > self._limits.limit_request_body > 0:
            raise RequestRejected(413, "The request body is too large.")

    def _read_request_line(self, head: RequestHead, pseudo: list[bytes | None]) -> None:
        """Check what was the request line in HTTP/1 (RFC 9113 section 8.3.1)."""
        _, method, scheme, path, _, protocol = pseudo
        known = METHODS.get(method or b"")
        if known is None:
            if method == b"CONNECT":
                self._read_connect(head, pseudo)
                return
            if method is None or not _TOKEN.fullmatch(method):
                raise _malformed(":method is missing or invalid")
        if protocol is not None:
            raise _malformed(":protocol is there without CONNECT")
        if scheme not in _SCHEMES and not _SCHEME.fullmatch(scheme or b""):
            raise _malformed(":scheme is missing or invalid")
        if path is None:
            raise _malformed(":path is missing")
        if known is None:
            # RFC 9110 section 9.1: 501 to a method the server doesn't recognize.
            raise RequestRejected(501, "The method is not implemented.")
        head.method = known
        self._read_target(head, path)

    def _read_target(self, head: RequestHead, path: bytes) -> None:
        if len(path) > self._most_target_bytes:
            raise RequestRejected(414, "The request target is too long.")
        # RFC 3986 section 3.3.
        if (
            path[:1] != b"/" and not (path == b"*" and head.method == "OPTIONS")
        ) or path.translate(None, _TARGET_BYTES):
            raise _malformed(":path is invalid")
        head.target = path

    def _read_connect(self, head: RequestHead, pseudo: list[bytes | None]) -> None:
        """Take a request for a WebSocket (RFC 8441 section 4) and no other CONNECT."""
        _, _, scheme, path, authority, protocol = pseudo
        if authority is None:
            raise _malformed(":authority is missing")
        if protocol is None:
            # RFC 9113 section 8.5.
            if scheme is not None or path is not None:
                raise _malformed("CONNECT has a :scheme or a :path")
            raise RequestRejected(501, "The method is not implemented.")
        if scheme is None or path is None:
            raise _malformed(":scheme or :path is missing")
        if protocol != b"websocket":
            # RFC 9220 section 3 says it for both: 501 to an unknown protocol.
            raise RequestRejected(501, "The protocol is not implemented.")
        head.method = "CONNECT"
        head.is_websocket = True
        self._read_target(head, path)

    def _read_authority(self, head: RequestHead, authority: bytes | None) -> None:
        """Let :authority be the host (RFC 9113 section 8.3.1)."""
        headers = head.headers
        if not headers or headers[0][0] != b"host":
            if authority is None:
                raise RequestRejected(400, "There is no Host.")
            headers.insert(0, (b"host", authority))
        elif authority is None:
            if not AUTHORITY.fullmatch(headers[0][1]):
                raise RequestRejected(400, "The Host is invalid.")
        elif headers[0][1] != authority:
            raise _malformed("host isn't what :authority says")


def _malformed(reason: str) -> StreamFailed:
    """Say that a request is malformed (RFC 9113 section 8.1.1)."""
    return StreamFailed(ErrorCode.PROTOCOL_ERROR, reason)
