"""
Requests for readers of HTTP/1, good ones and garbled ones, and what is read of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deliveries import same_for_each_delivery

from daphne_like.errors import RequestRejected
from daphne_like.protocols.http1_reader import FEED_BYTES, RequestReader
from daphne_like.protocols.interfaces import Header, RequestHead
from daphne_like.settings import HTTPSettings

__all__ = [
    "GARBLED_CHUNKS",
    "GARBLED_FRAMING",
    "GARBLED_HEADS",
    "UNKNOWN_CODINGS",
    "Outcome",
    "Read",
    "Sink",
    "deliver",
    "get",
    "outcome_of",
    "post",
    "read",
    "request_in",
]


class Read(NamedTuple):
    """A request as a sink was told of it."""

    method: str
    target: bytes
    http_version: str
    headers: list[Header]
    has_body: bool
    body: bytes
    ended: bool


class Outcome(NamedTuple):
    """What a reader made of some bytes; the status and text of a rejection, if any."""

    requests: list[Read]
    rejected: int | None
    detail: str
    keep_alive: bool


@dataclass
class Sink:
    """Notes what it is told."""

    requests: list[Read] = field(default_factory=list)
    heads: list[RequestHead] = field(default_factory=list)

    def request_received(self, head: RequestHead) -> None:
        """Note a head."""
        self.heads.append(head)
        self.requests.append(
            Read(
                head.method,
                head.target,
                head.http_version,
                list(head.headers),
                head.has_body,
                b"",
                ended=not head.has_body,
            )
        )

    def body_received(self, data: bytes) -> None:
        """Note a piece of the body."""
        assert data
        request = self.requests[-1]
        assert not request.ended
        self.requests[-1] = request._replace(body=request.body + data)

    def body_ended(self) -> None:
        """Note the end of the body."""
        assert not self.requests[-1].ended
        self.requests[-1] = self.requests[-1]._replace(ended=True)


def outcome_of(
    pieces: Iterable[bytes],
    reader_class: type[RequestReader] = RequestReader,
    **limits: Any,
) -> Outcome:
    """Tell what a reader makes of pieces, each fed in parts that it accepts."""
    sink = Sink()
    reader = reader_class(HTTPSettings(**limits), sink)
    rejected, detail = None, ""
    try:
        for piece in pieces:
            for start in range(0, len(piece), FEED_BYTES):
                deliver(reader, sink, piece[start : start + FEED_BYTES])
    except RequestRejected as rejection:
        rejected, detail = rejection.status, rejection.detail
    return Outcome(sink.requests, rejected, detail, reader.keep_alive)


def deliver(reader: RequestReader, sink: Sink, data: bytes) -> bool:
    """Feed a reader as its protocol does: not with what it knows."""
    if data == reader.repeated:
        sink.request_received(reader.repeated_head)
        return False
    return reader.feed(data)


def read(data: bytes, **limits: Any) -> Outcome:
    """Tell what a reader makes of bytes, however they are delivered."""
    return same_for_each_delivery(data, lambda pieces: outcome_of(pieces, **limits))


def request_in(data: bytes, **limits: Any) -> Read:
    """Tell the one request in bytes which aren't rejected."""
    outcome = read(data, **limits)
    assert None is outcome.rejected, outcome.detail
    [request] = outcome.requests
    return request


