"""
HTTP/1 as leniently as Daphne speaks it, for ``daphne_compat``.

What Daphne accepts and the RFCs refuse, and nothing else: requests without a
Host or with several, folded lines, CONNECT with a path. HTTP/1.0 is answered
in HTTP/1.0. Framing stays as strict as it is.

The parser itself is never made lenient. A head is repaired on its way to it, in
a way which has one meaning: a fold becomes a space, as RFC 9112 section 5.2 has
it, and ``CONNECT`` a method which the parser takes with a path, and whose name is
put right afterwards. So that no byte of a body is repaired, bytes are fed in
pieces that end where heads end.

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

_FOLD = re.compile(rb"\r\n[ \t]")
# Up to the end of a request line, whose beginning has been fed, or has not.
_REST_OF_FIRST_LINE = re.compile(rb"[^\r\n]*\r\n")
_FIRST_LINE = re.compile(rb"[\r\n]*[^\r\n]+\r\n")
_BLANK_LINE = b"\r\n\r\n"
# The last bytes so far, if only the next ones can tell a fold, or the end of a
# message, from the end of a line.
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

    __slots__ = ("_in_fields", "_is_connect", "_kept", "rejected_version")

    def __init__(
        self, limits: HTTPSettings, sink: RequestSink, *, takes_h2c: bool = False
    ) -> None:
        super().__init__(limits, sink, takes_h2c=takes_h2c)
        # The last bytes, if they can't be judged without the next ones; a few.
        self._kept = b""
        # The request line of a head that comes in pieces has ended.
        self._in_fields = False
        self._is_connect = False
        self.rejected_version = "1.1"

    def feed(self, data: bytes) -> bool:
        """Parse the next bytes, as :meth:`RequestReader.feed` does."""
        data, self._kept = self._kept + data, b""
        begun, start = False, 0
        while start < len(data):
            end = self._end_of_piece(data, start)
            if end == start:
                self._kept = data[start:]
                self.repeated = None  # what comes next comes behind that
                break
            begun = self._feed_piece(data[start:end]) or begun
            start = end
            if self.upgraded:
                self.rest += data[start:]
                return False
        return begun

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """
        Tell up to where to feed; ``start`` to wait for more bytes.

        A piece never holds the end of a message and what is behind it: that end is
        known from the length, or is the first blank line of a head, of chunks or
        of trailers. In the data of a chunk a blank line does no harm.
        """
        if self._in_body and self.remaining_body_bytes < inf:
            return min(start + int(self.remaining_body_bytes), len(data))
        if not self._in_body and self._is_raw(data[start : start + 4]):
            return len(data)
        end = data.find(_BLANK_LINE, start)
        if end >= 0:
            return end + len(_BLANK_LINE)
        if self._is_between_messages() and _CONNECT.startswith(data[start:]):
            return start
        open_end = _OPEN_END.search(data, start)
        return len(data) if open_end is None else open_end.start()

    def _is_raw(self, beginning: bytes) -> bool:
        """Whether what comes, and isn't a body, isn't the head of a request either."""
        return not self.keep_alive or (
            # The preface of HTTP/2 is recognized as a whole.
            not self._completed and (self._first_bytes + beginning)[:4] == b"PRI "
        )

    def _is_between_messages(self) -> bool:
        return not self._in_body and self._head is None and not self.head_begun

    def _feed_piece(self, piece: bytes) -> bool:
        is_first = self._is_between_messages()
        if not self._in_body and not self._is_raw(piece[:4]):
            piece = self._unfold(piece, is_first)
            if is_first and piece.startswith(_CONNECT):
                self._is_connect = True
                self._last_fed = b""  # which may be the same, but as it was sent
                piece = _STAND_IN + piece[len(_CONNECT) :]
        try:
            return super().feed(piece)
        except RequestRejected:
            head = self._head
            if (is_first and _VERSION_1_0.match(piece)) or (
                # Behind the first line; on it, what the parser says isn't complete.
                (head is not None and head.headers)
                and self._parser.get_http_version() == "1.0"
            ):
                self.rejected_version = "1.0"
            raise

    def _unfold(self, piece: bytes, is_first: bool) -> bytes:
        """Repair folded fields; a request line is never folded."""
        fields = 0
        if is_first or not self._in_fields:
            line = _FIRST_LINE if is_first else _REST_OF_FIRST_LINE
            found = line.match(piece)
            self._in_fields = found is not None
            fields = len(piece) if found is None else found.end()
        return piece[:fields] + _FOLD.sub(b" ", piece[fields:])

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
