"""
HTTP/1 requests out of bytes: httptools (llhttp) and the checks it leaves to us.

:class:`RequestReader` does no I/O and knows no time. It is fed bytes and tells
its sink of heads, body pieces and ends; what breaks a rule or a limit raises
:class:`~daphne_like.errors.RequestRejected`, after which nothing more may be
fed: what follows a framing error can't be trusted (RFC 9112 section 11.2).

A fault can lie behind a complete head, in the same bytes. The sink therefore
waits for :meth:`RequestReader.feed` to return before it acts on a head.

Source: RFC 9112 (messages), RFC 9110 (semantics).

Tests: ``tests/unit/protocols/test_http1_reader.py``.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, NoReturn, Protocol

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from daphne_like.errors import RequestRejected
from daphne_like.protocols.http2_frames import PREFACE
from daphne_like.protocols.interfaces import RequestHead
from daphne_like.protocols.request_rules import AUTHORITY, METHODS

if TYPE_CHECKING:
    from daphne_like.settings import HTTPSettings

__all__ = ["FEED_BYTES", "RequestReader", "RequestSink"]

FEED_BYTES = 16 * 1024
"""The most to feed at once outside a body, so that limits are seen in time."""

# Fields that decide how a message is framed, routed or answered.
_NOTED = frozenset(
    (
        *(b"host", b"connection", b"content-length", b"transfer-encoding"),
        *(b"expect", b"te", b"upgrade"),
    )
)

_ABSOLUTE_FORM = re.compile(
    rb"https?://([^/?]*)(/[^?]*)?(\?.*)?", re.DOTALL | re.IGNORECASE
)
_BLANK_LINES = re.compile(rb"[\r\n]*")
_METHOD_START = re.compile(rb"[\r\n]*[!#$%&'*+.^_`|~0-9A-Za-z-]")
_END_OF_REQUEST_LINE = re.compile(rb" HTTP/[0-9]\.[0-9]\r?\Z")

# Names as received that need no look at all, and how they are passed on. Those
# which clients use are learned; a client that makes names up fills the table,
# which then still holds the common ones.
_PLAIN_NAMES: dict[bytes, bytes] = {}
for _name in (
    b"Accept Accept-Charset Accept-Encoding Accept-Language Authorization "
    b"Cache-Control Content-Type Cookie DNT If-Match If-Modified-Since "
    b"If-None-Match Origin Pragma Priority Range Referer Sec-CH-UA "
    b"Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode "
    b"Sec-Fetch-Site Sec-Fetch-User Traceparent Upgrade-Insecure-Requests "
    b"User-Agent X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Real-IP "
    b"X-Request-ID"
).split():
    _PLAIN_NAMES[_name] = _PLAIN_NAMES[_name.lower()] = _name.lower()
_MOST_NAMES = 1024
_MOST_NAME_BYTES = 64

# Each byte of a chunked body pays for so many bytes of chunk sizes, extensions
# and trailers; chunks of one byte need five. One head's worth comes on top.
_FRAMING_PER_BODY_BYTE = 8
_LEAST_FRAMING_BYTES = 16 * 1024

# Heads up to this size are compared with the one before.
_MOST_REPEATED_BYTES = 512


class RequestSink(Protocol):
    """Who is told what was read, in order."""

    def request_received(self, head: RequestHead) -> None:
        """A head is complete and valid."""

    def body_received(self, data: bytes) -> None:
        """A piece of the body, never empty, chunked coding removed."""

    def body_ended(self) -> None:
        """The body is complete; not called for a head that has none."""


class RequestReader:
    """
    Reads the requests of one connection.

    Attributes:
        keep_alive: The last head leaves the connection open for another one.
            When it doesn't, whatever follows its body is ignored.
        head_begun: Bytes of a head have arrived which isn't complete.
        upgraded: What follows the last head isn't HTTP: nothing may be fed.
        rest: Those bytes behind that head which were fed together with it.
        http2: All bytes fed, when they begin as those of HTTP/2 do, or as no
            request of HTTP/1 does.
        h2c: The last head asks for HTTP/2 instead, and may have it: the same
            as ``upgraded``.
        repeated: What was fed last, if that was one plain request without a
            body which has come twice. Between messages parsing is a function
            of the bytes alone: when the same come again, they needn't be fed,
        repeated_head: but are this request once more.
    """

    __slots__ = (
        "_body_bytes",
        "_chunked",
        "_completed",
        "_content_length",
        "_counted_fields",
        "_dropped_bytes",
        "_dropped_fields",
        "_fault",
        "_first_bytes",
        "_h2c_asked",
        "_head",
        "_head_bytes",
        "_host",
        "_host_seen",
        "_in_body",
        "_last_fed",
        "_last_head",
        "_limits",
        "_may_be_plain",
        "_most_fields",
        "_most_target_bytes",
        "_odd_line",
        "_parser",
        "_plain",
        "_sink",
        "_takes_h2c",
        "_unparsed_bytes",
        "h2c",
        "head_begun",
        "http2",
        "keep_alive",
        "repeated",
        "repeated_head",
        "rest",
        "upgraded",
    )

    def __init__(
        self, limits: HTTPSettings, sink: RequestSink, *, takes_h2c: bool = False
    ) -> None:
        self._limits = limits
        self._takes_h2c = takes_h2c
        self._h2c_asked = False
        self._most_target_bytes = limits.limit_request_line or inf
        self._most_fields = limits.limit_request_fields or inf
        self._sink = sink
        self.keep_alive = True
        self.head_begun = False
        self.upgraded = False
        self.rest = b""
        self.http2 = b""
        self.h2c = False
        self._first_bytes = b""
        # The connection's first line, if it begins with no method that is known.
        self._odd_line = b""
        self._completed = 0
        self._host = b""
        self._host_seen = False
        # A head is plain when nothing in it, nor in the way it came, asks for
        # more than the checks which every head gets.
        self._may_be_plain = self._counts_by_feed()
        self._plain = True
        # What was fed last if it was one plain head and nothing else, and that
        # head.
        self._last_fed = b""
        self._last_head: RequestHead | None = None
        self.repeated: bytes | None = None
        self.repeated_head = RequestHead(b"")
        self._in_body = False
        self._chunked = False
        self._content_length = 0
        self._body_bytes = 0
        self._head: RequestHead | None = None
        # Of a head that comes in pieces: fields counted, their bytes, and
        # bytes which the parser keeps to itself until a field is complete.
        # Fields with an underscore count although they are dropped.
        self._counted_fields = 0
        self._head_bytes = 0
        self._dropped_fields = 0
        self._dropped_bytes = 0
        self._unparsed_bytes = 0
        self._fault: tuple[int, str] | None = None
        self._parser = HttpRequestParser(self)

    def close(self) -> None:
        """Break the cycle between the parser and its callbacks."""
        del self._parser, self._sink

    @property
    def remaining_body_bytes(self) -> float:
        """Bytes of the body still to come; ``inf`` when they aren't known."""
        if not self._in_body:
            return 0
        return inf if self._chunked else self._content_length - self._body_bytes

    def feed(self, data: bytes) -> bool:
        """
        Parse the next bytes of the connection.

        Args:
            data: At most :data:`FEED_BYTES`, but in mid-body any size.

        Returns:
            Whether a head has begun with these bytes that isn't complete.

        Raises:
            RequestRejected: The peer gets its status, then the connection ends.
        """
        if self._odd_line:
            return self._read_odd_line(data)
        again = data == self._last_fed
        self._last_fed, self.repeated = b"", None
        completed = self._completed
        rest = data
        while True:
            try:
                self._parser.feed_data(rest)
                break
            except HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                if self.upgraded:
                    self.rest = rest
                    return False
                rest = self._ignore_upgrade(rest)
            except HttpParserError as error:
                if isinstance(error, HttpParserCallbackError) and not self._fault:
                    raise  # the sink's own
                if not self.keep_alive and not self._in_body and self._head is None:
                    # RFC 9112 section 9.6: nothing after "close" is a request.
                    return False
                if self._begins_oddly(error, data):
                    return self._read_odd_line(self._first_bytes + data)
                raise self._explain(error, data) from None
        if completed == self._completed or self._head is not None:
            return self._bound(data)
        if (
            self._plain
            and len(data) <= _MOST_REPEATED_BYTES
            and self._completed == completed + 1
        ):
            self._last_fed = data
            if again and self._last_head is not None:
                self.repeated, self.repeated_head = data, self._last_head
        self._last_head = None
        return False

    def _counts_by_feed(self) -> bool:
        """
        Whether a head within one feed can't exceed the limit for fields.

        Fields count as written with a space behind the colon. Without it they
        take fewer bytes than they count, but more than half of them.
        """
        return not 0 < self._limits.limit_request_header < 2 * FEED_BYTES

    def _explain(self, error: HttpParserError, data: bytes) -> RequestRejected:
        """
        Find the status for what was refused, by us or by llhttp.

        llhttp's texts are constants. Our own exception isn't asked of the
        parser's, which loses it when another one is being handled meanwhile.
        """
        if self._fault is not None:
            return RequestRejected(*self._fault)
        text = _text_of(error)
        if _is_unknown_method(error):
            fresh = not self._completed and not self.head_begun
            if fresh and not _METHOD_START.match(data):
                # Another protocol altogether: TLS on a plain port, say.
                return _not_http()
            return _unknown_method()
        if text == "Pause on PRI/Upgrade" and not self._completed:
            begun = self._first_bytes + data
            if begun.startswith(PREFACE):
                self.http2 = begun
        if text in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
            return RequestRejected(505, "The HTTP version is not supported.")
        return RequestRejected(400, f"{text}.")

    def _begins_oddly(self, error: HttpParserError, data: bytes) -> bool:
        """Whether the connection begins with a word, which is no method we know."""
        return (
            not self._completed
            and self._head is None
            and _is_unknown_method(error)
            and _METHOD_START.match(self._first_bytes + data) is not None
        )

    def _read_odd_line(self, data: bytes) -> bool:
        """
        Take more of such a line; its end tells what it is.

        Raises:
            RequestRejected: That is known now.
        """
        self._odd_line += data
        line, end, _ = self._odd_line.lstrip(b"\r\n").partition(b"\n")
        if not end and len(line) < FEED_BYTES:
            begins, self.head_begun = not self.head_begun, True
            return begins
        if _END_OF_REQUEST_LINE.search(line):
            raise _unknown_method()
        # RFC 9113 section 3.4: where HTTP/2 is spoken, an invalid preface of that.
        self.http2 = self._odd_line
        raise _not_http()

    def _ignore_upgrade(self, rest: bytes) -> bytes:
        """
        Go on without the upgrade; RFC 9110 section 7.8 lets a server ignore it.

        llhttp takes all that follows for the other protocol. When the request
        announced a body, that is what follows, and it must never be parsed as
        a request: a parser which has seen nothing but the framing reads it.

        Returns:
            What is to be parsed next.
        """
        if self._in_body:
            framing = b"content-length: %d" % self._content_length
            if self._chunked:
                framing = b"transfer-encoding: chunked"
            self._parser = HttpRequestParser(_BodyCallbacks(self))
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        return rest

    # -- Callbacks of the parser ---------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target; the first one begins a request."""
        self._unparsed_bytes = 0
        if self._head is None:
            if not self.keep_alive:
                # Only we find that chunked HTTP/1.0 isn't kept alive.
                self._reject(400, "This follows the last request.")
            self._head = RequestHead(url)
            self._host_seen = False
            self._plain = self._may_be_plain
        else:
            self._head.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head."""
        head, lower = self._head, _PLAIN_NAMES.get(name)
        if lower is None or head is None:
            self._uncommon_header(name, value)
        else:
            # RFC 9110 section 5.5: without the whitespace around it, of which
            # llhttp leaves what is behind.
            head.headers.append((lower, value.rstrip()))

    def _uncommon_header(self, name: bytes, value: bytes) -> None:
        """Take a field that means something to us, or is new; drop a trailer."""
        head = self._head
        if head is None:
            # RFC 9110 section 6.5.1: trailers may be discarded, and ASGI has
            # no place for them; _bound limits their bytes.
            return
        given, name, value = name, name.lower(), value.rstrip()
        if name in _NOTED:
            if value == self._host and name == b"host" and not self._host_seen:
                self._host_seen = True  # as on the request before, mostly
            else:
                self._note(head, name, value)
        elif b"_" in name:
            # CGI-like environments fold "_" and "-" (CVE-2015-0219).
            policy = self._limits.header_underscores
            if policy == "drop":
                self._plain = False
                self._dropped_fields += 1
                self._dropped_bytes += len(name) + len(value) + 4
                return
            if policy == "reject":
                self._reject(400, "A header name holds an underscore.")
        elif len(given) <= _MOST_NAME_BYTES and len(_PLAIN_NAMES) < _MOST_NAMES:
            _PLAIN_NAMES[given] = name
        head.headers.append((name, value))

    def _note(self, head: RequestHead, name: bytes, value: bytes) -> None:
        if name != b"host":
            self._plain = False
        if name == b"host":
            # RFC 9112 section 3.2: 400 to more than one Host, or an invalid one.
            if self._host_seen:
                self._reject(400, "There is more than one Host.")
            if value != self._host and not AUTHORITY.fullmatch(value):
                self._reject(400, "The Host is invalid.")
            self._host_seen = True
            self._host = value
        elif name == b"content-length":
            # llhttp has seen to it that it is one number, and the only one.
            self._content_length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                # RFC 9112 section 6.1: 501 to a coding which isn't understood;
                # the body would not be what its other fields say.
                self._reject(501, "The transfer coding is not implemented.")
            self._chunked = True
        elif name == b"expect":
            # RFC 9110 section 10.1.1: others may be ignored.
            head.expects_continue = value.lower() == b"100-continue"
        elif name == b"te":
            head.accepts_trailers |= b"trailers" in _tokens(value)
        elif name == b"upgrade":
            protocols = _tokens(value)
            head.is_websocket |= b"websocket" in protocols
            self._h2c_asked |= b"h2c" in protocols

    def on_headers_complete(self) -> None:
        """Check the head as a whole and pass it on."""
        head, parser = self._head, self._parser
        assert head is not None
        method = parser.get_method()
        head.method = METHODS.get(method) or self._other_method(method, head)
        self.keep_alive = keep_alive = parser.should_keep_alive()
        target = head.target
        if not (
            # HTTP/1.1, since only that stays open without being told to; to
            # ask the parser for the version would cost as much as all of this.
            (self._plain and keep_alive)
            and self._host_seen
            and target[0] == 0x2F
            and 0x23 not in target  # "#"; a search for bytes is far slower
            and len(target) <= self._most_target_bytes
            and len(head.headers) <= self._most_fields
        ):
            self._check(head, parser.get_http_version())
        self._head = None
        self._last_head = head
        self._sink.request_received(head)

    def _other_method(self, method: bytes, head: RequestHead) -> str:
        if method == b"CONNECT":
            # RFC 9112 section 3.2.3: its target is an authority.
            if not AUTHORITY.fullmatch(head.target):
                self._reject(400, "The target of CONNECT is no host and port.")
            self._reject(501, "The method is not implemented.")
        return method.decode("ascii")

    def _check(self, head: RequestHead, version: str) -> None:
        """Check a head that isn't plain."""
        self._plain = False
        if self._may_be_plain and not self._dropped_fields:
            self._check_counts(head, len(head.headers))
        else:
            self._check_head_size(head)
            self.head_begun = False
            self._may_be_plain = self._counts_by_feed()
            self._counted_fields = self._head_bytes = self._unparsed_bytes = 0
            self._dropped_fields = self._dropped_bytes = 0
        if version != "1.1":
            self._check_old_version(head, version)
        elif not self._host_seen:
            self._reject(400, "There is no Host.")
        if head.target[0] != 0x2F or b"#" in head.target:
            self._reduce_target(head)
        if self._chunked or self._content_length:
            if self._content_length > self._limits.limit_request_body > 0:
                self._reject(413, "The request body is too large.")
            head.has_body = self._in_body = True
            if self._parser.should_upgrade():
                # What is behind a body that llhttp didn't frame isn't trusted.
                self.keep_alive = False
        if head.is_websocket:
            self._check_upgrade(head, version)
        elif self._h2c_asked:
            self._h2c_asked = False
            if self._takes_h2c and version == "1.1" and not head.has_body:
                # RFC 7540 section 3.2. A body would come before HTTP/2 begins.
                settings = [n for n, _ in head.headers if n == b"http2-settings"]
                if len(settings) == 1 and self._parser.should_upgrade():
                    self.h2c = self.upgraded = True
                    self.keep_alive = False

    def _check_upgrade(self, head: RequestHead, version: str) -> None:
        """Find whether a request with "Upgrade: websocket" is one for a WebSocket."""
        asked = self._parser.should_upgrade()  # with the connection option
        if version == "1.0":
            # RFC 9110 section 7.8: the field means nothing there.
            head.is_websocket = False
        elif asked and not head.has_body:
            self.upgraded = True
            self.keep_alive = False
        elif asked or any(name == b"sec-websocket-key" for name, _ in head.headers):
            # RFC 6455 section 4.2.1. Somebody on the way has dropped half of it.
            self._reject(400, "The WebSocket handshake is invalid.")
        else:
            # RFC 9110 section 7.8: without the option it isn't meant for us.
            head.is_websocket = False

    def _check_old_version(self, head: RequestHead, version: str) -> None:
        if version != "1.0":
            # llhttp lets 0.9 and 2.0 pass; RFC 9110 section 15.6.6.
            self._reject(505, "The HTTP version is not supported.")
        head.http_version = "1.0"
        # RFC 9110 section 10.1.1: no 100 to an HTTP/1.0 client.
        head.expects_continue = False
        if self._chunked:
            # RFC 9112 section 6.1: its framing is suspect; close afterwards.
            self.keep_alive = False

    def _reduce_target(self, head: RequestHead) -> None:
        """Bring a target into origin-form (RFC 9112 section 3.2)."""
        target = head.target
        if b"#" in target:
            self._reject(400, "The request target has a fragment.")
        if target == b"*" and head.method == "OPTIONS":
            return
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        # RFC 9110 section 4.2.1: an http URI with an empty host is invalid.
        if (
            absolute is None
            or absolute[1][:1] in (b"", b":")
            or not AUTHORITY.fullmatch(absolute[1])
        ):
            self._reject(400, "The request target is invalid.")
        # RFC 9112 section 3.2.2: the authority replaces Host.
        head.target = (absolute[2] or b"/") + (absolute[3] or b"")
        others = [field for field in head.headers if field[0] != b"host"]
        head.headers = [(b"host", absolute[1]), *others]

    def on_body(self, data: bytes) -> None:
        """Count and pass on a piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.limit_request_body > 0:
            # Chunked requests announce nothing, so bytes are counted.
            self._reject(413, "The request body is too large.")
        self._sink.body_received(data)

    def on_message_complete(self) -> None:
        """Count the message, and tell of the end of its body."""
        if self._in_body:
            if self._parser.should_upgrade():
                return  # too early: _ignore_upgrade reads the body
            self._in_body = self._chunked = False
            self._content_length = self._body_bytes = 0
            self._sink.body_ended()
        self._completed += 1

    def _reject(self, status: int, detail: str) -> NoReturn:
        self._fault = (status, detail)
        raise RequestRejected(status, detail)

    # -- Limits on what the parser keeps to itself ---------------------------

    def _check_head_size(self, head: RequestHead) -> None:
        """Hold the target and the fields so far against their limits."""
        fields = head.headers[self._counted_fields :]
        self._counted_fields += len(fields)
        self._head_bytes += sum(len(name) + len(value) + 4 for name, value in fields)
        limit = self._limits.limit_request_header
        self._check_counts(head, self._counted_fields + self._dropped_fields)
        if self._head_bytes + self._dropped_bytes > limit > 0:
            self._reject(431, "The header fields are too large.")

    def _check_counts(self, head: RequestHead, fields: int) -> None:
        if len(head.target) > self._most_target_bytes:
            self._reject(414, "The request target is too long.")
        if fields > self._most_fields:
            self._reject(431, "There are too many header fields.")

    def _bound(self, data: bytes) -> bool:
        """Bound a message that isn't complete after ``data`` was fed."""
        if self._in_body:
            if self._last_head is not None:
                self._last_head = None  # and its bytes are not of the body
            elif self._chunked:
                # Attack: endless chunk extensions or trailers.
                self._unparsed_bytes += len(data)
                paid = self._body_bytes * (1 + _FRAMING_PER_BODY_BYTE)
                if self._unparsed_bytes - paid > _LEAST_FRAMING_BYTES:
                    self._reject(400, "The chunked coding is too verbose.")
            return False
        if not self._completed and len(self._first_bytes) < len(PREFACE):
            self._first_bytes += data
        head = self._head
        limit = self._limits.limit_request_header
        if head is None and not self.head_begun and _BLANK_LINES.fullmatch(data):
            # RFC 9112 section 2.2: they are skipped, and begin nothing.
            begins = False
        else:
            begins, self.head_begun = not self.head_begun, True
            self._plain = self._may_be_plain = False
        known = self._head_bytes + self._dropped_bytes
        if head is not None:
            self._check_head_size(head)
            if self._head_bytes + self._dropped_bytes != known:
                self._unparsed_bytes = 0
                return begins
        # Attack: a field (or blank lines) without end. What is around a field,
        # as blanks and the request line, must not make a head too large only
        # because it comes in pieces; so one feed more is allowed.
        self._unparsed_bytes += len(data)
        if known + self._unparsed_bytes > limit + FEED_BYTES and limit:
            self._reject(431, "The header fields are too large.")
        return begins


def _text_of(error: HttpParserError) -> str:
    """Return llhttp's words, which are constants."""
    return str(error.args[0]) if error.args else "Invalid request"


def _is_unknown_method(error: HttpParserError) -> bool:
    return (
        isinstance(error, HttpParserInvalidMethodError)
        or _text_of(error) == "Invalid method for HTTP/x.x request"
    )


def _unknown_method() -> RequestRejected:
    """RFC 9110 section 9.1: 501 to a method the server doesn't recognize."""
    return RequestRejected(501, "The method is not implemented.")


def _not_http() -> RequestRejected:
    return RequestRejected(400, "This is not HTTP.")


def _tokens(value: bytes) -> list[bytes]:
    """Read a list of tokens (RFC 9110 section 5.6.1), in lower case."""
    return [token.strip() for token in value.lower().split(b",")]


class _BodyCallbacks:
    """What a parser calls that is to read nothing but one body."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader
        self.on_message_complete = reader.on_message_complete

    def on_body(self, data: bytes) -> None:
        """Pass on a piece of that body, and none of what is behind it."""
        if self._reader._in_body:
            self._reader.on_body(data)