def get(*fields: bytes, target: bytes = b"/", host: bytes = b"a") -> bytes:
    """Write a GET request with more fields than Host."""
    lines = [b"GET %b HTTP/1.1" % target, b"Host: %b" % host, *fields]
    return b"\r\n".join([*lines, b"", b""])


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """Write a POST request with fields and what follows its head."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *fields, b"", body])


# -- What two parsers may read in two ways ----------------------------------------

GARBLED_HEADS = {
    "two-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two-equal-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two-hosts-1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
    "no-fields": b"GET / HTTP/1.1\r\n\r\n",
    "no-host-but-authority": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare-lf-behind-field": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    "bare-lf-at-end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare-cr": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "obs-fold-tab": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\tc\r\n\r\n",
    "space-before-first-field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "space-before-colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no-name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n",
    "name-no-token": b"GET / HTTP/1.1\r\nHost: a\r\nX(A): b\r\n\r\n",
    "name-not-ascii": b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3: b\r\n\r\n",
    "no-version": b"GET / \r\nHost: a\r\n\r\n",
    "no-protocol": b"GET / FOO/1.1\r\nHost: a\r\n\r\n",
    "lower-case-protocol": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "tls-hello-behind-blank-line": b"\r\n\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "zeros": bytes(64),
    "ssh": b"\xffSSH-2.0",
    **{
        f"control-{byte:#04x}-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b%cc\r\n\r\n"
        % byte
        for byte in (0, 1, 8, 0x0B, 0x0C, 0x1F, 0x7F)
    },
    **{
        f"control-{byte:#04x}-in-name": b"GET / HTTP/1.1\r\nHost: a\r\nX%cY: b\r\n\r\n"
        % byte
        for byte in (0, 1, 0x7F)
    },
}

GARBLED_FRAMING = {
    "length-and-chunked": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked-and-length": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "length-0-and-chunked": (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    "two-lengths": (b"Content-Length: 5", b"Content-Length: 6"),
    "two-equal-lengths": (b"Content-Length: 5", b"Content-Length: 5"),
    **{
        f"length-{value.decode()!r}": (b"Content-Length: %b" % value,)
        for value in (
            *(
                b"+5",
                b"0x5",
                b"-1",
                b"",
                b"5_0",
                b"5, 5",
                b"5,5",
                b"5 5",
                b"5.0",
                b"five",
            ),
            *(b"18446744073709551616", b"99999999999999999999999", b"\xb2"),
        )
        if value != b"\xb2"
    },
    "length-superscript": (b"Content-Length: \xb2",),
    "chunked-twice": (b"Transfer-Encoding: chunked, chunked",),
    "chunked-twice-in-two": (b"Transfer-Encoding: chunked",) * 2,
    "chunked-then-identity": (b"Transfer-Encoding: chunked, identity",),
    "chunked-then-nothing": (b"Transfer-Encoding: chunked,",),
    "empty-coding": (b"Transfer-Encoding:",),
    "chunked-then-empty": (b"Transfer-Encoding: chunked", b"Transfer-Encoding:"),
}

UNKNOWN_CODINGS = (
    *(b"identity", b"xchunked", b"gzip", b"gzip, chunked", b"chunkedx", b"x-chunked"),
    *(b'chunked;a="b"', b"'chunked'", b"chunked\x0b"[:-1] + b"+"),
)

GARBLED_CHUNKS = {
    "no-hex": b"x\r\n",
    "empty-size": b"\r\nhello",
    "negative": b"-1\r\n",
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space-behind-size": b"5 \r\nhello\r\n0\r\n\r\n",
    "space-before-size": b" 5\r\nhello\r\n0\r\n\r\n",
    "too-short": b"4\r\nhello\r\n0\r\n\r\n",
    "too-long": b"6\r\nhello\r\n0\r\n\r\n",
    "size-bare-lf": b"5\nhello\r\n0\r\n\r\n",
    "data-bare-lf": b"5\r\nhello\n0\r\n\r\n",
    "end-bare-lf": b"5\r\nhello\r\n0\n\n",
    "extension-bare-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension-bare-lf": b"5;a\nhello\r\n0\r\n\r\n",
    "extension-control": b"5;\x01\r\nhello\r\n0\r\n\r\n",
    "2**64": b"10000000000000000\r\nhello",
    "2**68": b"100000000000000005\r\nhello\r\n0\r\n\r\n",
    "trailer-no-colon": b"0\r\nfoo\r\n\r\n",
    "trailer-control": b"0\r\nX: \x01\r\n\r\n",
    "trailer-length": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer-coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
}
