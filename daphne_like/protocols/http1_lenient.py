"""
HTTP/1 as leniently as Daphne speaks it, for ``daphne_compat``.

What Daphne accepts and the RFCs refuse, and nothing else: requests without a
Host or with several, folded lines, CONNECT with a path. HTTP/1.0 is answered
in HTTP/1.0. Framing stays as strict as it is.

The parser itself is never made lenient. A head is repaired on its way to it, in
a way which has one meaning and keeps the number of bytes: a fold becomes as
many spaces, for which RFC 9112 section 5.2 gives leave, and ``CONNECT`` a
method with as many letters, whose name is put right afterwards. So that no byte
of a body is repaired, bytes are fed in pieces that end where heads end.

Tests: ``tests/unit/protocols/test_http1_lenient.py``.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, cast

from daphne_like.errors import RequestRejected
from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.http1_reader import RequestReader, RequestSink
from daphne_like.protocols.request_rules import AUTHORITY

if TYPE_CHECKING:
    from daphne_like.protocols.interfaces import RequestHead, ResponseFields
    from daphne_like.settings import HTTPSettings

__all__ = ["LenientHTTP1Protocol", "LenientRequestReader"]

_FOLD = re.compile(rb"\r\n[ \t]+")
_END_OF_HEAD = b"\r\n\r\n"
# The last bytes so far, if only the next ones can tell a fold or the end from the
# end of a line.
_OPEN_END = re.compile(rb"\r(?:\n\r?)?\Z")

_CONNECT, _STAND_IN = b"CONNECT /", b"OPTIONS /"

_VERSION_1_0 = re.compile(rb"[\r\n]*[^\r\n]* HTTP/1\.0\r\n")

# U+0085 of Latin-1: a control character, which some readers of text take for the
# end of a line (CVE-2026-44546).
_NEXT_LINE = 0x85


class LenientRequestReader(RequestReader):
    """
    Reads the requests of one connection, those of careless clients, too.

    Attributes:
        rejected_version: HTTP version of the request that was rejected, as far
            as it is known.
    """

    __slots__ = ("_as_is", "_is_connect", "_kept", "rejected_version")

    def __init__(
        self, limits: HTTPSettings, sink: RequestSink, *, takes_h2c: bool = False
    ) -> None:
        super().__init__(limits, sink, takes_h2c=takes_h2c)
        # Bytes of a head that can't be judged without the next ones; a few.
        self._kept = b""
        # A head began in one piece with the end of a chunked body. What there was
        # of it isn't known, so the rest is fed as it is.
        self._as_is = False
        self._is_connect = False
        self.rejected_version = "1.1"

    def feed(self, data: bytes) -> bool:
        """Parse the next bytes, as :meth:`RequestReader.feed` does."""
        data, self._kept = self._kept + data, b""
        begun = False
        while data:
            size = self._size_of_piece(data)
            if not size:
                self._kept = data
                break
            piece, data = data[:size], data[size:]
            begun = self._feed_piece(piece) or begun
            if self.upgraded:
                self.rest += data
                return False
        return begun

    def _is_in_head(self) -> bool:
        return self._head is not None or self.head_begun

    def _is_raw(self, data: bytes) -> bool:
        """Whether what comes next isn't a head that may be repaired."""
        return (
            self._in_body
            or self._as_is
            or not self.keep_alive
            # The preface of HTTP/2 is recognized as a whole.
            or (not self._completed and (self._first_bytes + data)[:4] == b"PRI ")
        )

    def _size_of_piece(self, data: bytes) -> int:
        """Tell how much to feed at once; 0 to wait for more bytes."""
        if self._in_body and self.remaining_body_bytes < inf:
            return int(self.remaining_body_bytes)
        if self._is_raw(data):
            return len(data)
        end = data.find(_END_OF_HEAD)
        if end >= 0:
            return end + len(_END_OF_HEAD)
        if not self._is_in_head() and _CONNECT.startswith(data):
            return 0
        open_end = _OPEN_END.search(data)
        return len(data) if open_end is None else open_end.start()

    def _feed_piece(self, piece: bytes) -> bool:
        was_in_body, was_in_head = self._in_body, self._is_in_head()
        if not self._is_raw(piece):
            piece = _FOLD.sub(lambda fold: b" " * len(fold[0]), piece)
            if piece.startswith(_CONNECT) and not was_in_head:
                self._is_connect = True
                self._last_fed = b""  # which may have been such a request, really
                piece = _STAND_IN + piece[len(_CONNECT) :]
        try:
            begun = super().feed(piece)
        except RequestRejected:
            if (not was_in_head and _VERSION_1_0.match(piece)) or (
                was_in_head and self._parser.get_http_version() == "1.0"
            ):
                self.rejected_version = "1.0"
            raise
        self._as_is = (was_in_body or self._as_is) and self._is_in_head()
        return begun

    # -- Callbacks of the parser ---------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target, whose request needs no Host."""
        super().on_url(url)
        self._host_seen = True
        if self._is_connect:
            self._plain = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field, unless Daphne would not."""
        if _NEXT_LINE in value:
            self._reject(400, "A header value holds a control character.")
        super().on_header(name, value)

    def _note(self, head: RequestHead, name: bytes, value: bytes) -> None:
        if name != b"host":
            super()._note(head, name, value)
        elif not AUTHORITY.fullmatch(value):
            self._reject(400, "The Host is invalid.")

    def _check(self, head: RequestHead, version: str) -> None:
        super()._check(head, version)
        if self._is_connect:
            self._is_connect = False
            head.method = "CONNECT"


class LenientHTTP1Protocol(HTTP1Protocol):
    """One connection of such clients."""

    __slots__ = ()

    reader_class = LenientRequestReader

    def _rejected_head(self) -> RequestHead:
        head = super()._rejected_head()
        reader = cast("LenientRequestReader", self._reader)
        head.http_version = reader.rejected_version
        return head

    def _end_head(
        self, pieces: list[bytes], head: RequestHead, fields: ResponseFields, end: bool
    ) -> None:
        """End a head, which has the version of the request."""
        if head.http_version == "1.0":
            pieces[0] = pieces[0].replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        super()._end_head(pieces, head, fields, end)
