"""
Header fields of HTTP/2 to request heads, checked.

What is spelled out is looked at when the decoder meets it (:func:`read_field`). A client
sends fields of the same meaning in the same order with every request, so where a head has
what is worked out once for each such order, and known for all clients after that.

Source: RFC 9113 sections 8.2, 8.3; RFC 8441 section 4; RFC 9110 for semantics.

Tests: ``tests/unit/protocols/test_http2_heads.py``.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from daphne_like.errors import RequestRejected, StreamFailed
from daphne_like.protocols.hpack import StaticTable
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.interfaces import Priority, RequestHead
from daphne_like.protocols.request_rules import AUTHORITY, METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from daphne_like.protocols.interfaces import Header
    from daphne_like.settings import HTTPSettings

__all__ = [
    "STATIC_TABLE",
    "HeadReader",
    "HeadTemplate",
    "Meaning",
    "are_trailers",
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


# As plain numbers, which are compared much faster.
_AUTHORITY, _COOKIE = int(Meaning.AUTHORITY), int(Meaning.COOKIE)
_HOST, _LENGTH_GIVEN = int(Meaning.HOST), int(Meaning.CONTENT_LENGTH)
_PATH = int(Meaning.PATH)
_PLAIN, _UNDERSCORE = int(Meaning.PLAIN), int(Meaning.UNDERSCORE)
_PRIORITY = int(Meaning.PRIORITY)
_BAD_AUTHORITY, _MALFORMED = int(Meaning.BAD_AUTHORITY), int(Meaning.MALFORMED)
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
_MOST_PRIORITY_BYTES = 64
# Longer heads are worked out anew each time.
_MOST_KNOWN_FIELDS = 128
# Those which no value holds; and those which a target does: all that is visible, but
# for the number sign.
_NUL, _CR, _LF = b"\0\r\n"
_NO_TRAILERS = bytes([*range(_PLAIN + 1, _LAST_PSEUDO + 1), _MALFORMED])
_TARGET_BYTES = bytes({*range(0x21, 0x7F)} - {0x23})


def read_field(name: bytes, value: bytes) -> int:
    """Tell the meaning of a field, which is malformed if it breaks the grammar."""
    meaning = _MEANINGS.get(name)
    if meaning is None:
        if not _NAME.fullmatch(name):
            return _MALFORMED
        meaning = _UNDERSCORE if b"_" in name else _PLAIN
    # RFC 9113 section 8.2.1: no NUL, CR, LF, and no blank at either end. This is much
    # faster than a pattern, and done for each new value.
    if _NUL in value or _CR in value or _LF in value or value.strip(b" \t") != value:
        return _MALFORMED
    if meaning == _AUTHORITY and not AUTHORITY.fullmatch(value):
        return _BAD_AUTHORITY
    return meaning


# Whatever a target may not hold is looked for at once, when a head is made.
STATIC_TABLE = StaticTable(read_field, certain=(b":path",))


def are_trailers(meanings: bytes | bytearray) -> bool:
    """Tell whether fields of such meanings may be trailers (RFC 9113 section 8.1)."""
    return meanings.translate(None, _NO_TRAILERS) == meanings


def read_priority(value: bytes) -> Priority:
    """
    Read a Priority field (RFC 9218 section 5): a dictionary of RFC 9651.

    What is malformed is ignored, member by member.
    """
    return _read_priority(value[:_MOST_PRIORITY_BYTES])


@lru_cache(maxsize=256)
def _read_priority(value: bytes) -> Priority:
    urgency, incremental = 3, False
    for member in value.split(b","):
        key, _, text = member.partition(b";")[0].strip().partition(b"=")
        if key == b"u" and len(text) == 1 and b"0" <= text <= b"7":
            urgency = int(text)
        elif key == b"i" and text in (b"", b"?1", b"?0"):
            incremental = text != b"?0"
    return Priority(urgency, incremental)


class HeadTemplate(NamedTuple):
    """
    A head, of which others differ in what their blocks spell out.

    Attributes:
        head: The head.
        steps: Where each literal goes: the place of a header; or ``_TARGET``; or, at
            and below ``_CRUMBS``, a part of the cookie.
        crumbs: The parts of the cookie, if there is more than one.
        cookie: The place of the cookie.
    """

    head: RequestHead
    steps: tuple[int, ...]
    crumbs: list[bytes]
    cookie: int

    @property
    def target_alone(self) -> bool:
        """Whether nothing else differs than the target."""
        return self.steps == _TARGET_ALONE


_TARGET = -1
_TARGET_ALONE = (_TARGET,)
_CRUMBS = -2


class _Layout(NamedTuple):
    """
    Where in a list of fields is what.

    Attributes:
        pseudo: The places of :method and the others, as their meanings count; -1 for none.
        host: The place of the field of that name; or -1.
        kept: The places of those which the application gets, of cookies the first. At
            the beginning is one too many, to be replaced by the host.
        cookie: Which of those kept is the cookie.
        crumbs: Places of cookies, if there is more than one.
        noted: Place and meaning of each other field of which the server takes note.
    """

    pseudo: tuple[int, ...]
    host: int
    kept: tuple[int, ...]
    cookie: int
    crumbs: tuple[int, ...]
    noted: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def _layout_of(meanings: bytes, underscores: str) -> _Layout:
    """
    Work out where fields of such meanings are.

    Args:
        meanings: Of each field, in the order received.
        underscores: What becomes of names with an underscore.

    Raises:
        StreamFailed, RequestRejected: See :meth:`HeadReader.read`.
    """
    if not meanings:
        raise _malformed("there are no fields")
    pseudo = [-1] * (_LAST_PSEUDO + 1)
    host, cookie = -1, 0
    kept = [0]
    crumbs: list[int] = []
    noted: list[tuple[int, int]] = []
    are_regular = False
    for place, meaning in enumerate(meanings):
        if 0 < meaning <= _LAST_PSEUDO:
            # RFC 9113 section 8.3: each once, and before the others.
            if are_regular or pseudo[meaning] >= 0:
                raise _malformed("a pseudo-header is twice there, or too late")
            pseudo[meaning] = place
            continue
        are_regular = True
        if meaning == _HOST:
            if host >= 0:
                raise _malformed("there is more than one host")
            host = place
        elif meaning == _COOKIE:
            if not crumbs:
                cookie = len(kept)
                kept.append(place)
            crumbs.append(place)
        elif meaning == _PLAIN or _is_kept(meaning, underscores):
            kept.append(place)
            if meaning not in (_PLAIN, _UNDERSCORE):
                noted.append((place, meaning))
    if meanings.count(_LENGTH_GIVEN) > 1:
        raise _malformed("content-length is invalid, or there twice")
    if len(crumbs) == 1:
        crumbs.clear()
    return _Layout(
        tuple(pseudo[1:]), host, tuple(kept), cookie, tuple(crumbs), tuple(noted)
    )


def _is_kept(meaning: int, underscores: str) -> bool:
    """Tell whether the application gets a field which isn't a usual one."""
    if meaning == _MALFORMED:
        raise _malformed("a field has no place here, or breaks the grammar")
    if meaning == _BAD_AUTHORITY:
        raise RequestRejected(400, "The Host is invalid.")
    if meaning != _UNDERSCORE:
        return True
    # CGI-like environments fold "_" and "-" (CVE-2015-0219).
    if underscores == "reject":
        raise RequestRejected(400, "A header name holds an underscore.")
    return underscores == "keep"


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

    def read(
        self, fields: Sequence[Header], meanings: bytes | bytearray, *, ended: bool
    ) -> RequestHead:
        """
        Put a head together.

        Args:
            fields: In the order received.
            meanings: Of each, as :func:`read_field` tells it.
            ended: No body follows.

        Raises:
            StreamFailed: The request is malformed.
            RequestRejected: It is above a limit, or asks for what isn't there.
        """
        places, host_at, kept, cookie_at, crumbs, noted = self._layout(meanings)
        pseudo = [None if place < 0 else fields[place][1] for place in places]
        method, scheme, path, authority, protocol = pseudo
        head = RequestHead(b"")
        head.http_version = "2"
        head.headers = headers = list(map(fields.__getitem__, kept))
        if crumbs:
            # RFC 9113 section 8.2.3: crumbs are one field elsewhere.
            cookie = b"; ".join([fields[place][1] for place in crumbs])
            headers[cookie_at] = b"cookie", cookie
        known = METHODS.get(method or b"")
        if known and scheme in _SCHEMES and path and protocol is None:
            head.method = known
            self._read_target(head, path)
        else:
            self._read_other_line(head, pseudo)
        if noted:
            self._read_noted(head, fields, noted)
        host = None if host_at < 0 else fields[host_at][1]
        headers[0] = b"host", _read_host(authority, host)
        if head.is_websocket:
            # RFC 9110 section 9.3.6: CONNECT has no content, but bytes of a tunnel.
            head.content_length = -1
        else:
            if ended and head.content_length > 0:
                raise _malformed("the body is shorter than its content-length")
            head.has_body = not ended
        if not head.has_body:
            head.expects_continue = False
        if len(headers) > self._most_fields:
            raise RequestRejected(431, "There are too many header fields.")
        return head

    def template_of(
        self,
        head: RequestHead,
        fields: Sequence[Header],
        meanings: bytes | bytearray,
        literals: Iterable[int],
    ) -> HeadTemplate | None:
        """
        Make what heads with other literals are made of.

        Args:
            head: One without a body.
            fields: Those of which it was made.
            meanings: Of each.
            literals: Which of them are to be replaced.

        Returns:
            ``None`` if one of them says more than its own value.
        """
        layout = self._layout(meanings)
        crumbs = layout.crumbs
        steps = []
        for place in literals:
            meaning = meanings[place]
            if place in crumbs:
                steps.append(_CRUMBS - crumbs.index(place))
            elif meaning in (_PLAIN, _COOKIE):
                steps.append(layout.kept.index(place, 1))
            elif meaning == _PATH:
                steps.append(_TARGET)
            else:
                return None
        values = [fields[place][1] for place in crumbs]
        return HeadTemplate(head, tuple(steps), values, layout.cookie)

    def fill(self, template: HeadTemplate, literals: Sequence[Header]) -> RequestHead:
        """
        Make a head which differs in its literals alone.

        Args:
            template: What it is like.
            literals: Fields with the same meanings as those of the template.

        Raises:
            StreamFailed, RequestRejected: See :meth:`read`.
        """
        known, steps, crumbs, cookie_at = template
        headers = known.headers
        if steps != _TARGET_ALONE:
            headers = headers.copy()
        head = known.with_headers(headers)
        values = None
        # As many, since the shape was the same; to look costs more than it tells.
        for step, field in zip(steps, literals):  # noqa: B905
            if step >= 0:
                headers[step] = field
            elif step == _TARGET:
                self._read_target(head, field[1])
            else:
                if values is None:
                    values = crumbs.copy()
                values[_CRUMBS - step] = field[1]
        if values is not None:
            headers[cookie_at] = b"cookie", b"; ".join(values)
        return head

    def is_small(self, most_bytes: int) -> bool:
        """Tell that fields are within the limit if they count no more than this."""
        return not 0 < self._limits.limit_request_header < most_bytes

    def check_size(self, fields: Iterable[Header], most: int) -> None:
        """
        Hold the size of a head against its limit, as HTTP/1 counts it.

        Args:
            fields: As decoded.
            most: What they count at most.

        Raises:
            RequestRejected: It is too large.
        """
        if self.is_small(most):
            return
        limit = self._limits.limit_request_header
        size = total = 0
        for name, value in fields:
            count = len(name) + len(value)
            total += count + 32
            if name[:1] != b":":
                size += count + 4
            # Attack: a block of indexes stands for a hundred thousand fields.
            if size > limit or total > self.most_bytes:
                raise RequestRejected(431, "The header fields are too large.")

    def _layout(self, meanings: bytes | bytearray) -> _Layout:
        find = (
            _layout_of
            if len(meanings) <= _MOST_KNOWN_FIELDS
            else _layout_of.__wrapped__
        )
        return find(bytes(meanings), self._limits.header_underscores)

    def _read_noted(
        self,
        head: RequestHead,
        fields: Sequence[Header],
        noted: tuple[tuple[int, int], ...],
    ) -> None:
        for place, meaning in noted:
            value = fields[place][1]
            if meaning == _PRIORITY:
                head.priority = read_priority(value)
            elif meaning == Meaning.CONTENT_LENGTH:
                if not _LENGTH.fullmatch(value):
                    raise _malformed("content-length is invalid, or there twice")
                head.content_length = int(value)
            elif meaning == Meaning.EXPECT:
                # RFC 9110 section 10.1.1: others may be ignored.
                head.expects_continue = value.lower() == b"100-continue"
            elif meaning == Meaning.TE:
                if value.lower() != b"trailers":
                    raise _malformed("te is something else than trailers")
                head.accepts_trailers = True
        if head.content_length > self._limits.limit_request_body > 0:
            raise RequestRejected(413, "The request body is too large.")

    def _read_other_line(self, head: RequestHead, pseudo: list[bytes | None]) -> None:
        """Check what was the request line in HTTP/1 (RFC 9113 section 8.3.1)."""
        method, scheme, path, _, protocol = pseudo
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
        _, scheme, path, authority, protocol = pseudo
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


def _read_host(authority: bytes | None, host: bytes | None) -> bytes:
    """Let :authority be the host (RFC 9113 section 8.3.1)."""
    if authority is None:
        if host is None:
            raise RequestRejected(400, "There is no Host.")
        if not AUTHORITY.fullmatch(host):
            raise RequestRejected(400, "The Host is invalid.")
        return host
    if host is not None and host != authority:
        raise _malformed("host isn't what :authority says")
    return authority


def _malformed(reason: str) -> StreamFailed:
    """Say that a request is malformed (RFC 9113 section 8.1.1)."""
    return StreamFailed(ErrorCode.PROTOCOL_ERROR, reason)
